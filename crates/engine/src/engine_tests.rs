//! The engine over a pretended model whose next token depends on every token in its pages, so that
//! a page given to the wrong sequence, or a row run twice or in the wrong phase, changes answers.

use std::any::Any;
use std::collections::HashMap;
use std::time::Duration;

use keeve_graph::sampling::{Workspace, sample};
use keeve_graph::{Outputs, PageId, Phase, Step, Tap};

use super::*;
use crate::kv::{PagePool, Reuse};
use crate::request::Event;
use crate::scheduler::Limits;

const VOCABULARY: usize = 50;
const PAGE: usize = 4;
const CONTEXT: usize = 64;
/// The token at which the pretended model ends answers.
const EOS: u32 = 0;
/// Tokens that make the pretended plan fail, and panic.
const BAD: u32 = 48;
const DEADLY: u32 = 49;

type Cell = (u32, Phase);

/// A plan whose state is the tokens themselves.
struct Pretended {
    cells: HashMap<(PageId, usize), Cell>,
    pages: usize,
    /// The most rows of sequences with several that a step may have.
    long_rows: usize,
    /// Whether every third token is guessed wrongly, as a draft model may.
    careless: bool,
}

struct NoState;

impl State for NoState {
    fn page_tokens(&self) -> usize {
        PAGE
    }
    fn pages(&self) -> usize {
        0
    }
    fn page_bytes(&self) -> usize {
        0
    }
    fn copy_page(&mut self, _: PageId, _: PageId) {}
    fn export_page(&self, _: PageId) -> Vec<u8> {
        vec![]
    }
    fn import_page(&mut self, _: PageId, _: &[u8]) -> bool {
        false
    }
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

/// Logits that depend on every token and its phase.
fn logits(history: &[Cell]) -> Vec<f32> {
    let mut hash = 7u64;
    for &(id, phase) in history {
        hash = (hash ^ u64::from(id) ^ (phase as u64) << 32).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        hash ^= hash >> 29;
    }
    let value = |id: usize| {
        let mixed = (hash ^ id as u64).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        ((mixed >> 40) as f32) / 4e6
    };
    // The tokens that do harm are never generated.
    (0..VOCABULARY)
        .map(|id| if id < BAD as usize { value(id) } else { f32::NEG_INFINITY })
        .collect()
}

impl Plan for Pretended {
    fn run(
        &mut self,
        step: &Step<'_>,
        _: &mut dyn State,
        _: Option<&mut dyn Tap>,
    ) -> Result<Outputs, keeve_graph::Error> {
        step.check(&keeve_graph::StepLimits {
            vocabulary: VOCABULARY,
            given_width: 0,
            whole_sequences: false,
            page_tokens: PAGE,
            pages: self.pages,
        })?;
        assert!(!step.rows.iter().any(|row| row.id == DEADLY), "a deadly token");
        if step.rows.iter().any(|row| row.id == BAD) {
            return Err(keeve_graph::Error::Step("a bad token".into()));
        }
        let long = step.sequences.iter().filter(|sequence| sequence.rows.len() > 1);
        assert!(long.map(|sequence| sequence.rows.len()).sum::<usize>() <= self.long_rows);
        let (mut values, mut sampled) = (vec![], vec![]);
        for sequence in &step.sequences {
            let cell = |at: usize| (sequence.pages[at / PAGE], at % PAGE);
            for (index, row) in step.rows[sequence.rows.clone()].iter().enumerate() {
                let sampling = step.row_sampling(sequence.rows.start + index);
                let position = sequence.past + index;
                assert_eq!(row.position, [position as u32; 3]);
                self.cells.insert(cell(position), (row.id, row.phase));
                if row.logits || sampling.is_some() {
                    let history: Vec<_> = (0..=position).map(|at| self.cells[&cell(at)]).collect();
                    let mut scores = logits(&history);
                    if self.careless && position.is_multiple_of(3) {
                        scores[..BAD as usize].rotate_right(1);
                    }
                    let mut work = Workspace::default();
                    sampled.extend(sampling.map(|sampling| sample(&scores, sampling, &mut work)));
                    if row.logits {
                        values.extend(scores);
                    }
                }
            }
        }
        Ok(Outputs { values: vec![(Want::Logits, VOCABULARY, values)], sampled })
    }

