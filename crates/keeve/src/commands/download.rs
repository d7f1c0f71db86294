//! `keeve download`.

use std::process::ExitCode;

use keeve::hub::ModelName;
use serde_json::json;

use crate::args::Download;
use crate::output::{Failure, Outcome, Output};
use crate::{hub, interrupt};

pub fn run(args: &Download, output: &Output) -> Outcome {
    let name = match &args.file {
        Some(_) if args.model.contains(':') => {
            return Err(Failure::usage("the file is named twice: in MODEL and by --file"));
        }
        Some(file) => format!("{}:{file}", args.model),
        None => args.model.clone(),
    };
    let model = ModelName::parse(&name).map_err(|error| Failure::usage(error.to_string()))?;
    interrupt::watch()?;
    let fetched = hub::fetch(&model)?;
    if output.json {
        output.result(&json!({
            "model": model.to_string(), "commit": fetched.commit, "path": fetched.path,
        }))?;
    } else {
        output.text(&format!("{}\n", fetched.path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}
