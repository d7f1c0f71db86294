//! What shares a step, how prompts are cut and how much room there is must not change answers, to
//! the last bit.

#![allow(clippy::unwrap_used, reason = "tests")]

mod tiny;

use keeve_engine::{EngineOptions, Error, Event, FinishReason, Request, Speculation};
use tiny::{CONTEXT, EOS, Numbers, VOCABULARY, answer, engine, greedy, seeded};

/// Prompts with greedy and with seeded requests.
fn requests(count: usize, longest: usize, max_tokens: usize) -> Vec<Request> {
    let mut numbers = Numbers(2);
    let request = |index| {
        let prompt = numbers.prompt(longest);
        match index % 2 {
            0 => greedy(&prompt, max_tokens),
            _ => seeded(&prompt, max_tokens, index as u64),
        }
    };
    (0..count).map(request).collect()
}

/// Each request's answer when it is the only one, and nothing is remembered from the others.
fn alone(requests: &[Request]) -> Vec<(Vec<(u32, f32)>, FinishReason)> {
    let engine = engine(&EngineOptions {
        prefix_cache: false,
        speculation: Speculation::Off,
        ..EngineOptions::default()
    });
    requests.iter().map(|request| answer(engine.submit(request.clone()).unwrap())).collect()
}

#[test]
fn a_batch_gives_what_single_runs_give_whatever_the_options() {
    let requests = requests(12, 60, 20);
    let alone = alone(&requests);
    // The model must not be so dull that mistakes go unseen.
    let distinct: std::collections::HashSet<_> =
        alone.iter().flat_map(|(tokens, _)| tokens.iter().map(|token| token.0)).collect();
    assert!(distinct.len() > 20, "{distinct:?}");
    let plain = EngineOptions::default();
    let variants = [
        plain.clone(),
        EngineOptions { prefill_chunk: 1, ..plain.clone() },
        EngineOptions { prefill_chunk: 7, threads: Some(3), ..plain.clone() },
        EngineOptions { prefix_cache: false, max_sequences: 3, ..plain.clone() },
        EngineOptions { threads: Some(1), max_sequences: 1, ..plain.clone() },
        // Room for one long sequence or two short ones: they push each other out.
        EngineOptions { kv_pages: Some(3), max_context: Some(96), ..plain.clone() },
        EngineOptions {
            kv_pages: Some(3),
            max_context: Some(96),
            prefix_cache: false,
            ..plain.clone()
        },
        // Guesses change nothing.
        EngineOptions { speculation: Speculation::Off, ..plain.clone() },
        EngineOptions { speculation: Speculation::Ngram, draft_tokens: 5, ..plain.clone() },
        EngineOptions {
            speculation: Speculation::Ngram,
            kv_pages: Some(3),
            max_context: Some(96),
            ..plain
        },
    ];
    for options in variants {
        let engine = engine(&options);
        // Twice: the second time, the prefix cache knows the prompts.
        for _ in 0..2 {
            let generations: Vec<_> =
                requests.iter().map(|request| engine.submit(request.clone()).unwrap()).collect();
            for (generation, alone) in generations.into_iter().zip(&alone) {
                assert_eq!(&answer(generation), alone, "{options:?}");
            }
        }
    }
}

#[test]
fn a_hundred_requests_in_little_room() {
    let requests = requests(100, 40, 6);
    let alone = alone(&requests);
    let options =
        EngineOptions { kv_pages: Some(4), prefill_chunk: 32, ..EngineOptions::default() };
    let engine = engine(&options);
    // A page holds 32 tokens.
    assert_eq!(engine.info().max_context, 4 * 32);
    let generations: Vec<_> =
        requests.iter().map(|request| engine.submit(request.clone()).unwrap()).collect();
    for (generation, alone) in generations.into_iter().zip(&alone) {
        assert_eq!(&answer(generation), alone);
    }
}

#[test]
fn prompt_logits_are_the_same_bits_for_any_chunk_and_number_of_threads() {
    let prompt = Numbers(7).prompt(CONTEXT);
    let logits = |prefill_chunk, threads| {
        let options =
            EngineOptions { prefill_chunk, threads: Some(threads), ..EngineOptions::default() };
        let request = Request { prompt_logits: true, ..greedy(&prompt, 0) };
        let mut all = vec![];
        for event in engine(&options).submit(request).unwrap() {
            if let Event::PromptLogits { start, values, .. } = event {
                assert_eq!(start * VOCABULARY, all.len());
                all.extend(values.into_iter().map(f32::to_bits));
            }
        }
        assert_eq!(all.len(), prompt.len() * VOCABULARY);
        all
    };
    let expected = logits(512, 1);
    for (chunk, threads) in [(1, 1), (1, 3), (7, 2), (16, 1), (33, 3), (512, 2)] {
        assert!(logits(chunk, threads) == expected, "chunks of {chunk}, {threads} threads");
    }
}

