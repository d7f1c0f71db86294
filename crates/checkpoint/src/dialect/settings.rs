//! Where a safetensors checkpoint says how its weights are packed: in its config, or in a file beside it.
//!
//! Names of files and fields as others read them: vllm-project/vllm `model_executor/layers/quantization/` (each
//! method's `get_config_filenames` and `from_config`), huggingface/transformers `utils/quantization_config.py`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Translate, awq, bitnet, compressed_tensors, fp8, gptq, modelopt};
use crate::files::Files;
use crate::{Error, StoredTensor};

/// Files that may stand beside the config, and the field of each that holds the settings (none: all of it).
/// AutoGPTQ and GPTQModel write the first, AutoAWQ and llm-awq the second, NVIDIA's ModelOpt the third.
const FILES: [(&str, &str); 3] = [
    ("quantize_config.json", ""),
    ("quant_config.json", ""),
    ("hf_quant_config.json", "quantization"),
];

/// The dialects that `quant_method` names.
const METHODS: [(&str, Translate); 6] = [
    ("awq", awq::translate),
    ("bitnet", bitnet::translate),
    ("compressed-tensors", compressed_tensors::translate),
    ("fp8", fp8::translate),
    ("gptq", gptq::translate),
    ("modelopt", modelopt::translate),
];

/// The old name of compressed-tensors' block.
const COMPRESSION: &str = "compression_config";

/// Settings in a file beside the config.
pub(crate) struct Beside {
    path: PathBuf,
    field: &'static str,
    block: Value,
}

/// The settings beside the config, if there are any.
///
/// # Errors
/// If such a file is no JSON object.
pub(crate) fn beside(files: &dyn Files) -> Result<Option<Beside>, Error> {
    for (name, field) in FILES {
        let Some(mut value) = files.json(name)? else { continue };
        let path = files.path().join(name);
        if !value.is_object() {
            return Err(Error::file(&path, "is not a JSON object"));
        }
        if let Some(inner) = value.get_mut(field).filter(|inner| inner.is_object()) {
            value = inner.take();
            return Ok(Some(Beside { path, field, block: value }));
        }
        return Ok(Some(Beside { path, field: "", block: value }));
    }
    Ok(None)
}

/// What a checkpoint says about its weights.
pub(super) struct Settings<'a> {
    /// The file that says it.
    pub(super) path: &'a Path,
    /// The field of that file; empty if it is all of it.
    pub(super) field: &'static str,
    pub(super) block: &'a Value,
    /// What reads such weights; `None` for MLX's dialects.
    pub(super) method: Option<Translate>,
}

/// Finds the settings. MLX has its block at the top of the config or, as some exporters have it, in `text_config`;
/// under `quantization` or its copy for the hub.
pub(super) fn find<'a>(
    config: &'a Value,
    path: &'a Path,
    beside: Option<&'a Beside>,
    stored: &[StoredTensor],
) -> Result<Option<Settings<'a>>, Error> {
    let places = [
        ("quantization", config.get("quantization")),
        ("text_config.quantization", config.pointer("/text_config/quantization")),
        ("quantization_config", config.get("quantization_config")),
        ("text_config.quantization_config", config.pointer("/text_config/quantization_config")),
        (COMPRESSION, config.get(COMPRESSION)),
    ];
    let found = places.map(|(field, block)| (field, block.filter(|block| !block.is_null())));
    let mut chosen: Option<Settings<'a>> = None;
    for (field, block) in found {
        let Some(block) = block else { continue };
        if !block.is_object() {
            return Err(Error::field(path, field, "is not an object"));
        }
        let hub = field.ends_with("_config");
        match &chosen {
            // The copies for the hub are ignored once the block itself was found.
            Some(_) if hub => {}
            Some(first) if first.block != block => {
                return Err(Error::field(path, field, format!("contradicts '{}'", first.field)));
            }
            Some(_) => {}
            // An empty block says that nothing is packed.
            None if hub && block.as_object().is_some_and(serde_json::Map::is_empty) => {}
            None => chosen = Some(read(path, field, block, hub, stored)?),
        }
    }
    if let (None, Some(beside)) = (&chosen, beside.filter(|_| is_packed(stored))) {
        return read(&beside.path, beside.field, &beside.block, true, stored).map(Some);
    }
    Ok(chosen)
}

