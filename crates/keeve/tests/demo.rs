//! The engine on the demo model, as an embedding program uses it.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::process::Command;

use keeve::{
    Engine, EngineOptions, Event, FinishReason, Message, RenderOptions, Request, SamplingParams,
    Timings,
};

const QUESTION: &str = "What is the capital of France?";
const ANSWER: &str = "The capital of France is Paris.";

fn engine(options: &EngineOptions) -> Engine {
    Engine::load(&keeve::demo_model().unwrap(), options, &|_| true).unwrap()
}

/// A greedy request for an answer to `text`.
fn request(engine: &Engine, text: &str) -> Request {
    let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
    let prompt = engine.chat_prompt(&[Message::text("user", text)], &options).unwrap();
    let sampling = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
    Request { prompt, sampling, max_tokens: Some(40), ..Request::default() }
}

/// The tokens and the text of an answer, why it ended, and how long it took.
fn answer(engine: &Engine, request: Request) -> (Vec<u32>, String, FinishReason, Timings) {
    let (mut ids, mut all) = (vec![], String::new());
    for event in engine.submit(request).unwrap() {
        match event {
            Event::Token { id, text, .. } => {
                ids.push(id);
                all.push_str(&text);
            }
            Event::Finished { reason, text, timings, .. } => {
                all.push_str(&text);
                return (ids, all, reason, timings);
            }
            other => panic!("{other:?}"),
        }
    }
    panic!("an answer without an end");
}

#[test]
fn answers_end_at_end_tokens_and_stop_texts() {
    let engine = engine(&EngineOptions::default());
    let (ids, text, reason, _) = answer(&engine, request(&engine, QUESTION));
    assert_eq!((&*text, reason), (ANSWER, FinishReason::Stop));
    assert!(engine.info().eos.iter().all(|id| !ids.contains(id)));
    let stopped = |stop: &[&str]| {
        let stop = stop.iter().map(|text| (*text).into()).collect();
        let (_, text, reason, _) = answer(&engine, Request { stop, ..request(&engine, QUESTION) });
        (text, reason)
    };
    // In the middle of a token, over several tokens, the first of several, and one that never comes.
    let stop = FinishReason::Stop;
    assert_eq!(stopped(&["apit"]), ("The c".into(), stop));
    assert_eq!(stopped(&["of France is P"]), ("The capital ".into(), stop));
    assert_eq!(stopped(&["Paris", "France"]), ("The capital of ".into(), stop));
    assert_eq!(stopped(&["Paris. And"]), (ANSWER.into(), stop));
    assert_eq!(stopped(&["T"]), (String::new(), stop));
}

#[test]
fn timings_count_tokens_and_what_the_cache_held() {
    let engine = engine(&EngineOptions::default());
    let long = request(&engine, &"Tell me about rivers. ".repeat(20));
    let prompt_tokens = long.prompt.len();
    let (ids, text, reason, first) = answer(&engine, long.clone());
    assert_eq!((first.prompt_tokens, first.cached_tokens), (prompt_tokens, 0));
    let generated = ids.len() + usize::from(reason == FinishReason::Stop);
    assert_eq!(first.decode_tokens, generated);
    assert!(first.prompt_rate() > 0.0 && first.decode_rate() > 0.0);
    let (same_ids, same_text, _, second) = answer(&engine, long);
    assert_eq!((same_ids, same_text), (ids, text));
    assert!(second.cached_tokens > prompt_tokens / 2 && second.cached_tokens < prompt_tokens);
    let nothing = Request { max_tokens: Some(0), ..request(&engine, QUESTION) };
    let (ids, _, reason, timings) = answer(&engine, nothing);
    assert_eq!((ids.len(), reason, timings.decode_tokens), (0, FinishReason::Length, 0));
    assert_eq!(timings.decode_rate(), 0.0);
}

#[test]
fn conversations_at_once_are_what_they_are_alone() {
    let engine =
        engine(&EngineOptions { kv_pages: Some(6), prefix_cache: false, ..Default::default() });
    let questions = [QUESTION, "What is water?", "Name three colors.", "Who are you?"];
    let alone: Vec<_> = questions
        .map(|question| answer(&engine, request(&engine, question)))
        .into_iter()
        .map(|(ids, text, ..)| (ids, text))
        .collect();
    std::thread::scope(|scope| {
        for (question, alone) in questions.iter().zip(&alone) {
            let engine = &engine;
            scope.spawn(move || {
                let (ids, text, ..) = answer(engine, request(engine, question));
                assert_eq!(&(ids, text), alone);
            });
        }
    });
}

#[test]
fn logits_are_the_same_bits_for_any_chunk_number_of_threads_and_company() {
    let logits = |chunk, threads, company: usize| {
        let options =
            EngineOptions { prefill_chunk: chunk, threads: Some(threads), ..Default::default() };
        let engine = engine(&options);
        let question = request(&engine, QUESTION);
        let others: Vec<_> = (0..company)
            .map(|index| engine.submit(request(&engine, &"And? ".repeat(index + 1))).unwrap())
            .collect();
        let request = Request { prompt_logits: true, max_tokens: Some(0), ..question };
        let mut bits = vec![];
        for event in engine.submit(request).unwrap() {
            if let Event::PromptLogits { values, .. } = event {
                bits.extend(values.into_iter().map(f32::to_bits));
            }
        }
        assert_eq!(others.len(), company);
        bits
    };
    let expected = logits(512, 1, 0);
    assert_eq!(expected.len(), 15 * 8192);
    for (chunk, threads, company) in [(1, 2, 0), (7, 3, 2), (512, 2, 4)] {
        let found = logits(chunk, threads, company);
        assert!(found == expected, "chunks of {chunk}, {threads} threads, {company} others");
    }
}

#[test]
fn loading_tells_how_far_it_is_and_can_be_cancelled() {
    let checkpoint = keeve::demo_model().unwrap();
    let outcome = Engine::load(&checkpoint, &EngineOptions::default(), &|_| false);
    assert_eq!(outcome.err().map(|error| error.to_string()).as_deref(), Some("cancelled"));
    let last = std::sync::Mutex::new(None);
    let progress = |progress: keeve::graph::Progress| {
        *last.lock().unwrap() = Some((progress.done, progress.total));
        true
    };
    let engine = Engine::load(&checkpoint, &EngineOptions::default(), &progress).unwrap();
    let bytes = engine.info().weight_bytes;
    assert_eq!(*last.lock().unwrap(), Some((bytes, bytes)));
}

#[test]
fn the_embedding_example_answers() {
    // Cargo builds examples with the tests, two folders up from where they run.
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().and_then(|deps| deps.parent()).unwrap();
    let name = format!("embed{}", std::env::consts::EXE_SUFFIX);
    let example = folder.join("examples").join(name);
    assert!(example.exists(), "{} is built by a plain `cargo test`", example.display());
    let output = Command::new(example).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{ANSWER} [stop]\n"));
}
