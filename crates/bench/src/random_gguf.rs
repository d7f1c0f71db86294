//! Random models as GGUF files.

use std::error::Error;
use std::path::Path;

use keeve_checkpoint::gguf::{self, Announced, Value};
use keeve_graph::{Graph, Weights};

use crate::random::RandomWeights;
use crate::vocabulary;

/// Writes the model `name` with this config, graph and weights to `file`, without a tokenizer or with one of
/// made-up words, as large as the config has it.
///
/// # Errors
/// If the config lacks something that GGUF has to say, ggml has no name for a weight, or the file cannot be
/// written.
pub fn write(
    name: &str,
    config: &serde_json::Value,
    graph: &Graph,
    weights: &RandomWeights,
    with_words: bool,
    file: &Path,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let architecture = config["model_type"].as_str().ok_or("no model_type")?;
    let mut metadata = vec![
        ("general.architecture".to_owned(), Value::string(architecture)),
        ("general.name".to_owned(), Value::string(name)),
    ];
    if with_words {
        let size = config["vocab_size"].as_u64().and_then(|size| usize::try_from(size).ok());
        let words = size.and_then(vocabulary::metadata);
        metadata.extend(words.ok_or("a vocabulary that is too small for words")?);
    } else {
        metadata.push(("tokenizer.ggml.model".to_owned(), Value::string("none")));
    }
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
    for weight in graph.weights() {
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
    let mut writer = gguf::Writer::create(file, &metadata, &announced)?;
    for (ggml, name) in &names {
        let tensor = weights.weight(name)?;
        writer.tensor(ggml, &tensor.parts().data)?;
    }
    writer.finish()?;
    Ok(())
}
