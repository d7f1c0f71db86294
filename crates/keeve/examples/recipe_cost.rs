//! What quantized activations cost: the mean Kullback-Leibler divergence, per token, of the next token's
//! distribution from that of the same weights with float activations, for prompts and generated tokens:
//! `cargo run --release -p keeve --example recipe_cost -- TEXT [WINDOWS] [MODES] [MODEL] [CODEC ...]`.
//!
//! The text is cut into windows of 256 tokens, of which the first WINDOWS (16) are read. MODES are some of
//! `auto`, `int8`, `bf16` and `float`, with commas between them, each of which may name how keys and values are
//! kept: `float/q8_0`. MODEL is a folder or file; without one (or `-`) it is the demo model. With codecs, its
//! matrices are encoded anew in each; `all` stands for every codec that has an encoder, with the usual groups.
//! Modes that make a codec's products like one before them are left out.

#![allow(clippy::print_stdout, reason = "an example prints")]

use std::collections::HashMap;
use std::error::Error;
use std::path::Path;
use std::sync::{Arc, Mutex};

use keeve::codec::{EncodeOptions, Float, Group, decode, encode};
use keeve::cpu::{Cpu, CpuOptions, recipe_names};
use keeve::graph::{
    Backend, LoadOptions, Phase, Plan, Program, RowInput, SequenceRows, Step, Want, Weights,
};
use keeve::{Activations, Checkpoint, Codec, Engine, EngineOptions, Isa, KvCodec, PackedTensor};

type Failure = Box<dyn Error + Send + Sync>;

const WINDOW: usize = 256;

/// The checkpoint's weights, matrices in another codec.
struct Encoded<'a> {
    checkpoint: &'a Checkpoint,
    codec: Option<Codec>,
    made: Mutex<HashMap<String, PackedTensor>>,
}

impl Weights for Encoded<'_> {
    fn weight(&self, name: &str) -> Result<PackedTensor, Failure> {
        let tensor = self.checkpoint.tensor(name)?;
        let Some(codec) = self.codec.filter(|_| tensor.rows() > 1) else {
            return Ok(tensor);
        };
        let mut made = self.made.lock().map_err(|error| error.to_string())?;
        if let Some(tensor) = made.get(name) {
            return Ok(tensor.clone());
        }
        let (rows, cols) = (tensor.rows(), tensor.cols());
        let encoded = encode(codec, rows, cols, &decode(&tensor), EncodeOptions::default())?.tensor;
        made.insert(name.into(), encoded.clone());
        Ok(encoded)
    }
}

/// Logits of all rows of a window.
fn logits(
    program: &dyn Program,
    plan: &mut dyn Plan,
    ids: &[u32],
    phase: Phase,
) -> Result<(usize, Vec<f32>), Failure> {
    let pages: Vec<u32> = (0..ids.len().div_ceil(program.page_tokens()) as u32).collect();
    let mut state = program.state(pages.len())?;
    let row = |(at, &id)| RowInput { logits: true, ..RowInput::text(id, at as u32, phase) };
    let step = Step {
        rows: ids.iter().enumerate().map(row).collect(),
        sequences: vec![SequenceRows { rows: 0..ids.len(), past: 0, pages: &pages }],
        given: vec![],
    };
    let mut outputs = plan.run(&step, &mut *state, None)?;
    Ok(outputs.take(Want::Logits).ok_or("no logits")?)
}

/// The logarithms of the probabilities.
fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().fold(f32::NEG_INFINITY, |most, &x| most.max(x));
    let sum: f64 = logits.iter().map(|&x| f64::from(x - largest).exp()).sum();
    logits.iter().map(|&x| f64::from(x - largest) - sum.ln()).collect()
}

/// Divergences of the rows, and how many have the same most likely token.
fn compare(expected: &[f32], found: &[f32], width: usize, all: &mut Vec<f64>, same: &mut usize) {
    for (expected, found) in expected.chunks_exact(width).zip(found.chunks_exact(width)) {
        let (p, q) = (log_softmax(expected), log_softmax(found));
        all.push(p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum());
        let best = |x: &[f64]| x.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|x| x.0);
        *same += usize::from(best(&p) == best(&q));
    }
}

/// A mode of activations, and how keys and values are kept if it says so.
#[derive(Clone, Copy)]
struct Mode<'a> {
    name: &'a str,
    activations: Activations,
    kv_codec: Option<KvCodec>,
}

impl<'a> Mode<'a> {
    fn parse(name: &'a str) -> Result<Self, Failure> {
        let (mode, kv_codec) = match name.split_once('/') {
            Some((mode, codec)) => (mode, Some(codec.parse()?)),
            None => (name, None),
        };
        let activations = match mode {
            "auto" => Activations::Auto,
            "int8" => Activations::Int8,
            "bf16" => Activations::Bf16,
            "float" => Activations::Float,
            other => return Err(format!("{other}: expected auto, int8, bf16 or float").into()),
        };
        Ok(Self { name, activations, kv_codec })
    }
}

