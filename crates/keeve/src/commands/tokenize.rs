//! `keeve tokenize`.

use std::process::ExitCode;

use serde_json::json;

use crate::args::Tokenize;
use crate::model;
use crate::output::{Failure, Outcome, Output, standard_input};

pub fn run(args: &Tokenize, output: &Output) -> Outcome {
    let checkpoint = model::open(args.model.as_deref())?;
    let tokenizer = keeve::engine::tokenizer_of(&checkpoint)?
        .ok_or_else(|| Failure::from("this model has no tokenizer"))?;
    for note in tokenizer.notes() {
        output.note(&format!("note: {note}"));
    }
    let text = match (&args.text, &args.text_flag) {
        (Some(text), _) if text != "-" => text.clone(),
        (None, Some(text)) => text.clone(),
        _ => standard_input()?,
    };
    let ids = tokenizer.encode(&text, !args.no_special, !args.plain)?;
    let piece = |&id: &u32| {
        String::from_utf8_lossy(tokenizer.token_bytes(id).unwrap_or_default()).into_owned()
    };
    let pieces: Vec<_> = ids.iter().map(piece).collect();
    if output.json {
        output.result(&json!({ "ids": ids, "pieces": pieces }))?;
    } else {
        let lines = ids.iter().zip(&pieces).map(|(id, piece)| format!("{id:>8} {piece:?}\n"));
        output.text(&lines.collect::<String>())?;
    }
    Ok(ExitCode::SUCCESS)
}
