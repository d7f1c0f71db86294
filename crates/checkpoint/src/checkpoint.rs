//! A model's files, opened.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use keeve_codec::{Bytes, PackedTensor};
use serde_json::Value;

use crate::dialect::{self, Entry, TensorInfo, gguf_config, gguf_names, mmproj};
use crate::files::{Files, Folder, Memory};
use crate::gguf::parts::{self, PartName};
use crate::gguf::tokenizer::GgufTokenizer;
use crate::gguf::{self, Metadata};
use crate::projectors::{self, Found};
use crate::{Error, config, mapped, multimodal, seeing, shards, tokenizer_files};

const CONFIG: &str = "config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
/// What images are made of, where a model sees: as Hugging Face has it, and mlx-vlm.
const IMAGE_SETTINGS: [&str; 2] = ["preprocessor_config.json", "processor_config.json"];
const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// A file that holds weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    /// Its name in the folder.
    pub name: String,
    /// Its size.
    pub bytes: u64,
}

/// A model's weights, config and tokenizer files.
///
/// Opening reads headers and small files only; weights stay in the mapped files until
/// [`Checkpoint::tensor`] hands out windows of them. The files must not be truncated or rewritten in
/// place meanwhile (see the crate's documentation).
pub struct Checkpoint {
    path: PathBuf,
    format: String,
    files: Vec<FileInfo>,
    config_path: PathBuf,
    config: Value,
    notes: Vec<String>,
    generation_config: Option<Value>,
    tokenizer: Option<Bytes>,
    tokenizer_config: Option<Value>,
    chat_template: Option<String>,
    image_settings: Option<(PathBuf, Bytes)>,
    metadata: Option<Metadata>,
    entries: Vec<Entry>,
    index: HashMap<String, usize>,
}

