//! `keeve verify`.

use std::process::ExitCode;

use keeve_quantize::{Difference, compare, verify};
use serde_json::json;

use super::quantize::{Watch, cores};
use crate::args::Verify;
use crate::output::{Outcome, Output, one_line};
use crate::{interrupt, model};

pub fn run(args: &Verify, output: &Output) -> Outcome {
    let checkpoint = model::open(args.model.as_deref())?;
    let reference = args.against.as_deref().map(|path| model::open(Some(path))).transpose()?;
    interrupt::watch()?;
    let bar = output.work_bar();
    let threads = args.threads.unwrap_or_else(cores);
    let findings = verify(&checkpoint, threads, &Watch(&bar))?;
    let differences = match &reference {
        Some(reference) if findings.problems.is_empty() => {
            Some(compare(&checkpoint, reference, &Watch(&bar))?)
        }
        _ => None,
    };
    drop(bar);
    let code = if findings.problems.is_empty() { 0 } else { 1 };
    if output.json {
        let mut result = serde_json::to_value(&findings)?;
        result["against"] = json!(differences);
        output.result(&result)?;
        return Ok(ExitCode::from(code));
    }
    let mut text = String::new();
    for (kind, lines) in [("wrong", &findings.problems), ("note", &findings.notes)] {
        for line in lines {
            text += &format!("{kind}: {}\n", one_line(line));
        }
    }
    if let Some(differences) = &differences {
        text += &table(differences);
    }
    text += &format!(
        "{} tensors, {} weights, {} problems\n",
        findings.tensors,
        findings.weights,
        findings.problems.len()
    );
    output.text(&text)?;
    Ok(ExitCode::from(code))
}

fn table(differences: &[Difference]) -> String {
    let mut table = format!(
        "{:52} {:12} {:12} {:>12} {:>12}\n",
        "tensor", "codec", "reference", "error", "largest"
    );
    for difference in differences.iter().filter(|difference| !difference.equal) {
        let Difference { name, codec, reference, relative_error, largest, .. } = difference;
        let name = one_line(name);
        table += &format!(
            "{name:52} {codec:12} {reference:12} {relative_error:>12.4e} {largest:>12.4e}\n"
        );
    }
    let equal = differences.iter().filter(|difference| difference.equal).count();
    table + &format!("{equal} of {} tensors hold equal values\n", differences.len())
}
