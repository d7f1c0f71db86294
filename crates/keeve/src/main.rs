//! The `keeve` command.

mod args;
mod commands;
mod interrupt;
mod model;
mod output;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use args::{Args, Command};
use output::{Failure, Output};

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return usage(&error),
    };
    let output = Output::new(args.json, args.quiet);
    let outcome = match args.command {
        Command::Run(run) => commands::run::run(&run, &output),
        Command::Inspect(inspect) => commands::inspect::run(&inspect, &output),
        Command::Logits(logits) => commands::logits::run(&logits, &output),
        Command::Tensor(tensor) => commands::tensor::run(&tensor, &output),
        Command::Tokenize(tokenize) => commands::tokenize::run(&tokenize, &output),
        Command::Bench(bench) => commands::bench::run(&bench, &output),
        Command::Completions(completions) => commands::completions::run(&completions, &output),
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => output.fail(&failure),
    }
}

/// Prints what clap has to say: help and version, or what is wrong with the arguments.
fn usage(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // If nobody reads the help there is nothing to do about it.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if std::env::args_os().any(|arg| arg == "--json") {
        return Output::new(true, false).fail(&Failure::usage(error.to_string()));
    }
    let _ = error.print();
    ExitCode::from(2)
}
