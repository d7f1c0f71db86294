//! Running models over windows, and a reference in step with them.

use std::ops::Range;
use std::time::Duration;

use keeve_engine::divergence::{self, NotFinite, Reference, Row};
use keeve_engine::{Engine, Event, FinishReason, Generation, Request};

use crate::evaluate::Tally;
use crate::{Error, Observer, Scores, Text, Window};

/// The most bytes of one model's logits that are held at a time.
const BLOCK_BYTES: usize = 128 << 20;

/// The most rows in a block; a prompt chunk of the usual length.
const BLOCK_ROWS: usize = 512;

/// Blocks are multiples of this many rows where they can: a page of the CPU backend, so that a block
/// begins where the state of the one before it ends.
const ALIGNMENT: usize = 32;

/// A model and what was found about it.
pub(crate) struct Judged<'a> {
    engine: &'a Engine,
    tally: Tally,
    /// Why it runs no more.
    failure: Option<Error>,
}

impl<'a> Judged<'a> {
    pub fn new(engine: &'a Engine) -> Self {
        Self { engine, tally: Tally::default(), failure: None }
    }

    /// # Errors
    /// If the model failed.
    pub fn scores(self, text: &Text, windows: &[Window], complete: bool) -> Result<Scores, Error> {
        match self.failure {
            Some(failure) => Err(failure),
            None => Ok(self.tally.scores(text, windows, complete)),
        }
    }

    /// Judges the logits of a block of rows; says how many there were.
    fn judge(
        &mut self,
        ran: &Ran,
        reference: &[Reference<'_>],
        block: &Block<'_>,
        threads: usize,
    ) -> Result<usize, Error> {
        self.tally.ran(ran.rows, ran.time);
        let width = self.engine.info().vocabulary;
        let judged = judge(&ran.logits, width, reference, block.targets, threads)
            .map_err(|(row, which)| not_finite(which, block.first + row))?;
        self.tally.add(&judged);
        Ok(judged.len())
    }
}

/// Rows of a window that are judged at a time.
struct Block<'a> {
    window: &'a Window,
    rows: Range<usize>,
    /// Where the first row's token stands in the text.
    first: usize,
    /// The tokens that come.
    targets: &'a [u32],
}

/// What came of a block.
struct Ran {
    /// `[rows of the block, vocabulary]`.
    logits: Vec<f32>,
    /// How many tokens ran, and for how long.
    rows: usize,
    time: Duration,
}

/// An engine that is given one block after another.
struct Feed<'a> {
    engine: &'a Engine,
    text: &'a Text,
    blocks: std::slice::Iter<'a, Block<'a>>,
    /// Whether a block is begun as soon as the one before it has come.
    ahead: bool,
    /// The block that was begun, and its number of rows.
    begun: Option<Result<(Generation, usize), Error>>,
}

impl<'a> Feed<'a> {
    fn new(engine: &'a Engine, text: &'a Text, blocks: &'a [Block<'a>], ahead: bool) -> Self {
        let mut feed = Self { engine, text, blocks: blocks.iter(), ahead, begun: None };
        if ahead {
            feed.begin();
        }
        feed
    }

    fn begin(&mut self) {
        let submit = |block: &Block<'_>| {
            // What came before them in the window is in the engine's prefix cache.
            let generation = self.engine.submit(Request {
                prompt: inputs(self.text, block.window, block.rows.end),
                max_tokens: Some(0),
                prompt_logits: true,
                prompt_logits_from: block.rows.start,
                ..Request::default()
            })?;
            Ok((generation, block.rows.len()))
        };
        self.begun = self.blocks.next().map(submit);
    }

    /// Waits for the next block; `None` if that was cancelled, or there is none.
    fn next(&mut self, observer: &mut dyn Observer) -> Result<Option<Ran>, Error> {
        if self.begun.is_none() {
            self.begin();
        }
        let Some(begun) = self.begun.take() else { return Ok(None) };
        let (generation, expected) = begun?;
        let canceller = generation.canceller();
        observer.running(canceller.clone());
        let mut ran = Ran { logits: vec![], rows: 0, time: Duration::ZERO };
        let mut cancelled = false;
        for event in generation {
            match event {
                Event::PromptLogits { values, .. } if ran.logits.is_empty() => ran.logits = values,
                Event::PromptLogits { values, .. } => ran.logits.extend(values),
                Event::Token { .. } | Event::Embedding(_) => {}
                Event::Finished { reason, timings, .. } => {
                    ran.rows = timings.prompt_tokens - timings.cached_tokens;
                    ran.time = timings.prompt;
                    cancelled = reason == FinishReason::Cancelled || canceller.is_cancelled();
                }
                Event::Failed(error) => return Err(error.into()),
            }
        }
        // Even if the request was faster than its cancelling: whoever cancelled counts on the end.
        if cancelled {
            return Ok(None);
        }
        if self.ahead {
            self.begin();
        }
        let found = ran.logits.len() / self.engine.info().vocabulary.max(1);
        if found == expected { Ok(Some(ran)) } else { Err(Error::Rows { found, expected }) }
    }
}

