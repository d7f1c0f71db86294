//! Which values share memory: a scan over the graph that reuses a buffer once nobody reads it.

use crate::graph::{Graph, Rows, ValueId};

/// A buffer of a [`MemoryPlan`], by number.
pub type BufferId = usize;

/// Buffers for the values of a graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryPlan {
    /// The buffer of each value; none for values that are never held.
    pub buffer_of: Vec<Option<BufferId>>,
    /// Rows and widest row of each buffer.
    pub buffers: Vec<(Rows, usize)>,
    /// For each value, the one whose buffer it took over: it is written over that.
    pub over: Vec<Option<ValueId>>,
}

impl MemoryPlan {
    /// Plans memory for running the nodes in order. A value keeps its buffer until its last reader
    /// has run; outputs and the values in `kept` keep theirs to the end. Operations that work in
    /// place may write over their first operand if nobody reads it later.
    ///
    /// Values for which `merged` (of each value) is true are never held: who reads them makes them as
    /// it goes, and so reads what they are made from. They must not be outputs or kept.
    pub fn new(graph: &Graph, kept: &[ValueId], merged: &[bool]) -> Self {
        let last_use = last_uses(graph, kept, merged);
        let mut dying: Vec<Vec<ValueId>> = vec![vec![]; graph.nodes().len()];
        for value in graph.values().filter(|value| !merged[value.index()]) {
            if let Some(dying) = dying.get_mut(last_use[value.index()]) {
                dying.push(value);
            }
        }
        let mut plan = Self { buffer_of: vec![], buffers: vec![], over: vec![] };
        let mut free: Vec<BufferId> = vec![];
        for value in graph.values() {
            if merged[value.index()] {
                plan.buffer_of.push(None);
                plan.over.push(None);
                continue;
            }
            let node = graph.node(value);
            let over = first_operand(graph, merged, value)
                .filter(|operand| last_use[operand.index()] == value.index())
                .filter(|&operand| reads(graph, merged, value, operand) == 1);
            let buffer = match over.and_then(|operand| plan.buffer_of[operand.index()]) {
                Some(buffer) => buffer,
                None => plan.take(&mut free, node.shape.rows, node.shape.width),
            };
            plan.buffer_of.push(Some(buffer));
            plan.over.push(over);
            // An operand that was written over lives on as this value.
            for dead in dying[value.index()].iter().filter(|&&dead| Some(dead) != over) {
                free.extend(plan.buffer_of[dead.index()]);
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

/// The value that an operation which works in place may write over.
fn first_operand(graph: &Graph, merged: &[bool], value: ValueId) -> Option<ValueId> {
    let op = &graph.node(value).op;
    let first = op.operands().next().filter(|_| op.in_place())?;
    if merged[first.index()] { first_operand(graph, merged, first) } else { Some(first) }
}

/// How often `operand` is read to make `value`.
fn reads(graph: &Graph, merged: &[bool], value: ValueId, operand: ValueId) -> usize {
    let of = |read: ValueId| {
        if merged[read.index()] {
            reads(graph, merged, read, operand)
        } else {
            (read == operand) as usize
        }
    };
    graph.node(value).op.operands().map(of).sum()
}

/// For each value, the index of the last node that reads it (its own if none does, past the end
/// if it is kept), merged ones being read when who reads them runs.
fn last_uses(graph: &Graph, kept: &[ValueId], merged: &[bool]) -> Vec<usize> {
    let mut last: Vec<usize> = (0..graph.nodes().len()).collect();
    for value in kept.iter().copied().chain(graph.outputs().iter().map(|output| output.value)) {
        last[value.index()] = usize::MAX;
    }
    let values: Vec<_> = graph.values().collect();
    for &value in values.iter().rev() {
        let runs = if merged[value.index()] { last[value.index()] } else { value.index() };
        for operand in graph.node(value).op.operands() {
            last[operand.index()] = last[operand.index()].max(runs);
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{UnaryOp, Want};

    /// The values that must be there when `value` is made.
    fn read_by(graph: &Graph, merged: &[bool], value: ValueId) -> Vec<ValueId> {
        let of = |operand: ValueId| match merged[operand.index()] {
            true => read_by(graph, merged, operand),
            false => vec![operand],
        };
        graph.node(value).op.operands().flat_map(of).collect()
    }

    /// Runs the plan symbolically: every operand must still be in its buffer when it is read.
    fn check(graph: &Graph, kept: &[ValueId], merged: &[bool]) -> MemoryPlan {
        let plan = MemoryPlan::new(graph, kept, merged);
        let mut holds = vec![None; plan.buffers.len()];
        for value in graph.values() {
            let Some(buffer) = plan.buffer_of[value.index()] else {
                assert!(merged[value.index()]);
                continue;
            };
            let node = graph.node(value);
            let read = read_by(graph, merged, value);
            let own = |operand: &ValueId| plan.buffer_of[operand.index()].expect("a buffer");
            for operand in &read {
                assert_eq!(holds[own(operand)], Some(*operand), "operand of {value:?}");
            }
            assert_eq!(plan.buffers[buffer].0, node.shape.rows);
            assert!(plan.buffers[buffer].1 >= node.shape.width);
            let aliased: Vec<_> = read.iter().filter(|operand| own(operand) == buffer).collect();
            assert!(aliased.is_empty() || node.op.in_place() && aliased == [&read[0]]);
            holds[buffer] = Some(value);
        }
        for value in kept.iter().copied().chain(graph.outputs().iter().map(|output| output.value)) {
            let buffer = plan.buffer_of[value.index()].expect("a buffer");
            assert_eq!(holds[buffer], Some(value));
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
        let none = vec![false; graph.nodes().len()];
        let plan = check(&graph, &[], &none);
        assert!(plan.buffers.len() <= 8, "{} buffers", plan.buffers.len());
        let tapped: Vec<_> = graph.values().filter(|value| value.index() % 3 == 0).collect();
        check(&graph, &tapped, &none);
        // Values that are read once may be made by who reads them.
        let outputs: Vec<_> = graph.outputs().iter().map(|output| output.value).collect();
        let merged: Vec<_> = graph
            .values()
            .map(|value| {
                let node = graph.node(value);
                let linear = matches!(node.op, crate::Op::Linear { .. } | crate::Op::Embed { .. });
                !linear && !outputs.contains(&value)
            })
            .collect();
        let fewer = check(&graph, &[], &merged);
        assert!(fewer.buffers.len() <= plan.buffers.len() + 8);
        Ok(())
    }
}
