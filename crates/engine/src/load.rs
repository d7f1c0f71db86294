//! From a checkpoint to a running engine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use keeve_checkpoint::Checkpoint;
use keeve_codec::{Codec, PackedTensor};
use keeve_cpu::{Cpu, CpuOptions, Isa};
use keeve_graph::{
    Activations, Backend, CompileOptions, KvCodec, LoadOptions, Progress, RowRounding, Weights,
};
use keeve_image::Processor;
use keeve_models::{Model, Vision};

use crate::draft_model::{DraftModel, same_tokens};
use crate::engine::{Engine, ImageSide, Speculator, Worker};
use crate::error::Error;
use crate::images::Sight;
use crate::kv::{PagePool, Reuse};
use crate::memory;
use crate::reencode::Reencoded;
use crate::rounding;
use crate::scheduler::{Limits, Scheduler};
use crate::speculation::{Pace, Speculation};
use crate::text::TextSide;
use crate::vision::Eyes;

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
    /// Pages that keys and values are held in, for all sequences together; `None`: enough for
    /// `max_sequences` whole ones, or what half of the free memory holds.
    pub kv_pages: Option<usize>,
    /// Whether prompts that begin alike share what was computed for their beginning.
    pub prefix_cache: bool,
    /// How activations enter matrix products.
    pub activations: Activations,
    /// The codec that the matrices of linear layers are encoded in as they load, those that see left out;
    /// `None`: they stay as they are. What was done is told in [`ModelInfo::notes`].
    pub weights: Option<Codec>,
    /// How keys and values are stored; `None`: in `f32` under [`Activations::Float`], else in `f16`.
    pub kv_codec: Option<KvCodec>,
    /// Whether to count time and bytes by operation.
    pub profile: bool,
    /// The most tokens of an image. Seeing an image takes memory for some dozens of thousands of numbers
    /// for each of its patches, of which a token has four.
    pub image_tokens: usize,
    /// Bytes of what was made for images that are kept, so that the same images need not be seen again.
    pub image_cache_bytes: u64,
    /// Where guesses at further tokens come from. They change no answer.
    pub speculation: Speculation,
    /// Tokens that are guessed ahead of a sequence, at most.
    pub draft_tokens: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            threads: None,
            max_context: None,
            prefill_chunk: 512,
            max_sequences: 16,
            kv_pages: None,
            prefix_cache: true,
            activations: Activations::Auto,
            weights: None,
            kv_codec: None,
            profile: false,
            image_tokens: 16_384,
            image_cache_bytes: 256 << 20,
            speculation: Speculation::default(),
            draft_tokens: 8,
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
    /// If the checkpoint or its config is wrong, something in it is not supported, or it does not
    /// fit into memory. A tokenizer or chat template that cannot be used is an error only of what
    /// needs it: [`Engine::tokenizer`], [`Engine::chat_template`].
    pub fn load(
        checkpoint: &Checkpoint,
        options: &EngineOptions,
        progress: &(dyn Fn(Progress) -> bool + Sync),
    ) -> Result<Self, Error> {
        Self::load_with_draft(checkpoint, None, options, progress)
    }

    /// As [`Self::load`], with a small model that guesses what the large one will say, unless
    /// `options` say otherwise. It must have the same tokenizer.
    ///
    /// # Errors
    /// As [`Self::load`], of either model; if their tokens differ; or if [`Speculation::Draft`] is asked
    /// for and there is no draft model.
    pub fn load_with_draft(
        checkpoint: &Checkpoint,
        draft: Option<&Checkpoint>,
        options: &EngineOptions,
        progress: &(dyn Fn(Progress) -> bool + Sync),
    ) -> Result<Self, Error> {
        let start = Instant::now();
        let model = built(checkpoint, options.max_context)?;
        // So that what is wrong is known before there are weights.
        TextSide::none().end_ids(checkpoint, model.vocabulary)?;
        let images = ImageSide {
            sight: None,
            processor: model
                .vision
                .as_ref()
                .map_or(Ok(None), |vision| processor(checkpoint, vision))?,
        };
        let mut read = None;
        let draft = match (options.speculation, draft) {
            (Speculation::Draft, None) => return Err(Error::NoDraftModel),
            (Speculation::Off | Speculation::Ngram, _) | (_, None) => None,
            (Speculation::Auto | Speculation::Draft, Some(draft)) => {
                let small = built(draft, None)?;
                let text = read.insert(TextSide::read(checkpoint, model.vocabulary));
                same_tokens((text, &model), draft, &small)?;
                Some((draft, small))
            }
        };
        let mut notes = checkpoint.notes().to_vec();
        let row_rounding = match options.weights {
            // What is made anew is made as Cider does.
            Some(_) => RowRounding::Cider,
            None => {
                let schemes = checkpoint.tensors().filter_map(|tensor| tensor.activations);
                let schemes: Vec<_> = schemes.collect();
                if options.activations == Activations::Int8 {
                    notes.extend(rounding::notes(&schemes));
                }
                rounding::of(&schemes)
            }
        };
        let vocabulary = model.vocabulary;
        let text = move || {
            let text = read.unwrap_or_else(|| TextSide::read(checkpoint, vocabulary));
            let eos = text.end_ids(checkpoint, vocabulary)?;
            Ok((text, eos))
        };
        let text = Box::new(text);
        let sides = Sides { text, images, draft, row_rounding, notes };
        let engine = Self::assemble(model, &Tensors(checkpoint), sides, options, progress, start);
        engine.map_err(|error| match error {
            Error::Graph(error) => load_error(checkpoint, error),
            error => error,
        })
    }

    /// An engine for a model with weights from anywhere. It has no tokenizer and no end tokens:
    /// requests are token ids.
    ///
    /// # Errors
    /// If a weight is missing or of the wrong shape, something is not supported, or it does not fit
    /// into memory.
    pub fn from_weights(
        model: Model,
        weights: &dyn Weights,
        options: &EngineOptions,
        progress: &(dyn Fn(Progress) -> bool + Sync),
    ) -> Result<Self, Error> {
        let sides = Sides {
            text: Box::new(|| Ok((TextSide::none(), vec![]))),
            images: ImageSide::default(),
            draft: None,
            row_rounding: RowRounding::default(),
            notes: vec![],
        };
        Self::assemble(model, weights, sides, options, progress, Instant::now())
    }

    fn assemble(
        model: Model,
        weights: &dyn Weights,
        Sides { text, mut images, draft, row_rounding, mut notes }: Sides<'_>,
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
        let load = LoadOptions {
            activations: options.activations,
            row_rounding,
            kv_codec: options.kv_codec,
            progress,
        };
        let reencoded = match options.weights {
            None => None,
            Some(codec) if !codec.has_encoder() => return Err(Error::NoEncoder(codec)),
            Some(codec) => Some(Reencoded::new(weights, codec, &model.graph, threads)),
        };
        // What sees stays as it is, rounded to bf16 at most: it is small, and much depends on it.
        let eyes = match model.vision {
            None => None,
            Some(vision) => {
                images.sight = Some(Sight::new(&vision, options.image_tokens));
                let float = options.activations == Activations::Float;
                let activations = if float { Activations::Float } else { Activations::Bf16 };
                // Its part of the work is not told, but may be cancelled too.
                let go_on = |_| progress(Progress { done: 0, total: 1 });
                let load = LoadOptions { activations, progress: &go_on, ..LoadOptions::default() };
                Some(Eyes::load(vision, &cpu, weights, &load, options.image_cache_bytes)?)
            }
        };
        let seeing_bytes = eyes.as_ref().map_or(0, Eyes::weight_bytes);
        let weights = reencoded.as_ref().map_or(weights, |reencoded| reencoded as &dyn Weights);
        // Large vocabularies take as long to read as weights to pack.
        let (program, text) = std::thread::scope(|scope| {
            let text = scope.spawn(text);
            let program = cpu.load(Arc::new(model.graph), weights, &load);
            let text = text.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (program, text)
        });
        let (program, (text, eos)) = (program?, text?);
        let weight_bytes = program.weight_bytes().saturating_add(seeing_bytes);
        let sizes = Sizes {
            page_tokens: program.page_tokens(),
            page_bytes: program.page_bytes() as u64,
            weights: weight_bytes,
            max_positions: model.max_positions,
            available,
        };
        let fit = fit(&sizes, options)?;
        let plan =
            program.compile(&CompileOptions { profile: options.profile, ..Default::default() })?;
        let state = program.state(fit.pages)?;
        let pool = PagePool::new(fit.pages, sizes.page_tokens, reuse(options));
        let limits = Limits {
            sequences: options.max_sequences.max(1),
            prompt_rows: options.prefill_chunk.max(1),
        };
        notes.extend(fit.note);
        notes.extend(reencoded.map(|made| made.note()));
        let info = ModelInfo {
            architecture: model.architecture,
            vocabulary: model.vocabulary,
            max_context: fit.context,
            weight_bytes,
            token_state_bytes: program.page_bytes() / program.page_tokens(),
            eos: eos.clone(),
            isa,
            threads,
            load_time: start.elapsed(),
            notes,
        };
        let mut speculator = Speculator {
            mode: options.speculation,
            most: options.draft_tokens,
            model: None,
            pace: Pace::default(),
        };
        let mut draft_pool = None;
        if let Some((checkpoint, small)) = draft {
            let state = (fit.pages as u64).saturating_mul(sizes.page_bytes);
            let used = sizes.weights.saturating_add(state);
            let room = Room {
                context: info.max_context,
                vocabulary: info.vocabulary,
                available: available.map(|bytes| bytes.saturating_sub(used)),
            };
            let loaded = load_draft(&cpu, checkpoint, small, &room, options, &load);
            let (model, pool) = loaded.map_err(|error| match error {
                Error::Graph(error) => load_error(checkpoint, error),
                error => error,
            })?;
            speculator.model = Some(model);
            draft_pool = Some(pool);
        }
        let scheduler = Scheduler::new(pool, draft_pool, limits);
        Engine::start(Worker { plan, state, scheduler, eyes, eos, speculator }, info, text, images)
    }
}

