//! From the MODEL argument to a checkpoint and an engine.

use std::path::{Path, PathBuf};

use keeve::checkpoint::TensorInfo;
use keeve::hub::ModelName;
use keeve::{Checkpoint, Engine, EngineOptions};

use crate::args::{Compute, Speculate};
use crate::output::{Failure, Output};
use crate::{hub, interrupt};

/// Opens MODEL: a directory, a `.gguf` file, a model on the hub (which is downloaded unless it is in the
/// cache), or (without one) the demo model. A path that exists wins.
pub fn open(model: Option<&str>) -> Result<Checkpoint, Failure> {
    open_seeing(model, None)
}

/// [`open`] for a model that sees with the GGUF file `mmproj`, if that is given.
pub fn open_seeing(model: Option<&str>, mmproj: Option<&Path>) -> Result<Checkpoint, Failure> {
    let path = match (model, mmproj) {
        (None, None) => return Ok(keeve::demo_model()?),
        (None, Some(_)) => return Err(Failure::usage("--mmproj needs a MODEL: a GGUF file")),
        (Some(name), _) if !Path::new(name).exists() => match ModelName::parse(name) {
            Ok(name) => return open_fetched(&name, mmproj),
            Err(_) => return Err(format!(
                "no model at '{name}': expected a directory, a .gguf file, or owner/name on the hub"
            )
            .into()),
        },
        (Some(path), _) => PathBuf::from(path),
    };
    Ok(match mmproj {
        None => Checkpoint::open(&path)?,
        Some(mmproj) => Checkpoint::open_seeing(&path, mmproj)?,
    })
}

/// [`open`] for what there is to text, with another chat template if `template` is given.
pub fn open_text(model: Option<&str>, template: Option<&str>) -> Result<Checkpoint, Failure> {
    let path = model.map(Path::new).filter(|path| path.exists());
    let checkpoint = match path {
        Some(path) => Checkpoint::open_text(path)?,
        None => open(model)?,
    };
    with_template(checkpoint, template)
}

/// Longest chat template, in bytes.
const MAX_TEMPLATE: u64 = 1 << 20;

/// The model with the chat template of `--chat-template`: a file, or the name of one that it has.
pub fn with_template(
    checkpoint: Checkpoint,
    template: Option<&str>,
) -> Result<Checkpoint, Failure> {
    let Some(wanted) = template else { return Ok(checkpoint) };
    let fail = |problem: String| Failure::from(format!("--chat-template {wanted}: {problem}"));
    let path = Path::new(wanted);
    if !path.exists() {
        let templates = checkpoint.chat_templates();
        if let Some((_, source)) = templates.iter().find(|(name, _)| name == wanted) {
            let source = source.clone();
            return Ok(checkpoint.with_chat_template(source));
        }
        let names: Vec<&str> = templates.iter().map(|(name, _)| name.as_str()).collect();
        let has = if names.is_empty() { "none".into() } else { names.join(", ") };
        return Err(fail(format!("no such file, and no template of the model (it has {has})")));
    }
    // A pipe would be waited for, a device read for ever.
    let metadata = std::fs::metadata(path).map_err(|error| fail(error.to_string()))?;
    if !metadata.is_file() {
        return Err(fail("is not a file".into()));
    }
    if metadata.len() > MAX_TEMPLATE {
        return Err(fail(format!("has {} bytes, more than {MAX_TEMPLATE}", metadata.len())));
    }
    let source = std::fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
    Ok(checkpoint.with_chat_template(source))
}

/// A model on the hub. What it sees with is downloaded where it turns out to be of use.
fn open_fetched(name: &ModelName, mmproj: Option<&Path>) -> Result<Checkpoint, Failure> {
    let path = hub::fetch(name)?.path;
    if let Some(mmproj) = mmproj {
        return Ok(Checkpoint::open_seeing(&path, mmproj)?);
    }
    let checkpoint = Checkpoint::open(&path)?;
    if !checkpoint.lacks_mmproj() {
        return Ok(checkpoint);
    }
    match hub::fetch_mmproj(name)? {
        Some(mmproj) => Ok(Checkpoint::open_seeing(&path, &mmproj.path)?),
        None => Ok(checkpoint),
    }
}

/// Loads a checkpoint, showing progress.
pub fn load(
    checkpoint: &Checkpoint,
    compute: &Compute,
    output: &Output,
) -> Result<Engine, Failure> {
    load_with(checkpoint, None, &options(compute), output)
}

/// Loads a checkpoint to answer, one prompt at a time, with a draft model if there is one.
pub fn load_to_answer(
    checkpoint: &Checkpoint,
    compute: &Compute,
    speculate: &Speculate,
    output: &Output,
) -> Result<Engine, Failure> {
    let draft = speculate.draft_model.as_deref();
    let draft = draft.map(|name| open(Some(name))).transpose()?;
    let options = EngineOptions { max_sequences: 1, ..answering(compute, speculate) };
    load_with(checkpoint, draft.as_ref(), &options, output)
}

/// What the flags say about how to compute answers.
pub fn answering(compute: &Compute, speculate: &Speculate) -> EngineOptions {
    EngineOptions {
        speculation: speculate.speculate.into(),
        draft_tokens: speculate.draft_tokens,
        ..options(compute)
    }
}

/// Loads a checkpoint for one prompt at a time, with room for no more than that.
pub fn load_for_one(
    checkpoint: &Checkpoint,
    compute: &Compute,
    output: &Output,
) -> Result<Engine, Failure> {
    load_with(checkpoint, None, &EngineOptions { max_sequences: 1, ..options(compute) }, output)
}

/// What the flags say about how to compute.
pub fn options(compute: &Compute) -> EngineOptions {
    EngineOptions {
        threads: compute.threads,
        max_context: compute.max_context,
        prefill_chunk: compute.prefill_chunk,
        prefix_cache: !compute.no_prefix_cache,
        activations: compute.activations.into(),
        activation_check: compute.activation_check.into(),
        kv_codec: compute.kv_codec,
        weights: compute.weights,
        rotate: compute.rotate,
        profile: compute.profile,
        ..EngineOptions::default()
    }
}

/// Loads a checkpoint as `options` say, showing progress.
pub fn load_with(
    checkpoint: &Checkpoint,
    draft: Option<&Checkpoint>,
    options: &EngineOptions,
    output: &Output,
) -> Result<Engine, Failure> {
    let bar = output.loading_bar();
    let engine = Engine::load_with_draft(checkpoint, draft, options, &|progress| {
        bar.set(progress);
        !interrupt::interrupted()
    })?;
    Ok(engine)
}

/// Tells what was decided otherwise than asked. Called once nothing can be wrong with the request
/// any more, so that an error stands alone.
pub fn notes(engine: &Engine, output: &Output) {
    for note in &engine.info().notes {
        output.note(&format!("note: {note}"));
    }
}

/// How much there is of some tensors.
#[derive(Default)]
pub struct Sum {
    pub tensors: u64,
    pub weights: u64,
    pub bytes: u64,
}

impl Sum {
    pub fn add(&mut self, tensor: &TensorInfo) {
        self.tensors += 1;
        self.weights = self.weights.saturating_add(weights(tensor));
        self.bytes = self.bytes.saturating_add(tensor.bytes);
    }

    /// Bits that a weight takes.
    pub fn bits(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.weights.max(1) as f64
    }
}

/// The number of weights in a tensor.
fn weights(tensor: &TensorInfo) -> u64 {
    tensor.shape.iter().fold(1, |product, &length| product.saturating_mul(length as u64))
}
