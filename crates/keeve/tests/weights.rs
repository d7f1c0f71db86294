//! `--weights`: matrices encoded anew as they load, by every command that runs a model.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};

use common::{Model, keeve};
use serde_json::Value;

const QUESTION: &str = "What is the capital of France?";
const ANSWER: &str = "The capital of France is Paris.";

/// Codecs, and whether the demo model still knows the answer.
const CODECS: [(&str, bool); 6] = [
    ("int8", true),
    ("int8-g64", true),
    ("int8-g128", true),
    ("int4-g128", false),
    ("q4_k", true),
    ("affine8-g64", true),
];

fn note(codec: &str) -> String {
    format!("matrices were encoded anew as {codec} while they were loaded")
}

#[test]
fn run_says_so_and_answers() {
    for (codec, knows) in CODECS {
        let ran = keeve(["run", QUESTION, "--weights", codec]).run();
        assert!(ran.code == Some(0) && ran.stderr.contains(&note(codec)), "{codec}: {ran:?}");
        let result = keeve(["run", QUESTION, "--weights", codec, "--activations", "int8"]).json();
        let notes = result["notes"].as_array().unwrap();
        let said = |found: &Value| found.as_str().unwrap().contains(&note(codec));
        assert!(notes.iter().any(said), "{codec}: {notes:?}");
        if knows {
            assert_eq!(ran.stdout.trim_end(), ANSWER, "{codec}");
            assert_eq!(result["text"], ANSWER, "{codec} with activations by row");
        }
    }
    let plain = keeve(["run", QUESTION]).run();
    assert!(!plain.stderr.contains("anew"), "{plain:?}");
}

#[test]
fn chat_says_so_and_answers() {
    for (codec, knows) in CODECS {
        let ran = keeve(["chat", "--weights", codec]).stdin(QUESTION).run();
        assert!(ran.code == Some(0) && ran.stderr.contains(&note(codec)), "{codec}: {ran:?}");
        assert!(!knows || ran.stdout == format!("{ANSWER}\n"), "{codec}: {ran:?}");
    }
}

#[test]
fn eval_judges_the_weights_that_run_and_not_those_of_the_reference() {
    let folder = Model::demo();
    let path = folder.file("text.txt");
    fs::write(&path, "The river rises in the hills and flows south to the sea.\n".repeat(12))
        .unwrap();
    let eval = |args: &[&str]| {
        let start = ["eval", folder.path(), "--window", "64", "--data", path.to_str().unwrap()];
        keeve(start).args(args)
    };
    let mut costs = vec![];
    for (codec, _) in CODECS {
        let args = ["--weights", codec, "--reference", folder.path(), "--activations", "float"];
        let ran = eval(&args).run();
        assert!(ran.code == Some(0) && ran.stderr.contains(&note(codec)), "{codec}: {ran:?}");
        let row = &eval(&args).json()["models"][0];
        let cost = row["kl_mean"].as_f64().unwrap();
        assert!(cost > 0.0, "{codec}: the reference has other weights");
        costs.push((codec, cost));
    }
    let of = |name: &str| costs.iter().find(|(codec, _)| *codec == name).unwrap().1;
    assert!(of("int8-g64") < of("int4-g128") && of("affine8-g64") < of("q4_k"), "{costs:?}");
}

#[test]
fn bench_reads_the_bytes_of_the_new_codec() {
    let bytes = |args: &[&str]| {
        let ran = keeve(["bench", "-p", "1", "-n", "1", "-r", "1", "--json"]).args(args).run();
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let result: Value = serde_json::from_str(&ran.stdout).unwrap();
        (ran.stderr, result["bytes_per_token"].as_u64().unwrap())
    };
    let (said, eight) = bytes(&["--weights", "int8-g128"]);
    assert!(said.contains(&note("int8-g128")), "{said}");
    let (_, four) = bytes(&["--weights", "int4-g128"]);
    let (said, stored) = bytes(&[]);
    assert!(!said.contains("anew") && four < stored && stored < eight, "{four} {stored} {eight}");
}

/// Starts a server with these weights, asks it, and returns what it said while it loaded.
fn served(codec: &str) -> String {
    let mut child = keeve(["serve", "--port", "0", "--weights", codec]).spawn();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let (mut said, mut address) = (String::new(), String::new());
    loop {
        let line = lines.next().expect("the server says that it is ready").unwrap();
        if let Some(found) = line.strip_prefix("listening at ") {
            address = found.into();
        }
        if line == "ready" {
            break;
        }
        said += &line;
    }
    std::thread::spawn(move || lines.count());
    let args = ["--requests", "2", "--clients", "1", "-n", "4", "-p", "4"];
    let result = keeve(["bench", "--server", &address]).args(&args).json();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!((&result["finished"], &result["errors"]), (&2.into(), &0.into()), "{codec}");
    said
}

#[test]
fn serve_says_so_and_answers() {
    for codec in ["int8", "int4-g128"] {
        let said = served(codec);
        assert!(said.contains(&note(codec)), "{codec}: {said}");
    }
}

#[test]
fn what_cannot_be_made_is_refused() {
    for command in ["run", "eval", "bench", "chat"] {
        let rest: &[&str] = if command == "run" { &["x"] } else { &[] };
        let ran = keeve([command, "--weights", "int8-g65"]).args(rest).run();
        assert!(ran.code == Some(2) && ran.stderr.contains("unknown codec 'int8-g65'"), "{ran:?}");
    }
    assert!(keeve(["run", "x", "--weights", "iq1_s"]).fails(1).contains("only read"));
}

#[test]
fn rotated_weights_answer_from_memory_and_from_files() {
    let rotated = note("int8").replace("int8", "int8, rotated");
    let ran =
        keeve(["run", QUESTION, "--weights", "int8", "--rotate", "--activations", "int8"]).run();
    assert!(ran.code == Some(0) && ran.stderr.contains(&rotated), "{ran:?}");
    assert_eq!(ran.stdout.trim_end(), ANSWER);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("int8");
    let made = keeve(["quantize", "--codec", "int8", "--rotate", "--out"]).arg(&out).run();
    assert_eq!(made.code, Some(0), "{made:?}");
    for mode in ["int8", "auto", "float"] {
        let ran = keeve(["run"]).arg(&out).args(&[QUESTION, "--activations", mode]).run();
        assert_eq!((ran.code, ran.stdout.trim_end()), (Some(0), ANSWER), "{mode}: {ran:?}");
    }
    let ran = keeve(["run", "x", "--rotate"]).run();
    assert!(ran.code == Some(2) && ran.stderr.contains("--weights"), "{ran:?}");
    let gguf = folder.path().join("a.gguf");
    let refused = keeve(["quantize", "--codec", "q8_0", "--rotate", "--out"]).arg(&gguf).fails(1);
    assert!(refused.contains("GGUF cannot say that rows are rotated"), "{refused}");
}
