//! Qwen3-VL with experts: its language model is Qwen3-MoE, whose logits transformers computed, so on text both must
//! say the same. Hugging Face stores its experts the other way.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::path::Path;
use std::sync::Arc;

use keeve_checkpoint::Checkpoint;
use keeve_codec::Bytes;
use keeve_engine::{Engine, EngineOptions, Event, Request};
use keeve_graph::Activations;
use keeve_image::Patches;
use safetensors::SafeTensors;
use serde_json::{Value, json};

/// Relative Frobenius error that `f32` arithmetic in another order may cost.
const MOST: f64 = 1e-5;
/// The token of images, which is none of the prompt's.
const PAD: u32 = 63;

type Tensor = (String, Vec<usize>, Vec<f32>);

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// Rows as columns.
fn transposed(rows: usize, cols: usize, values: &[f32]) -> Vec<f32> {
    (0..cols).flat_map(|col| (0..rows).map(move |row| values[row * cols + col])).collect()
}

/// The tensors of Qwen3-MoE under the names of Qwen3-VL, experts stacked: gate and up together.
fn language_model(source: &Checkpoint, experts: usize) -> Vec<Tensor> {
    let own = |name: &str| name.replacen("model.", "model.language_model.", 1);
    let read = |name: &str| {
        let tensor = source.tensor(name).expect(name);
        (source.info(name).expect(name).shape.clone(), keeve_codec::decode(&tensor))
    };
    let names: Vec<&str> = source.tensors().map(|tensor| tensor.name.as_str()).collect();
    let mut tensors = vec![];
    for name in names.iter().filter(|name| !name.contains(".experts.")) {
        let (shape, values) = read(name);
        tensors.push((own(name), shape, values));
    }
    for name in names {
        let Some(block) = name.strip_suffix(".0.gate_proj.weight") else { continue };
        let each = |projection: &str| -> Vec<_> {
            (0..experts).map(|at| read(&format!("{block}.{at}.{projection}.weight"))).collect()
        };
        let (gate, up, down) = (each("gate_proj"), each("up_proj"), each("down_proj"));
        let (width, hidden) = (gate[0].0[0], gate[0].0[1]);
        let both = gate.iter().zip(&up).flat_map(|((_, gate), (_, up))| {
            transposed(2 * width, hidden, &[gate.as_slice(), up].concat())
        });
        let shape = vec![experts, hidden, 2 * width];
        tensors.push((own(&format!("{block}.gate_up_proj")), shape, both.collect()));
        let down = down.iter().flat_map(|(_, down)| transposed(hidden, width, down));
        let shape = vec![experts, width, hidden];
        tensors.push((own(&format!("{block}.down_proj")), shape, down.collect()));
    }
    tensors
}

/// Something to see with.
fn seeing(config: &Value) -> Vec<Tensor> {
    let vision = keeve_models::build(config).expect("a model").vision.expect("it sees");
    let value = |at: usize| ((at * 37 % 101) as f32 - 50.0) / 200.0;
    let tensor = |weight: &keeve_graph::Weight| {
        let shape = match weight.rows {
            1 => vec![weight.cols],
            rows if weight.name.ends_with("patch_embed.proj.weight") => vec![rows, 3, 2, 2, 2],
            rows => vec![rows, weight.cols],
        };
        let values = (0..weight.rows * weight.cols).map(value).collect();
        (weight.name.clone(), shape, values)
    };
    vision.weights().map(tensor).collect()
}

fn safetensors(tensors: &[Tensor]) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), vec![]);
    for (name, shape, values) in tensors {
        let start = data.len();
        data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(name.clone(), entry);
    }
    let header = Value::from(header).to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()
}

