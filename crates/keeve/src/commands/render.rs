//! `keeve render`.

use std::io::{self, Read};
use std::path::Path;
use std::process::ExitCode;

use keeve::engine::{chat_template_of, tokenizer_of};
use keeve::{Message, RenderOptions, Rendered};
use serde_json::{Value, json};

use crate::args::Render;
use crate::commands::run::template_args;
use crate::output::{Failure, Outcome, Output};
use crate::{interrupt, model};

/// Longest file of messages or tools, in bytes.
const MAX_FILE: u64 = 64 << 20;

pub fn run(args: &Render, output: &Output) -> Outcome {
    let extra = template_args(args.chat_template_args.as_deref())?;
    let mut given = read("--messages", &args.messages)?;
    let mut field =
        |name: &str| given.get_mut(name).map(Value::take).filter(|value| !value.is_null());
    let (tools, documents) = (field("tools"), field("documents"));
    let messages = field("messages").unwrap_or(given);
    let messages: Vec<Message> = serde_json::from_value(messages).map_err(|error| {
        let expected = "expected a list of messages, or an object with them as \"messages\"";
        format!("--messages {}: {error} ({expected})", args.messages.display())
    })?;
    let tools = match &args.tools {
        Some(path) => Some(read("--tools", path)?),
        None => tools,
    };
    interrupt::watch()?;
    let checkpoint = model::open_text(args.model.as_deref(), args.chat_template.as_deref())?;
    let tokenizer = tokenizer_of(&checkpoint)?
        .ok_or_else(|| Failure::from("this model has no tokenizer, which a prompt is made with"))?;
    let template = chat_template_of(&checkpoint, &tokenizer)?.ok_or_else(|| {
        Failure::from("this model has no chat template; give one with --chat-template")
    })?;
    let options = RenderOptions {
        tools: tools.map(|tools| list("tools", tools)).transpose()?,
        documents: documents.map(|documents| list("documents", documents)).transpose()?,
        add_generation_prompt: !args.no_generation_prompt,
        extra,
        ..RenderOptions::default()
    };
    let rendered = interrupt::until(|| Rendered::new(&template, &tokenizer, &messages, &options));
    let Rendered { text, ids, special } = rendered?;
    if output.json {
        output.result(&json!({ "text": text, "ids": ids, "special": special }))?;
    } else {
        output.text(&text)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn list(name: &str, value: Value) -> Result<Vec<Value>, Failure> {
    match value {
        Value::Array(items) => Ok(items),
        _ => Err(format!("\"{name}\" must be a list").into()),
    }
}

/// A JSON file that a flag names; `-` is standard input.
fn read(flag: &str, path: &Path) -> Result<Value, Failure> {
    let fail = |problem: String| Failure::from(format!("{flag} {}: {problem}", path.display()));
    let text = if path == Path::new("-") {
        let mut text = String::new();
        let end = io::stdin().take(MAX_FILE + 1).read_to_string(&mut text);
        end.map_err(|error| fail(error.to_string()))?;
        if text.len() as u64 > MAX_FILE {
            return Err(fail(format!("is longer than {MAX_FILE} bytes")));
        }
        text
    } else {
        let read = keeve_files::whole::text(path, MAX_FILE, flag);
        read.map_err(|error| Failure::from(format!("{flag} {error}")))?
    };
    serde_json::from_str(&text).map_err(|error| fail(format!("is not valid JSON: {error}")))
}
