//! Hugging Face float checkpoints: every tensor stands under its own name.

use super::{Entry, Translation};
use crate::StoredTensor;

pub(super) fn translate(stored: &[StoredTensor]) -> Translation {
    let entries = stored.iter().map(|tensor| Entry::whole(tensor.name.clone(), tensor)).collect();
    Translation { label: "safetensors".into(), entries }
}
