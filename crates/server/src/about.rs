//! What a model's files say about it, for people and programs that choose among models.

use std::collections::BTreeMap;
use std::fmt::Write;

use keeve_checkpoint::Checkpoint;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// What a model's files say about it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct About {
    /// The architecture's name.
    pub architecture: String,
    /// `gguf` or `safetensors`.
    pub format: &'static str,
    pub parameters: u64,
    /// Of all files.
    pub bytes: u64,
    /// The codec that most weights have.
    pub codec: String,
    /// The most tokens of prompt and answer that the model was made for.
    pub context: Option<u64>,
    /// The width of its hidden states.
    pub width: Option<u64>,
    pub layers: Option<u64>,
    pub template: Option<String>,
    pub license: Option<String>,
    /// What the files recommend for choosing tokens.
    pub sampling: Map<String, Value>,
    /// Tells these files from others: a hash of their names, sizes and settings. Hashing all weights would take as
    /// long as reading them.
    pub digest: String,
    /// Whether it sees images.
    pub sees: bool,
}

impl About {
    /// What the files of a checkpoint say.
    pub fn of(checkpoint: &Checkpoint) -> Self {
        let config = checkpoint.config();
        let text = config.get("text_config").unwrap_or(config);
        let number = |name: &str| text.get(name).or_else(|| config.get(name))?.as_u64();
        let mut codecs: BTreeMap<&str, u64> = BTreeMap::new();
        let mut parameters = 0u64;
        for tensor in checkpoint.tensors() {
            let weights = tensor
                .shape
                .iter()
                .fold(1u64, |product, &length| product.saturating_mul(length as u64));
            parameters = parameters.saturating_add(weights);
            let sum = codecs.entry(&tensor.format).or_default();
            *sum = sum.saturating_add(weights);
        }
        let codec = codecs.iter().max_by_key(|(_, weights)| **weights).map(|(codec, _)| *codec);
        let mut hash = Sha256::new();
        for file in checkpoint.files() {
            hash.update(file.name.as_bytes());
            hash.update(file.bytes.to_le_bytes());
        }
        hash.update(config.to_string());
        let mut digest = String::new();
        for byte in hash.finalize() {
            // Writing to a String cannot fail.
            let _ = write!(digest, "{byte:02x}");
        }
        let metadata = checkpoint.gguf_metadata();
        // A field of another type is as none.
        let license = metadata.and_then(|metadata| metadata.string("general.license").ok()?);
        let architecture = config.get("model_type").and_then(Value::as_str).unwrap_or("unknown");
        let sampling = checkpoint.generation_config().and_then(Value::as_object);
        Self {
            architecture: architecture.to_owned(),
            format: if metadata.is_some() { "gguf" } else { "safetensors" },
            parameters,
            bytes: checkpoint.files().iter().map(|file| file.bytes).sum(),
            codec: codec.unwrap_or("unknown").to_owned(),
            context: number("max_position_embeddings"),
            width: number("hidden_size"),
            layers: number("num_hidden_layers"),
            template: checkpoint.chat_template().map(str::to_owned),
            license: license.map(str::to_owned),
            sampling: sampling.cloned().unwrap_or_default(),
            digest,
            sees: checkpoint.image_settings().is_some(),
        }
    }

    /// The number of weights for a person: `1.2B`.
    pub fn size(&self) -> String {
        let count = self.parameters as f64;
        match count {
            _ if count >= 1e9 => format!("{:.1}B", count / 1e9),
            _ if count >= 1e6 => format!("{:.2}M", count / 1e6),
            _ => format!("{:.0}K", count / 1e3),
        }
    }
}
