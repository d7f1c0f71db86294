//! Writing packed tensors as MLX and mlx-kquant lay them out in safetensors.
//!
//! Layouts: ml-explore/mlx-lm `mlx_lm/utils.py` for affine, asher/mlx-kquant
//! `mlx_kquant/convert.py` for ggml blocks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use keeve_codec::{Codec, PackedTensor};
use serde_json::{Map, Value, json};

pub use crate::stored::Announced;
use crate::{Error, StoredType, safetensors};

/// Writes one safetensors file of packed tensors, tensor by tensor.
///
/// ggml's codecs become `P.weight` U8 with the bytes of a row last, and a placeholder `P.scales` of
/// one byte; affine becomes `P.weight` U32, `P.scales` and `P.biases`; floats stand as they are. The
/// placeholders come last in the file, so that they do not put other tensors at odd addresses.
pub struct Writer {
    path: PathBuf,
    file: safetensors::Writer,
    tensors: Vec<Announced>,
    done: usize,
    quantization: Option<Value>,
}

impl Writer {
    /// Starts a file at `path` that will hold `tensors` in that order. Nothing stands under `path`
    /// before [`Writer::finish`].
    ///
    /// # Errors
    /// If a codec has no such layout, ggml's codecs and affine occur together (the config of neither
    /// dialect can say so), blocks do not divide a row, a packed tensor's name does not end in
    /// `.weight`, or for what [`safetensors::Writer::create`] refuses.
    pub fn create(path: &Path, tensors: &[Announced]) -> Result<Self, Error> {
        let quantization = quantization(path, tensors)?;
        let (stored, _) = stored(path, tensors)?;
        let file = safetensors::Writer::create(path, &stored, &METADATA)?;
        Ok(Self { path: path.into(), file, tensors: tensors.to_vec(), done: 0, quantization })
    }

    /// As [`Writer::create`], but what is written stays beside `path` if [`Writer::finish`] is not reached,
    /// and a later call with the same arguments goes on there: [`Writer::done`] tensors need not be
    /// written again. `fingerprint` (letters and digits) says what else the bytes depend on.
    ///
    /// # Errors
    /// As for [`Writer::create`]; also if another process writes the same file.
    pub fn resume(path: &Path, tensors: &[Announced], fingerprint: &str) -> Result<Self, Error> {
        let quantization = quantization(path, tensors)?;
        let (stored, ends) = stored(path, tensors)?;
        let mut file = safetensors::Writer::resume(path, &stored, &METADATA, fingerprint)?;
        let done = ends.iter().take_while(|&&end| end <= file.done()).count();
        file.rewind(done.checked_sub(1).map_or(0, |last| ends[last]))?;
        Ok(Self { path: path.into(), file, tensors: tensors.to_vec(), done, quantization })
    }

    /// How many of the announced tensors are written.
    pub fn done(&self) -> usize {
        self.done
    }

    /// Writes the next tensor.
    ///
    /// # Errors
    /// If it is not of the name, codec and size announced, or writing fails.
    pub fn tensor(&mut self, name: &str, tensor: &PackedTensor) -> Result<(), Error> {
        // The file checks order and sizes; what it cannot see is another codec of equal size.
        let announced = self.tensors.get(self.done).filter(|announced| announced.name == name);
        if let Some(announced) = announced.filter(|announced| announced.codec != tensor.codec()) {
            let problem = format!("is {}, {} was announced", tensor.codec(), announced.codec);
            return Err(Error::tensor(&self.path, name, problem));
        }
        let parts = tensor.parts();
        self.file.tensor(name, &parts.data)?;
        let module = name.strip_suffix(".weight").unwrap_or(name);
        for (suffix, part) in [("scales", &parts.scales), ("biases", &parts.biases)] {
            if let Some(part) = part {
                self.file.tensor(&format!("{module}.{suffix}"), part)?;
            }
        }
        self.done += 1;
        Ok(())
    }

    /// Completes the file and gives the value of the config's `quantization` field (and of its copy
    /// `quantization_config`); `None` if all tensors are floats.
    ///
    /// # Errors
    /// If a tensor is missing or writing fails; then what stood there before is untouched.
    pub fn finish(mut self) -> Result<Option<Value>, Error> {
        if self.done == self.tensors.len() {
            for tensor in self.tensors.iter().filter(|tensor| tensor.codec.is_blocks()) {
                let module = tensor.name.strip_suffix(".weight").unwrap_or(&tensor.name);
                self.file.tensor(&format!("{module}.scales"), &[0])?;
            }
        }
        self.file.finish()?;
        Ok(self.quantization)
    }
}

