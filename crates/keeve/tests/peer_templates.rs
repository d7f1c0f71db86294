//! Chat templates as published, against Hugging Face's `transformers` as users have it in Python.
//!
//! `cargo xtask peers --only templates` fetches the templates and the package: the folder `llama.cpp` in `KEEVE_PEERS`, and
//! a Python with the package, `KEEVE_PEERS_PYTHON`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use std::path::PathBuf;
use std::process::Command;

#[test]
#[ignore = "needs llama.cpp's templates in KEEVE_PEERS and a Python with transformers in KEEVE_PEERS_PYTHON"]
fn templates_of_llama_cpp() {
    let given = |name: &str| std::env::var_os(name).unwrap_or_else(|| panic!("{name} is not set"));
    let script =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../jinja/tests/data/compare_templates.py");
    let templates = PathBuf::from(given("KEEVE_PEERS")).join("llama.cpp/models/templates");
    let ran = Command::new(given("KEEVE_PEERS_PYTHON"))
        .arg(script)
        .args([env!("CARGO_BIN_EXE_keeve").as_ref(), templates.as_os_str()])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    println!("{said}{}", String::from_utf8_lossy(&ran.stderr));
    // "N of M that transformers renders are equal", and before it a line for each other outcome.
    let last = said
        .lines()
        .rev()
        .find(|line| line.ends_with("are equal"))
        .expect("the script says how many are equal");
    let mut words = last.split(' ');
    let (equal, all) = (words.next().unwrap(), words.nth(1).unwrap());
    let of = |kind: &str| {
        let line = said.lines().find_map(|line| line.trim().strip_suffix(kind));
        line.map_or("0", str::trim).to_owned()
    };
    let adapted = of("messages put into the form that the template reads");
    let (only, both) = (of("rendered by keeve only"), of("refused by both"));
    println!(
        "peers: chat templates | {equal} | {all} | {adapted} more have messages put into the form that the template reads; {only} are rendered by keeve only, {both} refused by both"
    );
    assert!(ran.status.success(), "a rendering differs without a reason");
}
