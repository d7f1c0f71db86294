//! Running a model over windows, and a reference in step with it.

use std::time::{Duration, Instant};

use keeve_engine::{Canceller, Engine, Event, FinishReason, Request};

use crate::estimate::{self, Estimate};
use crate::row::{self, NotFinite, Row};
use crate::{Error, Text, Window};

/// The most bytes of one model's logits that are held at a time.
const BLOCK_BYTES: usize = 128 << 20;

/// The most rows in a block; a prompt chunk of the usual length.
const BLOCK_ROWS: usize = 512;

/// Blocks are multiples of this many rows where they can: a page of the CPU backend, so that a block
/// begins where the state of the one before it ends.
const ALIGNMENT: usize = 32;

/// Follows an evaluation.
pub trait Observer {
    /// This request is about to run; cancelling it ends the evaluation.
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
    /// How long the model ran (not the reference, and without judging).
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
    check(windows, model, reference)?;
    let mut tally = Tally::default();
    let complete = 'windows: {
        for window in windows {
            tally.windows.push(Sums::default());
            let inputs = inputs(text, window);
            for block in blocks(window, model.info().vocabulary) {
                let begun = Instant::now();
                let logits = rows(model, &inputs, &block, observer)?;
                let time = begun.elapsed();
                let Some((logits, ran)) = logits else { break 'windows false };
                let other = match reference {
                    None => vec![],
                    Some(engine) => match rows(engine, &inputs, &block, observer)? {
                        Some((rows, _)) => rows,
                        None => break 'windows false,
                    },
                };
                tally.time += time;
                tally.rows += ran;
                let first = window.inputs.start + block.start;
                let targets = &text.ids()[first + 1..][..block.len()];
                let judged = judge(model, &logits, &other, targets)
                    .map_err(|(row, which)| not_finite(which, first + row))?;
                tally.add(&judged);
                if !observer.judged(judged.len()) {
                    break 'windows false;
                }
            }
        }
        true
    };
    Ok(tally.scores(text, windows, complete))
}

fn check(windows: &[Window], model: &Engine, reference: Option<&Engine>) -> Result<(), Error> {
    let longest = windows.iter().map(|window| window.inputs.len()).max().unwrap_or(0);
    for engine in [Some(model), reference].into_iter().flatten() {
        let info = engine.info();
        if longest > info.max_context {
            let (model, context) = (info.architecture, info.max_context);
            return Err(Error::Context { window: longest, model, context });
        }
    }
    match reference.map(|engine| engine.info().vocabulary) {
        Some(reference) if reference != model.info().vocabulary => {
            Err(Error::Vocabulary { model: model.info().vocabulary, reference })
        }
        _ => Ok(()),
    }
}

fn not_finite(which: NotFinite, position: usize) -> Error {
    let which = match which {
        NotFinite::Model => "model",
        NotFinite::Reference => "reference",
    };
    Error::NotFinite { which, position }
}

/// The tokens that a window feeds to a model.
fn inputs(text: &Text, window: &Window) -> Vec<u32> {
    let mut inputs = text.ids()[window.inputs.clone()].to_vec();
    if let (true, Some(bos), Some(first)) = (window.begins_with_bos, text.bos(), inputs.first_mut())
    {
        *first = bos;
    }
    inputs
}

/// The window's scored rows in blocks whose logits fit.
fn blocks(window: &Window, vocabulary: usize) -> Vec<std::ops::Range<usize>> {
    let row = vocabulary.max(1).saturating_mul(size_of::<f32>());
    let rows = (BLOCK_BYTES / row).clamp(1, BLOCK_ROWS);
    let rows = if rows > ALIGNMENT { rows - rows % ALIGNMENT } else { rows };
    let (mut blocks, mut start) = (vec![], window.scored.start);
    while start < window.scored.end {
        let end = ((start / rows + 1) * rows).min(window.scored.end);
        blocks.push(start..end);
        start = end;
    }
    blocks
}

