//! GGUF models that see: a language model, and a file beside it that it sees with.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};

use keeve_checkpoint::Checkpoint;
use keeve_checkpoint::gguf::{self, Announced, Array, Value};
use keeve_codec::{Codec, decode};
use tempfile::TempDir;

type Metadata = Vec<(&'static str, Value)>;
type Tensors = Vec<(&'static str, Vec<usize>)>;

/// Writes a file of F32 tensors. Values count from 0 in each.
fn file(path: &Path, metadata: &Metadata, tensors: &Tensors) {
    let values: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, shape)| (0..shape.iter().product()).flat_map(number).collect())
        .collect();
    let announced = tensors.iter().zip(&values).map(|((name, shape), bytes)| {
        let shape = shape.clone();
        (Announced { name: (*name).into(), codec: Codec::F32, shape }, &bytes[..])
    });
    gguf::write(path, metadata, announced).unwrap();
}

fn number(value: usize) -> [u8; 4] {
    (value as f32).to_le_bytes()
}

fn text() -> (Metadata, Tensors) {
    let tokens = ["a", "<|image_pad|>", "<|vision_start|>", "<|vision_end|>"];
    let metadata = vec![
        ("general.architecture", Value::string("qwen3vl")),
        ("qwen3vl.block_count", Value::u32(1)),
        ("qwen3vl.embedding_length", Value::u32(8)),
        ("qwen3vl.feed_forward_length", Value::u32(16)),
        ("qwen3vl.attention.head_count", Value::u32(2)),
        ("qwen3vl.attention.key_length", Value::u32(4)),
        ("qwen3vl.rope.freq_base", Value::F32(5e6)),
        ("qwen3vl.rope.dimension_sections", Value::Array(Array::of_i32(&[1, 1, 0, 0]))),
        ("qwen3vl.n_deepstack_layers", Value::u32(1)),
        ("tokenizer.ggml.tokens", Value::Array(Array::of_strings(tokens))),
    ];
    let tensors = vec![
        ("token_embd.weight", vec![4, 8]),
        ("output_norm.weight", vec![8]),
        ("blk.0.attn_q.weight", vec![8, 8]),
        ("blk.0.attn_q_norm.weight", vec![4]),
    ];
    (metadata, tensors)
}

fn seeing() -> (Metadata, Tensors) {
    let three = |value: f32| Value::Array(Array::of_f32(&[value; 3]));
    let metadata = vec![
        ("general.architecture", Value::string("clip")),
        ("clip.projector_type", Value::string("qwen3vl_merger")),
        ("clip.use_gelu", Value::Bool(true)),
        ("clip.vision.projection_dim", Value::u32(8)),
        ("clip.vision.patch_size", Value::u32(2)),
        ("clip.vision.embedding_length", Value::u32(4)),
        ("clip.vision.feed_forward_length", Value::u32(6)),
        ("clip.vision.block_count", Value::u32(2)),
        ("clip.vision.attention.head_count", Value::u32(1)),
        ("clip.vision.attention.layer_norm_epsilon", Value::F32(1e-6)),
        ("clip.vision.image_mean", three(0.5)),
        ("clip.vision.image_std", three(0.25)),
        ("clip.vision.image_min_pixels", Value::u32(64)),
    ];
    let tensors = vec![
        ("v.patch_embd.weight", vec![2, 3, 2, 2]),
        ("v.patch_embd.weight.1", vec![2, 3, 2, 2]),
        ("v.patch_embd.bias", vec![2]),
        ("v.position_embd.weight", vec![9, 4]),
        ("v.blk.1.attn_qkv.weight", vec![12, 4]),
        ("v.deepstack.1.fc1.weight", vec![16, 16]),
        ("v.post_ln.bias", vec![4]),
        ("mm.2.weight", vec![8, 16]),
    ];
    (metadata, tensors)
}

/// A folder with `model.gguf` and `mmproj-F16.gguf`, changed as `change` does.
fn pair(change: impl Fn(&mut (Metadata, Tensors), &mut (Metadata, Tensors))) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (mut text, mut seeing) = (text(), seeing());
    change(&mut text, &mut seeing);
    let model = folder.path().join("model.gguf");
    file(&model, &text.0, &text.1);
    file(&folder.path().join("mmproj-F16.gguf"), &seeing.0, &seeing.1);
    (folder, model)
}

fn set(metadata: &mut Metadata, key: &'static str, value: Option<Value>) {
    metadata.retain(|(other, _)| *other != key);
    metadata.extend(value.map(|value| (key, value)));
}

