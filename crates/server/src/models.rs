//! The models that are served: loaded when they are first needed, unloaded when nobody has needed
//! them for a while or another one needs the room.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use keeve_checkpoint::Checkpoint;
use keeve_engine::{Engine, EngineOptions, SamplingParams, Speculation};
use serde_json::Value;

use crate::about::About;
use crate::app::now;
use crate::error::ApiError;
use crate::metrics::Metrics;
use crate::parse::{Probed, probe};
use crate::prepare::Lanes;

/// Where a model comes from.
pub struct ModelSource {
    /// Its name, and further names that it answers to.
    pub names: Vec<String>,
    /// Opens its files.
    pub open: Opener,
    /// Opens the files of the model that guesses what it will say, if there is one.
    pub draft: Option<Opener>,
}

/// Opens the files of a model. Called again each time it is loaded.
pub type Opener = Box<dyn Fn() -> Result<Checkpoint, String> + Send + Sync>;

/// The files of a model, and those of its draft model.
struct Opened {
    checkpoint: Checkpoint,
    draft: Option<Checkpoint>,
}

impl ModelSource {
    fn opened(&self) -> Result<Opened, String> {
        let draft = self.draft.as_ref().map(|open| open()).transpose()?;
        Ok(Opened { checkpoint: (self.open)()?, draft })
    }
}

impl Opened {
    fn weight_bytes(&self) -> u64 {
        let files = [Some(&self.checkpoint), self.draft.as_ref()].into_iter().flatten();
        files.flat_map(Checkpoint::files).map(|file| file.bytes).sum()
    }
}

/// How models are loaded.
#[derive(Debug, Clone)]
pub struct ModelsConfig {
    /// How their engines use the machine.
    pub engine: EngineOptions,
    /// Requests to one model that may wait besides those that run.
    pub max_queue: usize,
    /// Unload a model that nobody has used for so long.
    pub ttl: Option<Duration>,
    /// The most bytes that the weights of loaded models may take together.
    pub memory: Option<u64>,
    /// How tokens are chosen where requests do not say.
    pub sampling: SamplingDefaults,
}

/// How tokens are chosen where requests do not say; `None`: as the model's files recommend.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SamplingDefaults {
    /// As [`SamplingParams::temperature`].
    pub temperature: Option<f32>,
    /// As [`SamplingParams::top_k`].
    pub top_k: Option<usize>,
    /// As [`SamplingParams::top_p`].
    pub top_p: Option<f32>,
    /// As [`SamplingParams::min_p`].
    pub min_p: Option<f32>,
    /// As [`SamplingParams::repetition_penalty`].
    pub repetition_penalty: Option<f32>,
    /// The most tokens to generate; `None`: as many as fit.
    pub max_tokens: Option<usize>,
}

impl SamplingDefaults {
    /// These, and the others as `model` has them.
    fn over(&self, model: SamplingParams) -> SamplingParams {
        SamplingParams {
            temperature: self.temperature.unwrap_or(model.temperature),
            top_k: self.top_k.unwrap_or(model.top_k),
            top_p: self.top_p.unwrap_or(model.top_p),
            min_p: self.min_p.unwrap_or(model.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(model.repetition_penalty),
            ..model
        }
    }
}

impl Default for ModelsConfig {
    fn default() -> Self {
        Self {
            engine: EngineOptions::default(),
            max_queue: 128,
            ttl: None,
            memory: None,
            sampling: SamplingDefaults::default(),
        }
    }
}

/// A loaded model.
pub(crate) struct Model {
    pub name: String,
    pub engine: Engine,
    pub metrics: Arc<Metrics>,
    /// How tokens are chosen where a request does not say.
    pub sampling: SamplingParams,
    /// The most tokens to generate where a request does not say.
    pub max_tokens: Option<usize>,
    /// How it writes its answers.
    pub probed: Probed,
    /// Where requests wait to be prepared.
    lanes: Arc<Lanes>,
    /// Requests that may be computed at the same time.
    pub at_once: usize,
    /// Requests that were accepted and have not ended.
    accepted: Arc<AtomicUsize>,
    most: usize,
    used: AtomicU64,
    started: Instant,
}

/// A place among the requests of a model. Dropping it gives the place back.
pub(crate) struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Model {
    /// A place for a request, if not too many wait already.
    pub fn place(&self) -> Result<Place, ApiError> {
        let more = |count: usize| (count < self.most).then_some(count + 1);
        match self.accepted.fetch_update(Ordering::AcqRel, Ordering::Acquire, more) {
            Ok(_) => Ok(Place(self.accepted.clone())),
            Err(_) => {
                self.metrics.refused();
                Err(ApiError::busy("too many requests are waiting; try again later"))
            }
        }
    }

    /// Does what prepares a request where such work waits its turn: rendering, tokenizing, compiling.
    /// `texts` are the bytes of each of its texts, `grammar` whether it has a grammar.
    ///
    /// # Errors
    /// If a text cannot fit the context, too many wait already, or the work fails.
    pub async fn prepare<T: Send + 'static>(
        self: &Arc<Self>,
        texts: impl AsRef<[usize]> + Send,
        grammar: bool,
        work: impl FnOnce(&Self) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        for &bytes in texts.as_ref() {
            self.engine.check_length(bytes)?;
        }
        self.prepare_any(texts.as_ref().iter().sum(), grammar, work).await
    }

