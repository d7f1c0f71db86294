//! What a model sees with, as a GGUF file beside that of its language model: the other direction of
//! `keeve_checkpoint`'s `dialect/mmproj.rs`.
//!
//! Keys: ggml-org/llama.cpp `conversion/base.py` (`MmprojModel`) and `conversion/qwen3vl.py`.

use std::path::{Path, PathBuf};

use keeve_checkpoint::gguf::{self, Announced, Array, Value as Stored, mmproj};
use keeve_codec::{Bytes, Codec, Float, PackedTensor};
use serde_json::Value;

use super::metadata::{Entries, QUANTIZATION_VERSION};
use crate::{Error, Planned};

/// What the names of all its tensors begin with.
const PREFIX: &str = "model.visual.";

/// The convolution that makes patches rows. ggml has one for each frame.
const PATCHES: &str = "model.visual.patch_embed.proj.weight";

/// Whether a tensor goes into this file.
pub fn holds(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// Whether a matrix is stored in f32, as llama.cpp needs it.
pub(crate) fn is_plain(name: &str) -> bool {
    name == PATCHES || name == "model.visual.pos_embed.weight"
}

/// Where it stands for a language model at `out`.
pub fn path(out: &Path) -> PathBuf {
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    out.with_file_name(format!("mmproj-{name}"))
}

/// How tensors of what sees are named and stored.
pub struct MmprojLayout {
    /// Layers with mergers of their own.
    after: Vec<usize>,
}

impl MmprojLayout {
    /// The layout for a whole model's config.
    pub fn of(config: &Value) -> Self {
        let layers = config.pointer("/vision_config/deepstack_visual_indexes");
        let layers = layers.and_then(Value::as_array).into_iter().flatten();
        let after =
            layers.filter_map(Value::as_u64).filter_map(|layer| usize::try_from(layer).ok());
        Self { after: after.collect() }
    }

    /// How many layers have mergers of their own.
    pub fn features(&self) -> usize {
        self.after.len()
    }

    /// The tensors that the file has for one of a model.
    ///
    /// # Errors
    /// If ggml has no name for it, or it has another shape than such a tensor.
    pub fn announce(
        &self,
        name: &str,
        codec: Codec,
        shape: &[usize],
    ) -> Result<Vec<Announced>, Error> {
        if name == PATCHES {
            let &[out, channels, 2, height, width] = shape else {
                let problem = format!("has the shape {shape:?}, expected two frames of patches");
                return Err(Error::tensor(name, problem));
            };
            let frame = |name: &str| Announced {
                name: name.into(),
                codec,
                shape: vec![out, channels, height, width],
            };
            return Ok(mmproj::PATCHES.map(frame).into());
        }
        let missing = || Error::tensor(name, "has no name in GGUF files of what a model sees with");
        let ggml = mmproj::tensor_name(name, &self.after).ok_or_else(missing)?;
        Ok(vec![Announced { name: ggml, codec, shape: shape.into() }])
    }

    /// The bytes of those tensors.
    pub fn parts(&self, name: &str, shape: &[usize], tensor: &PackedTensor) -> Vec<Bytes> {
        let data = &tensor.parts().data;
        match shape {
            &[_, _, 2, height, width] if name == PATCHES => {
                let each = tensor.codec().geometry().block_bytes;
                mmproj::frames(data, each, height * width).map(Bytes::from).into()
            }
            _ => vec![data.clone()],
        }
    }

    /// [`Self::announce`] for a tensor of a plan.
    pub(crate) fn planned(&self, planned: &Planned) -> Result<Vec<Announced>, Error> {
        self.announce(&planned.name, planned.to, &planned.shape)
    }
}

/// llama.cpp's number for files of matrices in one codec.
pub fn file_type(codec: Codec) -> Option<u32> {
    match codec {
        Codec::Float(Float::F32) => Some(0),
        Codec::Float(Float::F16) => Some(1),
        Codec::Float(Float::Bf16) => Some(32),
        Codec::Q8_0 => Some(7),
        _ => None,
    }
}

/// The metadata for a whole model's config and its `preprocessor_config.json`. `codec` is that of most matrices.
///
/// # Errors
/// If a field is missing or of the wrong type; the text names it.
pub fn metadata(
    name: &str,
    config: &Value,
    settings: &Value,
    codec: Option<Codec>,
) -> Result<Entries, String> {
    let seeing = config.get("vision_config").ok_or("field 'vision_config' is missing")?;
    let missing = |field: &str| format!("field '{field}' is missing or no count");
    let count = |of: &Value, field: &str| {
        let count = of.get(field).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
        count.ok_or_else(|| missing(field))
    };
    let or = |field: &str, other: u32| match seeing.get(field).filter(|value| !value.is_null()) {
        None => Ok(other),
        Some(_) => count(seeing, field),
    };
    let width = config.pointer("/text_config/hidden_size").and_then(Value::as_u64);
    let width = width.and_then(|n| u32::try_from(n).ok()).ok_or_else(|| missing("hidden_size"))?;
    let (patch, depth) = (or("patch_size", 16)?, count(seeing, "depth")?);
    let side = count(seeing, "num_position_embeddings")?.isqrt();
    let mut entries: Entries = vec![
        ("general.architecture".into(), Stored::string(mmproj::ARCHITECTURE)),
        ("general.type".into(), Stored::string("mmproj")),
        ("general.name".into(), Stored::string(name)),
        ("general.quantization_version".into(), Stored::u32(QUANTIZATION_VERSION)),
        ("clip.has_vision_encoder".into(), Stored::Bool(true)),
        ("clip.projector_type".into(), Stored::string(mmproj::PROJECTOR)),
        ("clip.use_gelu".into(), Stored::Bool(true)),
    ];
    if let Some(number) = codec.and_then(file_type) {
        entries.push(("general.file_type".into(), Stored::u32(number)));
    }
    let mut own = |key: &str, value: Stored| entries.push((format!("clip.vision.{key}"), value));
    for (key, value) in [
        ("projection_dim", width),
        ("image_size", side.checked_mul(patch).ok_or_else(|| missing("patch_size"))?),
        ("patch_size", patch),
        ("embedding_length", count(seeing, "hidden_size")?),
        ("feed_forward_length", count(seeing, "intermediate_size")?),
        ("block_count", depth),
        ("attention.head_count", count(seeing, "num_heads")?),
        ("spatial_merge_size", or("spatial_merge_size", 2)?),
    ] {
        own(key, Stored::u32(value));
    }
    own("attention.layer_norm_epsilon", Stored::F32(1e-6));
    // mlx-vlm has the settings of images among those of other inputs.
    let settings = settings.get("image_processor").unwrap_or(settings);
    for (key, field) in [("image_mean", "image_mean"), ("image_std", "image_std")] {
        let numbers = settings.get(field).and_then(Value::as_array).into_iter().flatten();
        let numbers: Vec<f32> = numbers.filter_map(Value::as_f64).map(|n| n as f32).collect();
        if numbers.len() != 3 {
            return Err(format!("field '{field}' is missing, expected three numbers"));
        }
        own(key, Stored::Array(Array::of_f32(&numbers)));
    }
    for (key, field, edge) in [
        ("image_min_pixels", "min_pixels", "/size/shortest_edge"),
        ("image_max_pixels", "max_pixels", "/size/longest_edge"),
    ] {
        let given = settings.get(field).filter(|value| !value.is_null());
        let pixels = given.or_else(|| settings.pointer(edge)).and_then(Value::as_u64);
        let pixels = pixels.and_then(|pixels| u32::try_from(pixels).ok());
        own(key, Stored::u32(pixels.ok_or_else(|| missing(field))?));
    }
    let after = MmprojLayout::of(config).after;
    // The depth of a config that was built into a model is a few dozens; this is a bound on memory.
    let depth = depth.min(1 << 16) as usize;
    let features: Vec<bool> = (0..depth).map(|layer| after.contains(&layer)).collect();
    own("is_deepstack_layers", Stored::Array(Array::of_bools(&features)));
    Ok(entries)
}

/// A file being written.
pub(crate) struct Sink {
    layout: MmprojLayout,
    writer: gguf::Writer,
    /// After each tensor of the plan, how many of the file's there are.
    ends: Vec<usize>,
    done: usize,
}

impl Sink {
    /// Opens the file at `path` for those of a plan's tensors that go into it.
    pub(crate) fn open(
        path: &Path,
        entries: &Entries,
        config: &Value,
        planned: &[Planned],
        fingerprint: &str,
    ) -> Result<Self, Error> {
        let layout = MmprojLayout::of(config);
        let (mut announced, mut ends) = (Vec::new(), Vec::new());
        for planned in planned {
            announced.extend(layout.planned(planned)?);
            ends.push(announced.len());
        }
        let entries: Vec<_> =
            entries.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
        let mut writer = gguf::Writer::resume(path, &entries, &announced, fingerprint)?;
        let done = ends.iter().take_while(|&&end| end <= writer.done()).count();
        writer.rewind(done.checked_sub(1).map_or(0, |last| ends[last]))?;
        Ok(Self { layout, writer, ends, done })
    }

    /// How many of the plan's tensors are there already.
    pub(crate) fn done(&self) -> usize {
        self.done.min(self.ends.len())
    }

    /// Forgets what an earlier run wrote.
    pub(crate) fn forget(&mut self) -> Result<(), Error> {
        self.done = 0;
        Ok(self.writer.rewind(0)?)
    }

    pub(crate) fn write(&mut self, planned: &Planned, tensor: &PackedTensor) -> Result<(), Error> {
        let announced = self.layout.planned(planned)?;
        let parts = self.layout.parts(&planned.name, &planned.shape, tensor);
        for (stored, bytes) in announced.iter().zip(parts) {
            self.writer.tensor(&stored.name, &bytes)?;
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<(), Error> {
        Ok(self.writer.finish()?)
    }
}
