//! Building a graph. Each call checks shapes, so a finished graph has none that do not fit.

use std::ops::Range;

use crate::Error;
use crate::graph::{
    Class, Graph, Node, Output, Rope, RopeId, Rows, Shape, ValueId, Weight, WeightId,
};
use crate::op::{Attention, BinaryOp, Op, UnaryOp};
use crate::state::{Slot, SlotId, StateRef};
use crate::step::Want;

/// The widest value that a graph may have. Far above any real model, far below overflow.
const MAX_WIDTH: usize = 1 << 28;

impl Graph {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// Names a value. Taps and printing use it.
    pub fn name(&mut self, value: ValueId, name: impl Into<String>) -> ValueId {
        self.nodes[value.index()].name = name.into();
        value
    }

    /// Rows of the embedding table `name` chosen by the step's ids: `[Tokens, width]`.
    ///
    /// # Errors
    /// If the table has no rows or no columns or too many, or another shape elsewhere in the graph.
    pub fn embed(&mut self, name: &str, vocabulary: usize, width: usize) -> Result<ValueId, Error> {
        let table = self.weight_id("embed", matrix(name, vocabulary, width))?;
        self.push(Op::Embed { table }, Rows::Tokens, width, Class::Act)
    }

    /// The columns `columns` of the rows that the step gives, zeros for rows that it gives nothing
    /// for: `[Tokens, width]`.
    ///
    /// # Errors
    /// If there are no columns or too many.
    pub fn given(&mut self, columns: Range<usize>) -> Result<ValueId, Error> {
        if columns.is_empty() || columns.end > MAX_WIDTH {
            return Err(shape("given", format!("columns {columns:?}")));
        }
        self.push(Op::Given { start: columns.start }, Rows::Tokens, columns.len(), Class::Act)
    }

    /// `x * weight^T + bias`: `[rows, n]`. `module` is the name without `.weight`, which becomes
    /// the value's name.
    ///
    /// # Errors
    /// If `n` is 0 or too large, or the weights have another shape elsewhere in the graph.
    pub fn linear(
        &mut self,
        x: ValueId,
        module: &str,
        n: usize,
        bias: bool,
    ) -> Result<ValueId, Error> {
        let Shape { rows, width } = self.node(x).shape;
        let weight = self.weight_id("linear", matrix(&format!("{module}.weight"), n, width))?;
        let bias = match bias {
            true => Some(self.weight_id("linear", matrix(&format!("{module}.bias"), 1, n))?),
            false => None,
        };
        let value = self.push(Op::Linear { x, weight, bias }, rows, n, Class::Act)?;
        Ok(self.name(value, module))
    }

    /// Normalizes each run of `length` values in a row by its root mean square.
    ///
    /// # Errors
    /// If `length` does not divide the width.
    pub fn rms_norm(
        &mut self,
        x: ValueId,
        module: &str,
        length: usize,
        eps: f32,
    ) -> Result<ValueId, Error> {
        self.norm(x, module, length, eps, false)
    }

    /// [`Self::rms_norm`] with gains of 1 plus the stored weight.
    ///
    /// # Errors
    /// If `length` does not divide the width.
    pub fn rms_norm_one_plus(
        &mut self,
        x: ValueId,
        module: &str,
        length: usize,
        eps: f32,
    ) -> Result<ValueId, Error> {
        self.norm(x, module, length, eps, true)
    }

    fn norm(
        &mut self,
        x: ValueId,
        module: &str,
        length: usize,
        eps: f32,
        one_plus: bool,
    ) -> Result<ValueId, Error> {
        let Shape { rows, width } = self.node(x).shape;
        if length == 0 || !width.is_multiple_of(length) {
            return Err(divides_not("rms_norm", module, length, width));
        }
        let weight = Weight { one_plus, ..matrix(&format!("{module}.weight"), 1, length) };
        let weight = self.weight_id("rms_norm", weight)?;
        let value = self.push(Op::RmsNorm { x, weight, eps }, rows, width, Class::Act)?;
        Ok(self.name(value, module))
    }

