//! Qwen3-VL: which frequencies follow which axis, what the language model is given, and what is refused.

#![allow(clippy::unwrap_used, reason = "tests")]

use keeve_graph::Op;
use keeve_models::build;
use serde_json::{Value, json};

fn config() -> Value {
    json!({
        "model_type": "qwen3_vl", "image_token_id": 90, "tie_word_embeddings": true,
        "text_config": {
            "hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 16,
            "intermediate_size": 96, "num_hidden_layers": 3, "vocab_size": 100,
            "max_position_embeddings": 8192,
            "rope_scaling": {
                "rope_type": "default", "mrope_interleaved": true, "mrope_section": [4, 2, 2]
            },
        },
        "vision_config": {
            "depth": 4, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "in_channels": 3,
            "patch_size": 4, "temporal_patch_size": 2, "spatial_merge_size": 2,
            "out_hidden_size": 64, "num_position_embeddings": 25,
            "deepstack_visual_indexes": [0, 2], "hidden_act": "gelu_pytorch_tanh",
        },
    })
}

#[test]
fn sections_are_interleaved_up_to_their_length() {
    let model = build(&config()).unwrap();
    assert_eq!(model.graph.ropes()[0].axes, [0, 1, 2, 0, 1, 2, 0, 0]);
    // One layer more by height than by width.
    let mut uneven = config();
    uneven["text_config"]["rope_scaling"]["mrope_section"] = json!([3, 3, 2]);
    assert_eq!(build(&uneven).unwrap().graph.ropes()[0].axes, [0, 1, 2, 0, 1, 2, 0, 1]);
}

#[test]
fn the_language_model_is_given_what_its_first_layers_need() {
    let model = build(&config()).unwrap();
    assert_eq!(model.graph.given_width(), 3 * 64);
    let given = |op: &Op| if let Op::Given { start } = op { Some(*start) } else { None };
    let starts: Vec<_> = model.graph.nodes().iter().filter_map(|node| given(&node.op)).collect();
    assert_eq!(starts, [64, 128]);
    let vision = model.vision.unwrap();
    let features: Vec<_> = vision.blocks.iter().map(|block| block.features.is_some()).collect();
    assert_eq!(features, [true, false, true, false]);
    assert_eq!((vision.patch_width, vision.merged(), vision.positions.side), (3 * 2 * 16, 4, 5));
    assert_eq!(vision.embed.given_width(), 3 * 2 * 16 + 32);
    assert_eq!(vision.merger.given_width(), 4 * 32);
    assert!(vision.blocks.iter().all(|block| block.graph.takes_whole_sequences()));
    // Names are Hugging Face's, and no weight is both seen and read with.
    let seeing: Vec<_> = vision.weights().map(|weight| weight.name.as_str()).collect();
    assert!(seeing.iter().all(|name| name.starts_with("model.visual.")), "{seeing:?}");
    let text = model.graph.weights();
    assert!(text.iter().all(|weight| weight.name.starts_with("model.language_model.")));
    // Patches of an image of 4 by 6, four of a token after each other.
    let places: Vec<_> = vision.places(4, 6).map(|place| place.position).collect();
    assert_eq!(places.len(), 24);
    assert_eq!(places[..5], [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1], [0, 0, 2]]);
    assert_eq!(places[12], [0, 2, 0]);
}

#[test]
fn wrong_configs_are_refused_by_name() {
    let cases = [
        ("/text_config", Value::Null, "'text_config' is missing"),
        ("/vision_config", json!(3), "'vision_config' is missing"),
        ("/image_token_id", json!(100), "'image_token_id' is 100"),
        ("/image_token_id", json!(-1), "'image_token_id' is -1"),
        ("/text_config/rope_scaling", Value::Null, "no 'mrope_section'"),
        ("/text_config/rope_scaling/mrope_section", json!([4, 2]), "expected three lengths of 8"),
        (
            "/text_config/rope_scaling/mrope_section",
            json!([u64::MAX, 2, 7]),
            "expected three lengths of 8",
        ),
        ("/text_config/rope_scaling/mrope_interleaved", json!(false), "'mrope_interleaved'"),
        ("/vision_config/num_heads", json!(5), "'num_heads' is 5"),
        ("/vision_config/num_heads", json!(16), "'num_heads' is 16"),
        ("/vision_config/out_hidden_size", json!(32), "'out_hidden_size' is 32"),
        ("/vision_config/depth", Value::Null, "'depth' is missing"),
        ("/vision_config/depth", json!(1_u64 << 40), "'depth' is"),
        ("/vision_config/spatial_merge_size", json!(0), "'spatial_merge_size' is 0"),
        ("/vision_config/num_position_embeddings", json!(26), "expected a square"),
        ("/vision_config/deepstack_visual_indexes", json!([2, 0]), "below 4 in order"),
        ("/vision_config/deepstack_visual_indexes", json!([4]), "below 4 in order"),
        ("/vision_config/deepstack_visual_indexes", json!("x"), "below 4 in order"),
        ("/vision_config/deepstack_visual_indexes", json!([0, 1, 2, 3]), "names 4 layers"),
        ("/vision_config/hidden_act", json!("quick_gelu"), "quick_gelu"),
        ("/vision_config/patch_size", json!(1 << 24), "columns 0..1688849860263936"),
    ];
    for (field, value, part) in cases {
        let mut config = config();
        *config.pointer_mut(field).unwrap() = value;
        let error = build(&config).unwrap_err().to_string();
        assert!(error.contains(part) && !error.contains('\n'), "{field}: {error}");
    }
}
