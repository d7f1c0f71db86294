//! compressed-tensors checkpoints with integer or E4M3 weights, as llm-compressor writes them for vLLM.
//!
//! Layouts: vllm-project/compressed-tensors `src/compressed_tensors/compressors/` (naive_quantized,
//! pack_quantized). For a module `P` with `P.weight_scale`:
//!
//! * int-quantized: `P.weight` I8 `[rows, cols]`;
//! * float-quantized: `P.weight` F8_E4M3 `[rows, cols]`, see `fp8.rs`;
//! * pack-quantized: `P.weight_packed` I32, each row a little-endian bit stream of codes counted from the lowest,
//!   and `P.weight_shape` I64 `[rows, cols]`.
//!
//! Scales are floats `[rows, groups]`, or one for the tensor, or of blocks for floats. `P.weight_zero_point` makes it
//! asymmetric: I8 shaped like the scales, or I32 packed along the rows in the same way. `P.weight_g_idx` I32 `[cols]`
//! gives the group of each column where the columns of a group are not neighbours ("actorder"). What the weights
//! are is read from the tensors; the config must know such a format, and says how inputs are rounded and rotated.

use std::path::Path;

use keeve_codec::{Basis, Codec, Parts};
use serde_json::Value;

use super::compressed_config::{self, Groups};
use super::integers::{
    Layout, column_order, floats, in_order, is_kind, is_moved, reorder, scale_type, word_at,
};
use super::modules::Modules;
use super::{Entry, Translation, fp8, packed};
use crate::{Error, StoredTensor};

/// Suffixes of weights.
const WEIGHTS: [&str; 2] = [".weight", ".weight_packed"];

/// Suffixes of the tensors that go with a quantized module's weight.
const BESIDES: [&str; 4] =
    [".weight_scale", ".weight_zero_point", ".weight_shape", ".weight_g_idx"];

pub(super) fn translate(
    config_path: &Path,
    field: &str,
    block: &Value,
    stored: &[StoredTensor],
) -> Result<Translation, Error> {
    let groups = compressed_config::read(config_path, field, block)?;
    let modules = Modules::new(stored);
    let mut entries = Vec::new();
    for tensor in stored {
        let module = modules.of(tensor, &WEIGHTS, ".weight_scale");
        let Some((module, scales)) =
            module.and_then(|module| Some((module, modules.find(module, ".weight_scale")?)))
        else {
            if modules.of(tensor, &BESIDES, ".weight_scale").is_none() {
                entries.push(rotated(Entry::whole(tensor.name.clone(), tensor), &groups));
            }
            continue;
        };
        let group = groups.of(module);
        let entry = if is_kind(tensor, fp8::E4M3) {
            let blocks = group.and_then(|group| group.weights?.block);
            fp8::module_entry(tensor.name.clone(), tensor, Some(scales), blocks)
        } else {
            let find = |suffix: &str| modules.find(module, suffix);
            let parts = Module {
                module,
                weight: tensor,
                scales,
                zeros: find(".weight_zero_point"),
                shape: find(".weight_shape"),
                g_idx: find(".weight_g_idx"),
            };
            parts.entry(&groups)
        };
        let entry = entry.with_activations(group.and_then(|group| group.activations));
        entries.push(rotated(entry, &groups));
    }
    Ok(Translation { label: "safetensors (compressed-tensors)".into(), entries })
}

