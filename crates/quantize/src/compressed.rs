//! Writing int8 and int4 weights as compressed-tensors does.
//!
//! Layout: vllm-project/compressed-tensors `src/compressed_tensors/compressors` (`int-quantized`,
//! `pack-quantized`), `quantization/quant_config.py` and `transform/transform_scheme.py`.

use std::collections::BTreeMap;

use keeve_checkpoint::StoredType;
use keeve_checkpoint::safetensors::Announced;
use keeve_codec::{Codec, Float, Group, PackedTensor};
use serde_json::{Map, Value, json};

use crate::{Error, Planned, Role};

/// The stored tensors of a planned one.
pub(crate) fn announce(planned: &Planned) -> Result<Vec<Announced>, Error> {
    let stored =
        |name: String, kind: StoredType, shape: Vec<usize>| Announced { name, kind, shape };
    let Some((group, scale, bits)) = integers(planned.to) else {
        let kind = StoredType::Codec(planned.to);
        return Ok(vec![stored(planned.name.clone(), kind, planned.shape.clone())]);
    };
    let module = planned.name.strip_suffix(".weight");
    let (Some(module), &[rows, cols]) = (module, planned.shape.as_slice()) else {
        let problem = "is no matrix named '.weight', as compressed-tensors asks";
        return Err(Error::tensor(&planned.name, problem));
    };
    let groups = match group {
        Group::Row => 1,
        Group::Of(len) => cols / usize::from(len),
    };
    let kind = |name: &str| StoredType::Other(name.into());
    let mut tensors = match bits {
        8 => vec![stored(planned.name.clone(), kind("I8"), vec![rows, cols])],
        _ => vec![
            stored(format!("{module}.weight_packed"), kind("I32"), vec![rows, cols / 8]),
            stored(format!("{module}.weight_shape"), kind("I64"), vec![2]),
        ],
    };
    if bits == 4 && !cols.is_multiple_of(8) {
        return Err(Error::tensor(&planned.name, "has rows that are no whole 32-bit words"));
    }
    let scales = StoredType::Codec(Codec::Float(scale));
    tensors.push(stored(format!("{module}.weight_scale"), scales, vec![rows, groups]));
    Ok(tensors)
}

/// The bytes of the tensors that [`announce`] names, in its order.
pub(crate) fn parts(planned: &Planned, tensor: &PackedTensor) -> Vec<Vec<u8>> {
    let parts = tensor.parts();
    let mut bytes = vec![parts.data.to_vec()];
    if let Some((_, _, bits)) = integers(planned.to) {
        if bits == 4 {
            let shape = [tensor.rows() as i64, tensor.cols() as i64];
            bytes.push(shape.iter().flat_map(|length| length.to_le_bytes()).collect());
        }
        bytes.push(parts.scales.as_deref().unwrap_or_default().to_vec());
    }
    bytes
}

fn integers(codec: Codec) -> Option<(Group, Float, u8)> {
    match codec {
        Codec::Int8 { group, scale } => Some((group, scale, 8)),
        Codec::Int4 { group, scale } => Some((group, scale, 4)),
        _ => None,
    }
}

/// The config's `quantization_config`. Activations are to be int8 by token.
pub(crate) fn quantization(tensors: &[Planned]) -> Value {
    let mut codecs: Vec<Codec> = Vec::new();
    for planned in tensors.iter().filter(|planned| integers(planned.to).is_some()) {
        if !codecs.contains(&planned.to) {
            codecs.push(planned.to);
        }
    }
    let mut groups = Map::new();
    for (index, codec) in codecs.iter().enumerate() {
        let Some((group, _, bits)) = integers(*codec) else { continue };
        // One kind of weight is meant by class; of several, each is named.
        let targets: Vec<String> = match codecs.len() {
            1 => vec!["Linear".into()],
            _ => tensors.iter().filter(|planned| planned.to == *codec).map(module).collect(),
        };
        let (strategy, size) = match group {
            Group::Row => ("channel", Value::Null),
            Group::Of(len) => ("group", len.into()),
        };
        let common = |bits: u8, strategy: &str, dynamic: bool, group_size: Value| {
            json!({
                "num_bits": bits, "type": "int", "symmetric": true, "strategy": strategy,
                "group_size": group_size, "dynamic": dynamic, "actorder": null,
                "block_structure": null, "observer": if dynamic { Value::Null } else { "minmax".into() },
                "observer_kwargs": {},
            })
        };
        let value = json!({
            "targets": targets,
            "format": format_of(bits),
            "weights": common(bits, strategy, false, size),
            "input_activations": common(8, "token", true, Value::Null),
            "output_activations": null,
        });
        groups.insert(format!("group_{index}"), value);
    }
    let mut formats: Vec<&str> = codecs
        .iter()
        .filter_map(|codec| integers(*codec))
        .map(|(.., bits)| format_of(bits))
        .collect();
    formats.dedup();
    let format = if formats.len() == 1 { formats[0] } else { "mixed-precision" };
    let is_linear = |planned: &&Planned| {
        planned.shape.len() == 2 && !matches!(planned.role, Role::Embedding | Role::Plain)
    };
    // A tied head is a module of its own there, without a weight in the file.
    let mut ignore: Vec<String> = vec!["lm_head".into()];
    let kept = tensors.iter().filter(is_linear).filter(|planned| integers(planned.to).is_none());
    ignore.extend(
        kept.map(module).filter(|name| name != "lm_head" && !name.ends_with("embed_tokens")),
    );
    let mut block = json!({
        "quant_method": "compressed-tensors",
        "format": format,
        "quantization_status": "compressed",
        "global_compression_ratio": null,
        "kv_cache_scheme": null,
        "ignore": ignore,
        "config_groups": groups,
    });
    if let Some(transforms) = transforms(tensors) {
        block["transform_config"] = transforms;
    }
    block
}

/// The config's `transform_config`: which inputs are multiplied by Hadamard matrices as their weights were, a group for
/// each length of blocks. `None` if there are none.
fn transforms(tensors: &[Planned]) -> Option<Value> {
    let mut targets: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for planned in tensors {
        if let Some(block) = planned.hadamard {
            targets.entry(block).or_default().push(module(planned));
        }
    }
    let group = |(block, targets): (usize, Vec<String>)| {
        let apply = |location: &str, inverse: bool| json!({ "targets": targets, "location": location, "inverse": inverse, "ignore": [] });
        let group = json!({
            "type": "hadamard",
            "apply": [apply("input", false), apply("weight_input", true)],
            "randomize": false,
            "requires_grad": false,
            "head_dim": block,
        });
        (format!("hadamard_{block}"), group)
    };
    let groups: Map<String, Value> = targets.into_iter().map(group).collect();
    (!groups.is_empty()).then(|| json!({ "config_groups": groups }))
}

/// The name of a weight's module.
fn module(planned: &Planned) -> String {
    planned.name.strip_suffix(".weight").unwrap_or(&planned.name).to_owned()
}

fn format_of(bits: u8) -> &'static str {
    if bits == 8 { "int-quantized" } else { "pack-quantized" }
}
