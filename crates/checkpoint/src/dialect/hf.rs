//! Hugging Face float checkpoints: every tensor stands under its own name.

use super::settings::{file_names, packed_name};
use super::{Entry, Translation};
use crate::{Error, StoredTensor};

/// # Errors
/// If weights are packed: then settings are missing.
pub(super) fn translate(stored: &[StoredTensor]) -> Result<Translation, Error> {
    if let Some(tensor) = packed_name(stored) {
        let files = file_names();
        let problem = format!(
            "belongs to packed weights, but neither 'quantization_config' in config.json nor any of {files} says how they are packed"
        );
        return Err(Error::tensor(&tensor.file, &tensor.name, problem));
    }
    let entries = stored.iter().map(|tensor| Entry::whole(tensor.name.clone(), tensor)).collect();
    Ok(Translation { label: "safetensors".into(), entries })
}
