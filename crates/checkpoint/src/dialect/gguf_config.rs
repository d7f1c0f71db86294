//! The config that a GGUF model's metadata amount to, in the terms of a Hugging Face `config.json`.
//!
//! Keys and defaults: ggml-org/llama.cpp `gguf-py/gguf/constants.py` and `src/llama-model.cpp`.

use serde_json::{Map, Value, json};

use super::gguf_architectures::known;
use super::gguf_names::ROPE_FREQS;
use crate::gguf::{Gguf, Metadata, Value as Stored};
use crate::{Error, StoredTensor};

/// The values of `general.type` that are no models (`gguf-py/gguf/constants.py`, class `GGUFType`).
const OTHERS: [(&str, &str); 3] = [
    (
        "adapter",
        "is an adapter (LoRA), not a model; merge it into the model that it was trained for",
    ),
    ("imatrix", "is an importance matrix, not a model; `keeve quantize --imatrix` takes it"),
    ("mmproj", "is what a model sees with; give the model, and this file as --mmproj"),
];

/// Fields of a config, and the keys that they come from, behind the architecture's name.
const KEYS: [(&str, &str); 14] = [
    ("hidden_size", "embedding_length"),
    ("num_hidden_layers", "block_count"),
    ("intermediate_size", "feed_forward_length"),
    ("num_attention_heads", "attention.head_count"),
    ("max_position_embeddings", "context_length"),
    ("num_key_value_heads", "attention.head_count_kv"),
    ("head_dim", "attention.key_length"),
    ("rms_norm_eps", "attention.layer_norm_rms_epsilon"),
    ("rope_theta", "rope.freq_base"),
    ("vocab_size", "vocab_size"),
    ("sliding_window", "attention.sliding_window"),
    ("num_experts", "expert_count"),
    ("num_experts_per_tok", "expert_used_count"),
    ("moe_intermediate_size", "expert_feed_forward_length"),
];

/// How many of them are taken as they are.
const PLAIN: usize = 5;

/// The key that a field of the config comes from, for errors about it.
pub(crate) fn key_of(metadata: &Metadata, field: &str) -> Option<String> {
    const ARCHITECTURE: &str = "general.architecture";
    if field == "model_type" {
        return Some(ARCHITECTURE.into());
    }
    let (_, key) = KEYS.iter().find(|(name, _)| *name == field)?;
    let architecture = metadata.string(ARCHITECTURE).ok().flatten()?;
    Some(format!("{architecture}.{key}"))
}

/// The name of the architecture.
///
/// # Errors
/// If it is missing.
pub(crate) fn architecture(gguf: &Gguf) -> Result<&str, Error> {
    let (key, path) = ("general.architecture", gguf.metadata.path());
    let name = gguf.metadata.string(key)?;
    name.ok_or_else(|| Error::field(path, key, "is missing"))
}

/// Refuses files that say they are no model.
///
/// # Errors
/// If it is one.
pub(crate) fn check_model(gguf: &Gguf) -> Result<(), Error> {
    let text = |key: &str| gguf.metadata.string(key).unwrap_or_default();
    let kind = match text("general.architecture") {
        // Files that models see with had this before they had a type.
        Some("clip") => Some("mmproj"),
        _ => text("general.type"),
    };
    match OTHERS.iter().find(|(other, _)| kind == Some(other)) {
        Some((_, problem)) => Err(Error::file(gguf.metadata.path(), problem)),
        None => Ok(()),
    }
}

