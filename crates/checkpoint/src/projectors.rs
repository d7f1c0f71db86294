//! Which file a GGUF model sees with: the one that is named, or one beside it.

use std::path::{Path, PathBuf};

use keeve_codec::Bytes;

use crate::dialect::mmproj::{Projector, is_named_so};
use crate::files::Files;
use crate::{Error, FileInfo, mapped};

/// The better of several, by what their names say of their weights: as they were trained, nearly, all of it.
const LABELS: [&str; 4] = ["bf16", "f16", "f32", "q8_0"];

/// A file that a model sees with.
pub(crate) struct Found {
    pub path: PathBuf,
    pub file: FileInfo,
    pub projector: Projector,
}

/// The file at `path`, which is to give a language model rows of `width`.
///
/// # Errors
/// If it cannot be read, is no such file, or is for another model.
pub(crate) fn given(path: &Path, width: Option<u64>) -> Result<Found, Error> {
    read(path, &mapped::open(path)?, width)
}

fn read(path: &Path, bytes: &Bytes, width: Option<u64>) -> Result<Found, Error> {
    let projector = Projector::read(path, bytes)?;
    if let (Some(found), Some(width)) = (projector.width()?, width)
        && found != width
    {
        let problem = format!("is for a model {found} wide; this one is {width} wide");
        return Err(Error::file(path, problem));
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let file = FileInfo { name, bytes: bytes.len() as u64 };
    Ok(Found { path: path.into(), file, projector })
}

/// The best file in the folder of the model at `path` that fits it. `notes` get a line where there is none, or
/// where one was chosen that is not called like the model.
///
/// # Errors
/// If the folder cannot be read.
pub(crate) fn beside(
    path: &Path,
    folder: &dyn Files,
    width: Option<u64>,
    notes: &mut Vec<String>,
) -> Result<Option<Found>, Error> {
    let mut names: Vec<String> = folder.names()?.into_iter().filter(|n| is_named_so(n)).collect();
    let own = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    names.sort_by_key(|name| rank(name, &own));
    let (mut fitting, mut problem) = (Vec::new(), None);
    for name in &names {
        let found = match folder.open(name) {
            Ok(None) => continue,
            Ok(Some(bytes)) => read(&folder.path().join(name), &bytes, width),
            Err(error) => Err(error),
        };
        match found {
            Ok(found) => fitting.push(found),
            Err(error) => problem = problem.or(Some(error)),
        }
    }
    let count = fitting.len();
    let best = fitting.into_iter().next();
    match (&best, problem) {
        (Some(found), _) if count > 1 && !rank(&found.file.name, &own).0 => {}
        (Some(found), _) if count > 1 => {
            let name = &found.file.name;
            notes.push(format!("of {count} mmproj files beside the model, {name} is used"));
        }
        (Some(_), _) => {}
        (None, Some(problem)) => notes.push(format!("the model cannot see images: {problem}")),
        (None, None) => notes.push(
            "the model cannot see images without its mmproj file, which is not beside it".into(),
        ),
    }
    Ok(best)
}

/// The smaller the better: the file that is called like the model at `own` first, then by label.
fn rank(name: &str, own: &str) -> (bool, usize, String) {
    let name = name.to_ascii_lowercase();
    let of_it = [format!("mmproj-{own}"), own.replace(".gguf", "-mmproj.gguf")].contains(&name);
    let stem = name.strip_suffix(".gguf").unwrap_or(&name);
    let parts: Vec<&str> = stem.split(['-', '.']).collect();
    let label = LABELS.iter().position(|label| parts.contains(label)).unwrap_or(LABELS.len());
    (!of_it, label, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_ordered_by_name() {
        let mut names = [
            "mmproj-other.gguf",
            "mmproj-F16.gguf",
            "mmproj-Model-Q8_0.gguf",
            "mmproj-BF16.gguf",
            "mmproj-my-model.gguf",
            "mmproj-F32.gguf",
        ];
        names.sort_by_key(|name| rank(name, "my-model.gguf"));
        assert_eq!(
            names,
            [
                "mmproj-my-model.gguf",
                "mmproj-BF16.gguf",
                "mmproj-F16.gguf",
                "mmproj-F32.gguf",
                "mmproj-Model-Q8_0.gguf",
                "mmproj-other.gguf",
            ]
        );
    }
}
