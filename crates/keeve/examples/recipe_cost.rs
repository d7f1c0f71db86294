//! What rounding activations costs with weights in any codec: the mean Kullback-Leibler divergence, per token, of the
//! next token's distribution from that of the same weights with float activations, for prompts and generated tokens.
//! `keeve eval --rounding` tells it of a model as it is, this makes a table by codec:
//! `cargo run --release -p keeve --example recipe_cost -- TEXT [WINDOWS] [MODES] [MODEL] [CODEC ...]`.
//!
//! The text is cut into windows of 256 tokens, of which the first WINDOWS (16) are read. MODES are those of
//! `--activations`, with commas between them, each of which may name how keys and values are kept: `float/q8_0`. MODEL
//! is a folder or file; without one (or `-`) it is the demo model. With codecs, its matrices are encoded anew in each;
//! `all` stands for every codec that has an encoder, with the usual groups. Modes that make a codec's products like one
//! before them are left out.

#![allow(clippy::print_stdout, reason = "an example prints")]

use std::collections::HashMap;
use std::error::Error;
use std::path::Path;
use std::sync::{Arc, Mutex};

use keeve::codec::{EncodeOptions, Float, Group, decode, encode};
use keeve::cpu::{Cpu, CpuOptions, recipe_names};
use keeve::engine::tokenizer_of;
use keeve::eval::rounding::{Case, Model};
use keeve::eval::{Comparison, Text, Window};
use keeve::graph::{ProductRule, RowRounding, Weights};
use keeve::{Activations, Checkpoint, Codec, Isa, KvCodec, PackedTensor};

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
        let activations = mode.parse()?;
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

/// Mean and 99th of a hundred divergences, and the share of best tokens that are the same.
fn summary(found: Option<&Comparison>) -> String {
    let Some(found) = found else { return "- | - | -".into() };
    let (mean, same) = (found.divergence.value, found.agreement.value * 100.0);
    let high = found.divergence_p99.map_or(f64::NAN, |high| high.value);
    format!("{mean:.2e} | {high:.1e} | {same:.1} %")
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
    let built = keeve::models::build(checkpoint.config())?;
    let graph = Arc::new(built.graph);
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
    let tokenizer = tokenizer_of(&checkpoint)?.ok_or("the model has no tokenizer")?;
    let ids = tokenizer.encode(&std::fs::read_to_string(text)?, false, false)?;
    // The last token of a window is judged too, by what comes after it in the text.
    let count = windows.min(ids.len().saturating_sub(1) / WINDOW);
    let text = Text::from_ids(ids, None);
    let window = |index: usize| Window {
        inputs: index * WINDOW..(index + 1) * WINDOW,
        begins_with_bos: false,
        scored: 0..WINDOW,
    };
    let windows: Vec<_> = (0..count).map(window).collect();
    let threads = std::thread::available_parallelism()?.get();
    let cpu = Cpu::new(CpuOptions { threads, isa: Isa::choose()? })?;
    println!("{} tokens, {}\n", count * WINDOW, cpu.isa());
    println!(
        "| codec | mode | generated: mean | 99 % | same best | prompt: mean | 99 % | same best |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for codec in codecs {
        let weights = Encoded { checkpoint: &checkpoint, codec, made: Mutex::default() };
        // A codec may have nothing of its own in a mode.
        let made =
            |mode: &Mode<'_>| codec.map(|codec| recipe_names(codec, mode.activations, cpu.isa()));
        let alike = |mode: &Mode<'_>, other: &Mode<'_>| {
            codec.is_some() && other.kv_codec == mode.kv_codec && made(other) == made(mode)
        };
        let own = modes.iter().enumerate();
        let own = own.filter(|(at, mode)| !modes[..*at].iter().any(|other| alike(mode, other)));
        let own: Vec<_> = own.map(|(_, mode)| mode).collect();
        let model = Model {
            cpu: &cpu,
            graph: graph.clone(),
            vocabulary: built.vocabulary,
            weights: &weights,
            made_of: None,
            row_rounding: RowRounding::default(),
        };
        let case = |mode: &&Mode<'_>| Case {
            rule: ProductRule::Mode(mode.activations),
            kind: None,
            kv_codec: mode.kv_codec,
        };
        let cases: Vec<_> = own.iter().map(case).collect();
        let costs = model.costs(&text, &windows, &cases, &mut |_| true)?;
        let name = codec.map_or_else(|| "as stored".into(), Codec::name);
        for (mode, cost) in own.iter().zip(&costs) {
            let [generated, prompt] =
                [&cost.decode, &cost.prefill].map(|found| summary(found.as_ref()));
            println!("| {name} | {} | {generated} | {prompt} |", mode.name);
        }
    }
    Ok(())
}
