//! Where the files of a checkpoint come from: a folder, or memory.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use keeve_codec::Bytes;
use serde_json::Value;

use crate::{Error, mapped};

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
        let value = serde_json::from_slice(&bytes)
            .map_err(|error| Error::file(&path, format!("is not valid JSON: {error}")))?;
        Ok(Some(value))
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
        match mapped::open(&self.path.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
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
