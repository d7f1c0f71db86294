//! Tells the tests at build time whether reference data is at hand, so that those that need it are
//! reported as ignored when it is not.

fn main() {
    println!("cargo::rerun-if-env-changed=KEEVE_TEST_DATA");
    println!("cargo::rustc-check-cfg=cfg(keeve_test_data)");
    if std::env::var_os("KEEVE_TEST_DATA").is_some() {
        println!("cargo::rustc-cfg=keeve_test_data");
    }
}
