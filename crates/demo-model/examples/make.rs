//! Makes the files under `model/` from the float original:
//! `cargo run --release -p keeve-demo-model --example make -- SOURCE_FOLDER crates/demo-model/model`.
//!
//! The mix is llama.cpp's Q4_K_M: Q4_K, but Q6_K for the embedding table and, in half of the
//! layers, for the value and down projections. Vectors stay floats. Not run again when encoders
//! improve, so that the repository does not grow.

use std::error::Error;
use std::path::Path;

use keeve_checkpoint::{Checkpoint, mlx};
use keeve_codec::{Codec, EncodeOptions, decode, encode};
use serde_json::Value;

const COPIED: [&str; 5] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "MODEL_CARD.md",
];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [source, out] = &arguments[..] else {
        return Err("usage: make SOURCE_FOLDER OUT_FOLDER".into());
    };
    let (source, out) = (Path::new(source), Path::new(out));
    let checkpoint = Checkpoint::open(source)?;
    let layers = checkpoint.config()["num_hidden_layers"].as_u64().ok_or("no num_hidden_layers")?;
    let mut tensors = vec![];
    for info in checkpoint.tensors() {
        let tensor = checkpoint.tensor(&info.name)?;
        let packed = match codec(&info.name, layers) {
            Some(codec) if tensor.rows() > 1 => {
                encode(
                    codec,
                    tensor.rows(),
                    tensor.cols(),
                    &decode(&tensor),
                    EncodeOptions::default(),
                )?
                .tensor
            }
            _ => tensor,
        };
        tensors.push((info.name.clone(), info.shape.clone(), packed));
    }
    let quantization =
        mlx::write(&out.join("model.safetensors"), &tensors)?.ok_or("nothing was packed")?;
    let mut config: Value = serde_json::from_slice(&std::fs::read(source.join("config.json"))?)?;
    config["quantization"] = quantization.clone();
    config["quantization_config"] = quantization;
    std::fs::write(out.join("config.json"), serde_json::to_string_pretty(&config)? + "\n")?;
    for name in COPIED {
        std::fs::copy(source.join(name), out.join(name))?;
    }
    Ok(())
}

/// The codec of a matrix; `None` for what is in no layer and is not the embedding table.
fn codec(name: &str, layers: u64) -> Option<Codec> {
    if name == "model.embed_tokens.weight" {
        return Some(Codec::Q6K);
    }
    let layer: u64 = name.strip_prefix("model.layers.")?.split('.').next()?.parse().ok()?;
    let eighth = layers / 8;
    let more = layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2;
    let sensitive = name.contains(".v_proj.") || name.contains(".down_proj.");
    Some(if more && sensitive { Codec::Q6K } else { Codec::Q4K })
}
