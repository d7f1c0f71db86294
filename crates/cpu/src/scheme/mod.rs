//! Recipes: how activations and weights become integers, and what is done with the products.
//!
//! A recipe is picked by codec and phase, never by how many rows there are, and has a kernel for every
//! number of rows: so a row's result does not depend on the rows beside it. Under `float` nothing is
//! quantized and both phases are the same.
//!
//! | codec | mode | generated | prompt |
//! |---|---|---|---|
//! | any | `bf16` | [`Recipe::Float`] | [`Recipe::Bf16`] |
//! | `f32`, `f16` | `auto`, `fast`, `int8` | [`Recipe::Float`] | [`Recipe::Float`] |
//! | `bf16` | `auto`, `fast`, `int8` | [`Recipe::Float`] | [`Recipe::Bf16`] |
//! | `int8`, `int4` (a scale for each row) | `int8` | [`Recipe::Token`] | [`Recipe::Token`], with the model's [`RowRounding`] |
//! | `int8-g*`, `int4-g*` | `int8` | [`Recipe::Grouped`] | [`Recipe::Grouped`], likewise |
//! | all of these | `fast` | [`Recipe::Block`] | [`Recipe::Panel`] |
//! | `affine3` to `affine8`, `q4_0` to `q8_0`, `q3_k` to `q6_k` | `fast`, `int8` | [`Recipe::Block`] | [`Recipe::Panel`] |
//! | all of these | `auto` | [`Recipe::Block`] | [`Recipe::Fine`], or [`Recipe::Bf16`] |
//! | `affine2`, `q2_k` | `auto` | [`Recipe::Block`] | [`Recipe::Fine`], or [`Recipe::Bf16`] |
//! | `affine2`, `q2_k` | `fast`, `int8` | [`Recipe::Block`] | [`Recipe::Fine`] |
//! | `tq*` | `auto`, `fast`, `int8` | [`Recipe::FineBlock`] | [`Recipe::Fine`] |
//! | `affine1`, `ptq1_0`, `pq2_0`, `q2_0` | `auto`, `fast`, `int8` | [`Recipe::FineBlock`] | [`Recipe::Finer`] |
//! | those without [`Codec::codes`]: `iq*`, `q1_0`, `mxfp4` and the like | `auto` | [`Recipe::Float`] | [`Recipe::Fine`], or [`Recipe::Bf16`] |
//! | the same | `fast`, `int8` | [`Recipe::Float`] | [`Recipe::Panel`], or [`Recipe::Fine`] below 3 bits a weight |
//!
//! # Why `auto` is not `fast`
//! Real models have channels whose values are dozens of times larger than all others. Of the 256 columns that share a
//! scale with one of them, [`Recipe::Panel`] leaves little, and a model's predictions suffer as much as from weights
//! of four bits (`docs/activations.md` has models). What is left of activations by their first eight bits is rounded by
//! [`Recipe::Fine`] to eight more, so that what it costs is what panels do to weights. Where a weight row has one
//! scale in 256 columns, panels do nothing to it.
//!
//! Where a unit multiplies bf16 in tiles ([`Isa::has_bf16_tiles`]), [`Recipe::Bf16`] takes the place of
//! [`Recipe::Fine`] in `auto`: [`Recipe::Fine`] multiplies each block twice, which makes it no faster there, and bf16
//! costs a tenth of it. Not so for weights of two or three values: rounding prompts to bf16 costs them more.
//!
//! # What they cost
//! Mean Kullback-Leibler divergence per token from float activations with the same weights, of the demo
//! model, which has no outliers, over 4,096 tokens of WikiText-2's test text (16 windows of 256), all linear layers and the head
//! being in one codec, by `cargo run --release -p keeve --example recipe_cost -- TEXT 16 MODES MODEL CODEC`
//! (`docs/activations.md` has every codec and mode):
//!
//! | codec | mode | generated | prompt |
//! |---|---|---|---|
//! | as shipped (`q4_k` and `q6_k`) | `fast` | 2.7e-4 | 1.24e-3 |
//! | `q4_k`, `q5_k`, `q6_k` | `fast` | 2.5e-4 to 2.6e-4 | 1.19e-3 to 1.26e-3 |
//! | `q4_0`, `q5_0`, `q8_0` | `fast` | 2.6e-4 to 2.7e-4 | 1.15e-3 to 1.22e-3 |
//! | `affine4`, `affine6`, `affine8` | `fast` | 2.5e-4 to 2.7e-4 | 1.18e-3 to 1.24e-3 |
//! | `int8`, `int8-g64`, `int8-g128`, `int8-g256` | `fast` | 2.5e-4 to 2.6e-4 | 9.7e-4 to 1.12e-3 |
//! | `int4-g64` | `fast` | 2.8e-4 | 1.30e-3 |
//! | `iq4_xs`, `mxfp4` | `fast` | 1.3e-7 | 1.25e-3 to 1.34e-3 |
//! | `bf16` | `fast` | 1.2e-7 | 2.2e-5 |
//! | `q3_k`, `affine3` | `fast` | 3.0e-4 to 3.3e-4 | 1.31e-3 to 1.42e-3 |
//! | `q2_k` ([`Recipe::Fine`]) | `fast` | 4.8e-4 | 4.8e-4 |
//! | `affine2` ([`Recipe::Fine`]) | `fast` | 9.6e-4 | 7.2e-4 |
//! | `tq1_0`, `tq2_0` ([`Recipe::Fine`]) | `fast` | 1.6e-5 | 1.15e-3 |
//! | `ptq1_0`, `pq2_0`, `q2_0` ([`Recipe::Finer`]) | `fast` | 1.2e-5 to 1.4e-5 | 8.7e-4 to 1.02e-3 |
//! | `affine1` ([`Recipe::Finer`]) | `fast` | 2.4e-5 | 1.90e-3 |
//! | `int8` | `int8` | 2.33e-3 | 2.36e-3 |
//! | `int4` | `int8` | 2.63e-3 | 2.72e-3 |
//! | `int8-g64`, `int8-g128`, `int4-g128` | `int8` | 2.30e-3 to 2.56e-3 | 2.35e-3 to 2.56e-3 |
//!
//! Most of it comes from the activations, of the prompt's because more columns share a scale. Models of two
//! bits are thrown off more by the same noise: with [`Recipe::Panel`], prompts of `q2_k` cost 2.28e-3 and of
//! `affine2` 4.14e-3; with [`Recipe::Fine`], those of `affine1` cost 1.99e-2 and of `ptq1_0`, `pq2_0` and `q2_0`
//! 3.7e-2 to 5.5e-2; with [`Recipe::Block`], generated rows of all these cost 3e-2 to 8e-2.
//!
//! # Panels
//! [`Recipe::Panel`] turns the weights of a row in 256 columns into int8 with one scale. Their codes `q`
//! are in runs, each with a scale `s` and an offset `o` (for K-quants `scale * scales[run]` and
//! `-(minimum * minimums[run])`): a weight is `s * (q - zero) + o`. Then, in `f32` (`fma` rounds once):
//!
//! ```text
//! largest = the largest |fma(s, q - zero, o)| over runs for the least and the greatest q there can be
//!           (for signed codes -127 and 127)
//! scale   = largest / 127
//! inverse = 1 / scale, or 0 if the scale is below 2^-100 or not finite
//!
//! codes of up to six bits, modulo 2^16:
//! factor  = round(s * inverse * 2^8)
//! summand = round(o * inverse * 2^8) - zero * factor + 2^7
//! code    = (q * factor + summand) >> 8
//!
//! codes of eight bits, with middle = 0 for signed ones and else 128:
//! factor  = round(s * inverse * 2^15), within -32767 to 32767
//! summand = round(fma(middle - zero, s, o) * inverse * 2^8) + 2^7
//! code    = ((((q - middle) * 2^8 * factor + 2^14) >> 15) + summand) >> 8, the sum within 16 bits
//! ```
//!
//! with rounds to even and arithmetic shifts. No weight is farther from `scale * code` than 0.63 scales. What
//! the shift drops, less the `2^7`, is the code of the rest in [`Recipe::Finer`]: no weight is then farther than
//! a hundredth of a scale.
//! Where all weights in the 256 columns have one scale and no offset (`int8`, `int4`, `int8-g256`,
//! `int4-g256`), that is the panel's scale, and its codes are `q - zero`, exactly. Codecs without
//! [`Codec::codes`] are unpacked to floats, which are quantized as activations are.

