//! A model's files, opened.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use keeve_codec::{Bytes, PackedTensor};
use keeve_files::kind;
use keeve_files::weights::INDEX;
use serde_json::Value;

use crate::dialect::{self, Entry, TensorInfo, gguf_config, gguf_names, mmproj};
use crate::files::{self, Files, Folder, Memory};
use crate::gguf::parts::{self, PartName};
use crate::gguf::tokenizer::GgufTokenizer;
use crate::gguf::{self, Metadata};
use crate::projectors::{self, Found};
use crate::{
    Error, config, lacking, mapped, multimodal, seeing, shards, spelling, tokenizer_files,
};

const CONFIG: &str = "config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
/// What images are made of, where a model sees: as Hugging Face has it, and mlx-vlm.
const IMAGE_SETTINGS: [&str; 2] = ["preprocessor_config.json", "processor_config.json"];
const TOKENIZER: &str = "tokenizer.json";

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
    /// By name.
    chat_templates: Vec<(String, String)>,
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

    /// Opens what there is to text: tokenizer and chat templates. There need be no weights, no config and,
    /// in a GGUF file, no architecture that is known; [`Checkpoint::tensors`] is empty.
    ///
    /// # Errors
    /// If there is no such folder or file, or a file that is read is damaged.
    pub fn open_text(path: &Path) -> Result<Self, Error> {
        let metadata = std::fs::metadata(path).map_err(|source| Error::io(path, source))?;
        if metadata.is_dir() {
            let folder = Folder::new(path);
            if folder.open(TOKENIZER)?.is_none() && folder.open(tokenizer_files::CONFIG)?.is_none()
            {
                return Self::open(path);
            }
            let config = folder.json(CONFIG)?.unwrap_or_default();
            let tokenizer_config = tokenizer_files::tokenizer_config(&folder)?;
            let templates = tokenizer_files::chat_templates(&folder, tokenizer_config.as_ref())?;
            return Ok(Self {
                config_path: path.join(CONFIG),
                generation_config: folder.json(GENERATION_CONFIG)?,
                tokenizer: folder.open(TOKENIZER)?,
                tokenizer_config,
                ..Self::of_text(path, config, templates)
            });
        }
        let bytes = mapped::open(path)?;
        if !bytes.starts_with(gguf::MAGIC) {
            return Self::open(path);
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let folder = Folder::new(parent.unwrap_or(Path::new(".")));
        let (parsed, _) = parts::open(path, &bytes, &folder)?;
        let templates = tokenizer_files::gguf_chat_templates(&parsed.metadata)?;
        let text = Self::of_text(path, Value::default(), templates);
        Ok(Self { metadata: Some(parsed.metadata), ..text })
    }

    fn of_text(path: &Path, config: Value, chat_templates: Vec<(String, String)>) -> Self {
        Self {
            path: path.into(),
            format: "text".into(),
            files: Vec::new(),
            config_path: path.into(),
            config,
            notes: Vec::new(),
            generation_config: None,
            tokenizer: None,
            tokenizer_config: None,
            chat_templates,
            image_settings: None,
            metadata: None,
            entries: Vec::new(),
            index: HashMap::new(),
        }
    }

    /// [`Checkpoint::open`] for a GGUF model that sees with what is in the file `mmproj`.
    ///
    /// # Errors
    /// As for [`Checkpoint::open`], also of that file; and if the model has none or does not go with it.
    pub fn open_seeing(path: &Path, mmproj: &Path) -> Result<Self, Error> {
        Self::open_with(path, Some(mmproj))
    }

    fn open_with(path: &Path, mmproj: Option<&Path>) -> Result<Self, Error> {
        let metadata = std::fs::metadata(path).map_err(|error| files::unreachable(path, error))?;
        if metadata.is_dir() {
            let folder = Folder::new(&hub_snapshot(path));
            return match mmproj {
                None => Self::from_files(&folder, None),
                Some(mmproj) if folder.open(CONFIG)?.is_some() && !holds_gguf_only(&folder)? => {
                    Err(Error::file(mmproj, "goes with a GGUF model, not with such a folder"))
                }
                Some(_) => Self::from_lone_gguf(&folder, mmproj),
            };
        }
        let bytes = mapped::open(path)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let folder = Folder::new(parent.unwrap_or(Path::new(".")));
        if bytes.starts_with(gguf::MAGIC) {
            let opened = Self::from_gguf(path, &bytes, &folder, mmproj);
            return opened.map_err(|error| match is_piece(path) {
                true => Error::file(path, "is a piece of a file that was cut by bytes; join the pieces (`cat`) and give the whole"),
                false => error,
            });
        }
        if let Some(told) = kind::told(&bytes) {
            return Err(Error::file(path, told));
        }
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let extension = path.extension().and_then(|extension| extension.to_str());
        let extension = extension.map(str::to_ascii_lowercase);
        match extension.as_deref() {
            Some("gguf") => Self::from_gguf(path, &bytes, &folder, mmproj),
            Some("safetensors") if folder.open(CONFIG)?.is_none() => {
                let problem = "is only the weights of a model; config.json, which says what model it is, is not beside it";
                Err(Error::file(path, problem))
            }
            Some("safetensors") => Self::from_files(&folder, Some(name)),
            // Whoever names a file of the folder means the folder.
            Some("json") if [CONFIG, INDEX].contains(&name) => Self::from_files(&folder, None),
            _ => {
                // What a text says is of no help here.
                let told =
                    kind::told_of_weights(&bytes).filter(|_| std::str::from_utf8(&bytes).is_err());
                let told = told.map(|told| format!(" (it {told})")).unwrap_or_default();
                Err(Error::file(path, format!("is neither a model's folder nor a GGUF file{told}")))
            }
        }
    }

    /// Opens a model from files in memory, named as they would be in a folder.
    ///
    /// # Errors
    /// As for [`Checkpoint::open`].
    pub fn from_memory(files: &[(&str, Bytes)]) -> Result<Self, Error> {
        Self::from_files(&Memory::new(files), None)
    }

    /// `given`: a file of weights that was asked for by name.
    fn from_files(files: &dyn Files, given: Option<&str>) -> Result<Self, Error> {
        let path = files.path().to_path_buf();
        let config_path = path.join(CONFIG);
        let Some(mut config) = files.json(CONFIG)? else {
            return Self::from_lone_gguf(files, None);
        };
        let Some(shards) = shards::open(files, given)? else {
            return match lone_gguf(files)? {
                Lone::One(_) => Self::from_lone_gguf(files, None),
                _ => Err(lacking::weights(files)),
            };
        };
        // With the names and settings of the whole model, whose quantization may go by them.
        let beside = dialect::beside(files)?;
        let translation =
            dialect::translate(&config, &config_path, beside.as_ref(), &shards.tensors)?;
        let mut entries = spelling::canonical(&path, translation.entries)?;
        let mut notes = shards.notes;
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
        } else if spelling::is_inside(&entries) {
            let (kept, note) = multimodal::text_entries(entries);
            entries = kept;
            notes.extend(note);
        }
        config::normalize(&mut config, &config_path)?;
        let tokenizer_config = tokenizer_files::tokenizer_config(files)?;
        let chat_templates = tokenizer_files::chat_templates(files, tokenizer_config.as_ref())?;
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
            chat_templates,
            metadata: None,
            entries,
            index,
            path,
        })
    }

    fn from_lone_gguf(files: &dyn Files, mmproj: Option<&Path>) -> Result<Self, Error> {
        match lone_gguf(files)? {
            Lone::One(name) => match files.open(&name)? {
                Some(bytes) => Self::from_gguf(&files.path().join(name), &bytes, files, mmproj),
                None => Err(Error::file(files.path(), "holds a GGUF file that vanished")),
            },
            Lone::None => Err(lacking::model(files)),
            Lone::Several => {
                Err(Error::file(files.path(), "holds several GGUF files; give the path of one"))
            }
        }
    }

    fn from_gguf(
        path: &Path,
        bytes: &Bytes,
        folder: &dyn Files,
        mmproj: Option<&Path>,
    ) -> Result<Self, Error> {
        let (parsed, mut files) = parts::open(path, bytes, folder)?;
        gguf_config::check_model(&parsed)?;
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
        let chat_templates = tokenizer_files::gguf_chat_templates(&parsed.metadata)?;
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
            chat_templates,
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

    /// The metadata key of a GGUF file that a field of [`Self::config`] comes from, for errors about it.
    pub fn gguf_key(&self, field: &str) -> Option<String> {
        gguf_config::key_of(self.metadata.as_ref()?, field)
    }

    /// `tokenizer_config.json`, with the special tokens of `special_tokens_map.json` where those count.
    pub fn tokenizer_config(&self) -> Option<&Value> {
        self.tokenizer_config.as_ref()
    }

    /// The chat template: a Jinja text. Of several, the one named `default`.
    pub fn chat_template(&self) -> Option<&str> {
        let default = self.chat_templates.iter().find(|(name, _)| name == tokenizer_files::DEFAULT);
        default.map(|(_, template)| template.as_str())
    }

    /// All chat templates by name; that without a name is called `default`.
    pub fn chat_templates(&self) -> &[(String, String)] {
        &self.chat_templates
    }

    /// The same model with `source` for its only chat template.
    #[must_use]
    pub fn with_chat_template(mut self, source: String) -> Self {
        self.chat_templates = vec![(tokenizer_files::DEFAULT.to_owned(), source)];
        self
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

/// The GGUF models of a folder.
enum Lone {
    None,
    One(String),
    Several,
}

/// The GGUF model of a folder, if there is one. Of a model in several files, the first stands for all.
fn lone_gguf(files: &dyn Files) -> Result<Lone, Error> {
    let mut names = files.names()?;
    names.retain(|name| name.to_ascii_lowercase().ends_with(".gguf") && !mmproj::is_named_so(name));
    let later = |name: &str| PartName::read(name).is_some_and(|part| part.number > 1);
    let any = names.first().cloned();
    names.retain(|name| !later(name));
    Ok(match (&mut names[..], any) {
        ([], None) => Lone::None,
        ([name], _) => Lone::One(std::mem::take(name)),
        ([], Some(name)) => Lone::One(name),
        _ => Lone::Several,
    })
}

/// Whether a folder's only weights are a GGUF file.
fn holds_gguf_only(files: &dyn Files) -> Result<bool, Error> {
    let safetensors = files.names()?.iter().any(|name| keeve_files::weights::is_weights(name));
    Ok(!safetensors && matches!(lone_gguf(files)?, Lone::One(_)))
}

/// Whether a file's name is one that people give to pieces of a GGUF file: `x.gguf.part1of2`, `x.gguf-split-a`.
fn is_piece(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    name.split_once(".gguf")
        .is_some_and(|(_, rest)| rest.contains("part") || rest.contains("split"))
}

/// The snapshot in a repository's folder of the hub's cache (`models--OWNER--NAME`), for whoever gives that folder:
/// the one that `refs/main` names, or the only one. Other folders are what they are.
fn hub_snapshot(path: &Path) -> PathBuf {
    let snapshots = path.join("snapshots");
    if path.join(CONFIG).exists() || !path.join("blobs").is_dir() || !snapshots.is_dir() {
        return path.into();
    }
    let main = keeve_files::whole::text(&path.join("refs/main"), 1024, "a reference");
    let main = main.map(|commit| snapshots.join(commit.trim()));
    let all = || -> Option<Vec<PathBuf>> {
        Some(std::fs::read_dir(&snapshots).ok()?.flatten().map(|entry| entry.path()).collect())
    };
    match (main, all().as_deref()) {
        (Ok(main), _) if main.is_dir() && main.parent() == Some(&snapshots) => main,
        (_, Some([one])) => one.clone(),
        _ => path.into(),
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