fn built(checkpoint: &Checkpoint, context: Option<usize>) -> Result<Model, Error> {
    keeve_models::build_for(checkpoint.config(), context)
        .map_err(|source| Error::Config { path: checkpoint.config_path().into(), source })
}

/// What there is for a draft model.
struct Room {
    /// Of the large model.
    context: usize,
    vocabulary: usize,
    /// Bytes of memory that the large model leaves.
    available: Option<u64>,
}

/// Loads a draft model, which shares the large one's threads.
fn load_draft(
    cpu: &Cpu,
    checkpoint: &Checkpoint,
    small: Model,
    room: &Room,
    options: &EngineOptions,
    load: &LoadOptions<'_>,
) -> Result<(DraftModel, PagePool), Error> {
    let program = cpu.load(Arc::new(small.graph), &Tensors(checkpoint), load)?;
    let sizes = Sizes {
        page_tokens: program.page_tokens(),
        page_bytes: program.page_bytes() as u64,
        weights: program.weight_bytes(),
        max_positions: small.max_positions.min(room.context),
        available: room.available,
    };
    let options = EngineOptions { max_context: None, kv_pages: None, ..options.clone() };
    let fit = fit(&sizes, &options)?;
    let model = DraftModel {
        plan: program.compile(&CompileOptions::default())?,
        state: program.state(fit.pages)?,
        context: fit.context,
        own_vocabulary: small.vocabulary,
        vocabulary: room.vocabulary,
        prompt_rows: options.prefill_chunk.max(1),
    };
    Ok((model, PagePool::new(fit.pages, sizes.page_tokens, reuse(&options))))
}

