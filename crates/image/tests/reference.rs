//! Pixel values and grids beside those of Hugging Face's processor.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};

use keeve_image::{Patches, Processor};
use safetensors::SafeTensors;

fn data() -> PathBuf {
    std::env::var_os("KEEVE_TEST_DATA").expect("set where the tests were built").into()
}

fn processor(folder: &Path, name: &str) -> Processor {
    let path = folder.join(name);
    Processor::from_json(&std::fs::read_to_string(&path).unwrap(), name).unwrap()
}

fn floats(file: &SafeTensors, name: &str) -> Vec<f32> {
    let bytes = file.tensor(name).unwrap().data();
    bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

fn grids(file: &SafeTensors, name: &str) -> Vec<usize> {
    let bytes = file.tensor(name).unwrap().data();
    bytes.as_chunks().0.iter().map(|&bytes| i32::from_le_bytes(bytes) as usize).collect()
}

/// Grids must be equal, values within a step of a byte, and all but 1 % of them equal.
fn compare(found: &[Patches], file: &SafeTensors, prefix: &str) {
    let grid: Vec<usize> = found.iter().flat_map(|patches| patches.grid).collect();
    assert_eq!(grid, grids(file, &format!("{prefix}.image_grid_thw")), "{prefix}");
    let values: Vec<f32> = found.iter().flat_map(|patches| patches.pixels.clone()).collect();
    let expected = floats(file, &format!("{prefix}.pixel_values"));
    assert_eq!(values.len(), expected.len(), "{prefix}");
    let off = |tolerance: f32| {
        values.iter().zip(&expected).filter(|(a, b)| (**a - **b).abs() > tolerance).count()
    };
    assert_eq!(off(1.0 / 127.5 + 1e-5), 0, "{prefix}: values off by more than one step");
    let unequal = off(1e-5);
    assert!(unequal == 0, "{prefix}: {unequal} of {} differ", values.len());
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn fixtures_are_as_the_reference_has_them() {
    let folder = data().join("fixtures/qwen3_vl");
    let bytes = std::fs::read(folder.join("ref.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for processor in [
        processor(&folder.join("hf"), "preprocessor_config.json"),
        processor(&folder.join("mlx-q4g64"), "preprocessor_config.json"),
        processor(&folder.join("mlx-q4g64"), "processor_config.json"),
    ] {
        let image =
            |name: &str| processor.process(&std::fs::read(folder.join(name)).unwrap()).unwrap();
        let [one, two, three] = ["img0.png", "img1.png", "img2.png"].map(image);
        compare(std::slice::from_ref(&one), &file, "one");
        compare(&[one.clone(), two.clone()], &file, "two");
        let grid = [three.grid, one.grid, two.grid].concat();
        assert_eq!(grid, grids(&file, "three.image_grid_thw"));
    }
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn pictures_of_the_demo_are_as_the_reference_has_them() {
    let model = data().join("models/demo-qwen3-vl");
    let processor = processor(&model, "preprocessor_config.json");
    let bytes = std::fs::read(model.join("reference.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let cases = data().join("data/vlm-cases");
    let images = |names: &[&str]| -> Vec<Patches> {
        names
            .iter()
            .map(|name| processor.process(&std::fs::read(cases.join(name)).unwrap()).unwrap())
            .collect()
    };
    compare(&images(&["case05_img1.png", "case05_img2.png"]), &file, "prompt1");
    compare(&images(&["case09_img1.png", "case09_img2.png", "case09_img3.png"]), &file, "prompt2");
    let listed: serde_json::Value =
        serde_json::from_slice(&std::fs::read(cases.join("cases.json")).unwrap()).unwrap();
    for case in listed["cases"].as_array().unwrap() {
        let names: Vec<&str> =
            case["images"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
        let grids: Vec<[usize; 3]> = images(&names).iter().map(|patches| patches.grid).collect();
        assert_eq!(serde_json::json!(grids), case["image_grid_thw"], "{}", case["id"]);
    }
}