    /// Normalizes each run of `length` values in a row by its mean and variance. `module` has a
    /// weight and a bias of that length.
    ///
    /// # Errors
    /// If `length` does not divide the width.
    pub fn layer_norm(
        &mut self,
        x: ValueId,
        module: &str,
        length: usize,
        eps: f32,
    ) -> Result<ValueId, Error> {
        let Shape { rows, width } = self.node(x).shape;
        if length == 0 || !width.is_multiple_of(length) {
            return Err(divides_not("layer_norm", module, length, width));
        }
        let weight =
            self.weight_id("layer_norm", matrix(&format!("{module}.weight"), 1, length))?;
        let bias = self.weight_id("layer_norm", matrix(&format!("{module}.bias"), 1, length))?;
        let op = Op::LayerNorm { x, weight, bias, eps };
        let value = self.push(op, rows, width, Class::Act)?;
        Ok(self.name(value, module))
    }

    /// Adds a rotary table, or finds the same one.
    ///
    /// # Errors
    /// If there is not one axis (0, 1 or 2) for each frequency, or a frequency is not finite.
    pub fn rope_table(&mut self, rope: Rope) -> Result<RopeId, Error> {
        let axes =
            rope.axes.len() == rope.frequencies.len() && rope.axes.iter().all(|&axis| axis < 3);
        let finite = rope.frequencies.iter().all(|f| f.is_finite()) && rope.amplitude.is_finite();
        if rope.frequencies.is_empty() || !axes || !finite {
            return Err(shape(
                "rope",
                "needs finite frequencies, each with an axis below 3".into(),
            ));
        }
        let index = self.ropes.iter().position(|known| *known == rope).unwrap_or_else(|| {
            self.ropes.push(rope);
            self.ropes.len() - 1
        });
        Ok(RopeId(index as u32))
    }

    /// Turns each head of `x` by its row's positions.
    ///
    /// # Errors
    /// If `head_dim` does not divide the width, or is less than the table turns.
    pub fn rope(&mut self, x: ValueId, rope: RopeId, head_dim: usize) -> Result<ValueId, Error> {
        let Shape { rows, width } = self.node(x).shape;
        let turned = self.ropes[rope.index()].frequencies.len() * 2;
        if rows != Rows::Tokens || head_dim < turned || !width.is_multiple_of(head_dim.max(1)) {
            return Err(shape(
                "rope",
                format!("heads of {head_dim}, {turned} turned, in a row of {width}"),
            ));
        }
        self.push(Op::Rope { x, rope, head_dim }, rows, width, Class::Act)
    }

    /// Adds a kind of sequence state, in its first version.
    pub fn state(&mut self, slot: Slot) -> StateRef {
        self.slots.push(slot);
        StateRef { slot: SlotId(self.slots.len() as u32 - 1), version: 0 }
    }

