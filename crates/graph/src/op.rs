//! The closed set of operations. Adding one makes every backend fail to compile until it says what
//! it does with it.

use crate::graph::{RopeId, ValueId, WeightId};
use crate::state::StateRef;
use crate::step::Want;

/// A function of one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UnaryOp {
    /// `x * sigmoid(x)`.
    Silu,
    /// `x * Phi(x)`, `Phi` being the normal distribution's: `x / 2 * (1 + erf(x / sqrt 2))`.
    Gelu,
    /// `x * Phi(x)`, approximated with tanh.
    GeluTanh,
    /// Hyperbolic tangent.
    Tanh,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `max(x, 0)^2`.
    SquaredRelu,
}

/// A function of two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BinaryOp {
    /// Sum.
    Add,
    /// Product.
    Mul,
}

/// Attention with grouped heads, over a sequence's state and its own rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// What products of queries and keys are multiplied by.
    pub scale: f32,
    /// Sliding window: the query at position `i` sees keys `j` with `i - window < j <= i`.
    pub window: Option<usize>,
    /// Scores become `cap * tanh(score / cap)`.
    pub soft_cap: Option<f32>,
    /// Whether a row sees only itself and what came before it. Otherwise it sees all rows of its
    /// sequence, which must come in one step.
    pub causal: bool,
}

/// One operation with its operands.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// Rows of `table` chosen by the step's ids; for rows that the step gives, their first columns
    /// instead.
    Embed {
        /// `[vocabulary, width]`.
        table: WeightId,
    },
    /// Columns of the rows that the step gives (see [`crate::Step`]) from `start` on, as many
    /// as the value is wide; zeros for rows that it gives nothing for.
    Given {
        /// The first column.
        start: usize,
    },
    /// `x * weight^T + bias`. The weight may be in any codec.
    Linear {
        /// `[rows, K]`.
        x: ValueId,
        /// `[N, K]`.
        weight: WeightId,
        /// `[N]`.
        bias: Option<WeightId>,
    },
    /// `x / sqrt(mean(x^2) + eps) * weight`, over each run of `weight`'s length in a row (so that
    /// one node normalizes every head).
    RmsNorm {
        /// `[rows, a multiple of the weight's length]`.
        x: ValueId,
        /// Gains; 1 is added to them if the weight says so.
        weight: WeightId,
        /// Added to the mean.
        eps: f32,
    },
    /// `(x - mean(x)) / sqrt(variance(x) + eps) * weight + bias`, over each run of `weight`'s length in
    /// a row; the variance is the mean of squared differences.
    LayerNorm {
        /// `[rows, a multiple of the weight's length]`.
        x: ValueId,
        /// Gains.
        weight: WeightId,
        /// What is added, as many.
        bias: WeightId,
        /// Added to the variance.
        eps: f32,
    },
    /// Turns each head of `x` by its row's positions.
    Rope {
        /// `[Tokens, heads * head_dim]`.
        x: ValueId,
        /// The table.
        rope: RopeId,
        /// Width of a head; at least twice the table's length.
        head_dim: usize,
    },
    /// Appends `k` and `v` to the state, then attends to it.
    Attention {
        /// `[Tokens, heads * head_dim]`.
        q: ValueId,
        /// `[Tokens, kv_heads * head_dim]`.
        k: ValueId,
        /// `[Tokens, kv_heads * head_dim]`.
        v: ValueId,
        /// The state that is read; the operation's new state is its successor.
        state: StateRef,
        /// Heads and mask.
        spec: Attention,
    },
    /// A function of each number.
    Unary {
        /// Any shape.
        x: ValueId,
        /// Which function.
        function: UnaryOp,
    },
    /// A function of each pair of numbers.
    Binary {
        /// Any shape.
        a: ValueId,
        /// The same shape.
        b: ValueId,
        /// Which function.
        function: BinaryOp,
    },
    /// `x * by`.
    Scale {
        /// Any shape.
        x: ValueId,
        /// The factor.
        by: f32,
    },
    /// Each row of `x` times the one number that `by` has for it.
    ScaleRows {
        /// `[rows, width]`.
        x: ValueId,
        /// `[rows, 1]`.
        by: ValueId,
    },
    /// The columns of `x` from `start` on, as many as the value is wide.
    Slice {
        /// `[rows, width]`.
        x: ValueId,
        /// The first column.
        start: usize,
    },
    /// Rounds each row as models that are trained with 8-bit activations do, and keeps it in
    /// floats: `clamp(round(x * s), -128, 127) / s` with `s = 127 / max(|x|, 1e-5)` over the row,
    /// halves to even.
    RoundRows {
        /// `[rows, width]`.
        x: ValueId,
    },
    /// Chooses experts: the `chosen` largest values of the softmax of each row, the largest first
    /// and of equal ones the first. A row of the result holds their numbers, then their weights.
    Router {
        /// Scores, `[rows, experts]`.
        x: ValueId,
        /// How many are chosen: half the width of the result.
        chosen: usize,
        /// Whether the weights are divided by their sum.
        normalize: bool,
    },
    /// Products with the weights of each row's experts, one after another in the router's order:
    /// `[rows, chosen * N]`.
    ExpertLinear {
        /// `[rows, K]`, or `[rows, chosen * K]` if each expert has an input of its own.
        x: ValueId,
        /// What [`Op::Router`] gave.
        router: ValueId,
        /// `[experts, N, K]`, in any codec.
        weight: WeightId,
    },
    /// The sum of what each row's experts gave, times their weights, in the router's order.
    ExpertSum {
        /// `[rows, chosen * N]`.
        x: ValueId,
        /// What [`Op::Router`] gave.
        router: ValueId,
    },
    /// The rows that ask for an output, in order.
    SelectRows {
        /// `[Tokens, width]`.
        x: ValueId,
        /// What they ask for.
        want: Want,
    },
}

