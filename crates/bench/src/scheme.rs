//! Which codec each weight of a made model has.

use std::str::FromStr;

use keeve_codec::Codec;
use serde_json::Value;

use crate::Error;

/// Mixtures of codecs as `llama-quantize` chooses them.
///
/// The rules are those of ggml-org/llama.cpp `src/llama-quant.cpp` (`llama_tensor_get_type` and
/// `use_more_bits`) for dense models below 70B parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Preset {
    Q2K,
    Q3KM,
    Q4KM,
    Q5KM,
    Q6K,
    Q8,
}

/// A codec for each weight: a preset, or one codec for all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scheme {
    name: String,
    base: Base,
    head: Option<Codec>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Base {
    Preset(Preset),
    Uniform(Codec),
}

const PRESETS: [(&str, Preset); 6] = [
    ("q2_k", Preset::Q2K),
    ("q3_k_m", Preset::Q3KM),
    ("q4_k_m", Preset::Q4KM),
    ("q5_k_m", Preset::Q5KM),
    ("q6_k", Preset::Q6K),
    ("q8", Preset::Q8),
];

/// What the rules ask about a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dimensions {
    /// Decoder layers.
    pub layers: usize,
    /// Query heads that share a key head.
    pub grouped_queries: usize,
}

impl Dimensions {
    /// From a config in the form that [`keeve_models::build`] takes. Fields that it would refuse
    /// count as one.
    pub fn of(config: &Value) -> Self {
        let number = |field: &str| config.get(field).and_then(Value::as_u64).unwrap_or(1).max(1);
        let heads = number("num_attention_heads");
        let kv_heads = config.get("num_key_value_heads").and_then(Value::as_u64);
        Self {
            layers: usize::try_from(number("num_hidden_layers")).unwrap_or(usize::MAX),
            grouped_queries: usize::try_from(heads / kv_heads.unwrap_or(heads).max(1))
                .unwrap_or(usize::MAX),
        }
    }
}

impl FromStr for Scheme {
    type Err = Error;

    /// A preset's or a codec's name in any case. `q2_k` and `q6_k` are presets; a uniform Q2_K has no
    /// name.
    fn from_str(name: &str) -> Result<Self, Error> {
        let lower = name.to_ascii_lowercase();
        let preset = PRESETS.iter().find(|(known, _)| *known == lower);
        let base = match preset {
            Some((_, preset)) => Base::Preset(*preset),
            None => Base::Uniform(lower.parse().map_err(|_| Error::Scheme(name.into()))?),
        };
        Ok(Self { name: lower, base, head: None })
    }
}

impl Scheme {
    /// The names of presets.
    pub fn presets() -> impl Iterator<Item = &'static str> {
        PRESETS.iter().map(|(name, _)| *name)
    }

    /// The same, but for the head (and the embedding table where they are one).
    pub fn with_head(self, head: Codec) -> Self {
        Self { name: format!("{} head {head}", self.name), head: Some(head), ..self }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The codec of the weight `name` (Hugging Face's name) with `cols` columns. `tied`: the model has
    /// no head of its own.
    pub fn codec(&self, name: &str, cols: usize, tied: bool, dimensions: &Dimensions) -> Codec {
        let role = Role::of(name, tied);
        if let (Role::Head, Some(head)) = (role, self.head) {
            return head;
        }
        match self.base {
            Base::Uniform(codec) => codec,
            // llama-quantize leaves it as it is.
            Base::Preset(_) if role == Role::Router => Codec::F32,
            Base::Preset(preset) => fitting(preset.codec(role, dimensions), cols),
        }
    }
}

/// The part that a weight plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// `lm_head`, or the embedding table where that is also the head.
    Head,
    /// `v_proj` of a layer.
    Value(usize),
    /// `o_proj`.
    Out,
    /// `down_proj` of a layer.
    Down(usize),
    /// What chooses experts.
    Router,
    /// Everything else.
    Other,
}

