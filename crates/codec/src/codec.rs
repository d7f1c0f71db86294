//! The codecs' names and geometry. Nothing outside this file matches on format names to learn sizes.

use std::fmt;
use std::str::FromStr;

use crate::Error;
use crate::mlx_fp::{MX_GROUP, NV_GROUP};

/// A storage type of plain floats, also used for scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Float {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
}

impl Float {
    /// Bytes of one value.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// `f32`, `f16` or `bf16`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }
}

/// How many weights of a row share one scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Group {
    /// The whole row (output channel).
    Row,
    /// This many neighbours along the row.
    Of(u16),
}

/// A packed weight format.
///
/// The ggml codecs keep scales inside their blocks; the others keep them in parts of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codec {
    /// Plain floats.
    Float(Float),
    /// ggml: 32 weights, 4 bits, one scale.
    Q4_0,
    /// ggml: 32 weights, 4 bits, scale and minimum.
    Q4_1,
    /// ggml: 32 weights, 5 bits, one scale.
    Q5_0,
    /// ggml: 32 weights, 5 bits, scale and minimum.
    Q5_1,
    /// ggml: 32 weights, 8 bits, one scale.
    Q8_0,
    /// ggml K-quant, 2 bits.
    Q2K,
    /// ggml K-quant, 3 bits.
    Q3K,
    /// ggml K-quant, 4 bits.
    Q4K,
    /// ggml K-quant, 5 bits.
    Q5K,
    /// ggml K-quant, 6 bits.
    Q6K,
    /// ggml: 32 weights, 4 bits that choose from uneven levels, one scale.
    Iq4Nl,
    /// ggml: as [`Codec::Iq4Nl`], 8 runs with small scales in a super-block.
    Iq4Xs,
    /// ggml: runs of 8 weights from a grid, 1.56 bits. Decode only, like the six below.
    Iq1S,
    /// ggml: runs of 8 weights from a grid, 1.75 bits.
    Iq1M,
    /// ggml: runs of 8 weights from a grid, 2.06 bits.
    Iq2Xxs,
    /// ggml: runs of 8 weights from a grid, 2.31 bits.
    Iq2Xs,
    /// ggml: runs of 8 weights from a grid, 2.56 bits.
    Iq2S,
    /// ggml: runs of 4 weights from a grid, 3.06 bits.
    Iq3Xxs,
    /// ggml: runs of 4 weights from a grid, 3.44 bits.
    Iq3S,
    /// ggml: 256 weights of -1, 0 or 1 as base-3 digits, one scale.
    Tq1_0,
    /// ggml: 256 weights, 2 bits, one scale.
    Tq2_0,
    /// ggml: the signs of 128 weights, one scale.
    Q1_0,
    /// ggml: 64 weights, 2 bits, one scale.
    Q2_0,
    /// mlx-kquant: 128 weights, 2 bits, one scale.
    Pq2_0,
    /// mlx-kquant: 128 weights of -1, 0 or 1 as base-3 digits, one scale.
    Ptq1_0,
    /// ggml's mxfp4: 32 E2M1 floats, the halves in the low and high nibbles, behind a power of two.
    /// MLX's is [`Codec::MlxMxfp4`].
    Mxfp4,
    /// ggml's nvfp4: 64 E2M1 floats, an E4M3 scale for each 16. MLX's is [`Codec::MlxNvfp4`].
    Nvfp4,
    /// MLX's mode mxfp4: E2M1 floats in order, powers of two for each 32. Parts: `data`, `scales` u8.
    MlxMxfp4,
    /// MLX's mode mxfp8: E4M3 floats, powers of two for each 32. Parts: `data`, `scales` u8.
    MlxMxfp8,
    /// MLX's mode nvfp4: E2M1 floats in order, E4M3 scales for each 16. Parts: `data`, `scales` u8 and,
    /// if `global`, `global_scale`.
    MlxNvfp4 {
        /// Whether every matrix has one more scale, an f32 that is divided by 6 * 448.
        global: bool,
    },
    /// MLX affine: `q * scale + bias` with unsigned codes in a little-endian bit stream.
    /// Parts: `data`, `scales`, `biases`.
    Affine {
        /// Bits of a code: 1, 2, 3, 4, 5, 6 or 8.
        bits: u8,
        /// Weights that share a scale and a bias: 32, 64 or 128.
        group: u16,
        /// How scales and biases are stored.
        scale: Float,
    },
    /// Symmetric signed bytes, `q * scale`. Parts: `data` i8 `[rows, cols]`, `scales` `[rows, groups]`.
    Int8 {
        /// Weights that share a scale.
        group: Group,
        /// How scales are stored.
        scale: Float,
    },
    /// Symmetric nibbles, `(q - 8) * scale`. Parts: `data` `[rows, cols / 2]` with the even column
    /// in the low nibble, `scales` `[rows, groups]`.
    Int4 {
        /// Weights that share a scale.
        group: Group,
        /// How scales are stored.
        scale: Float,
    },
    /// E4M3 floats, `e4m3(code) * scale`. Parts: `data` u8 `[rows, cols]`, `scales` `[rows, groups]`.
    Fp8 {
        /// Weights that share a scale.
        group: Group,
        /// How scales are stored.
        scale: Float,
    },
}

