//! `keeve logits`.

use std::process::ExitCode;

use keeve::{Event, Request};
use serde_json::json;

use crate::args::Logits;
use crate::output::write_f32;
use crate::output::{Outcome, Output};
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
    let width = engine.info().vocabulary;
    let mut logits = vec![0.0; args.prompt_ids.len() * width];
    for event in generation {
        match event {
            Event::PromptLogits { start, values, .. } => {
                logits[start * width..start * width + values.len()].copy_from_slice(&values);
            }
            Event::Failed(error) => return Err(error.into()),
            Event::Token { .. } | Event::Finished { .. } => {}
        }
    }
    if interrupt::interrupted() {
        return Ok(ExitCode::from(interrupt::EXIT_CODE));
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
