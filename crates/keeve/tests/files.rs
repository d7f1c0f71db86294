//! Files that the command is given: without an end, without anything to quantize, with holes, with checksums.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fmt::Write;
use std::fs;

use common::{Model, keeve};
use serde_json::json;
use sha2::{Digest, Sha256};

const WEIGHTS: &str = "model.safetensors";

#[cfg(unix)]
#[test]
fn files_without_an_end_are_refused_in_little_memory() {
    let model = Model::demo();
    let (out, sparse, pipe) = (model.file("out"), model.file("sparse"), model.file("pipe"));
    fs::File::create(&sparse).unwrap().set_len(3 << 40).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let out = out.to_str().unwrap();
    let commands: [(&str, &[&str]); 7] = [
        ("--recipe", &["quantize", model.path(), "--out", out]),
        (
            "--data",
            &["quantize", model.path(), "--codec", "int8", "--smoothquant", "auto", "--out", out],
        ),
        ("--config", &["serve"]),
        ("--api-key-file", &["serve", "--port", "0"]),
        ("--data", &["calibrate", model.path(), "--out", out]),
        ("--data", &["eval", model.path()]),
        ("--imatrix", &["quantize", model.path(), "--codec", "q4_k", "--out", out]),
    ];
    let files = [
        ("/dev/zero", "is a device, expected a file for"),
        (pipe.to_str().unwrap(), "is a named pipe, expected a file for"),
        (sparse.to_str().unwrap(), "is larger than"),
        (model.path(), "is a folder, expected a file for"),
    ];
    for (flag, command) in commands {
        for (file, expected) in files {
            let message = keeve(command).args(&[flag, file]).limited_memory().fails_plainly(1);
            let mapped = "is not a regular file";
            assert!(message.contains(file), "{flag}: {message}");
            match flag {
                "--imatrix" => {
                    assert!(message.contains(expected) || message.contains(mapped), "{message}")
                }
                _ => assert!(message.contains(expected) && message.contains(flag), "{message}"),
            }
        }
    }
}

/// A safetensors file of zero-dimensional and one-dimensional tensors.
fn plain_weights() -> Vec<u8> {
    let header = json!({"a.bias": {"dtype": "F32", "shape": [8], "data_offsets": [0, 32]},
        "b.norm": {"dtype": "F32", "shape": [4], "data_offsets": [32, 48]}})
    .to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    file.extend([1; 48]);
    file
}

#[test]
fn quantizing_nothing_is_no_success() {
    let model = Model::demo().write(WEIGHTS, plain_weights());
    let out = model.file("out");
    for how in [["--codec", "q4_k"], ["--codec", "int8"], ["--preset", "q4_k_m"]] {
        let message =
            keeve(["quantize", model.path(), "--out"]).arg(&out).args(&how).fails_plainly(1);
        for part in [
            "nothing to quantize: none of the 2 tensors is packed: 2 have one dimension",
            "'a.bias' [8] (plain), 'b.norm' [4] (plain)",
            model.path(),
        ] {
            assert!(message.contains(part), "{part} is not in: {message}");
        }
        assert!(!out.exists());
    }
    // What is packed already is moved, with a note.
    let model = Model::demo();
    let left = model.file("left");
    let skipping = ["quantize", model.path(), "--codec", "q8_0", "--skip", "*", "--out"];
    let ran = keeve(skipping).arg(&left).run();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stderr.contains("note: nothing is encoded"), "{ran:?}");
    let packed = model.file("packed");
    keeve(["quantize", model.path(), "--codec", "q8_0", "--out"]).arg(&packed).ok();
    let again = model.file("again");
    let packed = packed.to_str().unwrap();
    let ran = keeve(["quantize", packed, "--codec", "q8_0", "--out"]).arg(&again).run();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stderr.contains("note: nothing is encoded"), "{ran:?}");
}

#[test]
fn verify_finds_holes_and_wrong_checksums() {
    let whole = fs::read(Model::demo().file(WEIGHTS)).unwrap();
    let mut hash = String::new();
    for byte in Sha256::digest(&whole) {
        write!(hash, "{byte:02x}").unwrap();
    }
    let model = Model::demo().write("SHA256SUMS", format!("{hash}  {WEIGHTS}\n"));
    let said = keeve(["verify", model.path()]).ok();
    assert!(said.contains("note: 1 files have the checksums"), "{said}");
    let model =
        Model::demo().write("SHA256SUMS", format!("{}  {WEIGHTS}\n", hash.replace('a', "b")));
    let ran = keeve(["verify", model.path()]).run();
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(
        ran.stdout.contains("does not have the checksum") && ran.stdout.contains("SHA256SUMS"),
        "{ran:?}"
    );
    // Blocks in the middle that were never written.
    let mut torn = whole;
    let middle = torn.len() / 2;
    torn[middle..middle + (64 << 10)].fill(0);
    let model = Model::demo().write(WEIGHTS, &torn);
    let ran = keeve(["verify", model.path()]).run();
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(
        ran.stdout.contains("zero bytes") || ran.stdout.contains("nothing but zeros"),
        "{ran:?}"
    );
}
