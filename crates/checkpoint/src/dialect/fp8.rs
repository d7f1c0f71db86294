//! FP8 checkpoints: E4M3 floats with a scale for each block, row or tensor.
//!
//! Layout: huggingface/transformers `src/transformers/integrations/finegrained_fp8.py` and
//! `utils/quantization_config.py` (`quant_method` "fp8", as DeepSeek and Qwen publish). For a module `P`: `P.weight`
//! F8_E4M3 `[n, k]`; `P.weight_scale_inv` `[n / 128, k / 128]`, rounded up, for "weight_block_size" [128, 128], or one
//! scale for all where that is null. Despite its name it is what weights are multiplied by.
//!
//! Weights stay bytes; the scale of a block is repeated for each of its rows.

use std::path::Path;

use keeve_codec::{Codec, Group, Parts};
use serde_json::Value;

use super::block::Block;
use super::integers::{is_kind, scale_type};
use super::modules::Modules;
use super::{Entry, Translation, packed};
use crate::{ActivationRule, ActivationScheme, ActivationStrategy, Error, StoredTensor};

/// The name of the type in safetensors.
pub(super) const E4M3: &str = "F8_E4M3";

/// Suffixes of the scales of weights.
const SCALES: [&str; 2] = [".weight_scale_inv", ".weight_scale"];

pub(super) fn translate(
    config_path: &Path,
    field: &str,
    block: &Value,
    stored: &[StoredTensor],
) -> Result<Translation, Error> {
    let (size, activations) = settings(config_path, field, block)?;
    let modules = Modules::new(stored);
    let mut entries = Vec::new();
    for tensor in stored {
        let module = tensor.name.strip_suffix(".weight").filter(|_| is_kind(tensor, E4M3));
        if let Some(module) = module {
            let scales = SCALES.into_iter().find_map(|suffix| modules.find(module, suffix));
            let entry = module_entry(tensor.name.clone(), tensor, scales, size);
            entries.push(entry.with_activations(Some(activations)));
        } else if modules.of(tensor, &SCALES, ".weight").is_none() {
            entries.push(Entry::whole(tensor.name.clone(), tensor));
        }
    }
    Ok(Translation { label: "safetensors (fp8)".into(), entries })
}

/// Rows and columns of a block, and how inputs are rounded.
fn settings(
    path: &Path,
    field: &str,
    block: &Value,
) -> Result<(Option<[usize; 2]>, ActivationScheme), Error> {
    let block = Block { path, field, block };
    let size = match block.given("weight_block_size") {
        None => None,
        Some(size) => {
            let size = block_size(size);
            Some(size.ok_or_else(|| {
                block.wrong("weight_block_size", "two counts, such as [128, 128]")
            })?)
        }
    };
    // "scale_fmt" may ask for powers of two, which are floats as well; what counts is how they are stored.
    for (key, only) in [("fmt", "e4m3"), ("expert_dtype", "fp8")] {
        if block.given(key).is_some_and(|value| value != only) {
            return Err(block.wrong(key, only));
        }
    }
    let dynamic = match block.given("activation_scheme").map(Value::as_str) {
        None | Some(Some("dynamic")) => true,
        Some(Some("static")) => false,
        Some(_) => return Err(block.wrong("activation_scheme", "\"dynamic\" or \"static\"")),
    };
    Ok((size, inputs(size, dynamic)))
}

/// How inputs are rounded: by what is said about them, or as they come, each block, or each token.
pub(super) fn inputs(size: Option<[usize; 2]>, dynamic: bool) -> ActivationScheme {
    let strategy = match size {
        _ if !dynamic => ActivationStrategy::Tensor,
        Some([_, cols]) => ActivationStrategy::Group(cols),
        None => ActivationStrategy::Token,
    };
    let rule = ActivationRule::Fp8;
    ActivationScheme { rule, strategy, bits: 8, float: true, symmetric: true, dynamic }
}

/// Two positive counts.
pub(super) fn block_size(value: &Value) -> Option<[usize; 2]> {
    let count = |value: &Value| usize::try_from(value.as_u64()?).ok().filter(|count| *count > 0);
    match value.as_array()?.as_slice() {
        [rows, cols] => Some([count(rows)?, count(cols)?]),
        _ => None,
    }
}

