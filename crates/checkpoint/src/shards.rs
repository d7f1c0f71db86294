//! The safetensors files of a folder: which ones, and the tensors in them.

use std::collections::{BTreeSet, HashMap};

use keeve_files::kind;
use keeve_files::weights::{self, Chosen, INDEX, Problem};
use serde_json::Value;

use crate::files::Files;
use crate::{Error, FileInfo, StoredTensor, safetensors};

/// All tensors of the weight files, the files' names and sizes, and what was odd about them.
pub(crate) struct Shards {
    pub(crate) files: Vec<FileInfo>,
    pub(crate) tensors: Vec<StoredTensor>,
    pub(crate) notes: Vec<String>,
}

/// Opens the weight files: see [`keeve_files::weights`]. `given`: one of them that was asked for by name. `None` if
/// there are none.
///
/// # Errors
/// If one is missing or damaged, or it is not clear which ones make up the model.
pub(crate) fn open(files: &dyn Files, given: Option<&str>) -> Result<Option<Shards>, Error> {
    let index = match files.json(INDEX)? {
        Some(index) => Some(Index::read(files, &index)?),
        None => None,
    };
    let all = files.names()?;
    let named = index.as_ref().map(|index| &index.files);
    let failed = |problem| match problem {
        Problem::None => None,
        Problem::File(name, problem) => Some(Error::file(&files.path().join(name), problem)),
        Problem::Folder(problem) => Some(Error::file(files.path(), problem)),
    };
    let chosen = weights::choose(all.iter().map(String::as_str), named);
    let chosen = match (chosen, given) {
        (Ok(chosen), None) => chosen,
        (Ok(chosen), Some(given)) if chosen.files.iter().any(|name| name == given) => chosen,
        // The file itself was asked for, and so what it is a part of.
        (_, Some(given)) => match weights::of_file(given, &all) {
            Ok(files) => Chosen { files, notes: vec![] },
            Err(problem) => return failed(problem).map_or(Ok(None), Err),
        },
        (Err(problem), None) => return failed(problem).map_or(Ok(None), Err),
    };
    read(files, chosen, index.as_ref()).map(Some)
}

/// Reads the tensors of the chosen files. Of a tensor that stands in several, the index says which one counts; where
/// it does not, the last does, as for others who read the files one after another.
fn read(files: &dyn Files, chosen: Chosen, index: Option<&Index>) -> Result<Shards, Error> {
    let mut shards = Shards { files: Vec::new(), tensors: Vec::new(), notes: chosen.notes };
    // Where each tensor stands: its place among the tensors, and its file.
    let mut places: HashMap<String, (usize, usize)> = HashMap::new();
    let (mut twice, mut first_twice) = (0usize, String::new());
    for (number, name) in chosen.files.iter().enumerate() {
        let path = files.path().join(name);
        let Some(bytes) = files.open(name)? else {
            return Err(Error::file(&path, "is missing"));
        };
        // Only of what is no safetensors: a header's length may look like anything.
        let parsed = safetensors::parse(&path, &bytes);
        let parsed = parsed.map_err(|error| match kind::told_of_weights(&bytes) {
            Some(told) => Error::file(&path, told),
            None => error,
        })?;
        for tensor in parsed.tensors {
            let Some((place, file)) = places.get_mut(&tensor.name) else {
                places.insert(tensor.name.clone(), (shards.tensors.len(), number));
                shards.tensors.push(tensor);
                continue;
            };
            let says = index.and_then(|index| index.places.get(&tensor.name));
            if says != Some(&chosen.files[*file]) {
                *file = number;
                if twice == 0 || tensor.name == first_twice {
                    first_twice = tensor.name.clone();
                }
                shards.tensors[*place] = tensor;
            } else if twice == 0 {
                first_twice = tensor.name;
            }
            twice += 1;
        }
        shards.files.push(FileInfo { name: name.clone(), bytes: bytes.len() as u64 });
    }
    if twice > 0 {
        let from = places.get(&first_twice).map_or("", |(_, file)| &chosen.files[*file]);
        let name = crate::error::shown(&first_twice);
        shards.notes.push(match twice {
            1 => format!("tensor '{name}' stands in several files; that of {from} is read"),
            _ => format!("{twice} tensors stand in several files, '{name}' being the first; that of {from} is read"),
        });
    }
    if let Some(index) = index {
        let absent = |name: &&String| !places.contains_key(*name);
        let mut absent = index.places.keys().filter(absent).collect::<Vec<_>>();
        absent.sort();
        // Where other files were read, the index is not about them.
        let about = index.files.iter().all(|name| chosen.files.contains(name));
        if let Some(first) = absent.first().filter(|_| about) {
            let (name, count) = (crate::error::shown(first), absent.len());
            shards.notes.push(format!(
                "{INDEX} lists {count} tensors that no file holds, '{name}' being the first"
            ));
        }
    }
    Ok(shards)
}

/// What the index says.
struct Index {
    /// The file of each tensor.
    places: HashMap<String, String>,
    /// All files.
    files: BTreeSet<String>,
}

impl Index {
    fn read(files: &dyn Files, index: &Value) -> Result<Self, Error> {
        let path = files.path().join(INDEX);
        let Some(map) = index.get("weight_map").and_then(Value::as_object) else {
            return Err(Error::field(&path, "weight_map", "is missing or not an object"));
        };
        let mut found = Self { places: HashMap::with_capacity(map.len()), files: BTreeSet::new() };
        for (tensor, shard) in map {
            let Some(shard) = shard.as_str().filter(|name| is_plain_file_name(name)) else {
                let problem =
                    format!("is {}, expected the name of a file in the same folder", map[tensor]);
                return Err(Error::field(&path, &format!("weight_map.{tensor}"), problem));
            };
            // An index that was made from that of other files may name those.
            if shard.ends_with(".safetensors") {
                found.places.insert(tensor.clone(), shard.into());
                found.files.insert(shard.into());
            }
        }
        Ok(found)
    }
}

/// Whether a name is one of a file of weights and cannot lead out of the folder it is looked up in, on any system.
fn is_plain_file_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let weights = [".safetensors", ".bin"].iter().any(|ending| name.ends_with(ending));
    weights && !name.starts_with('.') && name.chars().all(plain)
}
