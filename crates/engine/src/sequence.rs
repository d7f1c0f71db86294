//! A request on its way through the engine.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use keeve_graph::Phase;
use keeve_graph::sampling::{RowSampling, TokenMask, Workspace, sample};

use crate::constraint::{Following, Standing};
use crate::detokenizer::Detokenizer;
use crate::error::Error;
use crate::images::{Placed, Positions, Prompt};
use crate::kv::{PageList, Tokens};
use crate::request::{Event, FinishReason, Pooling, Request, Timings};
use crate::sampling::{History, Sampled, Sampler, SamplingError};
use crate::speculation::{Drafting, Pace};
use crate::stop::StopMatcher;
use crate::tokenizer::TokenizerError;
use crate::vision::Hash;

/// One request: its tokens, its place in the state, and how its answer is made.
pub(crate) struct Sequence {
    /// Prompt and answer.
    pub tokens: Vec<u32>,
    /// The images that some of them stand for, in order.
    pub images: Vec<Placed>,
    positions: Positions,
    /// How many of them the user gave.
    pub prompt_len: usize,
    /// How many of them are in the state.
    pub computed: usize,
    pub pages: PageList,
    /// Generated tokens at which the answer ends.
    pub max_tokens: usize,
    /// Whether the logits of prompt positions are reported.
    pub prompt_logits: bool,
    /// The first prompt position whose logits are still to be reported, if any are; a replay does
    /// not repeat those before.
    reported: usize,
    ignore_eos: bool,
    /// Further tokens at which the answer ends.
    stop_tokens: Vec<u32>,
    /// Tokens of the answer before which none of those that end it is chosen.
    min_tokens: usize,
    pub sampler: Sampler,
    /// Tokens that may come next.
    pub drafting: Drafting,
    detokenizer: Option<Detokenizer>,
    stop: StopMatcher,
    constraint: Option<Following>,
    embedding: Option<Embedding>,
    deadline: Option<Instant>,
    events: Sink,
    cancelled: Arc<AtomicBool>,
    times: Times,
    cached: usize,
}

struct Times {
    arrived: Instant,
    started: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
}

/// Takes the events of a request; `false` if nobody wants them any more.
pub(crate) type Sink = Box<dyn FnMut(Event) -> bool + Send>;

/// The hidden states that an embedding is made of, so far.
struct Embedding {
    pooling: Pooling,
    sum: Vec<f64>,
    rows: usize,
}

/// Where the events of a sequence go, and how it is cancelled.
pub(crate) struct Link {
    pub events: Sink,
    pub cancelled: Arc<AtomicBool>,
}

impl Sequence {
    /// `prompt` is the request's, as it runs; `context` is the most tokens that a sequence may have.
    pub fn new(
        request: Request,
        prompt: Prompt,
        link: Link,
        detokenizer: Option<Detokenizer>,
        context: usize,
    ) -> Result<Self, Error> {
        let Prompt { tokens, images, positions } = prompt;
        let prompt_len = tokens.len();
        let room = context.saturating_sub(prompt_len);
        Ok(Self {
            prompt_len,
            computed: 0,
            pages: PageList::default(),
            max_tokens: match request.embedding {
                Some(_) => 0,
                None => request.max_tokens.map_or(room, |max| max.min(room)),
            },
            prompt_logits: request.prompt_logits,
            reported: request.prompt_logits_from,
            ignore_eos: request.ignore_eos,
            stop_tokens: request.stop_tokens,
            min_tokens: request.min_tokens,
            sampler: Sampler::new(request.sampling)?,
            drafting: Drafting::default(),
            detokenizer: detokenizer.map(|detokenizer| detokenizer.showing(request.shown)),
            stop: StopMatcher::new(&request.stop)?,
            constraint: request.constraint.map(Following::start),
            embedding: request.embedding.map(|pooling| Embedding { pooling, sum: vec![], rows: 0 }),
            deadline: request.deadline,
            tokens,
            images,
            positions,
            events: link.events,
            cancelled: link.cancelled,
            times: Times {
                arrived: Instant::now(),
                started: None,
                first_token: None,
                last_token: None,
            },
            cached: 0,
        })
    }

