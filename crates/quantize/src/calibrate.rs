//! Importance matrices by running a model: the squares of what enters each weight are summed, through
//! the taps of the graph.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use keeve_checkpoint::{Checkpoint, gguf};
use keeve_cpu::Isa;
use keeve_graph::{Graph, Op, Tap, ValueId};

use crate::imatrix::{Entry, Imatrix};
use crate::make::Observer;
use crate::watch::{Machine, Watched};
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

/// A weight, what enters it, and its name in the matrix.
struct Product {
    name: String,
    input: ValueId,
    cols: usize,
    /// For a stack: which value chooses among the experts, and how many there are.
    routed: Option<(ValueId, usize)>,
}

impl Product {
    /// An entry before anything was summed.
    fn empty(&self) -> Entry {
        let experts = self.routed.map_or(1, |(_, experts)| experts);
        Entry { sums: vec![0.0; self.cols.saturating_mul(experts)], counts: vec![0.0; experts] }
    }
}

/// What ggml calls the architecture of a model, for the names of weights; those that keeve writes no GGUF
/// files of among them. Empty if it has no name for it: canonical names are used then.
fn architecture(config: &serde_json::Value) -> &'static str {
    let model_type = config.get("model_type").and_then(serde_json::Value::as_str);
    layout::architecture(config).unwrap_or(match model_type {
        Some("mixtral") => "llama",
        Some("olmoe") => "olmoe",
        Some("qwen2_moe") => "qwen2moe",
        Some("qwen3_moe") => "qwen3moe",
        _ => "",
    })
}

/// The products of a graph whose weights are watched.
fn products(graph: &Graph, architecture: &str, head: bool) -> Vec<Product> {
    let mut products = Vec::new();
    for node in graph.nodes() {
        let (input, weight, router) = match node.op {
            Op::Linear { x, weight, .. } => (x, weight, None),
            Op::ExpertLinear { x, router, weight } => (x, weight, Some(router)),
            _ => continue,
        };
        let weight = graph.weight(weight);
        let is_head = !weight.name.contains("layers.");
        if is_head && !head {
            continue;
        }
        let name = gguf::tensor_name(&weight.name, architecture);
        let name = name.unwrap_or_else(|| weight.name.clone());
        let routed = router.map(|router| (router, weight.experts.unwrap_or(1)));
        products.push(Product { name, input, cols: weight.cols, routed });
    }
    products
}

/// Sums of a piece of text: squares a column by value, and for the inputs of experts the values
/// themselves, since which row goes to whom is known only later.
struct Sums<'a> {
    /// Values that enter experts, or choose among them.
    kept: &'a [ValueId],
    sums: HashMap<ValueId, (Vec<f64>, u64)>,
    rows: HashMap<ValueId, (usize, Vec<f32>)>,
}

fn add_squares(sums: &mut [f64], row: &[f32]) {
    for (sum, value) in sums.iter_mut().zip(row) {
        *sum += f64::from(value * value);
    }
}

impl Tap for Sums<'_> {
    fn value(&mut self, value: ValueId, width: usize, data: &[f32]) {
        if self.kept.contains(&value) {
            let (_, rows) = self.rows.entry(value).or_insert_with(|| (width, Vec::new()));
            rows.extend_from_slice(data);
        }
        let (sums, rows) = self.sums.entry(value).or_insert_with(|| (vec![0.0; width], 0));
        for row in data.chunks_exact(width) {
            add_squares(sums, row);
            *rows += 1;
        }
    }
}

impl Sums<'_> {
    /// Sums a column and the rows that were summed, for each expert or for all.
    fn of(&self, product: &Product) -> Option<(Vec<f64>, Vec<u64>)> {
        let Some((router, experts)) = product.routed else {
            let (sums, rows) = self.sums.get(&product.input)?;
            return Some((sums.clone(), vec![*rows]));
        };
        let ((width, inputs), (choice, choices)) =
            (self.rows.get(&product.input)?, self.rows.get(&router)?);
        let (cols, chosen) = (product.cols, choice / 2);
        // Either all experts of a row have its one input, or each has its own.
        let each = if *width == cols { 0 } else { cols };
        let (mut sums, mut rows) = (vec![0.0; cols.checked_mul(experts)?], vec![0; experts]);
        for (input, choice) in inputs.chunks_exact(*width).zip(choices.chunks_exact(*choice)) {
            for (place, expert) in choice[..chosen].iter().enumerate() {
                let expert = *expert as usize;
                let input = input.get(place * each..place * each + cols)?;
                add_squares(sums.get_mut(expert * cols..(expert + 1) * cols)?, input);
                rows[expert] += 1;
            }
        }
        Some((sums, rows))
    }
}

