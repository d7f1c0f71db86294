//! Writes a model of random weights as a GGUF file, to be measured by other programs too.
//!
//! `cargo run --release -p keeve-bench --example random_gguf -- SHAPE CODEC FILE.gguf`
//!
//! The weights are those of `keeve bench --config SHAPE --codec CODEC`. The file has no tokenizer.

#![allow(clippy::print_stdout, reason = "a program")]

use std::error::Error;
use std::path::Path;

use keeve_bench::random::RandomWeights;
use keeve_bench::shape;
use keeve_checkpoint::gguf::{self, Announced, Value};
use keeve_graph::Weights;
use keeve_quantize::{Dimensions, Scheme};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [shape, codec, file] = args.as_slice() else {
        return Err("expected: SHAPE CODEC FILE.gguf".into());
    };
    let (name, config) = shape::named(shape)?;
    let model = keeve_models::build(&config)?;
    let scheme: Scheme = codec.parse()?;
    let threads = std::thread::available_parallelism()?.get();
    let dimensions = Dimensions::of(&config);
    let weights = RandomWeights::new(&model.graph, &scheme, &dimensions, model.tied_head, threads);

    let architecture = config["model_type"].as_str().ok_or("no model_type")?;
    let mut metadata = vec![
        ("general.architecture".to_owned(), Value::string(architecture)),
        ("general.name".to_owned(), Value::string(name)),
        ("tokenizer.ggml.model".to_owned(), Value::string("none")),
    ];
    for (key, field) in [
        ("block_count", "num_hidden_layers"),
        ("context_length", "max_position_embeddings"),
        ("embedding_length", "hidden_size"),
        ("feed_forward_length", "intermediate_size"),
        ("attention.head_count", "num_attention_heads"),
        ("attention.head_count_kv", "num_key_value_heads"),
        ("attention.key_length", "head_dim"),
        ("attention.value_length", "head_dim"),
        ("vocab_size", "vocab_size"),
    ] {
        let count = config[field].as_u64().ok_or_else(|| format!("no {field}"))?;
        metadata.push((format!("{architecture}.{key}"), Value::u32(u32::try_from(count)?)));
    }
    for (key, field) in
        [("rope.freq_base", "rope_theta"), ("attention.layer_norm_rms_epsilon", "rms_norm_eps")]
    {
        let number = config[field].as_f64().ok_or_else(|| format!("no {field}"))?;
        metadata.push((format!("{architecture}.{key}"), Value::F32(number as f32)));
    }

    let mut names = Vec::new();
    let mut announced = Vec::new();
    for weight in model.graph.weights() {
        let name = gguf::tensor_name(&weight.name, architecture)
            .ok_or_else(|| format!("ggml has no name for {}", weight.name))?;
        let shape = match weight.rows {
            1 => vec![weight.cols],
            rows => vec![rows, weight.cols],
        };
        let codec = weights.codec(&weight.name)?;
        announced.push(Announced { name: name.clone(), codec, shape });
        names.push((name, weight.name.clone()));
    }
    let metadata: Vec<_> =
        metadata.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
    let mut writer = gguf::Writer::create(Path::new(file), &metadata, &announced)?;
    for (ggml, name) in &names {
        let tensor = weights.weight(name).map_err(|error| error.to_string())?;
        writer.tensor(ggml, &tensor.parts().data)?;
    }
    writer.finish()?;
    println!("{file}: {} tensors, {} bytes", names.len(), weights.total_bytes()?);
    Ok(())
}
