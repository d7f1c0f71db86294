//! What a GGUF model sees with: a file of its own beside the language model's, which ggml's programs call
//! mmproj. With it the model is what Hugging Face has whole.
//!
//! Keys and names: ggml-org/llama.cpp `gguf-py/gguf/constants.py` (`ClipVision`), `conversion/qwen3vl.py` and
//! `tools/mtmd/clip-impl.h`; what they are in Hugging Face's: huggingface/transformers
//! `models/qwen3_vl/modeling_qwen3_vl.py`.

use std::path::Path;

use keeve_codec::{Bytes, PackedTensor, Parts};
use serde_json::{Map, Value, json};

use super::Entry;
use super::gguf_config::Reader;
use crate::gguf::{Array, Gguf, Metadata};
use crate::{Error, StoredTensor, StoredType, gguf};

/// The architecture of such files.
pub const ARCHITECTURE: &str = "clip";

/// The language models that keeve lets see, by ggml's name, and what Hugging Face calls the whole.
const KINDS: [(&str, &str); 2] = [("qwen3vl", "qwen3_vl"), ("qwen3vlmoe", "qwen3_vl_moe")];

/// The kind of projector that goes with them.
pub const PROJECTOR: &str = "qwen3vl_merger";

/// Added to variances. Hugging Face's models have no other, and no field for it.
const EPSILON: f64 = 1e-6;

/// The fewest and the most pixels of an image where the file does not say: those of Qwen3-VL's
/// `preprocessor_config.json`.
const PIXELS: [u64; 2] = [256 * 256, 4096 * 4096];

/// Modules outside layers.
const GLOBAL: [(&str, &str); 5] = [
    ("v.patch_embd", "patch_embed.proj"),
    ("v.position_embd", "pos_embed"),
    ("v.post_ln", "merger.norm"),
    ("mm.0", "merger.linear_fc1"),
    ("mm.2", "merger.linear_fc2"),
];

/// Modules of a layer.
const LAYER: [(&str, &str); 6] = [
    ("ln1", "norm1"),
    ("ln2", "norm2"),
    ("attn_qkv", "attn.qkv"),
    ("attn_out", "attn.proj"),
    ("ffn_up", "mlp.linear_fc1"),
    ("ffn_down", "mlp.linear_fc2"),
];

/// Modules of the mergers after some layers. ggml counts them by layer, Hugging Face from 0.
const FEATURES: [(&str, &str); 3] =
    [("norm", "norm"), ("fc1", "linear_fc1"), ("fc2", "linear_fc2")];

/// The weights of the convolution that makes patches rows: one for each of two frames.
pub const PATCHES: [&str; 2] = ["v.patch_embd.weight", "v.patch_embd.weight.1"];

/// What Hugging Face calls them together.
const PATCH_EMBEDDING: &str = "model.visual.patch_embed.proj.weight";

/// The tokens around images and videos, and the fields that name them.
const TOKENS: [(&str, &str); 4] = [
    ("image_token_id", "<|image_pad|>"),
    ("video_token_id", "<|video_pad|>"),
    ("vision_start_token_id", "<|vision_start|>"),
    ("vision_end_token_id", "<|vision_end|>"),
];

/// Whether a GGUF file of that name goes with a model instead of being one.
pub(crate) fn is_named_so(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.ends_with(".gguf") && name.contains("mmproj")
}

/// Whether a language model of this architecture is one of a model that sees.
pub(crate) fn sees(architecture: &str) -> bool {
    KINDS.iter().any(|(ggml, _)| *ggml == architecture)
}