/// Runs `tokens` through the model in pieces and gives the sums of squares of what enters its weights,
/// added to those of `start` (an earlier run over the same text, of which as many pieces are left out as it
/// has). Of experts, each has sums and a count of its own.
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
    let architecture = architecture(checkpoint.config());
    let graph = Arc::new(model.graph);
    let products = products(&graph, architecture, options.head);
    let routed = products.iter().filter(|product| product.routed.is_some());
    let kept = routed.flat_map(|product| {
        [Some(product.input), product.routed.map(|(router, _)| router)].into_iter().flatten()
    });
    let mut kept: Vec<ValueId> = kept.collect();
    sort(&mut kept);
    let mut taps: Vec<ValueId> = products.iter().map(|product| product.input).collect();
    taps.extend(&kept);
    sort(&mut taps);
    let mut found = start;
    let resumed = usize::try_from(found.chunks).unwrap_or(usize::MAX);
    if resumed > 0 {
        let fits = |product: &Product| {
            let (entry, empty) = (found.entries.get(&product.name), product.empty());
            entry.is_some_and(|entry| {
                (entry.sums.len(), entry.counts.len()) == (empty.sums.len(), empty.counts.len())
            })
        };
        if found.chunk_size as usize != chunk || !products.iter().all(fits) {
            return Err(input(
                "the matrix to go on with is of another model or other pieces".into(),
            ));
        }
    }
    found.chunk_size = u32::try_from(chunk).unwrap_or(u32::MAX);
    let observer = options.observer;
    let total = (pieces.len() * chunk) as u64;
    let machine = Machine { threads, isa };
    let mut model =
        Watched::load(checkpoint, graph, taps, (chunk, options.head), machine, observer)?;
    for (index, piece) in pieces.iter().enumerate().skip(resumed) {
        observer.progress((index * chunk) as u64, total, "");
        if observer.stopped() {
            return Err(Error::Interrupted);
        }
        let mut sums = Sums { kept: &kept, sums: HashMap::new(), rows: HashMap::new() };
        model.run(piece, &mut sums)?;
        for product in &products {
            let Some((sums, rows)) = sums.of(product) else { continue };
            let entry =
                found.entries.entry(product.name.clone()).or_insert_with(|| product.empty());
            for (total, sum) in entry.sums.iter_mut().zip(sums) {
                *total += sum as f32;
            }
            for (total, rows) in entry.counts.iter_mut().zip(rows) {
                *total += rows as f32;
            }
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

/// Sorts values and leaves each once.
fn sort(values: &mut Vec<ValueId>) {
    values.sort_unstable_by_key(|value| value.index());
    values.dedup();
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
        let architecture = architecture(checkpoint.config());
        let mut means = HashMap::new();
        let mut missing = Vec::new();
        let mut hasher = DefaultHasher::new();
        let mut stacks = checkpoint.tensors_stacked()?;
        stacks.retain(|info| info.shape.len() > 2 && checkpoint.info(&info.name).is_none());
        for info in checkpoint.tensors().chain(&stacks).filter(|info| info.shape.len() > 1) {
            let entry_of = |name: &str| {
                let ggml = gguf::tensor_name(name, architecture);
                let entry = ggml.and_then(|name| imatrix.entries.get(&name));
                entry.or_else(|| imatrix.entries.get(name))
            };
            let apart = keeve_checkpoint::stack_of(&info.name);
            let one = apart.as_ref().and_then(|(stack, expert)| entry_of(stack)?.of(*expert));
            let Some(entry) = one.as_ref().or_else(|| entry_of(&info.name)) else {
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