/// Logits of every position of a prompt.
fn logits(engine: &Engine, prompt: &[u32], images: Vec<Arc<Patches>>) -> Vec<f32> {
    let request = Request {
        prompt: prompt.into(),
        images,
        max_tokens: Some(0),
        prompt_logits: true,
        ..Request::default()
    };
    let mut all = vec![];
    for event in engine.submit(request).expect("a request") {
        match event {
            Event::PromptLogits { values, .. } => all.extend(values),
            Event::Finished { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    all
}

#[test]
fn on_text_it_says_what_qwen3_moe_does_and_it_sees() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/architectures/qwen3_moe");
    let read = |name: &str| std::fs::read(folder.join(name)).expect(name);
    let mut text: Value = serde_json::from_slice(&read("config.json")).unwrap();
    text["model_type"] = "qwen3_vl_moe_text".into();
    // Said or not, weights of experts are divided by their sum.
    text.as_object_mut().unwrap().remove("norm_topk_prob");
    let rope = text.as_object_mut().unwrap().remove("rope_parameters").unwrap();
    text["rope_theta"] = rope["rope_theta"].clone();
    text["rope_scaling"] = json!({
        "rope_type": "default", "mrope_interleaved": true, "mrope_section": [4, 2, 2],
    });
    let (hidden, experts) = (text["hidden_size"].clone(), text["num_local_experts"].as_u64());
    let config = json!({
        "model_type": "qwen3_vl_moe", "image_token_id": PAD, "tie_word_embeddings": false,
        "text_config": text,
        "vision_config": {
            "depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2,
            "in_channels": 3, "patch_size": 2, "temporal_patch_size": 2, "spatial_merge_size": 2,
            "out_hidden_size": hidden, "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0], "hidden_act": "gelu_pytorch_tanh",
        },
    });
    let source = Checkpoint::open(&folder).unwrap();
    let mut tensors = language_model(&source, experts.unwrap() as usize);
    tensors.extend(seeing(&config));
    let files = [
        ("config.json", Bytes::from(config.to_string().into_bytes())),
        ("model.safetensors", Bytes::from(safetensors(&tensors))),
    ];
    let checkpoint = Checkpoint::from_memory(&files).unwrap();
    let stack = "model.language_model.layers.3.mlp.experts.down_proj";
    assert_eq!(checkpoint.info(stack).unwrap().shape, [6, 32, 20]);

    let reference = read("reference.safetensors");
    let reference = SafeTensors::deserialize(&reference).unwrap();
    let tokens = reference.tensor("tokens").unwrap();
    let tokens = tokens.data().as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes));
    // A token that stands for images stands for nothing else; what comes before it is not changed by it.
    let tokens: Vec<u32> = tokens.take_while(|&token| token != PAD).collect();
    assert!(tokens.len() > 3, "{tokens:?}");
    let expected = floats(reference.tensor("logits").unwrap().data());
    let expected = &expected[..tokens.len() * 64];
    let with_image = [&tokens[..2], &[PAD], &tokens[2..]].concat();
    let image = |value: f32| Arc::new(Patches::new(vec![value; 4 * 6 * 24], [1, 4, 6]));
    let mut seen = vec![];
    for prefill_chunk in [1, 3, 512] {
        let activations = Activations::Float;
        let options = EngineOptions { activations, prefill_chunk, ..EngineOptions::default() };
        let engine = Engine::load(&checkpoint, &options, &|_| true).unwrap();
        let found = logits(&engine, &tokens, vec![]);
        assert_eq!(found.len(), expected.len());
        let square = |x: f32| f64::from(x) * f64::from(x);
        let error: f64 = found.iter().zip(expected).map(|(a, b)| square(a - b)).sum();
        let norm: f64 = expected.iter().map(|x| square(*x)).sum();
        assert!((error / norm).sqrt() < MOST, "chunks of {prefill_chunk}: {error} of {norm}");
        let [one, other] =
            [0.5, -0.25].map(|value| logits(&engine, &with_image, vec![image(value)]));
        assert_ne!(one, other);
        seen.push(one.iter().map(|value| value.to_bits()).collect::<Vec<_>>());
    }
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "chunks change what is said");
}
