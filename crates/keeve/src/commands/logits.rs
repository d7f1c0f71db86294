//! `keeve logits`.

use std::process::ExitCode;

use keeve::{Event, FinishReason, Request};
use serde_json::json;

use crate::args::Logits;
use crate::output::{Failure, Outcome, Output, write_f32};
use crate::{interrupt, model};

pub fn run(args: &Logits, output: &Output) -> Outcome {
    interrupt::watch()?;
    let checkpoint = model::open(args.model.as_deref())?;
    let engine = model::load(&checkpoint, &args.compute, output)?;
    let generation = engine.submit(Request {
        prompt: args.prompt_ids.clone(),
        max_tokens: Some(0),
        prompt_logits: true,
        ..Request::default()
    })?;
    interrupt::cancels(generation.canceller());
    model::notes(&engine, output);
    let width = engine.info().vocabulary;
    let mut logits = vec![];
    for event in generation {
        match event {
            // They come in order.
            Event::PromptLogits { values, .. } => logits.extend(values),
            Event::Finished { reason: FinishReason::Cancelled, .. } => {
                return Err(Failure::interrupted());
            }
            Event::Failed(error) => return Err(error.into()),
            Event::Token { .. } | Event::Embedding(_) | Event::Finished { .. } => {}
        }
    }
    let shape = [args.prompt_ids.len(), width];
    write_f32(&args.out, "logits", &shape, &logits)?;
    if output.json {
        output.result(&json!({ "out": args.out, "shape": shape }))?;
    } else {
        output.text(&format!("logits {shape:?} -> {}\n", args.out.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}
