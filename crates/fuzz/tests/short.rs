//! Each target for a moment, on any toolchain: its seeds, and inputs made of them.

use std::path::Path;

use keeve_fuzz::targets::TARGETS;
use keeve_fuzz::{let_caught_panics_pass, seeds, short};

/// Inputs of each target: some seconds of all of them together, and what one of them may cost is bounded.
fn inputs(target: &str) -> u64 {
    match target {
        // A class of Unicode in an expression takes a hundred times what all else does.
        "tokenizer_json" | "grammar" => 400,
        "tokenizer_gguf" | "chat_template" | "image" => 1_000,
        _ => 4_000,
    }
}

#[test]
fn inputs_of_all_kinds_are_taken_or_refused() {
    let_caught_panics_pass();
    let artifacts = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz");
    let runs = TARGETS.map(|(name, target)| {
        let artifacts = artifacts.join(name);
        std::thread::spawn(move || {
            let seeds = seeds::of(name).unwrap();
            assert!(!seeds.is_empty(), "{name} has no seeds");
            let through = seeds.iter().filter(|seed| target(seed)).count() as u64;
            let tried = seeds.len() as u64 + inputs(name);
            (through, short::run(target, &seeds, 2026, &artifacts, |count| count < tried))
        })
    });
    for ((name, _), run) in TARGETS.iter().zip(runs) {
        let (seeds, outcome) = run.join().unwrap();
        assert_eq!(outcome.failed, None, "{name}: replay it with keeve-fuzz {name} FILE");
        assert!(seeds > 0, "{name}: no seed gets through");
        // Else the run says nothing of what comes behind the first check.
        assert!(outcome.through > seeds, "{name}: {outcome:?}");
    }
}

#[test]
fn every_target_is_one_of_the_fuzzer() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    let mut found = 0;
    for file in std::fs::read_dir(folder.join("fuzz_targets")).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(TARGETS.iter().any(|(known, _)| *known == name), "{name} is no target");
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("keeve_fuzz::fuzzed(") && text.contains(name), "{name}");
        found += 1;
    }
    assert_eq!(found, TARGETS.len());
}