/// Every codec that has an encoder and fits rows of so many columns.
fn every_codec(cols: usize) -> Vec<Codec> {
    let mut codecs = Codec::PLAIN.to_vec();
    let affine = |bits| Codec::Affine { bits, group: 64, scale: Float::F16 };
    codecs.extend(Codec::AFFINE_BITS.map(affine));
    for group in [Group::Row, Group::Of(64), Group::Of(128), Group::Of(256)] {
        let scale = Float::F32;
        codecs.extend([Codec::Int8 { group, scale }, Codec::Int4 { group, scale }]);
    }
    let fits = |codec: &Codec| codec.has_encoder() && codec.row_bytes(cols).is_ok();
    codecs.retain(|codec| *codec != Codec::F32 && fits(codec));
    codecs
}

/// What a mode costs: the phases, each with its divergences and how many best tokens are the same.
#[derive(Default)]
struct Found([(Vec<f64>, usize); 2]);

impl Found {
    /// Mean and 99th of a hundred divergences, and the share of best tokens that are the same.
    fn summary(&mut self, phase: usize) -> String {
        let (all, same) = &mut self.0[phase];
        all.sort_by(f64::total_cmp);
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        let high = all[all.len() * 99 / 100];
        let same = *same as f64 / all.len() as f64 * 100.0;
        format!("{mean:.2e} | {high:.1e} | {same:.1} %")
    }
}

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let usage = "usage: recipe_cost TEXT [WINDOWS] [MODES] [MODEL] [CODEC ...]";
    let text = args.next().ok_or(usage)?;
    let windows: usize = args.next().map_or(Ok(16), |count| count.parse())?;
    let modes = args.next().unwrap_or_else(|| "auto".into());
    let modes = modes.split(',').map(Mode::parse).collect::<Result<Vec<_>, _>>()?;
    let checkpoint = match args.next().filter(|model| model != "-") {
        None => keeve::demo_model()?,
        Some(path) => Checkpoint::open(Path::new(&path))?,
    };
    let graph = Arc::new(keeve::models::build(checkpoint.config())?.graph);
    let narrowest = graph.weights().iter().filter(|weight| weight.rows > 1);
    let narrowest = narrowest.map(|weight| weight.cols).min().unwrap_or_default();
    let mut codecs = vec![];
    for name in args {
        match &*name {
            "all" => codecs.extend(every_codec(narrowest).into_iter().map(Some)),
            name => codecs.push(Some(name.parse()?)),
        }
    }
    if codecs.is_empty() {
        codecs.push(None);
    }
    let engine = Engine::load(&checkpoint, &EngineOptions::default(), &|_| true)?;
    let ids = engine.tokenizer()?.encode(&std::fs::read_to_string(text)?, false, false)?;
    drop(engine);
    let windows: Vec<_> = ids.chunks_exact(WINDOW).take(windows).collect();
    let threads = std::thread::available_parallelism()?.get();
    let cpu = Cpu::new(CpuOptions { threads, isa: Isa::choose()? })?;
    println!("{} tokens, {}\n", windows.len() * WINDOW, cpu.isa());
    println!(
        "| codec | mode | generated: mean | 99 % | same best | prompt: mean | 99 % | same best |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for codec in codecs {
        let weights = Encoded { checkpoint: &checkpoint, codec, made: Mutex::default() };
        let load = |activations, kv_codec| {
            let options = LoadOptions { activations, kv_codec, ..Default::default() };
            cpu.load(graph.clone(), &weights, &options)
        };
        let float = load(Activations::Float, None)?;
        let mut plan = float.compile(&Default::default())?;
        let expected = windows.iter().map(|ids| logits(&*float, &mut *plan, ids, Phase::Prompt));
        let expected = expected.collect::<Result<Vec<_>, _>>()?;
        for (index, mode) in modes.iter().enumerate() {
            // A codec may have nothing of its own in a mode.
            let made = |mode: &Mode<'_>| {
                codec.map(|codec| recipe_names(codec, mode.activations, cpu.isa()))
            };
            let alike =
                |other: &Mode<'_>| other.kv_codec == mode.kv_codec && made(other) == made(mode);
            if codec.is_some() && modes[..index].iter().any(alike) {
                continue;
            }
            let program = load(mode.activations, mode.kv_codec)?;
            let mut plan = program.compile(&Default::default())?;
            let mut found = Found::default();
            for (window, (width, expected)) in windows.iter().zip(&expected) {
                let phases = [Phase::Prompt, Phase::Generated].into_iter();
                for (phase, (all, same)) in phases.zip(&mut found.0) {
                    let (_, logits) = logits(&*program, &mut *plan, window, phase)?;
                    compare(expected, &logits, *width, all, same);
                }
            }
            let name = codec.map_or_else(|| "as stored".into(), Codec::name);
            let (prompt, generated) = (found.summary(0), found.summary(1));
            println!("| {name} | {} | {generated} | {prompt} |", mode.name);
        }
    }
    Ok(())
}