/// Sizes of a codec. All lengths are along a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Weights in one block of `data`.
    pub block: usize,
    /// Bytes of one block of `data`.
    pub block_bytes: usize,
    /// Which weights share an entry of `scales`, and its bytes; `None` where scales live in the blocks
    /// or do not exist.
    pub scales: Option<(Group, usize)>,
    /// Whether a `biases` part shaped like `scales` exists.
    pub biases: bool,
    /// Whether a `global_scale` part exists: an f32 for each matrix of the stack.
    pub global_scale: bool,
}

impl Codec {
    /// Plain `f32`.
    pub const F32: Self = Self::Float(Float::F32);
    /// Plain `f16`.
    pub const F16: Self = Self::Float(Float::F16);
    /// Plain `bf16`.
    pub const BF16: Self = Self::Float(Float::Bf16);

    /// The codecs without parameters: the floats, the block codecs, and MLX's floating-point modes.
    pub const PLAIN: [Self; 34] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Iq4Nl,
        Self::Iq4Xs,
        Self::Iq1S,
        Self::Iq1M,
        Self::Iq2Xxs,
        Self::Iq2Xs,
        Self::Iq2S,
        Self::Iq3Xxs,
        Self::Iq3S,
        Self::Tq1_0,
        Self::Tq2_0,
        Self::Q1_0,
        Self::Q2_0,
        Self::Pq2_0,
        Self::Ptq1_0,
        Self::Mxfp4,
        Self::Nvfp4,
        Self::MlxMxfp4,
        Self::MlxMxfp8,
        Self::MlxNvfp4 { global: false },
        Self::MlxNvfp4 { global: true },
    ];

    /// Bit widths that MLX affine knows.
    pub const AFFINE_BITS: [u8; 7] = [1, 2, 3, 4, 5, 6, 8];
    /// Group sizes that MLX affine knows.
    pub const AFFINE_GROUPS: [u16; 3] = [32, 64, 128];
    /// Group sizes of `int8`, `int4` and `fp8`.
    pub const INT_GROUPS: [u16; 4] = [32, 64, 128, 256];

    /// Whether keeve can read and write it: false for bits and group sizes that are in none of
    /// [`Codec::AFFINE_BITS`], [`Codec::AFFINE_GROUPS`] and [`Codec::INT_GROUPS`].
    pub fn is_known(self) -> bool {
        match self {
            Self::Affine { bits, group, .. } => {
                Self::AFFINE_BITS.contains(&bits) && Self::AFFINE_GROUPS.contains(&group)
            }
            Self::Int8 { group, .. } | Self::Int4 { group, .. } | Self::Fp8 { group, .. } => {
                match group {
                    Group::Row => true,
                    Group::Of(len) => Self::INT_GROUPS.contains(&len),
                }
            }
            _ => true,
        }
    }

    /// Whether values are stored as plain floats.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::Float(_))
    }

    /// Whether it is one of the block codecs of ggml and mlx-kquant, which keep everything in `data`.
    pub const fn is_blocks(self) -> bool {
        !self.is_float() && self.geometry().scales.is_none()
    }

    /// Whether [`crate::encode`] can make it. The others are only read.
    pub const fn has_encoder(self) -> bool {
        !matches!(
            self,
            Self::Iq1S
                | Self::Iq1M
                | Self::Iq2Xxs
                | Self::Iq2Xs
                | Self::Iq2S
                | Self::Iq3Xxs
                | Self::Iq3S
                | Self::MlxNvfp4 { global: true }
        )
    }

    /// The codec's sizes.
    pub const fn geometry(self) -> Geometry {
        let (block, block_bytes) = match self {
            Self::Float(float) => (1, float.bytes()),
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q8_0 => (32, 34),
            Self::Q2K => (256, 84),
            Self::Q3K => (256, 110),
            Self::Q4K => (256, 144),
            Self::Q5K => (256, 176),
            Self::Q6K => (256, 210),
            Self::Iq4Nl => (32, 18),
            Self::Iq4Xs => (256, 136),
            Self::Iq1S => (256, 50),
            Self::Iq1M => (256, 56),
            Self::Iq2Xxs => (256, 66),
            Self::Iq2Xs => (256, 74),
            Self::Iq2S => (256, 82),
            Self::Iq3Xxs => (256, 98),
            Self::Iq3S => (256, 110),
            Self::Tq1_0 => (256, 54),
            Self::Tq2_0 => (256, 66),
            Self::Q1_0 => (128, 18),
            Self::Q2_0 => (64, 18),
            Self::Pq2_0 => (128, 34),
            Self::Ptq1_0 => (128, 28),
            Self::Mxfp4 => (32, 17),
            Self::Nvfp4 => (64, 36),
            Self::MlxMxfp4 => (MX_GROUP as usize, MX_GROUP as usize / 2),
            Self::MlxMxfp8 => (MX_GROUP as usize, MX_GROUP as usize),
            Self::MlxNvfp4 { .. } => (NV_GROUP as usize, NV_GROUP as usize / 2),
            Self::Affine { bits, group, .. } => {
                (group as usize, group as usize * bits as usize / 8)
            }
            Self::Int8 { .. } | Self::Fp8 { .. } => (1, 1),
            Self::Int4 { .. } => (2, 1),
        };
        let scales = match self {
            Self::Affine { group, scale, .. } => Some((Group::Of(group), scale.bytes())),
            Self::Int8 { group, scale }
            | Self::Int4 { group, scale }
            | Self::Fp8 { group, scale } => Some((group, scale.bytes())),
            Self::MlxMxfp4 | Self::MlxMxfp8 => Some((Group::Of(MX_GROUP), 1)),
            Self::MlxNvfp4 { .. } => Some((Group::Of(NV_GROUP), 1)),
            _ => None,
        };
        let biases = matches!(self, Self::Affine { .. });
        let global_scale = matches!(self, Self::MlxNvfp4 { global: true });
        Geometry { block, block_bytes, scales, biases, global_scale }
    }

    /// The name without the storage type of scales: `q4_k`, `affine4-g64`, `int8`, `int4-g128`. The block
    /// codecs have their usual names; of the two layouts of mxfp4 and nvfp4, MLX's begin with `mlx-`.
    pub fn name(self) -> String {
        let grouped = |base: String, group: Group| match group {
            Group::Row => base,
            Group::Of(n) => format!("{base}-g{n}"),
        };
        match self {
            Self::Float(float) => float.name().into(),
            Self::Q4_0 => "q4_0".into(),
            Self::Q4_1 => "q4_1".into(),
            Self::Q5_0 => "q5_0".into(),
            Self::Q5_1 => "q5_1".into(),
            Self::Q8_0 => "q8_0".into(),
            Self::Q2K => "q2_k".into(),
            Self::Q3K => "q3_k".into(),
            Self::Q4K => "q4_k".into(),
            Self::Q5K => "q5_k".into(),
            Self::Q6K => "q6_k".into(),
            Self::Iq4Nl => "iq4_nl".into(),
            Self::Iq4Xs => "iq4_xs".into(),
            Self::Iq1S => "iq1_s".into(),
            Self::Iq1M => "iq1_m".into(),
            Self::Iq2Xxs => "iq2_xxs".into(),
            Self::Iq2Xs => "iq2_xs".into(),
            Self::Iq2S => "iq2_s".into(),
            Self::Iq3Xxs => "iq3_xxs".into(),
            Self::Iq3S => "iq3_s".into(),
            Self::Tq1_0 => "tq1_0".into(),
            Self::Tq2_0 => "tq2_0".into(),
            Self::Q1_0 => "q1_0".into(),
            Self::Q2_0 => "q2_0".into(),
            Self::Pq2_0 => "pq2_0".into(),
            Self::Ptq1_0 => "ptq1_0".into(),
            Self::Mxfp4 => "mxfp4".into(),
            Self::Nvfp4 => "nvfp4".into(),
            Self::MlxMxfp4 => "mlx-mxfp4".into(),
            Self::MlxMxfp8 => "mlx-mxfp8".into(),
            Self::MlxNvfp4 { global: false } => "mlx-nvfp4".into(),
            Self::MlxNvfp4 { global: true } => "mlx-nvfp4-global".into(),
            Self::Affine { bits, group, .. } => grouped(format!("affine{bits}"), Group::Of(group)),
            Self::Int8 { group, .. } => grouped("int8".into(), group),
            Self::Int4 { group, .. } => grouped("int4".into(), group),
            Self::Fp8 { group, .. } => grouped("fp8".into(), group),
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name())
    }
}

