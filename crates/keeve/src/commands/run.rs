//! `keeve run`.

use std::path::Path;
use std::process::ExitCode;

use keeve::engine::chat::Part;
use keeve::{
    Engine, Event, FinishReason, Message, RenderOptions, Request, SamplingParams, Timings,
};
use serde_json::{Map, Value, json};

use crate::args::{Run, Sampling};
use crate::output::{Failure, Outcome, Output, bytes, one_line, standard_input};
use crate::{images, interrupt, model};

/// Where the prompt comes from.
enum Prompt {
    Text(String),
    Ids(Vec<u32>),
}

pub fn run(args: &Run, output: &Output) -> Outcome {
    let (model, prompt) = model_and_prompt(args)?;
    let template_args = template_args(args.chat_template_args.as_deref())?;
    let sampling = sampling(&args.sampling)?;
    if args.stop.iter().any(String::is_empty) {
        return Err(Failure::usage("--stop is empty, expected a text"));
    }
    // Not earlier: Ctrl-C ends the reading of standard input at once.
    interrupt::watch()?;
    let checkpoint = model::open_seeing(model.as_deref(), args.seeing.mmproj.as_deref())?;
    let checkpoint = model::with_template(checkpoint, args.chat_template.as_deref())?;
    let engine = model::load_to_answer(&checkpoint, &args.compute, &args.speculate, output)?;
    let images = args.image.iter().map(|path| images::read(&engine, path));
    let images: Vec<_> = images.collect::<Result<_, _>>()?;
    let prompt = match prompt {
        Prompt::Ids(ids) => ids,
        Prompt::Text(text) => prompt_ids(&engine, args, &text, template_args)?,
    };
    let mut generation = engine.submit(Request {
        prompt: prompt.clone(),
        images: images.into_iter().map(|image| image.patches).collect(),
        sampling,
        max_tokens: Some(args.max_tokens),
        stop: args.stop.clone(),
        ignore_eos: args.ignore_eos,
        ..Request::default()
    })?;
    interrupt::cancels(generation.canceller());
    model::notes(&engine, output);
    likely_model(args, output);
    let has_text = match engine.tokenizer() {
        Ok(_) => true,
        Err(error) => {
            output.note(&format!(
                "note: token ids instead of text: {}",
                one_line(&error.to_string())
            ));
            false
        }
    };
    let (mut tokens, mut answer) = (vec![], String::new());
    let mut end = None;
    for event in &mut generation {
        let text = match event {
            Event::PromptLogits { .. } | Event::Embedding(_) => continue,
            Event::Token { id, text, .. } => {
                tokens.push(id);
                if has_text { text } else { format!("{id} ") }
            }
            Event::Finished { reason, text, timings, .. } => {
                end = Some((reason, timings));
                text
            }
            Event::Failed(error) => {
                if !output.json && !answer.is_empty() {
                    output.text("\n")?;
                }
                return Err(error.into());
            }
        };
        if !output.json {
            output.text(&text)?;
        }
        answer.push_str(&text);
    }
    let Some((reason, timings)) = end else { return Err("the engine gave no answer".into()) };
    if output.json {
        let mut result = json!({
            "prompt_ids": prompt,
            "tokens": tokens,
            "text": has_text.then_some(answer),
            "finish_reason": reason.name(),
            "timings": timings_json(&engine, &timings),
        });
        if !engine.info().notes.is_empty() {
            result["notes"] = json!(engine.info().notes);
        }
        if args.compute.profile {
            result["profile"] = profile_json(&engine)?;
        }
        output.result(&result)?;
    } else {
        output.text("\n")?;
        output.note(&summary(&engine, &timings));
        if args.compute.profile {
            output.note(&profile_table(&engine)?);
        }
    }
    if reason == FinishReason::Cancelled {
        return Ok(ExitCode::from(interrupt::EXIT_CODE));
    }
    Ok(ExitCode::SUCCESS)
}

/// One positional argument is the prompt, unless something else supplies it; then it is the model.
fn model_and_prompt(args: &Run) -> Result<(Option<String>, Prompt), Failure> {
    let mut rest = args.positional.clone();
    let prompt = if let Some(ids) = &args.prompt_ids {
        Prompt::Ids(ids.clone())
    } else if let Some(text) = &args.prompt {
        Prompt::Text(text.clone())
    } else if let Some(index) = rest.iter().position(|argument| argument == "-") {
        rest.remove(index);
        let text = standard_input()?;
        Prompt::Text(text.strip_suffix('\n').unwrap_or(&text).into())
    } else {
        Prompt::Text(
            rest.pop()
                .ok_or_else(|| Failure::usage("run needs a PROMPT (or - for standard input)"))?,
        )
    };
    if rest.len() > 1 {
        let problem = "two arguments besides the prompt: expected a MODEL at most";
        return Err(Failure::usage(problem));
    }
    Ok((rest.pop(), prompt))
}

/// One argument alone is the prompt; if there is a file of that name, something else may have been
/// meant.
fn likely_model(args: &Run, output: &Output) {
    if let [only] = &args.positional[..]
        && args.prompt.is_none()
        && args.prompt_ids.is_none()
        && Path::new(only).exists()
    {
        output.note(&format!("note: '{only}' is the prompt here; a MODEL needs a prompt after it"));
    }
}