    /// The token at `index`, which may be a draft.
    pub fn token(&self, index: usize) -> u32 {
        match self.tokens.get(index) {
            Some(&token) => token,
            None => self.drafting.drafts[index - self.tokens.len()],
        }
    }

    /// How many drafts may be made: none while the prompt runs or a mask is waited for, and no more than tokens that are still
    /// to be generated after the next one.
    pub fn most_drafts(&self) -> usize {
        if self.remaining() != 1 || self.generated() == 0 || !self.may_run(Duration::ZERO) {
            return 0;
        }
        (self.max_tokens - self.generated()).saturating_sub(1)
    }

    /// Tokens that have yet to enter the state.
    pub fn remaining(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Whether a step may be made with it, or would have to wait for what its grammar lets through next. Waits
    /// so long itself.
    pub fn may_run(&self, patience: Duration) -> bool {
        self.remaining() != 1
            || self.constraint.as_ref().is_none_or(|constraint| constraint.may_run(patience))
    }

    /// How many of these can run: those before the first image whose features are not there yet.
    pub fn ready(&self) -> usize {
        let ahead = self
            .images
            .iter()
            .find(|image| image.tokens.end > self.computed && image.features.is_none());
        ahead.map_or(self.remaining(), |image| image.tokens.start.saturating_sub(self.computed))
    }

    /// Whether it waits for one of these images.
    pub fn lacks(&self, hashes: &[Hash]) -> bool {
        let ahead = self.images.iter().filter(|image| image.tokens.end > self.computed);
        let mut lacking = ahead.filter(|image| image.features.is_none());
        lacking.any(|image| hashes.contains(&image.patches.hash))
    }

    /// The position of the token at `index`: time, height, width.
    pub fn position(&self, index: usize) -> [u32; 3] {
        self.positions.at(index)
    }

    /// What the model is given for the token at `index` instead of it.
    pub fn given(&self, index: usize) -> Option<&[f32]> {
        let place = self.images.partition_point(|image| image.tokens.end <= index);
        let image = self.images.get(place).filter(|image| image.tokens.contains(&index))?;
        Some(image.features.as_ref()?.row(index - image.tokens.start))
    }

    /// Tokens of the answer so far.
    pub fn generated(&self) -> usize {
        self.tokens.len() - self.prompt_len
    }

    /// The phase that the token at `index` runs in, also when it is replayed.
    pub fn phase(&self, index: usize) -> Phase {
        if index < self.prompt_len { Phase::Prompt } else { Phase::Generated }
    }

    /// All of them, and which ran in which phase.
    pub fn all_tokens(&self) -> Tokens<'_> {
        Tokens { ids: &self.tokens, prompt: self.prompt_len, images: &self.images }
    }

