//! Running models over windows, and a reference in step with them.

use std::ops::Range;
use std::time::{Duration, Instant};

use keeve_engine::{Canceller, Engine, Event, FinishReason, Request};

use crate::estimate::{self, Estimate};
use crate::row::{self, NotFinite, Reference, Row};
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
    let mut judged = [Judged::new(model)];
    let complete = run(text, windows, &mut judged, reference, observer)?;
    let [judged] = judged;
    judged.scores(text, windows, complete)
}

/// As [`evaluate`] for several models, which are compared with one run of the reference. Each one's logits
/// are let go before the next one runs.
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
    let complete = run(text, windows, &mut judged, reference, observer)?;
    Ok(judged.into_iter().map(|judged| judged.scores(text, windows, complete)).collect())
}

/// A model and what was found about it.
struct Judged<'a> {
    engine: &'a Engine,
    tally: Tally,
    /// Why it runs no more.
    failure: Option<Error>,
}

impl<'a> Judged<'a> {
    fn new(engine: &'a Engine) -> Self {
        Self { engine, tally: Tally::default(), failure: None }
    }

    fn scores(self, text: &Text, windows: &[Window], complete: bool) -> Result<Scores, Error> {
        match self.failure {
            Some(failure) => Err(failure),
            None => Ok(self.tally.scores(text, windows, complete)),
        }
    }

    /// Judges a block of rows; says how many, or `None` if that was cancelled.
    fn block(
        &mut self,
        block: &Block<'_>,
        reference: &[Reference<'_>],
        observer: &mut dyn Observer,
    ) -> Result<Option<usize>, Error> {
        let begun = Instant::now();
        let Some((logits, ran)) = rows(self.engine, block.inputs, &block.rows, observer)? else {
            return Ok(None);
        };
        self.tally.time += begun.elapsed();
        self.tally.rows += ran;
        let judged = judge(self.engine, &logits, reference, block.targets)
            .map_err(|(row, which)| not_finite(which, block.first + row))?;
        self.tally.add(&judged);
        Ok(Some(judged.len()))
    }
}

/// Rows of a window that are judged at a time.
struct Block<'a> {
    /// The window's tokens.
    inputs: &'a [u32],
    rows: Range<usize>,
    /// Where the first row's token stands in the text.
    first: usize,
    /// The tokens that come.
    targets: &'a [u32],
}

/// Runs models over windows until all are judged, none is left or somebody ends it; says whether that was
/// the end.
fn run(
    text: &Text,
    windows: &[Window],
    models: &mut [Judged<'_>],
    reference: Option<&Engine>,
    observer: &mut dyn Observer,
) -> Result<bool, Error> {
    if let Some(reference) = reference {
        holds(reference, windows)?;
    }
    for model in models.iter_mut() {
        model.failure = check(windows, model.engine, reference).err();
    }
    let Some(vocabulary) = models.iter().map(|model| model.engine.info().vocabulary).max() else {
        return Ok(true);
    };
    for window in windows {
        models.iter_mut().for_each(|model| model.tally.windows.push(Sums::default()));
        let inputs = inputs(text, window);
        for rows_of in blocks(window, vocabulary) {
            let first = window.inputs.start + rows_of.start;
            let targets = &text.ids()[first + 1..][..rows_of.len()];
            let block = Block { inputs: &inputs, rows: rows_of, first, targets };
            let logits = match reference {
                None => vec![],
                Some(engine) => match rows(engine, block.inputs, &block.rows, observer)? {
                    Some((rows, _)) => rows,
                    None => return Ok(false),
                },
            };
            let beside = reference.map_or(Ok(vec![]), |engine| beside(engine, &logits));
            let beside = beside.map_err(|(row, which)| not_finite(which, first + row))?;
            for model in models.iter_mut().filter(|model| model.failure.is_none()) {
                match model.block(&block, &beside, observer) {
                    Ok(Some(judged)) if observer.judged(judged) => {}
                    Ok(_) => return Ok(false),
                    Err(failure) => model.failure = Some(failure),
                }
            }
            if models.iter().all(|model| model.failure.is_some()) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Whether a model's context holds every window.
fn holds(engine: &Engine, windows: &[Window]) -> Result<(), Error> {
    let longest = windows.iter().map(|window| window.inputs.len()).max().unwrap_or(0);
    let info = engine.info();
    if longest > info.max_context {
        let (model, context) = (info.architecture, info.max_context);
        return Err(Error::Context { window: longest, model, context });
    }
    Ok(())
}

fn check(windows: &[Window], model: &Engine, reference: Option<&Engine>) -> Result<(), Error> {
    holds(model, windows)?;
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
fn blocks(window: &Window, vocabulary: usize) -> Vec<Range<usize>> {
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
    block: &Range<usize>,
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

/// Does something to each of `items`, shared among so many threads.
fn shared<T: Sync, R: Send, E: Send>(
    threads: usize,
    items: &[T],
    each: impl Fn(usize, &T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let share = items.len().div_ceil(threads.max(1)).max(1);
    let part = |(part, items): (usize, &[T])| {
        let item = |(offset, item)| each(part * share + offset, item);
        items.iter().enumerate().map(item).collect::<Result<Vec<_>, _>>()
    };
    let part = &part;
    std::thread::scope(|scope| {
        let parts = items.chunks(share).enumerate();
        let running: Vec<_> = parts.map(|items| scope.spawn(move || part(items))).collect();
        let mut all = Vec::with_capacity(items.len());
        for thread in running {
            match thread.join() {
                Ok(part) => all.extend(part?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(all)
    })
}

/// The rows of a reference's logits, prepared for judging.
fn beside<'a>(engine: &Engine, logits: &'a [f32]) -> Result<Vec<Reference<'a>>, Wrong> {
    let rows: Vec<_> = logits.chunks_exact(engine.info().vocabulary.max(1)).collect();
    let row = |at: usize, row: &&'a [f32]| Reference::new(row).map_err(|which| (at, which));
    shared(engine.info().threads, &rows, row)
}

/// Judges a block of rows, shared among as many threads as the engine has: it is idle meanwhile.
fn judge(
    model: &Engine,
    logits: &[f32],
    reference: &[Reference<'_>],
    targets: &[u32],
) -> Result<Vec<Row>, Wrong> {
    let width = model.info().vocabulary;
    shared(model.info().threads, targets, |at, &target| {
        let logits = &logits[at * width..(at + 1) * width];
        row::judge(logits, reference.get(at), target as usize).map_err(|which| (at, which))
    })
}

/// A row of a block that is not finite, and whose it is.
type Wrong = (usize, NotFinite);

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