/// Finds what reads the weights that a block describes. `hub`: whether it is of another program than MLX.
fn read<'a>(
    path: &'a Path,
    field: &'static str,
    block: &'a Value,
    hub: bool,
    stored: &[StoredTensor],
) -> Result<Settings<'a>, Error> {
    let settings = |method| Settings { path, field, block, method };
    if field == COMPRESSION {
        return Ok(settings(Some(compressed_tensors::translate as Translate)));
    }
    let known = |method: &str| METHODS.into_iter().find(|(name, _)| *name == method);
    let wrong = |problem: String| {
        let key =
            if field.is_empty() { "quant_method".into() } else { format!("{field}.quant_method") };
        Error::field(path, &key, problem)
    };
    match block.get("quant_method").filter(|method| !method.is_null()) {
        Some(method) => {
            let name = method.as_str().map(|name| name.to_ascii_lowercase().replace('_', "-"));
            let name = name.unwrap_or_default();
            // Names of kernels for the same weights (vLLM).
            let name = name.strip_suffix("-marlin").unwrap_or(&name);
            let (_, translate) = known(name).ok_or_else(|| {
                let method = crate::error::shown(&method.to_string());
                let known = METHODS.map(|(name, _)| name).join(", ");
                wrong(format!("is {method}, expected one of {known}"))
            })?;
            Ok(settings(Some(translate)))
        }
        None if !hub => Ok(settings(None)),
        None => match method_of(block, stored).and_then(known) {
            Some((_, translate)) => Ok(settings(Some(translate))),
            None if block.get("mode").or(block.get("group_size")).is_some() => Ok(settings(None)),
            None => {
                let problem = "has neither 'quant_method' nor 'mode' nor 'group_size'";
                Err(match field {
                    "" => Error::file(path, problem),
                    field => Error::field(path, field, problem),
                })
            }
        },
    }
}

/// The method of a block that does not name it: by the fields that only one has, else by how weights are stored.
fn method_of(block: &Value, stored: &[StoredTensor]) -> Option<&'static str> {
    let has = |keys: &[&str]| keys.iter().any(|key| block.get(key).is_some());
    if has(&["quant_algo"]) {
        return Some("modelopt");
    }
    let words = stored.iter().filter(|tensor| tensor.name.ends_with(".qweight"));
    let module = |name: &str| name.strip_suffix(".qweight").map(str::to_owned);
    let (words, module) = words.into_iter().find_map(|it| Some((it, module(&it.name)?)))?;
    if has(&["w_bit", "q_group_size", "zero_point"]) {
        return Some("awq");
    }
    if has(&["desc_act", "damp_percent", "true_sequential", "static_groups"]) {
        return Some("gptq");
    }
    let scales = format!("{module}.scales");
    let scales = stored.iter().find(|tensor| tensor.name == scales)?;
    // GPTQ has a column of words for each output, AWQ a word for eight of them, or a row of words for each.
    match (&words.shape[..], &scales.shape[..]) {
        (&[_, wide], &[_, outputs]) if wide == outputs => Some("gptq"),
        (&[_, wide], &[_, outputs]) if wide.checked_mul(8) == Some(outputs) => Some("awq"),
        (&[high, _], &[outputs, _]) if high == outputs => Some("awq"),
        _ => None,
    }
}

/// Whether weights are stored in a way that needs settings.
fn is_packed(stored: &[StoredTensor]) -> bool {
    packed_name(stored).is_some()
}

/// A tensor of packed weights, as methods with settings have them.
pub(super) fn packed_name(stored: &[StoredTensor]) -> Option<&StoredTensor> {
    const MARKS: [&str; 4] = [".qweight", ".weight_packed", ".weight_scale", ".weight_scale_inv"];
    stored.iter().find(|tensor| MARKS.iter().any(|mark| tensor.name.ends_with(mark)))
}

/// The files that may hold settings, for messages.
pub(super) fn file_names() -> String {
    FILES.map(|(name, _)| name).join(", ")
}