    fn profile(&self) -> Vec<OpProfile> {
        vec![]
    }
}

/// What the engine should answer, worked out without one.
fn expected(prompt: &[u32], max_tokens: usize, ignore_eos: bool) -> Vec<u32> {
    let mut cells: Vec<Cell> = prompt.iter().map(|&id| (id, Phase::Prompt)).collect();
    let mut answer = vec![];
    while answer.len() < max_tokens.min(CONTEXT - prompt.len()) {
        let scores = logits(&cells);
        let best = (0..VOCABULARY).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap();
        if best as u32 == EOS && !ignore_eos {
            break;
        }
        answer.push(best as u32);
        cells.push((best as u32, Phase::Generated));
    }
    answer
}

#[derive(Clone, Copy)]
struct Setup {
    pages: usize,
    sequences: usize,
    prompt_rows: usize,
    reuse: Reuse,
    mode: Speculation,
    /// Pages of the draft model, which is careless or not; 0: there is none.
    draft: (usize, bool),
}

const SETUP: Setup = Setup {
    pages: 100,
    sequences: 8,
    prompt_rows: 16,
    reuse: Reuse::SamePhase,
    mode: Speculation::Off,
    draft: (0, false),
};

/// Drafts of a sequence in a step.
const DRAFTS: usize = 5;

fn worker(setup: Setup) -> Worker {
    let Setup { pages, sequences, prompt_rows, reuse, mode, draft: (draft_pages, careless) } =
        setup;
    let limits = Limits { sequences, prompt_rows };
    let pretended = |pages, careless| Pretended {
        cells: HashMap::new(),
        pages,
        long_rows: prompt_rows + sequences * (DRAFTS + 1),
        careless,
    };
    let model = (draft_pages > 0).then(|| DraftModel {
        plan: Box::new(pretended(draft_pages, careless)),
        state: Box::new(NoState),
        context: CONTEXT,
        own_vocabulary: VOCABULARY,
        vocabulary: VOCABULARY,
        prompt_rows,
    });
    let draft_pool = (draft_pages > 0).then(|| PagePool::new(draft_pages, PAGE, reuse));
    Worker {
        plan: Box::new(pretended(pages, false)),
        state: Box::new(NoState),
        scheduler: Scheduler::new(PagePool::new(pages, PAGE, reuse), draft_pool, limits),
        eyes: None,
        eos: vec![EOS],
        speculator: Speculator { mode, most: DRAFTS, model, pace: Pace::default() },
    }
}

fn engine(setup: Setup) -> Engine {
    let info = ModelInfo {
        architecture: "pretended",
        vocabulary: VOCABULARY,
        max_context: CONTEXT,
        weight_bytes: 0,
        image_tokens: 0,
        image_bytes: 0,
        token_state_bytes: 0,
        eos: vec![EOS],
        activations: keeve_graph::Activations::Float,
        isa: keeve_cpu::Isa::Scalar,
        threads: 1,
        load_time: Duration::ZERO,
        notes: vec![],
    };
    let text = TextSide { tokenizer: Ok(None), template: Ok(None) };
    Engine::start(worker(setup), info, text, ImageSide::default()).unwrap()
}

fn request(prompt: &[u32], max_tokens: usize) -> Request {
    let mut request =
        Request { prompt: prompt.into(), max_tokens: Some(max_tokens), ..Default::default() };
    request.sampling.temperature = 0.0;
    request
}

/// The ids of an answer and why it ended.
fn answer(generation: Generation) -> (Vec<u32>, Result<FinishReason, String>) {
    let mut ids = vec![];
    for event in generation {
        match event {
            Event::Token { id, .. } => ids.push(id),
            Event::PromptLogits { .. } | Event::Embedding(_) => {}
            Event::Finished { reason, .. } => return (ids, Ok(reason)),
            Event::Failed(error) => return (ids, Err(error.to_string())),
        }
    }
    panic!("an answer without an end");
}

/// Numbers that look random and are the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }

