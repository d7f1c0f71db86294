//! The tokenizer in the metadata of a GGUF file: reading it, encoding a text and decoding that.
#![no_main]

use keeve_codec::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: keeve_fuzz::let_caught_panics_pass(), |data: &[u8]| {
    let bytes = Bytes::from(data.to_vec());
    let tables = keeve_checkpoint::gguf::parse("fuzz".as_ref(), &bytes)
        .and_then(|file| keeve_checkpoint::gguf::tokenizer::GgufTokenizer::from_metadata(&file.metadata));
    let Ok(Some(tables)) = tables else { return keeve_fuzz::count(false) };
    let tokenizer = keeve_engine::gguf_tokenizer::build(&tables);
    keeve_fuzz::count(tokenizer.is_ok_and(|tokenizer| keeve_fuzz::round_trip(&tokenizer)));
});