pub fn template_args(given: Option<&str>) -> Result<Map<String, Value>, Failure> {
    let Some(text) = given else { return Ok(Map::new()) };
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => Ok(map),
        _ => Err(Failure::usage("--chat-template-args must be a JSON object")),
    }
}

/// The prompt as the model wants it: through its chat template if it has one.
fn prompt_ids(
    engine: &Engine,
    args: &Run,
    text: &str,
    template_args: Map<String, Value>,
) -> Result<Vec<u32>, Failure> {
    if args.no_chat_template || engine.chat_template()?.is_none() {
        let tokenizer = engine.tokenizer()?;
        let needing = [
            ("--image", !args.image.is_empty()),
            ("--system", args.system.is_some()),
            ("--chat-template-args", args.chat_template_args.is_some()),
        ];
        if let Some((flag, _)) = needing.iter().find(|(_, given)| *given) {
            return Err(format!("{flag} needs a chat template, and this model has none").into());
        }
        return Ok(tokenizer.encode(text, true, true)?);
    }
    let system = args.system.iter().map(|text| Message::text("system", text));
    let question = if args.image.is_empty() {
        Message::text("user", text)
    } else {
        let images = args.image.iter().map(|_| Part::image());
        Message::parts("user", images.chain([Part::text(text)]).collect())
    };
    let messages: Vec<_> = system.chain([question]).collect();
    let options =
        RenderOptions { add_generation_prompt: true, extra: template_args, ..Default::default() };
    Ok(interrupt::until(|| engine.chat_prompt(&messages, &options))?)
}

pub fn sampling(flags: &Sampling) -> Result<SamplingParams, Failure> {
    let params = SamplingParams {
        temperature: flags.temp,
        top_k: flags.top_k,
        top_p: flags.top_p,
        min_p: flags.min_p,
        repetition_penalty: flags.repetition_penalty,
        presence_penalty: flags.presence_penalty,
        frequency_penalty: flags.frequency_penalty,
        seed: flags.seed,
        ..SamplingParams::default()
    };
    params.validate().map_err(|error| Failure::usage(error.to_string()))?;
    Ok(params)
}

fn timings_json(engine: &Engine, timings: &Timings) -> Value {
    json!({
        "load_s": engine.info().load_time.as_secs_f64(),
        "prompt_tokens": timings.prompt_tokens,
        "cached_tokens": timings.cached_tokens,
        "prompt_s": timings.prompt.as_secs_f64(),
        "prompt_tok_s": timings.prompt_rate(),
        "decode_tokens": timings.decode_tokens,
        "decode_s": timings.decode.as_secs_f64(),
        "decode_tok_s": timings.decode_rate(),
        "drafted_tokens": timings.drafted_tokens,
        "accepted_tokens": timings.accepted_tokens,
        "peak_memory": keeve::engine::memory::peak(),
        "weight_bytes": engine.info().weight_bytes,
        "image_tokens": engine.info().image_tokens,
        "image_bytes": engine.info().image_bytes,
    })
}

fn summary(engine: &Engine, timings: &Timings) -> String {
    let peak = keeve::engine::memory::peak().map_or_else(|| "unknown".into(), bytes);
    let drafts = match timings.drafted_tokens {
        0 => String::new(),
        drafted => format!(" ({} of {drafted} guesses right)", timings.accepted_tokens),
    };
    let seeing = match engine.info().image_tokens {
        0 => String::new(),
        tokens => {
            let most = bytes(engine.info().image_bytes);
            format!(" (up to {most} to see an image of {tokens} tokens)")
        }
    };
    format!(
        "load {:.2} s, prompt {} tokens at {:.1} tok/s, decode {} tokens at {:.1} tok/s{drafts}, peak memory {peak}{seeing}",
        engine.info().load_time.as_secs_f64(),
        timings.prompt_tokens,
        timings.prompt_rate(),
        timings.decode_tokens,
        timings.decode_rate(),
    )
}

fn profile_json(engine: &Engine) -> Result<Value, Failure> {
    let row = |op: keeve::graph::OpProfile| json!({ "op": op.op, "calls": op.calls, "ns": op.nanoseconds, "bytes": op.bytes });
    Ok(engine.profile()?.into_iter().map(row).collect())
}

pub fn profile_table(engine: &Engine) -> Result<String, Failure> {
    let profile = engine.profile()?;
    let total: u64 = profile.iter().map(|op| op.nanoseconds).sum();
    let mut table = format!("{:24} {:>9} {:>12} {:>6} {:>9}", "op", "calls", "ms", "%", "GB/s");
    for op in profile {
        let share = 100.0 * op.nanoseconds as f64 / total.max(1) as f64;
        let rate = op.bytes as f64 / op.nanoseconds.max(1) as f64;
        let ms = op.nanoseconds as f64 / 1e6;
        table += &format!("\n{:24} {:>9} {ms:>12.2} {share:>6.1} {rate:>9.2}", op.op, op.calls);
    }
    Ok(table)
}
