//! BitNet checkpoints of Hugging Face transformers: ternary weights, four rows to a row of bytes.
//!
//! Layout: huggingface/transformers `src/transformers/integrations/bitnet.py`. For a module `P`: `P.weight` U8
//! `[n / 4, k]`, where bits `2 s ..` of row `r` hold the weights of row `r + s * n / 4`, plus 1; `P.weight_scale` is one
//! float. Class "autobitlinear" multiplies by it, class "bitlinear" divides. Inputs are rounded to 8 bits for
//! each token: see [`ActivationRule::BitNet`].
//!
//! The weights become `affine2` with the bias minus the scale, which is exact: a product is the scale, twice it,
//! or nothing. A scale that is divided by becomes its reciprocal in f32.
//!
//! In mode "online" the file has the floats that training worked on, which are rounded to ternary anew whenever
//! the model runs; those are refused rather than used as they are.

use std::path::Path;

use keeve_codec::{Codec, Float, Parts};
use serde_json::Value;

use super::block::Block;
use super::integers::floats;
use super::modules::Modules;
use super::{Entry, Translation, packed};
use crate::{
    ActivationRule, ActivationScheme, ActivationStrategy, Error, StoredTensor, StoredType,
};

/// Weights in a byte, each of a row of its own.
const EACH: usize = 4;

pub(super) fn translate(
    config_path: &Path,
    field: &str,
    block: &Value,
    stored: &[StoredTensor],
) -> Result<Translation, Error> {
    let divides = divides(config_path, field, block)?;
    let modules = Modules::new(stored);
    let mut entries = Vec::new();
    for tensor in stored {
        if let Some(module) = modules.of(tensor, &[".weight"], ".weight_scale") {
            let scale = modules.find(module, ".weight_scale");
            entries.push(module_entry(tensor, scale, divides));
        } else if modules.of(tensor, &[".weight_scale"], ".weight").is_none() {
            let name = tensor.name.clone();
            entries.push(match tensor.kind {
                StoredType::U8 => {
                    let reason = "is packed, but has no 'weight_scale'".into();
                    Entry::refused(name, &[tensor], "bitnet".into(), reason)
                }
                _ => Entry::whole(name, tensor),
            });
        }
    }
    Ok(Translation { label: "safetensors (bitnet)".into(), entries })
}

/// Whether results are divided by the scale.
fn divides(path: &Path, field: &str, block: &Value) -> Result<bool, Error> {
    let block = Block { path, field, block };
    match block.given("quantization_mode").map(Value::as_str) {
        None | Some(Some("offline")) => {}
        Some(Some("online")) => {
            let problem = "so the file has floats that are rounded whenever the model runs, which keeve does not \
                           do; convert it to \"offline\"";
            return Err(block.problem("quantization_mode", problem));
        }
        Some(_) => return Err(block.wrong("quantization_mode", "\"offline\"")),
    }
    if block.given("use_rms_norm").is_some_and(|value| *value != false) {
        let problem = "expected false: keeve does not know norms inside of linear layers";
        return Err(block.problem("use_rms_norm", problem));
    }
    match block.given("linear_class").map(Value::as_str) {
        None | Some(Some("bitlinear")) => Ok(true),
        Some(Some("autobitlinear")) => Ok(false),
        Some(_) => Err(block.wrong("linear_class", "\"bitlinear\" or \"autobitlinear\"")),
    }
}

fn module_entry(weight: &StoredTensor, scale: Option<&StoredTensor>, divides: bool) -> Entry {
    let stored: Vec<&StoredTensor> = [Some(weight), scale].into_iter().flatten().collect();
    let name = weight.name.clone();
    let (shape, codec, scale) = match layout(weight, scale, divides) {
        Ok(found) => found,
        Err(reason) => return Entry::refused(name, &stored, "bitnet".into(), reason),
    };
    let weight = weight.clone();
    let entry = Entry::new(name, &stored, shape.to_vec(), codec, move || {
        let [rows, cols] = shape;
        let Codec::Affine { group, scale: float, .. } = codec else {
            return Err(format!("cannot be put together as {codec}"));
        };
        let data = rows_of(&weight.data, cols)?;
        let count = rows * (cols / usize::from(group));
        let mut one = [vec![0; float.bytes()], vec![0; float.bytes()]];
        float.write(&mut one[0], 0, scale);
        float.write(&mut one[1], 0, -scale);
        let [scales, biases] = one.map(|value| Some(value.repeat(count).into()));
        packed(
            codec,
            &shape,
            false,
            Parts { data: data.into(), scales, biases, global_scale: None },
        )
    });
    entry.with_activations(Some(ActivationScheme {
        rule: ActivationRule::BitNet,
        strategy: ActivationStrategy::Token,
        bits: 8,
        float: false,
        symmetric: true,
        dynamic: true,
    }))
}

/// Shape, codec and factor of a module.
fn layout(
    weight: &StoredTensor,
    scale: Option<&StoredTensor>,
    divides: bool,
) -> Result<([usize; 2], Codec, f32), String> {
    if weight.kind != StoredType::U8 {
        return Err(format!("has a 'weight_scale' but is stored as {}, expected U8", weight.kind));
    }
    let &[packed_rows, cols] = weight.shape.as_slice() else {
        return Err(format!("has shape {:?}, expected two dimensions", weight.shape));
    };
    // A product that the container did not check.
    let rows = packed_rows.checked_mul(EACH).filter(|rows| rows.checked_mul(cols).is_some());
    let rows = rows.ok_or("has too many rows to address")?;
    let stored = scale.ok_or("lacks its 'weight_scale'")?;
    let values = floats(stored).filter(|values| values.len() == 1);
    let Some((&[factor], StoredType::Codec(Codec::Float(float)))) = values
        .as_deref()
        .map(|values| (values, &stored.kind))
        .and_then(|(values, kind)| Some((<&[f32; 1]>::try_from(values).ok()?, kind)))
    else {
        let (kind, shape) = (&stored.kind, &stored.shape);
        return Err(format!("has a 'weight_scale' {kind} {shape:?}, expected one float"));
    };
    let (factor, float) = if divides { (1.0 / factor, Float::F32) } else { (factor, *float) };
    if !factor.is_finite() {
        return Err("has a 'weight_scale' that is not finite, or zero where it divides".into());
    }
    let mut groups = Codec::AFFINE_GROUPS.into_iter().rev();
    let group = groups.find(|group| cols.is_multiple_of(usize::from(*group)));
    let group = group.ok_or_else(|| format!("has rows of {cols}, expected a multiple of 32"))?;
    Ok(([rows, cols], Codec::Affine { bits: 2, group, scale: float }, factor))
}

/// The codes row after row, four columns to a byte, the first in the lowest bits. Rows have a multiple of four
/// columns.
fn rows_of(bytes: &[u8], cols: usize) -> Result<Vec<u8>, String> {
    // Both bits of a pair are set: a code that is no ternary weight.
    if let Some(at) = bytes.iter().position(|byte| byte & byte >> 1 & 0x55 != 0) {
        let (row, column) = (at / cols, at % cols);
        return Err(format!("has the code 3 in byte {column} of row {row}, expected 0, 1 or 2"));
    }
    let mut out = Vec::with_capacity(bytes.len());
    for place in 0..EACH {
        let code = |byte: u8| byte >> (2 * place) & 3;
        let quads = bytes.as_chunks::<EACH>().0.iter();
        out.extend(
            quads.map(|quad| quad.iter().rev().fold(0, |codes, &byte| codes << 2 | code(byte))),
        );
    }
    Ok(out)
}
