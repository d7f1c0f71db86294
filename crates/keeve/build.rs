//! Tells the tests at build time what they can read, so that those that need more are reported as ignored: reference
//! data (as `testdata/build.rs` for the other crates), real models and data of peers.

fn main() {
    for (variable, name) in [
        ("KEEVE_TEST_DATA", "keeve_test_data"),
        ("KEEVE_REAL_MODELS", "keeve_real_models"),
        ("KEEVE_PEERS", "keeve_peers"),
    ] {
        println!("cargo::rerun-if-env-changed={variable}");
        println!("cargo::rustc-check-cfg=cfg({name})");
        if std::env::var_os(variable).is_some() {
            println!("cargo::rustc-cfg={name}");
        }
    }
}
