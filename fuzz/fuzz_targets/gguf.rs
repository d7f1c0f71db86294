//! The bytes of a GGUF file: the container, its config, tensors and tokenizer.
#![no_main]

use keeve_codec::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let decoded = keeve_fuzz::exercise(&[("model.gguf", Bytes::from(data.to_vec()))]);
    keeve_fuzz::count(decoded > 0);
});
