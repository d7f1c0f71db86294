use keeve_checkpoint::Checkpoint;
use keeve_cpu::{Cpu, CpuOptions, Isa};
use keeve_graph::{Activations, Weights};

use super::*;
use crate::images::Sight;

#[path = "../tests/common/mod.rs"]
mod common;

use common::{Tensors, data_folder, images, relative_error, short};

/// Relative Frobenius error that `f32` arithmetic in another order may cost.
const FLOAT: f64 = 1e-4;
/// What rounding to bf16, of eight bits, may cost over some layers.
const BF16: f64 = 3e-2;

fn features(values: usize) -> Arc<Features> {
    Arc::new(Features { values: vec![0.0; values], width: 1 })
}

#[test]
fn the_cache_forgets_what_nobody_asked_for_the_longest() {
    let mut cache = Cache::new(40);
    cache.add([1; 32], &features(4));
    cache.add([2; 32], &features(4));
    assert!(cache.get(&[1; 32]).is_some());
    cache.add([3; 32], &features(3));
    assert!(cache.get(&[2; 32]).is_none());
    assert!(cache.get(&[1; 32]).is_some() && cache.get(&[3; 32]).is_some());
    // More than there is room for is not kept, and takes nobody's place.
    cache.add([4; 32], &features(11));
    assert!(cache.get(&[4; 32]).is_none() && cache.get(&[1; 32]).is_some());
    cache.add([5; 32], &features(10));
    assert_eq!((cache.entries.len(), cache.used), (1, 40));
}

struct FromFile(Checkpoint);

impl Weights for FromFile {
    fn weight(
        &self,
        name: &str,
    ) -> Result<keeve_codec::PackedTensor, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.0.tensor(name)?)
    }
}

/// The part of a model that sees, and what its prompts need.
fn eyes(folder: &str, isa: Isa, activations: Activations) -> (Eyes, Sight) {
    let checkpoint = Checkpoint::open(&data_folder().join(folder)).unwrap();
    let vision = keeve_models::build(checkpoint.config()).unwrap().vision.unwrap();
    let sight = Sight::new(&vision, 1000);
    let cpu = Cpu::new(CpuOptions { threads: 2, isa }).unwrap();
    let options = LoadOptions { activations, ..LoadOptions::default() };
    let weights = FromFile(checkpoint);
    (Eyes::load(vision, &cpu, &weights, &options, 0).unwrap(), sight)
}

/// All rows that the language model is given for `images`, which are seen together.
fn seen(eyes: &Eyes, images: &[Arc<Patches>]) -> Vec<Arc<Features>> {
    let mut job = Job::new(images.to_vec(), &eyes.vision);
    loop {
        if let Some(made) = eyes.stage(&mut job).unwrap() {
            return made.into_iter().map(|(_, features)| features).collect();
        }
    }
}

/// The columns `part` of all rows of `features`, rows being of parts of `width`.
fn columns(features: &[Arc<Features>], part: usize, width: usize) -> Vec<f32> {
    let rows = features.iter().flat_map(|image| image.values.chunks_exact(image.width));
    rows.flat_map(|row| row[part * width..][..width].to_vec()).collect()
}

/// What is seen, against tensors of transformers: `image` and `layer` name those of a case.
fn check_seen(folder: &str, reference: &Tensors, case: &str, [image, layer]: [&str; 2]) {
    let (_, pixels) = reference.floats(&format!("{case}.pixel_values"));
    let (_, grids) = reference.numbers(&format!("{case}.image_grid_thw"));
    let images = images(&pixels, &grids);
    let (_, expected) = reference.floats(&format!("{case}.{image}"));
    for isa in Isa::found() {
        for (activations, bound) in [(Activations::Float, FLOAT), (Activations::Bf16, BF16)] {
            let (eyes, _) = eyes(folder, isa, activations);
            let together = seen(&eyes, &images);
            let tokens: usize = together.iter().map(|one| one.values.len() / one.width).sum();
            let width = expected.len() / tokens;
            for part in 0..=3usize {
                let expected = match part.checked_sub(1) {
                    None => expected.clone(),
                    Some(index) => reference.floats(&format!("{case}.{layer}{index}")).1,
                };
                let error = relative_error(&columns(&together, part, width), &expected);
                println!("{folder} {case} {isa} {activations:?} part {part}: {error:.1e}");
                assert!(error < bound, "{folder} {case} {isa} {activations:?}: {error:.1e}");
            }
            // Seen alone, each image is the same.
            for (image, together) in images.iter().zip(&together) {
                let alone = &seen(&eyes, std::slice::from_ref(image))[0];
                assert!(alone.values == together.values, "{isa} {activations:?}");
            }
        }
    }
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn images_are_seen_as_transformers_sees_them() {
    let reference = Tensors::open(&data_folder().join("fixtures/qwen3_vl/ref.safetensors"));
    for case in ["one", "two"] {
        for model in ["hf", "mlx-q4g64"] {
            let folder = format!("fixtures/qwen3_vl/{model}");
            check_seen(&folder, &reference, case, ["image_embeds", "deepstack."]);
        }
    }
    let folder = "models/demo-qwen3-vl";
    let reference = Tensors::open(&data_folder().join(folder).join("reference.safetensors"));
    for case in ["prompt1", "prompt2"] {
        check_seen(folder, &reference, case, ["vision_features", "deepstack"]);
    }
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn positions_are_those_of_transformers() {
    let check = |folder: &str, reference: &Tensors, case: &str, pad: u32, delta: i64| {
        let (_, sight) = eyes(folder, Isa::Scalar, Activations::Float);
        let (_, ids) = reference.numbers(&format!("{case}.input_ids"));
        let (_, grids) = reference.numbers(&format!("{case}.image_grid_thw"));
        let rows: i32 =
            grids.as_chunks::<3>().0.iter().map(|grid| grid.iter().product::<i32>()).sum();
        let images = images(&vec![0.0; rows as usize * 1536], &grids);
        let prompt = sight.prompt(&short(&ids, pad), images, 1000).unwrap();
        assert!(prompt.tokens.iter().map(|&id| id as i32).eq(ids.iter().copied()), "{case}");
        let (_, expected) = reference.numbers(&format!("{case}.position_ids"));
        for index in 0..ids.len() {
            let expected = [0, 1, 2].map(|axis| expected[axis * ids.len() + index] as u32);
            assert_eq!(prompt.positions.at(index), expected, "{case} at {index}");
        }
        // What is generated goes on at its place plus the delta.
        for index in ids.len()..ids.len() + 20 {
            assert_eq!(prompt.positions.at(index), [(index as i64 + delta) as u32; 3], "{case}");
        }
    };
    let reference = Tensors::open(&data_folder().join("fixtures/qwen3_vl/ref.safetensors"));
    for case in ["one", "two", "three"] {
        let delta = reference.numbers(&format!("{case}.rope_deltas")).1[0];
        check("fixtures/qwen3_vl/hf", &reference, case, 510, delta.into());
    }
    let folder = "models/demo-qwen3-vl";
    let reference = Tensors::open(&data_folder().join(folder).join("reference.safetensors"));
    for (case, delta) in [("prompt1", -33), ("prompt2", -41)] {
        check(folder, &reference, case, 8178, delta);
    }
}
