//! GPTQ checkpoints, as AutoGPTQ and GPTQModel write them.
//!
//! Layout: AutoGPTQ/AutoGPTQ `auto_gptq/nn_modules/qlinear/qlinear_cuda_old.py`, ModelCloud/GPTQModel
//! `gptqmodel/utils/model.py` (its `gptq_v2`). For a module `P` of `n` outputs and `k` inputs:
//!
//! * `P.qweight` I32 `[k * bits / 32, n]`: each column is a little-endian bit stream of the codes along k, so that
//!   the words transposed are rows of codes as keeve has them;
//! * `P.qzeros` I32 `[groups, n * bits / 32]`: zero points along n, one less than they are in format `gptq`, as they
//!   are in `gptq_v2`;
//! * `P.scales` `[groups, n]`;
//! * `P.g_idx` I32 `[k]`, which may be absent: the group of each column. Under "desc_act" the columns of a group are
//!   not neighbours; then they are brought together, packed, and the weight says in which order they are.
//!
//! A weight is `(code - zero) * scale`. A module is quantized if it has a `qweight`; bits come from its
//! shapes, so that overrides by module (`dynamic`) need not be matched by name.

use std::path::Path;

use serde_json::Value;

use super::block::Block;
use super::integers::{
    Layout, code_at, column_order, floats, in_order, is_kind, is_moved, reorder, scale_type,
    transposed,
};
use super::modules::Modules;
use super::{Entry, Translation, packed};
use crate::{Error, StoredTensor};

/// Bits of a code that the format has.
const BITS: [u8; 4] = [2, 3, 4, 8];

/// Suffixes of the tensors that go with a `qweight`.
const BESIDES: [&str; 3] = [".qzeros", ".scales", ".g_idx"];

/// What the config says.
#[derive(Clone, Copy)]
struct Settings {
    bits: u8,
    /// Columns in a group; `None`: all.
    group: Option<usize>,
    symmetric: bool,
    /// What is added to zero points.
    zero_offset: i32,
    /// Whether modules may have settings of their own.
    varied: bool,
}

pub(super) fn translate(
    config_path: &Path,
    field: &str,
    block: &Value,
    stored: &[StoredTensor],
) -> Result<Translation, Error> {
    let settings = settings(config_path, field, block)?;
    let modules = Modules::new(stored);
    let mut entries = Vec::new();
    for tensor in stored {
        if let Some(module) = tensor.name.strip_suffix(".qweight") {
            let module = Module {
                name: format!("{module}.weight"),
                weight: tensor,
                zeros: modules.find(module, ".qzeros"),
                scales: modules.find(module, ".scales"),
                g_idx: modules.find(module, ".g_idx"),
            };
            entries.push(module.entry(settings));
        } else if modules.of(tensor, &BESIDES, ".qweight").is_none() {
            entries.push(Entry::whole(tensor.name.clone(), tensor));
        }
    }
    Ok(Translation { label: "safetensors (gptq)".into(), entries })
}

fn settings(path: &Path, field: &str, block: &Value) -> Result<Settings, Error> {
    let block = Block { path, field, block };
    let bits =
        BITS.into_iter().find(|bits| block.given("bits").is_some_and(|value| value == *bits));
    let bits = bits.ok_or_else(|| block.wrong("bits", "2, 3, 4 or 8"))?;
    let group = block.group()?;
    let mut zero_offset = 1;
    for key in ["checkpoint_format", "format"] {
        match block.given(key).map(Value::as_str) {
            None | Some(Some("gptq")) => {}
            Some(Some("gptq_v2")) => zero_offset = 0,
            Some(_) => return Err(block.wrong(key, "\"gptq\" or \"gptq_v2\"")),
        }
    }
    for (key, only) in [("is_marlin_format", Value::from(false)), ("pack_dtype", "int32".into())] {
        if block.given(key).is_some_and(|value| *value != only) {
            return Err(block.wrong(key, &only.to_string()));
        }
    }
    let varied = match block.given("dynamic") {
        None => false,
        Some(Value::Object(overrides)) => !overrides.is_empty(),
        Some(_) => return Err(block.wrong("dynamic", "an object")),
    };
    let symmetric = match block.given("sym") {
        None => false,
        Some(value) => value.as_bool().ok_or_else(|| block.wrong("sym", "true or false"))?,
    };
    // Where modules may differ, zero points are read as they are.
    Ok(Settings { bits, group, symmetric: symmetric && !varied, zero_offset, varied })
}