/// Which pages may be found again.
fn reuse(options: &EngineOptions) -> Reuse {
    match (options.prefix_cache, options.activations) {
        (false, _) => Reuse::Off,
        (true, Activations::Float) => Reuse::AnyPhase,
        (true, _) => Reuse::SamePhase,
    }
}

/// Reads the text side, and which tokens end answers.
type ReadText<'a> = Box<dyn FnOnce() -> Result<(TextSide, Vec<u32>), Error> + Send + 'a>;

/// What an engine has besides a model.
struct Sides<'a> {
    text: ReadText<'a>,
    images: ImageSide,
    /// The draft model.
    draft: Option<(&'a Checkpoint, Model)>,
    row_rounding: RowRounding,
    /// What is to be told of the model.
    notes: Vec<String>,
}

/// What makes images ready for a model that sees, if it came with settings for it.
fn processor(checkpoint: &Checkpoint, vision: &Vision) -> Result<Option<Processor>, Error> {
    let Some((path, bytes)) = checkpoint.image_settings() else { return Ok(None) };
    let wrong = |problem: String| Error::ImageSettings { path: path.into(), problem };
    let json = std::str::from_utf8(bytes).map_err(|_| wrong("is not UTF-8".into()))?;
    let file = path.display().to_string();
    let processor = Processor::from_json(json, &file).map_err(Error::from)?;
    let (width, merge) = (vision.patch_width, vision.merge);
    if (processor.width(), processor.merge()) != (width, merge) {
        let found = format!("{} values, {} merged", processor.width(), processor.merge());
        let problem = format!("makes patches of {found} a side; the model takes {width}, {merge}");
        return Err(wrong(problem));
    }
    Ok(Some(processor))
}

