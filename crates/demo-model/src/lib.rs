//! A small language model, trained for keeve, that is part of the program.
//!
//! The weights derive from CC BY-SA text and are to be treated as CC BY-SA 3.0 with attribution;
//! `model/MODEL_CARD.md` says from what. Nothing but the `keeve` binary depends on this crate.
//! `examples/make.rs` made the files from the float original.

#![forbid(unsafe_code)]

/// Bytes that start on a 64-byte boundary, as kernels like them.
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

static WEIGHTS: &Aligned<[u8]> = &Aligned(*include_bytes!("../model/model.safetensors"));

/// The files of the model, by the names they have in a model's folder.
pub static FILES: [(&str, &[u8]); 6] = [
    ("model.safetensors", &WEIGHTS.0),
    ("config.json", include_bytes!("../model/config.json")),
    ("generation_config.json", include_bytes!("../model/generation_config.json")),
    ("tokenizer.json", include_bytes!("../model/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../model/tokenizer_config.json")),
    ("chat_template.jinja", include_bytes!("../model/chat_template.jinja")),
];

#[cfg(test)]
mod tests {
    #[test]
    fn weights_are_aligned() {
        assert!(super::FILES[0].1.as_ptr().addr().is_multiple_of(64));
    }
}
