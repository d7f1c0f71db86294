#![no_main]

libfuzzer_sys::fuzz_target!(init: keeve_fuzz::let_caught_panics_pass(), |data: &[u8]| {
    keeve_fuzz::fuzzed("index", data);
});
