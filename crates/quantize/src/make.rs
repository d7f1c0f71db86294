//! Making a model: each tensor is read, encoded and written by itself, so that no more than two are in
//! memory: one that is encoded, and the one before it, which is written meanwhile.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::Instant;

use keeve_checkpoint::{CLASSES, Checkpoint, gguf, mlx, safetensors};
use keeve_codec::PackedTensor;
use serde::Serialize;
use serde_json::Value;

use crate::gguf::{EXTRA, Layout, metadata, mmproj};
use crate::making::Work;
use crate::output::{self, Folder};
use crate::{Error, Format, Making, Plan, Planned, Role, compressed, tokenizer_json};

/// Watches work, and may end it.
pub trait Observer: Sync {
    /// `done` of `total` bytes of the source are worked off; `tensor` is next.
    fn progress(&self, done: u64, total: u64, tensor: &str);

    /// Whether to end as soon as possible.
    fn stopped(&self) -> bool;
}

/// How to make a model.
pub struct Options<'a> {
    /// Replace what stands under the target's name.
    pub force: bool,
    /// What tensors are made with.
    pub making: Making<'a>,
    /// llama.cpp's number for the mixture of codecs, for a GGUF file.
    pub file_type: Option<u32>,
    /// Progress, and the wish to stop.
    pub observer: &'a dyn Observer,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Tensors that were there from an interrupted run.
    pub resumed: usize,
    /// Tensors whose bytes moved as they were.
    pub moved: usize,
    /// Tensors whose values are the same in other bytes.
    pub rewritten: usize,
    /// Tensors that were encoded.
    pub encoded: usize,
    /// Those of them whose source was packed already: they lost twice.
    pub encoded_again: Vec<String>,
    /// Weights that were encoded, times four: bytes of float input.
    pub float_bytes: u64,
    /// Seconds.
    pub seconds: f64,
    /// The file beside a GGUF model that holds what it sees with.
    pub mmproj: Option<PathBuf>,
}

/// A container being filled.
enum Sink {
    Gguf {
        layout: Layout,
        writer: gguf::Writer,
        extra: Vec<(String, PackedTensor)>,
        /// Tensors of the plan that are the language model's. They come first.
        texts: usize,
        /// What the model sees with.
        seeing: Option<mmproj::Sink>,
    },
    Mlx {
        folder: Folder,
        writer: mlx::Writer,
    },
    Compressed {
        folder: Folder,
        writer: safetensors::Writer,
        done: usize,
    },
}

/// The file with the weights in a folder.
const WEIGHTS: &str = "model.safetensors";

/// Makes the model that `plan` says from `checkpoint` at `out`: a file for [`Format::Gguf`], else a folder.
///
/// An interrupted run leaves a hidden part beside `out`; the same call goes on from there.
///
/// # Errors
/// If `out` stands and may not be replaced, a tensor cannot be read or encoded, or a file cannot be
/// written.
pub fn make(
    checkpoint: &Checkpoint,
    plan: &Plan,
    out: &Path,
    options: &Options<'_>,
) -> Result<Report, Error> {
    let start = Instant::now();
    let sees = plan.tensors.iter().any(|planned| mmproj::holds(&planned.name));
    let beside = (plan.format == Format::Gguf && sees).then(|| mmproj::path(out));
    for out in [Some(out), beside.as_deref()].into_iter().flatten() {
        output::check(out, options.force)?;
        let read = |file: &&keeve_checkpoint::FileInfo| is_same(checkpoint, &file.name, out);
        if let Some(file) = checkpoint.files().iter().find(read) {
            let problem = format!("is read from ('{}'); choose another name", file.name);
            return Err(Error::File { path: out.into(), problem });
        }
    }
    if plan.format != Format::Gguf {
        // So that a tokenizer that cannot be written is known before hours of work.
        tokenizer_of(checkpoint)?;
    }
    let sink = Sink::open(checkpoint, plan, out, options)?;
    let mut report = Report {
        resumed: sink.done().min(plan.tensors.len()),
        moved: 0,
        rewritten: 0,
        encoded: 0,
        encoded_again: Vec::new(),
        float_bytes: 0,
        seconds: 0.0,
        mmproj: beside,
    };
    let sink = thread::scope(|scope| {
        // A tensor is written while the next one is encoded; none waits between them.
        let (sender, receiver) = mpsc::sync_channel(0);
        let writer = scope.spawn(move || write_all(sink, receiver));
        let encoded = encode_all(checkpoint, plan, options, &mut report, &sender);
        drop(sender);
        match writer.join() {
            // If writing failed, encoding only ended because of that.
            Ok(sink) => sink.and_then(|sink| encoded.map(|()| sink)),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })?;
    sink.finish(checkpoint, plan)?;
    report.seconds = start.elapsed().as_secs_f64();
    Ok(report)
}

/// A tensor on its way into the file.
type Made<'a> = (&'a Planned, PackedTensor);

