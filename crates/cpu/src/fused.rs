//! Products that are used where they are made: gates open what they open and sums are added to before a
//! result is written, and what is between is never held. The same numbers are combined in the same way, so
//! no bit of a result depends on it.

use keeve_graph::{BinaryOp, Graph, Op, Phase, UnaryOp, ValueId, WeightId};

use crate::backend::LoadedWeight;
use crate::bf16_linear::Bf16Linear;
use crate::gemm::Ending;
use crate::inputs::Input;
use crate::int_linear::IntLinear;
use crate::linear::PackedLinear;
use crate::pool::Pool;

/// How a value is made together with the products that it reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fused {
    /// `silu(x gate^T) * (x up^T)`.
    Gated {
        /// What is multiplied with both.
        x: ValueId,
        /// The gate's weight.
        gate: WeightId,
        /// The other's.
        up: WeightId,
        /// Whether rows of prompts are only quantized: nobody but a product reads them.
        codes: bool,
    },
    /// `to + (x weight^T + bias)`.
    Added {
        /// What is added to.
        to: ValueId,
        /// What is multiplied.
        x: ValueId,
        /// By what.
        weight: WeightId,
        /// What else is added.
        bias: Option<WeightId>,
    },
}

/// What is fused in a graph.
pub(crate) struct Fusions {
    /// Of each value that is made so.
    pub of: Vec<Option<Fused>>,
    /// Of each value: whether it is never made, because the one that reads it is made so.
    pub within: Vec<bool>,
}

impl Fusions {
    /// Fuses what can be: values in `kept` and outputs are made by themselves.
    pub fn find(graph: &Graph, weights: &[LoadedWeight], kept: &[ValueId]) -> Self {
        let mut readers = vec![0; graph.nodes().len()];
        let operands = graph.nodes().iter().flat_map(|node| node.op.operands());
        operands.for_each(|operand| readers[operand.index()] += 1);
        let outputs: Vec<_> = graph.outputs().iter().map(|output| output.value).collect();
        let inner = |value: ValueId| {
            readers[value.index()] == 1 && !kept.contains(&value) && !outputs.contains(&value)
        };
        let fusible = |weight: WeightId| fusible(weights, weight);
        // The weight of the product that reads a value.
        let reader = |value: ValueId| {
            graph.nodes().iter().find_map(|node| match node.op {
                Op::Linear { x, weight, .. } if x == value => fusible(weight),
                _ => None,
            })
        };
        let product = |value: ValueId| match graph.node(value).op {
            Op::Linear { x, weight, bias } if inner(value) => {
                fusible(weight).map(|linear| (x, weight, bias, linear))
            }
            _ => None,
        };
        let mut fusions =
            Self { of: vec![None; readers.len()], within: vec![false; readers.len()] };
        for value in graph.values() {
            let Op::Binary { a, b, function } = graph.node(value).op else { continue };
            let Some((x, weight, bias, linear)) = product(b) else { continue };
            let opened = match graph.node(a).op {
                Op::Unary { x, function: UnaryOp::Silu } if inner(a) => Some(x),
                _ => None,
            };
            match (function, opened.and_then(|gate| Some((gate, product(gate)?)))) {
                (BinaryOp::Add, _) => {
                    fusions.of[value.index()] = Some(Fused::Added { to: a, x, weight, bias });
                    fusions.within[b.index()] = true;
                }
                (BinaryOp::Mul, Some((gate, (gate_x, gate_weight, None, gate_linear))))
                    if gate_x == x && bias.is_none() && gate_linear.can_gate(linear) =>
                {
                    let codes = inner(value)
                        && reader(value).is_some_and(|next| linear.makes_codes_for(next));
                    let fused = Fused::Gated { x, gate: gate_weight, up: weight, codes };
                    fusions.of[value.index()] = Some(fused);
                    for inner in [a, b, gate] {
                        fusions.within[inner.index()] = true;
                    }
                }
                (BinaryOp::Mul, _) => {}
            }
        }
        fusions
    }
}

/// The weight, if its products can be used where they are made.
pub(crate) fn fusible(weights: &[LoadedWeight], weight: WeightId) -> Option<Fusible<'_>> {
    weights[weight.index()].linear.as_ref()?.fusible()
}

/// A weight whose products can be used where they are made.
#[derive(Clone, Copy)]
pub(crate) enum Fusible<'a> {
    /// Multiplied in integers.
    Int(&'a IntLinear),
    /// Multiplied in bf16.
    Bf16(&'a Bf16Linear),
}

impl Fusible<'_> {
    /// Bytes that a product reads.
    pub fn bytes(self) -> usize {
        match self {
            Self::Int(linear) => PackedLinear::bytes(linear),
            Self::Bf16(linear) => PackedLinear::bytes(linear),
        }
    }

    /// Whether `silu` of its products may be multiplied by those of `other` where both are made.
    fn can_gate(self, other: Self) -> bool {
        match (self, other) {
            (Self::Int(gate), Self::Int(up)) => gate.can_gate(up),
            (Self::Bf16(gate), Self::Bf16(up)) => gate.can_gate(up),
            _ => false,
        }
    }

    /// Whether what a gate makes can go into `next` as it was quantized where it was made.
    fn makes_codes_for(self, next: Self) -> bool {
        match (self, next) {
            (Self::Int(gate), Self::Int(next)) => gate.makes_codes_for(next),
            _ => false,
        }
    }

    /// `out[r] = silu(x[r] . weights) * (x[r] . up)`. `codes_of`: see [`IntLinear::gate`].
    ///
    /// # Panics
    /// If [`Self::can_gate`] or [`Self::makes_codes_for`] said otherwise.
    pub fn gate(
        self,
        up: Self,
        codes_of: Option<ValueId>,
        x: Input<'_>,
        phases: &[Phase],
        out: &mut [f32],
        pool: &Pool,
    ) {
        match (self, up) {
            (Self::Int(gate), Self::Int(up)) => gate.gate(up, codes_of, x, phases, out, pool),
            (Self::Bf16(gate), Self::Bf16(up)) => gate.gate(up, x, phases, out, pool),
            _ => unreachable!("weights that may gate each other"),
        }
    }

    /// As [`PackedLinear::forward`], with an ending that is not of a gate.
    pub fn forward_with(
        self,
        ending: Ending,
        x: &mut Input<'_>,
        phases: &[Phase],
        bias: Option<&[f32]>,
        out: &mut [f32],
        pool: &Pool,
    ) {
        match self {
            Self::Int(linear) => linear.forward_with(ending, x, phases, bias, out, pool),
            Self::Bf16(linear) => linear.forward_with(ending, x, phases, bias, out, pool),
        }
    }
}
