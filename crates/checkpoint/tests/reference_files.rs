//! Files written by other programs: MLX, mlx-kquant, transformers, llama.cpp.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::path::{Path, PathBuf};

use common::test_data;
use keeve_checkpoint::{Checkpoint, TensorInfo, safetensors};
use keeve_codec::{Codec, Float, PackedTensor};
use serde_json::{Value, json};

fn fixtures() -> PathBuf {
    test_data().join("fixtures")
}

fn folders(parent: &Path) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = std::fs::read_dir(parent)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    assert!(!folders.is_empty(), "{} is empty", parent.display());
    folders
}

/// The values of a tensor of plain floats.
fn floats(tensor: &PackedTensor) -> Vec<f32> {
    let Codec::Float(float) = tensor.codec() else { panic!("{} is no float", tensor.codec()) };
    decode(float, &tensor.parts().data)
}

fn decode(float: Float, bytes: &[u8]) -> Vec<f32> {
    let half = |bits: [u8; 2]| half::f16::from_le_bytes(bits).to_f32();
    match float {
        Float::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Float::F16 => bytes.as_chunks().0.iter().map(|b| half(*b)).collect(),
        Float::Bf16 => {
            bytes.as_chunks().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect()
        }
    }
}

/// Each value of an affine tensor, and how far it may be from what was encoded: a step (MLX moves the
/// scale so that the larger edge is exact, which may cut the other by a step), and the rounding of
/// scale and bias to bf16.
fn affine_values(tensor: &PackedTensor) -> Vec<(f32, f32)> {
    let Codec::Affine { bits, group, scale } = tensor.codec() else {
        panic!("{} is not affine", tensor.codec())
    };
    let parts = tensor.parts();
    let scales = decode(scale, parts.scales.as_ref().unwrap());
    let biases = decode(scale, parts.biases.as_ref().unwrap());
    let bits = usize::from(bits);
    let code = |index: usize| {
        // Rows are whole bytes, so the stream may be read through them.
        let bit = |at: usize| u32::from(parts.data[at / 8] >> (at % 8) & 1);
        (0..bits).map(|b| bit(index * bits + b) << b).sum::<u32>() as f32
    };
    (0..tensor.len())
        .map(|index| {
            let (s, b) = (scales[index / usize::from(group)], biases[index / usize::from(group)]);
            let product = code(index) * s;
            (product + b, s.abs() + (product.abs() + b.abs()) / 256.0)
        })
        .collect()
}

/// Opens a model and reads all its tensors.
fn read_all(path: &Path) -> Checkpoint {
    let checkpoint = Checkpoint::open(path).unwrap_or_else(|error| panic!("{error}"));
    assert!(checkpoint.tensors().len() > 10, "{checkpoint:?}");
    for info in checkpoint.tensors() {
        match (checkpoint.tensor(&info.name), info.codec) {
            (Ok(tensor), Some(codec)) => {
                assert_eq!(tensor.codec(), codec, "{info:?}");
                // Tensors that are put together anew have other scales than the file.
                let anew = ["(compressed-tensors)", "(awq)", "(gptq)"];
                if !anew.iter().any(|dialect| checkpoint.format().ends_with(dialect)) {
                    assert_eq!(tensor.bytes() as u64, info.bytes, "{info:?}");
                }
                let shape = [tensor.experts(), tensor.rows(), tensor.cols()];
                let (found, listed) =
                    (shape.iter().product::<usize>(), info.shape.iter().product::<usize>());
                assert_eq!(found, listed, "{info:?}");
            }
            (result, _) => panic!("{info:?}: {result:?}"),
        }
    }
    checkpoint
}

