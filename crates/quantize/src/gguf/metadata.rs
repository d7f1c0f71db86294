//! The metadata of a GGUF file from a Hugging Face config, as llama.cpp's converter writes them.
//!
//! Keys and conditions: ggml-org/llama.cpp `conversion/base.py` (`set_gguf_parameters`),
//! `conversion/llama.py`, `conversion/gemma.py`.

use keeve_checkpoint::Checkpoint;
use keeve_checkpoint::gguf::{Array, Value as Stored};
use serde_json::Value;

use super::mmproj::MmprojLayout;
use super::{Layout, text_config, vocabulary};
use crate::Error;

/// Metadata by key, in the file's order.
pub type Entries = Vec<(String, Stored)>;

/// The version of ggml's quantized formats.
pub(super) const QUANTIZATION_VERSION: u32 = 2;

/// Keys that describe a file and not its model.
const OF_FILE: [&str; 3] =
    ["general.alignment", "general.file_type", "general.quantization_version"];

/// The metadata for a model: what its GGUF file has, or what its config and tokenizer amount to.
/// `file_type` is llama.cpp's number for the mixture of codecs.
///
/// # Errors
/// If a count is missing, or the tokenizer is of a kind that llama.cpp does not know.
pub(crate) fn metadata(
    checkpoint: &Checkpoint,
    layout: &Layout,
    file_type: Option<u32>,
) -> Result<Entries, Error> {
    let mut entries = match checkpoint.gguf_metadata() {
        Some(found) => {
            let kept = found
                .iter()
                .filter(|(key, _)| !OF_FILE.contains(key) && !key.starts_with("split."));
            kept.map(|(key, value)| (key.to_owned(), value.clone())).collect()
        }
        None => made(checkpoint, layout.architecture())?,
    };
    entries.push(("general.quantization_version".into(), Stored::u32(QUANTIZATION_VERSION)));
    if let Some(file_type) = file_type {
        entries.push(("general.file_type".into(), Stored::u32(file_type)));
    }
    Ok(entries)
}

/// Width of a head: given, or hidden width over heads.
pub(super) fn head_dim(config: &Value) -> Option<u64> {
    let number = |field: &str| config.get(field).and_then(Value::as_u64);
    number("head_dim")
        .or_else(|| number("hidden_size")?.checked_div(number("num_attention_heads")?))
}

fn made(checkpoint: &Checkpoint, architecture: &str) -> Result<Entries, Error> {
    let config = text_config(checkpoint.config());
    let mut writer = Writer { config, architecture, entries: Vec::new(), checkpoint };
    writer.put("general.architecture", Stored::string(architecture));
    writer.put("general.type", Stored::string("model"));
    writer.sampling();
    if let Some(name) = checkpoint.path().file_name() {
        writer.put("general.name", Stored::string(name.to_string_lossy()));
    }
    for (key, field) in [
        ("block_count", "num_hidden_layers"),
        ("context_length", "max_position_embeddings"),
        ("embedding_length", "hidden_size"),
        ("feed_forward_length", "intermediate_size"),
        ("attention.head_count", "num_attention_heads"),
        ("attention.head_count_kv", "num_key_value_heads"),
    ] {
        let required = !matches!(key, "context_length" | "attention.head_count_kv");
        writer.count(key, field, required)?;
    }
    writer.rope()?;
    writer.real("attention.layer_norm_rms_epsilon", "rms_norm_eps");
    if config.get("head_dim").is_some_and(|value| !value.is_null()) {
        writer.count("attention.key_length", "head_dim", true)?;
        writer.count("attention.value_length", "head_dim", true)?;
    }
    match architecture {
        "llama" => {
            writer.count("vocab_size", "vocab_size", true)?;
            let dim = head_dim(config).and_then(|dim| u32::try_from(dim).ok());
            let dim = dim.ok_or_else(|| writer.missing("head_dim"))?;
            writer.own("rope.dimension_count", Stored::u32(dim));
        }
        "gemma3" => writer.gemma3()?,
        "qwen3moe" => writer.experts()?,
        "qwen3vl" => writer.three_axes(checkpoint.config())?,
        "qwen3vlmoe" => {
            writer.experts()?;
            writer.three_axes(checkpoint.config())?;
        }
        _ => {}
    }
    let table = ["model.embed_tokens.weight", "model.language_model.embed_tokens.weight"];
    let table = table.into_iter().find_map(|name| checkpoint.info(name));
    let rows = table.and_then(|info| info.shape.first()).copied();
    writer.entries.extend(vocabulary::vocabulary(checkpoint, rows.unwrap_or(0))?);
    if let Some(template) = checkpoint.chat_template() {
        writer.put("tokenizer.chat_template", Stored::string(template));
    }
    Ok(writer.entries)
}

