//! Operations that make each row from the same row of their operands: chains of them run in one pass.
//!
//! A value that is read in one place only, by something that can take it row by row, is not held: who
//! reads it makes the row it needs, in cache, and goes on with it. So a norm is quantized where it is
//! made, gates are multiplied where they are quantized, and keys are normalized and turned where they
//! are stored. The same kernels see the same rows, so no bit of a result depends on it.

use std::ops::Range;

use keeve_graph::{BinaryOp, Graph, Op, UnaryOp, ValueId, WeightId};

use crate::context::Context;
use crate::kernels::Kernels;
use crate::linear::activations::{Input, Inputs};
use crate::ops::fake_quantize::round_row;
use crate::ops::fuse::Fusions;
use crate::ops::rows::{HeadSource, RowSource};
use crate::runtime::memory::Memory;
use crate::weights::LoadedWeights;

/// Whether `op` makes each row from the same row of its operands.
pub(crate) fn is_row_wise(op: &Op) -> bool {
    match op {
        Op::Given { .. }
        | Op::RmsNorm { .. }
        | Op::LayerNorm { .. }
        | Op::Rope { .. }
        | Op::Unary { .. }
        | Op::Binary { .. }
        | Op::Scale { .. }
        | Op::ScaleRows { .. }
        | Op::Slice { .. }
        | Op::RoundRows { .. }
        | Op::SelectRows { .. } => true,
        Op::Embed { .. }
        | Op::Linear { .. }
        | Op::Attention { .. }
        | Op::Router { .. }
        | Op::ExpertLinear { .. }
        | Op::ExpertSum { .. } => false,
    }
}

/// Which values of the graph are not held, but made as they are read, or by who reads them: not those in
/// `kept`.
pub(crate) fn merged(
    graph: &Graph,
    weights: &LoadedWeights,
    fusions: &Fusions,
    kept: &[ValueId],
) -> Vec<bool> {
    let mut readers: Vec<Vec<ValueId>> = vec![vec![]; graph.nodes().len()];
    for value in graph.values() {
        for operand in graph.node(value).op.operands() {
            readers[operand.index()].push(value);
        }
    }
    let is_output = |value| graph.outputs().iter().any(|output| output.value == value);
    let by_row = |reader: ValueId, value: ValueId, merged: &[bool]| match graph.node(reader).op {
        Op::Linear { .. } => true,
        Op::Attention { q, spec, .. } => {
            q != value || by_head(graph, weights, merged, value, spec.head_dim)
        }
        ref op => is_row_wise(op),
    };
    let is_linear = |reader: ValueId| matches!(graph.node(reader).op, Op::Linear { .. });
    let is_merged = |value: ValueId, merged: &[bool]| {
        let readers = &readers[value.index()];
        // What products quantize is kept from one to the next.
        let once = readers.len() == 1 || readers.iter().all(|&reader| is_linear(reader));
        fusions.of[value.index()].is_none()
            && is_row_wise(&graph.node(value).op)
            && !readers.is_empty()
            && once
            && readers.iter().all(|&reader| by_row(reader, value, merged))
            && !kept.contains(&value)
            && !is_output(value)
    };
    let mut merged = vec![];
    for value in graph.values() {
        merged.push(fusions.within[value.index()] || is_merged(value, &merged));
    }
    merged
}

/// Whether [`Heads`] can make `value`, where it is known which of its operands are held.
fn by_head(
    graph: &Graph,
    weights: &LoadedWeights,
    merged: &[bool],
    value: ValueId,
    head_dim: usize,
) -> bool {
    match graph.node(value).op {
        Op::Rope { x, head_dim: turned, .. } => {
            let from = || by_head(graph, weights, merged, x, head_dim);
            turned == head_dim && (!merged[x.index()] || from())
        }
        Op::RmsNorm { x, weight, .. } => {
            let gain = weights.vector(weight);
            !merged[x.index()] && gain.len() == head_dim
        }
        _ => false,
    }
}

/// Values of room that making a row of `value`, by its operation, needs.
fn room(graph: &Graph, merged: &[bool], value: ValueId) -> usize {
    let width = |value: ValueId| graph.node(value).shape.width;
    let made = |value: ValueId| if merged[value.index()] { room(graph, merged, value) } else { 0 };
    // Made apart from where the result will be.
    let apart = |value: ValueId| if merged[value.index()] { width(value) + made(value) } else { 0 };
    match graph.node(value).op {
        Op::RmsNorm { x, .. }
        | Op::LayerNorm { x, .. }
        | Op::Slice { x, .. }
        | Op::RoundRows { x } => apart(x),
        Op::Rope { x, .. }
        | Op::Unary { x, .. }
        | Op::Scale { x, .. }
        | Op::SelectRows { x, .. } => made(x),
        Op::Binary { a, b, .. } => made(a).max(apart(b)),
        Op::ScaleRows { x, by } => made(x).max(apart(by)),
        Op::Given { .. }
        | Op::Embed { .. }
        | Op::Linear { .. }
        | Op::Attention { .. }
        | Op::Router { .. }
        | Op::ExpertLinear { .. }
        | Op::ExpertSum { .. } => 0,
    }
}

