//! What several tests of this crate need.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of several tests, each of which uses some"
)]

use std::path::{Path, PathBuf};

use keeve_checkpoint::Checkpoint;
use keeve_quantize::{Making, Observer, Options, Plan, make, verify};
use serde_json::{Value, json};

/// A file or folder of the shared test data.
pub fn data(path: &str) -> PathBuf {
    Path::new(&std::env::var_os("KEEVE_TEST_DATA").expect("KEEVE_TEST_DATA")).join(path)
}

/// Lets work go on to its end.
pub struct Quiet;

impl Observer for Quiet {
    fn progress(&self, _: u64, _: u64, _: &str) {}

    fn stopped(&self) -> bool {
        false
    }
}

/// Both models have the same tensors, of the same codecs, shapes and bytes.
pub fn same_tensors(a: &Path, b: &Path) {
    let (a, b) = (Checkpoint::open(a).unwrap(), Checkpoint::open(b).unwrap());
    assert_eq!(a.tensors().len(), b.tensors().len());
    for info in a.tensors() {
        assert_eq!(info.shape, b.info(&info.name).unwrap().shape, "{}", info.name);
        let (left, right) = (a.tensor(&info.name).unwrap(), b.tensor(&info.name).unwrap());
        assert!(left == right, "{} ({})", info.name, info.format);
    }
}

/// Makes a model as planned; there is nothing to say against it.
pub fn made(source: &Checkpoint, plan: &Plan, out: &Path) -> Checkpoint {
    let options = Options {
        force: false,
        making: Making { importance: None, folds: None, threads: 2 },
        file_type: None,
        observer: &Quiet,
    };
    make(source, plan, out, &options).unwrap();
    let model = Checkpoint::open(out).unwrap();
    let findings = verify(&model, 2, &Quiet).unwrap();
    assert!(findings.problems.is_empty() && findings.notes.is_empty(), "{findings:?}");
    model
}

/// Writes a model of made-up bf16 weights for a config, with the demo model's tokenizer, to `folder`. Experts
/// are as Hugging Face has them: a tensor each, or for a model that sees, stacks of which a row is an input.
pub fn write_made_up(folder: &Path, config: &Value) {
    let model = keeve_models::build(config).unwrap();
    let sees = model.vision.is_some();
    let (mut header, mut data) = (serde_json::Map::new(), Vec::<u8>::new());
    let mut seed = 1u32;
    let mut tensor = |name: String, shape: Vec<usize>| {
        let start = data.len();
        for _ in 0..shape.iter().product() {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let value = f32::from((seed >> 20) as i16 - 2048) / 16384.0;
            let value = if shape.len() == 1 { value + 1.0 } else { value };
            data.extend(((value.to_bits() >> 16) as u16).to_le_bytes());
        }
        let entry = json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, data.len()]});
        assert!(header.insert(name, entry).is_none());
    };
    for weight in model.weights() {
        let (rows, cols) = (weight.rows, weight.cols);
        let Some(experts) = weight.experts else {
            let shape = match rows {
                1 => vec![cols],
                _ if weight.name.ends_with("patch_embed.proj.weight") => vec![rows, 3, 2, 2, 2],
                _ => vec![rows, cols],
            };
            tensor(weight.name.clone(), shape);
            continue;
        };
        let (block, projection) = weight.name.split_once(".switch_mlp.").unwrap();
        match projection {
            _ if !sees => (0..experts).for_each(|expert| {
                tensor(format!("{block}.experts.{expert}.{projection}"), vec![rows, cols]);
            }),
            "gate_proj.weight" => {
                tensor(format!("{block}.experts.gate_up_proj"), vec![experts, cols, 2 * rows]);
            }
            "up_proj.weight" => {}
            _ => tensor(format!("{block}.experts.down_proj"), vec![experts, cols, rows]),
        }
    }
    let header = Value::from(header).to_string();
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.join(name), bytes).unwrap();
    std::fs::create_dir_all(folder).unwrap();
    write("model.safetensors", &file);
    write("config.json", config.to_string().as_bytes());
    let (_, tokenizer) =
        keeve_demo_model::FILES.iter().find(|(name, _)| *name == "tokenizer.json").unwrap();
    write("tokenizer.json", tokenizer);
    if sees {
        let settings = json!({
            "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "patch_size": 2,
            "temporal_patch_size": 2, "merge_size": 2, "min_pixels": 16, "max_pixels": 4096,
        });
        write("preprocessor_config.json", settings.to_string().as_bytes());
    }
}

/// The config of a qwen3_moe with two layers of four experts, every width a multiple of 256.
pub fn qwen3_moe() -> Value {
    json!({
        "model_type": "qwen3_moe", "hidden_size": 256, "intermediate_size": 256, "head_dim": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": 8192, "max_position_embeddings": 256, "hidden_act": "silu",
        "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": true, "num_experts": 4,
        "num_experts_per_tok": 2, "moe_intermediate_size": 256, "norm_topk_prob": true,
        "decoder_sparse_step": 1, "mlp_only_layers": [],
    })
}
