//! `keeve verify`.

use std::path::Path;
use std::process::ExitCode;

use keeve::eval::{self, Comparison, Text, windows};
use keeve::{Activations, Checkpoint, EngineOptions};
use keeve_quantize::{Difference, compare, verify};
use serde_json::json;

use super::eval::Follow;
use super::quantize::{Watch, cores};
use crate::args::Verify;
use crate::output::{Failure, Outcome, Output, one_line};
use crate::{checksums, interrupt, model};

/// Tokens of a piece of text, and of all pieces.
const WINDOW: usize = 512;
const MOST_TOKENS: usize = 4096;

pub fn run(args: &Verify, output: &Output) -> Outcome {
    let checkpoint = model::open(args.model.as_deref())?;
    let reference = args.against.as_deref().map(|path| model::open(Some(path))).transpose()?;
    interrupt::watch()?;
    let bar = output.work_bar();
    let threads = args.threads.unwrap_or_else(cores);
    let mut findings = verify(&checkpoint, threads, &Watch(&bar))?;
    let checked = checksums::check(&checkpoint, &interrupt::interrupted);
    findings.problems.extend(checked.problems);
    if checked.right > 0 {
        findings
            .notes
            .push(format!("{} files have the checksums that are known of them", checked.right));
    }
    let differences = match &reference {
        Some(reference) if findings.problems.is_empty() => {
            Some(compare(&checkpoint, reference, &Watch(&bar))?)
        }
        _ => None,
    };
    drop(bar);
    let predictions = match (&reference, &args.data) {
        (Some(reference), Some(path)) if findings.problems.is_empty() => {
            Some(predictions(&checkpoint, reference, path, args, output)?)
        }
        _ => None,
    };
    let code = if findings.problems.is_empty() { 0 } else { 1 };
    if output.json {
        let mut result = serde_json::to_value(&findings)?;
        result["against"] = json!(differences);
        result["predictions"] = json!(predictions.as_ref().map(|(tokens, beside)| json!({
            "tokens": tokens,
            "kl_mean": beside.divergence.value,
            "ppl_ratio": beside.ratio.value,
            "top1_agreement": beside.agreement.value,
        })));
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
    if let Some((tokens, beside)) = &predictions {
        text += &format!(
            "predictions of {tokens} tokens: mean KL {:.6} nats, perplexity times {:.4}, {:.2} % the same likeliest token\n",
            beside.divergence.value,
            beside.ratio.value,
            100.0 * beside.agreement.value,
        );
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

/// How far predictions are apart on the beginning of a text, and how many there were.
fn predictions(
    checkpoint: &Checkpoint,
    reference: &Checkpoint,
    path: &Path,
    args: &Verify,
    output: &Output,
) -> Result<(usize, Comparison), Failure> {
    let options = EngineOptions {
        threads: args.threads,
        max_context: Some(WINDOW),
        max_sequences: 1,
        activations: Activations::Float,
        ..EngineOptions::default()
    };
    let model = model::load_with(checkpoint, None, &options, output)?;
    let beside = model::load_with(reference, None, &options, output)?;
    let text = super::eval::read(path)?;
    let tokens = Text::new(&text, beside.tokenizer()?)?;
    if Text::new(&text, model.tokenizer()?)?.ids() != tokens.ids() {
        return Err("the model turns the text into other tokens than the reference".into());
    }
    let mut cut = windows::plain(tokens.ids().len(), WINDOW, WINDOW)?;
    windows::limit(&mut cut, MOST_TOKENS);
    let mut follow = Follow(output.token_bar("predictions", windows::scored(&cut)));
    let scores = eval::evaluate(&tokens, &cut, &model, Some(&beside), &mut follow)?;
    drop(follow);
    match scores.comparison {
        Some(comparison) if scores.complete => Ok((scores.tokens, comparison)),
        _ => Err(Failure::interrupted()),
    }
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
