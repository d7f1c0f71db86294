//! What stored tensors mean. A dialect turns the tensors of a container into [`Entry`]s: weights
//! under their canonical (Hugging Face) names and how each is put together. To add a dialect, write
//! a file here and name it in [`translate`].

mod awq;
mod bitnet;
mod block;
mod compressed_config;
mod compressed_tensors;
mod fp8;
mod gguf_architectures;
pub(crate) mod gguf_config;
pub(crate) mod gguf_names;
mod gguf_own_config;
mod gptq;
mod hf;
mod integers;
mod mlx_affine;
mod mlx_kquant;
pub(crate) mod mmproj;
mod modelopt;
mod modules;
mod settings;

use std::path::{Path, PathBuf};

use keeve_codec::{Codec, PackedTensor, Parts};
use serde_json::Value;
use settings::Settings;
pub(crate) use settings::{Beside, beside};

use crate::{ActivationScheme, Error, StoredTensor, StoredType};

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
    /// Bytes over all parts, as stored.
    pub bytes: u64,
    /// How the checkpoint says the inputs of its products are rounded; `None` if it does not.
    pub activations: Option<ActivationScheme>,
    /// Whether its rows are stored in another basis than that of the columns: in another order, or rotated. See
    /// [`keeve_codec::Basis`].
    pub has_basis: bool,
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

    /// The same, with what the checkpoint says about inputs.
    fn with_activations(mut self, activations: Option<ActivationScheme>) -> Self {
        self.info.activations = activations;
        self
    }

    /// The same, whose rows are stored in another basis if `has_basis` says so.
    fn with_basis(mut self, has_basis: bool) -> Self {
        self.info.has_basis |= has_basis;
        self
    }

    /// The tensor that `change` makes of this one. It fails with the end of a sentence that begins with
    /// the tensor's name.
    pub(crate) fn then(
        self,
        change: impl Fn(PackedTensor) -> Result<PackedTensor, String> + Send + Sync + 'static,
    ) -> Self {
        let build = self.build;
        Self { info: self.info, build: Box::new(move || change(build()?)) }
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
        activations: None,
        has_basis: false,
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

/// Picks the dialect of a safetensors checkpoint by its `config` (found at `config_path`), by what stands in the file
/// `beside` it, and by its tensors; and translates the tensors.
///
/// # Errors
/// If the config asks for a quantization that keeve does not know, or describes it wrongly, or weights are packed
/// and nothing says how.
pub(crate) fn translate(
    config: &Value,
    config_path: &Path,
    beside: Option<&Beside>,
    stored: &[StoredTensor],
) -> Result<Translation, Error> {
    let Some(found) = settings::find(config, config_path, beside, stored)? else {
        return match mlx_affine::looks_like_it(stored) {
            true => mlx_affine::translate(config, config_path, None, stored),
            false => hf::translate(stored),
        };
    };
    let Settings { path, field, block, method } = found;
    if let Some(translate) = method {
        return translate(path, field, block, stored);
    }
    match block.get("mode").and_then(Value::as_str) {
        Some("kquant") => mlx_kquant::translate(path, field, block, stored),
        _ => mlx_affine::translate(config, path, Some((field, block)), stored),
    }
}

type Translate = fn(&Path, &str, &Value, &[StoredTensor]) -> Result<Translation, Error>;
