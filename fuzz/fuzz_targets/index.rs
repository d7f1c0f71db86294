//! Models in several files: an index of safetensors files and their headers, or parts of a GGUF file. The first byte of
//! the input says which; two lengths of two bytes cut the rest into three.
#![no_main]

use keeve_codec::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let [kind, a, b, c, d, rest @ ..] = data else { return };
    let cut = |low: &u8, high: &u8| usize::from(u16::from_le_bytes([*low, *high]));
    let Some((first, rest)) = rest.split_at_checked(cut(a, b)) else { return };
    let Some((second, third)) = rest.split_at_checked(cut(c, d)) else { return };
    let bytes = |part: &[u8]| Bytes::from(part.to_vec());
    let decoded = if kind % 2 == 0 {
        // Headers as text, each with as much data as it needs.
        keeve_fuzz::exercise(&[
            ("config.json", bytes(b"{}")),
            ("model.safetensors.index.json", bytes(first)),
            ("model-00001-of-00002.safetensors", keeve_fuzz::safetensors(second)),
            ("model-00002-of-00002.safetensors", keeve_fuzz::safetensors(third)),
        ])
    } else {
        keeve_fuzz::exercise(&[
            ("m-00001-of-00003.gguf", bytes(first)),
            ("m-00002-of-00003.gguf", bytes(second)),
            ("m-00003-of-00003.gguf", bytes(third)),
        ])
    };
    keeve_fuzz::count(decoded > 0);
});
