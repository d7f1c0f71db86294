//! MLX quantized checkpoints: `P.weight` U32, `P.scales`, `P.biases` for a module `P`. The modes mxfp4, mxfp8
//! and nvfp4 have byte scales and no biases; nvfp4 may have an f32 `P.global_scale`.
//!
//! Layout: the documentation of `mlx.core.quantize` (ml-explore/mlx) and ml-explore/mlx-lm
//! `mlx_lm/utils.py`. A module is quantized if it has scales. Bits and group size come from the
//! config, from the shapes, or both:
//!
//! 1. an entry of the module's own in `quantization`, which must agree with the shapes;
//! 2. else the shapes and the row length that the architecture gives the module, because real
//!    checkpoints lack such entries or have them under other prefixes;
//! 3. else the defaults of `quantization`, if they agree with the shapes;
//! 4. else the one pair that the shapes allow.
//!
//! Of the modes with byte scales the shapes allow only one; an entry of the module's own must agree.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use keeve_codec::{Codec, Float, Parts};
use serde_json::{Map, Value};

use super::{Entry, Translation, is_stack, packed};
use crate::config::expected_cols;
use crate::{Error, StoredTensor, StoredType};

/// Modes of MLX whose scales are bytes: name, bits, group size and codec.
const BYTE_SCALED: [(&str, usize, usize, Codec); 3] = [
    ("nvfp4", 4, 16, Codec::MlxNvfp4 { global: false }),
    ("mxfp4", 4, 32, Codec::MlxMxfp4),
    ("mxfp8", 8, 32, Codec::MlxMxfp8),
];

/// Suffixes of the tensors that go with a quantized module's weight.
const BESIDES: [&str; 3] = [".scales", ".biases", ".global_scale"];

/// What the config says about a module, or about all of them.
#[derive(Debug, Clone, PartialEq)]
enum Setting {
    /// Affine, with bits and group size as far as they are given.
    Affine { bits: Option<u8>, group: Option<u16> },
    /// One of [`BYTE_SCALED`], by name.
    Bytes(&'static str),
    /// Not quantized.
    Float,
}

/// Whether a checkpoint without a word about it in its config is one of these.
pub(super) fn looks_like_it(stored: &[StoredTensor]) -> bool {
    let scaled = scaled_modules(stored);
    stored.iter().any(|tensor| {
        let module = tensor.name.strip_suffix(".weight");
        tensor.kind == StoredType::U32 && module.is_some_and(|module| scaled.contains(module))
    })
}

fn scaled_modules(stored: &[StoredTensor]) -> HashSet<&str> {
    stored.iter().filter_map(|tensor| tensor.name.strip_suffix(".scales")).collect()
}

pub(super) fn translate(
    config: &Value,
    config_path: &Path,
    block: Option<(&str, &Value)>,
    stored: &[StoredTensor],
) -> Result<Translation, Error> {
    let mut general = Setting::Affine { bits: None, group: None };
    let mut own: HashMap<&str, Setting> = HashMap::new();
    if let Some((field, Value::Object(block))) = block {
        general = setting(config_path, field, block)?;
        for (module, value) in block {
            let field = format!("{field}.{module}");
            match value {
                Value::Bool(false) if module != "quantize_activations" => {
                    own.insert(module, Setting::Float);
                }
                Value::Object(value) => {
                    own.insert(module, setting(config_path, &field, value)?);
                }
                _ => {}
            }
        }
    }
    let by_name: HashMap<&str, &StoredTensor> =
        stored.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    let scaled = scaled_modules(stored);
    let mut entries = Vec::new();
    for tensor in stored {
        let name = tensor.name.as_str();
        let packed_module = |suffix: &&str| {
            let module = name.strip_suffix(*suffix)?;
            by_name.contains_key(format!("{module}.weight").as_str()).then_some(module)
        };
        let module = packed_module(&".weight").filter(|module| scaled.contains(module));
        if let Some(module) = module {
            let part = |suffix: &str| by_name.get(format!("{module}.{suffix}").as_str()).copied();
            let parts = Module {
                module,
                weight: tensor,
                scales: part("scales"),
                biases: part("biases"),
                global_scale: part("global_scale"),
            };
            let cols = expected_cols(config, module);
            entries.push(parts.entry(own.get(module), &general, cols));
        } else if !BESIDES.iter().filter_map(packed_module).any(|module| scaled.contains(module)) {
            entries.push(Entry::whole(name.into(), tensor));
        }
    }
    let label = match &general {
        Setting::Bytes(mode) => format!("safetensors (mlx {mode})"),
        _ => "safetensors (mlx affine)".into(),
    };
    Ok(Translation { label, entries })
}

/// Reads `mode`, `bits` and `group_size` of the object in `field`.
fn setting(path: &Path, field: &str, object: &Map<String, Value>) -> Result<Setting, Error> {
    let wrong = |key: &str, expected: &str| {
        let problem = format!("is {}, expected {expected}", object[key]);
        Error::field(path, &format!("{field}.{key}"), problem)
    };
    if let Some(mode) = object.get("mode").filter(|mode| *mode != "affine") {
        let known = BYTE_SCALED.into_iter().find(|(known, ..)| mode == known);
        let known = known.ok_or_else(|| wrong("mode", "affine, kquant, mxfp4, mxfp8 or nvfp4"))?;
        return Ok(Setting::Bytes(known.0));
    }
    let mut setting = (None, None);
    if let Some(bits) = object.get("bits") {
        let known = Codec::AFFINE_BITS.into_iter().find(|known| bits == *known);
        setting.0 = Some(known.ok_or_else(|| wrong("bits", "1, 2, 3, 4, 5, 6 or 8"))?);
    }
    if let Some(group) = object.get("group_size") {
        let known = Codec::AFFINE_GROUPS.into_iter().find(|known| group == *known);
        setting.1 = Some(known.ok_or_else(|| wrong("group_size", "32, 64 or 128"))?);
    }
    Ok(Setting::Affine { bits: setting.0, group: setting.1 })
}

/// The stored tensors of a quantized module.
struct Module<'a> {
    module: &'a str,
    weight: &'a StoredTensor,
    scales: Option<&'a StoredTensor>,
    biases: Option<&'a StoredTensor>,
    global_scale: Option<&'a StoredTensor>,
}