/// The logits of rows `block` of a window, and how many tokens ran; `None` if that was cancelled. What came
/// before them in the window is in the engine's prefix cache.
fn rows(
    engine: &Engine,
    inputs: &[u32],
    block: &std::ops::Range<usize>,
    observer: &mut dyn Observer,
) -> Result<Option<(Vec<f32>, usize)>, Error> {
    let generation = engine.submit(Request {
        prompt: inputs[..block.end].into(),
        max_tokens: Some(0),
        prompt_logits: true,
        prompt_logits_from: block.start,
        ..Request::default()
    })?;
    let canceller = generation.canceller();
    observer.running(canceller.clone());
    let (mut logits, mut ran) = (vec![], 0);
    let mut cancelled = false;
    for event in generation {
        match event {
            Event::PromptLogits { values, .. } if logits.is_empty() => logits = values,
            Event::PromptLogits { values, .. } => logits.extend(values),
            Event::Token { .. } | Event::Embedding(_) => {}
            Event::Finished { reason, timings, .. } => {
                ran = timings.prompt_tokens - timings.cached_tokens;
                cancelled = reason == FinishReason::Cancelled || canceller.is_cancelled();
            }
            Event::Failed(error) => return Err(error.into()),
        }
    }
    // Even if the request was faster than its cancelling: whoever cancelled counts on the end.
    if cancelled {
        return Ok(None);
    }
    let (found, expected) = (logits.len() / engine.info().vocabulary.max(1), block.len());
    if found == expected { Ok(Some((logits, ran))) } else { Err(Error::Rows { found, expected }) }
}

/// Judges a block of rows, shared among as many threads as the engine has: it is idle meanwhile.
fn judge(
    model: &Engine,
    logits: &[f32],
    reference: &[f32],
    targets: &[u32],
) -> Result<Vec<Row>, (usize, NotFinite)> {
    let width = model.info().vocabulary;
    let share = targets.len().div_ceil(model.info().threads.max(1)).max(1);
    let part = |index: usize, targets: &[u32]| {
        let row = |(offset, &target): (usize, &u32)| {
            let at = index * share + offset;
            let window = at * width..(at + 1) * width;
            let reference = (!reference.is_empty()).then(|| &reference[window.clone()]);
            row::judge(&logits[window], reference, target as usize).map_err(|which| (at, which))
        };
        targets.iter().enumerate().map(row).collect::<Result<Vec<_>, _>>()
    };
    std::thread::scope(|scope| {
        let parts = targets.chunks(share).enumerate();
        let running: Vec<_> =
            parts.map(|(index, targets)| scope.spawn(move || part(index, targets))).collect();
        let mut rows = vec![];
        for thread in running {
            match thread.join() {
                Ok(part) => rows.extend(part?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(rows)
    })
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

#[derive(Default)]
struct Tally {
    windows: Vec<Sums>,
    /// Of every prediction beside the reference.
    divergences: Vec<f32>,
    time: Duration,
    rows: usize,
}

impl Tally {
    fn add(&mut self, rows: &[Row]) {
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

    fn scores(mut self, text: &Text, windows: &[Window], complete: bool) -> Scores {
        self.windows.retain(|sums| sums.tokens > 0);
        let each = |value: fn(&Sums) -> f64| -> Vec<_> {
            self.windows.iter().map(|sums| (sums.tokens, value(sums))).collect()
        };
        let nll = estimate::mean(&each(|sums| sums.nll));
        let tokens: usize = self.windows.iter().map(|sums| sums.tokens).sum();
        let (bytes, words) = judged_size(text, windows, &self.windows);
        let per = |count: f64| nll.map(|nll| (nll * tokens as f64 / count).exp());
        let compared = !self.divergences.is_empty();
        let comparison = compared.then(|| Comparison {
            reference_perplexity: estimate::mean(&each(|sums| sums.reference_nll)).map(f64::exp),
            ratio: estimate::mean(&each(|sums| sums.nll - sums.reference_nll)).map(f64::exp),
            divergence: estimate::mean(&each(|sums| sums.divergence)),
            divergence_p99: estimate::quantile(&mut self.divergences.clone(), 0.99),
            agreement: estimate::share(&each(|sums| sums.agreements)),
        });
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_the_scored_rows_and_fit() {
        let window = |scored| Window { inputs: 0..4096, begins_with_bos: false, scored };
        for vocabulary in [1, 8192, 151_936, 262_144, 1 << 30, usize::MAX] {
            for scored in [0..2048, 1000..2047, 5..6, 31..33] {
                let blocks = blocks(&window(scored.clone()), vocabulary);
                let mut next = scored.start;
                for block in &blocks {
                    assert_eq!(block.start, next);
                    assert!(!block.is_empty() && block.len() <= BLOCK_ROWS);
                    let bytes = block.len().saturating_mul(vocabulary.saturating_mul(4));
                    assert!(block.len() == 1 || bytes <= BLOCK_BYTES);
                    next = block.end;
                }
                assert_eq!(next, scored.end);
                // Inner borders are those of pages, unless a page is too large.
                let inner =
                    blocks.iter().skip(1).all(|block| block.start.is_multiple_of(ALIGNMENT));
                assert!(inner || vocabulary > 1_000_000);
            }
        }
    }
}
