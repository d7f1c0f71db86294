//! What stored tensors mean. A dialect turns the tensors of a container into [`Entry`]s: weights
//! under their canonical (Hugging Face) names and how each is put together. To add a dialect, write
//! a file here and name it in [`translate`].

mod compressed_tensors;
mod gguf_architectures;
pub(crate) mod gguf_config;
pub(crate) mod gguf_names;
mod gguf_own_config;
mod hf;
mod integers;
mod mlx_affine;
mod mlx_kquant;

use std::path::{Path, PathBuf};

use keeve_codec::{Codec, PackedTensor, Parts};
use serde_json::Value;

use crate::{Error, StoredTensor, StoredType};

/// A tensor of a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorInfo {
    /// The canonical name: that of the tensor in Hugging Face's float checkpoint, such as
    /// `model.layers.0.mlp.up_proj.weight`, with MLX's names for stacked experts.
    pub name: String,
    /// The tensors of the file it is made of.
    pub stored_names: Vec<String>,
    /// The file that holds it.
    pub file: PathBuf,
    /// Dimensions in weights, the slowest first. As stored where `codec` is `None`.
    pub shape: Vec<usize>,
    /// The codec, or `None` if keeve cannot read the tensor.
    pub codec: Option<Codec>,
    /// The format by name: the codec's, or what the file calls it (`I64`, `iq2_xxs`, `mxfp4`).
    pub format: String,
    /// Bytes over all parts.
    pub bytes: u64,
}

type Build = dyn Fn() -> Result<PackedTensor, String> + Send + Sync;

/// A tensor and how to put it together.
pub(crate) struct Entry {
    pub(crate) info: TensorInfo,
    /// Fails with the end of a sentence that begins with the tensor's name.
    build: Box<Build>,
}

impl Entry {
    /// A tensor in `codec` that `build` puts together from `stored`. The first of `stored` names
    /// the file.
    fn new(
        name: String,
        stored: &[&StoredTensor],
        shape: Vec<usize>,
        codec: Codec,
        build: impl Fn() -> Result<PackedTensor, String> + Send + Sync + 'static,
    ) -> Self {
        let mut info = describe(name, stored, codec.name());
        info.shape = shape;
        info.codec = Some(codec);
        Self { info, build: Box::new(build) }
    }

    /// A tensor that can be listed but not read. `reason` ends a sentence that begins with its name.
    fn refused(name: String, stored: &[&StoredTensor], format: String, reason: String) -> Self {
        let info = describe(name, stored, format);
        Self { info, build: Box::new(move || Err(reason.clone())) }
    }

    /// A tensor that is stored in one piece: plain floats, or ggml blocks.
    fn whole(name: String, stored: &StoredTensor) -> Self {
        let StoredType::Codec(codec) = stored.kind else {
            let format = stored.kind.to_string();
            let reason = format!("is stored as {format}, which keeve does not read as weights");
            return Self::refused(name, &[stored], format, reason);
        };
        let shape = stored.shape.clone();
        let source = stored.clone();
        let stacked = is_stack(&name, &shape);
        Self::new(name, &[stored], shape.clone(), codec, move || {
            packed(codec, &shape, stacked, Parts::data(source.data.clone()))
        })
    }

    /// Puts the tensor together.
    pub(crate) fn tensor(&self) -> Result<PackedTensor, Error> {
        (self.build)().map_err(|problem| Error::tensor(&self.info.file, &self.info.name, problem))
    }
}

fn describe(name: String, stored: &[&StoredTensor], format: String) -> TensorInfo {
    TensorInfo {
        name,
        stored_names: stored.iter().map(|tensor| tensor.name.clone()).collect(),
        file: stored.first().map(|tensor| tensor.file.to_path_buf()).unwrap_or_default(),
        shape: stored.first().map(|tensor| tensor.shape.clone()).unwrap_or_default(),
        codec: None,
        format,
        bytes: stored.iter().map(|tensor| tensor.data.len() as u64).sum(),
    }
}

/// Whether the first of three dimensions counts experts. Convolutions have three as well.
fn is_stack(name: &str, shape: &[usize]) -> bool {
    shape.len() == 3 && [".experts.", ".switch_mlp."].iter().any(|part| name.contains(part))
}

