//! Chores of this repository, as `cargo xtask NAME`.
//!
//! `cargo xtask cycles` finds files that import each other in a circle.
//!
//! `cargo xtask peers` runs what other projects test themselves with against keeve: it fetches their data into
//! a folder that git does not see, runs the comparisons that are tests of the crates here, and prints a table.
//! `docs/peers.md` explains the figures.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command")]

mod args;
mod cycles;
mod sources;
mod suites;

use std::process::ExitCode;

use args::{Args, Ask};

fn main() -> ExitCode {
    let asked = match args::parse(std::env::args().skip(1)) {
        Ok(asked) => asked,
        Err(problem) => {
            eprintln!("error: {problem}\n\n{}", args::USAGE);
            return ExitCode::from(2);
        }
    };
    match asked {
        Ask::Help => {
            println!("{}", args::USAGE);
            ExitCode::SUCCESS
        }
        Ask::Cycles(crates) => outcome(cycles(&crates)),
        Ask::Peers(args) => outcome(peers(&args)),
    }
}

fn outcome(result: Result<bool, String>) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// Whether no files of the crates import each other in a circle.
fn cycles(crates: &[String]) -> Result<bool, String> {
    let all = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
    let mut none = true;
    for name in crates {
        let imports = cycles::Imports::read(&all.join(name).join("src"))?;
        let circles = imports.cycles();
        none &= circles.is_empty();
        let (files, lines, found) = (imports.files(), imports.imports(), circles.len());
        println!("{name}: {files} files, {lines} imports, {found} cycles");
        for circle in &circles {
            print!("{} files:\n{}", circle.len(), imports.shown(circle));
        }
    }
    Ok(none)
}

/// Whether every suite that was asked for passed as much as it must.
fn peers(args: &Args) -> Result<bool, String> {
    let wanted = suites::wanted(&args.only)?;
    let folder = sources::prepare(args, &wanted)?;
    if args.fetch_only {
        return Ok(true);
    }
    let mut rows = vec![];
    for suite in wanted {
        eprintln!("== {}", suite.name);
        rows.extend(suites::run(suite, &folder, args.whole));
    }
    print!("{}", suites::table(&rows));
    let dropped: Vec<_> = rows.iter().filter_map(suites::Row::problem).collect();
    for problem in &dropped {
        eprintln!("error: {problem}");
    }
    Ok(dropped.is_empty())
}