/// Runs models over windows until all are judged, none is left or somebody ends it; says whether that was
/// the end. `at_once`: all engines compute at the same time, else they take turns.
pub(crate) fn run(
    text: &Text,
    windows: &[Window],
    models: &mut [Judged<'_>],
    reference: Option<&Engine>,
    at_once: bool,
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
    let blocks = blocks(text, windows, vocabulary);
    let threads = threads(models.iter().map(|model| model.engine).chain(reference), at_once);
    let mut beside = reference.map(|engine| Feed::new(engine, text, &blocks, at_once));
    let mut running: Vec<_> = models
        .iter_mut()
        .filter(|model| model.failure.is_none())
        .map(|model| (Feed::new(model.engine, text, &blocks, at_once), model))
        .collect();
    for block in &blocks {
        if running.is_empty() {
            return Ok(false);
        }
        if block.rows.start == block.window.scored.start {
            running.iter_mut().for_each(|(_, model)| model.tally.next_window());
        }
        let logits = match &mut beside {
            None => vec![],
            Some(reference) => match reference.next(observer)? {
                Some(ran) => ran.logits,
                None => return Ok(false),
            },
        };
        let width = reference.map_or(1, |engine| engine.info().vocabulary);
        let references = references(&logits, width, threads)
            .map_err(|(row, which)| not_finite(which, block.first + row))?;
        for (feed, model) in &mut running {
            let judged = match feed.next(observer) {
                Ok(Some(ran)) => model.judge(&ran, &references, block, threads),
                Ok(None) => return Ok(false),
                Err(failure) => Err(failure),
            };
            match judged {
                Ok(judged) if observer.judged(judged) => {}
                Ok(_) => return Ok(false),
                Err(failure) => model.failure = Some(failure),
            }
        }
        running.retain(|(_, model)| model.failure.is_none());
    }
    Ok(!running.is_empty() || blocks.is_empty())
}

/// Threads that judging may use.
fn threads<'a>(engines: impl Iterator<Item = &'a Engine>, at_once: bool) -> usize {
    let threads = engines.map(|engine| engine.info().threads);
    match at_once {
        // An engine that takes turns is idle meanwhile.
        false => threads.max().unwrap_or(1),
        true => {
            threads.sum::<usize>().min(std::thread::available_parallelism().map_or(1, usize::from))
        }
    }
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

pub(crate) fn not_finite(which: NotFinite, position: usize) -> Error {
    let which = match which {
        NotFinite::Model => "model",
        NotFinite::Reference => "reference",
    };
    Error::NotFinite { which, position }
}

/// The first `count` tokens that a window feeds to a model.
pub(crate) fn inputs(text: &Text, window: &Window, count: usize) -> Vec<u32> {
    let mut inputs = text.ids()[window.inputs.clone()][..count].to_vec();
    if let (true, Some(bos), Some(first)) = (window.begins_with_bos, text.bos(), inputs.first_mut())
    {
        *first = bos;
    }
    inputs
}

/// The scored rows of windows in blocks whose logits fit.
fn blocks<'a>(text: &'a Text, windows: &'a [Window], vocabulary: usize) -> Vec<Block<'a>> {
    let block = |window: &'a Window, rows: Range<usize>| {
        let first = window.inputs.start + rows.start;
        Block { window, first, targets: &text.ids()[first + 1..][..rows.len()], rows }
    };
    let of =
        |window: &'a Window| cut(window, vocabulary).into_iter().map(move |rows| (window, rows));
    windows.iter().flat_map(of).map(|(window, rows)| block(window, rows)).collect()
}

/// The window's scored rows in parts whose logits fit.
fn cut(window: &Window, vocabulary: usize) -> Vec<Range<usize>> {
    let row = vocabulary.max(1).saturating_mul(size_of::<f32>());
    let rows = (BLOCK_BYTES / row).clamp(1, BLOCK_ROWS);
    let rows = if rows > ALIGNMENT { rows - rows % ALIGNMENT } else { rows };
    let (mut parts, mut start) = (vec![], window.scored.start);
    while start < window.scored.end {
        let end = ((start / rows + 1) * rows).min(window.scored.end);
        parts.push(start..end);
        start = end;
    }
    parts
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

/// A row of a block that is not finite, and whose it is.
pub(crate) type Wrong = (usize, NotFinite);

/// The rows of a reference's logits, prepared for judging.
pub(crate) fn references(
    logits: &[f32],
    width: usize,
    threads: usize,
) -> Result<Vec<Reference<'_>>, Wrong> {
    let rows: Vec<_> = logits.chunks_exact(width.max(1)).collect();
    shared(threads, &rows, |at, row| Reference::new(row).map_err(|which| (at, which)))
}

/// Judges a block of rows.
pub(crate) fn judge(
    logits: &[f32],
    width: usize,
    reference: &[Reference<'_>],
    targets: &[u32],
    threads: usize,
) -> Result<Vec<Row>, Wrong> {
    shared(threads, targets, |at, &target| {
        let logits = &logits[at * width..(at + 1) * width];
        divergence::judge(logits, reference.get(at), target as usize).map_err(|which| (at, which))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_the_scored_rows_and_fit() {
        let window = |scored| Window { inputs: 0..4096, begins_with_bos: false, scored };
        for vocabulary in [1, 8192, 151_936, 262_144, 1 << 30, usize::MAX] {
            for scored in [0..2048, 1000..2047, 5..6, 31..33] {
                let blocks = cut(&window(scored.clone()), vocabulary);
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
