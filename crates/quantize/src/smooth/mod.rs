//! SmoothQuant: factors that move what is hard to round from activations into weights.
//!
//! A column of activations is divided by a factor, the same column of the weights multiplied by it; the
//! division is folded into what makes the activations, so that running the model costs nothing more. The
//! four places are those of `smoothquant/smooth.py` in mit-han-lab/smoothquant and of "SmoothQuant+" for
//! values: see [`Kind`]. Whether it helps is measured, not assumed.

mod folds;
mod gate;
mod observed;
mod sites;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use keeve_checkpoint::Checkpoint;
use keeve_codec::{Codec, decode_row};
use keeve_cpu::Isa;
use keeve_eval::{Text, Window, windows};
use serde::Serialize;

pub use folds::Folds;
use gate::Gate;
use observed::{ALPHAS, Input, Inputs, Matrices, factors, loss};
use sites::{Before, Site, sites};

use crate::make::Observer;
use crate::watch::{Machine, Watched};
use crate::{Error, Plan, Planned};

/// A place where factors are folded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// From the norm before attention into queries, keys and values.
    AttentionNorm,
    /// From the norm before the feed-forward part into gate and up.
    FeedForwardNorm,
    /// From the rows of up into the columns of down.
    Up,
    /// From the rows of values into the columns of the output projection.
    Value,
}

impl Kind {
    /// All of them, in the order in which they are tried.
    pub const ALL: [Self; 4] = [Self::AttentionNorm, Self::FeedForwardNorm, Self::Up, Self::Value];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::AttentionNorm => "norm -> q, k, v",
            Self::FeedForwardNorm => "norm -> gate, up",
            Self::Up => "up -> down",
            Self::Value => "v -> o",
        })
    }
}

/// How to smooth.
pub struct SmoothOptions<'a> {
    /// How much of the difficulty moves, 0 to 1; `None`: what suits each place, of 0.4 to 0.9.
    pub alpha: Option<f32>,
    /// Tokens of a piece of text.
    pub chunk: usize,
    /// Pieces of the text that are used: every other one to find factors, the rest to judge them.
    pub pieces: usize,
    /// Threads that compute.
    pub threads: usize,
    /// Instruction set tier.
    pub isa: Isa,
    /// Progress in trials, and the wish to stop.
    pub observer: &'a dyn Observer,
}

/// A try of one kind of place in some layers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Trial {
    /// Which places.
    pub kind: Kind,
    /// In which layers.
    pub layers: Vec<usize>,
    /// The exponent of each.
    pub alphas: Vec<f32>,
    /// Mean divergence from the float model before, in nats a token.
    pub before: f64,
    /// The same with these places folded as well.
    pub after: f64,
    /// Whether it was kept: whether it was less.
    pub kept: bool,
}

/// What smoothing found.
#[derive(Debug, Clone, PartialEq)]
pub struct Smoothed {
    /// What is kept.
    pub folds: Folds,
    /// Everything that was tried.
    pub trials: Vec<Trial>,
    /// Mean divergence from the float model without any of it, in nats a token.
    pub before: f64,
    /// With what is kept.
    pub after: f64,
    /// Predictions that were judged.
    pub tokens: usize,
}

/// A site with its factors folded.
struct Folded {
    kind: Kind,
    layer: usize,
    alpha: f32,
    folds: Folds,
}

