//! mlx-kquant checkpoints: ggml blocks in safetensors, the codec of each module in the config.
//!
//! Layout: asher/mlx-kquant `mlx_kquant/convert.py` and `loader.py`. For a module `P` listed in
//! `quantization.per_tensor`: `P.weight` U8 `[..., bytes of a row]` holds the rows as in GGUF;
//! `P.scales` U8 `[1]` is a placeholder. Modules not listed are float.

use std::collections::HashSet;
use std::path::Path;

use keeve_codec::{Codec, Parts};
use serde_json::Value;

use super::{Entry, Translation, is_stack, packed};
use crate::{Error, StoredTensor, StoredType};

pub(super) fn translate(
    config_path: &Path,
    field: &str,
    block: &Value,
    stored: &[StoredTensor],
) -> Result<Translation, Error> {
    let codecs_field = format!("{field}.per_tensor");
    let Some(codecs) = block.get("per_tensor").and_then(Value::as_object) else {
        return Err(Error::field(config_path, &codecs_field, "is missing or not an object"));
    };
    if let Some((module, codec)) = codecs.iter().find(|(_, codec)| !codec.is_string()) {
        let problem = format!("is {codec}, expected the name of a codec");
        return Err(Error::field(config_path, &format!("{codecs_field}.{module}"), problem));
    }
    let names: HashSet<&str> = stored.iter().map(|tensor| tensor.name.as_str()).collect();
    let mut entries = Vec::new();
    for tensor in stored {
        let name = tensor.name.clone();
        if is_placeholder(tensor, &names) {
            continue;
        }
        let module = name.strip_suffix(".weight");
        let codec = module.and_then(|module| codecs.get(module)).and_then(Value::as_str);
        entries.push(match codec {
            Some(codec) => blocks(name, tensor, codec),
            None if tensor.kind == StoredType::U8 => {
                let reason = format!("is stored as U8, but '{codecs_field}' lists no codec for it");
                Entry::refused(name, &[tensor], "U8".into(), reason)
            }
            None => Entry::whole(name, tensor),
        });
    }
    Ok(Translation { label: "safetensors (mlx-kquant)".into(), entries })
}

/// Whether a tensor is the single byte that stands where MLX expects scales.
fn is_placeholder(tensor: &StoredTensor, names: &HashSet<&str>) -> bool {
    let module = tensor.name.strip_suffix(".scales");
    tensor.kind == StoredType::U8
        && tensor.data.len() == 1
        && module.is_some_and(|module| names.contains(format!("{module}.weight").as_str()))
}

/// A weight in ggml blocks of the codec called `codec`.
fn blocks(name: String, tensor: &StoredTensor, codec: &str) -> Entry {
    let refused = |reason: String| Entry::refused(name.clone(), &[tensor], codec.into(), reason);
    let known = codec.parse::<Codec>().ok().filter(|known| {
        // Of the codecs that share a spelling with keeve's, only blocks are meant.
        known.is_blocks() && known.name() == codec
    });
    let Some(known) = known else {
        return refused(format!("is stored as {codec:?}, a codec that keeve does not read"));
    };
    if tensor.kind != StoredType::U8 {
        return refused(format!("is listed as {known} but stored as {}", tensor.kind));
    }
    let geometry = known.geometry();
    let row_bytes = tensor.shape.last().copied().unwrap_or(0);
    if !row_bytes.is_multiple_of(geometry.block_bytes) {
        let block = geometry.block_bytes;
        return refused(format!(
            "has rows of {row_bytes} bytes, which {known} blocks of {block} do not divide"
        ));
    }
    let mut shape = tensor.shape.clone();
    if let Some(cols) = shape.last_mut() {
        // No overflow: a block has fewer than eight weights a byte.
        *cols = row_bytes / geometry.block_bytes * geometry.block;
    }
    let (stacked, source, logical) = (is_stack(&name, &shape), tensor.data.clone(), shape.clone());
    Entry::new(name, &[tensor], shape, known, move || {
        packed(known, &logical, stacked, Parts::data(source.clone()))
    })
}
