//! What a checkpoint says about the inputs of its weights: to which numbers they are rounded before they are
//! multiplied.

use std::fmt;

/// How the inputs of a weight's products were rounded when the model was made, and so shall be when it runs.
///
/// This is what the file says. Whether a run does it is for the run to decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ActivationScheme {
    /// Whose arithmetic it is.
    pub rule: ActivationRule,
    /// Which inputs share a scale.
    pub strategy: ActivationStrategy,
    /// Bits of a number.
    pub bits: u8,
    /// Whether they are small floats (E4M3 for 8 bits, E2M1 for 4) instead of integers.
    pub float: bool,
    /// Whether zero stays zero; else there are zero points.
    pub symmetric: bool,
    /// Whether scales come from the inputs as they are met. Otherwise a tensor `<module>.input_scale` has
    /// them (`<module>.input_zero_point` where they are not symmetric).
    pub dynamic: bool,
}

/// How a scale comes from the largest magnitude `a` of the inputs that share it, and a number from the scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ActivationRule {
    /// vllm-project/compressed-tensors `quantization/utils/helpers.py`: for symmetric integers of `b` bits the scale
    /// is `a / ((2^b - 1) / 2)`, 127.5 for 8; a number is `x / scale`, half to even. For floats it is `a` over
    /// their largest value.
    CompressedTensors,
    /// huggingface/transformers `integrations/bitnet.py`: the factor is `127 / max(a, 1e-5)`; a number is
    /// `x * factor`, half to even, from -128 to 127.
    BitNet,
    /// huggingface/transformers `integrations/finegrained_fp8.py`: the scale is `a / 448`; a number is the
    /// nearest E4M3 float to `x / scale`.
    Fp8,
}

/// Which inputs share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ActivationStrategy {
    /// All of them.
    Tensor,
    /// Those of a token.
    Token,
    /// This many neighbours of a token's.
    Group(usize),
}

impl fmt::Display for ActivationScheme {
    /// Such as `int8 per token, dynamic`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers = if self.float { "fp" } else { "int" };
        write!(f, "{numbers}{} ", self.bits)?;
        match self.strategy {
            ActivationStrategy::Tensor => write!(f, "per tensor")?,
            ActivationStrategy::Token => write!(f, "per token")?,
            ActivationStrategy::Group(columns) => write!(f, "per {columns} columns of a token")?,
        }
        f.write_str(if self.dynamic { ", dynamic" } else { ", static" })?;
        f.write_str(if self.symmetric { "" } else { ", asymmetric" })
    }
}
