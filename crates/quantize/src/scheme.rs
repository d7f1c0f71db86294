//! Which codec a weight has: a preset, or one codec for all, and what stands in where rows do not fit.

use std::str::FromStr;

use keeve_codec::{Codec, Float, Group};

use crate::dimensions::Dimensions;
use crate::presets::{PRESETS, Preset};
use crate::{Error, Role, role};

/// A codec for each weight: a preset, or one codec for all.
#[derive(Debug, Clone, PartialEq)]
pub struct Scheme {
    name: String,
    base: Base,
    head: Option<Codec>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Base {
    Preset(&'static Preset),
    Uniform(Codec),
}

impl FromStr for Scheme {
    type Err = Error;

    /// A preset's or a codec's name in any case. Where a preset and a codec have the same name
    /// (`q2_k`, `q6_k`) it is the preset; see [`Scheme::uniform`].
    fn from_str(name: &str) -> Result<Self, Error> {
        let lower = name.to_ascii_lowercase();
        let base = match Preset::named(&lower) {
            Some(preset) => Base::Preset(preset),
            None => Base::Uniform(lower.parse().map_err(|_| Error::Scheme(name.into()))?),
        };
        Ok(Self { name: lower, base, head: None })
    }
}

impl Scheme {
    /// A preset by its name.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn preset(name: &str) -> Result<Self, Error> {
        let preset = Preset::named(name).ok_or_else(|| Error::Preset(name.into()))?;
        Ok(Self { name: preset.name.into(), base: Base::Preset(preset), head: None })
    }

    /// One codec for every weight.
    pub fn uniform(codec: Codec) -> Self {
        Self { name: codec.name(), base: Base::Uniform(codec), head: None }
    }

    /// The names of presets.
    pub fn presets() -> impl Iterator<Item = &'static str> {
        PRESETS.iter().map(|preset| preset.name)
    }

    /// Every codec that can be made: MLX's affine ones in groups of 64, integers by row and in groups of 64.
    pub fn codecs() -> impl Iterator<Item = Codec> {
        let plain = Codec::PLAIN.into_iter().filter(|codec| codec.has_encoder());
        let affine =
            Codec::AFFINE_BITS.map(|bits| Codec::Affine { bits, group: 64, scale: Float::Bf16 });
        let groups = [Group::Row, Group::Of(64)];
        let int8 = groups.map(|group| Codec::Int8 { group, scale: Float::F32 });
        let int4 = groups.map(|group| Codec::Int4 { group, scale: Float::F32 });
        plain.chain(affine).chain(int8).chain(int4)
    }

