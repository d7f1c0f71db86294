//! Evaluations of the demo model.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use keeve_checkpoint::Checkpoint;
use keeve_codec::Bytes;
use keeve_cpu::{Cpu, CpuOptions, Isa};
use keeve_engine::{Canceller, Engine, EngineOptions, Event, Request, Tensors};
use keeve_eval::rounding::{Case, Kind, Model};
use keeve_eval::{Error, Observer, Scores, Text, Window, evaluate, evaluate_together, windows};
use keeve_graph::{Activations, ProductRule, RowRounding, Scheme};

const TEXT: &str = "The river rises in the hills north of the town and flows south for twenty miles. \
    In the nineteenth century it drove several mills, of which two remain. The valley is known for \
    its orchards, and a railway line follows the river as far as the coast.\n";

/// Goes on until so many predictions are judged.
struct Until(usize, usize);

impl Observer for Until {
    fn running(&mut self, _: Canceller) {}

    fn judged(&mut self, predictions: usize) -> bool {
        self.1 += predictions;
        self.1 < self.0
    }
}

/// Cancels the request that comes after so many.
struct CancelAfter(usize);

impl Observer for CancelAfter {
    fn running(&mut self, canceller: Canceller) {
        match self.0.checked_sub(1) {
            Some(left) => self.0 = left,
            None => canceller.cancel(),
        }
    }

    fn judged(&mut self, _: usize) -> bool {
        true
    }
}

fn checkpoint() -> Checkpoint {
    let files = keeve_demo_model::FILES.map(|(name, bytes)| (name, Bytes::new(bytes)));
    Checkpoint::from_memory(&files).unwrap()
}

fn engine(options: EngineOptions) -> Engine {
    let checkpoint = checkpoint();
    let max_context = options.max_context.or(Some(256));
    let options = EngineOptions { threads: Some(2), max_context, ..options };
    Engine::load(&checkpoint, &options, &|_| true).unwrap()
}

fn all(text: &Text, cut: &[Window], model: &Engine, reference: Option<&Engine>) -> Scores {
    let scores = evaluate(text, cut, model, reference, &mut Until(usize::MAX, 0)).unwrap();
    assert!(scores.complete);
    scores
}

/// The sum of negative log probabilities of each token after the first, all seen at once.
fn straight(engine: &Engine, ids: &[u32]) -> f64 {
    let request = Request {
        prompt: ids.to_vec(),
        max_tokens: Some(0),
        prompt_logits: true,
        ..Request::default()
    };
    let mut logits = vec![];
    for event in engine.submit(request).unwrap() {
        if let Event::PromptLogits { values, .. } = event {
            logits.extend(values);
        }
    }
    let rows = logits.chunks_exact(engine.info().vocabulary).zip(&ids[1..]);
    let nll = |(row, &id): (&[f32], &u32)| {
        let sum: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
        sum.ln() - f64::from(row[id as usize])
    };
    rows.map(nll).sum()
}

#[test]
fn perplexity_is_that_of_logits_taken_at_once() {
    let engine = engine(EngineOptions::default());
    let text = Text::new(TEXT, engine.tokenizer().unwrap()).unwrap();
    assert_eq!(text.bos(), None);
    let ids = text.ids();
    let whole = windows::plain(ids.len(), 256, 256).unwrap();
    let scores = all(&text, &whole, &engine, None);
    let nll = straight(&engine, ids);
    let count = (ids.len() - 1) as f64;
    let near = |found: f64, expected: f64| {
        assert!((found / expected - 1.0).abs() < 1e-9, "{found} {expected}");
    };
    assert_eq!((scores.tokens, scores.rows), (ids.len() - 1, ids.len() - 1));
    near(scores.perplexity.value, (nll / count).exp());
    near(scores.byte_perplexity.value, (nll / TEXT.len() as f64).exp());
    near(scores.word_perplexity.value, (nll / TEXT.split(' ').count() as f64).exp());
    assert_eq!((scores.perplexity.interval, scores.comparison), (None, None));

    // Forgetting makes it worse, and each window is what it is alone.
    let cut = windows::plain(ids.len(), 16, 16).unwrap();
    let forgetful = all(&text, &cut, &engine, None);
    let parts = cut
        .iter()
        .map(|window| straight(&engine, &ids[window.inputs.start..window.inputs.end + 1]));
    near(forgetful.perplexity.value, (parts.sum::<f64>() / count).exp());
    assert!(forgetful.perplexity.value > scores.perplexity.value);
    let (low, high) = forgetful.perplexity.interval.unwrap();
    assert!((low..high).contains(&forgetful.perplexity.value));
    // Overlap helps, though not as much as seeing everything.
    let overlapping = windows::plain(ids.len(), 16, 4).unwrap();
    let overlapping = all(&text, &overlapping, &engine, None);
    assert_eq!(overlapping.tokens, forgetful.tokens);
    assert!(overlapping.perplexity.value < forgetful.perplexity.value);
    assert!(overlapping.perplexity.value > scores.perplexity.value);
}

