//! Running pieces of text through a model while values of its graph are watched.

use std::sync::Arc;

use keeve_checkpoint::Checkpoint;
use keeve_codec::PackedTensor;
use keeve_cpu::{Cpu, CpuOptions, Isa};
use keeve_graph::{
    Backend, CompileOptions, Graph, LoadOptions, Phase, Plan, RowInput, SequenceRows, State, Step,
    Tap, ValueId, Weights,
};

use crate::Error;
use crate::make::Observer;

/// A checkpoint as the backend sees it.
struct Tensors<'a>(&'a Checkpoint);

type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Weights for Tensors<'_> {
    fn weight(&self, name: &str) -> Result<PackedTensor, Failure> {
        Ok(self.0.tensor(name)?)
    }

    fn experts(&self, name: &str, count: usize) -> Result<Vec<PackedTensor>, Failure> {
        Ok(self.0.experts(name, count)?)
    }
}

/// What a model is run on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Machine {
    /// Threads that compute.
    pub threads: usize,
    /// Instruction set tier.
    pub isa: Isa,
}

/// A model of which some values are watched. Activations are floats.
pub(crate) struct Watched {
    plan: Box<dyn Plan>,
    state: Box<dyn State>,
    pages: Vec<u32>,
    logits: bool,
}

impl Watched {
    /// Loads `checkpoint`, whose graph is `graph`, for pieces of at most `chunk` tokens, of which the
    /// values `taps` are watched. `logits`: the head runs too.
    ///
    /// # Errors
    /// If the model cannot be run.
    pub fn load(
        checkpoint: &Checkpoint,
        graph: Arc<Graph>,
        taps: Vec<ValueId>,
        (chunk, logits): (usize, bool),
        machine: Machine,
        observer: &dyn Observer,
    ) -> Result<Self, Error> {
        let Machine { threads, isa } = machine;
        let cpu = Cpu::new(CpuOptions { threads, isa })
            .map_err(|error| Error::Input(error.to_string()))?;
        let load = LoadOptions { progress: &|_| !observer.stopped(), ..LoadOptions::default() };
        let program = cpu.load(graph, &Tensors(checkpoint), &load).map_err(failed)?;
        let compile = CompileOptions { taps, ..CompileOptions::default() };
        let plan = program.compile(&compile).map_err(failed)?;
        let pages = chunk.div_ceil(program.page_tokens());
        let state = program.state(pages).map_err(failed)?;
        let pages = (0..u32::try_from(pages).unwrap_or(u32::MAX)).collect();
        Ok(Self { plan, state, pages, logits })
    }

    /// Runs a piece from the beginning of a context.
    ///
    /// # Errors
    /// If the model cannot be run.
    pub fn run(&mut self, piece: &[u32], tap: &mut dyn Tap) -> Result<(), Error> {
        let rows = (0..).zip(piece).map(|(at, id)| RowInput::text(*id, at, Phase::Prompt));
        let mut rows: Vec<RowInput> = rows.collect();
        for row in &mut rows {
            // Only what is wanted is computed.
            (row.hidden, row.logits) = (true, self.logits);
        }
        let sequence = SequenceRows { rows: 0..rows.len(), past: 0, pages: &self.pages };
        let step = Step { rows, sequences: vec![sequence], ..Step::default() };
        self.plan.run(&step, &mut *self.state, Some(tap)).map_err(failed)?;
        Ok(())
    }
}

fn failed(error: keeve_graph::Error) -> Error {
    Error::Input(error.to_string())
}
