//! Importance matrices by running a model: the squares of what enters each weight are summed, through
//! the taps of the graph.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use keeve_checkpoint::{Checkpoint, gguf};
use keeve_codec::PackedTensor;
use keeve_cpu::{Cpu, CpuOptions, Isa};
use keeve_graph::{
    Backend, CompileOptions, Graph, LoadOptions, Op, Phase, RowInput, SequenceRows, Step, Tap,
    ValueId, Weights,
};

use crate::imatrix::{Entry, Imatrix};
use crate::make::Observer;
use crate::{Error, gguf as layout};

/// How to calibrate.
pub struct CalibrateOptions<'a> {
    /// Tokens of a piece of text: each is run by itself, from the beginning of a context.
    pub chunk: usize,
    /// The most pieces; `None`: all there are.
    pub chunks: Option<usize>,
    /// Threads that compute.
    pub threads: usize,
    /// Instruction set tier.
    pub isa: Isa,
    /// Include the head, which llama.cpp leaves out.
    pub head: bool,
    /// Progress in tokens, and the wish to stop.
    pub observer: &'a dyn Observer,
    /// Given what there is after each piece, to be saved; an error ends the work.
    pub save: &'a mut dyn FnMut(&Imatrix) -> Result<(), Error>,
}

/// A checkpoint as the backend sees it.
struct Tensors<'a>(&'a Checkpoint);

impl Weights for Tensors<'_> {
    fn weight(&self, name: &str) -> Result<PackedTensor, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.0.tensor(name)?)
    }
}

/// Sums of squares by value of the graph.
struct Sums {
    /// Sums a column, and the rows that were summed.
    sums: HashMap<ValueId, (Vec<f64>, u64)>,
}

impl Tap for Sums {
    fn value(&mut self, value: ValueId, width: usize, data: &[f32]) {
        let (sums, rows) = self.sums.entry(value).or_insert_with(|| (vec![0.0; width], 0));
        for row in data.chunks_exact(width) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += f64::from(value * value);
            }
            *rows += 1;
        }
    }
}

/// A weight, what enters it, and its name in the matrix.
struct Watched {
    name: String,
    input: ValueId,
    cols: usize,
}

/// The weights of a graph's products that are watched.
fn watched(graph: &Graph, architecture: &str, head: bool) -> Vec<Watched> {
    let mut watched = Vec::new();
    for node in graph.nodes() {
        let Op::Linear { x, weight, .. } = &node.op else { continue };
        let weight = graph.weight(*weight);
        let is_head = !weight.name.contains("layers.");
        if is_head && !head {
            continue;
        }
        let name = gguf::tensor_name(&weight.name, architecture);
        let name = name.unwrap_or_else(|| weight.name.clone());
        watched.push(Watched { name, input: *x, cols: weight.cols });
    }
    watched
}

