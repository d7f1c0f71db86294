//! compressed-tensors checkpoints with integer weights, as llm-compressor writes them for vLLM.
//!
//! Layouts: vllm-project/compressed-tensors `src/compressed_tensors/compressors/` (naive_quantized,
//! pack_quantized) and `quantization/quant_config.py`. For a module `P` with `P.weight_scale`:
//!
//! * int-quantized: `P.weight` I8 `[rows, cols]`;
//! * pack-quantized: `P.weight_packed` I32, each row a little-endian bit stream of codes counted from the lowest,
//!   and `P.weight_shape` I64 `[rows, cols]`.
//!
//! Scales are floats `[rows, groups]`, or one for the tensor. `P.weight_zero_point` makes it asymmetric: I8
//! shaped like the scales, or I32 packed along the rows in the same way. What the weights are is read from the
//! tensors; the config must know such a format. How activations are to be rounded is not the file's to say.

use std::collections::HashMap;
use std::path::Path;

use keeve_codec::{Bytes, Codec, Group, Parts};
use serde_json::Value;

use super::integers::{affine, floats, is_kind, parts, word_at};
use super::{Entry, Translation, packed};
use crate::{Error, StoredTensor, StoredType};

/// The formats that are read.
const FORMATS: [&str; 2] = ["int-quantized", "pack-quantized"];

/// Suffixes of the tensors that go with a quantized module's weight.
const BESIDES: [&str; 4] =
    [".weight_scale", ".weight_zero_point", ".weight_shape", ".weight_g_idx"];

pub(super) fn translate(
    config_path: &Path,
    field: &str,
    block: &Value,
    stored: &[StoredTensor],
) -> Result<Translation, Error> {
    let bits = configured_bits(config_path, field, block)?;
    let by_name: HashMap<&str, &StoredTensor> =
        stored.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    let find =
        |module: &str, suffix: &str| by_name.get(format!("{module}{suffix}").as_str()).copied();
    let mut entries = Vec::new();
    for tensor in stored {
        let scaled = |suffix: &str| {
            let module = tensor.name.strip_suffix(suffix)?;
            find(module, ".weight_scale").map(|scales| (module, scales))
        };
        let weight = [".weight", ".weight_packed"].into_iter().find_map(scaled);
        if let Some((module, scales)) = weight {
            let parts = Module {
                module,
                weight: tensor,
                scales,
                zeros: find(module, ".weight_zero_point"),
                shape: find(module, ".weight_shape"),
                g_idx: find(module, ".weight_g_idx"),
            };
            entries.push(parts.entry(&bits));
        } else if BESIDES.into_iter().find_map(scaled).is_none() {
            entries.push(Entry::whole(tensor.name.clone(), tensor));
        }
    }
    Ok(Translation { label: "safetensors (compressed-tensors)".into(), entries })
}

/// Bits of the weights of each group of the config.
///
/// # Errors
/// If the config asks for anything that keeve does not read.
fn configured_bits(path: &Path, field: &str, block: &Value) -> Result<Vec<u64>, Error> {
    let wrong = |key: &str, problem: String| Error::field(path, &format!("{field}.{key}"), problem);
    let given = |value: &&Value| !value.is_null();
    let unread = |key: &str, value: &Value| {
        let value = crate::error::shown(&value.to_string());
        wrong(key, format!("is {value}, which is not supported"))
    };
    if let Some(status) = block.get("quantization_status").filter(given)
        && status != "compressed"
    {
        return Err(unread("quantization_status", status));
    }
    for key in ["sparsity_config", "transform_config", "kv_cache_scheme"] {
        let empty = |value: &Value| value.as_object().is_some_and(serde_json::Map::is_empty);
        let dense = |value: &Value| value.get("format").is_some_and(|format| format == "dense");
        if let Some(value) = block.get(key).filter(given)
            && !empty(value)
            && !dense(value)
        {
            return Err(unread(key, value));
        }
    }
    let Some(groups) = block.get("config_groups").and_then(Value::as_object) else {
        return Err(wrong("config_groups", "is missing or not an object".into()));
    };
    let mut bits = Vec::new();
    for (name, group) in groups {
        let key = |key: &str| format!("config_groups.{name}.{key}");
        let format = group.get("format").filter(given).map(|format| (key("format"), format));
        let format = format.or_else(|| Some(("format".into(), block.get("format")?)));
        let (format_key, format) = format.ok_or_else(|| wrong("format", "is missing".into()))?;
        if !FORMATS.into_iter().any(|known| format == known) {
            let format = crate::error::shown(&format.to_string());
            let problem = format!("is {format}, expected int-quantized or pack-quantized");
            return Err(wrong(&format_key, problem));
        }
        let Some(weights) = group.get("weights").filter(given) else { continue };
        if let Some(kind) = weights.get("type").filter(|kind| *kind != "int") {
            return Err(unread(&key("weights.type"), kind));
        }
        let count = weights.get("num_bits").and_then(Value::as_u64);
        let problem = || wrong(&key("weights.num_bits"), "is missing or not a count".into());
        bits.push(count.ok_or_else(problem)?);
    }
    Ok(bits)
}