impl Checkpoint {
    /// Opens a folder with `config.json` and safetensors files, a folder with a single GGUF model, or
    /// a GGUF file. Of a model that is split over several GGUF files, any may be given. What a GGUF model
    /// sees with is taken from a file beside it whose name has `mmproj` in it, if one fits.
    ///
    /// # Errors
    /// If a file is missing, is not what its name says, is damaged, or describes a quantization that
    /// keeve does not know. Tensors in a format that it cannot read are listed and fail only in
    /// [`Checkpoint::tensor`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::open_with(path, None)
    }

    /// [`Checkpoint::open`] for a GGUF model that sees with what is in the file `mmproj`.
    ///
    /// # Errors
    /// As for [`Checkpoint::open`], also of that file; and if the model has none or does not go with it.
    pub fn open_seeing(path: &Path, mmproj: &Path) -> Result<Self, Error> {
        Self::open_with(path, Some(mmproj))
    }

    fn open_with(path: &Path, mmproj: Option<&Path>) -> Result<Self, Error> {
        let metadata = std::fs::metadata(path).map_err(|source| Error::io(path, source))?;
        if metadata.is_dir() {
            let folder = Folder::new(path);
            return match mmproj {
                None => Self::from_files(&folder),
                Some(mmproj) if folder.open(CONFIG)?.is_some() => {
                    Err(Error::file(mmproj, "goes with a GGUF model, not with such a folder"))
                }
                Some(_) => Self::from_lone_gguf(&folder, mmproj),
            };
        }
        let bytes = mapped::open(path)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let folder = Folder::new(parent.unwrap_or(Path::new(".")));
        let extension = path.extension().and_then(|extension| extension.to_str());
        if bytes.starts_with(gguf::MAGIC) || extension == Some("gguf") {
            return Self::from_gguf(path, &bytes, &folder, mmproj);
        }
        let problem = match extension {
            Some("safetensors") => {
                "is only the weights of a model; give the folder, which holds config.json as well"
            }
            _ => "is neither a model's folder nor a GGUF file",
        };
        Err(Error::file(path, problem))
    }

    /// Opens a model from files in memory, named as they would be in a folder.
    ///
    /// # Errors
    /// As for [`Checkpoint::open`].
    pub fn from_memory(files: &[(&str, Bytes)]) -> Result<Self, Error> {
        Self::from_files(&Memory::new(files))
    }

    fn from_files(files: &dyn Files) -> Result<Self, Error> {
        let path = files.path().to_path_buf();
        let config_path = path.join(CONFIG);
        let Some(mut config) = files.json(CONFIG)? else {
            return Self::from_lone_gguf(files, None);
        };
        let shards = shards::open(files)?;
        // With the names and settings of the whole model, whose quantization may go by them.
        let translation = dialect::translate(&config, &config_path, &shards.tensors)?;
        let (mut entries, mut notes) = (translation.entries, Vec::new());
        if let Some(text) = multimodal::text_config(&config) {
            config = text;
            let (kept, note) = multimodal::text_entries(entries);
            entries = kept;
            notes.extend(note);
        } else if seeing::is_whole(&config) {
            entries = seeing::whole_entries(&config, entries);
            if let Some(text) = config.get_mut("text_config") {
                config::normalize(text, &config_path)?;
            }
        }
        config::normalize(&mut config, &config_path)?;
        let tokenizer_config = files.json(TOKENIZER_CONFIG)?;
        let chat_template = tokenizer_files::chat_template(files, tokenizer_config.as_ref())?;
        let mut image_settings = None;
        for name in IMAGE_SETTINGS {
            if image_settings.is_none() {
                image_settings = files.open(name)?.map(|bytes| (path.join(name), bytes));
            }
        }
        let (entries, index) = sorted(entries)?;
        Ok(Self {
            format: translation.label,
            image_settings,
            files: shards.files,
            config_path,
            config,
            notes,
            generation_config: files.json(GENERATION_CONFIG)?,
            tokenizer: files.open(TOKENIZER)?,
            tokenizer_config,
            chat_template,
            metadata: None,
            entries,
            index,
            path,
        })
    }

    fn from_lone_gguf(files: &dyn Files, mmproj: Option<&Path>) -> Result<Self, Error> {
        let mut names = files.names()?;
        names.retain(|name| !mmproj::is_named_so(name));
        // Of a model in several files, the first stands for all.
        let later = |name: &str| PartName::read(name).is_some_and(|part| part.number > 1);
        let any = names.iter().find(|name| name.ends_with(".gguf")).cloned();
        names.retain(|name| name.ends_with(".gguf") && !later(name));
        let missing = |problem| Error::file(files.path(), problem);
        match (names.as_slice(), &any) {
            ([name], _) | ([], Some(name)) => match files.open(name)? {
                Some(bytes) => Self::from_gguf(&files.path().join(name), &bytes, files, mmproj),
                None => Err(missing("holds a GGUF file that vanished")),
            },
            ([], None) => Err(missing("holds neither config.json nor a GGUF file")),
            _ => Err(missing("holds several GGUF files; give the path of one")),
        }
    }

    fn from_gguf(
        path: &Path,
        bytes: &Bytes,
        folder: &dyn Files,
        mmproj: Option<&Path>,
    ) -> Result<Self, Error> {
        let (parsed, mut files) = parts::open(path, bytes, &|name| folder.open(name))?;
        let architecture = gguf_config::architecture(&parsed)?;
        let mut config = gguf_config::config(&parsed, architecture)?;
        let mut entries = gguf_names::translate(&parsed, architecture)?;
        let mut format = format!("GGUF v{}", parsed.version);
        let (mut image_settings, mut notes) = (None, Vec::new());
        let width = config.get("hidden_size").and_then(Value::as_u64);
        let found = match mmproj {
            Some(mmproj) if !mmproj::sees(architecture) => {
                let shown = crate::error::shown(architecture);
                let problem = format!("is for models that see, which '{shown}' is not");
                return Err(Error::file(mmproj, problem));
            }
            Some(mmproj) => Some(projectors::given(mmproj, width)?),
            None if mmproj::sees(architecture) => {
                projectors::beside(path, folder, width, &mut notes)?
            }
            None => None,
        };
        if let Some(Found { path, file, projector }) = found {
            let whole = projector.join(&parsed.metadata, architecture, config, entries)?;
            (config, entries) = (whole.config, whole.entries);
            image_settings = Some((path, whole.image_settings));
            files.push(file);
            format += " with mmproj";
        }
        let (entries, index) = sorted(entries)?;
        let chat_template = parsed.metadata.string("tokenizer.chat_template")?.map(Into::into);
        Ok(Self {
            path: path.into(),
            format,
            files,
            config_path: path.into(),
            config,
            notes,
            generation_config: None,
            tokenizer: None,
            tokenizer_config: None,
            image_settings,
            chat_template,
            metadata: Some(parsed.metadata),
            entries,
            index,
        })
    }

    /// The folder or GGUF file; `(memory)` for a model in memory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The container and dialect, for people: `safetensors`, `safetensors (mlx affine)`, `GGUF v3`.
    pub fn format(&self) -> &str {
        &self.format
    }

    /// The files that hold weights.
    pub fn files(&self) -> &[FileInfo] {
        &self.files
    }

    /// All tensors by name, layers in numerical order.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.entries.iter().map(|entry| &entry.info)
    }

    /// What is known about the tensor `name`; `None` if there is none.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.index.get(name).map(|index| &self.entries[*index].info)
    }

    /// The tensor `name`. One dimension is one row; of several, the last counts columns and the
    /// others together rows, except that the first of stacked experts counts matrices. Its bytes are
    /// windows of the file, except where rows had to be moved (q and k of a llama in GGUF) or values
    /// changed (norms of a gemma there).
    ///
    /// # Errors
    /// If there is no such tensor, its format is one that keeve does not read, or its parts do not
    /// fit its shape.
    pub fn tensor(&self, name: &str) -> Result<PackedTensor, Error> {
        match self.index.get(name) {
            Some(index) => self.entries[*index].tensor(),
            None => Err(Error::tensor(&self.path, name, "is not in the model")),
        }
    }

    /// The config in the form of Hugging Face's `config.json` with classic rope fields. Numbers are
    /// as in the file: not checked.
    ///
    /// For a GGUF model it is made from the metadata, with `model_type` the architecture's name. A
    /// tensor of rope divisors becomes `rope_scaling: {"rope_type": "factors", "factors": [...]}`:
    /// each frequency is to be divided by its factor.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// What whoever uses the model should know, a line each: parts of it that are not read.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The file that the config comes from, for messages about it.
    pub fn config_path(&self) -> &Path {
        &self.config_path
    }

    /// `generation_config.json`.
    pub fn generation_config(&self) -> Option<&Value> {
        self.generation_config.as_ref()
    }

    /// `tokenizer.json`.
    pub fn tokenizer(&self) -> Option<Bytes> {
        self.tokenizer.clone()
    }

    /// `tokenizer_config.json`.
    pub fn tokenizer_config(&self) -> Option<&Value> {
        self.tokenizer_config.as_ref()
    }

    /// The chat template: a Jinja text.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// The file that says what images are made of, `preprocessor_config.json` or mlx-vlm's
    /// `processor_config.json`, and its text. Of a GGUF model, the file that it sees with, and what that says in
    /// the form of a `preprocessor_config.json`.
    pub fn image_settings(&self) -> Option<(&Path, &[u8])> {
        self.image_settings.as_ref().map(|(path, bytes)| (path.as_path(), &bytes[..]))
    }

    /// Whether this is the language model of a GGUF model that sees, without what that sees with.
    pub fn lacks_mmproj(&self) -> bool {
        let architecture = self.metadata.as_ref().map(|of| of.string("general.architecture"));
        let sees = architecture.is_some_and(|name| name.ok().flatten().is_some_and(mmproj::sees));
        sees && self.image_settings.is_none()
    }

    /// The metadata of a GGUF file.
    pub fn gguf_metadata(&self) -> Option<&Metadata> {
        self.metadata.as_ref()
    }

    /// The tokenizer of a GGUF file; `None` if it has none or the model is no GGUF file.
    ///
    /// # Errors
    /// If its tables are damaged; see [`GgufTokenizer::from_metadata`].
    pub fn gguf_tokenizer(&self) -> Result<Option<GgufTokenizer>, Error> {
        match &self.metadata {
            Some(metadata) => GgufTokenizer::from_metadata(metadata),
            None => Ok(None),
        }
    }
}