/// The config. Fields that the file does not give are left out; numbers are not judged here.
///
/// # Errors
/// If a value has the wrong type, or describes a rope scaling or head layout that keeve does not
/// know.
pub(crate) fn config(gguf: &Gguf, architecture: &str) -> Result<Value, Error> {
    let reader = Reader { metadata: &gguf.metadata, architecture };
    let tensor = |name: &str| gguf.tensors.iter().find(|tensor| tensor.name == name);
    let known = known(architecture);
    let mut config = Map::new();
    let model_type = known.map_or(architecture, |known| known.model_type);
    config.insert("model_type".into(), model_type.into());
    for (field, key) in KEYS.into_iter().take(PLAIN) {
        if let Some(count) = reader.counts(key)? {
            config.insert(field.into(), count);
        }
    }
    let kv_heads = reader.counts("attention.head_count_kv")?;
    if let Some(heads) = kv_heads.or_else(|| config.get("num_attention_heads").cloned()) {
        config.insert("num_key_value_heads".into(), heads);
    }
    if let Some(head_dim) = reader.head_dim()? {
        config.insert("head_dim".into(), head_dim.into());
    }
    if let Some(epsilon) = reader.real("attention.layer_norm_rms_epsilon")? {
        config.insert("rms_norm_eps".into(), epsilon.into());
    }
    config.insert("rope_theta".into(), reader.real("rope.freq_base")?.unwrap_or(10_000.0).into());
    config.insert("rope_scaling".into(), reader.rope_scaling(tensor(ROPE_FREQS))?);
    let embedding_rows = tensor("token_embd.weight").and_then(|tensor| tensor.shape.first());
    let vocabulary = match embedding_rows {
        Some(rows) => Some(*rows as u64),
        None => reader.count("vocab_size")?,
    };
    if let Some(vocabulary) = vocabulary {
        config.insert("vocab_size".into(), vocabulary.into());
    }
    config.insert("tie_word_embeddings".into(), tensor("output.weight").is_none().into());
    config.insert("attention_bias".into(), tensor("blk.0.attn_q.bias").is_some().into());
    if let Some(known) = known {
        config.insert("mlp_bias".into(), tensor("blk.0.ffn_up.bias").is_some().into());
        config.insert("hidden_act".into(), known.activation.into());
        reader.own(known, &tensor, &mut config)?;
    }
    for name in ["bos_token_id", "eos_token_id"] {
        let key = format!("tokenizer.ggml.{name}");
        // An id below zero or past the vocabulary says that there is none.
        let id = match gguf.metadata.get(&key) {
            Some(Stored::Signed(_, id)) if *id < 0 => None,
            _ => gguf.metadata.count(&key)?,
        };
        if let Some(id) = id.filter(|id| vocabulary.is_none_or(|size| *id < size)) {
            config.insert(name.into(), id.into());
        }
    }
    Ok(config.into())
}

/// Reads keys that begin with the architecture's name.
pub(super) struct Reader<'a> {
    pub(super) metadata: &'a Metadata,
    pub(super) architecture: &'a str,
}