    /// The tokens whose state may be taken from elsewhere, and one more: all, or those before the
    /// first position whose logits are to be reported; none where an embedding needs every row.
    pub fn reusable(&self) -> Tokens<'_> {
        let end = match self.prompt_logits && self.reported < self.prompt_len {
            true => self.reported + 1,
            false => self.tokens.len(),
        };
        let end = if self.embedding.is_some() { end.min(1) } else { end };
        Tokens { ids: &self.tokens[..end], prompt: self.prompt_len, images: &self.images }
    }

    /// Whether the logits after the token at `index` are needed here: because the request wants to see them, or to
    /// sample from once it is known what the grammar allows after a draft.
    pub fn wants_logits(&self, index: usize) -> bool {
        self.reports(index) || (index >= self.tokens.len() && self.constraint.is_some())
    }

    /// How the token after the one at `index` is sampled in the step, if it is. The answer ends at `eos`.
    pub fn sampling(&self, index: usize, eos: &[u32]) -> Option<RowSampling<'_>> {
        let samples = index + 1 >= self.tokens.len() && self.max_tokens > 0;
        let here = index >= self.tokens.len() && self.constraint.is_some();
        if !samples || here {
            return None;
        }
        let drafts = &self.drafting.drafts[..index + 1 - self.tokens.len()];
        Some(self.row_sampling(drafts, eos))
    }

    fn row_sampling(&self, drafts: &[u32], eos: &[u32]) -> RowSampling<'_> {
        let (prompt, generated) = self.tokens.split_at(self.prompt_len);
        let history = History { prompt, generated, drafts };
        let early = generated.len() + drafts.len() < self.min_tokens;
        let ends = early.then(|| eos.iter().chain(&self.stop_tokens).copied());
        let mask = self.constraint.as_ref().map(|constraint| constraint as &dyn TokenMask);
        self.sampler.row(history, ends.into_iter().flatten(), mask)
    }

    /// Whether the hidden state at `index` is part of the embedding.
    pub fn wants_hidden(&self, index: usize) -> bool {
        match self.embedding.as_ref().map(|embedding| embedding.pooling) {
            None => false,
            Some(Pooling::Mean) => true,
            Some(Pooling::Last) => index + 1 == self.prompt_len,
        }
    }

    /// Takes hidden states that were wanted.
    pub fn add_hidden<'a>(&mut self, rows: impl Iterator<Item = &'a [f32]>) {
        let Some(embedding) = &mut self.embedding else { return };
        for row in rows {
            embedding.sum.resize(row.len(), 0.0);
            for (sum, &value) in embedding.sum.iter_mut().zip(row) {
                *sum += f64::from(value);
            }
            embedding.rows += 1;
        }
    }

    fn reports(&self, index: usize) -> bool {
        self.prompt_logits && (self.reported..self.prompt_len).contains(&index)
    }

    /// Takes note that `share` more tokens are in the state, and reports the logits of those
    /// prompt positions that the request wants to see: the first of `logits`, rows `vocabulary` wide of
    /// the tokens that wanted them. Returns how many rows these were.
    pub fn advance(&mut self, share: usize, vocabulary: usize, logits: &[&[f32]]) -> usize {
        let start = self.computed.max(self.reported);
        let count = (self.computed..self.computed + share).filter(|&at| self.reports(at)).count();
        self.computed += share;
        for image in self.images.iter_mut().filter(|image| image.tokens.end <= self.computed) {
            image.features = None;
        }
        if count > 0 {
            self.reported = start + count;
            let values = logits[..count.min(logits.len())].concat();
            self.send(Event::PromptLogits { start, vocabulary, values });
        }
        count
    }

    /// Why the sequence should not go on, if it should not.
    pub fn given_up(&self, now: Instant) -> Option<FinishReason> {
        if self.cancelled.load(Ordering::Relaxed) {
            Some(FinishReason::Cancelled)
        } else if self.deadline.is_some_and(|deadline| deadline <= now) {
            Some(FinishReason::TimedOut)
        } else {
            None
        }
    }

    /// Marks the beginning of its turn, `cached` tokens being in the state already.
    pub fn start(&mut self, cached: usize) {
        self.computed = cached;
        if let Some(embedding) = &mut self.embedding {
            // It may have begun before, and lost its pages.
            (embedding.sum, embedding.rows) = (vec![], 0);
        }
        if self.times.started.is_none() {
            self.times.started = Some(Instant::now());
            self.cached = cached;
        }
    }

    /// Sends an event. Nobody listening is no error: the request is then cancelled.
    pub fn send(&mut self, event: Event) {
        if !(self.events)(event) {
            self.cancelled.store(true, Ordering::Relaxed);
        }
    }

    /// Takes the tokens that were sampled after the last token and after each draft, as long as drafts are what was
    /// sampled. Those that were not sampled in the step are from `logits`. Returns why the answer ends, if it
    /// does.
    pub fn accept_all(
        &mut self,
        sampled: Vec<SampleResult>,
        logits: &[&[f32]],
        eos: &[u32],
        pace: &mut Pace,
    ) -> Result<Option<FinishReason>, Error> {
        let drafts = std::mem::take(&mut self.drafting.drafts);
        let mut accepted = 0;
        let mut end = None;
        let (mut sampled, mut logits) = (sampled.into_iter(), logits.iter());
        for at in 0..=drafts.len() {
            end = match sampled.next() {
                Some(sampled) => guarded(|| self.accept(sampled, eos))?,
                None => {
                    let logits = logits.next().ok_or(Error::NoLogits)?;
                    let mut work = Workspace::default();
                    let sampled = sample(logits, &self.row_sampling(&[], eos), &mut work);
                    guarded(|| self.accept(sampled, eos))?
                }
            };
            if end.is_some() || drafts.get(at) != self.tokens.last() {
                break;
            }
            // The draft's row has put it into the state already.
            accepted += 1;
            self.computed += 1;
        }
        self.drafting.note(drafts.len(), accepted, pace);
        // What the draft model has of wrong drafts is overwritten.
        self.drafting.computed = self.drafting.computed.min(self.computed);
        Ok(end)
    }

    /// Takes the next token. Returns why the answer ends, if it does.
    fn accept(
        &mut self,
        sampled: SampleResult,
        eos: &[u32],
    ) -> Result<Option<FinishReason>, Error> {
        let Some(sampled) = sampled.map_err(SamplingError::from)? else {
            // The grammar is complete, or says what is wrong.
            let standing = self.constraint.as_ref().map(Following::standing).transpose()?;
            return match standing {
                Some(Standing::Complete) => Ok(Some(FinishReason::Stop)),
                Some(Standing::Open(_)) | None => Err(Error::NoLogits),
            };
        };
        let now = Instant::now();
        self.times.first_token.get_or_insert(now);
        self.times.last_token = Some(now);
        self.tokens.push(sampled.id);
        let at_end = eos.contains(&sampled.id) && (!self.ignore_eos || self.constraint.is_some());
        if at_end || self.stop_tokens.contains(&sampled.id) {
            return Ok(Some(FinishReason::Stop));
        }
        if let Some(constraint) = &mut self.constraint {
            constraint.advance(sampled.id);
        }
        let text = match self.detokenizer.as_mut().map(|detokenizer| detokenizer.push(sampled.id)) {
            // Models have more ids than their tokenizer where the vocabulary is padded; those ids
            // stand for no text.
            None | Some(Ok(None) | Err(TokenizerError::UnknownId { .. })) => String::new(),
            Some(Ok(Some(text))) => text,
            Some(Err(error)) => return Err(error.into()),
        };
        let output = self.stop.push(&text);
        let Sampled { id, logprob, alternatives } = sampled;
        self.send(Event::Token { id, logprob, alternatives, text: output.text });
        Ok(if output.stopped.is_some() {
            Some(FinishReason::Stop)
        } else if self.generated() >= self.max_tokens {
            Some(FinishReason::Length)
        } else {
            None
        })
    }

    /// Sends what was held back, and the end.
    pub fn finish(mut self, reason: FinishReason) {
        let timings = self.timings();
        if let Some(Embedding { sum, rows, .. }) = self.embedding.take()
            && reason == FinishReason::Length
        {
            let mean = sum.into_iter().map(|sum| (sum / rows.max(1) as f64) as f32);
            self.send(Event::Embedding(mean.collect()));
        }
        let Self { detokenizer, mut stop, mut events, .. } = self;
        let ended = guarded(|| {
            let tail = detokenizer.and_then(Detokenizer::finish).unwrap_or_default();
            let output = stop.push(&tail);
            let (mut text, stop_text) = (output.text, output.stopped);
            text.push_str(&stop.finish());
            Ok(Event::Finished { reason, text, stop_text, timings })
        });
        // Nobody listening is no error: the answer was not wanted any more.
        let _ = events(ended.unwrap_or_else(|error| Event::Failed(Arc::new(error))));
    }

    /// Sends a failure.
    pub fn fail(mut self, error: Arc<Error>) {
        self.send(Event::Failed(error));
    }

    fn timings(&self) -> Timings {
        let Times { arrived, started, first_token, last_token } = self.times;
        let now = Instant::now();
        let started = started.unwrap_or(now);
        let first = first_token.unwrap_or(now);
        Timings {
            queued: started - arrived,
            prompt: first - started,
            decode: last_token.map_or_else(Default::default, |last| last - first),
            prompt_tokens: self.prompt_len,
            cached_tokens: self.cached,
            decode_tokens: self.generated(),
            drafted_tokens: self.drafting.drafted,
            accepted_tokens: self.drafting.accepted,
        }
    }
}

/// What was sampled in a step; `None` if the mask had nothing to sample.
pub(crate) type SampleResult = Result<Option<Sampled>, keeve_graph::sampling::SamplingError>;

/// Runs the part of the work that is one request's own. A panic there (in a tokenizer, say) is an
/// error of that request, not the end of the engine.
fn guarded<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(Error::RequestPanicked))
}
