//! What an evaluation is asked and finds.

use std::time::Duration;

use keeve_engine::divergence::Row;
use keeve_engine::{Canceller, Engine};

use crate::estimate::{self, Estimate};
use crate::run::{Judged, run};
use crate::{Error, Text, Window};

/// Follows an evaluation.
pub trait Observer {
    /// This request is about to be waited for; cancelling it ends the evaluation.
    fn running(&mut self, canceller: Canceller);

    /// `predictions` more were judged. Returning `false` ends the evaluation.
    fn judged(&mut self, predictions: usize) -> bool;
}

/// What an evaluation found.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// Predictions that count.
    pub tokens: usize,
    /// Perplexity: e to the mean negative log probability of a token.
    pub perplexity: Estimate,
    /// The same for each byte of the text: e to the sum of negative log probabilities over its bytes.
    pub byte_perplexity: Estimate,
    /// The same for each word; words stand between white space.
    pub word_perplexity: Estimate,
    /// Beside the reference, if there is one.
    pub comparison: Option<Comparison>,
    /// How long the model ran (not the reference, and without judging). Models that run at the same time
    /// slow each other down.
    pub time: Duration,
    /// Tokens that ran in that time.
    pub rows: usize,
    /// Whether the evaluation went through to the end.
    pub complete: bool,
}

/// A model beside the reference.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// The reference's perplexity on the same predictions.
    pub reference_perplexity: Estimate,
    /// The model's perplexity over the reference's. Its interval is much narrower than that of either:
    /// both find the same tokens hard.
    pub ratio: Estimate,
    /// Mean Kullback-Leibler divergence from the reference, in nats a token.
    pub divergence: Estimate,
    /// Its 99th percentile.
    pub divergence_p99: Option<Estimate>,
    /// The share of predictions with the same likeliest token.
    pub agreement: Estimate,
}

/// Runs `model` over the `windows` of a text. `reference` runs in step with it, so that neither model's
/// logits are ever held for more than a block of rows.
///
/// Ended early (by the observer or by cancelling), it gives the scores of what was judged; there may be
/// nothing among it (see [`Scores::tokens`]).
///
/// # Errors
/// If a window is longer than a context, the vocabularies differ, logits are not finite or an engine fails.
pub fn evaluate(
    text: &Text,
    windows: &[Window],
    model: &Engine,
    reference: Option<&Engine>,
    observer: &mut dyn Observer,
) -> Result<Scores, Error> {
    let mut judged = [Judged::new(model)];
    let complete = run(text, windows, &mut judged, reference, false, observer)?;
    let [judged] = judged;
    judged.scores(text, windows, complete)
}

/// As [`evaluate`] for several models, which are compared with one run of the reference. All of them run at
/// the same time, each on the threads that it was loaded with: a block of logits of each is held.
///
/// A model that fails does not end the evaluation of the others.
///
/// # Errors
/// If the reference fails, or does not hold a window.
pub fn evaluate_together(
    text: &Text,
    windows: &[Window],
    models: &[&Engine],
    reference: Option<&Engine>,
    observer: &mut dyn Observer,
) -> Result<Vec<Result<Scores, Error>>, Error> {
    let mut judged: Vec<_> = models.iter().map(|model| Judged::new(model)).collect();
    let at_once = models.len() > 1;
    let complete = run(text, windows, &mut judged, reference, at_once, observer)?;
    Ok(judged.into_iter().map(|judged| judged.scores(text, windows, complete)).collect())
}

/// Sums over the predictions of a window.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    tokens: usize,
    nll: f64,
    reference_nll: f64,
    divergence: f64,
    agreements: f64,
}

/// What was found about a model so far.
#[derive(Default)]
pub(crate) struct Tally {
    windows: Vec<Sums>,
    /// Of every prediction beside the reference.
    divergences: Vec<f32>,
    time: Duration,
    rows: usize,
}

impl Tally {
    /// Goes on to the next window.
    pub fn next_window(&mut self) {
        self.windows.push(Sums::default());
    }

    /// A block ran: so many rows in so much time.
    pub fn ran(&mut self, rows: usize, time: Duration) {
        self.rows += rows;
        self.time += time;
    }

    /// Adds rows of the current window.
    pub fn add(&mut self, rows: &[Row]) {
        let Some(sums) = self.windows.last_mut() else { return };
        for row in rows {
            sums.tokens += 1;
            sums.nll += row.nll;
            if let Some(compared) = row.compared {
                sums.reference_nll += compared.reference_nll;
                sums.divergence += compared.divergence;
                sums.agreements += f64::from(u8::from(compared.agrees));
                self.divergences.push(compared.divergence as f32);
            }
        }
    }

    /// What there is beside the reference.
    pub fn comparison(&self) -> Option<Comparison> {
        let each = |value: fn(&Sums) -> f64| -> Vec<_> {
            let judged = self.windows.iter().filter(|sums| sums.tokens > 0);
            judged.map(|sums| (sums.tokens, value(sums))).collect()
        };
        (!self.divergences.is_empty()).then(|| Comparison {
            reference_perplexity: estimate::mean(&each(|sums| sums.reference_nll)).map(f64::exp),
            ratio: estimate::mean(&each(|sums| sums.nll - sums.reference_nll)).map(f64::exp),
            divergence: estimate::mean(&each(|sums| sums.divergence)),
            divergence_p99: estimate::quantile(&mut self.divergences.clone(), 0.99),
            agreement: estimate::share(&each(|sums| sums.agreements)),
        })
    }

    /// The sums of it all.
    pub fn scores(mut self, text: &Text, windows: &[Window], complete: bool) -> Scores {
        self.windows.retain(|sums| sums.tokens > 0);
        let each = |value: fn(&Sums) -> f64| -> Vec<_> {
            self.windows.iter().map(|sums| (sums.tokens, value(sums))).collect()
        };
        let nll = estimate::mean(&each(|sums| sums.nll));
        let tokens: usize = self.windows.iter().map(|sums| sums.tokens).sum();
        let (bytes, words) = judged_size(text, windows, &self.windows);
        let per = |count: f64| nll.map(|nll| (nll * tokens as f64 / count).exp());
        let comparison = self.comparison();
        Scores {
            tokens,
            perplexity: nll.map(f64::exp),
            byte_perplexity: per(bytes),
            word_perplexity: per(words),
            comparison,
            time: self.time,
            rows: self.rows,
            complete,
        }
    }
}

/// Bytes and words of the tokens that were predicted.
fn judged_size(text: &Text, windows: &[Window], judged: &[Sums]) -> (f64, f64) {
    let mut predicted = vec![false; text.ids().len()];
    for (window, sums) in windows.iter().zip(judged) {
        let first = window.inputs.start + window.scored.start + 1;
        predicted[first..first + sums.tokens].fill(true);
    }
    text.size_of(|index| predicted[index])
}