pub(crate) mod activations;
pub(crate) mod panel;

use keeve_codec::{Codec, Float, Group};
use keeve_graph::{Activations, Phase, RowRounding, Scheme};

use crate::isa::Isa;
use crate::packed::tiles::BLOCK;
use crate::scheme::activations::Rounding;
use crate::scheme::panel::PANEL_COLS;

/// Bits after the point in the arithmetic of panels.
pub(crate) const FRACTION_BITS: u32 = 8;
/// Bits after the point in the factors for codes of eight bits.
pub(crate) const WIDE_FACTOR_BITS: u32 = 15;
/// The scale of what a panel's codes leave, over theirs.
pub(crate) const REST_SCALE: f32 = 1.0 / (1u32 << FRACTION_BITS) as f32;
/// The largest code of a panel.
pub(crate) const PANEL_TOP: f32 = 127.0;
/// Panels whose scale is below this are zeros.
pub(crate) const LEAST_PANEL_SCALE: f32 = 1.0 / (1u128 << 100) as f32;
/// The most columns of a row whose products with int8 are summed up in `i32`: 2^17 * 127 * 128 < 2^31.
pub(crate) const MOST_TOKEN_COLS: usize = 1 << 17;

/// How a product is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recipe {
    /// Nothing is quantized.
    Float,
    /// Activations and weights are rounded to bf16. Products are exact in `f32`, and so are added up.
    Bf16,
    /// Activations have a scale for each 32 columns, [`Rounding::HalfEven`]. Products with weights as they
    /// are stored are exact in `i32` within these, small integer scales included, and then summed up in
    /// `f32`: within the columns that share a float scale first.
    Block,
    /// Activations in two parts as [`Recipe::Fine`] has them. Products with weights as they are stored are
    /// exact in `i32` within the columns that share all scales; then, in their order, with `scale` and
    /// `offset` those of the weights: `p = x_scale[0] * product[0]`, `p = fma(product[1], x_scale[1], p)`,
    /// `y = fma(scale, p, y)`, and if there are offsets, with sums of activations in place of products,
    /// `y = fma(offset, s, y)`. For weights of two or three values, whose models noise throws off most.
    FineBlock,
    /// Activations have a scale for each 256 columns, [`Rounding::HalfEven`], and so have weights, which
    /// are quantized to int8: see above. Products are exact in `i32` within these.
    Panel,
    /// [`Recipe::Panel`] with activations in two parts: int8, and int8 of what that leaves, with a scale
    /// that is 254 times smaller. Both are multiplied, one block of 256 columns after the other. For
    /// weights of about two bits, whose models noise throws off more.
    Fine,
    /// [`Recipe::Fine`] with weights in two parts as well: a panel's codes, and what the fixed-point
    /// arithmetic below drops, which are int8 with a scale that is 256 times smaller. A block is multiplied
    /// three times: the first part of the weights with both of the activations, the second with the first.
    /// For weights of one or two bits with several scales in 256 columns, and models that noise throws off
    /// most.
    Finer,
    /// W8A8 and W4A8 as Cider has them and compressed-tensors: activations have one scale for a row, and so
    /// have weights. Products are exact in `i32` over the whole row.
    Token(RowRounding),
    /// The same for weights with a scale for each group of columns. Products are exact in `i32` over a
    /// group; then, in the order of groups, `y = fma(product, weight scale, y)`, and at last
    /// `y *= activation scale`.
    Grouped {
        /// How rows become int8.
        rounding: RowRounding,
        /// Columns of a group, at most 256.
        group: usize,
    },
}