    /// A prompt; many begin alike.
    fn prompt(&mut self) -> Vec<u32> {
        let shared = self.below(30) as u32;
        let own = 1 + self.below(CONTEXT - 31);
        let own = (0..own).map(|_| self.below(BAD as usize) as u32);
        (0..shared).map(|id| id % BAD).chain(own.collect::<Vec<_>>()).collect()
    }
}

fn sequence(request: Request) -> (Box<Sequence>, Generation) {
    let (events, receiver) = channel();
    let cancelled = Arc::new(AtomicBool::new(false));
    let link = Link {
        events: Box::new(move |event| events.send(event).is_ok()),
        cancelled: cancelled.clone(),
    };
    let prompt = Prompt { tokens: request.prompt.clone(), ..Prompt::default() };
    let sequence = Sequence::new(request, prompt, link, None, CONTEXT).unwrap();
    (Box::new(sequence), Generation { events: receiver, cancelled, ended: false })
}

#[test]
fn many_random_requests_get_the_answers_they_would_get_alone() {
    let setups = [
        SETUP,
        Setup { prompt_rows: 1, ..SETUP },
        Setup { prompt_rows: 7, sequences: 3, reuse: Reuse::Off, ..SETUP },
        Setup { sequences: 1, ..SETUP },
        // Pages for one sequence of full length and a bit: they keep pushing each other out.
        Setup { pages: 16, ..SETUP },
        Setup { pages: 20, prompt_rows: 5, ..SETUP },
        Setup { pages: 17, prompt_rows: 1000, sequences: 100, reuse: Reuse::Off, ..SETUP },
    ];
    let drafting = |mode, draft| setups.map(|setup| Setup { mode, draft, ..setup });
    let setups = setups
        .into_iter()
        .chain(drafting(Speculation::Auto, (0, false)))
        .chain(drafting(Speculation::Ngram, (0, false)))
        .chain(drafting(Speculation::Auto, (200, true)))
        .chain(drafting(Speculation::Draft, (200, true)))
        // Pages of the draft model for one sequence, about.
        .chain(drafting(Speculation::Draft, (18, false)));
    for (round, setup) in setups.enumerate() {
        let mut numbers = Numbers(round as u64);
        let engine = engine(setup);
        let requests: Vec<_> = (0..100)
            .map(|_| {
                let mut request = request(&numbers.prompt(), numbers.below(40));
                request.ignore_eos = numbers.below(2) == 0;
                request
            })
            .collect();
        let generations: Vec<_> =
            requests.iter().map(|request| engine.submit(request.clone()).unwrap()).collect();
        for (request, generation) in requests.iter().zip(generations) {
            let max_tokens = request.max_tokens.unwrap();
            let ids = expected(&request.prompt, max_tokens, request.ignore_eos);
            let full = ids.len() == max_tokens || ids.len() == CONTEXT - request.prompt.len();
            let reason = if full { FinishReason::Length } else { FinishReason::Stop };
            assert_eq!(answer(generation), (ids, Ok(reason)), "round {round}");
        }
    }
}

#[test]
fn seeded_sampling_does_not_depend_on_company() {
    let sampled = |prompt: &[u32], seed| {
        let mut request = request(prompt, 20);
        request.sampling.temperature = 1.5;
        request.sampling.seed = Some(seed);
        request.ignore_eos = true;
        request
    };
    let mut numbers = Numbers(1);
    let prompts: Vec<_> = (0..20).map(|_| numbers.prompt()).collect();
    let alone: Vec<_> = (0..20)
        .map(|i| answer(engine(SETUP).submit(sampled(&prompts[i], i as u64)).unwrap()))
        .collect();
    let setups = [
        Setup { pages: 18, ..SETUP },
        Setup { mode: Speculation::Ngram, ..SETUP },
        Setup { mode: Speculation::Draft, draft: (200, true), ..SETUP },
    ];
    for setup in setups {
        let engine = engine(setup);
        let together: Vec<_> =
            (0..20).map(|i| engine.submit(sampled(&prompts[i], i as u64)).unwrap()).collect();
        for (generation, alone) in together.into_iter().zip(&alone) {
            assert_eq!(&answer(generation), alone);
        }
    }
}

