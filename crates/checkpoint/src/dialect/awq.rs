//! AWQ checkpoints, as AutoAWQ writes them: 4 bits with zero points.
//!
//! Layouts: casper-hansen/AutoAWQ `awq/modules/linear/gemm.py`, `gemv.py` and `awq/utils/packing_utils.py`. For a
//! module `P` of `n` outputs and `k` inputs, in version `gemm`:
//!
//! * `P.qweight` I32 `[k, n / 8]`: a word holds the codes of eight neighbouring outputs for one input, in the order
//!   [`ORDER`];
//! * `P.qzeros` I32 `[groups, n / 8]`, in the same order, and `P.scales` `[groups, n]`.
//!
//! In version `gemv`, `P.qweight` is I32 `[n, k / 8]`, each row the codes along k in order, so it stays where it is;
//! `P.qzeros` I32 `[n, words]` and `P.scales` `[n, 8 * words]` are as wide as their kernel likes, which is at least the
//! number of groups.
//!
//! A weight is `(code - zero) * scale`.

use std::path::Path;

use serde_json::Value;

use super::block::Block;
use super::integers::{Layout, code_at, floats, is_kind, scale_type, word_at};
use super::modules::Modules;
use super::{Entry, Translation, packed};
use crate::{Error, StoredTensor};

/// Which of eight outputs each nibble of a word belongs to, the lowest nibble first.
const ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

/// Codes in a word.
const EACH: usize = 8;

/// Suffixes of the tensors that go with a `qweight`.
const BESIDES: [&str; 2] = [".qzeros", ".scales"];

/// How words are laid out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    Gemm,
    Gemv,
}

/// What the config says: the version, and the columns in a group (`None`: all).
type Settings = (Version, Option<usize>);

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
            };
            entries.push(module.entry(settings));
        } else if modules.of(tensor, &BESIDES, ".qweight").is_none() {
            entries.push(Entry::whole(tensor.name.clone(), tensor));
        }
    }
    Ok(Translation { label: "safetensors (awq)".into(), entries })
}

fn settings(path: &Path, field: &str, block: &Value) -> Result<Settings, Error> {
    let block = Block { path, field, block };
    if block.given("bits").is_none_or(|bits| *bits != 4) {
        return Err(block.wrong("bits", "4"));
    }
    let group = block.group()?;
    if block.given("backend").is_some_and(|backend| backend != "autoawq") {
        return Err(block.wrong("backend", "\"autoawq\""));
    }
    // Older files have it in upper case.
    let version = block
        .given("version")
        .map_or(Some("gemm".into()), |version| version.as_str().map(str::to_ascii_lowercase));
    match version.as_deref() {
        // The last two are kernels for weights laid out in the same way: huggingface/transformers
        // `integrations/awq.py`.
        Some("gemm" | "exllama" | "ipex") => Ok((Version::Gemm, group)),
        Some("gemv") => Ok((Version::Gemv, group)),
        _ => Err(block.wrong("version", "\"gemm\" or \"gemv\"")),
    }
}

/// The stored tensors of a quantized module.
struct Module<'a> {
    name: String,
    weight: &'a StoredTensor,
    zeros: Option<&'a StoredTensor>,
    scales: Option<&'a StoredTensor>,
}