#[test]
fn both_files_are_one_model_as_hugging_face_has_it() {
    let (folder, path) = pair(|_, _| {});
    for model in [path.as_path(), folder.path()] {
        let model = Checkpoint::open(model).unwrap();
        assert_eq!(model.format(), "GGUF v3 with mmproj");
        assert_eq!((model.files().len(), model.notes().len()), (2, 0));
        let config = model.config();
        for (field, expected) in [
            ("/model_type", "\"qwen3_vl\""),
            ("/image_token_id", "1"),
            ("/vision_end_token_id", "3"),
            ("/tie_word_embeddings", "true"),
            ("/text_config/model_type", "\"qwen3_vl_text\""),
            ("/text_config/hidden_size", "8"),
            ("/text_config/rope_scaling/mrope_section", "[1,1,0]"),
            ("/text_config/rope_scaling/mrope_interleaved", "true"),
            ("/vision_config/depth", "2"),
            ("/vision_config/num_position_embeddings", "9"),
            ("/vision_config/deepstack_visual_indexes", "[1]"),
            ("/vision_config/temporal_patch_size", "2"),
            ("/vision_config/out_hidden_size", "8"),
        ] {
            assert_eq!(config.pointer(field).unwrap().to_string(), expected, "{field}");
        }
        let names: Vec<_> = model.tensors().map(|tensor| tensor.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "model.language_model.embed_tokens.weight",
                "model.language_model.layers.0.self_attn.q_norm.weight",
                "model.language_model.layers.0.self_attn.q_proj.weight",
                "model.language_model.norm.weight",
                "model.visual.blocks.1.attn.qkv.weight",
                "model.visual.deepstack_merger_list.0.linear_fc1.weight",
                "model.visual.merger.linear_fc2.weight",
                "model.visual.merger.norm.bias",
                "model.visual.patch_embed.proj.bias",
                "model.visual.patch_embed.proj.weight",
                "model.visual.pos_embed.weight",
            ]
        );
        // A channel's two frames stand side by side in a row.
        let patches = model.tensor("model.visual.patch_embed.proj.weight").unwrap();
        assert_eq!((patches.rows(), patches.cols()), (2, 3 * 2 * 4));
        let row = |start: usize| {
            let values = (0..3).flat_map(|channel| [channel, channel]);
            let values = values.flat_map(|channel| (0..4).map(move |pixel| channel * 4 + pixel));
            values.map(|value| (start + value) as f32).collect::<Vec<_>>()
        };
        assert_eq!(decode(&patches), [row(0), row(12)].concat());
        let (from, settings) = model.image_settings().unwrap();
        assert!(from.ends_with("mmproj-F16.gguf"));
        let settings: serde_json::Value = serde_json::from_slice(settings).unwrap();
        for (field, expected) in [
            ("/size/shortest_edge", "64"),
            ("/size/longest_edge", "16777216"),
            ("/patch_size", "2"),
            ("/image_std", "[0.25,0.25,0.25]"),
        ] {
            assert_eq!(settings.pointer(field).unwrap().to_string(), expected, "{field}");
        }
    }
}

#[test]
fn a_model_without_a_file_that_fits_reads_text() {
    let blind = |folder: &TempDir, model: &Path, note: &str| {
        let model = Checkpoint::open(model).unwrap();
        assert_eq!(model.config()["model_type"], "qwen3_vl_text");
        assert!(model.info("model.layers.0.self_attn.q_proj.weight").is_some());
        assert!(model.image_settings().is_none() && model.lacks_mmproj(), "{folder:?}");
        assert!(model.notes()[0].contains(note), "{:?}", model.notes());
    };
    let (folder, model) = pair(|_, _| {});
    let other = folder.path().join("elsewhere");
    std::fs::rename(folder.path().join("mmproj-F16.gguf"), &other).unwrap();
    blind(&folder, &model, "without its mmproj file");
    // Where it is, and what it is called, does not matter if it is named.
    let named = Checkpoint::open_seeing(&model, &other).unwrap();
    assert_eq!(named.config()["model_type"], "qwen3_vl");
    assert!(!named.lacks_mmproj());
    let width = |value| {
        move |_: &mut _, seeing: &mut (Metadata, Tensors)| {
            set(&mut seeing.0, "clip.vision.projection_dim", Some(Value::u32(value)));
        }
    };
    let (folder, model) = pair(width(16));
    blind(&folder, &model, "is for a model 16 wide; this one is 8 wide");
    let mmproj = folder.path().join("mmproj-F16.gguf");
    let error = Checkpoint::open_seeing(&model, &mmproj).unwrap_err().to_string();
    assert!(error.contains("is for a model 16 wide"), "{error}");
    // Of several, the one that fits; of those that fit, the best.
    let (metadata, tensors) = seeing();
    file(&folder.path().join("mmproj-x-BF16.gguf"), &metadata, &tensors);
    assert_eq!(Checkpoint::open(&model).unwrap().config()["model_type"], "qwen3_vl");
    file(&folder.path().join("mmproj-x-F32.gguf"), &metadata, &tensors);
    let chosen = Checkpoint::open(&model).unwrap();
    assert!(chosen.notes()[0].contains("mmproj-x-BF16.gguf is used"), "{:?}", chosen.notes());
    std::fs::write(folder.path().join("mmproj-x-BF16.gguf"), "GGUF?").unwrap();
    let chosen = Checkpoint::open(&model).unwrap();
    assert!(chosen.image_settings().unwrap().0.ends_with("mmproj-x-F32.gguf"));
}