impl Op {
    /// The name that errors, profiles and prints use.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Embed { .. } => "embed",
            Self::Given { .. } => "given",
            Self::Linear { .. } => "linear",
            Self::RmsNorm { .. } => "rms_norm",
            Self::LayerNorm { .. } => "layer_norm",
            Self::Rope { .. } => "rope",
            Self::Attention { .. } => "attention",
            Self::Unary { .. } => "unary",
            Self::Binary { .. } => "binary",
            Self::Scale { .. } => "scale",
            Self::ScaleRows { .. } => "scale_rows",
            Self::Slice { .. } => "slice",
            Self::RoundRows { .. } => "round_rows",
            Self::Router { .. } => "router",
            Self::ExpertLinear { .. } => "expert_linear",
            Self::ExpertSum { .. } => "expert_sum",
            Self::SelectRows { .. } => "select_rows",
        }
    }

    /// The values it reads.
    pub fn operands(&self) -> impl Iterator<Item = ValueId> {
        let operands = match *self {
            Self::Embed { .. } | Self::Given { .. } => [None; 3],
            Self::Linear { x, .. }
            | Self::RmsNorm { x, .. }
            | Self::LayerNorm { x, .. }
            | Self::Rope { x, .. }
            | Self::Unary { x, .. }
            | Self::Scale { x, .. }
            | Self::Slice { x, .. }
            | Self::RoundRows { x }
            | Self::Router { x, .. }
            | Self::SelectRows { x, .. } => [Some(x), None, None],
            Self::Binary { a, b, .. } => [Some(a), Some(b), None],
            Self::ScaleRows { x, by } => [Some(x), Some(by), None],
            Self::ExpertLinear { x, router, .. } | Self::ExpertSum { x, router } => {
                [Some(x), Some(router), None]
            }
            Self::Attention { q, k, v, .. } => [Some(q), Some(k), Some(v)],
        };
        operands.into_iter().flatten()
    }

    /// The weights it reads.
    pub fn weights(&self) -> impl Iterator<Item = WeightId> {
        let weights = match *self {
            Self::Embed { table } => [Some(table), None],
            Self::Linear { weight, bias, .. } => [Some(weight), bias],
            Self::LayerNorm { weight, bias, .. } => [Some(weight), Some(bias)],
            Self::RmsNorm { weight, .. } | Self::ExpertLinear { weight, .. } => {
                [Some(weight), None]
            }
            Self::Given { .. }
            | Self::Rope { .. }
            | Self::Attention { .. }
            | Self::Unary { .. }
            | Self::Binary { .. }
            | Self::Scale { .. }
            | Self::ScaleRows { .. }
            | Self::Slice { .. }
            | Self::RoundRows { .. }
            | Self::Router { .. }
            | Self::ExpertSum { .. }
            | Self::SelectRows { .. } => [None; 2],
        };
        weights.into_iter().flatten()
    }

    /// Whether its value may be written over its first operand as it is computed: each number of
    /// the result depends only on the numbers at the same place in the operands.
    pub fn in_place(&self) -> bool {
        matches!(self, Self::Unary { .. } | Self::Binary { .. } | Self::Scale { .. })
    }
}