/// Where the values are that rows are made from.
pub(crate) struct Values<'a> {
    /// The graph.
    pub graph: &'a Graph,
    /// Its weights.
    pub weights: &'a LoadedWeights,
    /// Which values are made as they are read.
    pub merged: &'a [bool],
    /// For each value that is held, its buffer.
    pub buffer_of: &'a [Option<usize>],
    /// Buffers, which begin with the value they hold: `[rows, width]`.
    pub buffers: &'a [Memory],
    /// The step.
    pub context: &'a Context<'a, 'a>,
    /// The tier.
    pub kernels: &'static dyn Kernels,
}

impl Values<'_> {
    /// A value that is held; nothing for others.
    pub fn held(&self, value: ValueId) -> &[f32] {
        let shape = self.graph.node(value).shape;
        let len = self.context.rows(shape.rows) * shape.width;
        self.buffer_of[value.index()].map_or(&[], |buffer| &self.buffers[buffer].all()[..len])
    }

    /// The rows of a value.
    pub fn rows(&self, value: ValueId) -> Rows<'_> {
        Rows { values: self, value }
    }

    /// The heads of a value that attention may make of its queries, or that is held.
    pub fn heads(&self, value: ValueId) -> Heads<'_> {
        Heads { values: self, value }
    }

    /// Makes heads of a value in `out`: see [`by_head`].
    fn make_heads(&self, value: ValueId, row: usize, columns: Range<usize>, out: &mut [f32]) {
        match self.graph.node(value).op {
            _ if !self.merged[value.index()] => {
                out.copy_from_slice(&self.held_row(value, row)[columns]);
            }
            Op::Rope { x, rope, head_dim } => {
                self.make_heads(x, row, columns, out);
                self.context.turns[rope.index()].turn(row, out, head_dim, self.kernels);
            }
            Op::RmsNorm { x, weight, eps } => {
                let gain = self.weights.vector(weight);
                let x = &self.held_row(x, row)[columns];
                let length = gain.len().max(1);
                for (x, out) in x.chunks_exact(length).zip(out.chunks_exact_mut(length)) {
                    self.kernels.rms_norm(x, gain, eps, out);
                }
            }
            ref op => unreachable!("{} makes no heads: see by_head", op.name()),
        }
    }

    /// Values of room that [`Values::make`] needs.
    pub fn room(&self, value: ValueId) -> usize {
        room(self.graph, self.merged, value)
    }

    /// Makes row `row` of `value` by its operation, in `out`, which holds that row of the value
    /// `over`, if there is one.
    pub fn make(
        &self,
        value: ValueId,
        row: usize,
        over: Option<ValueId>,
        out: &mut [f32],
        room: &mut [f32],
    ) {
        let node = self.graph.node(value);
        let vector = |weight: WeightId| self.weights.vector(weight);
        match node.op {
            Op::Given { start } => match self.context.step.given_row(row) {
                Some(given) => out.copy_from_slice(&given[start..][..out.len()]),
                None => out.fill(0.0),
            },
            Op::LayerNorm { x, weight, bias, eps } => {
                let x = self.read(x, row, room);
                let (gain, bias) = (vector(weight), vector(bias));
                let length = gain.len().max(1);
                for (x, out) in x.chunks_exact(length).zip(out.chunks_exact_mut(length)) {
                    self.kernels.layer_norm(x, gain, bias, eps, out);
                }
            }
            Op::RmsNorm { x, weight, eps } => {
                let x = self.read(x, row, room);
                let gain = vector(weight);
                let length = gain.len().max(1);
                for (x, out) in x.chunks_exact(length).zip(out.chunks_exact_mut(length)) {
                    self.kernels.rms_norm(x, gain, eps, out);
                }
            }
            Op::Rope { x, rope, head_dim } => {
                self.put(x, row, over, out, room);
                self.context.turns[rope.index()].turn(row, out, head_dim, self.kernels);
            }
            Op::Unary { x, function } => {
                self.put(x, row, over, out, room);
                match function {
                    UnaryOp::Silu => self.kernels.silu(out),
                    UnaryOp::Gelu => out.iter_mut().for_each(|x| *x = gelu(*x)),
                    UnaryOp::GeluTanh => self.kernels.gelu_tanh(out),
                    UnaryOp::Tanh => out.iter_mut().for_each(|x| *x = x.tanh()),
                    UnaryOp::Sigmoid => out.iter_mut().for_each(|x| *x = 1.0 / (1.0 + (-*x).exp())),
                    UnaryOp::SquaredRelu => out.iter_mut().for_each(|x| *x = x.max(0.0).powi(2)),
                }
            }
            Op::Binary { a, b, function } => {
                self.put(a, row, over, out, room);
                let b = self.read(b, row, room);
                match function {
                    BinaryOp::Add => out.iter_mut().zip(b).for_each(|(a, b)| *a += b),
                    BinaryOp::Mul => out.iter_mut().zip(b).for_each(|(a, b)| *a *= b),
                }
            }
            Op::Scale { x, by } => {
                self.put(x, row, over, out, room);
                out.iter_mut().for_each(|x| *x *= by);
            }
            Op::ScaleRows { x, by } => {
                self.put(x, row, over, out, room);
                let by = self.read(by, row, room)[0];
                out.iter_mut().for_each(|x| *x *= by);
            }
            Op::Slice { x, start } => {
                let x = self.read(x, row, room);
                out.copy_from_slice(&x[start..][..out.len()]);
            }
            Op::RoundRows { x } => round_row(self.read(x, row, room), out),
            Op::SelectRows { x, want } => {
                self.put(x, self.context.wanted(want)[row], None, out, room);
            }
            Op::Embed { .. }
            | Op::Linear { .. }
            | Op::Attention { .. }
            | Op::Router { .. }
            | Op::ExpertLinear { .. }
            | Op::ExpertSum { .. } => unreachable!("{} is not row-wise", node.op.name()),
        }
    }

    /// Puts row `row` of `value` into `out`, which holds that row of the value `over`, if there is one.
    pub fn put(
        &self,
        value: ValueId,
        row: usize,
        over: Option<ValueId>,
        out: &mut [f32],
        room: &mut [f32],
    ) {
        if self.merged[value.index()] {
            self.make(value, row, over, out, room);
        } else if over != Some(value) {
            out.copy_from_slice(self.held_row(value, row));
        }
    }

    /// Row `row` of `value`, which may be made in `room`.
    fn read<'a>(&'a self, value: ValueId, row: usize, room: &'a mut [f32]) -> &'a [f32] {
        if !self.merged[value.index()] {
            return self.held_row(value, row);
        }
        let (out, room) = room.split_at_mut(self.graph.node(value).shape.width);
        self.make(value, row, None, out, room);
        out
    }

    fn held_row(&self, value: ValueId, row: usize) -> &[f32] {
        let width = self.graph.node(value).shape.width;
        &self.held(value)[row * width..][..width]
    }
}

