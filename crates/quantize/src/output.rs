//! Where a made model goes: it stands under its name only when it is complete.

use std::collections::HashSet;
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use keeve_files::part::{self, parent};
use keeve_files::whole::{self, MIB};
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

/// Bytes of a file beside the weights; none comes near.
const MAX_SIDE_FILE: u64 = 256 * MIB;

/// A model's folder being made, beside the place it will have.
pub(crate) struct Folder {
    target: PathBuf,
    part: PathBuf,
    /// The names of its files.
    files: HashSet<String>,
}

impl Folder {
    /// Opens the folder that will be `target`, with what an earlier run left in it. Links and other things that somebody
    /// put in its place are not followed; if they cannot be removed, another place is taken.
    pub(crate) fn create(target: &Path) -> Result<Self, Error> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let part = part::first(|number| {
            let number = if number == 0 { String::new() } else { format!(".{number}") };
            let part = parent(target).join(format!(".{name}{number}.keeve-part"));
            match fs::create_dir(&part) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    if !part::is_own_folder(&part) {
                        part::remove_leftover(&part);
                        fs::create_dir(&part)?;
                    }
                    // A folder in it is nothing that an earlier run left.
                    for entry in fs::read_dir(&part)? {
                        let entry = entry?;
                        match entry.file_type()? {
                            kind if kind.is_dir() => return Err(error),
                            kind if kind.is_file() => {}
                            _ => part::remove_leftover(&entry.path()),
                        }
                    }
                    Ok(part)
                }
                outcome => outcome.map(|()| part),
            }
        });
        let part = part.map_err(|error| Error::io(target, &error))?;
        Ok(Self { target: target.into(), part, files: HashSet::new() })
    }

    /// Where a file of the folder is written.
    pub(crate) fn file(&mut self, name: &str) -> PathBuf {
        self.files.insert(name.into());
        self.part.join(name)
    }

    /// Writes a whole file.
    pub(crate) fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let path = self.file(name);
        let written = part::create(&path).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        written.map_err(|error| Error::io(&path, &error))
    }

    /// Writes a JSON file.
    pub(crate) fn write_json(&mut self, name: &str, value: &Value) -> Result<(), Error> {
        self.write(name, format!("{value:#}\n").as_bytes())
    }

    /// Copies the files beside the weights from `source`.
    pub(crate) fn copy_side_files(&mut self, source: &Path) -> Result<(), Error> {
        for name in SIDE_FILES {
            let from = source.join(name);
            if from.is_file() {
                let bytes = whole::read(&from, MAX_SIDE_FILE, "a file beside the weights");
                let bytes = bytes.map_err(|error| Error::Input(error.to_string()))?;
                self.write(name, &bytes)?;
            }
        }
        Ok(())
    }

    /// Gives the folder its name. What stood there goes away; [`check`] allowed it.
    pub(crate) fn finish(self) -> Result<(), Error> {
        let failed = |error| Error::io(&self.target, &error);
        // What an earlier run left and this one has not is none of the model.
        for entry in fs::read_dir(&self.part).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if !self.files.contains(entry.file_name().to_string_lossy().as_ref()) {
                part::remove_leftover(&entry.path());
            }
        }
        let stands = fs::symlink_metadata(&self.target).ok();
        let old = match stands {
            Some(found) if found.is_dir() => {
                let name = self.target.file_name().unwrap_or_default().to_string_lossy();
                let old = part::first(|number| {
                    let old = parent(&self.target).join(format!(".{name}.{number}.keeve-old"));
                    match fs::symlink_metadata(&old) {
                        Ok(_) => Err(ErrorKind::AlreadyExists.into()),
                        Err(_) => fs::rename(&self.target, &old).map(|()| old),
                    }
                });
                Some(old.map_err(failed)?)
            }
            Some(_) => {
                fs::remove_file(&self.target).map_err(failed)?;
                None
            }
            None => None,
        };
        if let Err(error) = fs::rename(&self.part, &self.target) {
            if let Some(old) = &old {
                // What stood there is there again.
                let _ = fs::rename(old, &self.target);
            }
            return Err(failed(error));
        }
        part::sync_parent(&self.target);
        match old {
            Some(old) => fs::remove_dir_all(&old).map_err(failed),
            None => Ok(()),
        }
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
            let mut folder = Folder::create(&target).unwrap();
            folder.write("config.json", round.as_bytes()).unwrap();
            folder.finish().unwrap();
            assert_eq!(fs::read_to_string(target.join("config.json")).unwrap(), round);
        }
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn what_stands_in_the_way_is_neither_followed_nor_waited_for() {
        use std::os::unix::fs::symlink;
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        let (target, part) = (path("model"), path(".model.keeve-part"));
        fs::create_dir(path("precious")).unwrap();
        fs::write(path("precious/config.json"), "precious").unwrap();
        let made = || {
            let mut folder = Folder::create(&target).unwrap();
            folder.write("config.json", b"{}").unwrap();
            folder.finish().unwrap();
            let mut names: Vec<_> =
                fs::read_dir(&target).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            assert_eq!(names, ["config.json"]);
            fs::remove_dir_all(&target).unwrap();
            assert_eq!(fs::read_to_string(path("precious/config.json")).unwrap(), "precious");
        };
        // A link to a folder, a file, a folder with links and leftovers, and one with a folder.
        symlink("precious", &part).unwrap();
        made();
        fs::write(&part, "").unwrap();
        made();
        fs::create_dir(&part).unwrap();
        symlink("../precious/config.json", part.join("config.json")).unwrap();
        fs::write(part.join("vocab.json"), "of another model").unwrap();
        made();
        fs::create_dir_all(part.join("config.json")).unwrap();
        made();
        // What a run left that was killed between two renamings.
        fs::create_dir(path(".model.0.keeve-old")).unwrap();
        fs::create_dir(&target).unwrap();
        fs::write(target.join("config.json"), "old").unwrap();
        made();
    }
}
