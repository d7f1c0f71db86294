//! Writes a model of random weights as a GGUF file, to be measured by other programs too.
//!
//! `cargo run --release -p keeve-bench --example random_gguf -- SHAPE CODEC FILE.gguf [words]`
//!
//! The weights are those of `keeve bench --config SHAPE --codec CODEC`. The file has no tokenizer, or, with
//! `words`, one of made-up words of the shape's size.

#![allow(clippy::print_stdout, reason = "a program")]

use std::error::Error;
use std::path::Path;

use keeve_bench::random::RandomWeights;
use keeve_bench::{random_gguf, shape};
use keeve_quantize::{Dimensions, Scheme};

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (shape, codec, file, with_words) = match args.as_slice() {
        [shape, codec, file] => (shape, codec, file, false),
        [shape, codec, file, words] if words == "words" => (shape, codec, file, true),
        _ => return Err("expected: SHAPE CODEC FILE.gguf [words]".into()),
    };
    let (name, config) = shape::named(shape)?;
    let model = keeve_models::build(&config)?;
    let scheme: Scheme = codec.parse()?;
    let threads = std::thread::available_parallelism()?.get();
    let dimensions = Dimensions::of(&config);
    let weights = RandomWeights::new(&model.graph, &scheme, &dimensions, model.tied_head, threads);

    random_gguf::write(name, &config, &model.graph, &weights, with_words, Path::new(file))?;
    println!("{file}: {} tensors, {} bytes", model.graph.weights().len(), weights.total_bytes()?);
    Ok(())
}