/// Finds factors for the int8 and int4 weights of `plan` on a text, and keeps them where they lower the
/// divergence of the model that `plan` makes, activations in int8, from `checkpoint` itself.
///
/// # Errors
/// If the plan has no such weights, the text is too short, a model cannot be run, or the observer stops
/// the work.
pub fn smooth(
    checkpoint: &Checkpoint,
    plan: &Plan,
    text: &Text,
    options: &SmoothOptions<'_>,
) -> Result<Smoothed, Error> {
    let input = |error: String| Error::Input(error);
    let model =
        keeve_models::build(checkpoint.config()).map_err(|error| input(error.to_string()))?;
    let planned: HashMap<&str, &Planned> =
        plan.tensors.iter().map(|planned| (planned.name.as_str(), planned)).collect();
    let graph = Arc::new(model.graph);
    let mut sites = sites(&graph);
    sites.retain(|site| is_for(site, &planned));
    if sites.is_empty() {
        let problem = "SmoothQuant is for int8 and int4 weights with activations in int8, and there is \
            no place for it in this model";
        return Err(input(problem.into()));
    }
    let (observed, judged) = cut(text, options)?;
    let inputs = observe(checkpoint, graph, &sites, (text, &observed), options)?;
    let mut folded = Vec::new();
    for site in &sites {
        if options.observer.stopped() {
            return Err(Error::Interrupted);
        }
        let Some(input) = inputs.get(&site.input) else { continue };
        folded.push(fold(checkpoint, site, input, &planned, options.alpha)?);
    }
    Gate::open(checkpoint, plan, (text, &judged), options)?.choose(&folded)
}

/// Whether the weights of a site become integers, and what takes the inverse is in the model.
fn is_for(site: &Site, planned: &HashMap<&str, &Planned>) -> bool {
    let integers = |name: &String| {
        let codec = planned.get(name.as_str()).map(|planned| planned.to);
        matches!(codec, Some(Codec::Int8 { .. } | Codec::Int4 { .. }))
    };
    let before = match &site.before {
        Before::Norm { gains, .. } => gains,
        Before::Rows(maker) => &maker.weight,
    };
    site.after.iter().all(integers) && planned.contains_key(before.as_str())
}

/// The pieces to find factors on and those to judge them on.
fn cut(text: &Text, options: &SmoothOptions<'_>) -> Result<(Vec<Window>, Vec<Window>), Error> {
    let wrong = |error: keeve_eval::Error| Error::Input(error.to_string());
    let mut cut = windows::plain(text.ids().len(), options.chunk, options.chunk).map_err(wrong)?;
    cut.truncate(options.pieces);
    if cut.len() < 2 {
        let (found, chunk) = (text.ids().len(), options.chunk);
        let problem =
            format!("the text has {found} tokens, SmoothQuant takes two pieces of {chunk} or more");
        return Err(Error::Input(problem));
    }
    let mut index = 0;
    Ok(cut.into_iter().partition(|_| {
        index += 1;
        index % 2 == 1
    }))
}

/// What enters the sites.
fn observe(
    checkpoint: &Checkpoint,
    graph: Arc<keeve_graph::Graph>,
    sites: &[Site],
    (text, pieces): (&Text, &[Window]),
    options: &SmoothOptions<'_>,
) -> Result<HashMap<keeve_graph::ValueId, Input>, Error> {
    let taps = sites.iter().map(|site| site.input).collect();
    let machine = Machine { threads: options.threads, isa: options.isa };
    let size = (options.chunk, false);
    let mut model = Watched::load(checkpoint, graph, taps, size, machine, options.observer)?;
    let tokens = pieces.iter().map(|piece| piece.inputs.len()).sum();
    let mut inputs = Inputs::of(tokens);
    for piece in pieces {
        if options.observer.stopped() {
            return Err(Error::Interrupted);
        }
        model.run(&text.ids()[piece.inputs.clone()], &mut inputs)?;
    }
    Ok(inputs.inputs)
}