#[test]
fn a_model_beside_itself_and_beside_another_mode() {
    let options = EngineOptions { activations: Activations::Float, ..EngineOptions::default() };
    let float = engine(options.clone());
    let again = engine(EngineOptions { prefill_chunk: 7, ..options });
    let int8 = engine(EngineOptions { activations: Activations::Int8, ..EngineOptions::default() });
    let text = Text::new(&TEXT.repeat(3), float.tokenizer().unwrap()).unwrap();
    let cut = windows::plain(text.ids().len(), 48, 48).unwrap();
    let same = all(&text, &cut, &again, Some(&float)).comparison.unwrap();
    assert_eq!((same.divergence.value, same.agreement.value, same.ratio.value), (0.0, 1.0, 1.0));
    assert_eq!(same.divergence_p99.unwrap().value, 0.0);
    let scores = all(&text, &cut, &int8, Some(&float));
    let other = scores.comparison.unwrap();
    assert_eq!(other.reference_perplexity, all(&text, &cut, &float, None).perplexity);
    let ratio = scores.perplexity.value / other.reference_perplexity.value;
    assert!((other.ratio.value / ratio - 1.0).abs() < 1e-12);
    let p99 = other.divergence_p99.unwrap().value;
    assert!(0.0 < other.divergence.value && other.divergence.value < p99, "{other:?}");
    assert!((0.8..1.0).contains(&other.agreement.value), "{other:?}");
    // The ratio is known far better than either.
    let width = |estimate: keeve_eval::Estimate| {
        let (low, high) = estimate.interval.unwrap();
        (high - low) / estimate.value
    };
    assert!(width(other.ratio) < width(scores.perplexity) / 3.0);
}

#[test]
fn costs_of_rounding_are_those_of_engines() {
    let float = EngineOptions { activations: Activations::Float, ..EngineOptions::default() };
    let reference = engine(float);
    let fast = engine(EngineOptions { activations: Activations::Fast, ..EngineOptions::default() });
    let text = Text::new(&TEXT.repeat(2), reference.tokenizer().unwrap()).unwrap();
    let cut = windows::llama_cpp(text.ids().len(), 32).unwrap();
    let expected = all(&text, &cut, &fast, Some(&reference)).comparison.unwrap();
    let checkpoint = checkpoint();
    let built = keeve_models::build(checkpoint.config()).unwrap();
    let cpu = Cpu::new(CpuOptions { threads: 2, isa: Isa::choose().unwrap() }).unwrap();
    let model = Model {
        cpu: &cpu,
        graph: Arc::new(built.graph),
        vocabulary: built.vocabulary,
        weights: &Tensors(&checkpoint),
        made_of: None,
        row_rounding: RowRounding::default(),
    };
    let mode = ProductRule::Mode;
    let case = |rule, kind| Case { rule, kind, kv_codec: None };
    let mut cases = vec![case(mode(Activations::Fast), None), case(mode(Activations::Float), None)];
    cases.extend(
        Kind::of_graph(&model.graph)
            .into_iter()
            .map(|kind| case(mode(Activations::Fast), Some(kind))),
    );
    cases.push(case(ProductRule::Scheme(Scheme::Finer), None));
    let mut judged = 0;
    let costs = model.costs(&text, &cut, &cases, &mut |count| {
        judged += count;
        true
    });
    let costs = costs.unwrap();
    assert_eq!(costs[0].prefill.as_ref(), Some(&expected));
    let value = |phase: &Option<keeve_eval::Comparison>| phase.as_ref().unwrap().divergence.value;
    assert_eq!((value(&costs[1].prefill), value(&costs[1].decode)), (0.0, 0.0));
    // Kinds of products: all of them cost something, none as much as all together.
    assert_eq!(costs.len(), 2 + 6 + 1);
    for cost in &costs[2..8] {
        let least = value(&cost.prefill);
        assert!(0.0 < least && least < expected.divergence.value, "{costs:?}");
    }
    // Weights of more than two bits have no second part.
    assert!(costs[8].prefill.is_none());
    let why = costs[8].unsupported.as_ref().unwrap();
    assert!(why.contains("scheme finer for q6_k"), "{why}");
    assert_eq!(judged, 8 * 2 * windows::scored(&cut));
}