/// Puts a tensor of a logical shape together: `[experts, rows, cols]` for a stack, else all
/// dimensions but the last count rows.
fn packed(
    codec: Codec,
    shape: &[usize],
    stacked: bool,
    parts: Parts,
) -> Result<PackedTensor, String> {
    if shape.contains(&0) {
        return Err(format!("is empty: its shape is {shape:?}"));
    }
    let (leading, cols) = match shape {
        [] => (&[][..], 1),
        [leading @ .., cols] => (leading, *cols),
    };
    let (experts, rows) = match leading {
        [experts, rows] if stacked => (*experts, *rows),
        // No overflow: the container checked the number of elements.
        _ => (1, leading.iter().product()),
    };
    PackedTensor::new(codec, experts, rows, cols, parts)
        .map_err(|error| format!("is wrong: {error}"))
}

/// What a dialect made of a checkpoint.
pub(crate) struct Translation {
    /// The dialect, for people: `safetensors (mlx affine)`.
    pub(crate) label: String,
    pub(crate) entries: Vec<Entry>,
}

/// Picks the dialect of a safetensors checkpoint by its `config` (found at `config_path`) and its
/// tensors, and translates the tensors.
///
/// # Errors
/// If the config asks for a quantization that keeve does not know, or describes it wrongly.
pub(crate) fn translate(
    config: &Value,
    config_path: &Path,
    stored: &[StoredTensor],
) -> Result<Translation, Error> {
    match quantization(config, config_path)? {
        Some((field, block)) if is_compressed_tensors(field, block) => {
            compressed_tensors::translate(config_path, field, block, stored)
        }
        Some((field, block)) => match block.get("mode").and_then(Value::as_str) {
            Some("kquant") => mlx_kquant::translate(config_path, field, block, stored),
            _ => mlx_affine::translate(config, config_path, Some((field, block)), stored),
        },
        None if mlx_affine::looks_like_it(stored) => {
            mlx_affine::translate(config, config_path, None, stored)
        }
        None => Ok(hf::translate(stored)),
    }
}

/// Whether a block of the config is that of compressed-tensors.
fn is_compressed_tensors(field: &str, block: &Value) -> bool {
    let method = block.get("quant_method");
    field == COMPRESSION || method.is_some_and(|method| method == "compressed-tensors")
}

/// The old name of compressed-tensors' block.
const COMPRESSION: &str = "compression_config";

/// The block of the config that describes quantization, and the field it stands in. MLX has it at the top
/// or, as some exporters have it, in `text_config`; under `quantization` or its copy for the hub.
fn quantization<'a>(
    config: &'a Value,
    path: &Path,
) -> Result<Option<(&'static str, &'a Value)>, Error> {
    let places = [
        ("quantization", config.get("quantization")),
        ("text_config.quantization", config.pointer("/text_config/quantization")),
        ("quantization_config", config.get("quantization_config")),
        ("text_config.quantization_config", config.pointer("/text_config/quantization_config")),
    ];
    let found = places.map(|(field, block)| (field, block.filter(|block| !block.is_null())));
    let mut chosen: Option<(&'static str, &Value)> = None;
    for (field, block) in found {
        let Some(block) = block else { continue };
        if !block.is_object() {
            return Err(Error::field(path, field, "is not an object"));
        }
        let hub = field.ends_with("quantization_config");
        match (chosen, block.get("quant_method")) {
            // The copies for the hub are ignored once the block itself was found.
            (Some(_), _) if hub => {}
            (Some((first, other)), _) if other != block => {
                return Err(Error::field(path, field, format!("contradicts '{first}'")));
            }
            (Some(_), _) => {}
            (None, Some(_)) if is_compressed_tensors(field, block) => {
                chosen = Some((field, block));
            }
            (None, Some(method)) => {
                let problem = format!("is {method}, which is not supported yet");
                return Err(Error::field(path, &format!("{field}.quant_method"), problem));
            }
            (None, None) if hub && block.get("mode").or(block.get("group_size")).is_none() => {
                let problem = "has neither 'quant_method' nor 'mode' nor 'group_size'";
                return Err(Error::field(path, field, problem));
            }
            (None, None) => chosen = Some((field, block)),
        }
    }
    let old = config.get(COMPRESSION).filter(|block| !block.is_null());
    Ok(chosen.or(old.map(|block| (COMPRESSION, block))))
}
