//! Whether a model is whole: its tensors against its config, every value finite and no zeros where weights should be,
//! its tokenizer against its vocabulary; and how far it is from another.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use keeve_checkpoint::{Checkpoint, TensorInfo};
use keeve_codec::{PackedTensor, decode_row, values};
use serde::Serialize;

use crate::make::Observer;
use crate::zeros::{self, Zeros};
use crate::{Error, Role};

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
    let tied = !checkpoint.tensors().any(|info| info.name.ends_with("lm_head.weight"));
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
                let role = Role::of(&info.name, info.shape.len(), tied);
                match zeros::find(&tensor, role) {
                    Some(Zeros::Wrong(problem)) => {
                        findings.problems.push(format!("tensor '{}' {problem}", info.name));
                    }
                    Some(Zeros::Odd(problem)) => {
                        findings.notes.push(format!("tensor '{}' {problem}", info.name));
                    }
                    None => {}
                }
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
    let tensors = match checkpoint.tensors_stacked() {
        Ok(tensors) => tensors,
        Err(error) => {
            findings.problems.push(error.to_string());
            return;
        }
    };
    let shapes: HashMap<_, _> = tensors.iter().map(|info| (&info.name, &info.shape)).collect();
    let weights: HashMap<_, _> = model.weights().map(|weight| (&weight.name, weight)).collect();
    for weight in model.weights() {
        let Some(shape) = shapes.get(&weight.name) else {
            findings.problems.push(format!("tensor '{}' is missing", weight.name));
            continue;
        };
        let cols = shape.last().copied().unwrap_or(1);
        let rows: usize = shape.iter().rev().skip(1).product();
        // A convolution whose windows do not overlap is used as a matrix, a row for each output.
        let convolution = shape.len() > 3
            && shape.first() == Some(&weight.rows)
            && rows.checked_mul(cols) == weight.rows.checked_mul(weight.cols);
        let (fits, expected) = match weight.experts {
            None => {
                let fits = (rows, cols) == (weight.rows, weight.cols) || convolution;
                (fits, vec![weight.rows, weight.cols])
            }
            Some(experts) => {
                let expected = vec![experts, weight.rows, weight.cols];
                (**shape == expected, expected)
            }
        };
        if !fits {
            let name = &weight.name;
            findings.problems.push(format!(
                "tensor '{name}' has shape {shape:?}, but the config asks for {expected:?}"
            ));
        }
    }
    for info in &tensors {
        if !weights.contains_key(&info.name) {
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

/// Compares the values of all tensors with those of a reference. Where the two hold experts in different
/// ways (stacked, gate and up in one stack, or a tensor each), the matrices of experts are compared one by
/// one, under the names that Hugging Face gives to a tensor each.
///
/// # Errors
/// If a tensor cannot be read, is not in both models, or differs in shape, or the observer stops the work.
pub fn compare(
    checkpoint: &Checkpoint,
    reference: &Checkpoint,
    observer: &dyn Observer,
) -> Result<Vec<Difference>, Error> {
    let known = |other: &Checkpoint, info: &TensorInfo| other.info(&info.name).is_some();
    let alike = checkpoint.tensors().all(|info| known(reference, info))
        && reference.tensors().all(|info| known(checkpoint, info));
    let tensors = |of: &Checkpoint| match alike {
        true => Ok(of.tensors().cloned().collect()),
        false => of.tensors_stacked(),
    };
    let (ours, theirs) = (tensors(checkpoint)?, tensors(reference)?);
    let own: HashSet<_> = ours.iter().map(|info| &info.name).collect();
    if let Some(info) = theirs.iter().find(|info| !own.contains(&info.name)) {
        return Err(Error::tensor(&info.name, "is only in the reference"));
    }
    let theirs: HashMap<_, _> = theirs.iter().map(|info| (&info.name, info)).collect();
    let total: u64 = ours.iter().map(|info| info.bytes).sum();
    let (mut done, mut differences) = (0, Vec::new());
    for info in &ours {
        observer.progress(done, total, &info.name);
        if observer.stopped() {
            return Err(Error::Interrupted);
        }
        done += info.bytes;
        let Some(other) = theirs.get(&info.name) else {
            return Err(Error::tensor(&info.name, "is not in the reference"));
        };
        if info.shape != other.shape {
            let problem = format!("has shape {:?}, the reference {:?}", info.shape, other.shape);
            return Err(Error::tensor(&info.name, problem));
        }
        let codecs = (&info.format, &other.format);
        if known(checkpoint, info) && known(reference, info) {
            let (ours, theirs) = (checkpoint.tensor(&info.name)?, reference.tensor(&info.name)?);
            differences.push(difference(info.name.clone(), codecs, &ours, &theirs));
            continue;
        }
        let count = info.shape.first().copied().unwrap_or(0);
        let ours = checkpoint.experts(&info.name, count)?;
        let theirs = reference.experts(&info.name, count)?;
        for (expert, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            let name = info.name.replace(".switch_mlp.", &format!(".experts.{expert}."));
            differences.push(difference(name, codecs, ours, theirs));
        }
    }
    observer.progress(total, total, "");
    Ok(differences)
}

/// Compares two tensors of one shape. `codecs`: what its codec is called, and the reference's.
fn difference(
    name: String,
    codecs: (&String, &String),
    ours: &PackedTensor,
    theirs: &PackedTensor,
) -> Difference {
    let (mut a, mut b) = (vec![0.0f32; ours.cols()], vec![0.0f32; theirs.cols()]);
    let (mut squares, mut energy, mut largest) = (0.0f64, 0.0f64, 0.0f64);
    let mut equal = true;
    for row in 0..ours.experts() * ours.rows() {
        decode_row(ours, row, &mut a);
        decode_row(theirs, row, &mut b);
        for (&a, &b) in a.iter().zip(&b) {
            equal &= a == b;
            let difference = f64::from(a) - f64::from(b);
            squares += difference * difference;
            energy += f64::from(b) * f64::from(b);
            largest = largest.max(difference.abs());
        }
    }
    let relative_error = if squares == 0.0 { 0.0 } else { (squares / energy).sqrt() };
    let (codec, reference) = (codecs.0.clone(), codecs.1.clone());
    Difference { name, codec, reference, equal, relative_error, largest }
}