/// Folds a site with the exponent that is given, or else that of the least error.
fn fold(
    checkpoint: &Checkpoint,
    site: &Site,
    input: &Input,
    planned: &HashMap<&str, &Planned>,
    alpha: Option<f32>,
) -> Result<Folded, Error> {
    let mut matrices = Matrices::new(site.factor_of.len());
    for name in &site.after {
        let (tensor, codec) = (checkpoint.tensor(name)?, planned.get(name.as_str()));
        let Some(codec) = codec.map(|planned| planned.to) else { continue };
        matrices.add(tensor.rows(), codec, |index, row| {
            decode_row(&tensor, index, row);
        });
    }
    let gains = match &site.before {
        Before::Rows(_) => None,
        Before::Norm { gains, .. } => {
            let tensor = checkpoint.tensor(gains)?;
            let mut values = vec![0.0; tensor.cols()];
            decode_row(&tensor, 0, &mut values);
            Some((values, planned.get(gains.as_str()).map_or(Codec::F32, |planned| planned.to)))
        }
    };
    let gains = gains.as_ref().map(|(values, codec)| (values.as_slice(), *codec));
    let at = |alpha: f32| {
        let count = site.factors();
        let wanted = factors(&input.largest, &matrices.largest, &site.factor_of, count, alpha);
        Folds::at(site, &wanted, gains)
    };
    let mut best: Option<(f64, f32, Folds)> = None;
    let given = alpha.map(|alpha| [alpha]);
    for &alpha in given.as_ref().map_or(&ALPHAS[..], |given| &given[..]) {
        let (folds, by_col) = at(alpha);
        let loss = loss(input, &matrices, &by_col)
            .map_err(|error| Error::tensor(&site.after[0], error))?;
        if best.as_ref().is_none_or(|(least, ..)| loss < *least) {
            best = Some((loss, alpha, folds));
        }
    }
    let (_, alpha, folds) = best.unwrap_or_default();
    Ok(Folded { kind: site.kind, layer: site.layer, alpha, folds })
}

#[cfg(test)]
mod tests {
    use keeve_codec::Bytes;
    use keeve_engine::{Engine, EngineOptions, Event, Request};
    use keeve_graph::Activations;

    use super::*;
    use crate::{Format, Made, Making, Recipe, Scheme};

    struct Quiet;

    impl Observer for Quiet {
        fn progress(&self, _: u64, _: u64, _: &str) {}

        fn stopped(&self) -> bool {
            false
        }
    }

    const TEXT: &str = "The river rises in the hills north of the town and flows south for twenty \
        miles. In the nineteenth century it drove several mills, of which two remain.\n";

    fn demo() -> Checkpoint {
        let files = keeve_demo_model::FILES.map(|(name, bytes)| (name, Bytes::new(bytes)));
        Checkpoint::from_memory(&files).unwrap()
    }

    fn plan(checkpoint: &Checkpoint, scheme: &str, format: Format) -> Plan {
        let recipe = Recipe::from(scheme.parse::<Scheme>().unwrap());
        Plan::new(checkpoint, &recipe, format).unwrap()
    }