impl Module<'_> {
    fn entry(&self, own: Option<&Setting>, general: &Setting, cols: Option<usize>) -> Entry {
        let stored: Vec<&StoredTensor> =
            [Some(self.weight), self.scales, self.biases, self.global_scale]
                .into_iter()
                .flatten()
                .collect();
        let name = self.weight.name.clone();
        let (format, reason) = match self.codec(own, general, cols) {
            Ok((codec, cols)) => {
                let mut shape = self.weight.shape.clone();
                if let Some(last) = shape.last_mut() {
                    *last = cols;
                }
                let part = |tensor: Option<&StoredTensor>| tensor.map(|tensor| tensor.data.clone());
                let parts = Parts {
                    data: self.weight.data.clone(),
                    scales: part(self.scales),
                    biases: part(self.biases),
                    global_scale: part(self.global_scale),
                };
                let (stacked, logical) = (is_stack(&name, &shape), shape.clone());
                return Entry::new(name, &stored, shape, codec, move || {
                    packed(codec, &logical, stacked, parts.clone())
                });
            }
            Err(refused) => refused,
        };
        Entry::refused(name, &stored, format, reason)
    }

    /// The codec and the row length, or why not: the format's name and a reason.
    fn codec(
        &self,
        own: Option<&Setting>,
        general: &Setting,
        cols: Option<usize>,
    ) -> Result<(Codec, usize), (String, String)> {
        let refuse = |reason: String| ("mlx".to_string(), reason);
        let module = self.module;
        let scales = self.scales.ok_or_else(|| refuse(format!("lacks '{module}.scales'")))?;
        if self.weight.kind != StoredType::U32 {
            let kind = &self.weight.kind;
            return Err(refuse(format!("has scales, so it should be stored as U32; it is {kind}")));
        }
        if own == Some(&Setting::Float) {
            return Err(refuse("has scales, but the config says that it is not quantized".into()));
        }
        let (words, groups) = match (self.weight.shape.as_slice(), scales.shape.as_slice()) {
            ([rows @ .., words], [scale_rows @ .., groups])
                if rows == scale_rows && *groups > 0 && *words > 0 =>
            {
                (*words, *groups)
            }
            (weight, scales) => {
                let reason =
                    format!("has shape {weight:?}, which does not go with scales {scales:?}");
                return Err(refuse(reason));
            }
        };
        // Bits of a row over groups: bits times group size. No overflow: the row is in the file.
        let bits_group = (words * 32).is_multiple_of(groups).then_some(words * 32 / groups);
        if scales.kind == StoredType::U8 {
            let (codec, cols) = self.byte_scaled(own, words, bits_group).map_err(refuse)?;
            return Ok((codec, cols));
        }
        if let Some(Setting::Bytes(mode)) = own {
            return Err(refuse(format!(
                "is in mode {mode} by its config, but its scales are not U8"
            )));
        }
        if self.global_scale.is_some() {
            return Err(refuse("has a global scale, which only mode nvfp4 has".into()));
        }
        let StoredType::Codec(Codec::Float(scale)) = scales.kind else {
            return Err(refuse(format!("has scales of type {}, expected floats", scales.kind)));
        };
        let biases = self.biases.ok_or_else(|| refuse(format!("lacks '{module}.biases'")))?;
        if biases.kind != scales.kind || biases.shape != scales.shape {
            return Err(refuse(format!(
                "has biases {} {:?}, expected them like its scales {} {:?}",
                biases.kind, biases.shape, scales.kind, scales.shape
            )));
        }
        let pairs: Vec<(u8, u16)> = pairs().filter(|pair| fits(*pair, bits_group)).collect();
        let (bits, group) =
            choose(&pairs, own, general, |pair| Some(row_length(pair, words)) == cols).map_err(
                |problem| refuse(format!("has {words} words and {groups} groups a row: {problem}")),
            )?;
        Ok((affine_codec(bits, group, scale), row_length((bits, group), words)))
    }
}