/// The rows of a value, held or made.
pub(crate) struct Rows<'a> {
    values: &'a Values<'a>,
    value: ValueId,
}

impl<'a> Rows<'a> {
    /// These rows as the input of products, held or made as they are read.
    pub fn input(&'a self, inputs: &'a mut Inputs) -> Input<'a> {
        let Self { values, value } = *self;
        match values.merged[value.index()] {
            true => inputs.rows(value, self, values.kernels),
            false => inputs.input(value, values.held(value), values.kernels),
        }
    }
}

impl RowSource for Rows<'_> {
    fn room(&self) -> usize {
        match self.values.merged[self.value.index()] {
            true => self.values.graph.node(self.value).shape.width + self.values.room(self.value),
            false => 0,
        }
    }

    fn row<'a>(&'a self, row: usize, room: &'a mut [f32]) -> &'a [f32] {
        self.values.read(self.value, row, room)
    }
}

/// The heads of a value, held or made.
pub(crate) struct Heads<'a> {
    values: &'a Values<'a>,
    value: ValueId,
}

impl HeadSource for Heads<'_> {
    fn heads<'a>(&'a self, row: usize, columns: Range<usize>, room: &'a mut [f32]) -> &'a [f32] {
        if !self.values.merged[self.value.index()] {
            return &self.values.held_row(self.value, row)[columns];
        }
        self.values.make_heads(self.value, row, columns, room);
        room
    }

    #[cfg(target_arch = "x86_64")]
    fn source(&self, row: usize, columns: Range<usize>) -> &[f32] {
        let mut value = self.value;
        while self.values.merged[value.index()]
            && let Some(from) = self.values.graph.node(value).op.operands().next()
        {
            value = from;
        }
        &self.values.held_row(value, row)[columns]
    }
}

/// `x * Phi(x)`.
fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2))
}
