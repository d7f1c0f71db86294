//! Names of tensors as wrappers and other programs spell them, brought to those of Hugging Face's models.
//!
//! Sources: huggingface/transformers `src/transformers/modeling_utils.py` (a model's `base_model_prefix` is added or
//! taken away as the file needs, and buffers that models no longer have are passed over); ml-explore/mlx-lm
//! `mlx_lm/models/` (each `sanitize`); ggml-org/llama.cpp `convert_hf_to_gguf.py` (tensors that it skips).

use std::path::Path;

use crate::Error;
use crate::dialect::Entry;

/// Parts of names that PyTorch's wrappers of modules add anywhere (`torch.compile`, FSDP, checkpointing).
const WRAPPERS: [&str; 3] = ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];

/// What wrappers of whole models add at the beginning (DDP, PEFT).
const OUTER: [&str; 2] = ["base_model.model.", "module."];

/// Buffers that models once stored and compute today.
const BUFFERS: [&str; 6] = [
    ".rotary_emb.inv_freq",
    ".rotary_emb.cos_cached",
    ".rotary_emb.sin_cached",
    ".attn.masked_bias",
    ".attention.masked_bias",
    "position_ids",
];

/// The entries under Hugging Face's names.
///
/// # Errors
/// If the file holds what cannot be read by names: adapters that were not merged, or the layout of a model's makers.
pub(crate) fn canonical(path: &Path, mut entries: Vec<Entry>) -> Result<Vec<Entry>, Error> {
    for entry in &entries {
        let wrong = |problem: &str| Error::tensor(path, &entry.info.name, problem);
        if [".lora_A.", ".lora_B.", ".base_layer."]
            .iter()
            .any(|part| entry.info.name.contains(part))
        {
            return Err(wrong("is of an adapter (LoRA) that was not merged into the model"));
        }
        if entry.info.name.ends_with(".attention.wq.weight") {
            return Err(wrong(
                "is in the layout of the model's makers; take the files in Hugging Face's layout",
            ));
        }
    }
    entries.retain(|entry| !BUFFERS.iter().any(|buffer| entry.info.name.ends_with(buffer)));
    for entry in &mut entries {
        let name = &mut entry.info.name;
        if WRAPPERS.iter().any(|wrapper| name.contains(wrapper)) {
            let kept: Vec<&str> = name.split('.').filter(|part| !WRAPPERS.contains(part)).collect();
            *name = kept.join(".");
        }
    }
    // A prefix counts if it stands before everything: then nothing else can be meant.
    for prefix in OUTER {
        if !entries.is_empty() && entries.iter().all(|entry| entry.info.name.starts_with(prefix)) {
            for entry in &mut entries {
                entry.info.name.drain(..prefix.len());
            }
        }
    }
    let any = |start: &str| entries.iter().any(|entry| entry.info.name.starts_with(start));
    if any("model.model.layers.") && !any("model.layers.") {
        for entry in &mut entries {
            if entry.info.name.starts_with("model.") {
                entry.info.name.drain(.."model.".len());
            }
        }
    } else if any("layers.0.") && !any("model.") {
        // The model without what stands around it: the inner class of transformers, saved by itself.
        for entry in &mut entries {
            let own = ["layers.", "embed_tokens.", "norm."];
            if own.iter().any(|start| entry.info.name.starts_with(start)) {
                entry.info.name.insert_str(0, "model.");
            }
        }
    }
    Ok(entries)
}

/// Whether the names are those of a language model inside another model, such as one that sees.
pub(crate) fn is_inside(entries: &[Entry]) -> bool {
    let inside = ["language_model.model.", "model.language_model."];
    entries.iter().any(|entry| inside.iter().any(|start| entry.info.name.starts_with(start)))
}