    /// The same where texts that are too long are cut.
    pub async fn prepare_any<T: Send + 'static>(
        self: &Arc<Self>,
        bytes: usize,
        grammar: bool,
        work: impl FnOnce(&Self) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let owner = self.clone();
        self.lanes.clone().prepare(bytes, grammar, move || work(&owner)).await?
    }

    /// The ids of a prompt as whoever writes templates writes it: special tokens by their names, and what the
    /// tokenizer puts in front unless it is there.
    pub fn template_ids(&self, prompt: &str) -> Result<Vec<u32>, ApiError> {
        let ids = self.engine.text_prompt(prompt, true, true)?;
        let tokenizer = self.engine.tokenizer()?;
        let twice = matches!(ids[..], [first, second, ..] if first == second && tokenizer.is_special(first));
        Ok(if twice { ids[1..].to_vec() } else { ids })
    }

    /// Requests that were accepted and are not being computed.
    pub fn waiting(&self) -> usize {
        self.accepted.load(Ordering::Acquire).saturating_sub(self.engine.stats().running)
    }

    fn touch(&self) {
        self.used.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn unused_for(&self) -> Duration {
        let used = Duration::from_millis(self.used.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(used)
    }

    fn is_idle(&self) -> bool {
        self.accepted.load(Ordering::Acquire) == 0
    }
}

struct Entry {
    source: ModelSource,
    metrics: Arc<Metrics>,
    created: u64,
    /// The model while it is loaded. Held while it is being loaded, so that others wait.
    loaded: tokio::sync::Mutex<Option<Arc<Model>>>,
    /// The same, for whoever must not wait.
    current: Mutex<Option<Arc<Model>>>,
    about: OnceLock<Arc<About>>,
    loaded_before: AtomicBool,
}

/// All models of a server.
pub(crate) struct Models {
    entries: Vec<Arc<Entry>>,
    by_name: HashMap<String, usize>,
    config: ModelsConfig,
    /// Held while room is made for a model.
    room: tokio::sync::Mutex<()>,
}

/// A model as `GET /v1/models` shows it.
pub(crate) struct Listed {
    pub names: Vec<String>,
    pub created: u64,
    pub model: Option<Arc<Model>>,
    pub metrics: Arc<Metrics>,
    /// What its files say about it, once it has been loaded.
    pub about: Option<Arc<About>>,
    /// Whether it has been loaded before; it may have been unloaded since.
    pub loaded_before: bool,
}

impl Listed {
    /// Whether requests are answered, if perhaps after loading the model again.
    pub fn ready(&self) -> bool {
        self.loaded_before
    }
}

impl Models {
    /// # Errors
    /// If there is no model, or two have the same name.
    pub fn new(sources: Vec<ModelSource>, config: ModelsConfig) -> Result<Self, String> {
        let mut by_name = HashMap::new();
        let mut entries = vec![];
        for (index, source) in sources.into_iter().enumerate() {
            for name in &source.names {
                if by_name.insert(name.clone(), index).is_some() {
                    return Err(format!("two models are called {name:?}"));
                }
            }
            entries.push(Arc::new(Entry {
                source,
                metrics: Arc::default(),
                created: now(),
                loaded: tokio::sync::Mutex::new(None),
                current: Mutex::new(None),
                about: OnceLock::new(),
                loaded_before: AtomicBool::new(false),
            }));
        }
        if entries.iter().any(|entry| entry.source.names.is_empty()) || entries.is_empty() {
            return Err("a server needs a model, and every model a name".into());
        }
        Ok(Self { entries, by_name, config, room: tokio::sync::Mutex::new(()) })
    }

    /// All models.
    pub fn list(&self) -> Vec<Listed> {
        let listed = |entry: &Arc<Entry>| Listed {
            names: entry.source.names.clone(),
            created: entry.created,
            model: entry.current(),
            metrics: entry.metrics.clone(),
            about: entry.about.get().cloned(),
            loaded_before: entry.loaded_before.load(Ordering::Relaxed),
        };
        self.entries.iter().map(listed).collect()
    }

    /// The model of this name, loading it if need be. Where there is only one, an empty name will do.
    pub async fn get(&self, name: &str) -> Result<Arc<Model>, ApiError> {
        let index = match self.by_name.get(name) {
            Some(&index) => index,
            None if name.is_empty() && self.entries.len() == 1 => 0,
            None if name.is_empty() => {
                return Err(ApiError::field("model", "model is needed: there are several"));
            }
            None => return Err(ApiError::no_model(name)),
        };
        self.load(index).await
    }

    /// Whether there is a model of this name.
    pub fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name) || name.is_empty() && self.entries.len() == 1
    }

    /// What the files of a model say about it, once it has been loaded.
    pub fn about(&self, name: &str) -> Option<Arc<About>> {
        let index = self.by_name.get(name).copied();
        let index = index.or_else(|| (name.is_empty() && self.entries.len() == 1).then_some(0))?;
        self.entries[index].about.get().cloned()
    }

    /// How long a loaded model stays if nobody uses it; `None`: for ever.
    pub fn time_left(&self, model: &Model) -> Option<Duration> {
        Some(self.config.ttl?.saturating_sub(model.unused_for()))
    }

    /// Unloads a model. It is loaded again when it is next needed.
    ///
    /// # Errors
    /// If there is no such model, or it is in use.
    pub async fn unload_by_name(&self, name: &str) -> Result<(), ApiError> {
        let index = self.by_name.get(name).copied();
        let index = index.or_else(|| (name.is_empty() && self.entries.len() == 1).then_some(0));
        let Some(index) = index else { return Err(ApiError::no_model(name)) };
        if self.entries[index].current().is_some() && !self.unload(index).await {
            return Err(ApiError::unavailable("the model is in use"));
        }
        Ok(())
    }

    /// Loads the first model, which is then ready for the first request.
    pub async fn load_first(&self) -> Result<Arc<Model>, ApiError> {
        self.load(0).await
    }

    async fn load(&self, index: usize) -> Result<Arc<Model>, ApiError> {
        let entry = &self.entries[index];
        let mut loaded = entry.loaded.lock().await;
        if let Some(model) = &*loaded {
            model.touch();
            return Ok(model.clone());
        }
        let opener = entry.clone();
        let opened = blocking(move || opener.source.opened()).await?;
        let opened = opened.map_err(|problem| {
            ApiError::unavailable(format!("the model cannot be loaded: {problem}"))
        })?;
        let _room = self.room.lock().await;
        self.make_room(index, opened.weight_bytes()).await?;
        let (config, owner) = (self.config.clone(), entry.clone());
        let made = blocking(move || prepare(&opened, &config, &owner)).await?;
        let model = made.map_err(|problem| {
            ApiError::unavailable(format!("the model cannot be loaded: {problem}"))
        })?;
        let model = Arc::new(model);
        tracing::info!(model = model.name, "loaded");
        *loaded = Some(model.clone());
        entry.set_current(Some(model.clone()));
        entry.loaded_before.store(true, Ordering::Relaxed);
        Ok(model)
    }

    /// Unloads idle models until so many more bytes of weights fit.
    async fn make_room(&self, index: usize, bytes: u64) -> Result<(), ApiError> {
        let Some(memory) = self.config.memory else { return Ok(()) };
        if bytes > memory {
            let message =
                format!("the model has {bytes} bytes of weights, but {memory} are allowed");
            return Err(ApiError::unavailable(message));
        }
        loop {
            let loaded: Vec<_> = self.entries.iter().filter_map(|entry| entry.current()).collect();
            let held: u64 = loaded.iter().map(|model| model.engine.info().weight_bytes).sum();
            if held.saturating_add(bytes) <= memory {
                return Ok(());
            }
            let idle = self.entries.iter().enumerate().filter(|(other, _)| *other != index);
            let idle = idle.filter_map(|(other, entry)| Some((other, entry.current()?)));
            let oldest = idle
                .filter(|(_, model)| model.is_idle())
                .max_by_key(|(_, model)| model.unused_for());
            let Some((oldest, _)) = oldest else {
                let message = "the models in use leave no memory for this one; try again later";
                return Err(ApiError::unavailable(message));
            };
            if !self.unload(oldest).await {
                return Err(ApiError::unavailable("no memory for this model; try again later"));
            }
        }
    }

    /// Unloads a model unless it is in use.
    async fn unload(&self, index: usize) -> bool {
        let entry = &self.entries[index];
        let Ok(mut loaded) = entry.loaded.try_lock() else { return false };
        if loaded.as_ref().is_none_or(|model| !model.is_idle()) {
            return false;
        }
        entry.set_current(None);
        let Some(model) = loaded.take() else { return false };
        tracing::info!(model = model.name, "unloaded");
        // Dropping an engine waits for its thread. Whoever still holds the model may finish.
        blocking(move || drop(model)).await.is_ok()
    }

    /// Unloads models that nobody has used for long. Does not end.
    pub async fn unload_unused(&self) {
        let Some(ttl) = self.config.ttl else { return std::future::pending().await };
        let pause = (ttl / 4).clamp(Duration::from_millis(50), Duration::from_secs(10));
        loop {
            tokio::time::sleep(pause).await;
            for (index, entry) in self.entries.iter().enumerate() {
                if entry.current().is_some_and(|model| model.is_idle() && model.unused_for() >= ttl)
                {
                    self.unload(index).await;
                }
            }
        }
    }

    /// Whether an engine has died.
    pub fn any_dead(&self) -> bool {
        self.entries
            .iter()
            .filter_map(|entry| entry.current())
            .any(|model| !model.engine.is_alive())
    }
}