impl Module<'_> {
    /// The codec and the row length of a module with byte scales, `words` words a row and `bits_group` times
    /// as many bits as groups.
    fn byte_scaled(
        &self,
        own: Option<&Setting>,
        words: usize,
        bits_group: Option<usize>,
    ) -> Result<(Codec, usize), String> {
        let fitting =
            BYTE_SCALED.iter().find(|(_, bits, group, _)| Some(bits * group) == bits_group);
        let Some(&(mode, bits, _, codec)) = fitting else {
            return Err("has byte scales of a group size that no mode of MLX has".into());
        };
        if own.is_some_and(|own| *own != Setting::Bytes(mode)) {
            return Err(format!("is in mode {mode} by its shapes, but in another by its config"));
        }
        if self.biases.is_some() {
            return Err(format!("has biases, which mode {mode} has not"));
        }
        let cols = words * 32 / bits;
        match (self.global_scale, codec) {
            (None, _) => Ok((codec, cols)),
            (Some(global), _) if global.kind != StoredType::F32 => {
                Err(format!("has a global scale of type {}, expected F32", global.kind))
            }
            (Some(_), Codec::MlxNvfp4 { .. }) => Ok((Codec::MlxNvfp4 { global: true }, cols)),
            (Some(_), _) => Err("has a global scale, which only mode nvfp4 has".into()),
        }
    }
}

fn affine_codec(bits: u8, group: u16, scale: Float) -> Codec {
    Codec::Affine { bits, group, scale }
}

/// Every pair of bits and group size that MLX has.
fn pairs() -> impl Iterator<Item = (u8, u16)> {
    Codec::AFFINE_BITS
        .into_iter()
        .flat_map(|bits| Codec::AFFINE_GROUPS.into_iter().map(move |group| (bits, group)))
}

fn fits((bits, group): (u8, u16), bits_group: Option<usize>) -> bool {
    Some(usize::from(bits) * usize::from(group)) == bits_group
}

/// Weights in a row of `words` words.
fn row_length((bits, _): (u8, u16), words: usize) -> usize {
    words * 32 / usize::from(bits)
}

/// Picks one of the `pairs` that the shapes allow, by the rules at the top of this file.
/// `expected` tells whether a pair gives the row length that the architecture asks for.
fn choose(
    pairs: &[(u8, u16)],
    own: Option<&Setting>,
    general: &Setting,
    expected: impl Fn((u8, u16)) -> bool,
) -> Result<(u8, u16), String> {
    let agrees = |setting: &Setting, (bits, group): (u8, u16)| match setting {
        Setting::Affine { bits: Some(b), group: Some(g) } => (*b, *g) == (bits, group),
        _ => false,
    };
    if let Some(own @ Setting::Affine { bits: Some(bits), group: Some(group) }) = own {
        let found = pairs.iter().copied().find(|pair| agrees(own, *pair));
        return found
            .ok_or_else(|| format!("the config's {bits} bits in groups of {group} do not fit"));
    }
    let by_architecture = pairs.iter().copied().find(|pair| expected(*pair));
    let by_default = || pairs.iter().copied().find(|pair| agrees(general, *pair));
    match (by_architecture.or_else(by_default), pairs) {
        (Some(pair), _) => Ok(pair),
        (None, [pair]) => Ok(*pair),
        (None, []) => Err("no bits and group size of MLX's affine mode fit".into()),
        (None, several) => {
            let list: Vec<String> =
                several.iter().map(|(bits, group)| format!("{bits} in {group}")).collect();
            Err(format!("these bits and group sizes fit alike: {}", list.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn affine(bits: u8, group: u16) -> Setting {
        Setting::Affine { bits: Some(bits), group: Some(group) }
    }

    #[test]
    fn picks_bits_and_group() {
        let none = Setting::Affine { bits: None, group: None };
        // 4 bits in groups of 64, or 8 in 32, or 2 in 128: rows of 16 words and 2 groups.
        let several: Vec<_> = pairs().filter(|pair| fits(*pair, Some(256))).collect();
        assert_eq!(several, [(2, 128), (4, 64), (8, 32)]);
        let cols = |n: usize| move |pair| row_length(pair, 16) == n;
        let unknown = |_| false;
        // Own entry first, even where the architecture would choose otherwise.
        assert_eq!(choose(&several, Some(&affine(8, 32)), &none, cols(128)), Ok((8, 32)));
        assert!(choose(&several, Some(&affine(3, 64)), &none, cols(128)).is_err());
        // Then the architecture, even where the default says otherwise.
        assert_eq!(choose(&several, None, &affine(8, 32), cols(128)), Ok((4, 64)));
        // Then the default, if it fits.
        assert_eq!(choose(&several, None, &affine(2, 128), unknown), Ok((2, 128)));
        let error = choose(&several, None, &affine(3, 64), unknown).unwrap_err();
        assert!(error.contains("4 in 64"), "{error}");
        // Then what is left.
        assert_eq!(choose(&[(5, 64)], None, &affine(3, 64), unknown), Ok((5, 64)));
        assert!(choose(&[], None, &none, unknown).is_err());
    }
}
