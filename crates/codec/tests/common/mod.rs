//! Reading reference tensors.

use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

/// A safetensors file of this crate's test data.
#[allow(dead_code, reason = "not every test binary reads some")]
pub fn local(name: &str) -> Vec<u8> {
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name))
}

/// A file under `$KEEVE_TEST_DATA/fixtures`. Tests that call it are ignored without it.
#[allow(dead_code, reason = "not every test binary has full-size tests")]
pub fn shared(name: &str) -> Vec<u8> {
    let root = std::env::var_os("KEEVE_TEST_DATA").expect("KEEVE_TEST_DATA is set");
    read(&PathBuf::from(root).join("fixtures").join(name))
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A tensor that must be there.
pub fn get<'a>(file: &SafeTensors<'a>, name: &str) -> TensorView<'a> {
    file.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The values of a float tensor, widened.
#[allow(dead_code, reason = "not every test binary reads floats")]
pub fn floats(tensor: &TensorView<'_>) -> Vec<f32> {
    let data = tensor.data();
    let pairs = || data.as_chunks::<2>().0.iter();
    match tensor.dtype() {
        Dtype::F32 => data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        Dtype::F16 => pairs().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect(),
        Dtype::BF16 => pairs().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect(),
        other => panic!("{other:?} is not a float type"),
    }
}

/// Bit equality, naming the first difference.
#[allow(dead_code, reason = "not every test binary compares floats")]
pub fn assert_same_bits(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let same = found.to_bits() == expected.to_bits();
        assert!(same, "{what}: value {index} is {found:e}, expected {expected:e}");
    }
}
