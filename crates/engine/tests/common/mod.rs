//! What the integration tests share: reading reference files.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)] // Each test binary uses a part.

use std::path::PathBuf;

use serde_json::Value;

/// The folder of reference data too large for the repository.
pub fn data_folder() -> PathBuf {
    PathBuf::from(std::env::var_os("KEEVE_TEST_DATA").expect("KEEVE_TEST_DATA is not set"))
}

pub fn bytes(path: &std::path::Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub fn json(path: &std::path::Path) -> Value {
    serde_json::from_slice(&bytes(path))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub fn ids(value: &Value) -> Vec<u32> {
    let list = value.as_array().unwrap_or_else(|| panic!("not an id list: {value}"));
    list.iter().map(|id| id.as_u64().unwrap().try_into().unwrap()).collect()
}

pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("not a text: {value}"))
}

/// Tensors that another program computed.
pub struct Tensors(Vec<u8>);

impl Tensors {
    pub fn open(path: &std::path::Path) -> Self {
        Self(bytes(path))
    }

    fn words(&self, name: &str) -> Option<(Vec<usize>, Vec<[u8; 4]>)> {
        let file = safetensors::SafeTensors::deserialize(&self.0).expect("a safetensors file");
        let view = file.tensor(name).ok()?;
        Some((view.shape().to_vec(), view.data().as_chunks::<4>().0.to_vec()))
    }

    pub fn has(&self, name: &str) -> bool {
        self.words(name).is_some()
    }

    /// Shape and values of an `f32` tensor.
    pub fn floats(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let (shape, words) = self.words(name).unwrap_or_else(|| panic!("no tensor {name}"));
        (shape, words.into_iter().map(f32::from_le_bytes).collect())
    }

    /// Shape and values of an `i32` tensor.
    pub fn numbers(&self, name: &str) -> (Vec<usize>, Vec<i32>) {
        let (shape, words) = self.words(name).unwrap_or_else(|| panic!("no tensor {name}"));
        (shape, words.into_iter().map(i32::from_le_bytes).collect())
    }
}

/// Frobenius norm of the difference over that of `expected`.
pub fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len(), "number of values");
    let square = |x: f32| f64::from(x) * f64::from(x);
    let error: f64 = found.iter().zip(expected).map(|(a, b)| square(a - b)).sum();
    (error / expected.iter().map(|x| square(*x)).sum::<f64>()).sqrt()
}

/// The images whose patches follow each other in `pixels`, with these grids.
pub fn images(pixels: &[f32], grids: &[i32]) -> Vec<std::sync::Arc<keeve_image::Patches>> {
    let grids: Vec<[usize; 3]> =
        grids.as_chunks::<3>().0.iter().map(|grid| grid.map(|side| side as usize)).collect();
    let rows: usize = grids.iter().map(|grid| grid.iter().product::<usize>()).sum();
    let width = pixels.len() / rows;
    let mut rest = pixels;
    let image = |grid: &[usize; 3]| {
        let (own, after) = rest.split_at(grid.iter().product::<usize>() * width);
        rest = after;
        std::sync::Arc::new(keeve_image::Patches::new(own.to_vec(), *grid))
    };
    grids.iter().map(image).collect()
}

/// A prompt with one token for each image: runs of `pad` made short.
pub fn short(ids: &[i32], pad: u32) -> Vec<u32> {
    let mut ids: Vec<u32> = ids.iter().map(|&id| id as u32).collect();
    ids.dedup_by(|a, b| *a == pad && *b == pad);
    ids
}