/// A weight of E4M3 floats, given the rows and columns of a block where scales are by blocks. Otherwise there
/// is one scale, or one or more for each row.
pub(super) fn module_entry(
    name: String,
    weight: &StoredTensor,
    scales: Option<&StoredTensor>,
    block: Option<[usize; 2]>,
) -> Entry {
    let stored: Vec<&StoredTensor> = [Some(weight), scales].into_iter().flatten().collect();
    let made = scales.ok_or_else(|| "lacks its scales".to_string()).and_then(|scales| {
        let (codec, grid) = layout(weight, scales, block)?;
        Ok((codec, grid, scales.clone()))
    });
    let (codec, grid, scales) = match made {
        Ok(made) => made,
        Err(reason) => return Entry::refused(name, &stored, "fp8".into(), reason),
    };
    let (weight, shape) = (weight.clone(), weight.shape.clone());
    Entry::new(name, &stored, shape.clone(), codec, move || {
        let &[rows, cols] = shape.as_slice() else { return Err("is no matrix".into()) };
        let unit = match codec.geometry().scales {
            Some((Group::Of(unit), _)) => usize::from(unit),
            _ => cols,
        };
        let each = scale_type(&scales)?.bytes();
        let mut repeated = Vec::with_capacity(rows * (cols / unit) * each);
        for row in 0..rows {
            for start in (0..cols).step_by(unit) {
                let at = row / grid.rows * grid.width + start / grid.cols;
                let scale = scales.data.get(at * each..(at + 1) * each);
                repeated.extend(scale.ok_or("has fewer scales than blocks")?);
            }
        }
        let parts = Parts { scales: Some(repeated.into()), ..Parts::data(weight.data.clone()) };
        packed(codec, &shape, false, parts)
    })
}

/// Which weights share a scale.
struct Grid {
    /// Rows of a block.
    rows: usize,
    /// Columns of a block.
    cols: usize,
    /// Scales in a row of them.
    width: usize,
}

fn layout(
    weight: &StoredTensor,
    scales: &StoredTensor,
    block: Option<[usize; 2]>,
) -> Result<(Codec, Grid), String> {
    let &[rows, cols] = weight.shape.as_slice() else {
        return Err(format!("has shape {:?}, expected two dimensions", weight.shape));
    };
    if rows == 0 || cols == 0 {
        return Err("is empty".into());
    }
    let scale = scale_type(scales)?;
    let grid = match (scales.shape.as_slice(), block) {
        (&[down, across], Some([block_rows, block_cols]))
            if (down, across) == (rows.div_ceil(block_rows), cols.div_ceil(block_cols)) =>
        {
            Some(Grid { rows: block_rows, cols: block_cols, width: across })
        }
        ([] | [1] | [1, 1], None) => Some(Grid { rows, cols, width: 1 }),
        (&[down], None) if down == rows => Some(Grid { rows: 1, cols, width: 1 }),
        (&[down, across], None) if down == rows && across > 0 && cols.is_multiple_of(across) => {
            Some(Grid { rows: 1, cols: cols / across, width: across })
        }
        _ => None,
    };
    let grid = grid.ok_or_else(|| {
        let blocks = block.map(|[r, c]| format!(" in blocks of {r}x{c}")).unwrap_or_default();
        format!("has scales {:?}, which do not go with {rows}x{cols}{blocks}", scales.shape)
    })?;
    let fits = |unit: &u16| {
        let unit = usize::from(*unit);
        grid.cols.is_multiple_of(unit) && cols.is_multiple_of(unit)
    };
    let group = match Codec::INT_GROUPS.into_iter().rev().find(fits).map(Group::Of) {
        _ if grid.cols >= cols => Some(Group::Row),
        group => group,
    };
    let group = group.ok_or_else(|| {
        format!("has scales for {} columns of {cols}, no multiple of 32", grid.cols)
    })?;
    Ok((Codec::Fp8 { group, scale }, grid))
}