    /// Appends `k` and `v` to `state` and attends to it: the result and the new state.
    ///
    /// # Errors
    /// If heads do not fit the operands or the slot, or the window is empty.
    pub fn attention(
        &mut self,
        (q, k, v): (ValueId, ValueId, ValueId),
        state: StateRef,
        spec: Attention,
    ) -> Result<(ValueId, StateRef), Error> {
        let Attention { heads, kv_heads, head_dim, .. } = spec;
        let grouped = heads > 0 && kv_heads > 0 && head_dim > 0 && heads.is_multiple_of(kv_heads);
        let fits = |value: ValueId, heads: usize| {
            self.node(value).shape.rows == Rows::Tokens
                && heads.checked_mul(head_dim) == Some(self.node(value).shape.width)
        };
        if !grouped || !fits(q, heads) || !fits(k, kv_heads) || !fits(v, kv_heads) {
            let problem = format!(
                "{heads} heads, {kv_heads} of keys, of {head_dim} do not fit their operands"
            );
            return Err(shape("attention", problem));
        }
        if spec.window == Some(0) {
            return Err(shape("attention", "a window of no tokens".into()));
        }
        if spec.window.is_some() && !spec.causal {
            return Err(shape("attention", "a window that is not causal".into()));
        }
        let slot_fits = match *self.slot(state.slot) {
            Slot::Paged { kv_heads: heads, head_dim: dim } => (heads, dim) == (kv_heads, head_dim),
            Slot::Window { kv_heads: heads, head_dim: dim, tokens } => {
                (heads, dim) == (kv_heads, head_dim) && spec.window == Some(tokens)
            }
            Slot::Fixed { .. } => false,
        };
        if !slot_fits {
            return Err(shape("attention", "its state slot is of another kind".into()));
        }
        let width = heads * head_dim;
        let value =
            self.push(Op::Attention { q, k, v, state, spec }, Rows::Tokens, width, Class::Act)?;
        Ok((value, StateRef { slot: state.slot, version: state.version + 1 }))
    }

    /// A function of each number of `x`.
    ///
    /// # Errors
    /// None today; shapes always fit.
    pub fn unary(&mut self, x: ValueId, function: UnaryOp) -> Result<ValueId, Error> {
        let Node { shape, class, .. } = *self.node(x);
        self.push(Op::Unary { x, function }, shape.rows, shape.width, class)
    }

    /// A function of each pair of numbers of `a` and `b`.
    ///
    /// # Errors
    /// If the shapes differ.
    pub fn binary(&mut self, a: ValueId, b: ValueId, function: BinaryOp) -> Result<ValueId, Error> {
        let Node { shape: left, class, .. } = *self.node(a);
        let right = self.node(b).shape;
        if left != right {
            return Err(shape("binary", format!("{left:?} and {right:?} differ")));
        }
        self.push(Op::Binary { a, b, function }, left.rows, left.width, class)
    }

    /// `a + b`.
    ///
    /// # Errors
    /// If the shapes differ.
    pub fn add(&mut self, a: ValueId, b: ValueId) -> Result<ValueId, Error> {
        self.binary(a, b, BinaryOp::Add)
    }

    /// `a * b`.
    ///
    /// # Errors
    /// If the shapes differ.
    pub fn mul(&mut self, a: ValueId, b: ValueId) -> Result<ValueId, Error> {
        self.binary(a, b, BinaryOp::Mul)
    }

    /// `x * by`.
    ///
    /// # Errors
    /// None today; shapes always fit.
    pub fn scale(&mut self, x: ValueId, by: f32) -> Result<ValueId, Error> {
        let Node { shape, class, .. } = *self.node(x);
        self.push(Op::Scale { x, by }, shape.rows, shape.width, class)
    }

    /// Each row of `x` times the number that `by` has for it.
    ///
    /// # Errors
    /// If `by` does not have one number for each row of `x`.
    pub fn scale_rows(&mut self, x: ValueId, by: ValueId) -> Result<ValueId, Error> {
        let Node { shape: Shape { rows, width }, class, .. } = *self.node(x);
        let factors = self.node(by).shape;
        if factors != (Shape { rows, width: 1 }) {
            return Err(shape("scale_rows", format!("{factors:?} is not one number a row")));
        }
        self.push(Op::ScaleRows { x, by }, rows, width, class)
    }

    /// The columns `columns` of `x`.
    ///
    /// # Errors
    /// If `x` does not have them, or there are none.
    pub fn slice(&mut self, x: ValueId, columns: Range<usize>) -> Result<ValueId, Error> {
        let Node { shape: Shape { rows, width }, class, .. } = *self.node(x);
        if columns.is_empty() || columns.end > width {
            return Err(shape("slice", format!("columns {columns:?} of a row of {width}")));
        }
        self.push(Op::Slice { x, start: columns.start }, rows, columns.len(), class)
    }

