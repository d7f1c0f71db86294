//! Whether a model is whole: its tensors against its config, every value finite, its tokenizer against
//! its vocabulary; and how far it is from another.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use keeve_checkpoint::Checkpoint;
use keeve_codec::{PackedTensor, stored_values, values};
use serde::Serialize;

use crate::Error;
use crate::make::Observer;

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Findings {
    /// Tensors that were read.
    pub tensors: usize,
    /// Weights that were decoded.
    pub weights: u64,
    /// What is wrong, a sentence each.
    pub problems: Vec<String>,
    /// What is odd, but does no harm.
    pub notes: Vec<String>,
}

/// A tensor beside the same of another model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// Its name.
    pub name: String,
    /// The codec here.
    pub codec: String,
    /// The codec of the reference.
    pub reference: String,
    /// Whether all values are equal.
    pub equal: bool,
    /// The root of the sum of squared differences over that of the reference's squares.
    pub relative_error: f64,
    /// The largest difference.
    pub largest: f64,
}

/// Checks a model's structure and every value.
///
/// # Errors
/// Only if the observer stops the work; what is wrong with the model is in the findings.
pub fn verify(
    checkpoint: &Checkpoint,
    threads: usize,
    observer: &dyn Observer,
) -> Result<Findings, Error> {
    let mut findings = Findings::default();
    structure(checkpoint, &mut findings);
    text(checkpoint, &mut findings);
    let total: u64 = checkpoint.tensors().map(|info| info.bytes).sum();
    let mut done = 0;
    for info in checkpoint.tensors() {
        observer.progress(done, total, &info.name);
        if observer.stopped() {
            return Err(Error::Interrupted);
        }
        done += info.bytes;
        match checkpoint.tensor(&info.name) {
            Err(error) => findings.problems.push(error.to_string()),
            Ok(tensor) => {
                findings.tensors += 1;
                findings.weights += tensor.len() as u64;
                if let Some((row, value)) = not_finite(&tensor, threads) {
                    let name = &info.name;
                    findings.problems.push(format!("tensor '{name}': row {row} holds {value}"));
                }
            }
        }
    }
    observer.progress(total, total, "");
    Ok(findings)
}

/// Tensors against the config.
fn structure(checkpoint: &Checkpoint, findings: &mut Findings) {
    let model = match keeve_models::build(checkpoint.config()) {
        Ok(model) => model,
        Err(error) => {
            let path = checkpoint.config_path().display();
            findings.problems.push(format!("{path}: {error}"));
            return;
        }
    };
    let weights: Vec<_> = model.weights().collect();
    for weight in &weights {
        let Some(info) = checkpoint.info(&weight.name) else {
            findings.problems.push(format!("tensor '{}' is missing", weight.name));
            continue;
        };
        let cols = info.shape.last().copied().unwrap_or(1);
        let rows: usize = info.shape.iter().rev().skip(1).product();
        // A convolution whose windows do not overlap is used as a matrix, a row for each output.
        let convolution = info.shape.len() > 3
            && info.shape.first() == Some(&weight.rows)
            && rows.checked_mul(cols) == weight.rows.checked_mul(weight.cols);
        if (rows, cols) != (weight.rows, weight.cols) && !convolution {
            let expected = [weight.rows, weight.cols];
            let (name, found) = (&weight.name, &info.shape);
            findings.problems.push(format!(
                "tensor '{name}' has shape {found:?}, but the config asks for {expected:?}"
            ));
        }
    }
    for info in checkpoint.tensors() {
        if !weights.iter().any(|weight| weight.name == info.name) {
            findings.notes.push(format!("tensor '{}' is not used by the model", info.name));
        }
    }
    if let Ok(Some(tokenizer)) = keeve_engine::tokenizer_of(checkpoint)
        && tokenizer.vocab_size() > model.vocabulary
    {
        let (found, rows) = (tokenizer.vocab_size(), model.vocabulary);
        findings.problems.push(format!(
            "the tokenizer has ids up to {}, but the model only {rows} rows for them",
            found - 1
        ));
    }
}

/// Tokenizer and chat template.
fn text(checkpoint: &Checkpoint, findings: &mut Findings) {
    match keeve_engine::tokenizer_of(checkpoint) {
        Ok(None) => findings.notes.push("the model has no tokenizer".into()),
        Ok(Some(_)) => {}
        Err(error) => findings.problems.push(error.to_string()),
    }
}

/// A row with a value that is not finite, and that value.
fn not_finite(tensor: &PackedTensor, threads: usize) -> Option<(usize, f32)> {
    let rows = tensor.experts() * tensor.rows();
    let next = AtomicUsize::new(0);
    let found = Mutex::new(None);
    let work = || {
        let mut decoded = vec![0.0f32; tensor.cols()];
        loop {
            let row = next.fetch_add(1, Ordering::Relaxed);
            if row >= rows {
                return;
            }
            values(tensor.codec(), tensor.row(row), &mut decoded);
            if let Some(value) = decoded.iter().find(|value| !value.is_finite()) {
                let mut found = found.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                // The first row, whichever thread comes first.
                if found.is_none_or(|(other, _)| row < other) {
                    *found = Some((row, *value));
                }
                return;
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.clamp(1, rows.div_ceil(64)) {
            scope.spawn(work);
        }
        work();
    });
    found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Compares the values of all tensors with those of a reference.
///
/// # Errors
/// If a tensor cannot be read, is not in both models, or differs in shape, or the observer stops the work.
pub fn compare(
    checkpoint: &Checkpoint,
    reference: &Checkpoint,
    observer: &dyn Observer,
) -> Result<Vec<Difference>, Error> {
    let mut differences = Vec::new();
    let total: u64 = checkpoint.tensors().map(|info| info.bytes).sum();
    let mut done = 0;
    for info in reference.tensors() {
        if checkpoint.info(&info.name).is_none() {
            return Err(Error::tensor(&info.name, "is only in the reference"));
        }
    }
    for info in checkpoint.tensors() {
        observer.progress(done, total, &info.name);
        if observer.stopped() {
            return Err(Error::Interrupted);
        }
        done += info.bytes;
        let Some(other) = reference.info(&info.name) else {
            return Err(Error::tensor(&info.name, "is not in the reference"));
        };
        if info.shape != other.shape {
            let problem = format!("has shape {:?}, the reference {:?}", info.shape, other.shape);
            return Err(Error::tensor(&info.name, problem));
        }
        let (ours, theirs) = (checkpoint.tensor(&info.name)?, reference.tensor(&info.name)?);
        let (mut a, mut b) = (vec![0.0f32; ours.cols()], vec![0.0f32; theirs.cols()]);
        let (mut squares, mut energy, mut largest) = (0.0f64, 0.0f64, 0.0f64);
        let mut equal = true;
        for row in 0..ours.experts() * ours.rows() {
            stored_values(ours.codec(), ours.row(row), &mut a);
            stored_values(theirs.codec(), theirs.row(row), &mut b);
            for (&a, &b) in a.iter().zip(&b) {
                equal &= a == b;
                let difference = f64::from(a) - f64::from(b);
                squares += difference * difference;
                energy += f64::from(b) * f64::from(b);
                largest = largest.max(difference.abs());
            }
        }
        let relative_error = if squares == 0.0 { 0.0 } else { (squares / energy).sqrt() };
        differences.push(Difference {
            name: info.name.clone(),
            codec: info.format.clone(),
            reference: other.format.clone(),
            equal,
            relative_error,
            largest,
        });
    }
    observer.progress(total, total, "");
    Ok(differences)
}
