//! Prompts with images, against what transformers and mlx-vlm computed and answered.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "tests")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;

use common::{Tensors, data_folder, images, json, relative_error, short};
use keeve_checkpoint::Checkpoint;
use keeve_engine::{Engine, EngineOptions, Event, Generation, Request};
use keeve_graph::Activations;
use keeve_image::Patches;

/// Relative Frobenius error that `f32` arithmetic in another order may cost.
const LOGITS: f64 = 1e-4;
/// Rows of prompts in a step: one, few, more than a page, all.
const CHUNKS: [usize; 4] = [1, 7, 64, 4096];
/// The token of images in the fixtures and in the demo model.
const PADS: [u32; 2] = [510, 8178];

fn engine(folder: &str, options: EngineOptions) -> Engine {
    let checkpoint = Checkpoint::open(&data_folder().join(folder)).expect(folder);
    Engine::load(&checkpoint, &options, &|_| true).expect(folder)
}

fn float(prefill_chunk: usize) -> EngineOptions {
    let activations = Activations::Float;
    EngineOptions { activations, prefill_chunk, ..EngineOptions::default() }
}

fn prompt_logits(prompt: &[u32], images: &[Arc<Patches>]) -> Request {
    Request {
        prompt: prompt.into(),
        images: images.into(),
        max_tokens: Some(0),
        prompt_logits: true,
        ..Request::default()
    }
}

fn greedy(prompt: &[u32], images: &[Arc<Patches>], max_tokens: usize) -> Request {
    let mut request = Request {
        prompt: prompt.into(),
        images: images.into(),
        max_tokens: Some(max_tokens),
        ..Request::default()
    };
    request.sampling.temperature = 0.0;
    request
}