fn shape_of(checkpoint: &Checkpoint, name: &str) -> Vec<usize> {
    checkpoint.info(name).unwrap_or_else(|| panic!("no {name}")).shape.clone()
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn all_safetensors_models_are_read() {
    for architecture in folders(&fixtures().join("ckpt")) {
        let float = Checkpoint::open(&architecture.join("hf")).unwrap();
        for variant in folders(&architecture) {
            let checkpoint = read_all(&variant);
            let name = variant.file_name().unwrap().to_str().unwrap();
            let label = match name {
                "hf" => "safetensors",
                "mlx-mxfp4" => "safetensors (mlx mxfp4)",
                "mlx-nvfp4" => "safetensors (mlx nvfp4)",
                _ => "safetensors (mlx affine)",
            };
            assert_eq!(checkpoint.format(), label);
            assert!(checkpoint.chat_template().is_some(), "{checkpoint:?}");
            assert!(checkpoint.tokenizer().is_some() && checkpoint.tokenizer_config().is_some());
            // Every float tensor is there under its name and in its shape. (MLX stacks experts.)
            for info in float.tensors().filter(|info| !info.name.contains(".experts.")) {
                assert_eq!(shape_of(&checkpoint, &info.name), info.shape, "{}", info.name);
            }
        }
    }
    for variant in folders(&fixtures().join("compressed_tensors")) {
        let checkpoint = read_all(&variant);
        assert_eq!(checkpoint.format(), "safetensors (compressed-tensors)");
        let info = checkpoint.info("model.layers.0.self_attn.k_proj.weight").unwrap();
        let rounded = info.activations.map(|activations| activations.to_string());
        let expected =
            variant.to_str().unwrap().ends_with("a8").then_some("int8 per token, dynamic");
        assert_eq!(rounded.as_deref(), expected, "{variant:?}");
        let reference = safetensors::open(&variant.join("ref.safetensors")).unwrap();
        for expected in &reference.tensors {
            let Some(module) = expected.name.strip_prefix("deq.") else { continue };
            let tensor = checkpoint.tensor(&format!("{module}.weight")).unwrap();
            let same = keeve_codec::decode(&tensor) == expected.to_f32().unwrap();
            assert!(same, "{variant:?} {module}");
        }
    }
    for variant in folders(&fixtures().join("awq_gptq")) {
        let checkpoint = read_all(&variant);
        let reference = safetensors::open(&variant.join("ref.safetensors")).unwrap();
        let mut compared = 0;
        for expected in &reference.tensors {
            let Some(module) = expected.name.strip_prefix("deq.") else { continue };
            let tensor = checkpoint.tensor(&format!("{module}.weight")).unwrap();
            let same = keeve_codec::decode(&tensor) == expected.to_f32().unwrap();
            assert!(same, "{variant:?} {module}");
            assert_eq!(tensor.basis().is_some(), variant.ends_with("gptq_act"));
            compared += 1;
        }
        assert_eq!(compared, 2, "{variant:?}");
    }
    let kquant = read_all(&fixtures().join("kquant_ckpt/q4_k_m"));
    assert_eq!(kquant.format(), "safetensors (mlx-kquant)");
    let codec = |name: &str| kquant.info(name).unwrap().codec;
    assert_eq!(codec("lm_head.weight"), Some(Codec::Q6K));
    assert_eq!(codec("model.embed_tokens.weight"), Some(Codec::Q4K));
    assert_eq!(shape_of(&kquant, "model.layers.0.self_attn.v_proj.weight"), [128, 256]);
    let demo = read_all(&test_data().join("models/demo-qwen3"));
    assert_eq!(demo.generation_config().unwrap()["eos_token_id"], json!([8168, 8166]));
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn mlx_weights_are_the_float_weights_within_a_step() {
    for architecture in ["llama", "qwen3", "qwen2"] {
        let folder = fixtures().join("ckpt").join(architecture);
        let float = Checkpoint::open(&folder.join("hf")).unwrap();
        for variant in ["mlx-q4g64", "mlx-q8g64", "mlx-q4g32", "mlx-mixed_3_6"] {
            if !folder.join(variant).exists() {
                continue;
            }
            let checkpoint = Checkpoint::open(&folder.join(variant)).unwrap();
            let mut packed = 0;
            for info in checkpoint.tensors() {
                let tensor = checkpoint.tensor(&info.name).unwrap();
                let expected = floats(&float.tensor(&info.name).unwrap());
                if tensor.codec().is_float() {
                    assert_eq!(floats(&tensor), expected, "{}", info.name);
                    continue;
                }
                packed += 1;
                for ((value, bound), expected) in affine_values(&tensor).into_iter().zip(expected) {
                    let off = (value - expected).abs();
                    assert!(off <= bound, "{}: {value} for {expected} +- {bound}", info.name);
                }
            }
            assert!(packed >= 15, "{architecture}/{variant} has {packed} packed tensors");
        }
    }
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn all_gguf_models_are_read() {
    for folder in folders(&fixtures().join("gguf_models")) {
        let checkpoint = read_all(&folder.join("model.gguf"));
        assert_eq!(checkpoint.format(), "GGUF v3");
        let tokenizer = checkpoint.gguf_tokenizer().unwrap().expect("a tokenizer");
        let config = checkpoint.config();
        assert_eq!(tokenizer.tokens.len() as u64, config["vocab_size"].as_u64().unwrap());
        let spm = tokenizer.model == "llama";
        assert_eq!(tokenizer.scores.is_empty(), !spm);
        assert_eq!(tokenizer.merges.is_empty(), spm);
        assert!(checkpoint.info("model.embed_tokens.weight").is_some());
        let listed = |info: &&TensorInfo| !info.name.starts_with("model.");
        let others: Vec<&str> =
            checkpoint.tensors().filter(listed).map(|info| info.name.as_str()).collect();
        let known = ["lm_head.weight", "rope_freqs.weight"];
        assert!(others.iter().all(|name| known.contains(name)), "{others:?}");
    }
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn gguf_weights_are_the_float_weights() {
    for architecture in ["llama", "qwen2", "qwen3"] {
        let original = Checkpoint::open(&fixtures().join("ckpt").join(architecture).join("hf"));
        let original = original.unwrap();
        let gguf = fixtures().join(format!("gguf_models/{architecture}-f32/model.gguf"));
        let gguf = Checkpoint::open(&gguf).unwrap();
        for info in original.tensors() {
            let expected = floats(&original.tensor(&info.name).unwrap());
            assert_eq!(floats(&gguf.tensor(&info.name).unwrap()), expected, "{}", info.name);
            assert_eq!(shape_of(&gguf, &info.name), info.shape, "{}", info.name);
        }
        assert_eq!(
            gguf.tensors().filter(|info| info.name != "rope_freqs.weight").count(),
            original.tensors().len()
        );
        for (field, value) in gguf.config().as_object().unwrap() {
            match (field.as_str(), original.config().get(field)) {
                ("rope_scaling", _) | (_, None) => {}
                // Qwen 2 has biases whatever this field says in its own config.
                ("attention_bias", _) if architecture == "qwen2" => assert_eq!(value, true),
                ("vocab_size", Some(expected)) => assert_eq!(value, expected),
                (_, Some(expected)) => assert_eq!(value, expected, "{architecture} {field}"),
            }
        }
    }
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn packed_q_and_k_of_llama_are_in_order() {
    let original = Checkpoint::open(&fixtures().join("ckpt/llama/hf")).unwrap();
    let packed = Checkpoint::open(&fixtures().join("gguf_models/llama-q8_0/model.gguf")).unwrap();
    for name in ["q_proj", "k_proj", "v_proj", "o_proj"] {
        let name = format!("model.layers.1.self_attn.{name}.weight");
        let tensor = packed.tensor(&name).unwrap();
        assert_eq!(tensor.codec(), Codec::Q8_0);
        let expected = floats(&original.tensor(&name).unwrap());
        let blocks = tensor.parts().data.as_chunks::<34>().0;
        for (block, expected) in blocks.iter().zip(expected.chunks_exact(32)) {
            let step = half::f16::from_le_bytes([block[0], block[1]]).to_f32();
            for (code, expected) in block[2..].iter().zip(expected) {
                let value = step * f32::from(*code as i8);
                assert!((value - expected).abs() <= step * 0.6, "{name}: {value} for {expected}");
            }
        }
    }
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn rope_divisors_become_factors() {
    let checkpoint =
        Checkpoint::open(&fixtures().join("gguf_models/llama-f32/model.gguf")).unwrap();
    let scaling = &checkpoint.config()["rope_scaling"];
    assert_eq!(scaling["rope_type"], "factors");
    let factors: Vec<f64> =
        scaling["factors"].as_array().unwrap().iter().filter_map(Value::as_f64).collect();
    // Llama 3's rule with the settings of ckpt/llama/hf: theta 5e5, factor 8, 1 and 4, 64.
    let expected = |i: usize| {
        let wavelength = 2.0 * std::f64::consts::PI * 5e5f64.powf(2.0 * i as f64 / 32.0);
        let smooth = ((64.0 / wavelength - 1.0) / 3.0).clamp(0.0, 1.0);
        1.0 / ((1.0 - smooth) / 8.0 + smooth)
    };
    assert_eq!(factors.len(), 16);
    for (i, factor) in factors.iter().enumerate() {
        assert!((factor / expected(i) - 1.0).abs() < 1e-5, "{i}: {factor} for {}", expected(i));
    }
}

/// A language model put inside a model that also sees, under the old and the new names, comes out as it was.
#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn gemma3_inside_a_model_that_sees_is_the_same() {
    let folder = fixtures().join("ckpt/gemma3/hf");
    let plain = Checkpoint::open(&folder).unwrap();
    let stored = safetensors::open(&folder.join("model.safetensors")).unwrap();
    let text: Value =
        serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
    for new in [false, true] {
        let name = |name: &str| match (new, name.strip_prefix("model.")) {
            (true, Some(rest)) => format!("model.language_model.{rest}"),
            (true, None) => name.into(),
            (false, _) => format!("language_model.{name}"),
        };
        let seeing = safetensors::Announced {
            name: "vision_tower.patch.weight".into(),
            kind: keeve_checkpoint::StoredType::U8,
            shape: vec![3],
        };
        let tensors = stored.tensors.iter().map(|tensor| {
            let (name, kind) = (name(&tensor.name), tensor.kind.clone());
            (safetensors::Announced { name, kind, shape: tensor.shape.clone() }, &tensor.data[..])
        });
        let made = tempfile::tempdir().unwrap();
        let tensors = tensors.chain([(seeing, &[1u8, 2, 3][..])]);
        safetensors::write(&made.path().join("model.safetensors"), tensors, &[]).unwrap();
        let config = json!({"model_type": "gemma3", "text_config": text, "vision_config": {}});
        std::fs::write(made.path().join("config.json"), config.to_string()).unwrap();
        let inside = Checkpoint::open(made.path()).unwrap();
        assert_eq!(inside.config(), plain.config());
        assert_eq!(inside.tensors().len(), plain.tensors().len());
        for info in plain.tensors() {
            assert_eq!(inside.tensor(&info.name).unwrap(), plain.tensor(&info.name).unwrap());
        }
        assert_eq!(inside.notes().len(), 1);
    }
}

/// What mlx-vlm wrote of Qwen3-VL has Hugging Face's names, and what sees has its values: patches are embedded
/// by matrices that are the same, though stored in another order.
#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn qwen3_vl_of_mlx_is_that_of_transformers() {
    let open = |name: &str| Checkpoint::open(&fixtures().join("qwen3_vl").join(name)).unwrap();
    let (hf, mlx) = (open("hf"), open("mlx-q4g64"));
    let names = |model: &Checkpoint| -> Vec<String> {
        model.tensors().map(|info| info.name.clone()).collect()
    };
    assert_eq!(names(&hf), names(&mlx));
    let mut seeing = 0;
    for info in hf.tensors().filter(|info| info.name.starts_with("model.visual.")) {
        let (one, other) = (hf.tensor(&info.name).unwrap(), mlx.tensor(&info.name).unwrap());
        assert_eq!(mlx.info(&info.name).unwrap().shape, info.shape, "{}", info.name);
        assert!(one == other, "{}", info.name);
        seeing += 1;
    }
    assert_eq!(seeing, 75);
    let patches = hf.tensor("model.visual.patch_embed.proj.weight").unwrap();
    assert_eq!((patches.rows(), patches.cols()), (64, 3 * 2 * 16 * 16));
    // Only the language model is quantized.
    let packed = mlx.tensor("model.language_model.layers.0.mlp.up_proj.weight").unwrap();
    assert_eq!(packed.codec().to_string(), "affine4-g64");
    for model in [hf, mlx] {
        let (path, text) = model.image_settings().unwrap();
        assert!(path.ends_with("preprocessor_config.json") && text.starts_with(b"{"));
        assert_eq!(model.config()["text_config"]["rope_scaling"]["mrope_section"][0], 6);
        assert!(model.notes().is_empty());
    }
}
