//! Models on the hub, as the command line has them.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;
#[path = "../../hub/tests/server/mod.rs"]
mod server;

use common::{TestCommand, keeve};
use server::{COMMIT, Files, Reply, Server, status};
use tempfile::TempDir;

const QUESTION: &str = "What is the capital of France?";
const ANSWER: &str = "The capital of France is Paris.";

/// The demo model as a repository, with files that nobody needs.
fn files() -> Files {
    let mut files: Files =
        keeve_demo_model::FILES.map(|(name, bytes)| (name, bytes.to_vec())).to_vec();
    files.push(("pytorch_model.bin", vec![0; 1000]));
    files
}

fn at(server: &Server, home: &TempDir, args: &[&str]) -> TestCommand {
    let mut command = keeve(args);
    for unset in ["HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN_PATH", "HF_TOKEN"] {
        command = command.env(unset, "");
    }
    command.env("HF_ENDPOINT", &server.address).env("HF_HOME", home.path().to_str().unwrap())
}

#[test]
fn a_model_is_downloaded_once_listed_and_removed() {
    let server = Server::new(files(), |_, _| None);
    let home = TempDir::new().unwrap();
    let at = |args: &[&str]| at(&server, &home, args);
    let ran = at(&["run", "some/model", QUESTION]).run();
    assert_eq!((ran.code, &*ran.stdout), (Some(0), &*format!("{ANSWER}\n")), "{ran:?}");
    assert!(server.parts("pytorch_model.bin?signed=1").is_empty());
    let fetched = at(&["download", "some/model"]).json();
    assert_eq!((&fetched["model"], &fetched["commit"]), (&"some/model".into(), &COMMIT.into()));
    assert_eq!(server.parts("model.safetensors?signed=1"), [0]);
    // By the commit, or offline, nothing is asked.
    let asked = server.asked.lock().unwrap().len();
    assert_eq!(at(&["inspect", "some/model", "--offline"]).json()["supported"], true);
    assert_eq!(at(&["inspect", "some/model", "--revision", COMMIT]).json()["supported"], true);
    assert_eq!(server.asked.lock().unwrap().len(), asked);
    let listed = at(&["list"]).ok();
    assert!(listed.contains("some/model") && listed.contains("main (01234567)"), "{listed}");
    let listed = at(&["list"]).json();
    assert_eq!(listed["models"][0]["revisions"][0]["refs"][0], "main");
    assert!(listed["models"][0]["bytes"].as_u64().unwrap() > 20_000_000);

    let message = at(&["rm", "some/model"]).fails(2);
    assert!(message.contains("--yes"), "{message}");
    let removed = at(&["rm", "some/model", "--yes"]).json();
    assert_eq!(removed["removed"][0], "some/model");
    assert!(at(&["rm", "some/model", "--yes"]).fails(1).contains("is not in"));
    assert_eq!(at(&["list"]).json()["models"], serde_json::json!([]));
    let message = at(&["run", "some/model", "--offline", "hi"]).fails(1);
    assert!(message.contains("some/model is not in the cache"), "{message}");
}

#[test]
fn refusals_are_one_clear_line() {
    let home = TempDir::new().unwrap();
    let private = Server::new(files(), |asked, _| {
        let allowed = asked.header("authorization") == Some("Bearer hf_right");
        (!allowed).then(|| Reply { ..status(401) })
    });
    let message = at(&private, &home, &["run", "some/model", "hi"]).fails(1);
    assert!(message.contains("set HF_TOKEN"), "{message}");
    at(&private, &home, &["download", "some/model"]).env("HF_TOKEN", "hf_right").ok();
    let none = Server::new(files(), |_, _| None);
    let fails = |args: &[&str], code: i32, expected: &str| {
        let message = at(&none, &home, args).fails(code);
        assert!(message.contains(expected), "{message}");
    };
    fails(&["inspect", "some/other"], 1, "some/other: does not exist (status 404)");
    fails(&["inspect", "some/model", "--revision", "../x"], 1, "is no revision");
    fails(&["inspect", "some/model", "--revision", "gone"], 1, "no such revision");
    fails(&["download", "some/model:Q4_K_M"], 1, "holds no GGUF file");
    fails(&["download", "some/model:a", "--file", "b"], 2, "named twice");
    fails(&["download", "../x"], 2, "is no model on the hub");
    fails(&["rm", "some/model:x", "--yes"], 2, "as a whole");
}

#[test]
fn a_path_that_exists_wins() {
    let server = Server::new(files(), |_, _| None);
    let home = TempDir::new().unwrap();
    let model = common::Model::demo();
    at(&server, &home, &["inspect", model.path()]).ok();
    assert!(server.asked.lock().unwrap().is_empty());
}