impl Entry {
    fn current(&self) -> Option<Arc<Model>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_current(&self, model: Option<Arc<Model>>) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = model;
    }
}

/// Runs work that takes long on a thread of its own.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| ApiError::panicked())
}

fn prepare(opened: &Opened, config: &ModelsConfig, entry: &Entry) -> Result<Model, String> {
    let Opened { checkpoint, draft } = opened;
    let mut options = config.engine.clone();
    // The draft model is one model's; the others speculate without.
    if draft.is_none() && options.speculation == Speculation::Draft {
        options.speculation = Speculation::Auto;
    }
    let engine = Engine::load_with_draft(checkpoint, draft.as_ref(), &options, &|_| true);
    let engine = engine.map_err(|error| error.to_string())?;
    entry.about.get_or_init(|| Arc::new(About::of(checkpoint)));
    let probed = probe(
        engine.chat_template().ok().flatten(),
        tool_template(checkpoint),
        engine.tokenizer().ok(),
    );
    let notation = probed.style.notation().name;
    tracing::debug!(notation, tools = probed.tools, calls = probed.calls, "chat template probed");
    Ok(Model {
        name: entry.source.names[0].clone(),
        metrics: entry.metrics.clone(),
        sampling: config.sampling.over(default_sampling(checkpoint.generation_config())),
        max_tokens: config.sampling.max_tokens,
        probed,
        lanes: Arc::default(),
        at_once: config.engine.max_sequences,
        accepted: Arc::default(),
        most: config.engine.max_sequences.saturating_add(config.max_queue).max(1),
        used: AtomicU64::new(0),
        started: Instant::now(),
        engine,
    })
}

/// The sampling that a model's `generation_config.json` recommends; plain sampling where it says
/// nothing usable.
fn default_sampling(config: Option<&Value>) -> SamplingParams {
    let field = |name: &str| config.and_then(|config| config.get(name));
    let number = |name: &str| field(name).and_then(Value::as_f64).map(|value| value as f32);
    let plain = SamplingParams::default();
    let greedy = field("do_sample").and_then(Value::as_bool) == Some(false);
    let params = SamplingParams {
        temperature: if greedy { 0.0 } else { number("temperature").unwrap_or(1.0) },
        top_p: number("top_p").unwrap_or(1.0),
        min_p: number("min_p").unwrap_or(0.0),
        top_k: field("top_k").and_then(Value::as_u64).map_or(0, |count| count as usize),
        repetition_penalty: number("repetition_penalty").unwrap_or(1.0),
        ..plain.clone()
    };
    if params.validate().is_ok() { params } else { plain }
}

/// The chat template of conversations with tools.
fn tool_template(checkpoint: &Checkpoint) -> &str {
    let own = checkpoint.chat_templates().iter().find(|(name, _)| name == "tool_use");
    let own = own.map(|(_, template)| template.as_str());
    own.or(checkpoint.chat_template()).unwrap_or_default()
}