    /// The same, but for the head (and the embedding table where they are one).
    pub fn with_head(self, head: Codec) -> Self {
        Self { name: format!("{} head {head}", self.name), head: Some(head), ..self }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The codec, if it is one for all.
    pub fn uniform_codec(&self) -> Option<Codec> {
        match self.base {
            Base::Preset(_) => None,
            Base::Uniform(codec) => Some(codec),
        }
    }

    /// llama.cpp's number for it (`general.file_type` of a GGUF file).
    pub fn file_type(&self) -> Option<u32> {
        match self.base {
            Base::Preset(preset) => Some(preset.file_type),
            Base::Uniform(codec) => file_type(codec),
        }
    }

    /// The codec for a weight in `role`, number `index` of `count` as presets count them
    /// ([`crate::presets::Layers`]), before it is known whether its rows fit.
    pub fn wanted(&self, role: Role, index: usize, count: usize, dimensions: &Dimensions) -> Codec {
        match (self.base, self.head) {
            (_, Some(head)) if role == Role::Head => head,
            (Base::Preset(preset), _) => preset.codec(role, index, count, dimensions),
            (Base::Uniform(codec), _) => codec,
        }
    }

    /// The codec of the weight `name` (Hugging Face's name) of a dense model with `cols` columns, all
    /// of whose layers are alike. `tied`: the model has no head of its own. Where rows fit no stand-in
    /// either it is `f16`.
    pub fn codec(&self, name: &str, cols: usize, tied: bool, dimensions: &Dimensions) -> Codec {
        let role = Role::of(name, 2, tied);
        let index = role::layer(name).unwrap_or(0);
        let codec = self.wanted(role, index, dimensions.layers, dimensions);
        match (self.base, fitting(codec, cols)) {
            // llama-quantize leaves it as it is.
            (Base::Preset(_), _) if role == Role::Router => Codec::F32,
            (Base::Preset(_), fit) => fit.unwrap_or(Codec::F16),
            (Base::Uniform(_), _) => codec,
        }
    }
}

/// llama.cpp's number for files whose matrices are all in `codec`; its enum `llama_ftype` in
/// `include/llama.h`.
fn file_type(codec: Codec) -> Option<u32> {
    Some(match codec {
        Codec::F32 => 0,
        Codec::F16 => 1,
        Codec::Q4_0 => 2,
        Codec::Q4_1 => 3,
        Codec::Q8_0 => 7,
        Codec::Q5_0 => 8,
        Codec::Q5_1 => 9,
        Codec::Q2K => 10,
        Codec::Q3K => 11,
        Codec::Q4K => 14,
        Codec::Q5K => 16,
        Codec::Q6K => 18,
        Codec::Iq4Nl => 25,
        Codec::Iq4Xs => 30,
        Codec::BF16 => 32,
        Codec::Tq1_0 => 36,
        Codec::Tq2_0 => 37,
        _ => return None,
    })
}

/// `codec`, or what stands in for it where rows of `cols` weights are no whole blocks; `None` if nothing
/// fits, and the weight stays a float.
///
/// For ggml's codecs these are llama.cpp's stand-ins (`tensor_type_fallback` in
/// `src/llama-quant.cpp`). MLX affine has none, as in mlx-lm. Groups of int8 and int4 become whole
/// rows of int8.
pub fn fitting(codec: Codec, cols: usize) -> Option<Codec> {
    let fits = |codec: &Codec| codec.row_parts(cols).is_ok();
    if fits(&codec) {
        return Some(codec);
    }
    let stand_in = match codec {
        Codec::Iq4Xs => Codec::Iq4Nl,
        Codec::Q2K | Codec::Q3K | Codec::Q2_0 | Codec::Tq1_0 | Codec::Tq2_0 => Codec::Q4_0,
        Codec::Q4K => Codec::Q5_0,
        Codec::Q5K => Codec::Q5_1,
        Codec::Q6K => Codec::Q8_0,
        Codec::Int8 { scale, .. } | Codec::Int4 { scale, .. } => {
            Codec::Int8 { group: Group::Row, scale }
        }
        _ => return None,
    };
    Some(stand_in).filter(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dense(layers: usize, grouped_queries: usize) -> Dimensions {
        Dimensions { layers, grouped_queries, experts: 0, is_70b: false }
    }

    fn codec(scheme: &str, name: &str, layers: usize, grouped_queries: usize) -> Codec {
        let dimensions = dense(layers, grouped_queries);
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
    fn the_small_and_large_forms_follow_their_schedules() {
        assert_eq!(layers_with("q4_k_s", 28, value, Codec::Q5K), [0, 1, 2, 3]);
        assert_eq!(layers_with("q4_k_s", 28, down, Codec::Q5K), [0, 1, 2]);
        assert_eq!(layers_with("q3_k_l", 28, value, Codec::Q5K).len(), 28);
        assert_eq!(layers_with("q3_k_l", 28, down, Codec::Q5K).len(), 28);
        assert_eq!(layers_with("q3_k_s", 28, value, Codec::Q3K).len(), 28);
        assert_eq!(layers_with("q5_k_s", 28, down, Codec::Q5K).len(), 28);
        assert_eq!(layers_with("q4_k_xl", 28, down, Codec::Q6K).len(), 28);
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
    fn eight_experts_and_eighty_layers_change_attention() {
        let eight = Dimensions { layers: 32, grouped_queries: 4, experts: 8, is_70b: false };
        let large = Dimensions { layers: 80, grouped_queries: 8, experts: 0, is_70b: true };
        let of = |scheme: &str, role, dimensions: &Dimensions| {
            Scheme::preset(scheme).unwrap().wanted(role, 40, 80, dimensions)
        };
        assert_eq!(of("q4_k_m", Role::Value, &eight), Codec::Q8_0);
        assert_eq!(of("q5_k_s", Role::Key, &eight), Codec::Q8_0);
        assert_eq!(of("q3_k_m", Role::Out, &eight), Codec::Q5K);
        assert_eq!(of("q3_k_l", Role::Out, &eight), Codec::Q3K);
        assert_eq!(of("q4_k_m", Role::Key, &large), Codec::Q4K);
        for preset in ["q2_k", "q3_k_s", "q3_k_m", "q4_k_s", "q4_k_m"] {
            assert_eq!(of(preset, Role::Value, &large), Codec::Q5K, "{preset}");
        }
    }

    #[test]
    fn heads_have_six_bits_and_embedding_tables_beside_them_do_not() {
        let dimensions = dense(36, 4);
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
        let dimensions = dense(28, 2);
        let scheme: Scheme = "q4_k_m".parse().unwrap();
        assert_eq!(scheme.codec(&down(0), 96, true, &dimensions), Codec::Q8_0);
        assert_eq!(scheme.codec(&down(3), 96, true, &dimensions), Codec::Q5_0);
        assert_eq!(scheme.codec(&down(3), 100, true, &dimensions), Codec::F16);
        let affine: Codec = "affine4-g128".parse().unwrap();
        assert_eq!(fitting(affine, 192), None);
        let grouped: Codec = "int4-g128".parse().unwrap();
        assert_eq!(fitting(grouped, 192), Some("int8".parse().unwrap()));
    }

    #[test]
    fn unknown_names_are_errors() {
        for wrong in ["", "q4_k_xxl", "q9"] {
            let error = wrong.parse::<Scheme>().unwrap_err().to_string();
            assert!(error.contains("q4_k_m"), "{error}");
        }
    }
}
