//! Where the files of a checkpoint come from: a folder, or memory.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use keeve_codec::Bytes;
use keeve_files::kind;
use serde_json::Value;

use crate::{Error, json, mapped};

/// No JSON file of a model comes near this; the safetensors header has the same limit.
const MAX_JSON_BYTES: usize = 100_000_000;

/// A flat set of named files.
pub(crate) trait Files {
    /// The folder, for messages.
    fn path(&self) -> &Path;

    /// Names of all files, sorted.
    fn names(&self) -> Result<Vec<String>, Error>;

    /// The bytes of a file, or `None` if there is none of that name.
    fn open(&self, name: &str) -> Result<Option<Bytes>, Error>;

    /// The whole of a JSON file, or `None` if there is none of that name.
    fn json(&self, name: &str) -> Result<Option<Value>, Error> {
        let Some(bytes) = self.open(name)? else { return Ok(None) };
        let path = self.path().join(name);
        if bytes.len() > MAX_JSON_BYTES {
            let problem =
                format!("is {} bytes, more than the limit of {MAX_JSON_BYTES}", bytes.len());
            return Err(Error::file(&path, problem));
        }
        json::read(&path, &bytes).map(Some)
    }

    /// Whether `name` is a folder that holds a model.
    fn is_model(&self, _name: &str) -> bool {
        false
    }
}

/// Why nothing is at `path`: links that lead nowhere are told.
pub(crate) fn unreachable(path: &Path, error: std::io::Error) -> Error {
    let target = std::fs::read_link(path);
    match (error.kind(), target) {
        (ErrorKind::NotFound, Ok(target)) => {
            let target = target.display();
            let problem = format!("is a link to {target}, which is not there");
            Error::file(path, problem)
        }
        _ => Error::io(path, error),
    }
}

/// A folder on disk. Files are mapped.
pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.into() }
    }
}

impl Files for Folder {
    fn path(&self) -> &Path {
        &self.path
    }

    fn names(&self) -> Result<Vec<String>, Error> {
        let failed = |source| Error::io(&self.path, source);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path).map_err(failed)? {
            // A name that is not UTF-8 is none that a model file has.
            if let Ok(name) = entry.map_err(failed)?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn open(&self, name: &str) -> Result<Option<Bytes>, Error> {
        let path = self.path.join(name);
        match mapped::open(&path) {
            Ok(bytes) => match kind::told(&bytes) {
                Some(told) => Err(Error::file(&path, told)),
                None => Ok(Some(bytes)),
            },
            // A link that leads nowhere is a file that should be there.
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                match unreachable(&path, source) {
                    Error::Io { .. } => Ok(None),
                    error => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    fn is_model(&self, name: &str) -> bool {
        self.path.join(name).join("config.json").is_file()
    }
}

/// Files in memory, such as an embedded model.
pub(crate) struct Memory<'a> {
    path: PathBuf,
    files: &'a [(&'a str, Bytes)],
}

impl<'a> Memory<'a> {
    pub(crate) fn new(files: &'a [(&'a str, Bytes)]) -> Self {
        Self { path: PathBuf::from("(memory)"), files }
    }
}

impl Files for Memory<'_> {
    fn path(&self) -> &Path {
        &self.path
    }

    fn names(&self) -> Result<Vec<String>, Error> {
        let mut names: Vec<String> = self.files.iter().map(|(name, _)| (*name).into()).collect();
        names.sort();
        Ok(names)
    }

    fn open(&self, name: &str) -> Result<Option<Bytes>, Error> {
        Ok(self.files.iter().find(|(known, _)| *known == name).map(|(_, bytes)| bytes.clone()))
    }
}