/// Makes the tensors that are not there yet, one after another, as long as somebody writes them.
fn encode_all<'a>(
    checkpoint: &Checkpoint,
    plan: &'a Plan,
    options: &Options<'_>,
    report: &mut Report,
    written: &SyncSender<Made<'a>>,
) -> Result<(), Error> {
    let total: u64 = plan.tensors.iter().map(|tensor| tensor.bytes_before).sum();
    let mut done = 0;
    for (index, planned) in plan.tensors.iter().enumerate() {
        options.observer.progress(done, total, &planned.name);
        done += planned.bytes_before;
        if index < report.resumed {
            continue;
        }
        if options.observer.stopped() {
            return Err(Error::Interrupted);
        }
        let making = &options.making;
        let (tensor, work) = making.tensor(checkpoint, planned, &|| options.observer.stopped())?;
        if written.send((planned, tensor)).is_err() {
            return Ok(());
        }
        report.count(planned, work);
    }
    options.observer.progress(total, total, "");
    Ok(())
}

/// Writes tensors as they come.
fn write_all(mut sink: Sink, tensors: Receiver<Made<'_>>) -> Result<Sink, Error> {
    for (planned, tensor) in tensors {
        let written = tensor.clone();
        sink.write(planned, tensor)?;
        // Mapped pages count as memory until they are given back.
        written.release();
    }
    Ok(sink)
}

impl Report {
    /// Notes a tensor that was made.
    fn count(&mut self, planned: &Planned, work: Work) {
        match work {
            Work::Moved => self.moved += 1,
            Work::Rewritten => self.rewritten += 1,
            Work::Encoded | Work::EncodedAgain => {
                self.encoded += 1;
                self.float_bytes = self.float_bytes.saturating_add(planned.weights() * 4);
            }
        }
        if work == Work::EncodedAgain {
            self.encoded_again.push(planned.name.clone());
        }
    }
}

/// Whether `out` is the file `name` of the checkpoint, or its folder.
fn is_same(checkpoint: &Checkpoint, name: &str, out: &Path) -> bool {
    let Ok(out) = out.canonicalize() else { return false };
    let path = checkpoint.path();
    let file = if path.is_dir() { path.join(name) } else { path.with_file_name(name) };
    // What a model sees with may be anywhere.
    let seeing = checkpoint.image_settings().map(|(path, _)| path);
    [Some(file.as_path()), Some(path), seeing]
        .iter()
        .flatten()
        .any(|path| path.canonicalize().is_ok_and(|path| path == out))
}

/// The class that transformers has for a `model_type`.
fn class_of(model_type: &str) -> Option<&'static str> {
    CLASSES.into_iter().find(|(known, _)| *known == model_type).map(|(_, class)| class)
}

/// Distinguishes runs whose bytes differ.
fn fingerprint(checkpoint: &Checkpoint, plan: &Plan, making: &Making<'_>) -> String {
    let mut hasher = DefaultHasher::new();
    env!("CARGO_PKG_VERSION").hash(&mut hasher);
    making.fingerprint().hash(&mut hasher);
    let path = checkpoint.path();
    path.hash(&mut hasher);
    for file in checkpoint.files() {
        (&file.name, file.bytes).hash(&mut hasher);
        let path =
            if path.is_dir() { path.join(&file.name) } else { path.with_file_name(&file.name) };
        let modified = std::fs::metadata(path).and_then(|found| found.modified()).ok();
        modified.hash(&mut hasher);
    }
    for tensor in &plan.tensors {
        (&tensor.name, &tensor.shape, tensor.from, tensor.to, tensor.hadamard).hash(&mut hasher);
    }
    format!("{:016x}", hasher.finish())
}