impl Role {
    fn of(name: &str, tied: bool) -> Self {
        let module = name.strip_suffix(".weight").unwrap_or(name);
        let layer = || module.split('.').find_map(|part| part.parse().ok()).unwrap_or(0);
        match module.rsplit('.').next() {
            Some("lm_head") => Self::Head,
            Some("embed_tokens") if tied => Self::Head,
            Some("v_proj") => Self::Value(layer()),
            Some("o_proj") => Self::Out,
            Some("gate") => Self::Router,
            Some("down_proj") => Self::Down(layer()),
            _ => Self::Other,
        }
    }
}

impl Preset {
    fn codec(self, role: Role, dimensions: &Dimensions) -> Codec {
        let layers = dimensions.layers;
        match (self, role) {
            (Self::Q8, _) => Codec::Q8_0,
            (Self::Q6K, _) | (_, Role::Head) => Codec::Q6K,
            (Self::Q2K, Role::Value(_)) if dimensions.grouped_queries >= 4 => Codec::Q4K,
            (Self::Q2K, Role::Value(_) | Role::Out | Role::Down(_)) => Codec::Q3K,
            (Self::Q2K, Role::Router | Role::Other) => Codec::Q2K,
            (Self::Q3KM, Role::Value(layer)) if layer < 2 => Codec::Q5K,
            (Self::Q3KM, Role::Down(layer)) if layer < layers / 16 => Codec::Q5K,
            (Self::Q3KM, Role::Value(_) | Role::Out | Role::Down(_)) => Codec::Q4K,
            (Self::Q3KM, Role::Router | Role::Other) => Codec::Q3K,
            (Self::Q4KM | Self::Q5KM, Role::Value(layer) | Role::Down(layer))
                if more_bits(layer, layers) =>
            {
                Codec::Q6K
            }
            (Self::Q4KM, _) => Codec::Q4K,
            (Self::Q5KM, _) => Codec::Q5K,
        }
    }
}

