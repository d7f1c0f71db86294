//! Keeping factors only where they help.

use keeve_checkpoint::Checkpoint;
use keeve_engine::{Canceller, Engine, EngineOptions};
use keeve_eval::{Text, Window, evaluate, windows};
use keeve_graph::Activations;

use super::{Folded, Folds, Kind, SmoothOptions, Smoothed, Trial};
use crate::making::{Made, Making};
use crate::{Error, Observer, Plan};

/// Groups of layers are halved until they are this small a part of all.
const SMALLEST_PART: usize = 8;

/// Judges a plan with factors against the float model.
pub(super) struct Gate<'a> {
    checkpoint: &'a Checkpoint,
    plan: &'a Plan,
    text: &'a Text,
    pieces: &'a [Window],
    options: &'a SmoothOptions<'a>,
    reference: Engine,
}

/// Ends an evaluation when the workbench is to end.
struct Follow<'a>(&'a dyn Observer);

impl keeve_eval::Observer for Follow<'_> {
    fn running(&mut self, _: Canceller) {}

    fn judged(&mut self, _: usize) -> bool {
        !self.0.stopped()
    }
}

fn wrong(error: impl std::fmt::Display) -> Error {
    Error::Input(error.to_string())
}

impl<'a> Gate<'a> {
    /// Loads the float model.
    pub fn open(
        checkpoint: &'a Checkpoint,
        plan: &'a Plan,
        (text, pieces): (&'a Text, &'a [Window]),
        options: &'a SmoothOptions<'a>,
    ) -> Result<Self, Error> {
        let with = engine_options(options, Activations::Float);
        let go_on = |_| !options.observer.stopped();
        let reference = Engine::load(checkpoint, &with, &go_on).map_err(wrong)?;
        Ok(Self { checkpoint, plan, text, pieces, options, reference })
    }

    /// Mean divergence from the float model with `folds`.
    fn divergence(&self, folds: &Folds) -> Result<f64, Error> {
        let observer = self.options.observer;
        let threads = self.options.threads;
        let making = Making { importance: None, folds: Some(folds), threads };
        let weights = Made::new(self.checkpoint, self.plan, making);
        let model = keeve_models::build(self.checkpoint.config()).map_err(wrong)?;
        let with = engine_options(self.options, Activations::Int8);
        let go_on = |_| !observer.stopped();
        let engine = Engine::from_weights(model, &weights, &with, &go_on).map_err(wrong)?;
        let mut follow = Follow(observer);
        let found = evaluate(self.text, self.pieces, &engine, Some(&self.reference), &mut follow);
        let found = found.map_err(wrong)?;
        match found.comparison {
            Some(beside) if found.complete => Ok(beside.divergence.value),
            _ => Err(Error::Interrupted),
        }
    }

    /// Tries each kind of place in all layers, and where that does not help, in halves of them.
    pub fn choose(&self, folded: &[Folded]) -> Result<Smoothed, Error> {
        let mut kept = Folds::default();
        let before = self.divergence(&kept)?;
        let (mut after, mut trials) = (before, Vec::new());
        let smallest = folded.len().div_ceil(Kind::ALL.len() * SMALLEST_PART).max(1);
        for (index, kind) in Kind::ALL.into_iter().enumerate() {
            let of_kind: Vec<&Folded> = folded.iter().filter(|site| site.kind == kind).collect();
            let mut groups = vec![of_kind];
            while let Some(group) = groups.pop() {
                if group.is_empty() {
                    continue;
                }
                let (done, all) = (index as u64, Kind::ALL.len() as u64);
                self.options.observer.progress(done, all, &kind.to_string());
                let tried = group.iter().fold(kept.clone(), |all, site| all.with(&site.folds));
                let divergence = self.divergence(&tried)?;
                let helps = divergence < after;
                trials.push(Trial {
                    kind,
                    layers: group.iter().map(|site| site.layer).collect(),
                    alphas: group.iter().map(|site| site.alpha).collect(),
                    before: after,
                    after: divergence,
                    kept: helps,
                });
                if helps {
                    (kept, after) = (tried, divergence);
                } else if group.len() > smallest {
                    let (first, second) = group.split_at(group.len() / 2);
                    groups.push(second.to_vec());
                    groups.push(first.to_vec());
                }
            }
        }
        let tokens = windows::scored(self.pieces);
        Ok(Smoothed { folds: kept, trials, before, after, tokens })
    }
}

/// An engine for one piece at a time.
fn engine_options(options: &SmoothOptions<'_>, activations: Activations) -> EngineOptions {
    EngineOptions {
        threads: Some(options.threads),
        max_context: Some(options.chunk),
        max_sequences: 1,
        activations,
        ..EngineOptions::default()
    }
}