impl Sink {
    fn open(
        checkpoint: &Checkpoint,
        plan: &Plan,
        out: &Path,
        options: &Options<'_>,
    ) -> Result<Self, Error> {
        let fingerprint = fingerprint(checkpoint, plan, &options.making);
        match plan.format {
            Format::Gguf => {
                let layout = Layout::of(checkpoint)?;
                let entries = metadata(checkpoint, &layout, options.file_type)?;
                let extra = layout.extra(checkpoint.config())?;
                let is_text = |planned: &&Planned| !mmproj::holds(&planned.name);
                let texts = plan.tensors.iter().take_while(is_text).count();
                let (text, seeing) = plan.tensors.split_at(texts);
                let mut announced = Vec::with_capacity(text.len() + extra.len());
                for planned in text {
                    announced.push(gguf::Announced {
                        name: layout.name(&planned.name)?,
                        codec: planned.to,
                        shape: planned.shape.clone(),
                    });
                }
                announced.extend(extra.iter().map(|(name, tensor)| gguf::Announced {
                    name: name.clone(),
                    codec: EXTRA,
                    shape: vec![tensor.cols()],
                }));
                let entries: Vec<_> =
                    entries.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
                let writer = gguf::Writer::resume(out, &entries, &announced, &fingerprint)?;
                let seeing = match seeing {
                    [] => None,
                    seeing => {
                        let mut sink = Self::open_mmproj(checkpoint, seeing, out, &fingerprint)?;
                        if writer.done() < texts {
                            // It is written after the language model.
                            sink.forget()?;
                        }
                        Some(sink)
                    }
                };
                Ok(Self::Gguf { layout, writer, extra, texts, seeing })
            }
            Format::Mlx => {
                let mut folder = Folder::create(out)?;
                let announce = |planned: &Planned| mlx::Announced {
                    name: planned.name.clone(),
                    codec: planned.to,
                    shape: planned.shape.clone(),
                };
                let announced: Vec<_> = plan.tensors.iter().map(announce).collect();
                let path = folder.file(WEIGHTS);
                let writer = mlx::Writer::resume(&path, &announced, &fingerprint)?;
                Ok(Self::Mlx { folder, writer })
            }
            Format::CompressedTensors => {
                let mut folder = Folder::create(out)?;
                let path = folder.file(WEIGHTS);
                let (mut announced, mut ends) = (Vec::new(), Vec::new());
                for planned in &plan.tensors {
                    announced.extend(compressed::announce(planned)?);
                    ends.push(announced.len());
                }
                let metadata = [("format", "pt")];
                let mut writer =
                    safetensors::Writer::resume(&path, &announced, &metadata, &fingerprint)?;
                let done = ends.iter().take_while(|&&end| end <= writer.done()).count();
                writer.rewind(done.checked_sub(1).map_or(0, |last| ends[last]))?;
                Ok(Self::Compressed { folder, writer, done })
            }
            Format::Memory => {
                let problem = "internal error: a plan for memory has no file".into();
                Err(Error::File { path: out.into(), problem })
            }
        }
    }

    /// The file for `planned`, beside the language model's at `out`.
    fn open_mmproj(
        checkpoint: &Checkpoint,
        planned: &[Planned],
        out: &Path,
        fingerprint: &str,
    ) -> Result<mmproj::Sink, Error> {
        let missing = || Error::File {
            path: checkpoint.path().into(),
            problem: "has no preprocessor_config.json, which a GGUF model needs to see".into(),
        };
        let (path, settings) = checkpoint.image_settings().ok_or_else(missing)?;
        let wrong = |problem: String| Error::File { path: path.into(), problem };
        let settings: Value = serde_json::from_slice(settings)
            .map_err(|error| wrong(format!("is not valid JSON: {error}")))?;
        let matrices = planned.iter().filter(|planned| planned.role == Role::Vision);
        let codec = matrices.map(|planned| planned.to).next();
        let name = checkpoint.path().file_name().unwrap_or_default().to_string_lossy();
        let config = checkpoint.config();
        let entries = mmproj::metadata(&name, config, &settings, codec).map_err(wrong)?;
        mmproj::Sink::open(&mmproj::path(out), &entries, config, planned, fingerprint)
    }

    /// How many tensors of the plan are there already.
    fn done(&self) -> usize {
        match self {
            Self::Gguf { writer, texts, seeing, .. } => match seeing {
                Some(seeing) if writer.done() >= *texts => texts + seeing.done(),
                _ => writer.done().min(*texts),
            },
            Self::Mlx { writer, .. } => writer.done(),
            Self::Compressed { done, .. } => *done,
        }
    }