/// The stored tensors of a quantized module.
struct Module<'a> {
    module: &'a str,
    weight: &'a StoredTensor,
    scales: &'a StoredTensor,
    zeros: Option<&'a StoredTensor>,
    shape: Option<&'a StoredTensor>,
    g_idx: Option<&'a StoredTensor>,
}

/// What the stored tensors amount to.
struct Layout {
    rows: usize,
    cols: usize,
    bits: u8,
    /// Weights of a row that share a scale.
    group: usize,
    /// Whether there is one scale for all.
    shared: bool,
}

impl Layout {
    fn groups(&self) -> usize {
        self.cols / self.group
    }

    /// The place of a scale.
    fn scale_at(&self, row: usize, group: usize) -> usize {
        if self.shared { 0 } else { row * self.groups() + group }
    }
}

impl Module<'_> {
    fn entry(&self, configured: &[u64]) -> Entry {
        let stored: Vec<&StoredTensor> =
            [Some(self.weight), Some(self.scales), self.zeros, self.shape, self.g_idx]
                .into_iter()
                .flatten()
                .collect();
        let name = format!("{}.weight", self.module);
        match self.layout(configured).and_then(|layout| self.codec(&layout).map(|c| (layout, c))) {
            Ok((layout, codec)) => self.built(name, &stored, layout, codec),
            Err(reason) => Entry::refused(name, &stored, "compressed-tensors".into(), reason),
        }
    }

    fn is_packed(&self) -> bool {
        self.weight.name.ends_with(".weight_packed")
    }

    /// Checks the stored tensors against each other and the config.
    fn layout(&self, configured: &[u64]) -> Result<Layout, String> {
        if self.g_idx.is_some() {
            return Err(
                "has its columns in another order (actorder), which keeve does not read".into()
            );
        }
        let expected = if self.is_packed() { "I32" } else { "I8" };
        if !is_kind(self.weight, expected) {
            return Err(format!("is stored as {}, expected {expected}", self.weight.kind));
        }
        let &[rows, stored_cols] = self.weight.shape.as_slice() else {
            return Err(format!("has shape {:?}, expected two dimensions", self.weight.shape));
        };
        let cols = if self.is_packed() { self.packed_cols(rows)? } else { stored_cols };
        if rows == 0 || cols == 0 {
            return Err("is empty".into());
        }
        let bits = if self.is_packed() {
            // No overflow: the words are in the file.
            let bits = stored_cols * 32 / cols;
            if bits * cols != stored_cols * 32 {
                return Err(format!(
                    "has {stored_cols} words for rows of {cols}, no whole bits each"
                ));
            }
            u8::try_from(bits).map_err(|_| format!("has {bits} bits a weight"))?
        } else {
            8
        };
        // int-quantized stores narrower integers as bytes too.
        let agrees = |count: &u64| *count == u64::from(bits) || !self.is_packed() && *count < 8;
        if !configured.iter().any(agrees) {
            return Err(format!("has {bits} bits a weight, which its config does not mention"));
        }
        let (groups, shared) = match self.scales.shape.as_slice() {
            [] | [1] => (1, true),
            &[scale_rows, groups] if scale_rows == rows && groups > 0 => (groups, false),
            shape => return Err(format!("has scales {shape:?}, which do not go with {rows} rows")),
        };
        if !matches!(self.scales.kind, StoredType::Codec(Codec::Float(_))) {
            return Err(format!("has scales of type {}, expected floats", self.scales.kind));
        }
        if !cols.is_multiple_of(groups) {
            return Err(format!("has {groups} scales for rows of {cols}"));
        }
        let layout = Layout { rows, cols, bits, group: cols / groups, shared };
        self.check_zeros(&layout)?;
        Ok(layout)
    }

    /// The row length that `weight_shape` gives.
    fn packed_cols(&self, rows: usize) -> Result<usize, String> {
        let shape = self.shape.filter(|shape| is_kind(shape, "I64") && shape.data.len() == 16);
        let Some(shape) = shape else {
            return Err(format!("lacks '{}.weight_shape' with two I64", self.module));
        };
        let number = |bytes: &[u8; 8]| usize::try_from(i64::from_le_bytes(*bytes)).ok();
        let numbers: Vec<Option<usize>> = shape.data.as_chunks().0.iter().map(number).collect();
        match numbers.as_slice() {
            // The row length must be positive to divide by it, and small enough to multiply.
            &[Some(found), Some(cols)]
                if found == rows && cols > 0 && cols <= self.weight.data.len() * 8 =>
            {
                Ok(cols)
            }
            _ => Err(format!("has a 'weight_shape' that does not go with its {rows} rows")),
        }
    }

    fn check_zeros(&self, layout: &Layout) -> Result<(), String> {
        let Some(zeros) = self.zeros else { return Ok(()) };
        let (kind, shape) = match (self.is_packed(), layout.bits) {
            (false, _) => ("I8", self.scales.shape.clone()),
            (true, 2 | 4 | 8) if !layout.shared => {
                let words = layout.rows.div_ceil(32 / usize::from(layout.bits));
                ("I32", vec![words, layout.groups()])
            }
            (true, bits) => {
                let shared = if layout.shared { " for all rows" } else { "" };
                return Err(format!(
                    "has zero points of {bits} bits{shared}, which keeve does not read"
                ));
            }
        };
        if !is_kind(zeros, kind) || zeros.shape != shape {
            let (found, found_shape) = (&zeros.kind, &zeros.shape);
            return Err(format!(
                "has zero points {found} {found_shape:?}, expected {kind} {shape:?}"
            ));
        }
        Ok(())
    }

    fn codec(&self, layout: &Layout) -> Result<Codec, String> {
        let group = match u16::try_from(layout.group) {
            _ if layout.group == layout.cols => Some(Group::Row),
            Ok(group) => Some(Group::Of(group)),
            Err(_) => None,
        };
        if let (None, false, Some(group)) = (self.zeros, layout.shared, group)
            && let StoredType::Codec(Codec::Float(scale)) = self.scales.kind
        {
            let codec = match layout.bits {
                8 if !self.is_packed() => Some(Codec::Int8 { group, scale }),
                4 => Some(Codec::Int4 { group, scale }),
                _ => None,
            };
            if let Some(codec) = codec.filter(|codec| codec.row_parts(layout.cols).is_ok()) {
                return Ok(codec);
            }
        }
        let (bits, group) = (layout.bits, layout.group);
        affine(bits, group).ok_or_else(|| {
            format!("has {bits} bits in groups of {group}, for which keeve has no codec")
        })
    }

    fn built(&self, name: String, stored: &[&StoredTensor], layout: Layout, codec: Codec) -> Entry {
        let (weight, scales) = (self.weight.data.clone(), self.scales.clone());
        let (zeros, is_packed) = (self.zeros.cloned(), self.is_packed());
        let shape = [layout.rows, layout.cols];
        Entry::new(name, stored, shape.to_vec(), codec, move || {
            let parts = if matches!(codec, Codec::Affine { .. }) {
                // The stream counts codes from the lowest; bytes are signed.
                let signed = || weight.iter().map(|byte| byte ^ 0x80).collect::<Vec<u8>>();
                let data = if is_packed { weight.clone() } else { Bytes::from(signed()) };
                let factors = floats(&scales).ok_or("has scales that are no floats")?;
                let middle = 1i32 << (layout.bits - 1);
                let scale_and_zero = |row: usize, group: usize| {
                    let at = layout.scale_at(row, group);
                    let zero = match &zeros {
                        None => Some(middle),
                        Some(zeros) if is_packed => packed_zero(zeros, &layout, row, group),
                        Some(zeros) => {
                            zeros.data.get(at).map(|zero| middle + i32::from(*zero as i8))
                        }
                    };
                    Some((*factors.get(at)?, zero?))
                };
                parts(data, codec, shape, layout.group, scale_and_zero)?
            } else {
                Parts { scales: Some(scales.data.clone()), ..Parts::data(weight.clone()) }
            };
            packed(codec, &shape, false, parts)
        })
    }
}

/// The zero point of a row and group in words that hold those of neighbouring rows.
fn packed_zero(zeros: &StoredTensor, layout: &Layout, row: usize, group: usize) -> Option<i32> {
    let bits = usize::from(layout.bits);
    let each = 32 / bits;
    let word = word_at(zeros, row / each * layout.groups() + group)?;
    let code = word >> (row % each * bits) & ((1 << bits) - 1);
    i32::try_from(code).ok()
}
