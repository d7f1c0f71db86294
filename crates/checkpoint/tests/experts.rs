//! Experts' matrices, however a file holds them, and files that hold them wrongly.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod common;

use common::{model, open};
use keeve_checkpoint::Checkpoint;
use keeve_codec::PackedTensor;
use serde_json::json;

const BLOCK: &str = "model.layers.0.mlp";

type Tensor<'a> = (&'a str, &'a str, &'a [usize], usize);

fn checkpoint(tensors: &[Tensor<'_>]) -> Checkpoint {
    open(&model(json!({}), tensors)).unwrap()
}

fn names(formats: &[&str]) -> Vec<String> {
    formats.iter().map(|name| format!("{BLOCK}.{name}")).collect()
}

/// The first byte of each expert's matrix, and its shape.
fn firsts(experts: &[PackedTensor]) -> Vec<(u8, usize, usize)> {
    experts.iter().map(|e| (e.parts().data[0], e.rows(), e.cols())).collect()
}

fn stack(name: &str) -> String {
    format!("{BLOCK}.switch_mlp.{name}.weight")
}

#[test]
fn stacks_are_taken_apart() {
    let up = stack("up_proj");
    let found = checkpoint(&[(&up, "BF16", &[3, 2, 4], 48)]);
    assert_eq!(firsts(&found.experts(&up, 3).unwrap()), [(0, 2, 4), (16, 2, 4), (32, 2, 4)]);
    for count in [2, 4] {
        let error = found.experts(&up, count).unwrap_err().to_string();
        let expected = format!("has 3 experts, the config has {count}");
        assert!(error.contains(&expected) && error.contains(&up), "{error}");
    }
    let error = found.experts(&stack("down_proj"), 3).unwrap_err().to_string();
    assert!(error.contains("experts.0.down_proj.weight") && error.contains("is not in"), "{error}");
}

#[test]
fn single_experts_are_gathered() {
    let names = names(&["experts.0.up_proj.weight", "experts.1.up_proj.weight"]);
    let found = checkpoint(&[
        (&names[0], "F16", &[2, 3], 12),
        (&names[1], "F16", &[2, 3], 12),
        ("other", "F16", &[2], 4),
    ]);
    assert_eq!(firsts(&found.experts(&stack("up_proj"), 2).unwrap()), [(0, 2, 3), (12, 2, 3)]);
    let error = found.experts(&stack("up_proj"), 3).unwrap_err().to_string();
    assert!(error.contains("experts.2.up_proj.weight") && error.contains("is not in"), "{error}");
    let error = found.experts(&stack("up_proj"), 1).unwrap_err().to_string();
    assert!(error.contains("experts.1.up_proj.weight") && error.contains("one expert more"));
    for wrong in ["model.norm.weight", &stack("other_proj"), "a.switch_mlp.up_proj"] {
        let error = found.experts(wrong, 2).unwrap_err().to_string();
        assert!(error.contains(wrong) && error.contains("is not in"), "{error}");
    }
}

#[test]
fn mixtral_calls_them_otherwise() {
    let block = "model.layers.0.block_sparse_moe";
    let names: Vec<String> = ["w1", "w2", "w3"]
        .iter()
        .flat_map(|w| (0..2).map(move |e| format!("{block}.experts.{e}.{w}.weight")))
        .collect();
    let tensors: Vec<Tensor<'_>> =
        names.iter().map(|name| (name.as_str(), "F32", &[1, 2][..], 8)).collect();
    let found = checkpoint(&tensors);
    let first = |projection: &str| {
        let name = format!("{block}.switch_mlp.{projection}.weight");
        firsts(&found.experts(&name, 2).unwrap()).iter().map(|e| e.0).collect::<Vec<_>>()
    };
    assert_eq!(first("gate_proj"), [0, 8]);
    assert_eq!(first("down_proj"), [16, 24]);
    assert_eq!(first("up_proj"), [32, 40]);
}

#[test]
fn fused_stacks_are_halved() {
    let names = names(&["experts.gate_up_proj", "experts.down_proj"]);
    let found =
        checkpoint(&[(&names[0], "F32", &[2, 4, 1], 32), (&names[1], "F32", &[2, 1, 2], 16)]);
    let experts = |name: &str| firsts(&found.experts(&stack(name), 2).unwrap());
    assert_eq!(experts("gate_proj"), [(0, 2, 1), (16, 2, 1)]);
    assert_eq!(experts("up_proj"), [(8, 2, 1), (24, 2, 1)]);
    assert_eq!(experts("down_proj"), [(32, 1, 2), (40, 1, 2)]);
    let error = found.experts(&stack("up_proj"), 5).unwrap_err().to_string();
    assert!(error.contains("has 2 experts, the config has 5"), "{error}");
    let odd = checkpoint(&[(&names[0], "F32", &[2, 3, 1], 24)]);
    let error = odd.experts(&stack("gate_proj"), 2).unwrap_err().to_string();
    assert!(error.contains("has 3 rows") && error.contains("gate_up_proj"), "{error}");
}

#[test]
fn experts_are_stacked() {
    let single = names(&["experts.0.up_proj.weight", "experts.1.up_proj.weight"]);
    let fused = names(&["experts.gate_up_proj", "experts.down_proj"]);
    let found = checkpoint(&[
        (&single[1], "F16", &[2, 3], 12),
        ("other", "F16", &[2], 4),
        (&single[0], "F16", &[2, 3], 12),
    ]);
    let all = found.tensors_stacked().unwrap();
    let shapes: Vec<_> = all.iter().map(|info| (&info.name[..], &info.shape[..])).collect();
    let up = stack("up_proj");
    assert_eq!(shapes, [(&up[..], &[2, 2, 3][..]), ("other", &[2])]);
    assert_eq!((all[0].bytes, all[0].stored_names.len()), (24, 2));
    let stacked = found.stacked(&up, 2).unwrap();
    assert_eq!((stacked.experts(), stacked.rows(), stacked.cols()), (2, 2, 3));
    let each = found.experts(&up, 2).unwrap();
    for (index, expert) in each.iter().enumerate() {
        assert!(stacked.expert(index).unwrap() == *expert);
    }
    // In the form of transformers 5.
    let found =
        checkpoint(&[(&fused[0], "F32", &[2, 4, 1], 32), (&fused[1], "F32", &[2, 1, 2], 16)]);
    let all = found.tensors_stacked().unwrap();
    let names: Vec<_> = all.iter().map(|info| info.name.clone()).collect();
    assert_eq!(names, ["down_proj", "gate_proj", "up_proj"].map(stack));
    assert_eq!(all.iter().map(|info| info.bytes).collect::<Vec<_>>(), [16, 16, 16]);
    for info in &all {
        let stacked = found.stacked(&info.name, 2).unwrap();
        assert_eq!([stacked.experts(), stacked.rows(), stacked.cols()], info.shape[..]);
    }
    assert!(found.stacked(&up, 3).is_err());
    // Stacks stay what they are.
    let found = checkpoint(&[(&up, "BF16", &[3, 2, 4], 48)]);
    assert_eq!(found.tensors_stacked().unwrap(), found.tensors().cloned().collect::<Vec<_>>());
    assert!(found.stacked(&up, 3).unwrap() == found.tensor(&up).unwrap());
}

/// What a stack cannot say is told, and not that experts differ, which they do not.
#[test]
fn rotated_experts_are_not_stacked() {
    let names = names(&["experts.0.up_proj.weight", "experts.1.up_proj.weight"]);
    let inputs = json!({"targets": ["re:.*up_proj$"], "location": "input"});
    let config = json!({"quantization_config": {"quant_method": "compressed-tensors", "format": "int-quantized",
        "config_groups": {}, "transform_config": {"config_groups": {"R": {"type": "hadamard", "apply": [inputs]}}}}});
    let tensors: Vec<Tensor<'_>> =
        names.iter().map(|name| (name.as_str(), "F16", &[2, 4][..], 16)).collect();
    let found = open(&model(config, &tensors)).unwrap();
    let all = found.tensors_stacked().unwrap();
    assert!(all.len() == 1 && all[0].has_basis, "{all:?}");
    assert!(found.experts(&stack("up_proj"), 2).is_ok());
    let error = found.stacked(&stack("up_proj"), 2).unwrap_err().to_string();
    assert!(error.contains("has experts whose rows are rotated"), "{error}");
}

#[test]
fn stacks_that_lack_an_expert_are_refused() {
    let named = names(&["experts.0.up_proj.weight", "experts.2.up_proj.weight"]);
    let twice = names(&["experts.0.up_proj.weight", "experts.00.up_proj.weight"]);
    let far = names(&["experts.18446744073709551615.up_proj.weight"]);
    for names in [named, twice, far] {
        let tensors: Vec<Tensor<'_>> =
            names.iter().map(|name| (name.as_str(), "F16", &[2, 3][..], 12)).collect();
        let error = checkpoint(&tensors).tensors_stacked().unwrap_err().to_string();
        assert!(error.contains("but not one of expert") && !error.contains('\n'), "{error}");
    }
    let names = names(&["experts.0.up_proj.weight", "experts.1.up_proj.weight"]);
    let found = checkpoint(&[(&names[0], "F16", &[2, 3], 12), (&names[1], "F32", &[2, 3], 24)]);
    let error = found.tensors_stacked().unwrap_err().to_string();
    assert!(error.contains("another shape or codec"), "{error}");
    assert!(found.stacked(&stack("up_proj"), 2).is_err());
    let odd = checkpoint(&[(&format!("{BLOCK}.experts.gate_up_proj"), "F32", &[2, 3, 1], 24)]);
    let error = odd.tensors_stacked().unwrap_err().to_string();
    assert!(error.contains("has 3 rows"), "{error}");
}
