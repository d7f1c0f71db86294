//! What the integration tests share: reading reference files.

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
