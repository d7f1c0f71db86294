//! Where a made model goes: it stands under its name only when it is complete.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::Error;

/// Files of a model's folder that do not depend on how weights are stored. Others are left behind.
const SIDE_FILES: [&str; 16] = [
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tekken.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
    "vocab.json",
    "vocab.txt",
    "configuration.json",
];

/// Refuses a target that stands, unless `force`.
///
/// # Errors
/// If it stands and `force` is not given or it is no model, or nothing can stand there.
pub fn check(out: &Path, force: bool) -> Result<(), Error> {
    let wrong = |problem: &str| Error::File { path: out.into(), problem: problem.into() };
    let parent = parent(out);
    if !parent.is_dir() {
        return Err(Error::File { path: parent.into(), problem: "is no folder".into() });
    }
    if out.file_name().is_none() {
        return Err(wrong("is no name for a model"));
    }
    let Ok(found) = fs::symlink_metadata(out) else { return Ok(()) };
    if found.is_dir() && fs::read_dir(out).map_err(|error| Error::io(out, &error))?.count() == 0 {
        return Ok(());
    }
    if !force {
        return Err(wrong("exists already; --force replaces it"));
    }
    if found.is_dir() && !is_model_folder(out) {
        return Err(wrong("is a folder that holds more than a model; it is not replaced"));
    }
    Ok(())
}

/// Whether a folder holds a config and nothing but files: what may be replaced whole.
fn is_model_folder(folder: &Path) -> bool {
    let only_files = fs::read_dir(folder).is_ok_and(|mut entries| {
        entries.all(|entry| {
            entry.is_ok_and(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
        })
    });
    folder.join("config.json").is_file() && only_files
}

/// The folder that holds `path`.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A model's folder being made, beside the place it will have.
pub(crate) struct Folder {
    target: PathBuf,
    part: PathBuf,
}

impl Folder {
    /// Opens the folder that will be `target`, with what an earlier run left in it.
    pub(crate) fn create(target: &Path) -> Result<Self, Error> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let part = parent(target).join(format!(".{name}.keeve-part"));
        fs::create_dir_all(&part).map_err(|error| Error::io(target, &error))?;
        Ok(Self { target: target.into(), part })
    }

    /// Where a file of the folder is written.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.part.join(name)
    }

    /// Writes a whole file.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let path = self.file(name);
        fs::write(&path, bytes).map_err(|error| Error::io(&path, &error))
    }

    /// Writes a JSON file.
    pub(crate) fn write_json(&self, name: &str, value: &Value) -> Result<(), Error> {
        self.write(name, format!("{value:#}\n").as_bytes())
    }

    /// Copies the files beside the weights from `source`.
    pub(crate) fn copy_side_files(&self, source: &Path) -> Result<(), Error> {
        for name in SIDE_FILES {
            let from = source.join(name);
            if from.is_file() {
                fs::copy(&from, self.file(name)).map_err(|error| Error::io(&from, &error))?;
            }
        }
        Ok(())
    }

    /// Gives the folder its name. What stood there goes away; [`check`] allowed it.
    pub(crate) fn finish(self) -> Result<(), Error> {
        let failed = |error| Error::io(&self.target, &error);
        let old = self.part.with_extension("old");
        let replaces = self.target.is_dir();
        if replaces {
            fs::rename(&self.target, &old).map_err(failed)?;
        } else if self.target.exists() {
            fs::remove_file(&self.target).map_err(failed)?;
        }
        fs::rename(&self.part, &self.target).map_err(failed)?;
        if replaces {
            fs::remove_dir_all(&old).map_err(failed)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_models_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("model");
        check(&out, false).unwrap();
        fs::create_dir(&out).unwrap();
        check(&out, false).unwrap();
        fs::write(out.join("config.json"), "{}").unwrap();
        let error = check(&out, false).unwrap_err().to_string();
        assert!(error.contains("--force"), "{error}");
        check(&out, true).unwrap();
        fs::create_dir(out.join("photos")).unwrap();
        let error = check(&out, true).unwrap_err().to_string();
        assert!(error.contains("more than a model"), "{error}");
        let error = check(&folder.path().join("no/model"), false).unwrap_err().to_string();
        assert!(error.contains("is no folder"), "{error}");
    }

    #[test]
    fn a_folder_appears_when_it_is_complete() {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("model");
        for round in ["one", "two"] {
            let folder = Folder::create(&target).unwrap();
            folder.write("config.json", round.as_bytes()).unwrap();
            folder.finish().unwrap();
            assert_eq!(fs::read_to_string(target.join("config.json")).unwrap(), round);
        }
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    }
}
