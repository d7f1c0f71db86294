//! The safetensors files of a folder: one, several by an index, or several by their names.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use serde_json::Value;

use crate::files::Files;
use crate::{Error, FileInfo, StoredTensor, safetensors};

const INDEX: &str = "model.safetensors.index.json";

/// All tensors of the weight files, and the files' names and sizes.
pub(crate) struct Shards {
    pub(crate) files: Vec<FileInfo>,
    pub(crate) tensors: Vec<StoredTensor>,
}

/// Opens the weight files: those that the index names, else all `model*.safetensors`.
pub(crate) fn open(files: &dyn Files) -> Result<Shards, Error> {
    let index = match files.json(INDEX)? {
        Some(index) => Some(weight_map(&files.path().join(INDEX), &index)?),
        None => None,
    };
    let names: BTreeSet<String> = match &index {
        Some(map) => map.iter().map(|(_, shard)| shard.clone()).collect(),
        None => by_name(files)?,
    };
    let mut shards = Shards { files: Vec::new(), tensors: Vec::new() };
    // Shard of each tensor, by position in `names`.
    let mut places: HashMap<String, usize> = HashMap::new();
    for (number, name) in names.iter().enumerate() {
        let path = files.path().join(name);
        let Some(bytes) = files.open(name)? else {
            return Err(Error::file(&path, format!("is missing, but {INDEX} names it")));
        };
        for tensor in safetensors::parse(&path, &bytes)?.tensors {
            if places.insert(tensor.name.clone(), number).is_some() {
                let problem = "stands in another file of the model as well";
                return Err(Error::tensor(&path, &tensor.name, problem));
            }
            shards.tensors.push(tensor);
        }
        shards.files.push(FileInfo { name: name.clone(), bytes: bytes.len() as u64 });
    }
    for (tensor, shard) in index.iter().flatten() {
        let place = places.get(tensor).map(|number| &shards.files[*number].name);
        if place != Some(shard) {
            let problem = format!("is not in this file, where {INDEX} says it is");
            return Err(Error::tensor(&files.path().join(shard), tensor, problem));
        }
    }
    Ok(shards)
}

/// The `(tensor, file)` pairs of an index.
fn weight_map(path: &Path, index: &Value) -> Result<Vec<(String, String)>, Error> {
    let Some(map) = index.get("weight_map").and_then(Value::as_object) else {
        return Err(Error::field(path, "weight_map", "is missing or not an object"));
    };
    let mut pairs = Vec::with_capacity(map.len());
    for (tensor, shard) in map {
        let shard = shard.as_str().filter(|name| is_plain_file_name(name));
        let Some(shard) = shard else {
            let problem = format!(
                "is {}, expected the name of a .safetensors file in the same folder",
                map[tensor]
            );
            return Err(Error::field(path, &format!("weight_map.{tensor}"), problem));
        };
        pairs.push((tensor.clone(), shard.into()));
    }
    if pairs.is_empty() {
        return Err(Error::field(path, "weight_map", "is empty"));
    }
    Ok(pairs)
}

/// Whether a name cannot lead out of the folder it is looked up in, on any system.
fn is_plain_file_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    name.ends_with(".safetensors") && !name.starts_with('.') && name.chars().all(plain)
}

/// The files `model*.safetensors`. Where their names count parts, none may be missing.
fn by_name(files: &dyn Files) -> Result<BTreeSet<String>, Error> {
    let all = files.names()?;
    let wanted = |name: &&String| name.starts_with("model") && name.ends_with(".safetensors");
    let names: BTreeSet<String> = all.iter().filter(wanted).cloned().collect();
    if names.is_empty() {
        let gguf = all.iter().find(|name| name.ends_with(".gguf"));
        let hint = gguf.map(|name| format!("; to use {name}, give its path")).unwrap_or_default();
        let problem = format!("holds neither {INDEX} nor model*.safetensors{hint}");
        return Err(Error::file(files.path(), problem));
    }
    for name in &names {
        let part = name.strip_suffix(".safetensors").and_then(|stem| stem.rsplit_once("-of-"));
        if let Some((_, count)) = part
            && let Ok(expected) = count.parse::<usize>()
        {
            let suffix = format!("-of-{count}.safetensors");
            let found = names.iter().filter(|name| name.ends_with(&suffix)).count();
            if found != expected {
                let problem = format!("holds {found} of the {expected} files model-*{suffix}");
                return Err(Error::file(files.path(), problem));
            }
        }
    }
    Ok(names)
}
