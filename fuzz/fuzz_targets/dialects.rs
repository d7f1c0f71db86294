//! Every dialect of safetensors: a config and tensors of any names, types and shapes; see `dialects.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(files) = keeve_fuzz::dialects::files(data) else { return };
    keeve_fuzz::count(keeve_fuzz::exercise(&files) > 0);
});