#[test]
fn what_cannot_be_seen_with_is_refused_by_name() {
    type Change = fn(&mut (Metadata, Tensors), &mut (Metadata, Tensors));
    let cases: [(Change, &str); 13] = [
        (|_, s| set(&mut s.0, "general.architecture", Some(Value::string("llama"))), "is 'llama'"),
        (
            |_, s| set(&mut s.0, "clip.projector_type", Some(Value::string("mlp"))),
            "'clip.projector_type' is 'mlp'",
        ),
        (|_, s| set(&mut s.0, "clip.projector_type", None), "'clip.projector_type' is ''"),
        (|_, s| set(&mut s.0, "clip.use_gelu", None), "'clip.use_gelu' is missing"),
        (
            |_, s| set(&mut s.0, "clip.vision.block_count", None),
            "'clip.vision.block_count' is missing",
        ),
        (|_, s| set(&mut s.0, "clip.vision.image_mean", None), "'clip.vision.image_mean'"),
        (
            |_, s| {
                let key = "clip.vision.attention.layer_norm_epsilon";
                set(&mut s.0, key, Some(Value::F32(1e-5)));
            },
            "is 0.00001, expected 0.000001",
        ),
        (|_, s| s.1.retain(|(name, _)| !name.ends_with("weight.1")), "'v.patch_embd.weight.1'"),
        (|_, s| s.1[1].1 = vec![2, 3, 2, 3], "but the first frame's is F32 of [2, 3, 2, 2]"),
        (|_, s| s.1[0].1 = vec![2, 12], "expected four lengths"),
        (|t, _| set(&mut t.0, "qwen3vl.n_deepstack_layers", Some(Value::u32(3))), "expects 3"),
        (
            |t, _| {
                let key = "qwen3vl.rope.dimension_sections";
                set(&mut t.0, key, Some(Value::Array(Array::of_i32(&[1, 1, 0, 1]))));
            },
            "three lengths and a zero",
        ),
        (
            |t, _| {
                let tokens = Value::Array(Array::of_strings(["a", "b"]));
                set(&mut t.0, "tokenizer.ggml.tokens", Some(tokens));
            },
            "holds no '<|image_pad|>'",
        ),
    ];
    for (change, expected) in cases {
        let (folder, model) = pair(change);
        let mmproj = folder.path().join("mmproj-F16.gguf");
        let error = Checkpoint::open_seeing(&model, &mmproj).unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains('\n'), "{expected}: {error}");
    }
    // Models that do not see.
    let (folder, model) = pair(|text, _| {
        set(&mut text.0, "general.architecture", Some(Value::string("qwen3")));
    });
    let mmproj = folder.path().join("mmproj-F16.gguf");
    let error = Checkpoint::open_seeing(&model, &mmproj).unwrap_err().to_string();
    assert!(error.contains("is for models that see, which 'qwen3' is not"), "{error}");
    assert_eq!(Checkpoint::open(&model).unwrap().format(), "GGUF v3");
    for name in ["config.json", "model.safetensors"] {
        std::fs::write(folder.path().join(name), "{}").unwrap();
    }
    let error = Checkpoint::open_seeing(folder.path(), &mmproj).unwrap_err().to_string();
    assert!(error.contains("goes with a GGUF model"), "{error}");
}