impl Module<'_> {
    fn entry(self, settings: Settings) -> Entry {
        let stored: Vec<&StoredTensor> =
            [Some(self.weight), self.zeros, self.scales].into_iter().flatten().collect();
        let made = self.layout(settings).and_then(|(layout, zeros, scales)| {
            Ok((layout, layout.codec()?, zeros.clone(), scales.clone()))
        });
        let (layout, codec, zeros, scales) = match made {
            Ok(made) => made,
            Err(reason) => return Entry::refused(self.name, &stored, "awq".into(), reason),
        };
        let (weight, version) = (self.weight.clone(), settings.0);
        let shape = [layout.rows, layout.cols];
        Entry::new(self.name, &stored, shape.to_vec(), codec, move || {
            let factors = floats(&scales).ok_or("has scales that are no floats")?;
            let group_of = |column: usize| column / layout.group;
            let parts = match version {
                Version::Gemm => {
                    let scale_and_zero = |row: usize, group: usize| {
                        let word = word_at(&zeros, group * (layout.rows / EACH) + row / EACH)?;
                        let nibble = ORDER.iter().position(|output| *output == row % EACH)?;
                        let zero = word >> (4 * nibble) & 15;
                        Some((*factors.get(group * layout.rows + row)?, zero as i32))
                    };
                    layout.parts(codec, rows_of(&weight, &layout), scale_and_zero, group_of)
                }
                Version::Gemv => {
                    let words = zeros.data.len() / 4 / layout.rows;
                    let width = factors.len() / layout.rows;
                    let scale_and_zero = |row: usize, group: usize| {
                        let zero = code_at(&zeros, row, words, 4, group)?;
                        Some((*factors.get(row * width + group)?, zero))
                    };
                    layout.parts(codec, weight.data.to_vec(), scale_and_zero, group_of)
                }
            }?;
            packed(codec, &shape, false, parts)
        })
    }

    /// Checks the stored tensors against each other and the config.
    fn layout(
        &self,
        (version, group): Settings,
    ) -> Result<(Layout, &StoredTensor, &StoredTensor), String> {
        let zeros = self.zeros.ok_or("lacks its 'qzeros'")?;
        let scales = self.scales.ok_or("lacks its 'scales'")?;
        for (what, tensor) in [("qweight", self.weight), ("qzeros", zeros)] {
            if !is_kind(tensor, "I32") {
                return Err(format!("has its '{what}' stored as {}, expected I32", tensor.kind));
            }
        }
        let scale = scale_type(scales)?;
        let (&[first, second], &[zero_first, zero_second], &[scale_first, scale_second]) =
            (&self.weight.shape[..], &zeros.shape[..], &scales.shape[..])
        else {
            return Err(format!(
                "has qweight {:?}, qzeros {:?} and scales {:?}, expected two dimensions each",
                self.weight.shape, zeros.shape, scales.shape
            ));
        };
        if [first, second, zero_first, zero_second, scale_first].contains(&0) {
            return Err("is empty".into());
        }
        // No overflow in the following: the words are in the file.
        let (rows, cols) = match version {
            Version::Gemm => (second * EACH, first),
            Version::Gemv => (first, second * EACH),
        };
        let group = group.unwrap_or(cols).min(cols);
        let groups = cols.div_ceil(group);
        let fits = match version {
            Version::Gemm => {
                (zero_first, zero_second) == (groups, second)
                    && (scale_first, scale_second) == (groups, rows)
            }
            Version::Gemv => {
                zero_first == rows
                    && scale_first == rows
                    && zero_second * EACH >= groups
                    && scale_second >= groups
            }
        };
        if !fits {
            return Err(format!(
                "has qzeros {:?} and scales {:?}, which do not go with {rows}x{cols} in groups of {group}",
                zeros.shape, scales.shape
            ));
        }
        let layout = Layout { rows, cols, bits: 4, group, symmetric: false, scale };
        Ok((layout, zeros, scales))
    }
}

/// The codes of version `gemm`, row after row, the even column in the low nibble.
fn rows_of(weight: &StoredTensor, layout: &Layout) -> Vec<u8> {
    let row_bytes = layout.cols / 2;
    let mut out = vec![0u8; layout.rows * row_bytes];
    let words_of_input = layout.rows / EACH;
    for (column, words) in weight.data.chunks_exact(words_of_input * 4).enumerate() {
        let shift = 4 * (column % 2);
        for (word, rows) in words.as_chunks().0.iter().zip(out.chunks_exact_mut(EACH * row_bytes)) {
            let word = u32::from_le_bytes(*word);
            for (nibble, row) in ORDER.into_iter().enumerate() {
                let code = (word >> (4 * nibble)) as u8 & 15;
                rows[row * row_bytes + column / 2] |= code << shift;
            }
        }
    }
    out
}
