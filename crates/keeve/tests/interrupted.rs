//! `keeve quantize`, killed and out of room: a model is whole or not there, and the next call goes on.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{Model, TestCommand, keeve};

/// How a model is made, and the file of it that holds the weights.
const MADE: [(&str, &str, &str); 3] = [
    ("q4_k_m", "model.gguf", ""),
    ("q4_k_m", "kquant", "model.safetensors"),
    ("int8", "integers", "model.safetensors"),
];

fn quantize(model: &Model, codec: &str, out: &Path) -> TestCommand {
    let how = if codec == "int8" { "--codec" } else { "--preset" };
    keeve(["quantize", model.path(), how, codec, "--out"]).arg(out)
}

/// Bytes of what is being written in `folder` and has no name yet.
fn in_parts(folder: &Path) -> u64 {
    // Between two looks anything may have been renamed.
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let part = |entry: fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => in_parts(&entry.path()),
        Ok(found) if entry.file_name().to_string_lossy().ends_with(".keeve-part") => found.len(),
        _ => 0,
    };
    entries.map(part).sum()
}

/// Its weights as they were written without any disturbance, and where others may be written.
fn undisturbed(model: &Model, codec: &str, name: &str, file: &str) -> (Vec<u8>, PathBuf) {
    let whole = model.file(&format!("whole-{name}"));
    quantize(model, codec, &whole).ok();
    let place = model.file(&format!("place-{name}"));
    fs::create_dir(&place).unwrap();
    let weights = if file.is_empty() { whole } else { whole.join(file) };
    (fs::read(weights).unwrap(), place)
}

#[test]
fn killed_at_any_moment_a_model_is_whole_or_not_there() {
    let model = Model::demo();
    for (codec, name, file) in MADE {
        let (whole, place) = undisturbed(&model, codec, name, file);
        let out = place.join(name);
        let weights = if file.is_empty() { out.clone() } else { out.join(file) };
        for sixths in [0, 1, 2, 3, 4, 5] {
            let enough = whole.len() as u64 * sixths / 6;
            let mut child = quantize(&model, codec, &out).spawn();
            while in_parts(&place) < enough && child.try_wait().unwrap().is_none() {
                std::thread::sleep(Duration::from_millis(1));
            }
            child.kill().unwrap();
            child.wait().unwrap();
            // Whoever was not killed in time is done, and did all of it.
            if out.exists() {
                assert!(fs::read(&weights).unwrap() == whole, "{name}");
                break;
            }
        }
        if !out.exists() {
            let left = in_parts(&place);
            let report = quantize(&model, codec, &out).json();
            assert!(
                report["report"]["resumed"].as_u64().unwrap() > 0,
                "{name}, {left} bytes: {report}"
            );
        }
        assert!(fs::read(&weights).unwrap() == whole, "{name}");
        assert_eq!(fs::read_dir(&place).unwrap().count(), 1, "{name}");
    }
}

#[test]
fn without_room_nothing_stands_there_and_with_room_it_goes_on() {
    let model = Model::demo();
    for (codec, name, file) in MADE {
        let (whole, place) = undisturbed(&model, codec, name, file);
        let out = place.join(name);
        // Quietly, since moving packed weights as they are is noted.
        let quiet = quantize(&model, codec, &out).arg("--quiet");
        let message = quiet.limited_files().fails_plainly(1);
        assert!(message.contains("too large"), "{message}");
        assert!(!out.exists() && in_parts(&place) > 0, "{name}");
        let report = quantize(&model, codec, &out).json();
        assert!(report["report"]["resumed"].as_u64().unwrap() > 0, "{name}: {report}");
        let weights = if file.is_empty() { out } else { out.join(file) };
        assert!(fs::read(weights).unwrap() == whole, "{name}");
        assert_eq!(fs::read_dir(&place).unwrap().count(), 1, "{name}");
    }
}
