//! What quantized activations cost: the mean Kullback-Leibler divergence, per token, of the next token's
//! distribution from that of the same weights with float activations, for prompts and generated tokens:
//! `cargo run --release -p keeve --example recipe_cost -- TEXT [WINDOWS] [MODE] [MODEL] [CODEC ...]`.
//!
//! The text is cut into windows of 256 tokens, of which the first WINDOWS (16) are read. MODE is `auto`,
//! `int8` or `float`, and may name how keys and values are kept: `float/q8_0`. MODEL is a folder or file; without one (or `-`) it is the demo model. With codecs, its matrices are encoded anew in each,
//! which should be done to a model of floats.

#![allow(clippy::print_stdout, reason = "an example prints")]

use std::collections::HashMap;
use std::error::Error;
use std::path::Path;
use std::sync::{Arc, Mutex};

use keeve::codec::{EncodeOptions, decode, encode};
use keeve::cpu::{Cpu, CpuOptions};
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

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let text = args.next().ok_or("usage: recipe_cost TEXT [WINDOWS] [MODE] [MODEL] [CODEC ...]")?;
    let windows: usize = args.next().map_or(Ok(16), |count| count.parse())?;
    let mode = args.next().unwrap_or_else(|| "auto".into());
    let (mode, kv_codec) = match mode.split_once('/') {
        Some((mode, codec)) => (mode, Some(codec.parse::<KvCodec>()?)),
        None => (&*mode, None),
    };
    let mode = match mode {
        "auto" => Activations::Auto,
        "int8" => Activations::Int8,
        "float" => Activations::Float,
        other => return Err(format!("{other}: expected 'auto', 'int8' or 'float'").into()),
    };
    let checkpoint = match args.next().filter(|model| model != "-") {
        None => keeve::demo_model()?,
        Some(path) => Checkpoint::open(Path::new(&path))?,
    };
    let mut codecs = args.map(|name| name.parse().map(Some)).collect::<Result<Vec<_>, _>>()?;
    if codecs.is_empty() {
        codecs.push(None);
    }
    let engine = Engine::load(&checkpoint, &EngineOptions::default(), &|_| true)?;
    let ids = engine.tokenizer()?.encode(&std::fs::read_to_string(text)?, false, false)?;
    drop(engine);
    let windows: Vec<_> = ids.chunks_exact(WINDOW).take(windows).collect();
    let graph = Arc::new(keeve::models::build(checkpoint.config())?.graph);
    let threads = std::thread::available_parallelism()?.get();
    let cpu = Cpu::new(CpuOptions { threads, isa: Isa::choose()? })?;
    println!(
        "{} tokens, {}; mean, 99 %, greatest KL; same best token",
        windows.len() * WINDOW,
        cpu.isa()
    );
    for codec in codecs {
        let weights = Encoded { checkpoint: &checkpoint, codec, made: Mutex::default() };
        let load = |activations, kv_codec| {
            let options = LoadOptions { activations, kv_codec, ..Default::default() };
            cpu.load(graph.clone(), &weights, &options)
        };
        let float = load(Activations::Float, None)?;
        let mut float_plan = float.compile(&Default::default())?;
        let quantized = load(mode, kv_codec)?;
        let mut plan = quantized.compile(&Default::default())?;
        let name = codec.map_or_else(|| "as stored".into(), Codec::name);
        let mut found = [(vec![], 0), (vec![], 0)];
        for window in &windows {
            let (width, expected) = logits(&*float, &mut *float_plan, window, Phase::Prompt)?;
            for (phase, (all, same)) in
                [Phase::Prompt, Phase::Generated].into_iter().zip(&mut found)
            {
                let (_, logits) = logits(&*quantized, &mut *plan, window, phase)?;
                compare(&expected, &logits, width, all, same);
            }
        }
        for (phase, (mut all, same)) in ["prompt", "generated"].into_iter().zip(found) {
            all.sort_by(f64::total_cmp);
            let mean = all.iter().sum::<f64>() / all.len() as f64;
            let (high, most) = (all[all.len() * 99 / 100], all[all.len() - 1]);
            let same = same as f64 / all.len() as f64 * 100.0;
            println!("{name:12} {phase:10} {mean:.2e} {high:.2e} {most:.2e}  {same:.2} %");
        }
    }
    Ok(())
}
