//! A whole model through the engine: tokens a second of prompts and of answers.

use std::sync::Arc;
use std::time::Duration;

use keeve_checkpoint::Checkpoint;
use keeve_engine::{
    Engine, EngineOptions, Event, FinishReason, Request, SamplingParams, Speculation, Timings,
    memory,
};
use keeve_graph::OpProfile;
use keeve_image::Patches;
use keeve_models::Vision;
use serde::Serialize;
use serde_json::Value;

use crate::bounds::Bounds;
use crate::cost::Cost;
use crate::images::Sight;
use crate::random::{RandomWeights, token_ids};
use crate::{Error, Observer, Spread};
use keeve_quantize::{Dimensions, Scheme};

/// What is measured, and how often.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Protocol {
    /// Tokens of the prompt whose speed is measured; 0: not measured.
    pub prompt: usize,
    /// Images in that prompt. Their tokens are among its tokens.
    pub images: usize,
    /// Generated tokens whose speed is measured; 0: not measured.
    pub generated: usize,
    /// Tokens in the context before the generated ones. At 0 there is one nevertheless, since
    /// generation needs something to follow.
    pub depth: usize,
    /// Temperature at which tokens are sampled; 0: greedily.
    pub temperature: f32,
    /// The share of the probability that they are sampled from (top-p); 1: all of it.
    pub top_p: f32,
    /// Measurements of each.
    pub repetitions: usize,
}

impl Protocol {
    /// The context that it needs.
    fn context(&self) -> usize {
        let prefill = self.prompt.saturating_add(1);
        let decode = self.depth.max(1).saturating_add(self.generated).saturating_add(1);
        prefill.max(decode)
    }
}

/// A loaded model, ready to be measured.
pub struct ModelBench {
    engine: Engine,
    sight: Option<Sight>,
    cost: Cost,
    config: String,
    codec: String,
    options: EngineOptions,
    load_time: Duration,
}

/// Where a model comes from.
pub enum Source<'a> {
    /// A real one.
    Checkpoint {
        /// Its name, for the report.
        name: &'a str,
        /// Its files.
        checkpoint: &'a Checkpoint,
    },
    /// Random weights for a config in the form that [`keeve_models::build`] takes.
    Random {
        /// The shape's name, for the report.
        name: &'a str,
        /// Its config.
        config: &'a Value,
        /// The codecs.
        scheme: &'a Scheme,
    },
}

