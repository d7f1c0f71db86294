//! Tokenizer files as published, against Hugging Face's `tokenizers` package as users have it in Python.
//!
//! `cargo xtask peers --only minilm` fetches the files and the package: the folder `minilm` in `KEEVE_PEERS`, and a Python
//! with the package, `KEEVE_PEERS_PYTHON`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use keeve::Tokenizer;
use serde_json::{Value, json};

const PROSE: &str = include_str!("../../../testdata/real_models/wikitext-2-64k.txt");

/// Reads a tokenizer file and texts, writes for each text its ids with and without the special tokens around it, and
/// what the latter decode to.
const REFERENCE: &str = r#"
import json, sys
from tokenizers import Tokenizer, __version__
tokenizer = Tokenizer.from_file(sys.argv[1])
tokenizer.no_padding()
tokenizer.no_truncation()
rows = []
for text in json.load(sys.stdin):
    plain = tokenizer.encode(text, add_special_tokens=False).ids
    rows.append([tokenizer.encode(text).ids, plain, tokenizer.decode(plain)])
json.dump({"version": __version__, "rows": rows}, sys.stdout)
"#;

/// Every paragraph of a text, what is odd, and each 97th of the characters there are.
fn texts() -> Vec<String> {
    let odd = [
        "",
        " ",
        "\n",
        "\t\r\n \u{a0}\u{2003}x",
        "a\u{0}b\u{fffd}c\u{ad}d",
        "\u{feff}mark",
        "don't WON'T it's",
        "naïve Ångström İstanbul ΑΣΣΣ straße ǅ ﬁ",
        "e\u{301}\u{323} q\u{307}\u{323} \u{1100}\u{1161}\u{11a8}",
        "日本語のテキスト 한국어 ภาษาไทย עברית العربية हिन्दी",
        "🏳\u{fe0f}\u{200d}🌈 👩\u{200d}👩\u{200d}👧 🇫🇷 \u{1f9d1}\u{1f3fd}",
        "[CLS] [SEP] [MASK] [PAD] [UNK] [unused1] x[MASK]y",
        "$1,000.50 (50%) <a href=\"x\">&amp;</a> ~`^|\\_",
        "\u{2e80}\u{3400}\u{20000}\u{2a6df}\u{f900}\u{2f800}",
    ];
    let long = ["a".repeat(100), "a".repeat(101), "日".repeat(600), "word ".repeat(700)];
    let all: Vec<char> = ('\0'..=char::MAX).step_by(97).collect();
    let characters =
        all.chunks(16).map(|some| some.iter().map(|one| format!("a{one}b {one} ")).collect());
    PROSE
        .lines()
        .map(str::to_owned)
        .chain(odd.map(str::to_owned))
        .chain(long)
        .chain(characters)
        .collect()
}

#[test]
#[cfg_attr(not(keeve_peers), ignore = "needs KEEVE_PEERS")]
fn all_minilm_l6_v2() {
    const NAME: &str = "all-MiniLM-L6-v2 tokenizer";
    let folder = PathBuf::from(std::env::var_os("KEEVE_PEERS").unwrap()).join("minilm");
    let python = std::env::var_os("KEEVE_PEERS_PYTHON").unwrap_or_else(|| "python3".into());
    let file = folder.join("tokenizer.json");
    let texts = texts();
    let mut child = Command::new(python)
        .args(["-c", REFERENCE])
        .arg(&file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(json!(texts).to_string().as_bytes()).unwrap();
    let reference = child.wait_with_output().unwrap();
    assert!(reference.status.success(), "the tokenizers package in KEEVE_PEERS_PYTHON");
    let reference: Value = serde_json::from_slice(&reference.stdout).unwrap();
    let rows = reference["rows"].as_array().unwrap();
    assert_eq!(rows.len(), texts.len());

    let tokenizer = Tokenizer::from_json(&std::fs::read(file).unwrap(), &[]).unwrap();
    let mut passed = 0;
    for (text, expected) in texts.iter().zip(rows) {
        let plain = tokenizer.encode(text, false, true).unwrap();
        let decoded = tokenizer.decode(&plain, true).unwrap();
        let found = json!([tokenizer.encode(text, true, true).unwrap(), plain, decoded]);
        if &found == expected {
            passed += 1;
        } else {
            println!("peers fails: {NAME} | {text:?} | {found}, expected {expected}");
        }
    }
    println!(
        "peers: {NAME} | {passed} | {} | tokenizers {}",
        texts.len(),
        reference["version"].as_str().unwrap()
    );
    assert_eq!(passed, texts.len());
}