impl std::fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Checkpoint({}, {}, {} tensors)",
            self.path.display(),
            self.format,
            self.entries.len()
        )
    }
}

type Index = HashMap<String, usize>;

/// The entries in the order of their names, and where each name stands.
fn sorted(mut entries: Vec<Entry>) -> Result<(Vec<Entry>, Index), Error> {
    entries.sort_by(|a, b| natural(&a.info.name, &b.info.name));
    let mut index = HashMap::with_capacity(entries.len());
    for (place, entry) in entries.iter().enumerate() {
        if index.insert(entry.info.name.clone(), place).is_some() {
            let problem = "is there twice, under names that mean the same";
            return Err(Error::tensor(&entry.info.file, &entry.info.name, problem));
        }
    }
    Ok((entries, index))
}

/// Order of names in which numbers between dots compare as numbers: `layers.2` before `layers.10`.
fn natural(a: &str, b: &str) -> Ordering {
    let number = |part: &str| part.parse::<u64>().ok();
    let (mut left, mut right) = (a.split('.'), b.split('.'));
    loop {
        let order = match (left.next(), right.next()) {
            (None, None) => return a.cmp(b),
            (None, Some(_)) => Ordering::Less,
            (Some(_), None) => Ordering::Greater,
            (Some(x), Some(y)) => match (number(x), number(y)) {
                (Some(x), Some(y)) => x.cmp(&y),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => x.cmp(y),
            },
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_ordered_by_number() {
        let mut names = ["m.10.a", "m.9.b", "m.9.a", "m", "m.x", "lm", "m.09.a", "m.10"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["lm", "m", "m.09.a", "m.9.a", "m.9.b", "m.10", "m.10.a", "m.x"]);
    }
}