impl Recipe {
    /// What it is called: see [`recipe_names`].
    pub fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::Float => "float",
            Self::Block => "block",
            Self::Panel => "panel",
            Self::Fine | Self::FineBlock => "fine",
            Self::Finer => "finer",
            Self::Token(_) => "token",
            Self::Grouped { .. } => "grouped",
        }
    }

    /// Columns of activations that share a scale, which may be more than there are.
    pub fn span(self) -> usize {
        match self {
            Self::Block => BLOCK,
            Self::FineBlock | Self::Panel | Self::Fine | Self::Finer => PANEL_COLS,
            Self::Token(_) | Self::Grouped { .. } | Self::Bf16 | Self::Float => usize::MAX,
        }
    }

    /// Blocks of codes that 256 columns of activations become.
    pub fn parts(self) -> usize {
        match self {
            Self::Fine | Self::FineBlock | Self::Finer => 2,
            _ => 1,
        }
    }

    /// How activations are rounded.
    pub fn rounding(self) -> Rounding {
        match self {
            Self::Block
            | Self::FineBlock
            | Self::Panel
            | Self::Fine
            | Self::Finer
            | Self::Bf16
            | Self::Float => Rounding::HalfEven,
            Self::Token(rounding) | Self::Grouped { rounding, .. } => match rounding {
                RowRounding::Cider => Rounding::HalfAway,
                RowRounding::CompressedTensors => Rounding::WholeRange,
            },
        }
    }
}

