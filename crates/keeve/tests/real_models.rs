//! Models that others made, from files as they are published, against what llama.cpp computes from the same
//! weights in 32-bit floats.
//!
//! The files are in the folder that `KEEVE_REAL_MODELS` names (`cargo xtask peers --only models` fetches them).
//! `testdata/real_models/README.md` says how the figures were made.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests")]

mod common;

use std::fmt::Debug;
use std::path::{Path, PathBuf};

use keeve::eval::{self, Observer, Text, windows};
use keeve::{
    Activations, Canceller, Checkpoint, Engine, EngineOptions, Event, Generation, Request,
    SamplingParams,
};
use serde_json::Value;

use common::keeve;

/// How many tokens are generated after each prompt.
const STEPS: usize = 64;
/// Where the best two logits are closer than this, floats summed in another order may choose the other.
const NEAR_TIE: f64 = 2e-3;
/// How many windows count where llama.cpp's figure for them is known and `KEEVE_PEERS_WHOLE` is not set: all of them
/// take minutes.
const FIRST: usize = 8;
/// How far a perplexity may be from llama.cpp's, relatively.
const PERPLEXITY: f64 = 1e-3;

/// What perplexity is measured on.
const PROSE: &str = include_str!("../../../testdata/real_models/wikitext-2-64k.txt");

/// What a model is compared with.
struct Peer {
    path: PathBuf,
    expected: Value,
    /// Cases so far, and those that did not pass.
    cases: usize,
    failures: Vec<String>,
}

impl Peer {
    fn new(file: &str) -> Self {
        let folder = PathBuf::from(std::env::var_os("KEEVE_REAL_MODELS").unwrap());
        let figures =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/real_models/llama_cpp.json");
        let known: Value = serde_json::from_slice(&std::fs::read(figures).unwrap()).unwrap();
        let path = folder.join(file);
        assert!(path.is_file(), "{}: is not there", path.display());
        Self { path, expected: known[file].clone(), cases: 0, failures: vec![] }
    }

    fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }

    /// Another case; it passed if nothing is said about it.
    fn case(&mut self, name: impl Debug, problem: Option<String>) {
        self.cases += 1;
        if let Some(problem) = problem {
            println!("peers fails: {} | {name:?} | {problem}", self.name());
            self.failures.push(format!("{name:?}: {problem}"));
        }
    }

    fn name(&self) -> &str {
        self.expected["name"].as_str().unwrap()
    }

    /// Reports to `cargo xtask peers`.
    fn end(&self, notes: &str) {
        let passed = self.cases - self.failures.len();
        println!("peers: {} | {passed} | {} | {notes}", self.name(), self.cases);
        assert!(self.failures.is_empty(), "{}", self.failures.join("\n"));
    }

    /// Greedy tokens after each prompt, and the perplexity of a text; all in floats.
    fn numbers(&mut self) -> String {
        let options = EngineOptions {
            activations: Activations::Float,
            max_context: Some(512),
            ..EngineOptions::default()
        };
        let engine =
            Engine::load(&Checkpoint::open(&self.path).unwrap(), &options, &|_| true).unwrap();
        let tokenizer = engine.tokenizer().unwrap();
        let prompts = self.expected["prompts"].as_array().unwrap().clone();
        // All at once: rows do not depend on each other's company, and weights are read once for all.
        let begun: Vec<_> = prompts
            .iter()
            .map(|prompt| {
                let (text, special) = (prompt["text"].as_str().unwrap(), &prompt["special"]);
                let found = tokenizer.encode(text, true, special.as_bool().unwrap()).unwrap();
                let expected = ids(&prompt["ids"]);
                let same = found == expected;
                let problem = || format!("its tokens are {found:?}, expected {expected:?}");
                same.then(|| begin(&engine, found.clone(), STEPS)).ok_or_else(problem)
            })
            .collect();
        let (mut ties, mut widest) = (0, 0.0);
        for (prompt, begun) in prompts.iter().zip(begun) {
            let compared = begun.and_then(|begun| compare(&engine, prompt, tokens(begun)));
            let compared = compared.map(|near| {
                ties += near.len();
                widest = near.into_iter().fold(widest, f64::max);
            });
            self.case(prompt["text"].as_str().unwrap(), compared.err());
        }
        let whole = std::env::var_os("KEEVE_PEERS_WHOLE").is_some();
        let first = self.expected["perplexity_at_first"].as_f64().filter(|_| !whole);
        let expected = first.or(self.expected["perplexity"].as_f64()).unwrap();
        let found = perplexity(&engine, if first.is_some() { FIRST } else { usize::MAX });
        let apart = found / expected - 1.0;
        let problem =
            (apart.abs() > PERPLEXITY).then(|| format!("{found:.4}, llama.cpp's {expected:.4}"));
        self.case("perplexity", problem);
        format!(
            "near ties: {ties}, the widest {widest:.5}; perplexity {found:.4}, llama.cpp's {expected:.4} ({:+.4} %)",
            apart * 100.0
        )
    }

    /// What `keeve` answers, as it computes where nothing is asked for.
    fn answers(&mut self, args: &[&str], expected: &str) {
        let answer = keeve(["run", self.path(), "--max-tokens", "32"]).args(args).ok();
        let problem =
            (!answer.contains(expected)).then(|| format!("{answer:?}, expected {expected:?}"));
        self.case(args, problem);
    }
}