impl FromStr for Codec {
    type Err = Error;

    /// Reads a [`Codec::name`] in any case, optionally followed by `-f32`, `-f16` or `-bf16` for the
    /// scales (default: bf16 for affine as MLX models mostly have, f32 for `int8`, `int4` and `fp8`).
    /// `affine4` and the like mean groups of 64.
    fn from_str(name: &str) -> Result<Self, Error> {
        let unknown = || Error::UnknownCodec(name.into());
        let lower = name.to_ascii_lowercase();
        if let Some(codec) = Self::PLAIN.into_iter().find(|codec| codec.name() == lower) {
            return Ok(codec);
        }
        let (base, float) = match lower.rsplit_once('-') {
            Some((base, "f32")) => (base, Some(Float::F32)),
            Some((base, "f16")) => (base, Some(Float::F16)),
            Some((base, "bf16")) => (base, Some(Float::Bf16)),
            _ => (lower.as_str(), None),
        };
        let scale = float.unwrap_or(Float::Bf16);
        for bits in Self::AFFINE_BITS {
            for group in Self::AFFINE_GROUPS {
                let codec = Self::Affine { bits, group, scale };
                let short = group == 64 && codec.name().strip_suffix("-g64") == Some(base);
                if short || codec.name() == base {
                    return Ok(codec);
                }
            }
        }
        let scale = float.unwrap_or(Float::F32);
        let groups = Self::INT_GROUPS.into_iter().map(Group::Of);
        [Group::Row]
            .into_iter()
            .chain(groups)
            .flat_map(|group| {
                let (int8, int4) = (Self::Int8 { group, scale }, Self::Int4 { group, scale });
                [int8, int4, Self::Fp8 { group, scale }]
            })
            .find(|codec| codec.name() == base)
            .ok_or_else(unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for codec in Codec::PLAIN {
            assert_eq!(codec.name().parse(), Ok(codec));
        }
        for bits in Codec::AFFINE_BITS {
            for group in Codec::AFFINE_GROUPS {
                let codec = Codec::Affine { bits, group, scale: Float::F16 };
                assert_eq!(format!("{codec}-f16").parse(), Ok(codec));
            }
        }
        let codec = Codec::Int8 { group: Group::Of(128), scale: Float::F32 };
        assert_eq!("int8-g128".parse(), Ok(codec));
        let codec = Codec::Int4 { group: Group::Row, scale: Float::Bf16 };
        assert_eq!("INT4-BF16".parse(), Ok(codec));
        let codec = Codec::Fp8 { group: Group::Of(128), scale: Float::F32 };
        assert_eq!("fp8-g128".parse(), Ok(codec));
        let codec = Codec::Affine { bits: 3, group: 64, scale: Float::Bf16 };
        assert_eq!("affine3".parse(), Ok(codec));
        for wrong in [
            "",
            "-",
            "q9_k",
            "q4_k-f16",
            "affine7-g64",
            "affine4-g48",
            "affine+4",
            "affine4-g+64",
            "int8-g100",
            "int8-f16-g64",
            "int8-f16-f16",
            "int8-x",
        ] {
            assert_eq!(wrong.parse::<Codec>(), Err(Error::UnknownCodec(wrong.into())));
        }
    }
}