#[test]
fn drafts_of_the_model_itself_are_always_right() {
    // Also where tokens are drawn: both draw the same random numbers.
    for temperature in [0.0, 1.5] {
        let engine = engine(Setup {
            prompt_rows: 1000,
            mode: Speculation::Draft,
            draft: (200, false),
            ..SETUP
        });
        let mut numbers = Numbers(4);
        let generations: Vec<_> = (0..30)
            .map(|seed| {
                let mut request = request(&numbers.prompt(), 30);
                request.sampling.temperature = temperature;
                request.sampling.seed = Some(seed);
                request.ignore_eos = true;
                engine.submit(request).unwrap()
            })
            .collect();
        let (mut steps, mut tokens) = (0, 0);
        for event in generations.into_iter().flatten() {
            let Event::Finished { timings, .. } = event else { continue };
            assert_eq!(timings.drafted_tokens, timings.accepted_tokens);
            tokens += timings.decode_tokens;
            steps += timings.decode_tokens - timings.accepted_tokens;
        }
        // The first token of an answer comes alone.
        assert!(tokens > 3 * steps, "{tokens} tokens in {steps} steps");
    }
}

#[test]
fn every_page_is_free_once_all_have_ended_or_were_cancelled() {
    for (pages, mode) in [
        (16, Speculation::Off),
        (23, Speculation::Ngram),
        (30, Speculation::Draft),
        (200, Speculation::Auto),
    ] {
        let mut numbers = Numbers(pages as u64);
        let draft_pages = 40;
        let mut worker = worker(Setup { pages, mode, draft: (draft_pages, true), ..SETUP });
        let mut running: Vec<Generation> = vec![];
        for round in 0..400 {
            if round < 300 && numbers.below(3) == 0 {
                let mut request = request(&numbers.prompt(), numbers.below(40));
                request.prompt_logits = numbers.below(4) == 0;
                let (sequence, generation) = sequence(request);
                worker.scheduler.waiting.push_back(*sequence);
                running.push(generation);
            }
            if !running.is_empty() && numbers.below(6) == 0 {
                // By its handle or by being dropped.
                let index = numbers.below(running.len());
                match numbers.below(2) {
                    0 => running[index].canceller().cancel(),
                    _ => drop(running.remove(index)),
                }
            }
            worker.step();
        }
        running.iter().for_each(|generation| generation.canceller().cancel());
        worker.step();
        assert!(worker.scheduler.is_idle());
        assert_eq!(worker.scheduler.pool.free_pages(), pages);
        let left = worker.scheduler.draft_pool.as_ref().map(PagePool::free_pages);
        assert_eq!(left, Some(draft_pages));
        for generation in running {
            assert!(answer(generation).1.is_ok());
        }
    }
}

#[test]
fn a_step_with_work_always_gets_on() {
    // If some step did nothing while there is work, the engine's thread would turn in circles.
    let mut numbers = Numbers(3);
    let mut worker = worker(Setup { pages: 16, prompt_rows: 3, ..SETUP });
    let mut generations = vec![];
    for _ in 0..30 {
        let (sequence, generation) = sequence(request(&numbers.prompt(), numbers.below(64)));
        worker.scheduler.waiting.push_back(*sequence);
        generations.push(generation);
    }
    let mut steps = 0;
    while !worker.scheduler.is_idle() {
        let shares = worker.scheduler.schedule();
        assert!(!worker.scheduler.step(&shares, &[EOS]).rows.is_empty(), "step {steps}");
        worker.step();
        steps += 1;
    }
    assert!(generations.into_iter().all(|generation| answer(generation).1.is_ok()));
}