#[test]
fn models_side_by_side_are_what_they_are_alone() {
    let float = EngineOptions { activations: Activations::Float, ..EngineOptions::default() };
    let reference = engine(float.clone());
    let same = engine(EngineOptions { prefill_chunk: 7, ..float });
    let int8 = engine(EngineOptions { activations: Activations::Int8, ..EngineOptions::default() });
    let short = engine(EngineOptions { max_context: Some(32), ..EngineOptions::default() });
    let text = Text::new(TEXT, reference.tokenizer().unwrap()).unwrap();
    let cut = windows::plain(text.ids().len(), 48, 48).unwrap();
    let models = [&same, &int8, &short];
    let mut until = Until(usize::MAX, 0);
    let found = evaluate_together(&text, &cut, &models, Some(&reference), &mut until).unwrap();
    let [first, second, third] = &found[..] else { panic!("{found:?}") };
    for (scores, model) in [(first, &same), (second, &int8)] {
        let (scores, alone) = (scores.as_ref().unwrap(), all(&text, &cut, model, Some(&reference)));
        assert!(scores.complete && scores.tokens == alone.tokens && scores.rows == alone.rows);
        assert_eq!(
            (scores.perplexity, scores.comparison.clone()),
            (alone.perplexity, alone.comparison)
        );
    }
    // One that cannot run does not keep the others from it.
    assert!(matches!(third, Err(Error::Context { window: 48, context: 32, .. })), "{third:?}");
    assert_eq!(until.1, 2 * windows::scored(&cut));
}

#[test]
fn an_evaluation_ended_early_gives_what_it_has() {
    let engine = engine(EngineOptions::default());
    let text = Text::new(TEXT, engine.tokenizer().unwrap()).unwrap();
    let cut = windows::plain(text.ids().len(), 16, 16).unwrap();
    let part = evaluate(&text, &cut, &engine, None, &mut Until(32, 0)).unwrap();
    assert_eq!((part.tokens, part.complete), (32, false));
    let expected = all(&text, &cut[..2], &engine, None);
    assert_eq!(part.byte_perplexity, expected.byte_perplexity);
    assert!(part.byte_perplexity.value < part.word_perplexity.value);
    let cancelled = evaluate(&text, &cut, &engine, None, &mut CancelAfter(2)).unwrap();
    assert_eq!((cancelled.perplexity, cancelled.complete), (part.perplexity, false));
    let nothing = evaluate(&text, &cut, &engine, None, &mut CancelAfter(0)).unwrap();
    assert_eq!((nothing.tokens, nothing.complete), (0, false));
}

#[test]
fn what_does_not_fit_is_refused() {
    let engine = engine(EngineOptions::default());
    let text = Text::new(&TEXT.repeat(9), engine.tokenizer().unwrap()).unwrap();
    let cut = windows::plain(text.ids().len(), 257, 257).unwrap();
    let error = evaluate(&text, &cut, &engine, None, &mut Until(9, 0)).unwrap_err();
    assert!(matches!(error, Error::Context { window: 257, context: 256, .. }), "{error}");
}