/// Writes a file whose tensors, with their shapes, are all at hand.
///
/// # Errors
/// As for [`Writer`].
pub fn write(
    path: &Path,
    tensors: &[(String, Vec<usize>, PackedTensor)],
) -> Result<Option<Value>, Error> {
    let announce = |(name, shape, tensor): &(String, Vec<usize>, PackedTensor)| Announced {
        name: name.clone(),
        codec: tensor.codec(),
        shape: shape.clone(),
    };
    let announced: Vec<Announced> = tensors.iter().map(announce).collect();
    let mut writer = Writer::create(path, &announced)?;
    for (name, _, tensor) in tensors {
        writer.tensor(name, tensor)?;
    }
    writer.finish()
}

const METADATA: [(&str, &str); 1] = [("format", "mlx")];

/// The stored tensors of all weights, placeholders last, and how many there are up to the end of each
/// weight.
fn stored(
    path: &Path,
    tensors: &[Announced],
) -> Result<(Vec<safetensors::Announced>, Vec<usize>), Error> {
    let (mut stored, mut placeholders, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    for tensor in tensors {
        let (parts, placeholder) =
            layout(tensor).map_err(|problem| Error::tensor(path, &tensor.name, problem))?;
        stored.extend(parts);
        placeholders.extend(placeholder);
        ends.push(stored.len());
    }
    stored.extend(placeholders);
    Ok((stored, ends))
}

/// The stored tensors of a weight, and its placeholder.
type Layout = (Vec<safetensors::Announced>, Option<safetensors::Announced>);

fn layout(tensor: &Announced) -> Result<Layout, String> {
    let Announced { name, codec, shape } = tensor;
    let stored = |name: String, kind: StoredType, shape: Vec<usize>| safetensors::Announced {
        name,
        kind,
        shape,
    };
    if codec.is_float() {
        let kind = StoredType::Codec(*codec);
        return Ok((vec![stored(name.clone(), kind, shape.clone())], None));
    }
    let module = name.strip_suffix(".weight");
    let module = module.ok_or("is packed, so its name must end in '.weight'")?;
    let (leading, cols) = match shape.as_slice() {
        [leading @ .., cols] if !leading.is_empty() => (leading, *cols),
        _ => return Err(format!("is packed, so it needs rows and columns; it has {shape:?}")),
    };
    // Also says whether the blocks divide a row.
    let row_bytes = codec.row_bytes(cols).map_err(|error| format!("cannot be written: {error}"))?;
    let with_last = |last: usize| [leading, &[last]].concat();
    match codec {
        Codec::Affine { bits, group, scale } => {
            let words = cols / 32 * usize::from(*bits);
            let groups = with_last(cols / usize::from(*group));
            let kind = StoredType::Codec(Codec::Float(*scale));
            let parts = vec![
                stored(name.clone(), StoredType::U32, with_last(words)),
                stored(format!("{module}.scales"), kind.clone(), groups.clone()),
                stored(format!("{module}.biases"), kind, groups),
            ];
            Ok((parts, None))
        }
        codec if codec.is_blocks() => {
            let weight = stored(name.clone(), StoredType::U8, with_last(row_bytes));
            let scales = stored(format!("{module}.scales"), StoredType::U8, vec![1]);
            Ok((vec![weight], Some(scales)))
        }
        codec => Err(format!("is {codec}, which has no layout in MLX files")),
    }
}

/// The config's `quantization` for these tensors.
fn quantization(path: &Path, tensors: &[Announced]) -> Result<Option<Value>, Error> {
    let packed: Vec<&Announced> =
        tensors.iter().filter(|tensor| !tensor.codec.is_float()).collect();
    let module = |tensor: &Announced| {
        tensor.name.strip_suffix(".weight").unwrap_or(&tensor.name).to_string()
    };
    let ggml = packed.iter().filter(|tensor| tensor.codec.is_blocks()).count();
    if packed.is_empty() {
        return Ok(None);
    }
    if ggml == packed.len() {
        let codecs: Map<String, Value> =
            packed.iter().map(|tensor| (module(tensor), tensor.codec.name().into())).collect();
        return Ok(Some(json!({"mode": "kquant", "per_tensor": codecs})));
    }
    if ggml > 0 {
        let problem = "cannot hold ggml's codecs and others together";
        return Err(Error::file(path, problem));
    }
    let mut counts: BTreeMap<(u8, u16), usize> = BTreeMap::new();
    let mut settings = Vec::new();
    for tensor in packed {
        let Codec::Affine { bits, group, .. } = tensor.codec else {
            let problem = format!("is {}, which has no layout in MLX files", tensor.codec);
            return Err(Error::tensor(path, &tensor.name, problem));
        };
        *counts.entry((bits, group)).or_default() += 1;
        settings.push((module(tensor), (bits, group)));
    }
    let general = counts.iter().max_by_key(|(_, count)| **count).map(|(pair, _)| *pair);
    let general = general.unwrap_or_default();
    let object =
        |(bits, group): (u8, u16)| json!({"group_size": group, "bits": bits, "mode": "affine"});
    let mut block = object(general);
    for (module, pair) in settings {
        if pair != general {
            block[module] = object(pair);
        }
    }
    Ok(Some(block))
}