/// The same, of which the rows are rotated if the config says that its inputs are.
fn rotated(entry: Entry, groups: &Groups) -> Entry {
    let module = entry.info.name.strip_suffix(".weight");
    let (Some(module), &[_, cols]) = (module, entry.info.shape.as_slice()) else { return entry };
    match groups.hadamard_of(module, cols) {
        Ok(None) => entry,
        Ok(Some(block)) => entry
            .then(move |tensor| {
                let tensor = tensor.with_basis(Basis::Hadamard(block));
                tensor.map_err(|error| format!("is rotated, but {error}"))
            })
            .with_basis(true),
        Err(reason) => entry.then(move |_| Err(reason.clone())),
    }
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

impl Module<'_> {
    fn entry(&self, configured: &Groups) -> Entry {
        let stored: Vec<&StoredTensor> =
            [Some(self.weight), Some(self.scales), self.zeros, self.shape, self.g_idx]
                .into_iter()
                .flatten()
                .collect();
        let name = format!("{}.weight", self.module);
        match self.layout(configured).and_then(|layout| Ok((layout, layout.codec()?))) {
            Ok((layout, codec)) => self.built(name, &stored, layout, codec),
            Err(reason) => Entry::refused(name, &stored, "compressed-tensors".into(), reason),
        }
    }

    fn is_packed(&self) -> bool {
        self.weight.name.ends_with(".weight_packed")
    }

    /// Whether there is one scale for all weights.
    fn is_shared(&self) -> bool {
        matches!(self.scales.shape.as_slice(), [] | [1])
    }

    /// Checks the stored tensors against each other and the config.
    fn layout(&self, configured: &Groups) -> Result<Layout, String> {
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
            if bits * cols != stored_cols * 32 || !(1..=8).contains(&bits) {
                return Err(format!(
                    "has {stored_cols} words for rows of {cols}, no whole bits each up to 8"
                ));
            }
            bits as u8
        } else {
            8
        };
        let mut weights = configured.groups.iter().filter_map(|group| group.weights);
        // int-quantized stores narrower integers as bytes too.
        let agrees = |count: u64| count == u64::from(bits) || !self.is_packed() && count < 8;
        if !weights.any(|weights| !weights.float && agrees(weights.bits)) {
            return Err(format!("has {bits} bits a weight, which its config does not mention"));
        }
        let groups = match self.scales.shape.as_slice() {
            [] | [1] => 1,
            &[scale_rows, groups] if scale_rows == rows && groups > 0 => groups,
            shape => return Err(format!("has scales {shape:?}, which do not go with {rows} rows")),
        };
        if !cols.is_multiple_of(groups) {
            return Err(format!("has {groups} scales for rows of {cols}"));
        }
        if let Some(g_idx) = self.g_idx
            && (!is_kind(g_idx, "I32") || g_idx.shape != [cols])
        {
            let (kind, shape) = (&g_idx.kind, &g_idx.shape);
            return Err(format!("has g_idx {kind} {shape:?}, expected I32 [{cols}]"));
        }
        let (symmetric, scale) = (self.zeros.is_none(), scale_type(self.scales)?);
        let layout = Layout { rows, cols, bits, group: cols / groups, symmetric, scale };
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
            (true, 2 | 4 | 8) if !self.is_shared() => {
                let words = layout.rows.div_ceil(32 / usize::from(layout.bits));
                ("I32", vec![words, layout.groups()])
            }
            (true, bits) => {
                let shared = if self.is_shared() { " for all rows" } else { "" };
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

    fn built(&self, name: String, stored: &[&StoredTensor], layout: Layout, codec: Codec) -> Entry {
        let (weight, scales) = (self.weight.data.clone(), self.scales.clone());
        let (zeros, g_idx) = (self.zeros.cloned(), self.g_idx.cloned());
        let (is_packed, is_shared) = (self.is_packed(), self.is_shared());
        let moved = is_moved(self.g_idx, layout.group, layout.groups());
        let shape = [layout.rows, layout.cols];
        // The bytes are the codec's own, unless its groups are parts of these or its codes are signed.
        let same_groups = codec
            .row_parts(layout.cols)
            .is_ok_and(|row| !is_shared && row.scales == layout.groups() * layout.scale.bytes());
        let as_stored = same_groups
            && match codec {
                Codec::Int8 { .. } => !is_packed,
                Codec::Int4 { .. } => is_packed,
                _ => false,
            };
        let entry = Entry::new(name, stored, shape.to_vec(), codec, move || {
            let order = match &g_idx {
                Some(g_idx) => column_order(g_idx, layout.group, layout.groups())?,
                None => None,
            };
            if as_stored && order.is_none() {
                let scales = Some(scales.data.clone());
                return packed(
                    codec,
                    &shape,
                    false,
                    Parts { scales, ..Parts::data(weight.clone()) },
                );
            }
            let mut data = weight.to_vec();
            if !is_packed {
                // Signed bytes, counted from the lowest.
                data.iter_mut().for_each(|byte| *byte ^= 0x80);
            }
            if let Some(moved) = &order {
                reorder(&mut data, layout.bits, &moved.order);
            }
            let factors = floats(&scales).ok_or("has scales that are no floats")?;
            let middle = layout.middle();
            let scale_and_zero = |row: usize, group: usize| {
                let at = if is_shared { 0 } else { row * layout.groups() + group };
                let zero = match &zeros {
                    None => Some(middle),
                    Some(zeros) if is_packed => packed_zero(zeros, &layout, row, group),
                    Some(zeros) => zeros.data.get(at).map(|zero| middle + i32::from(*zero as i8)),
                };
                Some((*factors.get(at)?, zero?))
            };
            let group_of = |column: usize| match &order {
                Some(moved) => moved.groups[column],
                None => column / layout.group,
            };
            let parts = layout.parts(codec, data, scale_and_zero, group_of)?;
            in_order(packed(codec, &shape, false, parts)?, order)
        });
        entry.with_basis(moved)
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