impl ModelBench {
    /// Loads (or makes) a model for `protocol`. The context, the number of sequences and the prefix
    /// cache in `options` are set as the protocol needs them.
    ///
    /// # Errors
    /// If there is nothing to measure, the model cannot be loaded or made, or it does not fit into
    /// memory.
    pub fn load(
        source: &Source<'_>,
        protocol: &Protocol,
        options: &EngineOptions,
        observer: &dyn Observer,
    ) -> Result<Self, Error> {
        if protocol.prompt == 0 && protocol.generated == 0 {
            return Err(Error::Nothing);
        }
        let options = EngineOptions {
            max_context: Some(protocol.context()),
            max_sequences: 1,
            prefix_cache: false,
            // Each token is to be computed, whatever it is.
            speculation: Speculation::Off,
            ..options.clone()
        };
        let progress = |progress: keeve_graph::Progress| {
            let mib = |bytes: u64| usize::try_from(bytes >> 20).unwrap_or(usize::MAX);
            observer.progress("loading", mib(progress.done), mib(progress.total));
            !observer.stopped()
        };
        match source {
            Source::Checkpoint { name, checkpoint } => {
                let model = build(name, checkpoint.config())?;
                let sight = sight(&model, protocol)?;
                let matrices = keeve_engine::matrices_of(&model.graph);
                let bytes = |weight: &keeve_graph::Weight| {
                    if let Some(codec) = options.weights.filter(|_| matrices.contains(&weight.name))
                    {
                        let shape = |error| Error::Tensor { name: weight.name.clone(), error };
                        let row = codec.row_bytes(weight.cols).map_err(shape)?;
                        let rows = weight.rows * weight.experts.unwrap_or(1);
                        return Ok(row as u64 * rows as u64);
                    }
                    let missing = || Error::NoWeight(weight.name.clone());
                    match weight.experts {
                        None => {
                            let info = checkpoint.info(&weight.name);
                            info.map(|info| info.bytes).ok_or_else(missing)
                        }
                        Some(count) => {
                            let experts = checkpoint.experts(&weight.name, count);
                            let experts = experts.map_err(|_| missing())?;
                            Ok(experts.iter().map(|expert| expert.bytes() as u64).sum())
                        }
                    }
                };
                let cost = Cost::of(&model.graph, bytes)?;
                let engine = Engine::load(checkpoint, &options, &progress)?;
                let load_time = engine.info().load_time;
                let codecs = codecs_of(checkpoint);
                let codec = match options.weights {
                    Some(weights) => format!("{codecs}, matrices as {weights}"),
                    None => codecs,
                };
                let config = (*name).into();
                Ok(Self { engine, sight, cost, config, codec, options, load_time })
            }
            Source::Random { name, config, scheme } => {
                let model = build(name, config)?;
                let sight = sight(&model, protocol)?;
                let cores = || std::thread::available_parallelism().map_or(1, usize::from);
                let weights = RandomWeights::new(
                    &model.graph,
                    scheme,
                    &Dimensions::of(config),
                    model.tied_head,
                    options.threads.unwrap_or_else(cores),
                );
                let weights = weights.with(model.vision.iter().flat_map(Vision::weights));
                let cost = Cost::of(&model.graph, |weight| weights.bytes(&weight.name))?;
                // Before memory is taken, for the system may end those that take too much.
                let (bytes, available) = (weights.total_bytes()?, memory::available());
                if let Some(available) = available.filter(|&available| available < bytes) {
                    return Err(Error::Memory { weights: bytes, available });
                }
                observer.progress("making weights", 0, 1);
                let engine = Engine::from_weights(model, &weights, &options, &progress)?;
                let load_time = engine.info().load_time.saturating_sub(weights.making());
                let (config, codec) = ((*name).into(), scheme.name().into());
                Ok(Self { engine, sight, cost, config, codec, options, load_time })
            }
        }
    }

    /// What was decided otherwise than asked, for a person.
    pub fn notes(&self) -> &[String] {
        &self.engine.info().notes
    }

    /// Measures by `protocol` (the one it was loaded for), then gives the model's memory back and
    /// measures the machine. Ends early, with what there is, when the observer says so.
    ///
    /// # Errors
    /// If the engine fails, or the machine cannot be measured.
    pub fn run(self, protocol: &Protocol, observer: &dyn Observer) -> Result<Report, Error> {
        let mut rates = Rates::default();
        let runs = self.measure(protocol, &mut rates, observer)?;
        let profile = match self.options.profile {
            true => Some(self.engine.profile()?.into_iter().map(ProfileRow::from).collect()),
            false => None,
        };
        let info = self.engine.info().clone();
        // Before the machine is measured, which takes memory too.
        let peak_memory = memory::peak();
        let Self { engine, cost, config, codec, options, load_time, .. } = self;
        drop(engine);
        let bounds = match runs {
            Runs::All => Bounds::measure(info.threads, observer)?,
            Runs::Interrupted => Bounds::default(),
        };
        let prefill = Spread::of(&rates.prefill);
        let seen = Spread::of(&rates.seen);
        let decode = Spread::of(&rates.decode);
        let bytes_per_token = cost.bytes_per_token(protocol.depth, info.token_state_bytes);
        let fraction = |of: Option<f64>, bound: Option<f64>| Some(of? / bound?);
        let read = decode.map(|rate| rate.median * bytes_per_token as f64 / 1e9);
        // What sees is no part of the cost.
        let computed = if protocol.images > 0 { seen } else { prefill };
        let computed = computed.map(|rate| {
            let each =
                cost.prompt_operations(protocol.prompt) as f64 / protocol.prompt.max(1) as f64;
            rate.median * each / 1e12
        });
        Ok(Report {
            config,
            codec,
            activations: options.activations.name(),
            isa: info.isa.name(),
            threads: info.threads,
            p: protocol.prompt,
            images: protocol.images,
            n: protocol.generated,
            d: protocol.depth,
            temperature: protocol.temperature,
            top_p: protocol.top_p,
            r: protocol.repetitions,
            prefill_tok_s: prefill,
            prefill_seen_tok_s: seen,
            decode_tok_s: decode,
            bytes_per_token,
            bounds,
            decode_bandwidth_fraction: fraction(read, bounds.read_gb_s),
            prefill_peak_fraction: fraction(computed, bounds.peak_tops(options.activations)),
            load_s: load_time.as_secs_f64(),
            peak_memory,
            interrupted: observer.stopped(),
            profile,
        })
    }