/// The stored tensors of a quantized module.
struct Module<'a> {
    name: String,
    weight: &'a StoredTensor,
    zeros: Option<&'a StoredTensor>,
    scales: Option<&'a StoredTensor>,
    g_idx: Option<&'a StoredTensor>,
}

impl Module<'_> {
    fn entry(self, settings: Settings) -> Entry {
        let stored: Vec<&StoredTensor> = [Some(self.weight), self.zeros, self.scales, self.g_idx]
            .into_iter()
            .flatten()
            .collect();
        let made = self.layout(settings).and_then(|(layout, zeros, scales)| {
            Ok((layout, layout.codec()?, zeros.clone(), scales.clone()))
        });
        let (layout, codec, zeros, scales) = match made {
            Ok(made) => made,
            Err(reason) => return Entry::refused(self.name, &stored, "gptq".into(), reason),
        };
        let (weight, g_idx) = (self.weight.clone(), self.g_idx.cloned());
        let moved = is_moved(self.g_idx, layout.group, layout.groups());
        let shape = [layout.rows, layout.cols];
        let entry = Entry::new(self.name, &stored, shape.to_vec(), codec, move || {
            let order = match &g_idx {
                Some(g_idx) => column_order(g_idx, layout.group, layout.groups())?,
                None => None,
            };
            let mut data =
                transposed(&weight.data, weight.data.len() / 4 / layout.rows, layout.rows);
            if let Some(moved) = &order {
                reorder(&mut data, layout.bits, &moved.order);
            }
            let factors = floats(&scales).ok_or("has scales that are no floats")?;
            let words = zeros.data.len() / 4 / layout.groups();
            let mask = (1 << layout.bits) - 1;
            let scale_and_zero = |row: usize, group: usize| {
                let stored = code_at(&zeros, group, words, layout.bits, row)?;
                let zero = (stored + settings.zero_offset) & mask;
                Some((*factors.get(group * layout.rows + row)?, zero))
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

    /// Checks the stored tensors against each other and the config.
    fn layout(&self, settings: Settings) -> Result<(Layout, &StoredTensor, &StoredTensor), String> {
        let zeros = self.zeros.ok_or("lacks its 'qzeros'")?;
        let scales = self.scales.ok_or("lacks its 'scales'")?;
        for (what, tensor) in [("qweight", self.weight), ("qzeros", zeros)] {
            if !is_kind(tensor, "I32") {
                return Err(format!("has its '{what}' stored as {}, expected I32", tensor.kind));
            }
        }
        let scale = scale_type(scales)?;
        let (&[words, rows], &[groups, scale_rows], &[zero_groups, zero_words]) =
            (&self.weight.shape[..], &scales.shape[..], &zeros.shape[..])
        else {
            return Err(format!(
                "has qweight {:?}, scales {:?} and qzeros {:?}, expected two dimensions each",
                self.weight.shape, scales.shape, zeros.shape
            ));
        };
        if words == 0 || rows == 0 || groups == 0 {
            return Err("is empty".into());
        }
        if scale_rows != rows || zero_groups != groups {
            return Err(format!(
                "has qweight [{words}, {rows}], scales {:?} and qzeros {:?}, which do not go together",
                scales.shape, zeros.shape
            ));
        }
        // No overflow in the following: the words are in the file.
        let bits = BITS.into_iter().find(|bits| zero_words * 32 == rows * usize::from(*bits));
        let bits = bits.filter(|bits| settings.varied || *bits == settings.bits);
        let Some(bits) = bits else {
            return Err(format!(
                "has {zero_words} words of zero points for {rows} rows, which is not {} bits each",
                settings.bits
            ));
        };
        let width = usize::from(bits);
        if !(words * 32).is_multiple_of(width) {
            return Err(format!("has {words} words a column, no whole number of {bits}-bit codes"));
        }
        let cols = words * 32 / width;
        let expected = settings.group.unwrap_or(cols).min(cols);
        let group = if cols.div_ceil(expected) == groups {
            expected
        } else if settings.varied && cols.is_multiple_of(groups) {
            cols / groups
        } else {
            return Err(format!(
                "has {groups} groups for rows of {cols}, expected groups of {expected}"
            ));
        };
        if let Some(g_idx) = self.g_idx
            && (!is_kind(g_idx, "I32") || g_idx.shape != [cols])
        {
            let (kind, shape) = (&g_idx.kind, &g_idx.shape);
            return Err(format!("has g_idx {kind} {shape:?}, expected I32 [{cols}]"));
        }
        let layout = Layout { rows, cols, bits, group, symmetric: settings.symmetric, scale };
        Ok((layout, zeros, scales))
    }
}
