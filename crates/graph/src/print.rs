//! How a graph reads: one line a node.

use std::fmt;

use crate::graph::{Graph, Rows, Shape, ValueId};
use crate::op::Op;
use crate::step::Want;

impl fmt::Display for ValueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "%{}", self.0)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = match self.rows {
            Rows::Tokens => "T",
            Rows::Wanted(Want::Logits) => "logits",
            Rows::Wanted(Want::Hidden) => "hidden",
        };
        write!(f, "[{rows}, {}]", self.width)
    }
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for value in self.values() {
            let node = self.node(value);
            write!(f, "{value} {} = {}", node.shape, node.op.name())?;
            match &node.op {
                Op::Unary { function, .. } => write!(f, ".{function:?}")?,
                Op::Binary { function, .. } => write!(f, ".{function:?}")?,
                _ => {}
            }
            for operand in node.op.operands() {
                write!(f, " {operand}")?;
            }
            for weight in node.op.weights() {
                let weight = self.weight(weight);
                let stack = weight.experts.map(|experts| format!("{experts}, "));
                let stack = stack.unwrap_or_default();
                write!(f, " {}[{stack}{}, {}]", weight.name, weight.rows, weight.cols)?;
            }
            match &node.op {
                Op::RmsNorm { eps, .. } | Op::LayerNorm { eps, .. } => write!(f, " eps={eps}")?,
                Op::Rope { rope, head_dim, .. } => {
                    write!(f, " table={} head_dim={head_dim}", rope.index())?
                }
                Op::Attention { state, spec, .. } => {
                    let (slot, version) = (state.slot.index(), state.version);
                    write!(f, " state={slot}.{version} heads={}/{}", spec.heads, spec.kv_heads)?;
                    write!(f, " head_dim={} scale={}", spec.head_dim, spec.scale)?;
                    if let Some(window) = spec.window {
                        write!(f, " window={window}")?;
                    }
                    if let Some(cap) = spec.soft_cap {
                        write!(f, " soft_cap={cap}")?;
                    }
                    if !spec.causal {
                        write!(f, " both_ways")?;
                    }
                }
                Op::Scale { by, .. } => write!(f, " by={by}")?,
                Op::Given { start } | Op::Slice { start, .. } => write!(f, " from={start}")?,
                Op::Router { chosen, normalize, .. } => {
                    write!(f, " chosen={chosen}")?;
                    if *normalize {
                        write!(f, " normalized")?;
                    }
                }
                Op::Embed { .. }
                | Op::Linear { .. }
                | Op::Unary { .. }
                | Op::Binary { .. }
                | Op::ScaleRows { .. }
                | Op::RoundRows { .. }
                | Op::ExpertLinear { .. }
                | Op::ExpertSum { .. }
                | Op::SelectRows { .. } => {}
            }
            if node.placement != 0 {
                write!(f, " on={}", node.placement)?;
            }
            writeln!(f)?;
        }
        for output in self.outputs() {
            writeln!(f, "output {:?} = {}", output.want, output.value)?;
        }
        Ok(())
    }
}
