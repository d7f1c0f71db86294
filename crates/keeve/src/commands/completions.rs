//! `keeve completions`.

use std::process::ExitCode;

use clap::CommandFactory;
use serde_json::json;

use crate::args::{Args, Completions};
use crate::output::{Outcome, Output};

pub fn run(args: &Completions, output: &Output) -> Outcome {
    let mut script = vec![];
    clap_complete::generate(args.shell, &mut Args::command(), "keeve", &mut script);
    let script = String::from_utf8(script)?;
    if output.json {
        output.result(&json!({ "shell": args.shell.to_string(), "script": script }))?;
    } else {
        output.text(&script)?;
    }
    Ok(ExitCode::SUCCESS)
}
