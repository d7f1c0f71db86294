//! Graphs of transformer operations, and the seam between a graph and what runs it.
//!
//! A model builds its [`Graph`] once, with the number of token rows left open. Nothing runs until a
//! [`Backend`] has loaded the graph's weights and compiled a [`Plan`]. Token rows are flat: an
//! activation is `[rows, width]`, and a batch is the rows of several sequences one after another.
//! Only attention looks at which row belongs to which sequence, so batching and chunked prefill
//! cost the other operations nothing.
//!
//! **Row invariance.** What an operation computes for a row depends on that row's inputs, its own
//! sequence and its [`Phase`], never on which other rows share the step or on the number of
//! threads. Every backend must keep this; it is what makes a batch of N equal to N single runs.

#![forbid(unsafe_code)]

mod backend;
mod builder;
mod error;
mod experts;
mod graph;
mod memory;
mod op;
mod print;
pub mod sampling;
mod scheme;
mod state;
mod step;

pub use backend::{
    Activations, Backend, CompileOptions, LoadOptions, OpProfile, Outputs, Plan, Program, Progress,
    RowRounding, Tap, WeightInfo, Weights,
};
pub use error::Error;
pub use graph::{Class, Graph, Node, Output, Rope, RopeId, Rows, Shape, ValueId, Weight, WeightId};
pub use memory::{BufferId, MemoryPlan};
pub use op::{Attention, BinaryOp, Op, UnaryOp};
pub use scheme::{ProductRule, Scheme};
pub use state::{KvCodec, PageId, Slot, SlotId, State, StateRef, UnknownKvCodec};
pub use step::{Phase, RowInput, SequenceRows, Step, StepLimits, Want};
