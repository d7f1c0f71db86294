//! Products that are used where they are made: gates open what they open and sums are added to before a
//! result is written, and what is between is never held. The same numbers are combined in the same way, so
//! no bit of a result depends on it.

use keeve_graph::{BinaryOp, Graph, Op, UnaryOp, ValueId, WeightId};

use crate::weights::LoadedWeights;

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
    pub fn find(graph: &Graph, weights: &LoadedWeights, kept: &[ValueId]) -> Self {
        let mut readers = vec![0; graph.nodes().len()];
        let operands = graph.nodes().iter().flat_map(|node| node.op.operands());
        operands.for_each(|operand| readers[operand.index()] += 1);
        let outputs: Vec<_> = graph.outputs().iter().map(|output| output.value).collect();
        let inner = |value: ValueId| {
            readers[value.index()] == 1 && !kept.contains(&value) && !outputs.contains(&value)
        };
        // The weight of the product that reads a value.
        let reader = |value: ValueId| {
            graph.nodes().iter().find_map(|node| match node.op {
                Op::Linear { x, weight, .. } if x == value => Some(weights.linear(weight)),
                _ => None,
            })
        };
        let product = |value: ValueId| match graph.node(value).op {
            Op::Linear { x, weight, bias } if inner(value) => {
                Some((x, weight, bias, weights.linear(weight)))
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
