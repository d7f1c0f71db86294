//! Which values share memory: a scan over the graph that reuses a buffer once nobody reads it.

use crate::graph::{Graph, Rows, ValueId};

/// A buffer of a [`MemoryPlan`], by number.
pub type BufferId = usize;

/// A buffer for each value of a graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryPlan {
    /// The buffer of each value.
    pub buffer_of: Vec<BufferId>,
    /// Rows and widest row of each buffer.
    pub buffers: Vec<(Rows, usize)>,
}

impl MemoryPlan {
    /// Plans memory for running the nodes in order. A value keeps its buffer until its last reader
    /// has run; outputs and the values in `kept` keep theirs to the end. Operations that work in
    /// place may write over their first operand if nobody reads it later.
    pub fn new(graph: &Graph, kept: &[ValueId]) -> Self {
        let last_use = last_uses(graph, kept);
        let mut plan = Self { buffer_of: vec![], buffers: vec![] };
        let mut free: Vec<BufferId> = vec![];
        for value in graph.values() {
            let node = graph.node(value);
            let dies_here = |operand: &ValueId| last_use[operand.index()] == value.index();
            let over = node
                .op
                .operands()
                .next()
                .filter(|operand| node.op.in_place() && dies_here(operand));
            let buffer = match over {
                Some(operand) => plan.buffer_of[operand.index()],
                None => plan.take(&mut free, node.shape.rows, node.shape.width),
            };
            plan.buffer_of.push(buffer);
            // An operand that was written over lives on as this value.
            let operands = node.op.operands().filter(|&operand| Some(operand) != over);
            let unread = Some(value).filter(dies_here);
            for dead in operands.filter(dies_here).chain(unread) {
                let buffer = plan.buffer_of[dead.index()];
                if !free.contains(&buffer) {
                    free.push(buffer);
                }
            }
        }
        plan
    }

    /// A free buffer for such rows, the one whose width fits best, or a new one.
    fn take(&mut self, free: &mut Vec<BufferId>, rows: Rows, width: usize) -> BufferId {
        let fit = |buffer: BufferId| self.buffers[buffer].1.abs_diff(width);
        let best = free
            .iter()
            .enumerate()
            .filter(|&(_, &buffer)| self.buffers[buffer].0 == rows)
            .min_by_key(|&(_, &buffer)| fit(buffer))
            .map(|(index, _)| index);
        match best {
            Some(index) => {
                let buffer = free.swap_remove(index);
                self.buffers[buffer].1 = self.buffers[buffer].1.max(width);
                buffer
            }
            None => {
                self.buffers.push((rows, width));
                self.buffers.len() - 1
            }
        }
    }
}

/// For each value, the index of the last node that reads it (its own if none does, past the end
/// if it is kept).
fn last_uses(graph: &Graph, kept: &[ValueId]) -> Vec<usize> {
    let mut last: Vec<usize> = (0..graph.nodes().len()).collect();
    for value in graph.values() {
        for operand in graph.node(value).op.operands() {
            last[operand.index()] = value.index();
        }
    }
    for value in kept.iter().copied().chain(graph.outputs().iter().map(|output| output.value)) {
        last[value.index()] = usize::MAX;
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{UnaryOp, Want};

    /// Runs the plan symbolically: every operand must still be in its buffer when it is read.
    fn check(graph: &Graph, kept: &[ValueId]) -> MemoryPlan {
        let plan = MemoryPlan::new(graph, kept);
        let mut holds = vec![None; plan.buffers.len()];
        for value in graph.values() {
            let node = graph.node(value);
            for operand in node.op.operands() {
                assert_eq!(
                    holds[plan.buffer_of[operand.index()]],
                    Some(operand),
                    "operand of {value:?}"
                );
            }
            let buffer = plan.buffer_of[value.index()];
            assert_eq!(plan.buffers[buffer].0, node.shape.rows);
            assert!(plan.buffers[buffer].1 >= node.shape.width);
            let first = node.op.operands().next();
            for operand in node.op.operands() {
                let aliased = plan.buffer_of[operand.index()] == buffer;
                assert!(!aliased || (node.op.in_place() && first == Some(operand)));
            }
            holds[buffer] = Some(value);
        }
        for value in kept.iter().copied().chain(graph.outputs().iter().map(|output| output.value)) {
            assert_eq!(holds[plan.buffer_of[value.index()]], Some(value));
        }
        plan
    }

    #[test]
    fn buffers_are_reused_but_never_while_read() -> Result<(), crate::Error> {
        let mut graph = Graph::new();
        let mut x = graph.embed("embed", 100, 64)?;
        for layer in 0..8 {
            let a = graph.rms_norm(x, &format!("norm{layer}"), 64, 1e-6)?;
            let gate = graph.linear(a, &format!("gate{layer}"), 256, false)?;
            let up = graph.linear(a, &format!("up{layer}"), 256, false)?;
            let gate = graph.unary(gate, UnaryOp::Silu)?;
            let both = graph.mul(gate, up)?;
            let square = graph.mul(both, both)?;
            let down = graph.linear(square, &format!("down{layer}"), 64, false)?;
            x = graph.add(x, down)?;
        }
        let last = graph.select_rows(x, Want::Logits)?;
        let logits = graph.linear(last, "head", 100, false)?;
        graph.output(Want::Logits, logits)?;
        let plan = check(&graph, &[]);
        assert!(plan.buffers.len() <= 8, "{} buffers", plan.buffers.len());
        let tapped: Vec<_> = graph.values().filter(|value| value.index() % 3 == 0).collect();
        check(&graph, &tapped);
        Ok(())
    }
}
