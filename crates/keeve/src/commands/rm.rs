//! `keeve rm`.

use std::io::{self, BufRead, IsTerminal, Read};
use std::process::ExitCode;

use keeve::hub::ModelName;
use serde_json::json;

use crate::args::Rm;
use crate::hub;
use crate::output::{Failure, Outcome, Output, bytes};

pub fn run(args: &Rm, output: &Output) -> Outcome {
    let hub = hub::hub()?;
    let mut found = vec![];
    // All of them are looked up before the first is removed.
    for text in &args.models {
        let model = ModelName::parse(text).map_err(|error| Failure::usage(error.to_string()))?;
        if model.file.is_some() {
            return Err(Failure::usage(format!("'{text}': models are removed as a whole")));
        }
        let cached = hub.find(&model).ok_or_else(|| {
            Failure::from(format!("{model} is not in {}", hub.settings().cache.display()))
        })?;
        found.push(cached);
    }
    if !args.yes && !io::stdin().is_terminal() {
        return Err(Failure::usage("rm asks before it removes; use --yes where nobody can answer"));
    }
    let (mut removed, mut freed) = (vec![], 0);
    for cached in found {
        let repo = cached.model.repo();
        if !args.yes && !confirmed(&repo, cached.bytes, output)? {
            continue;
        }
        hub.remove(&cached.model)?;
        freed += cached.bytes;
        removed.push(repo);
    }
    if output.json {
        output.result(&json!({ "removed": removed, "bytes": freed }))?;
    } else {
        for repo in &removed {
            output.text(&format!("removed {repo}\n"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn confirmed(repo: &str, size: u64, output: &Output) -> Result<bool, Failure> {
    output.ask(&format!("remove {repo} ({})? [y/N] ", bytes(size)));
    let mut answer = String::new();
    io::stdin().lock().take(64).read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