fn ids(value: &Value) -> Vec<u32> {
    let id = |id: &Value| u32::try_from(id.as_u64().unwrap()).unwrap();
    value.as_array().unwrap().iter().map(id).collect()
}

/// Compares greedy tokens with llama.cpp's. After a near tie that was decided otherwise, it goes on behind what
/// llama.cpp chose, so every step is compared. Gives the margins of such ties.
fn compare(engine: &Engine, prompt: &Value, mut found: Vec<u32>) -> Result<Vec<f64>, String> {
    let (expected, margins) = (ids(&prompt["greedy"]), prompt["margins"].as_array().unwrap());
    assert_eq!((expected.len(), margins.len()), (STEPS, STEPS));
    let mut ties = vec![];
    loop {
        assert_eq!(found.len(), STEPS);
        let Some(step) = found.iter().zip(&expected).position(|(a, b)| a != b) else {
            return Ok(ties);
        };
        let margin = margins[step].as_f64().unwrap();
        if margin > NEAR_TIE {
            let (found, expected) = (found[step], expected[step]);
            return Err(format!("token {step} is {found}, llama.cpp's {expected} by {margin:.4}"));
        }
        ties.push(margin);
        let behind = &expected[..=step];
        let before = [&ids(&prompt["ids"]), behind].concat();
        found = [behind, &tokens(begin(engine, before, STEPS - behind.len()))].concat();
    }
}

/// Greedy tokens after `prompt`, end tokens or not.
fn begin(engine: &Engine, prompt: Vec<u32>, count: usize) -> Generation {
    let request = Request {
        prompt,
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        max_tokens: Some(count),
        ignore_eos: true,
        ..Request::default()
    };
    engine.submit(request).unwrap()
}

fn tokens(generation: Generation) -> Vec<u32> {
    generation
        .filter_map(|event| if let Event::Token { id, .. } = event { Some(id) } else { None })
        .collect()
}

struct ToTheEnd;

impl Observer for ToTheEnd {
    fn running(&mut self, _: Canceller) {}

    fn judged(&mut self, _: usize) -> bool {
        true
    }
}

/// Perplexity in the windows of llama-perplexity, as `keeve eval --like llama.cpp` gives it.
fn perplexity(engine: &Engine, most: usize) -> f64 {
    let text = Text::new(PROSE, engine.tokenizer().unwrap()).unwrap();
    let mut cut = windows::llama_cpp(text.ids().len(), 512).unwrap();
    cut.truncate(most);
    eval::evaluate(&text, &cut, engine, None, &mut ToTheEnd).unwrap().perplexity.value
}

#[test]
#[cfg_attr(not(keeve_real_models), ignore = "needs KEEVE_REAL_MODELS")]
fn smollm2() {
    let mut peer = Peer::new("SmolLM2-135M-Instruct.Q4_1.gguf");
    let notes = peer.numbers();
    peer.answers(&["What is the capital of France?"], "Paris");
    peer.answers(&["--no-chat-template", "The mitochondria are"], "cellular respiration");
    peer.end(&notes);
}

/// Not tuned for conversations: it continues texts.
#[test]
#[cfg_attr(not(keeve_real_models), ignore = "needs KEEVE_REAL_MODELS")]
fn gemma3() {
    let mut peer = Peer::new("gemma-3-270m-q4_k_m.gguf");
    let notes = peer.numbers();
    let question = "Question: What is the capital of France?\nAnswer:";
    peer.answers(&["--no-chat-template", question], "Paris");
    peer.answers(&["--no-chat-template", "The quick brown fox"], "jumps over the lazy dog");
    peer.end(&notes);
}
