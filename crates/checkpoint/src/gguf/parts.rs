//! Models that are split over several GGUF files.
//!
//! Names and keys: ggml-org/llama.cpp `tools/gguf-split` and `src/llama-model-loader.cpp`: files are called
//! `<name>-00001-of-00003.gguf` and so on; `split.no` counts them from 0, `split.count` says how many there are and
//! `split.tensors.count` how many tensors they have together. All other metadata are in the first.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use keeve_codec::Bytes;

use super::{Gguf, Metadata, parse};
use crate::files::Files;
use crate::{Error, FileInfo};

const COUNT: &str = "split.count";
const NUMBER: &str = "split.no";
const TENSORS: &str = "split.tensors.count";

/// Digits of a number in a name.
const DIGITS: usize = 5;

/// The name of a part, taken apart.
pub(crate) struct PartName<'a> {
    /// What comes before the numbers.
    prefix: &'a str,
    /// Which part it is, from 1.
    pub(crate) number: u32,
    /// How many there are.
    count: u32,
}

impl<'a> PartName<'a> {
    /// Reads `<prefix>-00001-of-00003.gguf`; `None` for other names.
    pub(crate) fn read(name: &'a str) -> Option<Self> {
        let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
        let (prefix, number) = rest.rsplit_once('-')?;
        let read = |digits: &str| {
            let plain = digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse::<u32>().ok().filter(|_| plain)
        };
        Some(Self { prefix, number: read(number)?, count: read(count)? })
    }

    fn of(&self, number: u32) -> String {
        format!("{}-{number:05}-of-{:05}.gguf", self.prefix, self.count)
    }
}

/// The model that the file at `path` is, or is a part of: its metadata, all tensors, and its files. `folder`: where it
/// is. Parts that were renamed are found by what they say of themselves.
///
/// # Errors
/// If a file is damaged or missing, or parts do not go together.
pub(crate) fn open(
    path: &Path,
    bytes: &Bytes,
    folder: &dyn Files,
) -> Result<(Gguf, Vec<FileInfo>), Error> {
    let given = parse(path, bytes)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let count = given.metadata.count(COUNT)?.unwrap_or(1);
    if count <= 1 {
        return Ok((given, vec![FileInfo { name, bytes: bytes.len() as u64 }]));
    }
    let part = PartName::read(&name).filter(|part| u64::from(part.count) == count);
    let part_names = match part {
        Some(part) => (1..=part.count).map(|number| part.of(number)).collect(),
        None => renamed(path, folder, count)?,
    };
    let mut whole: Option<Gguf> = None;
    let mut files = Vec::new();
    let mut names = HashSet::new();
    for (number, name) in (0..).zip(part_names) {
        let path = path.with_file_name(&name);
        let Some(bytes) = folder.open(&name)? else {
            let problem = format!("is missing: the model is split over {count} files");
            return Err(Error::file(&path, problem));
        };
        let parsed = parse(&path, &bytes)?;
        check(&parsed.metadata, &path, number, count)?;
        for tensor in &parsed.tensors {
            if !names.insert(tensor.name.clone()) {
                let problem = "stands in another file of the model as well";
                return Err(Error::tensor(&path, &tensor.name, problem));
            }
        }
        files.push(FileInfo { name, bytes: bytes.len() as u64 });
        match &mut whole {
            None => whole = Some(parsed),
            Some(whole) => whole.tensors.extend(parsed.tensors),
        }
    }
    let whole = whole.ok_or_else(|| Error::field(path, COUNT, "is not a number of files"))?;
    let found = whole.tensors.len() as u64;
    match whole.metadata.count(TENSORS)? {
        Some(expected) if expected != found => {
            let problem = format!("is {expected}, but the {count} files have {found} tensors");
            Err(Error::field(path, TENSORS, problem))
        }
        _ => Ok((whole, files)),
    }
}

/// The files of a folder that say they are the parts of a model in `count`, in their order.
fn renamed(path: &Path, folder: &dyn Files, count: u64) -> Result<Vec<String>, Error> {
    let mut names = folder.names()?;
    names.retain(|name| name.to_ascii_lowercase().ends_with(".gguf"));
    let mut found: BTreeMap<u64, String> = BTreeMap::new();
    for name in names {
        let path = path.with_file_name(&name);
        // What else is there may be anything.
        let Some(bytes) = folder.open(&name).ok().flatten() else { continue };
        let Ok(parsed) = parse(&path, &bytes) else { continue };
        let (own, number) = (parsed.metadata.count(COUNT)?, parsed.metadata.count(NUMBER)?);
        if let (Some(own), Some(number)) = (own, number)
            && own == count
            && let Some(other) = found.insert(number, name)
        {
            let problem = format!("says that it is part {number} of {count}, and so does {other}");
            return Err(Error::file(&path, problem));
        }
    }
    if found.len() as u64 != count || !found.keys().copied().eq(0..count) {
        let problem = format!(
            "is {count}, but {} of these files are here, called NAME-00001-of-{count:05}.gguf or otherwise (parts joined by cat are no model; `llama-gguf-split --merge` joins them)",
            found.len()
        );
        return Err(Error::field(path, COUNT, problem));
    }
    Ok(found.into_values().collect())
}

/// Checks that a file says of itself that it is this part, counted from 0.
fn check(metadata: &Metadata, path: &Path, number: u64, count: u64) -> Result<(), Error> {
    for (key, expected) in [(COUNT, count), (NUMBER, number)] {
        let found = metadata.count(key)?;
        if found != Some(expected) {
            let found = found.map_or("missing".into(), |found| found.to_string());
            let problem = format!("is {found}, expected {expected} by the file's name");
            return Err(Error::field(path, key, problem));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parts() {
        let part = PartName::read("a-b-00002-of-00010.gguf").unwrap();
        assert_eq!((part.prefix, part.number, part.count), ("a-b", 2, 10));
        assert_eq!(part.of(10), "a-b-00010-of-00010.gguf");
        for other in [
            "a.gguf",
            "a-00001-of-00002",
            "a-1-of-2.gguf",
            "a-00001-of-+0002.gguf",
            "-of-00001.gguf",
        ] {
            assert!(PartName::read(other).is_none(), "{other}");
        }
    }
}
