//! What a server needs of the engine: embeddings, deadlines, events by callback, numbers to watch.

#![allow(clippy::unwrap_used, reason = "tests")]

#[allow(dead_code, reason = "helpers of several tests, each of which uses some")]
mod tiny;

use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use keeve_engine::{Engine, EngineOptions, Error, Event, FinishReason, Pooling, Request, Stats};
use tiny::{VOCABULARY, answer, engine, greedy};

/// The embedding of a prompt, and why the request ended.
fn embedding(engine: &Engine, prompt: &[u32], pooling: Pooling) -> (Vec<f32>, FinishReason) {
    let request = Request { prompt: prompt.into(), embedding: Some(pooling), ..Request::default() };
    let mut found = vec![];
    for event in engine.submit(request).unwrap() {
        match event {
            Event::Embedding(values) => found = values,
            Event::Finished { reason, .. } => return (found, reason),
            other => panic!("{other:?}"),
        }
    }
    panic!("no end");
}

#[test]
fn embeddings_do_not_depend_on_chunks_and_the_mean_is_that_of_the_positions() {
    let prompt: Vec<u32> = (0..50).map(|id| id * 11 % VOCABULARY as u32).collect();
    let whole = engine(&EngineOptions::default());
    let (mean, reason) = embedding(&whole, &prompt, Pooling::Mean);
    assert_eq!((mean.len(), reason), (32, FinishReason::Length));
    let chunks = engine(&EngineOptions { prefill_chunk: 7, ..EngineOptions::default() });
    assert_eq!(embedding(&chunks, &prompt, Pooling::Mean).0, mean);
    // The last hidden state of each beginning is the state of that position.
    let mut sum = vec![0f64; 32];
    for length in 1..=prompt.len() {
        let (last, _) = embedding(&whole, &prompt[..length], Pooling::Last);
        sum.iter_mut().zip(&last).for_each(|(sum, &value)| *sum += f64::from(value));
    }
    for (sum, &mean) in sum.iter().zip(&mean) {
        assert!((sum / 50.0 - f64::from(mean)).abs() < 1e-5, "{sum} {mean}");
    }
    // Prompts that the prefix cache knows still give all of their rows.
    assert_eq!(embedding(&whole, &prompt, Pooling::Mean).0, mean);
    let tokens = Request { embedding: Some(Pooling::Mean), ..greedy(&prompt, 1) };
    assert!(matches!(whole.submit(tokens), Err(Error::EmbeddingOnly)));
}

#[test]
fn a_request_past_its_deadline_ends_and_frees_its_pages() {
    let engine = engine(&EngineOptions::default());
    let late = Request { deadline: Some(Instant::now()), ..greedy(&[1, 2, 3], 100) };
    let (tokens, reason) = answer(engine.submit(late).unwrap());
    assert_eq!((tokens.len(), reason), (0, FinishReason::TimedOut));
    let far = Instant::now() + Duration::from_secs(3600);
    let early = Request { deadline: Some(far), ..greedy(&[1, 2, 3], 10) };
    assert_eq!(answer(engine.submit(early).unwrap()).1, FinishReason::Length);
    assert_eq!(idle(&engine).pages_held, 0);
}

/// The numbers of an engine once it has nothing to do.
fn idle(engine: &Engine) -> Stats {
    loop {
        let stats = engine.stats();
        if stats.running + stats.waiting == 0 {
            return stats;
        }
        std::thread::yield_now();
    }
}

#[test]
fn a_sink_that_wants_no_more_ends_its_request_and_frees_its_pages() {
    let engine = engine(&EngineOptions::default());
    let (sender, ended) = channel();
    let mut taken = 0;
    let sink = move |event: Event| {
        if let Event::Finished { reason, .. } = event {
            sender.send(reason).unwrap();
        }
        taken += 1;
        taken < 3
    };
    engine.submit_to(greedy(&[1, 2, 3], 150), sink).unwrap();
    assert_eq!(ended.recv(), Ok(FinishReason::Cancelled));
    let stats = idle(&engine);
    assert_eq!((stats.pages_held, stats.prompt_tokens), (0, 3));
    assert!(stats.pages > 0 && engine.is_alive());
}

#[test]
fn the_numbers_tell_what_the_prefix_cache_found() {
    let engine = engine(&EngineOptions::default());
    let prompt = [7; 100];
    for _ in 0..2 {
        answer(engine.submit(greedy(&prompt, 2)).unwrap());
    }
    let stats = idle(&engine);
    // A page holds 32 tokens, and at least one token is computed.
    assert_eq!((stats.prompt_tokens, stats.cached_tokens), (200, 96));
}
