//! A safetensors header. The first byte of the input picks a config, the next two say how many bytes
//! of data follow the header, the rest is the header's text; its length is put before it, so that
//! the fuzzer need not guess it. The input as a whole is tried as a file as well.
#![no_main]

use keeve_codec::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let raw = Bytes::from(data.to_vec());
    let _ = keeve_checkpoint::safetensors::parse("raw".as_ref(), &raw);
    let [config, low, high, header @ ..] = data else { return };
    let config = keeve_fuzz::CONFIGS[usize::from(*config) % keeve_fuzz::CONFIGS.len()];
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header);
    file.resize(file.len() + usize::from(u16::from_le_bytes([*low, *high])), 7);
    let decoded = keeve_fuzz::exercise(&[
        ("config.json", Bytes::from(config.as_bytes().to_vec())),
        ("model.safetensors", Bytes::from(file)),
    ]);
    keeve_fuzz::count(decoded > 0);
});
