//! Checkpoints of NVIDIA's ModelOpt: E4M3 floats with a scale for the tensor or each row, and NVFP4.
//!
//! Layouts: NVIDIA/Model-Optimizer `modelopt/torch/export/quant_utils.py` and
//! `modelopt/torch/quantization/qtensor/nvfp4_tensor.py`; vllm-project/vllm
//! `model_executor/layers/quantization/modelopt.py`. For a module `P` of `n` outputs and `k` inputs:
//!
//! * "FP8": `P.weight` F8_E4M3 `[n, k]` and `P.weight_scale`, one for all; "FP8_PER_CHANNEL_PER_TOKEN": one for each row;
//! * "NVFP4": `P.weight` U8 `[n, k / 2]`, the even column in the low nibble, `P.weight_scale` F8_E4M3 `[n, k / 16]` and
//!   `P.weight_scale_2` F32, which all are multiplied by.
//!
//! `P.input_scale` says how inputs are rounded. Modules that are left in floats have no scales.

use std::path::Path;

use keeve_codec::{Codec, Parts};
use serde_json::Value;

use super::block::Block;
use super::fp8::{self, E4M3, module_entry};
use super::integers::is_kind;
use super::modules::Modules;
use super::{Entry, Translation, packed};
use crate::{ActivationScheme, Error, StoredTensor, StoredType};

/// Suffixes of what goes with a weight, and of the scales of keys and values in the cache.
const BESIDES: [&str; 3] = [".weight_scale", ".weight_scale_2", ".input_scale"];
const CACHE: [&str; 2] = [".k_scale", ".v_scale"];

/// Values that share a scale, and what MLX divides the scale of a whole tensor by: the largest product of a value and
/// a scale of such a group, 6 times 448 (ml-explore/mlx `mlx/backend/cpu/quantized.cpp`).
const GROUP: usize = 16;
const LARGEST: f32 = 6.0 * 448.0;

/// How weights are stored.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Fp8 { dynamic: bool },
    Nvfp4,
}

pub(super) fn translate(
    config_path: &Path,
    field: &str,
    block: &Value,
    stored: &[StoredTensor],
) -> Result<Translation, Error> {
    // Some have the settings of hf_quant_config.json whole in the block.
    let block = block.get("quantization").filter(|inner| inner.is_object()).unwrap_or(block);
    let algorithm = algorithm(&Block { path: config_path, field, block })?;
    let modules = Modules::new(stored);
    let mut entries = Vec::new();
    for tensor in stored {
        let scaled = tensor.name.strip_suffix(".weight");
        let scaled =
            scaled.and_then(|module| Some((module, modules.find(module, ".weight_scale")?)));
        if let Some((module, scales)) = scaled {
            let name = tensor.name.clone();
            entries.push(match algorithm {
                Algorithm::Fp8 { dynamic } => {
                    let inputs: ActivationScheme = fp8::inputs(None, dynamic);
                    module_entry(name, tensor, Some(scales), None).with_activations(Some(inputs))
                }
                Algorithm::Nvfp4 => {
                    nvfp4(name, tensor, scales, modules.find(module, ".weight_scale_2"))
                }
            });
        } else if modules.of(tensor, &BESIDES, ".weight").is_none()
            && !CACHE.iter().any(|suffix| tensor.name.ends_with(suffix))
        {
            entries.push(Entry::whole(tensor.name.clone(), tensor));
        }
    }
    Ok(Translation { label: "safetensors (modelopt)".into(), entries })
}

fn algorithm(block: &Block<'_>) -> Result<Algorithm, Error> {
    let key = "quant_algo";
    match block.given(key).and_then(Value::as_str) {
        Some("FP8") => Ok(Algorithm::Fp8 { dynamic: false }),
        Some("FP8_PER_CHANNEL_PER_TOKEN") => Ok(Algorithm::Fp8 { dynamic: true }),
        Some("NVFP4") => Ok(Algorithm::Nvfp4),
        _ => Err(block.wrong(key, "\"FP8\", \"FP8_PER_CHANNEL_PER_TOKEN\" or \"NVFP4\"")),
    }
}

/// A weight of NVFP4.
fn nvfp4(
    name: String,
    weight: &StoredTensor,
    scales: &StoredTensor,
    whole: Option<&StoredTensor>,
) -> Entry {
    let stored: Vec<&StoredTensor> =
        [Some(weight), Some(scales), whole].into_iter().flatten().collect();
    let (cols, global) = match nvfp4_layout(weight, scales, whole) {
        Ok(layout) => layout,
        Err(reason) => return Entry::refused(name, &stored, "nvfp4".into(), reason),
    };
    let codec = Codec::MlxNvfp4 { global: true };
    let mut shape = weight.shape.clone();
    if let Some(last) = shape.last_mut() {
        *last = cols;
    }
    let parts = Parts {
        scales: Some(scales.data.clone()),
        global_scale: Some((global * LARGEST).to_le_bytes().to_vec().into()),
        ..Parts::data(weight.data.clone())
    };
    Entry::new(name, &stored, shape.clone(), codec, move || {
        packed(codec, &shape, false, parts.clone())
    })
}

/// The row length and the scale of the whole tensor.
fn nvfp4_layout(
    weight: &StoredTensor,
    scales: &StoredTensor,
    whole: Option<&StoredTensor>,
) -> Result<(usize, f32), String> {
    if weight.kind != StoredType::U8 || !is_kind(scales, E4M3) {
        let (kind, scale) = (&weight.kind, &scales.kind);
        return Err(format!("is stored as {kind} with scales {scale}, expected U8 with F8_E4M3"));
    }
    let whole = whole.ok_or("lacks its 'weight_scale_2'")?;
    let global = match (&whole.kind, whole.data.first_chunk()) {
        (kind, Some(bytes)) if *kind == StoredType::F32 && whole.data.len() == 4 => {
            f32::from_le_bytes(*bytes)
        }
        (kind, _) => {
            return Err(format!(
                "has a 'weight_scale_2' {kind} {:?}, expected one F32",
                whole.shape
            ));
        }
    };
    match (&weight.shape[..], &scales.shape[..]) {
        // No overflow: the bytes are in the file.
        (&[rows, bytes], &[scale_rows, groups])
            if rows == scale_rows && rows > 0 && groups > 0 && bytes * 2 == groups * GROUP =>
        {
            Ok((bytes * 2, global))
        }
        (weight, scales) => Err(format!(
            "has bytes {weight:?} and scales {scales:?}, which do not go together in groups of {GROUP}"
        )),
    }
}
