//! What a loaded model takes of memory, weights packed: not more than 1.15 times their bytes, keys and
//! values, and what the engine works with. A test binary of its own, since it measures the process.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used)] // These are tests.

use keeve_bench::random::RandomWeights;
use keeve_bench::random_gguf::{RandomModel, Tokenizer};
use keeve_checkpoint::Checkpoint;
use keeve_engine::{Engine, EngineOptions, Error, Event, Request, SamplingParams};
use keeve_graph::{Activations, Progress};
use keeve_quantize::{Dimensions, Scheme};

const MIB: u64 = 1 << 20;
/// Activations, scratch memory, threads, the allocator's.
const WORK: u64 = 40 * MIB;

/// A number of `/proc/self/status`, in bytes.
fn status(field: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field)).expect("a field");
    line.trim_start_matches(':').split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

fn resident() -> u64 {
    status("RssAnon") + status("RssFile")
}

/// Runs what `load` gives; how much more memory than before it took at most, and while it runs.
fn measure(load: impl FnOnce() -> Result<Engine, Error>) -> (u64, u64, u64) {
    let before = resident();
    // The highest mark begins anew.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let engine = load().unwrap();
    let request = Request {
        prompt: (0..100).map(|id| id * 97).collect(),
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        max_tokens: Some(4),
        ..Request::default()
    };
    let events: Vec<_> = engine.submit(request).unwrap().collect();
    assert!(matches!(events.last(), Some(Event::Finished { .. })), "{events:?}");
    let now = resident();
    let state = engine.info().token_state_bytes as u64 * 104;
    (status("VmHWM").saturating_sub(before), now.saturating_sub(before), state)
}

#[test]
fn weights_are_in_memory_once() {
    let config = serde_json::json!({
        "model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072, "head_dim": 128,
        "num_attention_heads": 16, "num_key_value_heads": 8, "num_hidden_layers": 4,
        "vocab_size": 60_000, "tie_word_embeddings": true, "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6, "rope_theta": 1e6,
    });
    let scheme: Scheme = "q4_k_m".parse().unwrap();
    let model = || keeve_models::build(&config).unwrap();
    let dimensions = Dimensions::of(&config);
    let weights = RandomWeights::new(&model().graph, &scheme, &dimensions, true, 2);
    let bytes = weights.total_bytes().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.gguf");
    let (weights, made) = (&weights, model());
    let random = RandomModel {
        name: "memory",
        config: &config,
        model: &made,
        weights,
        tokenizer: Tokenizer::None,
    };
    assert_eq!(random.write(&file).unwrap(), None);
    let options = EngineOptions {
        threads: Some(2),
        activations: Activations::Auto,
        max_sequences: 1,
        ..EngineOptions::default()
    };
    let reports = std::sync::Mutex::new(vec![]);
    let progress = |progress: Progress| {
        reports.lock().unwrap().push(progress.done);
        true
    };
    let check = |what: &str, (peak, resident, state): (u64, u64, u64)| {
        let most = bytes + bytes * 15 / 100 + state + WORK;
        let mib = |bytes: u64| bytes as f64 / MIB as f64;
        let (peak_mib, resident_mib, most_mib) = (mib(peak), mib(resident), mib(most));
        assert!(peak <= most, "{what}: {peak_mib:.1} MiB at most, expected {most_mib:.1}");
        assert!(resident <= most, "{what}: {resident_mib:.1} MiB, expected {most_mib:.1}");
        // So that what is measured is not something else.
        assert!(resident >= bytes, "{what}: {resident_mib:.1} MiB, less than the weights");
    };
    let checkpoint = Checkpoint::open(&file).unwrap();
    check("a file", measure(|| Engine::load(&checkpoint, &options, &progress)));
    let reports = reports.into_inner().unwrap();
    assert!(reports.len() > 10 && reports.last() == Some(&bytes), "{} reports", reports.len());
    check("made weights", measure(|| Engine::from_weights(model(), weights, &options, &|_| true)));
}
