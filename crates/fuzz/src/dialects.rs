//! Models made of an input's bytes: the container is always sound, so that everything happens in the dialects.
//!
//! An input is the length of a config (two bytes), the config as text, and records of tensors. A record is a byte for
//! the module, one for the suffix, one for the type, one for the number of dimensions, and two for each of
//! these. The bytes after 0xff where a module is expected are data, and are repeated as needed.

#![allow(clippy::expect_used, reason = "what is made here is known to be sound")]

use keeve_codec::Bytes;
use serde_json::{Map, Value, json};

/// Modules that tensors belong to.
pub const MODULES: [&str; 5] = [
    "model.layers.0.mlp.up_proj",
    "model.layers.0.self_attn.q_proj",
    "model.layers.0.mlp.switch_mlp.down_proj",
    "lm_head",
    "p",
];

/// Suffixes of the tensors of all dialects.
pub const SUFFIXES: [&str; 17] = [
    ".weight",
    ".scales",
    ".biases",
    ".global_scale",
    ".qweight",
    ".qzeros",
    ".g_idx",
    ".weight_packed",
    ".weight_scale",
    ".weight_scale_inv",
    ".weight_shape",
    ".weight_zero_point",
    ".weight_g_idx",
    ".input_scale",
    ".bias",
    ".extra",
    "",
];

/// Types with their bytes.
pub const TYPES: [(&str, usize); 9] = [
    ("F32", 4),
    ("F16", 2),
    ("BF16", 2),
    ("I32", 4),
    ("U32", 4),
    ("I8", 1),
    ("U8", 1),
    ("F8_E4M3", 1),
    ("I64", 8),
];

/// Ends the records.
const END: u8 = 0xff;
/// Bytes of all tensors.
const MOST_DATA: usize = 1 << 16;

/// The files of the model that `input` stands for.
pub fn files(input: &[u8]) -> Option<Vec<(&'static str, Bytes)>> {
    let (length, rest) = input.split_first_chunk::<2>()?;
    let (config, mut rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    let (mut header, mut end) = (Map::new(), 0usize);
    while let Some((&module, after)) = rest.split_first() {
        rest = after;
        if module == END {
            break;
        }
        let [suffix, kind, dimensions, after @ ..] = rest else { break };
        rest = after;
        let mut shape = Vec::new();
        for _ in 0..dimensions % 4 {
            let Some((length, after)) = rest.split_first_chunk::<2>() else { break };
            shape.push(usize::from(u16::from_le_bytes(*length)));
            rest = after;
        }
        let (name, each) = TYPES[usize::from(*kind) % TYPES.len()];
        let size = shape.iter().try_fold(each, |size, length| size.checked_mul(*length));
        let Some(size) = size.filter(|size| end + size <= MOST_DATA) else { continue };
        let module = MODULES[usize::from(module) % MODULES.len()];
        let suffix = SUFFIXES[usize::from(*suffix) % SUFFIXES.len()];
        let entry = json!({"dtype": name, "shape": shape, "data_offsets": [end, end + size]});
        if header.insert(format!("{module}{suffix}"), entry).is_none() {
            end += size;
        } else {
            // The one before it left a hole.
            return None;
        }
    }
    let header = Value::from(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    let data = if rest.is_empty() { &[0x77][..] } else { rest };
    file.extend(data.iter().cycle().take(end));
    Some(vec![
        ("config.json", Bytes::from(config.to_vec())),
        ("model.safetensors", Bytes::from(file)),
    ])
}

/// The input of a config, tensors given as (module, suffix, type, shape), and data.
///
/// # Panics
/// If a name is none of the tables above, or a number does not fit.
pub fn input(config: &Value, tensors: &[(&str, &str, &str, &[u16])], data: &[u8]) -> Vec<u8> {
    fn place<T>(table: &[T], is: impl Fn(&T) -> bool) -> u8 {
        table.iter().position(is).expect("a name of the table") as u8
    }
    let config = config.to_string();
    let mut input = u16::try_from(config.len()).expect("a short config").to_le_bytes().to_vec();
    input.extend(config.bytes());
    for (module, suffix, kind, shape) in tensors {
        input.push(place(&MODULES, |known| known == module));
        input.push(place(&SUFFIXES, |known| known == suffix));
        input.push(place(&TYPES, |(known, _)| known == kind));
        input.push(shape.len() as u8);
        input.extend(shape.iter().flat_map(|length| length.to_le_bytes()));
    }
    input.push(END);
    input.extend(data);
    input
}
