//! A request on its way through the engine.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::Instant;

use keeve_graph::Phase;

use crate::detokenizer::Detokenizer;
use crate::error::Error;
use crate::kv::{PageList, Tokens};
use crate::request::{Event, FinishReason, Request, Timings};
use crate::sampling::{History, Sampled, Sampler};
use crate::stop::StopMatcher;
use crate::tokenizer::TokenizerError;

/// One request: its tokens, its place in the state, and how its answer is made.
pub(crate) struct Sequence {
    /// Prompt and answer.
    pub tokens: Vec<u32>,
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
    sampler: Sampler,
    detokenizer: Option<Detokenizer>,
    stop: StopMatcher,
    events: Sender<Event>,
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

/// Where the events of a sequence go, and how it is cancelled.
pub(crate) struct Link {
    pub events: Sender<Event>,
    pub cancelled: Arc<AtomicBool>,
}

impl Sequence {
    /// `context` is the most tokens that a sequence may have.
    pub fn new(
        request: Request,
        link: Link,
        detokenizer: Option<Detokenizer>,
        context: usize,
    ) -> Result<Self, Error> {
        let prompt_len = request.prompt.len();
        let room = context.saturating_sub(prompt_len);
        Ok(Self {
            prompt_len,
            computed: 0,
            pages: PageList::default(),
            max_tokens: request.max_tokens.map_or(room, |max| max.min(room)),
            prompt_logits: request.prompt_logits,
            reported: request.prompt_logits_from,
            ignore_eos: request.ignore_eos,
            sampler: Sampler::new(request.sampling)?,
            detokenizer,
            stop: StopMatcher::new(&request.stop)?,
            tokens: request.prompt,
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

    /// Tokens that have yet to enter the state.
    pub fn remaining(&self) -> usize {
        self.tokens.len() - self.computed
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
        Tokens { ids: &self.tokens, prompt: self.prompt_len }
    }

    /// The tokens whose state may be taken from elsewhere, and one more: all, or those before the
    /// first position whose logits are to be reported.
    pub fn reusable(&self) -> Tokens<'_> {
        let end = match self.prompt_logits && self.reported < self.prompt_len {
            true => self.reported + 1,
            false => self.tokens.len(),
        };
        Tokens { ids: &self.tokens[..end], prompt: self.prompt_len }
    }

    /// Whether the logits after the token at `index` are needed: to choose the next token, or
    /// because the request wants to see them.
    pub fn wants_logits(&self, index: usize) -> bool {
        let chooses = index + 1 == self.tokens.len() && self.max_tokens > 0;
        chooses || self.reports(index)
    }

    fn reports(&self, index: usize) -> bool {
        self.prompt_logits && (self.reported..self.prompt_len).contains(&index)
    }

    /// Takes note that `share` more tokens are in the state, and reports the logits of those
    /// prompt positions that the request wants to see. `logits` are the rows, `vocabulary` wide, of
    /// the tokens that wanted them.
    pub fn advance(&mut self, share: usize, vocabulary: usize, logits: &[&[f32]]) {
        let start = self.computed.max(self.reported);
        let count = (self.computed..self.computed + share).filter(|&at| self.reports(at)).count();
        self.computed += share;
        if count > 0 {
            self.reported = start + count;
            let values = logits[..count.min(logits.len())].concat();
            self.send(Event::PromptLogits { start, vocabulary, values });
        }
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Marks the beginning of its turn, `cached` tokens being in the state already.
    pub fn start(&mut self, cached: usize) {
        self.computed = cached;
        if self.times.started.is_none() {
            self.times.started = Some(Instant::now());
            self.cached = cached;
        }
    }

    /// Sends an event. Nobody listening is no error: the request is then cancelled.
    pub fn send(&self, event: Event) {
        if self.events.send(event).is_err() {
            self.cancelled.store(true, Ordering::Relaxed);
        }
    }

    /// Chooses the next token from `logits`. Returns why the answer ends, if it does.
    pub fn accept(&mut self, logits: &[f32], eos: &[u32]) -> Result<Option<FinishReason>, Error> {
        guarded(|| self.choose(logits, eos))
    }

    fn choose(&mut self, logits: &[f32], eos: &[u32]) -> Result<Option<FinishReason>, Error> {
        let (prompt, generated) = self.tokens.split_at(self.prompt_len);
        let sampled = self.sampler.sample(logits, History { prompt, generated })?;
        let now = Instant::now();
        self.times.first_token.get_or_insert(now);
        self.times.last_token = Some(now);
        self.tokens.push(sampled.id);
        if !self.ignore_eos && eos.contains(&sampled.id) {
            return Ok(Some(FinishReason::Stop));
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
    pub fn finish(self, reason: FinishReason) {
        let timings = self.timings();
        let Self { detokenizer, mut stop, events, .. } = self;
        let ended = guarded(|| {
            let tail = detokenizer.and_then(Detokenizer::finish).unwrap_or_default();
            let mut text = stop.push(&tail).text;
            text.push_str(&stop.finish());
            Ok(Event::Finished { reason, text, timings })
        });
        // Nobody listening is no error: the answer was not wanted any more.
        let _ = events.send(ended.unwrap_or_else(|error| Event::Failed(Arc::new(error))));
    }

    /// Sends a failure.
    pub fn fail(&self, error: Arc<Error>) {
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
        }
    }
}

/// Runs the part of the work that is one request's own. A panic there (in a tokenizer, say) is an
/// error of that request, not the end of the engine.
fn guarded<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(Error::RequestPanicked))
}