impl Reader<'_> {
    pub(super) fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    pub(super) fn wrong(&self, key: &str, problem: impl std::fmt::Display) -> Error {
        Error::field(self.metadata.path(), &self.key(key), problem)
    }

    pub(super) fn count(&self, key: &str) -> Result<Option<u64>, Error> {
        self.metadata.count(&self.key(key))
    }

    pub(super) fn real(&self, key: &str) -> Result<Option<f64>, Error> {
        self.metadata.real(&self.key(key))
    }

    /// A count or, in models whose layers differ, a list of them.
    fn counts(&self, key: &str) -> Result<Option<Value>, Error> {
        match self.metadata.get(&self.key(key)) {
            Some(Stored::Array(array)) => {
                let counts = array.integers();
                let counts = counts.ok_or_else(|| self.wrong(key, "does not hold counts"))?;
                Ok(Some(counts.into()))
            }
            _ => Ok(self.count(key)?.map(Value::from)),
        }
    }

    /// Width of a head: stored, or hidden width over heads as ggml has it.
    pub(super) fn head_dim(&self) -> Result<Option<u64>, Error> {
        let stored = self.count("attention.key_length")?;
        let value = self.count("attention.value_length")?;
        let rotated = self.count("rope.dimension_count")?;
        if known(self.architecture).is_none() {
            return Ok(stored);
        }
        let computed = || {
            let heads = self.count("attention.head_count")?.filter(|heads| *heads > 0);
            let hidden = self.count("embedding_length")?;
            Ok(hidden.zip(heads).map(|(hidden, heads)| hidden / heads))
        };
        let head_dim = match stored {
            Some(head_dim) => Some(head_dim),
            None => computed()?,
        };
        // The heads of phi3 may turn in part.
        let rotated = rotated.filter(|_| self.architecture != "phi3");
        for (key, other) in [("attention.value_length", value), ("rope.dimension_count", rotated)] {
            if let (Some(other), Some(head_dim)) = (other, head_dim)
                && other != head_dim
            {
                let problem =
                    format!("is {other}, but heads are {head_dim} wide; keeve asks for the same");
                return Err(self.wrong(key, problem));
            }
        }
        Ok(head_dim)
    }

    /// `rope_scaling` in Hugging Face's terms. Scaling as in Llama 3 has no metadata but a tensor
    /// of divisors, which becomes `{"rope_type": "factors", "factors": [...]}`.
    fn rope_scaling(&self, divisors: Option<&StoredTensor>) -> Result<Value, Error> {
        let factor = match self.real("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            // The name in the first files.
            None => self.real("rope.scale_linear")?,
        };
        let implied = if factor.is_some_and(|factor| factor != 0.0) { "linear" } else { "none" };
        let kind = self.metadata.string(&self.key("rope.scaling.type"))?.unwrap_or(implied);
        if let Some(divisors) = divisors {
            if kind != "none" {
                let problem = format!(
                    "is '{kind}' beside '{ROPE_FREQS}'; keeve does not know the two together"
                );
                return Err(self.wrong("rope.scaling.type", problem));
            }
            return Ok(json!({"rope_type": "factors", "factors": divisors.to_f32()?}));
        }
        let factor = || factor.ok_or_else(|| self.wrong("rope.scaling.factor", "is missing"));
        match kind {
            "none" => Ok(Value::Null),
            "linear" => Ok(json!({"rope_type": "linear", "factor": factor()?})),
            "yarn" => self.yarn(factor()?),
            other => {
                let other = crate::error::shown(other);
                let problem =
                    format!("is '{other}', which is not supported; expected linear or yarn");
                Err(self.wrong("rope.scaling.type", problem))
            }
        }
    }

    fn yarn(&self, factor: f64) -> Result<Value, Error> {
        let mut scaling = Map::new();
        scaling.insert("rope_type".into(), "yarn".into());
        scaling.insert("factor".into(), factor.into());
        if let Some(original) = self.count("rope.scaling.original_context_length")? {
            scaling.insert("original_max_position_embeddings".into(), original.into());
        }
        for (field, key) in [
            ("beta_fast", "rope.scaling.yarn_beta_fast"),
            ("beta_slow", "rope.scaling.yarn_beta_slow"),
        ] {
            if let Some(beta) = self.real(key)? {
                scaling.insert(field.into(), beta.into());
            }
        }
        if let Some(attention) = self.real("rope.scaling.attn_factor")? {
            // ggml multiplies yarn's own temperature by it; Hugging Face's field replaces that
            // temperature, 0.1 ln(factor) + 1.
            let own = if factor > 1.0 { 0.1 * factor.ln() + 1.0 } else { 1.0 };
            scaling.insert("attention_factor".into(), (attention * own).into());
        }
        for (key, neutral) in
            [("rope.scaling.yarn_ext_factor", 1.0), ("rope.scaling.yarn_log_multiplier", 0.0)]
        {
            if let Some(value) = self.real(key)?.filter(|value| *value != neutral) {
                return Err(self.wrong(key, format!("is {value}, which is not supported")));
            }
        }
        Ok(scaling.into())
    }
}