/// What ggml calls a weight of what sees, given the layers that have mergers of their own (`after`).
///
/// The convolution that makes patches rows becomes two, of which this is the first: see
/// [`frames`].
pub fn tensor_name(name: &str, after: &[usize]) -> Option<String> {
    let (module, kind) = name.strip_prefix("model.visual.")?.rsplit_once('.')?;
    let find = |map: &[(&'static str, &str)], module: &str| {
        map.iter().find(|(_, own)| *own == module).map(|(ggml, _)| *ggml)
    };
    if let Some(rest) = module.strip_prefix("blocks.") {
        let (layer, module) = rest.split_once('.')?;
        return Some(format!("v.blk.{layer}.{}.{kind}", find(&LAYER, module)?));
    }
    if let Some(rest) = module.strip_prefix("deepstack_merger_list.") {
        let (merger, module) = rest.split_once('.')?;
        let layer = after.get(merger.parse::<usize>().ok()?)?;
        return Some(format!("v.deepstack.{layer}.{}.{kind}", find(&FEATURES, module)?));
    }
    Some(format!("{}.{kind}", find(&GLOBAL, module)?))
}

/// Hugging Face's name of a weight, given the layers that have mergers of their own.
fn canonical(name: &str, after: &[usize]) -> Option<String> {
    let (module, kind) = name.rsplit_once('.')?;
    let find = |map: &[(&str, &'static str)], module: &str| {
        map.iter().find(|(ggml, _)| *ggml == module).map(|(_, own)| *own)
    };
    let module = if let Some(rest) = module.strip_prefix("v.blk.") {
        let (layer, module) = rest.split_once('.')?;
        format!("blocks.{}.{}", layer.parse::<u32>().ok()?, find(&LAYER, module)?)
    } else if let Some(rest) = module.strip_prefix("v.deepstack.") {
        let (layer, module) = rest.split_once('.')?;
        let layer: usize = layer.parse().ok()?;
        let merger = after.iter().position(|&other| other == layer)?;
        format!("deepstack_merger_list.{merger}.{}", find(&FEATURES, module)?)
    } else {
        find(&GLOBAL, module)?.to_owned()
    };
    matches!(kind, "weight" | "bias").then(|| format!("model.visual.{module}.{kind}"))
}

/// A file that a model sees with.
pub(crate) struct Projector {
    gguf: Gguf,
}

/// A model that sees, put together.
pub(crate) struct Whole {
    pub config: Value,
    pub entries: Vec<Entry>,
    /// What images are made of, as a `preprocessor_config.json`.
    pub image_settings: Bytes,
}

impl Projector {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// If it is damaged, or no such file, or of another kind than those that keeve knows.
    pub fn read(path: &Path, bytes: &Bytes) -> Result<Self, Error> {
        let gguf = gguf::parse(path, bytes)?;
        let metadata = &gguf.metadata;
        let architecture = super::gguf_config::architecture(&gguf)?;
        if architecture != ARCHITECTURE {
            let found = crate::error::shown(architecture);
            let problem =
                format!("is '{found}', expected '{ARCHITECTURE}': what a model sees with");
            return Err(Error::field(path, "general.architecture", problem));
        }
        let keys = ["clip.projector_type", "clip.vision.projector_type"];
        let mut found = None;
        for key in keys {
            found = found.or(metadata.string(key)?);
        }
        match found {
            Some(PROJECTOR) => Ok(Self { gguf }),
            other => {
                let other = crate::error::shown(other.unwrap_or_default());
                let problem = format!("is '{other}', which is not supported (known: {PROJECTOR})");
                Err(Error::field(path, keys[0], problem))
            }
        }
    }

    fn reader(&self) -> Reader<'_> {
        Reader { metadata: &self.gguf.metadata, architecture: "clip.vision" }
    }

    fn tensor(&self, name: &str) -> Result<&StoredTensor, Error> {
        let found = self.gguf.tensors.iter().find(|tensor| tensor.name == name);
        found.ok_or_else(|| Error::tensor(self.gguf.metadata.path(), name, "is missing"))
    }

    /// The width of what it gives a language model.
    pub fn width(&self) -> Result<Option<u64>, Error> {
        self.reader().count("projection_dim")
    }

    /// The layers that have mergers of their own, in order.
    fn features(&self) -> Vec<usize> {
        let layer = |tensor: &StoredTensor| {
            let rest = tensor.name.strip_prefix("v.deepstack.")?;
            rest.strip_suffix(".fc1.weight")?.parse::<usize>().ok()
        };
        let mut layers: Vec<usize> = self.gguf.tensors.iter().filter_map(layer).collect();
        layers.sort_unstable();
        layers
    }

    /// The model that this and a language model (of `architecture`, with the `text` that its metadata amount to
    /// and its `entries`) are together.
    ///
    /// # Errors
    /// If a key or tensor is missing or of the wrong type, or asks for what keeve does not do.
    pub fn join(
        &self,
        metadata: &Metadata,
        architecture: &str,
        text: Value,
        mut entries: Vec<Entry>,
    ) -> Result<Whole, Error> {
        let model_type = KINDS.iter().find(|(ggml, _)| *ggml == architecture).map(|(_, own)| *own);
        let mut config = Map::new();
        config.insert("model_type".into(), model_type.into());
        tokens(metadata, &mut config)?;
        for field in ["tie_word_embeddings", "bos_token_id", "eos_token_id"] {
            if let Some(value) = text.get(field) {
                config.insert(field.into(), value.clone());
            }
        }
        let after = self.features();
        let expected = metadata.count(&format!("{architecture}.n_deepstack_layers"))?;
        if let Some(count) = expected.filter(|&count| count != after.len() as u64) {
            let problem = format!(
                "has mergers after {} layers, but the language model expects {count}",
                after.len()
            );
            return Err(Error::file(self.gguf.metadata.path(), problem));
        }
        config.insert("text_config".into(), text);
        config.insert("vision_config".into(), self.vision_config(&after)?);
        for entry in &mut entries {
            // The head stands beside the model.
            if let Some(rest) = entry.info.name.strip_prefix("model.") {
                entry.info.name = format!("model.language_model.{rest}");
            }
        }
        entries.extend(self.entries(&after)?);
        let image_settings = self.image_settings()?.to_string().into_bytes().into();
        Ok(Whole { config: config.into(), entries, image_settings })
    }

    fn vision_config(&self, after: &[usize]) -> Result<Value, Error> {
        let (reader, metadata) = (self.reader(), &self.gguf.metadata);
        let mut config = Map::new();
        for (field, key) in [
            ("hidden_size", "embedding_length"),
            ("intermediate_size", "feed_forward_length"),
            ("depth", "block_count"),
            ("num_heads", "attention.head_count"),
            ("patch_size", "patch_size"),
            ("out_hidden_size", "projection_dim"),
        ] {
            let count = reader.count(key)?.ok_or_else(|| reader.wrong(key, "is missing"))?;
            config.insert(field.into(), count.into());
        }
        config.insert("spatial_merge_size".into(), self.merge()?.into());
        let epsilon = reader.real("attention.layer_norm_epsilon")?;
        if let Some(other) = epsilon.filter(|&epsilon| epsilon != EPSILON) {
            let problem = format!("is {other}, expected {EPSILON}");
            return Err(reader.wrong("attention.layer_norm_epsilon", problem));
        }
        if !metadata.bool("clip.use_gelu")?.unwrap_or(false) {
            let problem = "is missing or false; keeve knows no other activation here";
            return Err(Error::field(metadata.path(), "clip.use_gelu", problem));
        }
        let [frame, _] = self.frames()?;
        config.insert("in_channels".into(), frame.shape[1].into());
        config.insert("temporal_patch_size".into(), PATCHES.len().into());
        let table = self.tensor("v.position_embd.weight")?;
        config.insert("num_position_embeddings".into(), table.shape.first().copied().into());
        config.insert("deepstack_visual_indexes".into(), after.into());
        config.insert("hidden_act".into(), "gelu_pytorch_tanh".into());
        config.insert("model_type".into(), "qwen3_vl".into());
        Ok(config.into())
    }

    /// Patches along each side that become one token.
    fn merge(&self) -> Result<u64, Error> {
        Ok(self.reader().count("spatial_merge_size")?.unwrap_or(2))
    }

    /// The weights that make patches rows: `[out, channel, y, x]` for each of two frames, alike.
    fn frames(&self) -> Result<[&StoredTensor; 2], Error> {
        let [first, second] = [self.tensor(PATCHES[0])?, self.tensor(PATCHES[1])?];
        let wrong = |tensor: &StoredTensor, problem: String| {
            Err(Error::tensor(&tensor.file, &tensor.name, problem))
        };
        if first.shape.len() != 4 || first.shape.contains(&0) {
            return wrong(first, format!("has the shape {:?}, expected four lengths", first.shape));
        }
        if (&first.shape, &first.kind) != (&second.shape, &second.kind) {
            let problem = format!(
                "is {} of {:?}, but the first frame's is {} of {:?}",
                second.kind, second.shape, first.kind, first.shape
            );
            return wrong(second, problem);
        }
        Ok([first, second])
    }

    fn entries(&self, after: &[usize]) -> Result<Vec<Entry>, Error> {
        let mut entries = Vec::new();
        for tensor in &self.gguf.tensors {
            if tensor.name == PATCHES[1] {
                continue;
            }
            if tensor.name == PATCHES[0] {
                entries.push(patch_embedding(self.frames()?));
                continue;
            }
            let name = canonical(&tensor.name, after).unwrap_or_else(|| tensor.name.clone());
            entries.push(Entry::whole(name, tensor));
        }
        Ok(entries)
    }

    /// As a `preprocessor_config.json`.
    fn image_settings(&self) -> Result<Value, Error> {
        let (reader, metadata) = (self.reader(), &self.gguf.metadata);
        let three = |key: &str| {
            let array = metadata.array(&reader.key(key))?;
            let numbers = array.filter(|array| array.len() == 3).and_then(Array::f32s);
            numbers.ok_or_else(|| reader.wrong(key, "is missing, expected three numbers"))
        };
        let pixels = |key: &str, other: u64| Ok(reader.count(key)?.unwrap_or(other));
        let [least, most] = PIXELS;
        Ok(json!({
            "size": {
                "shortest_edge": pixels("image_min_pixels", least)?,
                "longest_edge": pixels("image_max_pixels", most)?,
            },
            "patch_size": reader.count("patch_size")?,
            "temporal_patch_size": PATCHES.len(),
            "merge_size": self.merge()?,
            "image_mean": three("image_mean")?,
            "image_std": three("image_std")?,
            "image_processor_type": "Qwen2VLImageProcessorFast",
        }))
    }
}

/// Adds the ids of the tokens around images, which are found by their texts.
fn tokens(metadata: &Metadata, config: &mut Map<String, Value>) -> Result<(), Error> {
    const KEY: &str = "tokenizer.ggml.tokens";
    let texts = metadata.array(KEY)?;
    for (id, text) in texts.and_then(Array::strings).into_iter().flatten().enumerate() {
        if let Some((field, _)) = TOKENS.iter().find(|(_, token)| token.as_bytes() == text) {
            config.entry(*field).or_insert(id.into());
        }
    }
    let [(image, text), ..] = TOKENS;
    if !config.contains_key(image) {
        let problem = format!("holds no '{text}', which stands for images");
        return Err(Error::field(metadata.path(), KEY, problem));
    }
    Ok(())
}

/// The matrix that makes patches rows, its columns ordered (channel, frame, y, x) as rows of patches are.
fn patch_embedding(frames: [&StoredTensor; 2]) -> Entry {
    let [first, second] = frames;
    let name = PATCH_EMBEDDING.to_owned();
    let StoredType::Codec(codec) = first.kind else { return Entry::whole(name, first) };
    let [out, channels, height, width] = first.shape[..] else { return Entry::whole(name, first) };
    if !codec.is_float() {
        let reason = format!("is {codec}, expected floats");
        return Entry::refused(name, &frames, codec.to_string(), reason);
    }
    let shape = vec![out, channels, PATCHES.len(), height, width];
    let data = [first.data.clone(), second.data.clone()];
    Entry::new(name, &frames, shape, codec, move || {
        // The container checked both lengths against the shape.
        let each = codec.geometry().block_bytes * height * width;
        let mut both = Vec::with_capacity(data.iter().map(|data| data.len()).sum());
        for at in (0..out * channels).map(|index| index * each) {
            for data in &data {
                both.extend_from_slice(data.get(at..at + each).ok_or("is too short")?);
            }
        }
        let cols = channels * PATCHES.len() * height * width;
        PackedTensor::new(codec, 1, out, cols, Parts::data(both))
            .map_err(|error| format!("is wrong: {error}"))
    })
}

/// The parts of the matrix that makes patches rows that are of each frame, `[out, channel, y, x]`: the other way
/// of [`patch_embedding`]. Each value has `each` bytes, each frame of a channel `pixels` values.
pub fn frames(matrix: &[u8], each: usize, pixels: usize) -> [Vec<u8>; 2] {
    let frame = |which: usize| {
        let parts = matrix.chunks((each * pixels).max(1)).skip(which).step_by(PATCHES.len());
        parts.flatten().copied().collect()
    };
    [frame(0), frame(1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        let after = [5, 11, 17];
        for (ggml, name) in [
            ("v.patch_embd.bias", "patch_embed.proj.bias"),
            ("v.position_embd.weight", "pos_embed.weight"),
            ("v.blk.3.attn_qkv.bias", "blocks.3.attn.qkv.bias"),
            ("v.blk.23.ln2.weight", "blocks.23.norm2.weight"),
            ("v.blk.0.ffn_down.weight", "blocks.0.mlp.linear_fc2.weight"),
            ("v.deepstack.11.fc2.weight", "deepstack_merger_list.1.linear_fc2.weight"),
            ("v.deepstack.17.norm.bias", "deepstack_merger_list.2.norm.bias"),
            ("v.post_ln.weight", "merger.norm.weight"),
            ("mm.2.bias", "merger.linear_fc2.bias"),
        ] {
            let name = format!("model.visual.{name}");
            assert_eq!(canonical(ggml, &after).as_deref(), Some(&*name));
            assert_eq!(tensor_name(&name, &after).as_deref(), Some(ggml));
        }
        for other in ["v.blk.x.ln1.weight", "v.deepstack.4.fc1.weight", "v.blk.0.ln1.scale", "x"] {
            assert_eq!(canonical(other, &after), None, "{other}");
        }
        for other in ["model.visual.deepstack_merger_list.3.norm.bias", "model.norm.weight"] {
            assert_eq!(tensor_name(other, &after), None, "{other}");
        }
    }

    #[test]
    fn frames_are_taken_apart() {
        // Two rows of two channels of two frames of three pixels, two bytes each.
        let matrix: Vec<u8> = (0..2 * 2 * 2 * 3).flat_map(|value: u8| [value, 0]).collect();
        let [first, second] = frames(&matrix, 2, 3);
        let values = |bytes: &[u8]| bytes.iter().step_by(2).copied().collect::<Vec<_>>();
        assert_eq!(values(&first), [0, 1, 2, 6, 7, 8, 12, 13, 14, 18, 19, 20]);
        assert_eq!(values(&second), [3, 4, 5, 9, 10, 11, 15, 16, 17, 21, 22, 23]);
    }
}
