//! A `tokenizer.json`: reading it, encoding a text and decoding that.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: keeve_fuzz::let_caught_panics_pass(), |data: &[u8]| {
    let tokenizer = keeve_engine::Tokenizer::from_json(data, &["</s>"]);
    keeve_fuzz::count(tokenizer.is_ok_and(|tokenizer| keeve_fuzz::round_trip(&tokenizer)));
});