/// Runs `tokens` through the model in pieces and gives the sums of squares of what enters its weights,
/// added to those of `start` (an earlier run over the same text, of which as many pieces are left out as it
/// has).
///
/// Sums are `f64` inside a piece and `f32` between them, as files hold them: so that a run that was
/// interrupted gives the bits of one that was not.
///
/// # Errors
/// If the model cannot be run, the text has not a whole piece, `start` is of another model, or the
/// observer stops the work (what was done until then was given to `save`).
pub fn calibrate(
    checkpoint: &Checkpoint,
    tokens: &[u32],
    start: Imatrix,
    options: CalibrateOptions<'_>,
) -> Result<Imatrix, Error> {
    let input = |error: String| Error::Input(error);
    let model =
        keeve_models::build(checkpoint.config()).map_err(|error| input(error.to_string()))?;
    let CalibrateOptions { chunk, threads, isa, .. } = options;
    if chunk == 0 || chunk > model.max_positions {
        let most = model.max_positions;
        return Err(input(format!("pieces of {chunk} tokens; the model takes 1 to {most}")));
    }
    if let Some(token) = tokens.iter().find(|&&token| token as usize >= model.vocabulary) {
        return Err(input(format!("token {token} is past the vocabulary of {}", model.vocabulary)));
    }
    let pieces: Vec<&[u32]> = tokens.chunks_exact(chunk).collect();
    let pieces = &pieces[..options.chunks.unwrap_or(pieces.len()).min(pieces.len())];
    if pieces.is_empty() {
        let found = tokens.len();
        return Err(input(format!("the text has {found} tokens, less than a piece of {chunk}")));
    }
    let architecture = layout::architecture(checkpoint.config())?;
    let graph = Arc::new(model.graph);
    if graph.nodes().iter().any(|node| matches!(node.op, Op::ExpertLinear { .. })) {
        return Err(input("models with experts cannot be calibrated yet".into()));
    }
    let watched = watched(&graph, architecture, options.head);
    let mut inputs: Vec<ValueId> = watched.iter().map(|watched| watched.input).collect();
    inputs.sort_unstable_by_key(|value| value.index());
    inputs.dedup();
    let mut found = start;
    let resumed = usize::try_from(found.chunks).unwrap_or(usize::MAX);
    if resumed > 0 {
        let fits = |watched: &Watched| {
            found.entries.get(&watched.name).is_some_and(|entry| entry.sums.len() == watched.cols)
        };
        if found.chunk_size as usize != chunk || !watched.iter().all(fits) {
            return Err(input(
                "the matrix to go on with is of another model or other pieces".into(),
            ));
        }
    }
    found.chunk_size = u32::try_from(chunk).unwrap_or(u32::MAX);
    let failed = |error: keeve_graph::Error| input(error.to_string());
    let cpu = Cpu::new(CpuOptions { threads, isa }).map_err(|error| input(error.to_string()))?;
    let observer = options.observer;
    let total = (pieces.len() * chunk) as u64;
    let load = LoadOptions { progress: &|_| !observer.stopped(), ..LoadOptions::default() };
    let program = cpu.load(graph, &Tensors(checkpoint), &load).map_err(failed)?;
    let compile = CompileOptions { taps: inputs, ..CompileOptions::default() };
    let mut plan = program.compile(&compile).map_err(failed)?;
    let pages = chunk.div_ceil(program.page_tokens());
    let mut state = program.state(pages).map_err(failed)?;
    let pages: Vec<_> = (0..pages as u32).collect();
    for (index, piece) in pieces.iter().enumerate().skip(resumed) {
        observer.progress((index * chunk) as u64, total, "");
        if observer.stopped() {
            return Err(Error::Interrupted);
        }
        let rows = (0..).zip(*piece).map(|(at, id)| RowInput::text(*id, at, Phase::Prompt));
        let mut rows: Vec<RowInput> = rows.collect();
        // Only what is wanted is computed.
        rows.iter_mut().for_each(|row| row.logits = options.head);
        rows.iter_mut().for_each(|row| row.hidden = true);
        let sequence = SequenceRows { rows: 0..rows.len(), past: 0, pages: &pages };
        let step = Step { rows, sequences: vec![sequence], given: Vec::new() };
        let mut sums = Sums { sums: HashMap::new() };
        plan.run(&step, &mut *state, Some(&mut sums)).map_err(failed)?;
        for Watched { name, input, cols } in &watched {
            let Some((sums, rows)) = sums.sums.get(input) else { continue };
            let entry = found
                .entries
                .entry(name.clone())
                .or_insert_with(|| Entry { sums: vec![0.0; *cols], counts: vec![0.0] });
            for (total, sum) in entry.sums.iter_mut().zip(sums) {
                *total += *sum as f32;
            }
            entry.counts[0] += *rows as f32;
        }
        if let Some(entry) =
            found.entries.iter().find(|(_, entry)| !entry.sums.iter().all(|sum| sum.is_finite()))
        {
            return Err(Error::tensor(entry.0, "gets inputs that are not finite"));
        }
        found.chunks += 1;
        (options.save)(&found)?;
    }
    observer.progress(total, total, "");
    Ok(found)
}

/// Importance by canonical name, checked against a model.
pub struct Importance {
    means: HashMap<String, Vec<f32>>,
    /// Weights of the model's products for which there is none.
    pub missing: Vec<String>,
    /// Distinguishes matrices.
    pub fingerprint: u64,
}

impl Importance {
    /// Fits a matrix to the weights of a model.
    ///
    /// # Errors
    /// If it has an entry of the wrong size for a weight, or none for any weight: it is of another model.
    pub fn of(checkpoint: &Checkpoint, imatrix: &Imatrix) -> Result<Self, Error> {
        let architecture = layout::architecture(checkpoint.config()).unwrap_or_default();
        let mut means = HashMap::new();
        let mut missing = Vec::new();
        let mut hasher = DefaultHasher::new();
        for info in checkpoint.tensors().filter(|info| info.shape.len() > 1) {
            let ggml = gguf::tensor_name(&info.name, architecture);
            let entry = ggml.and_then(|name| imatrix.entries.get(&name));
            let Some(entry) = entry.or_else(|| imatrix.entries.get(&info.name)) else {
                missing.push(info.name.clone());
                continue;
            };
            let cols = info.shape.last().copied().unwrap_or(1);
            let experts = if info.shape.len() == 3 { info.shape[0] } else { 1 };
            let found = entry.sums.len();
            if found != cols && found != cols.saturating_mul(experts) {
                let problem = format!(
                    "has {cols} columns, but the importance matrix {found}: it is of another model"
                );
                return Err(Error::tensor(&info.name, problem));
            }
            let values = entry.means();
            info.name.hash(&mut hasher);
            values.iter().for_each(|value| value.to_bits().hash(&mut hasher));
            means.insert(info.name.clone(), values);
        }
        if means.is_empty() {
            let problem = "the importance matrix has no entry for any weight of this model";
            return Err(Error::Input(problem.into()));
        }
        Ok(Self { means, missing, fingerprint: hasher.finish() })
    }

    /// The importance of each column of the weight `name`.
    pub fn get(&self, name: &str) -> Option<&[f32]> {
        self.means.get(name).map(Vec::as_slice)
    }
}