    fn options(alpha: Option<f32>) -> SmoothOptions<'static> {
        let isa = Isa::choose().unwrap();
        SmoothOptions { alpha, chunk: 32, pieces: 8, threads: 2, isa, observer: &Quiet }
    }

    fn text(checkpoint: &Checkpoint, times: usize) -> Text {
        let tokenizer = keeve_engine::tokenizer_of(checkpoint).unwrap().unwrap();
        Text::new(&TEXT.repeat(times), &tokenizer).unwrap()
    }

    /// The last logits of the model that `plan` and `folds` make.
    fn logits(checkpoint: &Checkpoint, plan: &Plan, folds: &Folds, prompt: &[u32]) -> Vec<f32> {
        let making = Making { importance: None, folds: Some(folds), threads: 2 };
        let model = keeve_models::build(checkpoint.config()).unwrap();
        let with = EngineOptions {
            activations: Activations::Float,
            max_context: Some(64),
            threads: Some(2),
            ..EngineOptions::default()
        };
        let weights = Made::new(checkpoint, plan, making);
        let engine = Engine::from_weights(model, &weights, &with, &|_| true).unwrap();
        let prompt = prompt.to_vec();
        let request =
            Request { prompt, prompt_logits: true, max_tokens: Some(0), ..Request::default() };
        let events = engine.submit(request).unwrap();
        let logits = events.filter_map(|event| match event {
            Event::PromptLogits { values, .. } => Some(values),
            _ => None,
        });
        logits.flatten().collect()
    }

    #[test]
    fn factors_at_all_places_change_nothing_but_what_is_rounded() {
        let checkpoint = demo();
        let text = text(&checkpoint, 8);
        let integers = plan(&checkpoint, "int8", Format::CompressedTensors);
        let planned: HashMap<&str, &Planned> =
            integers.tensors.iter().map(|planned| (planned.name.as_str(), planned)).collect();
        let graph = Arc::new(keeve_models::build(checkpoint.config()).unwrap().graph);
        let sites = sites(&graph);
        assert_eq!(sites.len(), 40);
        let options = options(None);
        let (observed, _) = cut(&text, &options).unwrap();
        let inputs = observe(&checkpoint, graph, &sites, (&text, &observed), &options).unwrap();
        let mut all = Folds::default();
        for site in &sites {
            let input = &inputs[&site.input];
            all = all.with(&fold(&checkpoint, site, input, &planned, None).unwrap().folds);
        }
        // The norms' gains are as the int8 model stores them; everything else is f32.
        let floats = plan(&checkpoint, "f32", Format::Mlx);
        let prompt = &text.ids()[..24];
        let (without, with) = (
            logits(&checkpoint, &floats, &Folds::default(), prompt),
            logits(&checkpoint, &floats, &all, prompt),
        );
        assert!(!without.is_empty() && without.len() == with.len());
        let norm = |values: &mut dyn Iterator<Item = f32>| {
            values.map(|value| f64::from(value * value)).sum::<f64>().sqrt()
        };
        let error = norm(&mut without.iter().zip(&with).map(|(a, b)| a - b));
        let relative = error / norm(&mut without.iter().copied());
        // The order of sums in f32 apart, nothing differs.
        assert!(relative < 2e-5, "{relative}");
        assert!(relative > 0.0);
    }

    #[test]
    fn what_is_kept_lowers_the_divergence() {
        let checkpoint = demo();
        let text = text(&checkpoint, 8);
        let plan = plan(&checkpoint, "int8", Format::CompressedTensors);
        let smoothed = smooth(&checkpoint, &plan, &text, &options(Some(0.5))).unwrap();
        for kind in Kind::ALL {
            let first = smoothed.trials.iter().find(|trial| trial.kind == kind).unwrap();
            assert_eq!(first.layers, (0..10).collect::<Vec<_>>());
            assert!(first.alphas.iter().all(|alpha| *alpha == 0.5));
        }
        let mut now = smoothed.before;
        for trial in &smoothed.trials {
            assert_eq!((trial.before, trial.kept), (now, trial.after < now));
            now = now.min(trial.after);
        }
        assert_eq!((smoothed.after, smoothed.tokens), (now, 4 * 32));
        let any = smoothed.trials.iter().any(|trial| trial.kept);
        assert_eq!(smoothed.folds.is_empty(), !any);
        // A trial that was turned down is looked at in parts.
        let refused = smoothed.trials.iter().filter(|trial| !trial.kept && trial.layers.len() > 1);
        for trial in refused {
            let half = &trial.layers[..trial.layers.len() / 2];
            let is_half = |other: &Trial| other.kind == trial.kind && other.layers == half;
            assert!(smoothed.trials.iter().any(is_half) || half.len() < 2, "{trial:?}");
        }
    }

    #[test]
    fn what_cannot_be_smoothed_is_refused() {
        let checkpoint = demo();
        let refusal = |scheme: &str, format, times| {
            let (plan, text) = (plan(&checkpoint, scheme, format), text(&checkpoint, times));
            smooth(&checkpoint, &plan, &text, &options(None)).unwrap_err().to_string()
        };
        let error = refusal("q4_k_m", Format::Gguf, 8);
        assert!(error.contains("int8 and int4 weights"), "{error}");
        let error = refusal("int8", Format::CompressedTensors, 0);
        assert!(error.contains("expected at least 2"), "{error}");
    }
}