/// The recipes of a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Recipes {
    /// For rows of generated tokens.
    pub generated: Recipe,
    /// For rows of prompts.
    pub prompt: Recipe,
}

impl Recipes {
    /// The rows that each recipe is for, if there are any.
    pub fn rows(self, phases: &[Phase]) -> Vec<(Vec<usize>, Recipe)> {
        let Self { generated, prompt } = self;
        let mut all = match generated == prompt {
            true => vec![((0..phases.len()).collect(), prompt)],
            false => vec![
                (rows_of(phases, Phase::Generated), generated),
                (rows_of(phases, Phase::Prompt), prompt),
            ],
        };
        all.retain(|(rows, _)| !rows.is_empty());
        all
    }

    /// Nothing is quantized.
    pub const FLOAT: Self = Self { generated: Recipe::Float, prompt: Recipe::Float };
    /// For weights of bf16, for all under `bf16`, and where a unit multiplies bf16 in tiles for codecs that can only be
    /// unpacked: it is the unit for many rows that needs bf16.
    const FLOAT_AND_BF16: Self = Self { generated: Recipe::Float, prompt: Recipe::Bf16 };
    /// What is fastest, and rough with activations that have outliers.
    const FAST: Self = Self { generated: Recipe::Block, prompt: Recipe::Panel };
    /// What leaves activations nearly as they are where there are many rows. Also what weights of about two bits
    /// need, whose models noise throws off more.
    const FINE: Self = Self { generated: Recipe::Block, prompt: Recipe::Fine };
    /// The same where a unit multiplies bf16 in tiles.
    const BLOCK_AND_BF16: Self = Self { generated: Recipe::Block, prompt: Recipe::Bf16 };
    /// [`Recipes::FINE`] for weights of -1, 0 and 1 with one scale in 256 columns.
    const TERNARY: Self = Self { generated: Recipe::FineBlock, prompt: Recipe::Fine };
    /// The same for weights of two or three values with more scales.
    const TERNARY_BY_GROUP: Self = Self { generated: Recipe::FineBlock, prompt: Recipe::Finer };
    /// For codecs that can only be unpacked.
    const UNPACKED: Self = Self { generated: Recipe::Float, prompt: Recipe::Panel };
    /// The same with activations nearly as they are.
    const UNPACKED_FINE: Self = Self { generated: Recipe::Float, prompt: Recipe::Fine };

    /// A scheme in both phases (but [`Scheme::Bf16`], which is for prompts), if there are products of the codec by
    /// it.
    pub fn of(scheme: Scheme, codec: Codec) -> Option<Self> {
        let recipe = match scheme {
            Scheme::Float => return Some(Self::FLOAT),
            Scheme::Bf16 => return Some(Self::FLOAT_AND_BF16),
            Scheme::Block => Recipe::Block,
            Scheme::Panel => Recipe::Panel,
            Scheme::Fine => Recipe::Fine,
            Scheme::Finer => Recipe::Finer,
        };
        match (codec.codes(), recipe) {
            (None, Recipe::Block | Recipe::Finer) => None,
            // Kernels for codes of one bit want activations in parts.
            (Some(codes), Recipe::Block) if codes.bits < 2 => None,
            // Generated rows of these have no kernel but that for floats.
            (None, _) => Some(Self { generated: Recipe::Float, prompt: recipe }),
            (Some(codes), Recipe::Finer) if codes.bits > 2 => None,
            (Some(_), _) => Some(Self { generated: recipe, prompt: recipe }),
        }
    }

    /// The table above, on a machine of `isa`.
    pub fn choose(codec: Codec, activations: Activations, rounding: RowRounding, isa: Isa) -> Self {
        let auto = activations == Activations::Auto;
        match (activations, codec) {
            (Activations::Float, _) => Self::FLOAT,
            (Activations::Bf16, _) | (_, Codec::Float(Float::Bf16)) => Self::FLOAT_AND_BF16,
            (_, Codec::Float(_)) => Self::FLOAT,
            _ if codec.codes().is_none() && auto && isa.has_bf16_tiles() => Self::FLOAT_AND_BF16,
            _ if codec.codes().is_none() && (auto || is_coarse(codec)) => Self::UNPACKED_FINE,
            _ if codec.codes().is_none() => Self::UNPACKED,
            (
                Activations::Int8,
                Codec::Int8 { group: Group::Row, .. } | Codec::Int4 { group: Group::Row, .. },
            ) => Self { generated: Recipe::Token(rounding), prompt: Recipe::Token(rounding) },
            (
                Activations::Int8,
                Codec::Int8 { group: Group::Of(group), .. }
                | Codec::Int4 { group: Group::Of(group), .. },
            ) => {
                let recipe = Recipe::Grouped { rounding, group: group.into() };
                Self { generated: recipe, prompt: recipe }
            }
            (_, Codec::Tq1_0 | Codec::Tq2_0) => Self::TERNARY,
            (_, Codec::Ptq1_0 | Codec::Pq2_0 | Codec::Q2_0 | Codec::Affine { bits: 1, .. }) => {
                Self::TERNARY_BY_GROUP
            }
            _ if auto && isa.has_bf16_tiles() => Self::BLOCK_AND_BF16,
            _ if auto || is_coarse(codec) => Self::FINE,
            _ => Self::FAST,
        }
    }
}

