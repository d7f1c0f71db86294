//! From a checkpoint to a running engine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use keeve_checkpoint::Checkpoint;
use keeve_codec::{Codec, PackedTensor};
use keeve_cpu::{Cpu, CpuOptions, Isa};
use keeve_graph::{
    Activations, Backend, CompileOptions, KvCodec, LoadOptions, Progress, RowRounding, Weight,
    Weights,
};
use keeve_image::Processor;
use keeve_models::{Model, Vision};

use crate::activation_check::{ActivationCheck, Checked};
use crate::draft_model::{DraftModel, same_tokens};
use crate::engine::{Engine, ImageSide, Speculator, Worker};
use crate::error::Error;
use crate::fit::{Seeing, Sizes, fit};
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
    /// Whether what that costs the model is looked at, and told in [`ModelInfo::notes`].
    pub activation_check: ActivationCheck,
    /// The codec that the matrices of linear layers are encoded in as they load, those that see left out;
    /// `None`: they stay as they are. What was done is told in [`ModelInfo::notes`].
    pub weights: Option<Codec>,
    /// Rotate the rows of these matrices before they are encoded: see [`keeve_codec::Basis::Hadamard`].
    pub rotate: bool,
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
            activation_check: ActivationCheck::Never,
            weights: None,
            rotate: false,
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
    /// Bytes of packed weights, those that the model sees with among them.
    pub weight_bytes: u64,
    /// The most tokens of an image; 0 if the model does not see.
    pub image_tokens: usize,
    /// Bytes that are worked with while an image of so many tokens is seen.
    pub image_bytes: u64,
    /// Bytes of state (keys and values) that a token takes.
    pub token_state_bytes: usize,
    /// Tokens that end an answer.
    pub eos: Vec<u32>,
    /// How activations enter matrix products.
    pub activations: Activations,
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
                let schemes = rounding::schemes(checkpoint);
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
            products: None,
            progress,
        };
        let reencoded = match options.weights {
            None => None,
            Some(codec) => {
                Some(Reencoded::new(weights, codec, options.rotate, &model.graph, threads)?)
            }
        };
        // What sees stays as it is, rounded to bf16 at most: it is small, and much depends on it.
        let (mut eyes, mut seeing, mut seeing_bytes) = (None, None, 0);
        if let Some(vision) = model.vision {
            let sight = Sight::new(&vision, images.most_tokens(options.image_tokens));
            let float = options.activations == Activations::Float;
            let activations = if float { Activations::Float } else { Activations::Bf16 };
            // Both parts of the work are told as one.
            let text = stored_bytes(model.graph.weights().iter(), weights)?;
            let go_on = |seen: Progress| {
                progress(Progress { done: seen.done, total: seen.total.saturating_add(text) })
            };
            let load = LoadOptions { activations, progress: &go_on, ..LoadOptions::default() };
            let loaded = Eyes::load(vision, &cpu, weights, &load, options.image_cache_bytes)?;
            seeing_bytes = loaded.weight_bytes();
            seeing = Some(Seeing {
                token_bytes: loaded.token_bytes(),
                tokens: sight.most,
                together: loaded.tokens_together(),
            });
            (eyes, images.sight) = (Some(loaded), Some(sight));
        }
        let after_seeing = |text: Progress| {
            let [done, total] = [text.done, text.total].map(|n| n.saturating_add(seeing_bytes));
            progress(Progress { done, total })
        };
        let load = LoadOptions { progress: &after_seeing, ..load };
        let weights = reencoded.as_ref().map_or(weights, |reencoded| reencoded as &dyn Weights);
        // Large vocabularies take as long to read as weights to pack.
        let graph = Arc::new(model.graph);
        let (program, text) = std::thread::scope(|scope| {
            let text = scope.spawn(text);
            let program = cpu.load(graph.clone(), weights, &load);
            let text = text.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (program, text)
        });
        let (program, (text, eos)) = (program?, text?);
        if let Ok(Some(tokenizer)) = &text.tokenizer {
            notes.extend_from_slice(tokenizer.notes());
        }
        let checked = Checked { backend: &cpu, graph, weights, program: &*program };
        let tokens =
            |sample: &str| text.tokenizer.as_ref().ok()?.as_ref()?.encode(sample, true, false).ok();
        notes.extend(checked.note(options.activations, options.activation_check, tokens));
        let weight_bytes = program.weight_bytes().saturating_add(seeing_bytes);
        let sizes = Sizes {
            page_tokens: program.page_tokens(),
            page_bytes: program.page_bytes() as u64,
            weights: weight_bytes,
            max_positions: model.max_positions,
            available,
            seeing,
        };
        let fit = fit(&sizes, options)?;
        if let Some(sight) = &mut images.sight {
            sight.most = fit.image_tokens;
        }
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
            image_tokens: fit.image_tokens,
            image_bytes: fit.image_bytes,
            token_state_bytes: program.page_bytes() / program.page_tokens(),
            eos: eos.clone(),
            activations: options.activations,
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
            let used = sizes.weights.saturating_add(state).saturating_add(fit.image_bytes);
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
    keeve_models::build_for(checkpoint.config(), context).map_err(|source| {
        let path = checkpoint.config_path().into();
        // Who has a GGUF file knows its own names, not those of a config.json.
        let field = match &source {
            keeve_models::Error::Field { field, .. } => Some(*field),
            keeve_models::Error::Architecture(_) => Some("model_type"),
            _ => None,
        };
        let known = field.and_then(|field| Some((field, checkpoint.gguf_key(field)?)));
        let Some((field, key)) = known else { return Error::Config { path, source } };
        let text = source.to_string();
        let problem = text.strip_prefix(&format!("field '{field}' ")).unwrap_or(&text).to_owned();
        Error::Metadata { path, key, problem }
    })
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
        seeing: None,
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

/// Bytes of these weights as they are stored.
fn stored_bytes<'a>(
    mut used: impl Iterator<Item = &'a Weight>,
    weights: &dyn Weights,
) -> Result<u64, Error> {
    let bytes = |weight: &Weight| match weight.experts {
        None => weights.info(&weight.name).map(|info| info.bytes),
        Some(count) => weights.experts_bytes(&weight.name, count),
    };
    let sum = used.try_fold(0u64, |sum, weight| Ok(sum.saturating_add(bytes(weight)?)));
    sum.map_err(|error| Error::from(keeve_graph::Error::Weight(error)))
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

/// A checkpoint as a backend sees it.
pub struct Tensors<'a>(pub &'a Checkpoint);

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
