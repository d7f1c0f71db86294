//! What each codec costs: encodes the matrices of a float model into every codec that can be made, in
//! memory, without calibration, and sets each result beside the original.
//!
//! ```sh
//! cargo run --release -p keeve-eval --example codec_table -- MODEL TEXT.txt [WINDOW] [WINDOWS]
//! ```
//!
//! A row is printed as soon as it is known. Matrices whose rows a codec's blocks do not divide, and
//! vectors, stay as they are.

use std::error::Error;
use std::path::Path;

use keeve_checkpoint::Checkpoint;
use keeve_codec::{Codec, EncodeOptions, Float, Group, PackedTensor, decode, encode};
use keeve_engine::{Canceller, Engine, EngineOptions};
use keeve_eval::{Estimate, Observer, Text, evaluate, windows};
use keeve_graph::Weights;

/// The weights of a checkpoint in another codec.
struct Encoded<'a>(&'a Checkpoint, Codec);

impl Weights for Encoded<'_> {
    fn weight(&self, name: &str) -> Result<PackedTensor, Box<dyn Error + Send + Sync>> {
        let tensor = self.0.tensor(name)?;
        let (rows, cols) = (tensor.rows(), tensor.cols());
        if rows == 1 || self.1.row_parts(cols).is_err() {
            return Ok(tensor);
        }
        let values = decode(&tensor);
        Ok(encode(self.1, rows, cols, &values, EncodeOptions::default())?.tensor)
    }
}

struct Patience;

impl Observer for Patience {
    fn running(&mut self, _: Canceller) {}

    fn judged(&mut self, _: usize) -> bool {
        true
    }
}

fn codecs() -> impl Iterator<Item = Codec> {
    let plain = Codec::PLAIN.into_iter().filter(|codec| codec.has_encoder());
    let affine =
        Codec::AFFINE_BITS.map(|bits| Codec::Affine { bits, group: 64, scale: Float::Bf16 });
    let groups = [Group::Row, Group::Of(64)];
    let int8 = groups.map(|group| Codec::Int8 { group, scale: Float::F32 });
    let int4 = groups.map(|group| Codec::Int4 { group, scale: Float::F32 });
    plain.chain(affine).chain(int8).chain(int4)
}

fn bounds(estimate: Estimate, digits: usize) -> String {
    let reach = estimate.interval.map_or(0.0, |(low, high)| (high - low) / 2.0);
    format!("{:.digits$} ± {reach:.digits$}", estimate.value)
}

#[allow(clippy::print_stdout, reason = "it is a program, not a library")]
fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let [model, text, rest @ ..] = &args[..] else { return Err("needs MODEL and TEXT".into()) };
    let number = |index: usize, default: usize| rest.get(index).map_or(Ok(default), |n| n.parse());
    let (window, count) = (number(0, 2048)?, number(1, 16)?);
    let checkpoint = Checkpoint::open(Path::new(model))?;
    let options =
        EngineOptions { max_context: Some(window), max_sequences: 1, ..EngineOptions::default() };
    let reference = Engine::load(&checkpoint, &options, &|_| true)?;
    let text = Text::new(&std::fs::read_to_string(text)?, reference.tokenizer()?)?;
    let mut cut = windows::plain(text.ids().len(), window, window)?;
    cut.truncate(count);
    println!("{} windows of {window} tokens; ± is half a 95 % interval\n", cut.len());
    println!("| codec | bits | bytes | PPL | PPL / original | KL, nats | KL p99 | same top-1 |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    for codec in codecs() {
        let (mut bytes, mut weights) = (0, 0);
        for info in checkpoint.tensors() {
            let tensor =
                Encoded(&checkpoint, codec).weight(&info.name).map_err(|e| e.to_string())?;
            bytes += tensor.bytes();
            weights += tensor.rows() * tensor.cols();
        }
        let bits = bytes as f64 * 8.0 / weights as f64;
        let built = keeve_models::build(checkpoint.config())?;
        let engine =
            Engine::from_weights(built, &Encoded(&checkpoint, codec), &options, &|_| true)?;
        let scores = evaluate(&text, &cut, &engine, Some(&reference), &mut Patience)?;
        let Some(beside) = scores.comparison else { continue };
        println!(
            "| {codec} | {bits:.2} | {bytes} | {:.4} | {} | {} | {:.4} | {} % |",
            scores.perplexity.value,
            bounds(beside.ratio, 4),
            bounds(beside.divergence, 5),
            beside.divergence_p99.map_or(0.0, |p99| p99.value),
            bounds(beside.agreement.map(|share| 100.0 * share), 2),
        );
    }
    Ok(())
}