struct Writer<'a> {
    config: &'a Value,
    architecture: &'a str,
    entries: Entries,
    checkpoint: &'a Checkpoint,
}

impl Writer<'_> {
    fn put(&mut self, key: &str, value: Stored) {
        self.entries.push((key.into(), value));
    }

    /// Adds a key that begins with the architecture's name.
    fn own(&mut self, key: &str, value: Stored) {
        self.entries.push((format!("{}.{key}", self.architecture), value));
    }

    fn missing(&self, field: &str) -> Error {
        let path = self.checkpoint.config_path().into();
        Error::File { path, problem: format!("field '{field}' is missing or no count") }
    }

    fn count(&mut self, key: &str, field: &str, required: bool) -> Result<(), Error> {
        let found = self.config.get(field).filter(|value| !value.is_null());
        let count = found.and_then(Value::as_u64).and_then(|count| u32::try_from(count).ok());
        match count {
            Some(count) => self.own(key, Stored::u32(count)),
            None if required || found.is_some() => return Err(self.missing(field)),
            None => {}
        }
        Ok(())
    }

    fn real(&mut self, key: &str, field: &str) {
        if let Some(number) = self.config.get(field).and_then(Value::as_f64) {
            self.own(key, Stored::F32(number as f32));
        }
    }

    /// What the model's authors recommend.
    fn sampling(&mut self) {
        let Some(generation) = self.checkpoint.generation_config() else { return };
        if let Some(top_k) = generation.get("top_k").and_then(Value::as_i64) {
            let kind = keeve_checkpoint::gguf::ValueType::I32;
            self.put("general.sampling.top_k", Stored::Signed(kind, top_k));
        }
        for (key, field) in [("top_p", "top_p"), ("min_p", "min_p"), ("temp", "temperature")] {
            if let Some(number) = generation.get(field).and_then(Value::as_f64) {
                self.put(&format!("general.sampling.{key}"), Stored::F32(number as f32));
            }
        }
    }

    fn rope(&mut self) -> Result<(), Error> {
        self.real("rope.freq_base", "rope_theta");
        let config = self.config;
        let Some(scaling) = config.get("rope_scaling").filter(|value| value.is_object()) else {
            return Ok(());
        };
        let number = |field: &str| scaling.get(field).and_then(Value::as_f64);
        let kind = scaling.get("rope_type").and_then(Value::as_str).unwrap_or("default");
        match kind {
            // Those become a tensor.
            "default" | "none" | "llama3" | "factors" => return Ok(()),
            "linear" | "yarn" => {}
            _ => {
                let problem = format!("rope_scaling '{kind}' has no form in GGUF files");
                return Err(Error::File { path: self.checkpoint.config_path().into(), problem });
            }
        }
        let factor = number("factor").ok_or_else(|| self.missing("rope_scaling.factor"))?;
        self.own("rope.scaling.type", Stored::string(kind));
        self.own("rope.scaling.factor", Stored::F32(factor as f32));
        if kind == "yarn" {
            let field = "original_max_position_embeddings";
            let original = scaling.get(field).and_then(Value::as_u64);
            let original = original.and_then(|count| u32::try_from(count).ok());
            let original = original.ok_or_else(|| self.missing(field))?;
            self.own("rope.scaling.original_context_length", Stored::u32(original));
            if let Some(attention) = number("attention_factor") {
                // ggml multiplies yarn's own temperature by what it stores.
                let own = if factor > 1.0 { 0.1 * factor.ln() + 1.0 } else { 1.0 };
                self.own("rope.scaling.attn_factor", Stored::F32((attention / own) as f32));
            }
            for (key, field) in [("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow")] {
                if let Some(beta) = number(field) {
                    self.own(&format!("rope.scaling.{key}"), Stored::F32(beta as f32));
                }
            }
        }
        Ok(())
    }

    /// Experts in every layer, the weights of the chosen ones divided by their sum: what llama.cpp assumes.
    fn experts(&mut self) -> Result<(), Error> {
        let config = self.config;
        let refused = |field: &str, problem: String| {
            let path = self.checkpoint.config_path().into();
            let problem =
                format!("field '{field}' {problem}, which '{}' has not", self.architecture);
            Err(Error::File { path, problem })
        };
        // Qwen3-VL divides them whatever its config says.
        let normalize = self.architecture == "qwen3vlmoe"
            || config.get("norm_topk_prob").and_then(Value::as_bool).unwrap_or(false);
        if !normalize {
            return refused("norm_topk_prob", "is not true".into());
        }
        if let Some(step) = config.get("decoder_sparse_step").and_then(Value::as_u64)
            && step != 1
        {
            return refused("decoder_sparse_step", format!("is {step}: layers without experts"));
        }
        let dense = config.get("mlp_only_layers").and_then(Value::as_array).map_or(0, Vec::len);
        if dense > 0 {
            return refused("mlp_only_layers", format!("names {dense} layers without experts"));
        }
        let named = |name: &&str| config.get(*name).is_some_and(|value| !value.is_null());
        let count = ["num_experts", "num_local_experts"].iter().copied().find(|name| named(name));
        self.count("expert_count", count.unwrap_or("num_experts"), true)?;
        self.count("expert_used_count", "num_experts_per_tok", true)?;
        self.count("expert_feed_forward_length", "moe_intermediate_size", true)
    }

    /// Which axis drives which frequencies, and how many layers are given rows for images.
    fn three_axes(&mut self, whole: &Value) -> Result<(), Error> {
        const FIELD: &str = "rope_scaling.mrope_section";
        let lengths = self.config.pointer("/rope_scaling/mrope_section").and_then(Value::as_array);
        let lengths = lengths.into_iter().flatten().filter_map(Value::as_i64);
        let lengths: Vec<i32> = lengths.filter_map(|length| i32::try_from(length).ok()).collect();
        let &[time, height, width] = &lengths[..] else { return Err(self.missing(FIELD)) };
        // The fourth is of an axis that images do not have.
        let sections = Array::of_i32(&[time, height, width, 0]);
        self.own("rope.dimension_sections", Stored::Array(sections));
        let features = u32::try_from(MmprojLayout::of(whole).features()).unwrap_or(u32::MAX);
        self.own("n_deepstack_layers", Stored::u32(features));
        Ok(())
    }

    /// Where every how many layers one sees everything is only stored where it is not llama.cpp's own
    /// assumption of 6.
    fn gemma3(&mut self) -> Result<(), Error> {
        let config = self.config;
        self.count("attention.sliding_window", "sliding_window", false)?;
        self.real("rope.freq_base_swa", "rope_local_base_freq");
        self.real("final_logit_softcapping", "final_logit_softcapping");
        let layer_types = config.get("layer_types").and_then(Value::as_array);
        if let Some(types) = layer_types {
            let local: Vec<bool> = types.iter().map(|kind| kind == "sliding_attention").collect();
            if local.iter().enumerate().any(|(layer, local)| *local != (layer % 6 < 5)) {
                let value = Stored::Array(Array::of_bools(&local));
                self.own("attention.sliding_window_pattern", value);
            }
        } else if let Some(pattern) = config.get("sliding_window_pattern").and_then(Value::as_u64)
            && pattern != 6
            && let Ok(pattern) = u32::try_from(pattern)
        {
            self.own("attention.sliding_window_pattern", Stored::u32(pattern));
        }
        Ok(())
    }
}