fn logits(events: Generation) -> Vec<f32> {
    let mut all = vec![];
    for event in events {
        match event {
            Event::PromptLogits { values, .. } => all.extend(values),
            Event::Finished { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    all
}

/// The tokens of an answer, and how many tokens of its prompt were found in the prefix cache.
fn answer(events: Generation) -> (Vec<u32>, usize) {
    let (mut ids, mut cached) = (vec![], 0);
    for event in events {
        match event {
            Event::Token { id, .. } => ids.push(id),
            Event::Finished { timings, .. } => cached = timings.cached_tokens,
            other => panic!("{other:?}"),
        }
    }
    (ids, cached)
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Logits of a case of `reference` at every chunk size, and its greedy tokens where there are such.
fn check(folder: &str, reference: &Tensors, case: &str, name: &str, images: &[Arc<Patches>]) {
    let (_, ids) = reference.numbers(&format!("{case}.input_ids"));
    let ids = PADS
        .iter()
        .fold(ids, |ids, &pad| short(&ids, pad).into_iter().map(|id| id as i32).collect());
    let prompt: Vec<u32> = ids.iter().map(|&id| id as u32).collect();
    let (_, expected) = reference.floats(name);
    let mut first = None;
    for chunk in CHUNKS {
        let engine = engine(folder, float(chunk));
        let found = logits(engine.submit(prompt_logits(&prompt, images)).unwrap());
        let error = relative_error(&found, &expected);
        println!("{folder} {case}, chunks of {chunk}: relative error {error:.1e}");
        assert!(error < LOGITS, "{folder} {case}, chunks of {chunk}: {error:.1e}");
        let first = first.get_or_insert_with(|| bits(&found));
        assert!(*first == bits(&found), "{folder} {case}: chunks of {chunk} change bits");
        let greedy_name = format!("{case}.greedy");
        if reference.has(&greedy_name) && name == format!("{case}.logits") {
            let (_, expected) = reference.numbers(&greedy_name);
            let (_, margins) = reference.floats(&format!("{case}.margin"));
            let decided =
                margins.iter().position(|margin| *margin < 0.005).unwrap_or(margins.len());
            let mut request = greedy(&prompt, images, expected.len());
            request.ignore_eos = true;
            let (found, _) = answer(engine.submit(request).unwrap());
            let expected: Vec<u32> = expected.iter().map(|&id| id as u32).collect();
            assert_eq!(found[..decided], expected[..decided], "{case}: greedy tokens");
        }
    }
}

fn fixture_images(reference: &Tensors, case: &str) -> Vec<Arc<Patches>> {
    let (_, pixels) = reference.floats(&format!("{case}.pixel_values"));
    images(&pixels, &reference.numbers(&format!("{case}.image_grid_thw")).1)
}

/// The images of the case whose pixels are left out: one that no other case has, from its file, and those
/// of the case before.
fn third(reference: &Tensors) -> Vec<Arc<Patches>> {
    let folder = data_folder().join("fixtures/qwen3_vl");
    let engine = engine("fixtures/qwen3_vl/hf", float(64));
    let processor = engine.image_processor().expect("an image processor");
    let first = processor.process(&common::bytes(&folder.join("img2.png"))).unwrap();
    let mut images = vec![Arc::new(first)];
    images.extend(fixture_images(reference, "two"));
    images
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn fixtures_of_transformers_and_mlx() {
    let reference = Tensors::open(&data_folder().join("fixtures/qwen3_vl/ref.safetensors"));
    for (folder, prefix) in [("hf", ""), ("mlx-q4g64", "mlx-q4g64.")] {
        let folder = format!("fixtures/qwen3_vl/{folder}");
        for case in ["text", "one", "two", "three"] {
            let images = match case {
                "text" => vec![],
                "three" => third(&reference),
                _ => fixture_images(&reference, case),
            };
            check(&folder, &reference, case, &format!("{prefix}{case}.logits"), &images);
        }
    }
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn references_of_the_demo_model() {
    let folder = "models/demo-qwen3-vl";
    let reference = Tensors::open(&data_folder().join(folder).join("reference.safetensors"));
    for case in ["prompt1", "prompt2"] {
        let images = fixture_images(&reference, case);
        check(folder, &reference, case, &format!("{case}.logits"), &images);
    }
}

/// A case of the shared set: prompt, images, and the tokens that transformers answers with.
struct Case {
    id: String,
    prompt: Vec<u32>,
    images: Vec<Arc<Patches>>,
    /// Without the end token.
    answer: Vec<u32>,
}

/// All cases, their images as this project's own processor makes them.
fn cases(engine: &Engine) -> Vec<Case> {
    let folder = data_folder().join("data/vlm-cases");
    let file = json(&folder.join("cases.json"));
    let eos = &engine.info().eos;
    let processor = engine.image_processor().expect("an image processor");
    let case = |case: &serde_json::Value| {
        let image = |name: &serde_json::Value| {
            Arc::new(processor.process(&common::bytes(&folder.join(common::text(name)))).unwrap())
        };
        let tokenizer = engine.tokenizer().unwrap();
        let mut answer = common::ids(&case["answer_ids"]);
        answer.retain(|id| !eos.contains(id));
        Case {
            id: common::text(&case["id"]).into(),
            prompt: tokenizer.encode(common::text(&case["prompt"]), false, true).unwrap(),
            images: case["images"].as_array().unwrap().iter().map(image).collect(),
            answer,
        }
    };
    let cases: Vec<_> = file["cases"].as_array().unwrap().iter().map(case).collect();
    assert_eq!(cases.len(), 12);
    cases
}

const DEMO: &str = "models/demo-qwen3-vl";

/// Each case alone and then again, when its beginning may be found in the cache; and all of them at once.
#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn every_case_is_answered_at_every_chunk_size_alone_and_together() {
    for chunk in CHUNKS {
        for prefix_cache in [true, false] {
            let engine = engine(DEMO, EngineOptions { prefix_cache, ..float(chunk) });
            let cases = cases(&engine);
            for case in &cases {
                // A second time only where there is something to be found.
                for again in [false, true].into_iter().take(1 + prefix_cache as usize) {
                    let request = greedy(&case.prompt, &case.images, 20);
                    let (found, cached) = answer(engine.submit(request).unwrap());
                    assert_eq!(found, case.answer, "{} in chunks of {chunk}", case.id);
                    assert!(prefix_cache || cached == 0);
                    assert!(!again || cached > 0, "{}: nothing found", case.id);
                }
            }
            let submit =
                |case: &Case| engine.submit(greedy(&case.prompt, &case.images, 20)).unwrap();
            let running: Vec<_> = cases.iter().map(submit).collect();
            for (case, running) in cases.iter().zip(running) {
                let (found, _) = answer(running);
                assert_eq!(found, case.answer, "{} in chunks of {chunk}, together", case.id);
            }
        }
    }
}

/// The same prompt with other images of the same sizes shares nothing that it must not: what is found in the
/// cache ends before the first image that differs.
#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn other_pixels_are_never_found_in_the_cache() {
    let fresh = || engine(DEMO, float(64));
    let one = fresh();
    let case = cases(&one).swap_remove(8);
    let other = |images: &[Arc<Patches>], which: usize| {
        let mut images = images.to_vec();
        let mut pixels = images[which].pixels.clone();
        pixels.iter_mut().for_each(|value| *value = -*value);
        images[which] = Arc::new(Patches::new(pixels, images[which].grid));
        images
    };
    let variants = [
        case.images.clone(),
        other(&case.images, 0),
        other(&case.images, 1),
        other(&case.images, 2),
        vec![case.images[0].clone(), case.images[2].clone(), case.images[1].clone()],
    ];
    let mut known = vec![];
    for (index, images) in variants.iter().enumerate() {
        let alone = logits(fresh().submit(prompt_logits(&case.prompt, images)).unwrap());
        // Requests that report no logits may use the cache.
        answer(one.submit(greedy(&case.prompt, images, 4)).unwrap());
        let mut request = prompt_logits(&case.prompt, images);
        let tokens = alone.len() / one.info().vocabulary;
        request.prompt_logits_from = tokens - 1;
        let last = logits(one.submit(request).unwrap());
        let expected = &alone[(tokens - 1) * one.info().vocabulary..];
        assert!(bits(&last) == bits(expected), "variant {index} depends on what ran before");
        assert!(known.iter().all(|other| *other != last), "variant {index} is no other");
        known.push(last);
    }
}

/// A second turn with one more image goes on where the first ended, and sees only the new image.
#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn a_later_turn_reuses_what_was_seen() {
    for chunk in [7, 4096] {
        let together = engine(DEMO, float(chunk));
        let cases = cases(&together);
        let (first, next) = (&cases[8], &cases[4]);
        let (ids, _) = answer(together.submit(greedy(&first.prompt, &first.images, 20)).unwrap());
        let eos = together.info().eos[0];
        let prompt = [&first.prompt[..], &ids, &[eos], &next.prompt].concat();
        let images = [&first.images[..], &next.images].concat();
        let (second, cached) = answer(together.submit(greedy(&prompt, &images, 20)).unwrap());
        assert!(cached >= 64, "{cached} tokens were found");
        let options = EngineOptions { prefix_cache: false, ..float(chunk) };
        let (alone, cached) =
            answer(engine(DEMO, options).submit(greedy(&prompt, &images, 20)).unwrap());
        assert_eq!((&second, cached), (&alone, 0));
        assert!(!second.is_empty());
    }
}

/// How many cases stay right with fewer bits. All did when it was measured; 4 bits may be unlucky once,
/// as other instructions round otherwise.
#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn quantized_language_weights_answer_most_cases() {
    let kinds = [
        (None, Activations::Bf16, 12),
        (Some("int8"), Activations::Int8, 12),
        (Some("q8_0"), Activations::Auto, 12),
        (Some("q4_k"), Activations::Auto, 11),
    ];
    for (codec, activations, least) in kinds {
        let weights = codec.map(|name| name.parse().expect("a codec"));
        let options = EngineOptions { weights, activations, ..EngineOptions::default() };
        let engine = engine(DEMO, options);
        let right = |case: &&Case| {
            let request = greedy(&case.prompt, &case.images, 20);
            answer(engine.submit(request).unwrap()).0 == case.answer
        };
        let cases = cases(&engine);
        let count = cases.iter().filter(right).count();
        println!("{codec:?}, {activations:?}: {count} of {} cases", cases.len());
        assert!(count >= least, "{codec:?}, {activations:?}: {count} of {}", cases.len());
    }
}

/// What cannot be honoured is refused, with the reason.
#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn images_that_do_not_fit_the_prompt_or_the_model_are_refused() {
    let demo = engine(DEMO, EngineOptions { image_tokens: 20, ..float(64) });
    let image = |side: usize| {
        let patches = Patches::new(vec![0.1; side * side * 1536], [1, side, side]);
        Arc::new(patches)
    };
    let refused = |prompt: &[u32], images: Vec<Arc<Patches>>, expected: &str| {
        let error = demo.submit(greedy(prompt, &images, 1)).err().expect("an error").to_string();
        assert!(error.contains(expected), "{error}");
    };
    refused(&[5], vec![image(2)], "0 places for images and 1 images");
    refused(&[5, 8178], vec![], "1 places for images and 0 images");
    refused(&[8178], vec![image(3)], "not multiples of 2");
    refused(&[8178], vec![image(10)], "more than 20 tokens");
    let many = vec![image(8); 200];
    refused(&[8178; 200], many, "the prompt has 3200 tokens, but the context holds");
    let text = engine("models/demo-qwen3", EngineOptions::default());
    let error = text.submit(greedy(&[5], &[image(2)], 1)).err().expect("an error").to_string();
    assert!(error.contains("cannot see"), "{error}");
    assert!(text.image_processor().is_none());
}

/// A sequence that generates gets a token between any two layers of what is seen meanwhile.
#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn sequences_go_on_while_images_are_seen() {
    /// The patches' first state, six layers, and what is given to the language model.
    const STAGES: usize = 8;
    let engine = Arc::new(engine(DEMO, float(64)));
    let case = cases(&engine).swap_remove(4);
    let seeing = greedy(&case.prompt, &case.images, 20);
    let mut writing = greedy(&[1, 2, 3], &[], 200);
    writing.ignore_eos = true;
    let written = Arc::new(AtomicUsize::new(0));
    let (starts, started) = channel();
    let counted = written.clone();
    let count = move |event| {
        if let Event::Token { .. } = event
            && counted.fetch_add(1, Ordering::SeqCst) == 0
        {
            // On the engine's thread: the step that this is part of ends before anything is seen.
            let _ = starts.send(());
        }
        true
    };
    let canceller = engine.submit_to(writing, count).unwrap();
    started.recv().unwrap();
    let before = written.load(Ordering::SeqCst);
    let (answers, answered) = channel();
    let written_too = written.clone();
    let answer = move |event| {
        match event {
            Event::Token { id, .. } => {
                let _ = answers.send((id, written_too.load(Ordering::SeqCst)));
            }
            Event::Finished { .. } => {}
            other => panic!("{other:?}"),
        }
        true
    };
    engine.submit_to(seeing, answer).unwrap();
    let tokens: Vec<_> = answered.iter().collect();
    canceller.cancel();
    let ids: Vec<_> = tokens.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, case.answer);
    let meanwhile = tokens[0].1 - before;
    // The text may have ended before the images were seen, if this thread was slow to ask.
    assert!(meanwhile >= STAGES - 1 || tokens[0].1 == 200, "{meanwhile} tokens meanwhile");
}