/// Whether a layer is among those that get more bits: the first and the last eighth, and every
/// third between them.
fn more_bits(layer: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

/// The codec, or the one that stands in for it where blocks of 256 do not divide the columns.
fn fitting(codec: Codec, cols: usize) -> Codec {
    if cols.is_multiple_of(256) {
        return codec;
    }
    match codec {
        Codec::Q2K | Codec::Q3K => Codec::Q4_0,
        Codec::Q4K => Codec::Q5_0,
        Codec::Q5K => Codec::Q5_1,
        Codec::Q6K => Codec::Q8_0,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codec(scheme: &str, name: &str, layers: usize, grouped_queries: usize) -> Codec {
        let dimensions = Dimensions { layers, grouped_queries };
        scheme.parse::<Scheme>().unwrap().codec(name, 1024, true, &dimensions)
    }

    fn value(layer: usize) -> String {
        format!("model.layers.{layer}.self_attn.v_proj.weight")
    }

    fn down(layer: usize) -> String {
        format!("model.layers.{layer}.mlp.down_proj.weight")
    }

    /// The layers whose `names` have `codec`.
    fn layers_with(
        scheme: &str,
        layers: usize,
        names: fn(usize) -> String,
        wanted: Codec,
    ) -> Vec<usize> {
        (0..layers).filter(|&layer| codec(scheme, &names(layer), layers, 2) == wanted).collect()
    }

    #[test]
    fn q4_k_m_and_q5_k_m_give_more_bits_to_the_published_layers() {
        let of_28 = [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 24, 25, 26, 27];
        let of_36 = [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 31, 32, 33, 34, 35];
        for (scheme, rest) in [("q4_k_m", Codec::Q4K), ("Q5_K_M", Codec::Q5K)] {
            for names in [value, down] {
                assert_eq!(layers_with(scheme, 28, names, Codec::Q6K), of_28);
                assert_eq!(layers_with(scheme, 36, names, Codec::Q6K), of_36);
                assert_eq!(layers_with(scheme, 28, names, rest).len(), 14);
                assert_eq!(layers_with(scheme, 36, names, rest).len(), 18);
            }
            for name in ["self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.gate_proj"] {
                let name = format!("model.layers.0.{name}.weight");
                assert_eq!(codec(scheme, &name, 28, 2), rest);
            }
        }
    }

    #[test]
    fn q3_k_m_gives_more_bits_to_the_published_layers() {
        assert_eq!(layers_with("q3_k_m", 28, value, Codec::Q5K), [0, 1]);
        assert_eq!(layers_with("q3_k_m", 28, down, Codec::Q5K), [0]);
        assert_eq!(layers_with("q3_k_m", 36, down, Codec::Q5K), [0, 1]);
        assert_eq!(layers_with("q3_k_m", 36, value, Codec::Q4K).len(), 34);
        assert_eq!(layers_with("q3_k_m", 36, down, Codec::Q4K).len(), 34);
        let name = |part: &str| format!("model.layers.9.{part}.weight");
        assert_eq!(codec("q3_k_m", &name("self_attn.o_proj"), 28, 2), Codec::Q4K);
        assert_eq!(codec("q3_k_m", &name("self_attn.k_proj"), 28, 2), Codec::Q3K);
    }

    #[test]
    fn q2_k_depends_on_grouped_queries() {
        assert_eq!(codec("q2_k", &value(3), 28, 2), Codec::Q3K);
        assert_eq!(codec("q2_k", &value(3), 36, 4), Codec::Q4K);
        assert_eq!(codec("q2_k", &down(3), 36, 4), Codec::Q3K);
        assert_eq!(codec("q2_k", "model.layers.3.self_attn.o_proj.weight", 28, 2), Codec::Q3K);
        assert_eq!(codec("q2_k", "model.layers.3.mlp.up_proj.weight", 28, 2), Codec::Q2K);
    }

    #[test]
    fn heads_have_six_bits_and_embedding_tables_beside_them_do_not() {
        let dimensions = Dimensions { layers: 36, grouped_queries: 4 };
        for (preset, base) in [("q4_k_m", Codec::Q4K), ("q2_k", Codec::Q2K)] {
            let scheme: Scheme = preset.parse().unwrap();
            let of = |name: &str, tied| scheme.codec(name, 4096, tied, &dimensions);
            assert_eq!(of("model.embed_tokens.weight", true), Codec::Q6K);
            assert_eq!(of("model.embed_tokens.weight", false), base);
            assert_eq!(of("lm_head.weight", false), Codec::Q6K);
            let scheme = scheme.clone().with_head(Codec::BF16);
            assert_eq!(scheme.codec("lm_head.weight", 4096, false, &dimensions), Codec::BF16);
        }
        assert_eq!(codec("q8", "model.embed_tokens.weight", 28, 2), Codec::Q8_0);
        assert_eq!(codec("q6_k", &down(1), 28, 2), Codec::Q6K);
        assert_eq!(codec("q4_0", "model.embed_tokens.weight", 28, 2), Codec::Q4_0);
    }

    #[test]
    fn columns_that_no_block_of_256_divides_get_the_published_stand_in() {
        let dimensions = Dimensions { layers: 28, grouped_queries: 2 };
        let scheme: Scheme = "q4_k_m".parse().unwrap();
        assert_eq!(scheme.codec(&down(0), 96, true, &dimensions), Codec::Q8_0);
        assert_eq!(scheme.codec(&down(3), 96, true, &dimensions), Codec::Q5_0);
    }

    #[test]
    fn unknown_names_are_errors() {
        for wrong in ["", "q4_k_xl", "q9"] {
            let error = wrong.parse::<Scheme>().unwrap_err().to_string();
            assert!(error.contains("q4_k_m"), "{error}");
        }
    }

    #[test]
    fn dimensions_come_from_the_config() {
        let (_, config) = crate::shape::named("4b").unwrap();
        assert_eq!(Dimensions::of(&config), Dimensions { layers: 36, grouped_queries: 4 });
    }
}