#[test]
fn a_short_prompt_does_not_wait_for_the_long_ones_before_it() {
    let mut worker = worker(Setup { pages: 200, prompt_rows: 4, sequences: 8, ..SETUP });
    let mut running = vec![];
    for length in [60, 60, 60, 6] {
        let prompt: Vec<u32> =
            (0..length).map(|at| (at + length + running.len() as u32) % BAD).collect();
        let (sequence, generation) = sequence(request(&prompt, 1));
        worker.scheduler.waiting.push_back(*sequence);
        running.push(generation);
    }
    let mut ended = vec![];
    let mut steps = 0;
    while ended.len() < running.len() {
        worker.step();
        steps += 1;
        for (index, generation) in running.iter().enumerate() {
            let done =
                generation.events.try_iter().any(|event| matches!(event, Event::Finished { .. }));
            if done {
                ended.push((index, steps));
            }
        }
    }
    // Two of four rows of each step are the oldest's: the short one has its six after three steps.
    assert_eq!(ended[0], (3, 3));
    assert_eq!(ended[1].0, 0, "the oldest gets on as well: {ended:?}");
    // No row is left unused.
    assert!(steps <= (60 * 3 + 6) / 4 + 2, "{ended:?}");
}

#[test]
fn prompt_logits_come_once_and_in_order_even_after_being_pushed_out() {
    for pages in [16, 100] {
        let engine = engine(Setup { pages, prompt_rows: 5, ..SETUP });
        let mut numbers = Numbers(5);
        let mut cases = vec![];
        for index in 0..20 {
            // Those with short prompts and long answers push each other out.
            let long = index % 2 == 0;
            let mut prompt = numbers.prompt();
            prompt.truncate(if long { CONTEXT } else { 9 });
            let mut request = request(&prompt, if long { 0 } else { 45 });
            request.prompt_logits = true;
            request.ignore_eos = true;
            cases.push((prompt, engine.submit(request).unwrap()));
        }
        for (prompt, generation) in cases {
            let mut all = vec![];
            for event in generation {
                match event {
                    Event::PromptLogits { start, vocabulary, values } => {
                        assert_eq!((start * VOCABULARY, vocabulary), (all.len(), VOCABULARY));
                        all.extend(values);
                    }
                    Event::Failed(error) => panic!("{error}"),
                    Event::Token { .. } | Event::Embedding(_) | Event::Finished { .. } => {}
                }
            }
            let cells: Vec<_> = prompt.iter().map(|&id| (id, Phase::Prompt)).collect();
            let single: Vec<_> = (1..=cells.len()).flat_map(|end| logits(&cells[..end])).collect();
            assert!(all == single, "{} pages", pages);
        }
    }
}

#[test]
fn a_repeated_prompt_is_found_in_the_cache_and_answers_the_same() {
    let engine = engine(SETUP);
    let prompt: Vec<u32> = (1..30).collect();
    let run = || {
        let mut timings = None;
        let mut ids = vec![];
        for event in engine.submit(request(&prompt, 8)).unwrap() {
            match event {
                Event::Token { id, .. } => ids.push(id),
                Event::Finished { timings: measured, .. } => timings = Some(measured),
                other => panic!("{other:?}"),
            }
        }
        let timings = timings.unwrap();
        assert_eq!(timings.prompt_tokens, prompt.len());
        (ids, timings.cached_tokens)
    };
    let (first, cached) = run();
    assert_eq!(cached, 0);
    assert_eq!(run(), (first, 28));
}

#[test]
fn an_answer_given_back_as_prompt_is_a_prompt() {
    // Here the phase of a token makes a difference, so what was computed for an answer is no use
    // for a prompt that quotes it.
    let engine = engine(SETUP);
    let mut prompt: Vec<u32> = (1..10).collect();
    for _ in 0..3 {
        let mut request = request(&prompt, 15);
        request.ignore_eos = true;
        let (ids, _) = answer(engine.submit(request).unwrap());
        assert_eq!(ids, expected(&prompt, 15, true));
        prompt.extend(ids);
    }
}