    fn measure(
        &self,
        protocol: &Protocol,
        rates: &mut Rates,
        observer: &dyn Observer,
    ) -> Result<Runs, Error> {
        let Protocol { prompt, images, generated, depth, repetitions, .. } = *protocol;
        let parts = repetitions.saturating_mul(2).saturating_add(1);
        let mut done = 0;
        let mut step = || {
            observer.progress("measuring", done, parts);
            done += 1;
        };
        step();
        // The first run of each kind pays for memory that later ones find.
        if self.request(protocol, prompt.max(1), self.shown(images, 0), 2, 0, observer)?.is_none() {
            return Ok(Runs::Interrupted);
        }
        for repetition in 0..repetitions as u64 {
            step();
            if prompt > 0 {
                let seed = 2 * repetition + 1;
                let shown = self.shown(images, seed);
                let Some(times) =
                    self.request(protocol, prompt, shown.clone(), 1, seed, observer)?
                else {
                    return Ok(Runs::Interrupted);
                };
                rates.prefill.push(times.prompt_rate());
                if images > 0 {
                    let Some(times) = self.request(protocol, prompt, shown, 1, seed, observer)?
                    else {
                        return Ok(Runs::Interrupted);
                    };
                    rates.seen.push(times.prompt_rate());
                }
            }
            step();
            if generated > 0 {
                let (before, seed) = (depth.max(1), 2 * repetition + 2);
                // The first token comes with the prompt; time runs from there to the last.
                let Some(times) =
                    self.request(protocol, before, vec![], generated + 1, seed, observer)?
                else {
                    return Ok(Runs::Interrupted);
                };
                rates.decode.push(times.decode_rate());
            }
        }
        step();
        Ok(if observer.stopped() { Runs::Interrupted } else { Runs::All })
    }

    /// `count` images; others for each `seed`.
    fn shown(&self, count: usize, seed: u64) -> Vec<Arc<Patches>> {
        self.sight.map(|sight| sight.images(count, seed)).unwrap_or_default()
    }

    /// Runs a prompt of `images` and random tokens and generates `generated` ones. `None` if it was
    /// cancelled.
    fn request(
        &self,
        protocol: &Protocol,
        prompt: usize,
        images: Vec<Arc<Patches>>,
        generated: usize,
        seed: u64,
        observer: &dyn Observer,
    ) -> Result<Option<Timings>, Error> {
        let vocabulary = self.engine.info().vocabulary;
        let prompt = match &self.sight {
            Some(sight) => sight.prompt(prompt, images.len(), vocabulary, seed)?,
            None => token_ids(prompt, vocabulary, seed),
        };
        let generation = self.engine.submit(Request {
            prompt,
            images,
            sampling: SamplingParams {
                temperature: protocol.temperature,
                top_p: protocol.top_p,
                seed: Some(seed),
                ..SamplingParams::default()
            },
            max_tokens: Some(generated),
            ignore_eos: true,
            ..Request::default()
        })?;
        observer.running(generation.canceller());
        for event in generation {
            match event {
                Event::Finished { reason: FinishReason::Cancelled, .. } => return Ok(None),
                Event::Finished { timings, .. } => return Ok(Some(timings)),
                Event::Failed(error) => return Err(Error::Failed(error)),
                Event::Token { .. } | Event::PromptLogits { .. } | Event::Embedding(_) => {}
            }
        }
        Ok(None)
    }
}