/// Images are seen once while there is room for what was made of them, whatever prompts they are in.
#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn images_are_seen_once_while_there_is_room() {
    // A case's two images take 42 tokens of 4 times 256 numbers.
    for (image_cache_bytes, expected) in [(42 * 4 * 256 * 4, 2), (0, 4)] {
        let options = EngineOptions { image_cache_bytes, prefix_cache: false, ..float(64) };
        let engine = engine(DEMO, options);
        let case = cases(&engine).swap_remove(4);
        for turns in 1..=2 {
            // Other text before the images.
            let prompt = [&vec![7; turns][..], &case.prompt].concat();
            answer(engine.submit(greedy(&prompt, &case.images, 2)).unwrap());
        }
        // The counts are published before the next request is taken.
        answer(engine.submit(greedy(&[1], &[], 1)).unwrap());
        assert_eq!(engine.stats().images_seen, expected, "{image_cache_bytes} bytes");
    }
}

/// Sequences that lose their pages see their images again, and answer as if nothing had been.
#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn sequences_that_give_up_their_pages_answer_the_same() {
    let long = |case: &Case| {
        let mut request = greedy(&case.prompt, &case.images, 120);
        request.ignore_eos = true;
        request
    };
    let roomy = engine(DEMO, float(64));
    let cases: Vec<_> = cases(&roomy).into_iter().step_by(2).collect();
    let expected: Vec<_> =
        cases.iter().map(|case| answer(roomy.submit(long(case)).unwrap()).0).collect();
    let page = roomy.stats().page_tokens;
    // Room for the prompts of most, but not for all answers.
    let options = EngineOptions {
        kv_pages: Some((4 * 110usize).div_ceil(page)),
        image_cache_bytes: 0,
        ..float(64)
    };
    let tight = engine(DEMO, options);
    let running: Vec<_> = cases.iter().map(|case| tight.submit(long(case)).unwrap()).collect();
    for ((case, running), expected) in cases.iter().zip(running).zip(expected) {
        assert_eq!(answer(running).0, expected, "{}", case.id);
    }
    assert!(tight.stats().preemptions > 0);
}
