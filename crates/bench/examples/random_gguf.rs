//! Writes a model of random weights as a GGUF file, to be measured by other programs too. What a model sees with
//! becomes a file beside it.
//!
//! `cargo run --release -p keeve-bench --example random_gguf -- SHAPE CODEC FILE.gguf [words|MODEL]`
//!
//! The weights are those of `keeve bench --config SHAPE --codec CODEC`. The file has no tokenizer, one of
//! made-up words of the shape's size, or that of MODEL.

#![allow(clippy::print_stdout, reason = "a program")]

use std::error::Error;
use std::path::Path;

use keeve_bench::random::RandomWeights;
use keeve_bench::random_gguf::{RandomModel, Tokenizer};
use keeve_bench::shape;
use keeve_checkpoint::Checkpoint;
use keeve_models::Vision;
use keeve_quantize::{Dimensions, Scheme};

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (shape, codec, file, tokenizer) = match args.as_slice() {
        [shape, codec, file] => (shape, codec, file, None),
        [shape, codec, file, model] => (shape, codec, file, Some(model)),
        _ => return Err("expected: SHAPE CODEC FILE.gguf [words|MODEL]".into()),
    };
    let of = tokenizer.filter(|name| name.as_str() != "words");
    let of = of.map(|path| Checkpoint::open(Path::new(path))).transpose()?;
    let tokenizer = match (&of, tokenizer) {
        (Some(of), _) => Tokenizer::Of(of),
        (None, Some(_)) => Tokenizer::Words,
        (None, None) => Tokenizer::None,
    };
    let (name, config) = shape::named(shape)?;
    let model = keeve_models::build(&config)?;
    let scheme: Scheme = codec.parse()?;
    let threads = std::thread::available_parallelism()?.get();
    let dimensions = Dimensions::of(&config);
    let weights = RandomWeights::new(&model.graph, &scheme, &dimensions, model.tied_head, threads);
    let weights = weights.with(model.vision.iter().flat_map(Vision::weights));
    let random = RandomModel { name, config: &config, model: &model, weights: &weights, tokenizer };
    let mmproj = random.write(Path::new(file))?;
    let mmproj = mmproj.map_or(String::new(), |path| format!(" and {}", path.display()));
    println!("{file}{mmproj}: {} bytes", weights.total_bytes()?);
    Ok(())
}
