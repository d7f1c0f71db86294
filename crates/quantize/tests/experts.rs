//! Experts made in memory, whether their file has them stacked or apart.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use keeve_checkpoint::Checkpoint;
use keeve_codec::{Codec, decode};
use keeve_graph::Weights;
use keeve_quantize::{Format, Made, Making, Plan, Recipe, Scheme};

fn opened(name: &str) -> Checkpoint {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/data/architectures");
    Checkpoint::open(&folder.join(name)).unwrap()
}

#[test]
fn experts_are_made_of_what_the_file_has() {
    for name in ["qwen3_moe", "olmoe", "mixtral", "qwen3_moe_sums"] {
        let checkpoint = opened(name);
        let first = checkpoint.tensors().find_map(|info| info.name.split_once(".experts.0."));
        let block = first.unwrap().0;
        let config = checkpoint.config();
        let field = |name: &str| config.get(name).and_then(serde_json::Value::as_u64);
        let count = field("num_experts").or_else(|| field("num_local_experts")).unwrap() as usize;
        let making = Making { importance: None, folds: None, threads: 1 };
        for (scheme, codec) in [("f32", Codec::F32), ("q8_0", Codec::Q8_0)] {
            let recipe: Recipe = scheme.parse::<Scheme>().unwrap().into();
            let plan = Plan::new(&checkpoint, &recipe, Format::Memory).unwrap();
            let made = Made::new(&checkpoint, &plan, making);
            for projection in ["gate_proj", "up_proj", "down_proj"] {
                let stack = format!("{block}.switch_mlp.{projection}.weight");
                let ours = made.experts(&stack, count).unwrap();
                let theirs = checkpoint.experts(&stack, count).unwrap();
                assert_eq!((ours.len(), theirs.len()), (count, count), "{name}");
                for (ours, theirs) in ours.iter().zip(&theirs) {
                    assert_eq!((ours.rows(), ours.cols()), (theirs.rows(), theirs.cols()));
                    let fits = ours.cols().is_multiple_of(32);
                    assert!(ours.codec() == codec || !fits, "{name} {stack}: {}", ours.codec());
                    let (ours, theirs) = (decode(ours), decode(theirs));
                    let largest = theirs.iter().fold(0.0f32, |most, value| most.max(value.abs()));
                    let bound = if scheme == "f32" { 0.0 } else { largest / 100.0 };
                    let near = |(a, b): (&f32, &f32)| (a - b).abs() <= bound;
                    assert!(ours.iter().zip(&theirs).all(near), "{name} {stack} as {scheme}");
                }
                let bytes: u64 = ours.iter().map(|expert| expert.bytes() as u64).sum();
                assert_eq!(made.experts_bytes(&stack, count).unwrap(), bytes, "{name} {stack}");
                assert!(made.experts(&stack, count + 1).is_err());
            }
        }
    }
}
