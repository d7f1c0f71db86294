//! The graph: values, weights, rotary tables and state slots.

use std::collections::HashMap;

use crate::op::Op;
use crate::state::{Slot, SlotId};
use crate::step::Want;

/// A value of the graph: the result of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub(crate) u32);

impl ValueId {
    /// The index of the node that makes the value.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A weight that the graph names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WeightId(pub(crate) u32);

impl WeightId {
    /// Its index in [`Graph::weights`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A rotary table that the graph names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RopeId(pub(crate) u32);

impl RopeId {
    /// Its index in [`Graph::ropes`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// How many rows a value has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rows {
    /// One per token of the step.
    Tokens,
    /// One per token row that asks for this output.
    Wanted(Want),
}

/// `[rows, width]`. Heads and similar structure live inside the width.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Number of rows, open until a step comes.
    pub rows: Rows,
    /// Values in a row.
    pub width: usize,
}

/// How a backend may store a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Always `f32`: router, softmax, norms, recurrent state, logits.
    F32,
    /// What the backend computes activations in: `f32` on CPUs, `bf16` on GPUs.
    Act,
}

/// A weight by its canonical (Hugging Face) name, with the shape the graph expects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weight {
    /// For example `model.layers.0.mlp.up_proj.weight`.
    pub name: String,
    /// Output channels (1 for a vector).
    pub rows: usize,
    /// Inputs (the length of a vector).
    pub cols: usize,
    /// For a stack of such matrices, one for each expert: how many. Its name is then MLX's, such as
    /// `model.layers.0.mlp.switch_mlp.up_proj.weight`.
    pub experts: Option<usize>,
    /// Whether 1 is added to every value when it is loaded: gains of models whose norms are trained
    /// around 0. Vectors only.
    pub one_plus: bool,
}

impl Weight {
    /// Values in it, those of all experts together.
    pub fn values(&self) -> u64 {
        let matrix = (self.rows as u64).saturating_mul(self.cols as u64);
        matrix.saturating_mul(self.experts.unwrap_or(1) as u64)
    }
}

/// A rotary embedding: frequency `i` turns the pair `(i, i + n)` of a head's first `2 n` values,
/// `n` being the number of frequencies (the "half-split" layout of Hugging Face models).
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Radians per position, one for each pair.
    pub frequencies: Vec<f32>,
    /// Which of a row's three positions (time, height, width) drives each frequency; all 0 for text.
    pub axes: Vec<u8>,
    /// What sine and cosine are multiplied by (YaRN's attention factor; else 1).
    pub amplitude: f32,
}

/// One operation and what it makes.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The operation.
    pub op: Op,
    /// Shape of its value.
    pub shape: Shape,
    /// Storage of its value.
    pub class: Class,
    /// A name for taps and printing, such as `model.layers.0.mlp.up_proj`; may be empty.
    pub name: String,
    /// Which device runs it; 0 unless a placement pass says otherwise.
    pub placement: u16,
}

/// A value that a plan hands back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// What the rows must ask for to be in it.
    pub want: Want,
    /// The value, of shape `[Wanted(want), width]`.
    pub value: ValueId,
}

/// A whole model. Nodes are in an order in which they can run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Graph {
    pub(crate) nodes: Vec<Node>,
    pub(crate) weights: Vec<Weight>,
    /// Where each weight stands in `weights`, by name.
    pub(crate) weight_ids: HashMap<String, WeightId>,
    pub(crate) ropes: Vec<Rope>,
    pub(crate) slots: Vec<Slot>,
    pub(crate) outputs: Vec<Output>,
}

impl Graph {
    /// All nodes; a node's operands come before it.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node that makes `value`.
    pub fn node(&self, value: ValueId) -> &Node {
        &self.nodes[value.index()]
    }

    /// All values, in order.
    pub fn values(&self) -> impl Iterator<Item = ValueId> + use<> {
        (0..self.nodes.len() as u32).map(ValueId)
    }

    /// The first value of that name.
    pub fn named(&self, name: &str) -> Option<ValueId> {
        self.values().find(|&value| self.node(value).name == name)
    }

    /// Weights, each once, however often it is used.
    pub fn weights(&self) -> &[Weight] {
        &self.weights
    }

    /// The weight `id`.
    pub fn weight(&self, id: WeightId) -> &Weight {
        &self.weights[id.index()]
    }

    /// Rotary tables, each once.
    pub fn ropes(&self) -> &[Rope] {
        &self.ropes
    }

    /// State slots, in the order of their ids.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The slot `id`.
    pub fn slot(&self, id: SlotId) -> &Slot {
        &self.slots[id.index()]
    }

    /// The width of rows that steps give: what [`Op::Embed`] and [`Op::Given`] read of them.
    pub fn given_width(&self) -> usize {
        let end = |node: &Node| match node.op {
            Op::Embed { .. } => node.shape.width,
            // No overflow: the builder checked the end.
            Op::Given { start } => start + node.shape.width,
            _ => 0,
        };
        self.nodes.iter().map(end).max().unwrap_or(0)
    }

    /// Whether a sequence must come whole, in one step: some attention of it is not causal.
    pub fn takes_whole_sequences(&self) -> bool {
        let both_ways =
            |node: &Node| matches!(&node.op, Op::Attention { spec, .. } if !spec.causal);
        self.nodes.iter().any(both_ways)
    }

    /// What a plan hands back.
    pub fn outputs(&self) -> &[Output] {
        &self.outputs
    }
}