    /// Each row rounded to 8 bits: [`Op::RoundRows`].
    ///
    /// # Errors
    /// None today; shapes always fit.
    pub fn round_rows(&mut self, x: ValueId) -> Result<ValueId, Error> {
        let Node { shape, class, .. } = *self.node(x);
        self.push(Op::RoundRows { x }, shape.rows, shape.width, class)
    }

    /// The rows of `x` that ask for `want`.
    ///
    /// # Errors
    /// If `x` is not one row per token.
    pub fn select_rows(&mut self, x: ValueId, want: Want) -> Result<ValueId, Error> {
        let Node { shape: Shape { rows, width }, class, .. } = *self.node(x);
        if rows != Rows::Tokens {
            return Err(shape("select_rows", "its rows are already a selection".into()));
        }
        self.push(Op::SelectRows { x, want }, Rows::Wanted(want), width, class)
    }

    /// Makes `value` what the plan gives to rows that ask for `want`; it is then always `f32`.
    ///
    /// # Errors
    /// If its rows are not those that ask for `want`.
    pub fn output(&mut self, want: Want, value: ValueId) -> Result<(), Error> {
        if self.node(value).shape.rows != Rows::Wanted(want) {
            return Err(shape("output", format!("its rows are not those that want {want:?}")));
        }
        self.nodes[value.index()].class = Class::F32;
        self.outputs.push(Output { want, value });
        Ok(())
    }

    /// Adds a weight, or finds the same one.
    pub(crate) fn weight_id(
        &mut self,
        op: &'static str,
        weight: Weight,
    ) -> Result<WeightId, Error> {
        let Weight { name, rows, cols, .. } = &weight;
        let possible = |length: usize| (1..=MAX_WIDTH).contains(&length);
        if !possible(*rows) || !possible(*cols) || !possible(weight.experts.unwrap_or(1)) {
            return Err(shape(op, format!("{name} cannot be {}", dimensions(&weight))));
        }
        match self.weight_ids.get(name) {
            Some(&id) if *self.weight(id) == weight => Ok(id),
            Some(&id) => {
                let (one, other) = (dimensions(self.weight(id)), dimensions(&weight));
                let problem = format!("{name} is used as {one} and as {other}");
                let sum = if one == other { ", with and without 1 added" } else { "" };
                Err(shape(op, problem + sum))
            }
            None => {
                let id = WeightId(self.weights.len() as u32);
                self.weight_ids.insert(name.clone(), id);
                self.weights.push(weight);
                Ok(id)
            }
        }
    }

    /// Adds a node.
    pub(crate) fn push(
        &mut self,
        op: Op,
        rows: Rows,
        width: usize,
        class: Class,
    ) -> Result<ValueId, Error> {
        if width == 0 || width > MAX_WIDTH {
            return Err(shape(op.name(), format!("a row of {width} values")));
        }
        let shape = Shape { rows, width };
        self.nodes.push(Node { op, shape, class, name: String::new(), placement: 0 });
        Ok(ValueId(self.nodes.len() as u32 - 1))
    }
}

/// A weight that is no stack.
pub(crate) fn matrix(name: &str, rows: usize, cols: usize) -> Weight {
    Weight { name: name.into(), rows, cols, experts: None, one_plus: false }
}

/// The shape of a weight, for messages.
fn dimensions(weight: &Weight) -> String {
    let stack = weight.experts.map(|experts| format!("{experts}x")).unwrap_or_default();
    format!("{stack}{}x{}", weight.rows, weight.cols)
}

/// A norm of a length that is no part of a row.
fn divides_not(op: &'static str, module: &str, length: usize, width: usize) -> Error {
    shape(op, format!("{module} of {length} does not divide a row of {width}"))
}

/// What does not fit in an operation.
pub(crate) fn shape(op: &'static str, problem: String) -> Error {
    Error::Shape { op, problem }
}
