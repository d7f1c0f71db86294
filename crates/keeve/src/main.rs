//! The `keeve` command.

mod args;
mod chat;
mod checksums;
mod commands;
mod config_file;
mod config_yaml;
mod hub;
mod images;
mod interrupt;
mod keys;
mod limits;
mod log;
mod model;
mod output;
mod terminal;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::error::ErrorKind;
use keeve::Isa;
use serde_json::json;

use args::Command;
use config_file::Problem;
use output::{Failure, Output};
use terminal::Escaping;

fn main() -> ExitCode {
    // Without it such an end says nothing. Where the system refuses, it says nothing still.
    let _ = keeve_checkpoint::end_on_lost_pages();
    let (args, config) = match config_file::parse(std::env::args_os().collect()) {
        Ok(parsed) => parsed,
        Err(Problem::Usage(error)) => return usage(&error),
        Err(Problem::File(failure)) => return Output::new(wants_json(), false).fail(&failure),
    };
    let output = Output::new(args.json, args.quiet).raw(args.raw);
    if let Some(text) = config {
        let printed = match output.json {
            true => output.result(&json!({ "config": text })),
            false => output.text(&text),
        };
        return printed.map_or_else(|failure| output.fail(&failure), |()| ExitCode::SUCCESS);
    }
    hub::configure(args.hub, args.quiet);
    let outcome = match args.command {
        Command::Run(run) => commands::run::run(&run, &output),
        Command::Serve(serve) => commands::serve::run(&serve, &output),
        Command::Chat(chat) => commands::chat::run(&chat, &output),
        Command::Inspect(inspect) => commands::inspect::run(&inspect, &output),
        Command::Logits(logits) => commands::logits::run(&logits, &output),
        Command::Tensor(tensor) => commands::tensor::run(&tensor, &output),
        Command::Tokenize(tokenize) => commands::tokenize::run(&tokenize, &output),
        Command::Render(render) => commands::render::run(&render, &output),
        Command::Quantize(quantize) => commands::quantize::run(&quantize, &output),
        Command::Convert(convert) => commands::convert::run(&convert, &output),
        Command::Calibrate(calibrate) => commands::calibrate::run(&calibrate, &output),
        Command::Verify(verify) => commands::verify::run(&verify, &output),
        Command::Eval(eval) => commands::eval::run(&eval, &output),
        Command::Bench(bench) => commands::bench::run(&bench, &output),
        Command::Download(download) => commands::download::run(&download, &output),
        Command::List => commands::list::run(&output),
        Command::Rm(rm) => commands::rm::run(&rm, &output),
        Command::Completions(completions) => commands::completions::run(&completions, &output),
    };
    match outcome {
        Ok(code) => code,
        Err(_) if interrupt::interrupted() => output.fail(&Failure::interrupted()),
        Err(failure) => output.fail(&failure),
    }
}

/// Whether the arguments ask for JSON, as far as can be told without understanding them.
fn wants_json() -> bool {
    std::env::args_os().take_while(|arg| arg != "--").any(|arg| arg == "--json")
}

/// Prints what clap has to say: help and version, or what is wrong with the arguments.
fn usage(error: &clap::Error) -> ExitCode {
    let json = wants_json();
    let text = error.to_string();
    let asked = match error.kind() {
        ErrorKind::DisplayHelp => Some(json!({ "help": text.trim_end() })),
        ErrorKind::DisplayVersion => {
            let tiers: Vec<_> = Isa::found().map(Isa::name).collect();
            Some(json!({ "version": env!("CARGO_PKG_VERSION"), "isa": tiers }))
        }
        _ => None,
    };
    match &asked {
        Some(result) if json => {
            let output = Output::new(true, false);
            return output
                .result(result)
                .map_or_else(|failure| output.fail(&failure), |()| ExitCode::SUCCESS);
        }
        None if json => {
            let problem = match error.kind() {
                ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => "a command is needed",
                // What follows the first blank line repeats the usage.
                _ => text.split("\n\n").next().unwrap_or(&text),
            };
            return Output::new(true, false).fail(&Failure::usage(problem));
        }
        _ => {}
    }
    // If nobody reads it there is nothing to do about it. The library colours what it prints, and repeats
    // arguments as they are; a name of a file that commands the terminal is shown without colour.
    let shown = Escaping::All.shown(&text);
    let _ = match (asked.is_some(), shown == text) {
        (false, false) => writeln!(io::stderr(), "{}", shown.trim_end()),
        _ => error.print(),
    };
    if asked.is_some() { ExitCode::SUCCESS } else { ExitCode::from(2) }
}
