//! From a checkpoint to a running engine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use keeve_checkpoint::Checkpoint;
use keeve_codec::PackedTensor;
use keeve_cpu::{Cpu, CpuOptions, Isa};
use keeve_graph::{Activations, Backend, CompileOptions, LoadOptions, Program, Progress, Weights};
use keeve_models::Model;
use serde_json::Value;

use crate::engine::{Engine, Worker};
use crate::error::Error;
use crate::kv::PagePool;
use crate::memory;
use crate::scheduler::{Limits, Scheduler};
use crate::text::TextSide;

/// How an engine uses the machine. The default is right for one user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineOptions {
    /// Threads that compute; `None`: one for each core.
    pub threads: Option<usize>,
    /// The most tokens of a sequence; `None`: what the model was made for, or less if memory is
    /// short.
    pub max_context: Option<usize>,
    /// Prompt rows in a step.
    pub prefill_chunk: usize,
    /// Sequences that run at the same time.
    pub max_sequences: usize,
    /// Whether prompts that begin alike share what was computed for their beginning.
    pub prefix_cache: bool,
    /// How activations enter matrix products.
    pub activations: Activations,
    /// Whether to count time and bytes by operation.
    pub profile: bool,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            threads: None,
            max_context: None,
            prefill_chunk: 512,
            max_sequences: 16,
            prefix_cache: true,
            activations: Activations::Float,
            profile: false,
        }
    }
}

/// What was loaded.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    /// The architecture's name.
    pub architecture: &'static str,
    /// Token ids are below this.
    pub vocabulary: usize,
    /// The most tokens of a sequence.
    pub max_context: usize,
    /// Bytes of packed weights.
    pub weight_bytes: u64,
    /// Bytes of state (keys and values) that a token takes.
    pub token_state_bytes: usize,
    /// Tokens that end an answer.
    pub eos: Vec<u32>,
    /// The instruction set tier in use.
    pub isa: Isa,
    /// Threads that compute.
    pub threads: usize,
    /// How long loading took.
    pub load_time: Duration,
    /// What was decided otherwise than asked, in sentences for a person.
    pub notes: Vec<String>,
}

impl Engine {
    /// Loads a model. `progress` is told how far it is and can cancel by returning `false`.
    ///
    /// # Errors
    /// If the checkpoint, its config, tokenizer or chat template is wrong, something in it is not
    /// supported, or it does not fit into memory.
    pub fn load(
        checkpoint: &Checkpoint,
        options: &EngineOptions,
        progress: &(dyn Fn(Progress) -> bool + Sync),
    ) -> Result<Self, Error> {
        let start = Instant::now();
        let model = keeve_models::build(checkpoint.config())?;
        let text = TextSide::read(checkpoint, model.vocabulary);
        let eos = text.end_ids(checkpoint, model.vocabulary);
        Self::assemble(model, &Tensors(checkpoint), (text, eos), options, progress, start)
    }

    /// An engine for a config (as [`keeve_models::build`] takes it) with weights from anywhere. It has
    /// no tokenizer and no end tokens: requests are token ids.
    ///
    /// # Errors
    /// If the config is wrong, a weight is missing or of the wrong shape, something is not
    /// supported, or it does not fit into memory.
    pub fn from_weights(
        config: &Value,
        weights: &dyn Weights,
        options: &EngineOptions,
        progress: &(dyn Fn(Progress) -> bool + Sync),
    ) -> Result<Self, Error> {
        let start = Instant::now();
        let model = keeve_models::build(config)?;
        Self::assemble(model, weights, (TextSide::none(), vec![]), options, progress, start)
    }

    fn assemble(
        model: Model,
        weights: &dyn Weights,
        (text, eos): (TextSide, Vec<u32>),
        options: &EngineOptions,
        progress: &(dyn Fn(Progress) -> bool + Sync),
        start: Instant,
    ) -> Result<Self, Error> {
        // Asked before there are weights: mapped ones count as free until they are used, made ones
        // do not.
        let available = memory::available();
        let isa = Isa::choose()?;
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = options.threads.unwrap_or_else(cores).max(1);
        let cpu = Cpu::new(CpuOptions { threads, isa }).map_err(Error::Thread)?;
        let load = LoadOptions { activations: options.activations, progress };
        let program = cpu.load(Arc::new(model.graph), weights, &load)?;

        let mut notes = text.problems();
        let fit = fit(&*program, options, model.max_positions, available)?;
        notes.extend(fit.note);
        let plan =
            program.compile(&CompileOptions { profile: options.profile, ..Default::default() })?;
        let state = program.state(fit.pages)?;
        let pool = PagePool::new(fit.pages, program.page_tokens(), options.prefix_cache);
        let limits = Limits {
            sequences: options.max_sequences.max(1),
            prompt_rows: options.prefill_chunk.max(1),
        };
        let info = ModelInfo {
            architecture: model.architecture,
            vocabulary: model.vocabulary,
            max_context: fit.context,
            weight_bytes: program.weight_bytes(),
            token_state_bytes: program.page_bytes() / program.page_tokens(),
            eos: eos.clone(),
            isa,
            threads,
            load_time: start.elapsed(),
            notes,
        };
        let scheduler = Scheduler::new(pool, limits);
        Engine::start(Worker { plan, state, scheduler, eos }, info, text)
    }
}

/// A checkpoint as the backend sees it.
struct Tensors<'a>(&'a Checkpoint);

impl Weights for Tensors<'_> {
    fn weight(&self, name: &str) -> Result<PackedTensor, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.0.tensor(name)?)
    }
}

/// How much context there is room for.
struct Fit {
    context: usize,
    pages: usize,
    note: Option<String>,
}

/// Compares weights and state with the memory there is.
fn fit(
    program: &dyn Program,
    options: &EngineOptions,
    max_positions: usize,
    available: Option<u64>,
) -> Result<Fit, Error> {
    let page_tokens = program.page_tokens();
    let page_bytes = program.page_bytes().max(1) as u64;
    let weights = program.weight_bytes();
    let wanted = options.max_context.unwrap_or(max_positions).max(1);
    let pages_for = |tokens: usize| tokens.div_ceil(page_tokens);
    // Weights are not in memory yet: they come from the mapped file as they are used.
    let room = available.map_or(u64::MAX, |bytes| bytes.saturating_sub(weights)) / page_bytes;
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    let pages = pages_for(wanted);
    if pages > room {
        let shrunk = room.saturating_mul(page_tokens);
        if options.max_context.is_some() || shrunk < page_tokens * 8 {
            return Err(Error::Memory {
                weights,
                state: pages as u64 * page_bytes,
                context: wanted,
                available: available.unwrap_or(0),
            });
        }
        let note =
            Some(format!("the context is {shrunk} tokens instead of {wanted}: memory is short"));
        return Ok(Fit { context: shrunk, pages: room, note });
    }
    // Room for several sequences, but at most half of what is free: pages cost nothing until used.
    let several = pages.saturating_mul(options.max_sequences.max(1)).min(room / 2);
    Ok(Fit { context: wanted, pages: several.max(pages), note: None })
}