/// A checkpoint as the backend sees it.
struct Tensors<'a>(&'a Checkpoint);

impl Weights for Tensors<'_> {
    fn weight(&self, name: &str) -> Result<PackedTensor, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.0.tensor(name)?)
    }

    fn experts(
        &self,
        name: &str,
        count: usize,
    ) -> Result<Vec<PackedTensor>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.0.experts(name, count)?)
    }
}

/// Names the model in errors that do not name a file themselves.
fn load_error(checkpoint: &Checkpoint, error: keeve_graph::Error) -> Error {
    match error {
        // The checkpoint made it, and named the file.
        keeve_graph::Error::Weight(_) | keeve_graph::Error::Cancelled => error.into(),
        source => Error::Load { path: checkpoint.path().into(), source },
    }
}

/// What decides how much context there is room for.
struct Sizes {
    page_tokens: usize,
    /// Bytes of a page.
    page_bytes: u64,
    /// Bytes of weights.
    weights: u64,
    /// Positions that the model was made for.
    max_positions: usize,
    /// Bytes of free memory, where that is known.
    available: Option<u64>,
}

/// How much context there is room for.
#[derive(Debug, PartialEq, Eq)]
struct Fit {
    context: usize,
    pages: usize,
    note: Option<String>,
}

/// The fewest pages that a shortened context may have; with fewer, the model is refused.
const FEWEST_PAGES: usize = 8;