/// The graph of a config.
fn build(name: &str, config: &Value) -> Result<keeve_models::Model, Error> {
    keeve_models::build(config).map_err(|source| Error::Config { name: name.into(), source })
}

/// How a model sees.
///
/// # Errors
/// If the protocol has images and the model does not see, or the prompt is too short for them.
fn sight(model: &keeve_models::Model, protocol: &Protocol) -> Result<Option<Sight>, Error> {
    let sight = model.vision.as_ref().map(Sight::of);
    if protocol.images > 0 {
        let sight = sight.ok_or(Error::NoVision)?;
        sight.prompt(protocol.prompt, protocol.images, model.vocabulary, 0)?;
    }
    Ok(sight)
}

/// Tokens a second, a number for each repetition.
#[derive(Default)]
struct Rates {
    prefill: Vec<f64>,
    /// The same prompts again, their images being known.
    seen: Vec<f64>,
    decode: Vec<f64>,
}

/// Whether everything was measured.
enum Runs {
    All,
    Interrupted,
}

/// The formats of a checkpoint's matrices, the one with most bytes first: `q4_k+q6_k`.
fn codecs_of(checkpoint: &Checkpoint) -> String {
    let mut formats: Vec<(&str, u64)> = vec![];
    for tensor in checkpoint.tensors().filter(|tensor| tensor.shape.len() > 1) {
        match formats.iter_mut().find(|(format, _)| *format == tensor.format) {
            Some((_, bytes)) => *bytes = bytes.saturating_add(tensor.bytes),
            None => formats.push((&tensor.format, tensor.bytes)),
        }
    }
    formats.sort_by_key(|&(_, bytes)| std::cmp::Reverse(bytes));
    formats.iter().map(|(format, _)| *format).collect::<Vec<_>>().join("+")
}

/// What was measured. Rates are of the repetitions that ended; what was not measured is `None`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The shape's name or the model's path.
    pub config: String,
    /// The preset or codec.
    pub codec: String,
    /// How activations entered products.
    pub activations: &'static str,
    /// The instruction set tier.
    pub isa: &'static str,
    /// Threads that computed.
    pub threads: usize,
    /// Tokens of the prompt.
    pub p: usize,
    /// Images in the prompt.
    #[serde(skip_serializing_if = "is_zero")]
    pub images: usize,
    /// Generated tokens.
    pub n: usize,
    /// Tokens before the generated ones.
    pub d: usize,
    /// Temperature at which they are sampled; 0: greedily.
    pub temperature: f32,
    /// The share of the probability that they are sampled from.
    pub top_p: f32,
    /// Repetitions asked for.
    pub r: usize,
    /// Prompt tokens a second, with the head for the last one and its sampling.
    pub prefill_tok_s: Option<Spread>,
    /// The same where the images were seen before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefill_seen_tok_s: Option<Spread>,
    /// Generated tokens a second at that depth.
    pub decode_tok_s: Option<Spread>,
    /// Bytes that a generated token reads at least: [`Cost::bytes_per_token`].
    pub bytes_per_token: u64,
    /// The machine's limits.
    #[serde(flatten)]
    pub bounds: Bounds,
    /// Bytes read a second at the median decode rate, over the read bandwidth.
    pub decode_bandwidth_fraction: Option<f64>,
    /// Operations a second of the language model's linears at the median prefill rate, over
    /// [`Bounds::peak_tops`]; with images, at the rate where they were seen before.
    pub prefill_peak_fraction: Option<f64>,
    /// Seconds to load, without those that making weights took.
    pub load_s: f64,
    /// The most memory that the process had in use with the model; `None` where the system does not
    /// say.
    pub peak_memory: Option<u64>,
    /// Whether it was ended before everything was measured.
    pub interrupted: bool,
    /// Time and bytes by operation over all runs, where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<Vec<ProfileRow>>,
}

