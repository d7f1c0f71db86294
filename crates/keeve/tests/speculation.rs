//! Guessing ahead changes no answer of the demo model: greedy or drawn, alone or together, whatever
//! activations are rounded to.

#![allow(clippy::unwrap_used, reason = "tests")]

use keeve::checkpoint::Checkpoint;
use keeve::{Activations, Engine, EngineOptions, Event, Request, Speculation, Timings};

const PROMPTS: [&str; 8] = [
    "What is the capital of France?",
    "Repeat: one two three, one two three, one two three,",
    "Tell me about the city of Paris.",
    "List the days of the week twice.",
    "Write a poem about the sea.",
    "Who wrote the play Hamlet, and when?",
    "1, 2, 3, 4, 1, 2, 3, 4, 1, 2,",
    "Why is the sky blue? Say it again and again.",
];
const TOKENS: usize = 60;

/// Tokens with their log probabilities, and how long things took.
type Answer = (Vec<(u32, u32)>, Timings);

fn engine(mode: Speculation, draft: Option<&Checkpoint>, activations: Activations) -> Engine {
    let options = EngineOptions {
        speculation: mode,
        activations,
        draft_tokens: 6,
        threads: Some(2),
        max_context: Some(512),
        ..EngineOptions::default()
    };
    Engine::load_with_draft(&keeve::demo_model().unwrap(), draft, &options, &|_| true).unwrap()
}

/// The answers to all prompts at once, every second one drawn at random.
fn answers(engine: &Engine, together: bool) -> Vec<Answer> {
    let tokenizer = engine.tokenizer().unwrap();
    let requests = PROMPTS.iter().enumerate().map(|(index, prompt)| {
        let message = [keeve::Message::text("user", *prompt)];
        let options = keeve::RenderOptions { add_generation_prompt: true, ..Default::default() };
        let mut request = Request {
            prompt: match index % 4 {
                3 => tokenizer.encode(prompt, true, false).unwrap(),
                _ => engine.chat_prompt(&message, &options).unwrap(),
            },
            max_tokens: Some(TOKENS),
            ignore_eos: true,
            ..Request::default()
        };
        request.sampling.temperature = if index % 2 == 0 { 0.0 } else { 0.9 };
        request.sampling.seed = Some(index as u64);
        request.sampling.repetition_penalty = if index == 4 { 1.1 } else { 1.0 };
        request
    });
    let read = |generation: keeve::Generation| {
        let mut tokens = vec![];
        for event in generation {
            match event {
                Event::Token { id, logprob, .. } => tokens.push((id, logprob.to_bits())),
                Event::Finished { timings, .. } => return (tokens, timings),
                event => panic!("{event:?}"),
            }
        }
        panic!("no end");
    };
    if together {
        let running: Vec<_> = requests.map(|request| engine.submit(request).unwrap()).collect();
        running.into_iter().map(read).collect()
    } else {
        requests.map(|request| read(engine.submit(request).unwrap())).collect()
    }
}

fn tokens(answers: &[Answer]) -> Vec<&[(u32, u32)]> {
    answers.iter().map(|(tokens, _)| &tokens[..]).collect()
}

#[test]
fn guesses_change_no_bit_and_some_are_right() {
    let demo = keeve::demo_model().unwrap();
    for activations in [Activations::Auto, Activations::Float] {
        let plain = answers(&engine(Speculation::Off, None, activations), false);
        assert!(plain.iter().all(|(tokens, _)| tokens.len() == TOKENS));
        for (mode, draft) in [
            (Speculation::Auto, None),
            (Speculation::Ngram, None),
            (Speculation::Auto, Some(&demo)),
            (Speculation::Draft, Some(&demo)),
        ] {
            let engine = engine(mode, draft, activations);
            for together in [false, true] {
                let found = answers(&engine, together);
                assert!(tokens(&found) == tokens(&plain), "{mode:?}, together: {together}");
                let right: usize = found.iter().map(|(_, timings)| timings.accepted_tokens).sum();
                let drafted: usize = found.iter().map(|(_, timings)| timings.drafted_tokens).sum();
                match mode {
                    // The model as its own draft model: it is right wherever nothing but the
                    // distribution decides.
                    Speculation::Draft => assert_eq!(right, drafted),
                    Speculation::Ngram => assert!(right > 20 && right < drafted, "{right}"),
                    // As many as pay, which depends on the machine.
                    _ => assert!(right <= drafted),
                }
            }
        }
    }
}

#[test]
fn a_draft_model_with_other_tokens_is_refused() {
    let options = EngineOptions { speculation: Speculation::Draft, ..EngineOptions::default() };
    let load = |draft: Option<&Checkpoint>| {
        Engine::load_with_draft(&keeve::demo_model().unwrap(), draft, &options, &|_| true)
            .map(|_| ())
            .unwrap_err()
            .to_string()
    };
    assert!(load(None).contains("no draft model"));
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../engine/tests/data/architectures/mistral");
    let other = Checkpoint::open(std::path::Path::new(folder)).unwrap();
    let message = load(Some(&other));
    assert!(message.contains("tokens, the model"), "{message}");
}
