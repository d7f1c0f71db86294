//! Fields of a config that only some architectures of GGUF files have.
//!
//! Keys and defaults: ggml-org/llama.cpp `gguf-py/gguf/constants.py`, `conversion/` and `src/models/`
//! (one file for each architecture).

use serde_json::{Map, Value, json};

use super::gguf_architectures::Architecture;
use super::gguf_config::Reader;
use crate::gguf::{Array, Value as Stored};
use crate::{Error, StoredTensor};

/// Divisors of rope frequencies for long and for short sequences.
const FACTORS: [(&str, &str); 2] =
    [("long_factor", "rope_factors_long.weight"), ("short_factor", "rope_factors_short.weight")];

impl Reader<'_> {
    /// Adds the fields that `known` has beside those of llama.
    pub(super) fn own<'t>(
        &self,
        known: &Architecture,
        tensor: &impl Fn(&str) -> Option<&'t StoredTensor>,
        config: &mut Map<String, Value>,
    ) -> Result<(), Error> {
        self.experts(known, config)?;
        match known.ggml {
            "gemma2" => self.gemma2(config),
            "gemma3" => self.gemma3(config),
            "granite" => self.granite(config),
            "phi3" => self.phi3(tensor, config),
            "qwen3vl" | "qwen3vlmoe" => self.three_axes(config),
            _ => Ok(()),
        }
    }

    /// Experts, if the file has any.
    fn experts(&self, known: &Architecture, config: &mut Map<String, Value>) -> Result<(), Error> {
        let count = self.count("expert_count")?.filter(|count| *count > 0);
        let (count, experts) = match (count, &known.experts) {
            (Some(count), Some(experts)) => (count, experts),
            (Some(count), None) => {
                let problem = format!("is {count}, but {} has no experts", known.ggml);
                return Err(self.wrong("expert_count", problem));
            }
            (None, Some(_)) if known.ggml != "llama" => {
                return Err(self.wrong("expert_count", "is missing"));
            }
            (None, _) => return Ok(()),
        };
        for (key, neutral) in [
            ("expert_weights_scale", &[0.0, 1.0][..]),
            // The softmax.
            ("expert_gating_func", &[1.0]),
            ("expert_group_count", &[0.0, 1.0]),
        ] {
            if let Some(value) = self.real(key)?.filter(|value| !neutral.contains(value)) {
                return Err(self.wrong(key, format!("is {value}, which is not supported")));
            }
        }
        config.insert("model_type".into(), experts.model_type.into());
        config.insert("num_local_experts".into(), count.into());
        config.insert("norm_topk_prob".into(), experts.normalize.into());
        for (field, key) in [
            ("num_experts_per_tok", "expert_used_count"),
            ("moe_intermediate_size", "expert_feed_forward_length"),
            ("shared_expert_intermediate_size", "expert_shared_feed_forward_length"),
        ] {
            if let Some(count) = self.count(key)? {
                config.insert(field.into(), count.into());
            }
        }
        Ok(())
    }

    /// Which axis drives which frequencies. ggml turns these architectures by interleaved axes.
    fn three_axes(&self, config: &mut Map<String, Value>) -> Result<(), Error> {
        const KEY: &str = "rope.dimension_sections";
        let sections = self.metadata.array(&self.key(KEY))?;
        let sections = sections.ok_or_else(|| self.wrong(KEY, "is missing"))?;
        // The fourth is for another axis, which images do not have.
        let lengths = Some(sections).filter(|sections| (3..=4).contains(&sections.len()));
        let lengths = lengths.and_then(Array::integers);
        let lengths = lengths.filter(|lengths| lengths.get(3).is_none_or(|&other| other == 0));
        let Some(lengths) = lengths else {
            return Err(self.wrong(KEY, "does not hold three lengths and a zero"));
        };
        let scaling = config.entry("rope_scaling").or_insert(Value::Null);
        if scaling.is_null() {
            *scaling = json!({"rope_type": "default"});
        }
        scaling["mrope_interleaved"] = true.into();
        scaling["mrope_section"] = lengths[..3].into();
        Ok(())
    }

    /// Multipliers.
    fn granite(&self, config: &mut Map<String, Value>) -> Result<(), Error> {
        for (field, key) in [
            ("attention_multiplier", "attention.scale"),
            ("embedding_multiplier", "embedding_scale"),
            ("residual_multiplier", "residual_scale"),
            ("logits_scaling", "logit_scale"),
        ] {
            // What is zero is not there. Without a scale, attention has that of llama.
            match self.real(key)?.filter(|scale| *scale != 0.0) {
                Some(scale) => {
                    config.insert(field.into(), scale.into());
                }
                None if key == "attention.scale" => {
                    if let Some(head_dim) = self.head_dim()?.filter(|head_dim| *head_dim > 0) {
                        config.insert(field.into(), (1.0 / (head_dim as f64).sqrt()).into());
                    }
                }
                None => {}
            }
        }
        Ok(())
    }

    /// The window, the part of heads that turns, and LongRoPE.
    fn phi3<'t>(
        &self,
        tensor: &impl Fn(&str) -> Option<&'t StoredTensor>,
        config: &mut Map<String, Value>,
    ) -> Result<(), Error> {
        if let Some(window) = self.count("attention.sliding_window")?.filter(|window| *window > 0) {
            config.insert("sliding_window".into(), window.into());
        }
        let turned = self.count("rope.dimension_count")?;
        if let (Some(turned), Some(head_dim)) = (turned, self.head_dim()?.filter(|dim| *dim > 0)) {
            config.insert("partial_rotary_factor".into(), (turned as f64 / head_dim as f64).into());
        }
        if let Some(original) = self.count("rope.scaling.original_context_length")? {
            config.insert("original_max_position_embeddings".into(), original.into());
        }
        if !FACTORS.iter().any(|(_, name)| tensor(name).is_some()) {
            return Ok(());
        }
        let mut scaling = Map::new();
        scaling.insert("rope_type".into(), "longrope".into());
        for (field, name) in FACTORS {
            if let Some(factors) = tensor(name) {
                scaling.insert(field.into(), json!(factors.to_f32()?));
            }
        }
        if let Some(factor) = self.real("rope.scaling.attn_factor")? {
            scaling.insert("attention_factor".into(), factor.into());
        }
        config.insert("rope_scaling".into(), scaling.into());
        Ok(())
    }

    /// Caps and the window. The width of a head decides the scale, except in the model of 46 layers.
    fn gemma2(&self, config: &mut Map<String, Value>) -> Result<(), Error> {
        for (field, key) in [
            ("attn_logit_softcapping", "attn_logit_softcapping"),
            ("final_logit_softcapping", "final_logit_softcapping"),
        ] {
            if let Some(cap) = self.real(key)? {
                config.insert(field.into(), cap.into());
            }
        }
        if let Some(window) = self.count("attention.sliding_window")? {
            config.insert("sliding_window".into(), window.into());
        }
        self.query_scalar(46, config)
    }

    /// What the products of queries and keys are scaled by: not stored, and the width of a head except
    /// in the model of so many layers.
    fn query_scalar(&self, layers: u64, config: &mut Map<String, Value>) -> Result<(), Error> {
        let heads = self.count("attention.head_count")?.filter(|heads| *heads > 0);
        let scalar = match (self.count("block_count")?, self.count("embedding_length")?, heads) {
            (Some(found), Some(hidden), Some(heads)) if found == layers => Some(hidden / heads),
            _ => self.head_dim()?,
        };
        if let Some(scalar) = scalar {
            config.insert("query_pre_attn_scalar".into(), scalar.into());
        }
        Ok(())
    }

    /// Fields that only gemma3 has. The pattern of its layers is usually not stored.
    fn gemma3(&self, config: &mut Map<String, Value>) -> Result<(), Error> {
        if let Some(window) = self.count("attention.sliding_window")? {
            config.insert("sliding_window".into(), window.into());
        }
        let key = "attention.sliding_window_pattern";
        match self.metadata.get(&self.key(key)) {
            Some(Stored::Array(array)) => {
                let layers = self.count("block_count")?.unwrap_or(0);
                let expected =
                    || self.wrong(key, format!("does not hold {layers} truth values, one a layer"));
                // The bound is far above any model; texts take many times the room of truth values.
                let fits = array.len() as u64 == layers && layers <= 1 << 16;
                let local = array.bools().filter(|_| fits).ok_or_else(expected)?;
                let name = |local: bool| if local { "sliding_attention" } else { "full_attention" };
                let types: Vec<_> = local.into_iter().map(name).collect();
                config.insert("layer_types".into(), types.into());
            }
            _ => {
                let pattern = self.count(key)?.unwrap_or(6);
                config.insert("sliding_window_pattern".into(), pattern.into());
            }
        }
        let local_base = self.real("rope.freq_base_swa")?.unwrap_or(10_000.0);
        config.insert("rope_local_base_freq".into(), local_base.into());
        if let Some(cap) = self.real("final_logit_softcapping")?.filter(|cap| *cap != 0.0) {
            config.insert("final_logit_softcapping".into(), cap.into());
        }
        self.query_scalar(62, config)
    }
}