/// [`OpProfile`], with the names that JSON has.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProfileRow {
    /// The operation.
    pub op: String,
    /// How often it ran.
    pub calls: u64,
    /// Nanoseconds.
    pub ns: u64,
    /// Bytes of weights and state read.
    pub bytes: u64,
}

impl From<OpProfile> for ProfileRow {
    fn from(row: OpProfile) -> Self {
        let OpProfile { op, calls, nanoseconds, bytes } = row;
        Self { op, calls, ns: nanoseconds, bytes }
    }
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl Report {
    /// A table for a person.
    pub fn table(&self) -> String {
        let mut table = format!(
            "{} {}, activations {}, {} threads, {}{}\n\n{:12} {:>10} {:>10} {:>10} {:>10}\n",
            self.config,
            self.codec,
            self.activations,
            self.threads,
            self.isa,
            match self.images {
                0 => String::new(),
                count => format!(", {count} images of 1024 x 1024"),
            } + &match self.temperature > 0.0 {
                true => format!(", temp {}, top-p {}", self.temperature, self.top_p),
                false => String::new(),
            },
            "tok/s",
            "min",
            "median",
            "max",
            "of bound",
        );
        let mut row = |name: String, spread: Option<Spread>, fraction: Option<f64>| {
            let fraction =
                fraction.map_or_else(|| "-".into(), |part| format!("{:.1} %", 100.0 * part));
            table += &match spread {
                Some(Spread { min, median, max }) => {
                    format!("{name:12} {min:>10.2} {median:>10.2} {max:>10.2} {fraction:>10}\n")
                }
                None => format!("{name:12} {:>10} {:>10} {:>10} {:>10}\n", "-", "-", "-", "-"),
            };
        };
        if self.images == 0 {
            row(format!("pp{}", self.p), self.prefill_tok_s, self.prefill_peak_fraction);
        } else {
            row(format!("pp{}, new", self.p), self.prefill_tok_s, None);
            row(format!("pp{}, seen", self.p), self.prefill_seen_tok_s, self.prefill_peak_fraction);
        }
        let decode = match self.d {
            0 => format!("tg{}", self.n),
            depth => format!("tg{} @ {depth}", self.n),
        };
        row(decode, self.decode_tok_s, self.decode_bandwidth_fraction);
        let rate = |value: Option<f64>, unit: &str| {
            value.map_or_else(|| "-".into(), |value| format!("{value:.2} {unit}"))
        };
        let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
        let peak_memory = self.peak_memory.map_or_else(|| "-".into(), mib);
        table += &format!(
            "\nread bandwidth {}, AMX int8 {}, AMX bf16 {}, VNNI int8 {}\n\
             {} read for a token, loaded in {:.2} s, peak memory {peak_memory}\n",
            rate(self.bounds.read_gb_s, "GB/s"),
            rate(self.bounds.amx_int8_tops, "TOP/s"),
            rate(self.bounds.amx_bf16_tops, "TOP/s"),
            rate(self.bounds.vnni_int8_tops, "TOP/s"),
            mib(self.bytes_per_token),
            self.load_s,
        );
        if let Some(profile) = &self.profile {
            table += &profile_table(profile);
        }
        table
    }
}

fn profile_table(profile: &[ProfileRow]) -> String {
    let total: u64 = profile.iter().map(|row| row.ns).sum();
    let mut table = format!("\n{:24} {:>9} {:>12} {:>6} {:>9}\n", "op", "calls", "ms", "%", "GB/s");
    for ProfileRow { op, calls, ns, bytes } in profile {
        let share = 100.0 * *ns as f64 / total.max(1) as f64;
        let rate = *bytes as f64 / (*ns).max(1) as f64;
        let ms = *ns as f64 / 1e6;
        table += &format!("{op:24} {calls:>9} {ms:>12.2} {share:>6.1} {rate:>9.2}\n");
    }
    table
}