#[test]
fn prompt_logits_part_by_part_are_those_of_the_whole_prompt_and_nothing_runs_twice() {
    let prompt: Vec<u32> = (0..CONTEXT as u32).map(|at| at * 7 % VOCABULARY as u32).collect();
    let engine = engine(&EngineOptions { kv_pages: Some(5), ..EngineOptions::default() });
    let part = |from: usize, end: usize| {
        let request =
            Request { prompt_logits: true, prompt_logits_from: from, ..greedy(&prompt[..end], 0) };
        let (mut rows, mut cached) = (vec![], 0);
        for event in engine.submit(request).unwrap() {
            match event {
                Event::PromptLogits { start, values, .. } => {
                    assert_eq!(start, from + rows.len() / VOCABULARY);
                    rows.extend(values.into_iter().map(f32::to_bits));
                }
                Event::Finished { timings, .. } => cached = timings.cached_tokens,
                event => panic!("{event:?}"),
            }
        }
        (rows, cached)
    };
    let (whole, cached) = part(0, CONTEXT);
    assert_eq!((whole.len(), cached), (CONTEXT * VOCABULARY, 0));
    let page = 32;
    assert_eq!(part(page, page + 5), (whole[page * VOCABULARY..][..5 * VOCABULARY].into(), page));
    // In the middle of a page, its beginning runs again, without logits.
    let (rows, cached) = part(page + 3, CONTEXT);
    assert_eq!(cached, page);
    assert!(rows == whole[(page + 3) * VOCABULARY..]);
    assert_eq!(part(CONTEXT, CONTEXT).0, [] as [u32; 0]);
}

#[test]
fn a_cancelled_answer_ends_and_the_others_do_not() {
    let engine = engine(&EngineOptions { kv_pages: Some(5), ..EngineOptions::default() });
    // The whole answer takes so little that it may be there before it is cancelled.
    let cancelled = (0..100).any(|_| {
        let mut long = engine.submit(greedy(&[1, 2, 3], 150)).unwrap();
        let other = engine.submit(greedy(&[4, 5, 6], 20)).unwrap();
        assert!(matches!(long.next(), Some(Event::Token { .. })));
        long.canceller().cancel();
        let (tokens, reason) = answer(long);
        assert_eq!(answer(other).1, FinishReason::Length);
        // One was taken before.
        assert_eq!(reason == FinishReason::Length, tokens.len() == 149);
        reason == FinishReason::Cancelled
    });
    assert!(cancelled);
    // All of the room is there again.
    let (tokens, reason) = answer(engine.submit(greedy(&[1; 100], 60)).unwrap());
    assert_eq!((tokens.len(), reason), (60, FinishReason::Length));
}

#[test]
fn the_end_token_ends_an_answer_unless_it_is_to_be_ignored() {
    let engine = engine(&EngineOptions::default());
    let mut found = false;
    for first in 0..VOCABULARY as u32 {
        let (all, _) = answer(engine.submit(greedy(&[first], 60)).unwrap());
        let end = all.iter().position(|token| token.0 == EOS);
        let request = Request { ignore_eos: false, ..greedy(&[first], 60) };
        let (tokens, reason) = answer(engine.submit(request).unwrap());
        match end {
            Some(end) => {
                assert_eq!((&tokens[..], reason), (&all[..end], FinishReason::Stop));
                found = true;
            }
            None => assert_eq!((tokens, reason), (all, FinishReason::Length)),
        }
    }
    assert!(found, "no answer had an end token");
}

#[test]
fn text_needs_a_tokenizer() {
    let engine = engine(&EngineOptions::default());
    assert!(matches!(engine.tokenizer(), Err(Error::NoTokenizer)));
    let prompt = engine.chat_prompt(&[], &Default::default());
    assert!(matches!(prompt, Err(Error::NoChatTemplate)));
    for event in engine.submit(greedy(&[1], 3)).unwrap() {
        if let Event::Token { text, .. } | Event::Finished { text, .. } = event {
            assert_eq!(text, "");
        }
    }
}