/// What the recipes of products are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecipeNames {
    /// That for rows of generated tokens.
    pub generated: &'static str,
    /// That for rows of prompts.
    pub prompt: &'static str,
}

/// How products with weights of a codec are made in a mode on a machine of `isa`, by name: `float`, `bf16`, `block` (activations
/// with a scale for each 32 columns), `panel` (activations and weights with one for each 256), `fine` (the
/// same or weights as stored, activations in two parts), `finer` (weights in two parts as well), `token` (one
/// for each row of both) and `grouped` (one for each row of activations, weights by their groups).
pub fn recipe_names(codec: Codec, activations: Activations, isa: Isa) -> RecipeNames {
    let recipes = Recipes::choose(codec, activations, RowRounding::default(), isa);
    RecipeNames { generated: recipes.generated.name(), prompt: recipes.prompt.name() }
}

/// The rows of a phase.
fn rows_of(phases: &[Phase], phase: Phase) -> Vec<usize> {
    (0..phases.len()).filter(|&row| phases[row] == phase).collect()
}

/// Whether weights have about two bits, or fewer.
fn is_coarse(codec: Codec) -> bool {
    let geometry = codec.geometry();
    match codec.codes() {
        Some(codes) => codes.bits <= 2,
        None => geometry.block_bytes * 8 < 3 * geometry.block,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(codec: &str, activations: Activations, isa: Isa) -> [&'static str; 2] {
        let names = recipe_names(codec.parse().unwrap(), activations, isa);
        [names.generated, names.prompt]
    }

    #[test]
    fn auto_rounds_prompts_less_than_fast_does() {
        for (isa, near) in [(Isa::Avx512, "fine"), (Isa::I8mm, "fine"), (Isa::Amx, "bf16")] {
            for codec in ["q4_0", "q4_1", "q4_k", "q6_k", "q8_0", "affine4-g64", "int8", "int4-g64"]
            {
                assert_eq!(chosen(codec, Activations::Auto, isa), ["block", near], "{codec}");
                assert_eq!(chosen(codec, Activations::Fast, isa), ["block", "panel"], "{codec}");
            }
            for codec in ["iq4_xs", "mxfp4"] {
                assert_eq!(chosen(codec, Activations::Auto, isa), ["float", near], "{codec}");
                assert_eq!(chosen(codec, Activations::Fast, isa), ["float", "panel"], "{codec}");
            }
            for codec in ["q2_k", "affine2-g64"] {
                assert_eq!(chosen(codec, Activations::Auto, isa), ["block", near], "{codec}");
                assert_eq!(chosen(codec, Activations::Fast, isa), ["block", "fine"], "{codec}");
            }
            for codec in ["tq2_0", "q2_0", "affine1-g64", "bf16", "f16"] {
                let [auto, fast] =
                    [Activations::Auto, Activations::Fast].map(|mode| chosen(codec, mode, isa));
                assert_eq!(auto, fast, "{codec}");
            }
        }
    }

    #[test]
    fn schemes_are_had_where_there_are_kernels() {
        let of = |scheme, codec: &str| Recipes::of(scheme, codec.parse().unwrap()).is_some();
        for codec in ["q4_k", "int8", "mxfp4", "affine1-g64", "bf16"] {
            for scheme in [Scheme::Float, Scheme::Bf16, Scheme::Panel, Scheme::Fine] {
                assert!(of(scheme, codec), "{scheme} {codec}");
            }
        }
        assert!(of(Scheme::Block, "q4_k") && of(Scheme::Block, "q2_k"));
        assert!(!of(Scheme::Block, "mxfp4") && !of(Scheme::Block, "affine1-g64"));
        assert!(
            of(Scheme::Finer, "q2_0") && !of(Scheme::Finer, "q4_k") && !of(Scheme::Finer, "mxfp4")
        );
    }
}