#[test]
fn requests_at_the_limits() {
    let engine = engine(SETUP);
    let whole: Vec<u32> = (0..CONTEXT as u32).map(|id| id % 40).collect();
    // The whole context, nothing to generate.
    assert_eq!(
        answer(engine.submit(request(&whole, 0)).unwrap()),
        (vec![], Ok(FinishReason::Length))
    );
    // One token left.
    let mut one = request(&whole[1..], 1000);
    one.ignore_eos = true;
    let (ids, reason) = answer(engine.submit(one).unwrap());
    assert_eq!((ids.len(), reason), (1, Ok(FinishReason::Length)));
    let refused = |request: Request| engine.submit(request).map(|_| ()).unwrap_err().to_string();
    let too_long = "has 64 tokens, but the context holds 64";
    assert!(refused(request(&whole, 1)).contains(too_long));
    let open = Request { prompt: whole.clone(), ..Request::default() };
    assert!(refused(open).contains(too_long));
    assert!(refused(request(&[whole.clone(), vec![1]].concat(), 0)).contains("has 65 tokens"));
    assert!(refused(request(&[], 5)).contains("empty"));
    assert!(refused(request(&[1, 50], 5)).contains("token id 50"));
    let mut biased = request(&[1], 5);
    biased.sampling.logit_bias.insert(50, 1.0);
    assert!(refused(biased).contains("token id 50"));
    let mut hot = request(&[1], 5);
    hot.sampling.temperature = f32::NAN;
    assert!(refused(hot).contains("temperature"));
    let mut endless = request(&[1], 5);
    endless.stop = vec![String::new()];
    assert!(refused(endless).contains("stop"));
}

#[test]
fn a_failing_step_is_an_error_of_its_requests_and_the_engine_goes_on() {
    let engine = engine(SETUP);
    let (ids, outcome) = answer(engine.submit(request(&[1, BAD], 5)).unwrap());
    assert_eq!((ids.len(), outcome), (0, Err("step: a bad token".into())));
    let fine = answer(engine.submit(request(&[1, 2], 5)).unwrap());
    assert_eq!(fine.0, expected(&[1, 2], 5, false));
}

#[test]
fn the_death_of_the_engine_reaches_everybody() {
    let engine = engine(Setup { sequences: 2, ..SETUP });
    // Some run, some wait.
    let mut generations: Vec<_> = (0..6)
        .map(|id| {
            let mut request = request(&[id + 1; 8], 50);
            request.ignore_eos = true;
            engine.submit(request).unwrap()
        })
        .collect();
    generations.push(engine.submit(request(&[DEADLY], 5)).unwrap());
    let mut died = 0;
    for generation in generations {
        match answer(generation).1 {
            Ok(reason) => assert_eq!(reason, FinishReason::Length),
            Err(error) => {
                assert!(error.contains("died"), "{error}");
                died += 1;
            }
        }
    }
    assert!(died >= 1);
    // The thread may still be on its way out.
    let gone = |error: Error| assert!(matches!(error, Error::EngineDied), "{error}");
    engine.profile().map(|_| ()).map_err(gone).unwrap_err();
    match engine.submit(request(&[1], 5)) {
        Ok(generation) => assert!(answer(generation).1.is_err()),
        Err(error) => gone(error),
    }
}

#[test]
fn dropping_the_engine_ends_what_runs_and_what_waits() {
    let engine = engine(Setup { sequences: 2, ..SETUP });
    let generations: Vec<_> = (0..10)
        .map(|id| {
            let mut request = request(&[id; 8], 50);
            request.ignore_eos = true;
            engine.submit(request).unwrap()
        })
        .collect();
    drop(engine);
    let last = generations.into_iter().map(|generation| answer(generation).1).last();
    assert!(matches!(last, Some(Ok(FinishReason::Cancelled | FinishReason::Length))), "{last:?}");
}

#[test]
fn an_engine_is_shared_between_threads() {
    fn shared<T: Send + Sync>(_: &T) {}
    let engine = engine(Setup { pages: 20, ..SETUP });
    shared(&engine);
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let engine = &engine;
            scope.spawn(move || {
                let mut numbers = Numbers(seed);
                for _ in 0..25 {
                    let prompt = numbers.prompt();
                    let found = answer(engine.submit(request(&prompt, 10)).unwrap());
                    assert_eq!(found.0, expected(&prompt, 10, false));
                }
            });
        }
    });
}
