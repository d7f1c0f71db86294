//! Images at the command line.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod common;

use std::path::PathBuf;

use common::keeve;
use serde_json::Value;

fn data(path: &str) -> PathBuf {
    let folder = std::env::var_os("KEEVE_TEST_DATA").expect("set where the tests were built");
    PathBuf::from(folder).join(path)
}

#[test]
fn the_demo_model_cannot_see() {
    let ran = keeve(["run", "--image", "a.png", "What is this?"]).run();
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("a.png: this model cannot see images"), "{}", ran.stderr);
    let ran = keeve(["chat"]).stdin("/image a.png\n").run();
    assert_eq!(ran.code, Some(0));
    assert!(ran.stderr.contains("a.png: this model cannot see images"), "{}", ran.stderr);
    let ran = keeve(["run", "--image", "a.png", "--no-chat-template", "What is this?"]).run();
    assert_eq!(ran.code, Some(2));
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn questions_about_images_are_answered() {
    let model = data("models/demo-qwen3-vl");
    let listed = std::fs::read(data("data/vlm-cases/cases.json")).unwrap();
    let listed: Value = serde_json::from_slice(&listed).unwrap();
    let cases = listed["cases"].as_array().unwrap();
    let case = cases.iter().find(|case| case["images"].as_array().unwrap().len() == 3).unwrap();
    let (question, expected) =
        (case["question"].as_str().unwrap(), case["expected"].as_str().unwrap());
    let images = case["images"].as_array().unwrap().iter();
    let images: Vec<PathBuf> =
        images.map(|name| data("data/vlm-cases").join(name.as_str().unwrap())).collect();

    let mut command = keeve(["run", "--json", "--activations", "float"]).arg(&model);
    for image in &images {
        command = command.arg("--image").arg(image);
    }
    let ran = command.arg(question).run();
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let answer: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(answer["text"], expected);

    // In a conversation that is saved and gone on with.
    let folder = tempfile::tempdir().unwrap();
    let saved = folder.path().join("talk.json");
    let mut typed = String::new();
    for image in &images {
        typed += &format!("/image {}\n", image.display());
    }
    typed += &format!(
        "{question}\n/save {0}\n/clear\n/load {0}\n/image {1}\n",
        saved.display(),
        saved.display()
    );
    let ran = keeve(["chat", "--activations", "float"]).arg(&model).stdin(&typed).run();
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stdout.lines().any(|line| line == expected), "{}", ran.stdout);
    assert!(ran.stdout.contains("tokens\n"), "{}", ran.stdout);
    assert!(ran.stdout.ends_with("2 messages\n"), "{}", ran.stdout);
    assert!(ran.stderr.contains("talk.json: the image is of an unknown format"), "{}", ran.stderr);
}