/// Compares weights and state with the memory there is.
fn fit(sizes: &Sizes, options: &EngineOptions) -> Result<Fit, Error> {
    let Sizes { page_tokens, weights, max_positions, available, .. } = *sizes;
    let page_bytes = sizes.page_bytes.max(1);
    // Positions and page numbers have 32 bits.
    let limit = u32::MAX as usize;
    let mut context = options.max_context.unwrap_or(max_positions).clamp(1, limit);
    let mut notes = vec![];
    if context > max_positions {
        notes.push(format!("the model was made for {max_positions} tokens, not {context}"));
    }
    if let Some(pages) = options.kv_pages {
        context = context.min(pages.max(1).saturating_mul(page_tokens));
    }
    let mut pages = context.div_ceil(page_tokens).max(options.kv_pages.unwrap_or(0).min(limit));
    // Weights are not in memory yet: they come from the mapped file as they are used.
    let room = available.map(|bytes| bytes.saturating_sub(weights) / page_bytes);
    let room = room.map(|pages| usize::try_from(pages).unwrap_or(limit).min(limit));
    if let Some(room) = room.filter(|&room| pages > room) {
        let asked = options.max_context.is_some() || options.kv_pages.is_some();
        if asked || room < FEWEST_PAGES {
            return Err(Error::Memory {
                weights,
                state: (pages as u64).saturating_mul(page_bytes),
                context,
                available: available.unwrap_or(0),
            });
        }
        let wanted = context;
        (pages, context) = (room, room.saturating_mul(page_tokens));
        notes.push(format!("the context is {context} tokens instead of {wanted}: memory is short"));
    }
    if options.kv_pages.is_none() {
        // Pages cost nothing until they are used, but all of them may be. Where free memory is not
        // known, one sequence of full length must do.
        let several = pages.saturating_mul(options.max_sequences.max(1));
        pages = several.min(room.unwrap_or(0) / 2).max(pages);
    }
    let note = (!notes.is_empty()).then(|| notes.join("; "));
    Ok(Fit { context, pages, note })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(available: Option<u64>) -> Sizes {
        Sizes { page_tokens: 16, page_bytes: 1000, weights: 5000, max_positions: 1600, available }
    }

    #[test]
    fn pages_are_for_several_sequences_but_at_most_half_of_free_memory() {
        let options = EngineOptions::default();
        let fits = |available| fit(&sizes(available), &options).map(|fit| (fit.context, fit.pages));
        assert_eq!(fits(Some(u64::MAX)).ok(), Some((1600, 1600)));
        assert_eq!(fits(Some(1_005_000)).ok(), Some((1600, 500)));
        assert_eq!(fits(Some(105_000)).ok(), Some((1600, 100)));
        assert_eq!(fits(None).ok(), Some((1600, 100)));
    }

    #[test]
    fn a_context_that_was_not_asked_for_shrinks_and_one_that_was_is_refused() {
        let mut options = EngineOptions::default();
        let shrunk = fit(&sizes(Some(55_999)), &options).expect("a smaller context");
        assert_eq!((shrunk.context, shrunk.pages), (800, 50));
        assert!(shrunk.note.is_some_and(|note| note.contains("800 tokens instead of 1600")));
        assert!(fit(&sizes(Some(12_000)), &options).is_err());
        options.max_context = Some(1600);
        let error = fit(&sizes(Some(55_999)), &options).expect_err("too little").to_string();
        assert!(error.contains("100000 bytes for a context of 1600"), "{error}");
    }

    #[test]
    fn any_options_are_answered_without_overflow() {
        let numbers = [1, 15, 16, 17, 1 << 31, u32::MAX as usize, usize::MAX];
        for (&context, &pages) in numbers.iter().flat_map(|a| numbers.iter().map(move |b| (a, b))) {
            for available in [None, Some(0), Some(1 << 20), Some(u64::MAX)] {
                let options = EngineOptions {
                    max_context: Some(context),
                    kv_pages: Some(pages),
                    max_sequences: usize::MAX,
                    ..EngineOptions::default()
                };
                let Ok(fit) = fit(&sizes(available), &options) else { continue };
                assert!(fit.context <= context && fit.context <= fit.pages * 16);
                assert!(fit.pages <= u32::MAX as usize);
            }
        }
    }

    #[test]
    fn a_context_beyond_the_model_is_noted_and_few_pages_bound_it() {
        let mut options = EngineOptions { max_context: Some(3200), ..EngineOptions::default() };
        let long = fit(&sizes(None), &options).expect("a context");
        assert_eq!((long.context, long.pages), (3200, 200));
        assert!(long.note.is_some_and(|note| note.contains("made for 1600 tokens, not 3200")));
        options = EngineOptions { kv_pages: Some(3), ..EngineOptions::default() };
        let few = fit(&sizes(None), &options).expect("a context");
        assert_eq!(few, Fit { context: 48, pages: 3, note: None });
    }
}