    fn write(&mut self, planned: &Planned, tensor: PackedTensor) -> Result<(), Error> {
        match self {
            Self::Gguf { seeing: Some(seeing), .. } if mmproj::holds(&planned.name) => {
                seeing.write(planned, &tensor)?;
            }
            Self::Gguf { layout, writer, .. } => {
                let tensor = layout.stored(planned, tensor)?;
                writer.tensor(&layout.name(&planned.name)?, &tensor.parts().data)?;
            }
            Self::Mlx { writer, .. } => writer.tensor(&planned.name, &tensor)?,
            Self::Compressed { writer, .. } => {
                let announced = compressed::announce(planned)?;
                for (stored, bytes) in announced.iter().zip(compressed::parts(planned, &tensor)) {
                    writer.tensor(&stored.name, &bytes)?;
                }
            }
        }
        Ok(())
    }

    fn finish(self, checkpoint: &Checkpoint, plan: &Plan) -> Result<(), Error> {
        match self {
            Self::Gguf { mut writer, extra, texts, seeing, .. } => {
                if let Some(seeing) = seeing {
                    seeing.finish()?;
                }
                let written = writer.done().saturating_sub(texts);
                for (name, tensor) in extra.iter().skip(written) {
                    writer.tensor(name, &tensor.parts().data)?;
                }
                writer.finish()?;
            }
            Self::Mlx { folder, writer } => {
                let quantization = writer.finish()?;
                let mut blocks = Vec::new();
                if let Some(block) = quantization {
                    blocks.push(("quantization", block.clone()));
                    blocks.push(("quantization_config", block));
                }
                finish_folder(folder, checkpoint, blocks)?;
            }
            Self::Compressed { folder, writer, .. } => {
                writer.finish()?;
                let block = compressed::quantization(&plan.tensors);
                finish_folder(folder, checkpoint, vec![("quantization_config", block)])?;
            }
        }
        Ok(())
    }
}

/// The tokenizer of a GGUF file, as a folder has it.
fn tokenizer_of(checkpoint: &Checkpoint) -> Result<Option<(Value, Value)>, Error> {
    let Some(found) = checkpoint.gguf_tokenizer()? else { return Ok(None) };
    let files = tokenizer_json::files(&found, checkpoint.chat_template());
    let path = checkpoint.path().into();
    files.map(Some).map_err(|problem| Error::File { path, problem })
}

/// Writes the files beside the weights and gives the folder its name.
fn finish_folder(
    mut folder: Folder,
    checkpoint: &Checkpoint,
    blocks: Vec<(&str, Value)>,
) -> Result<(), Error> {
    let mut config = checkpoint.config().clone();
    if let Some(fields) = config.as_object_mut() {
        for old in ["quantization", "quantization_config", "compression_config"] {
            fields.shift_remove(old);
        }
        let class = fields.get("model_type").and_then(Value::as_str).and_then(class_of);
        if let Some(class) = class {
            // GGUF files do not name it.
            fields.entry("architectures").or_insert_with(|| vec![class].into());
        }
        for (field, block) in blocks {
            fields.insert(field.into(), block);
        }
    }
    folder.write_json("config.json", &config)?;
    if let Some(tokenizer) = checkpoint.tokenizer() {
        folder.write("tokenizer.json", &tokenizer)?;
    }
    if let Some(value) = checkpoint.tokenizer_config() {
        folder.write_json("tokenizer_config.json", value)?;
    }
    if let Some((tokenizer, config)) = tokenizer_of(checkpoint)? {
        folder.write_json("tokenizer.json", &tokenizer)?;
        folder.write_json("tokenizer_config.json", &config)?;
    }
    if let Some(value) = checkpoint.generation_config() {
        folder.write_json("generation_config.json", value)?;
    }
    if let Some(template) = checkpoint.chat_template() {
        folder.write("chat_template.jinja", template.as_bytes())?;
    }
    if checkpoint.path().is_dir() {
        folder.copy_side_files(checkpoint.path())?;
    } else if let Some((_, settings)) = checkpoint.image_settings() {
        folder.write("preprocessor_config.json", settings)?;
    }
    folder.finish()
}
