//! `keeve calibrate`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use keeve::Isa;
use keeve_files::whole;
use keeve_quantize::{CalibrateOptions, Entry, Error, Imatrix, calibrate};
use serde_json::json;

use super::quantize::{Watch, cores};
use crate::args::Calibrate;
use crate::output::{Failure, Outcome, Output, one_line};
use crate::{interrupt, limits, model};

/// Pieces between two times that the matrix is saved.
const SAVED_EVERY: u32 = 16;

pub fn run(args: &Calibrate, output: &Output) -> Outcome {
    if let Some(path) = &args.show {
        return show(path, output);
    }
    let Some(out) = args.out.as_deref() else { return Err(Failure::usage("--out is needed")) };
    let start = if out.exists() && !args.force { continued(out)? } else { Imatrix::default() };
    let checkpoint = model::open(args.model.as_deref())?;
    let tokenizer = keeve::engine::tokenizer_of(&checkpoint)?;
    let tokenizer = tokenizer.ok_or("the model has no tokenizer to read the text with")?;
    let text = read(&args.data)?;
    let datasets: Vec<_> = args.data.iter().map(|path| path.display().to_string()).collect();
    if start.chunks > 0 && start.datasets != datasets {
        let problem = "was made from other texts; --force starts anew";
        return Err(format!("{}: {problem}", out.display()).into());
    }
    let resumed = start.chunks;
    let start = Imatrix { datasets, ..start };
    let tokens = tokenizer.encode(&text, true, false)?;
    interrupt::watch()?;
    let bar = output.calibration_bar();
    let mut latest = start.clone();
    let mut save = |found: &Imatrix| -> Result<(), Error> {
        latest = found.clone();
        if found.chunks.is_multiple_of(SAVED_EVERY) { found.save(out) } else { Ok(()) }
    };
    let options = CalibrateOptions {
        chunk: args.chunk,
        chunks: args.chunks,
        threads: args.threads.unwrap_or_else(cores),
        isa: Isa::choose()?,
        head: args.head,
        observer: &Watch(&bar),
        save: &mut save,
    };
    let found = calibrate(&checkpoint, &tokens, start, options);
    drop(bar);
    if matches!(found, Err(Error::Interrupted)) && latest.chunks > 0 {
        latest.save(out)?;
    }
    let found = found?;
    found.save(out)?;
    let (entries, chunks) = (found.entries.len(), found.chunks);
    if output.json {
        output.result(&json!({
            "out": out.display().to_string(), "entries": entries, "chunks": chunks,
            "chunk_size": found.chunk_size, "resumed": resumed,
        }))?;
    } else {
        let size = found.chunk_size;
        let out = out.display();
        output.text(&format!("{out}: {entries} weights, {chunks} pieces of {size} tokens\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Texts, one after another.
pub fn read(paths: &[PathBuf]) -> Result<String, Failure> {
    let mut texts = String::new();
    for path in paths {
        // The limit is for all of them together.
        let left = limits::TEXT.saturating_sub(texts.len() as u64);
        texts += &whole::text(path, left, "--data")?;
    }
    Ok(texts)
}

/// The matrix to go on with.
fn continued(out: &Path) -> Result<Imatrix, Failure> {
    let found = Imatrix::open(out)?;
    if found.chunk_size == 0 {
        let problem = "stands already and does not say how it was made; --force starts anew";
        return Err(format!("{}: {problem}", out.display()).into());
    }
    Ok(found)
}

fn show(path: &Path, output: &Output) -> Outcome {
    let imatrix = Imatrix::open(path)?;
    let numbers = |entry: &Entry| {
        let means = entry.means();
        let sum: f64 = means.iter().map(|mean| f64::from(*mean)).sum();
        let most = means.iter().fold(0.0f32, |most, mean| most.max(*mean));
        let silent = means.iter().filter(|mean| **mean == 0.0).count();
        (sum / means.len().max(1) as f64, most, silent)
    };
    if output.json {
        let entry = |(name, entry): (&String, &Entry)| {
            let (mean, most, silent) = numbers(entry);
            json!({ "name": name, "columns": entry.sums.len(), "counts": entry.counts,
                "mean_square": mean, "largest": most, "zero_columns": silent })
        };
        output.result(&json!({
            "datasets": imatrix.datasets, "chunks": imatrix.chunks,
            "chunk_size": imatrix.chunk_size,
            "entries": imatrix.entries.iter().map(entry).collect::<Vec<_>>(),
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = format!(
        "texts   {}\npieces  {} of {} tokens\n\n{:40} {:>8} {:>10} {:>12} {:>12} {:>6}\n",
        one_line(&imatrix.datasets.join(", ")),
        imatrix.chunks,
        imatrix.chunk_size,
        "weight",
        "columns",
        "rows",
        "mean square",
        "largest",
        "zeros"
    );
    for (name, entry) in &imatrix.entries {
        let (mean, most, silent) = numbers(entry);
        let counts = &entry.counts;
        let least = counts.iter().copied().fold(f32::INFINITY, f32::min);
        let rows = match counts.as_slice() {
            [rows] => format!("{rows}"),
            // Of experts: the fewest and the most.
            _ => format!("{least}-{}", counts.iter().copied().fold(0.0, f32::max)),
        };
        let (name, columns) = (one_line(name), entry.sums.len());
        table +=
            &format!("{name:40} {columns:>8} {rows:>10} {mean:>12.4e} {most:>12.4e} {silent:>6}\n");
    }
    output.text(&table)?;
    Ok(ExitCode::SUCCESS)
}
