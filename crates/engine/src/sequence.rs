//! A request on its way through the engine.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::Instant;

use keeve_graph::Phase;

use crate::detokenizer::Detokenizer;
use crate::error::Error;
use crate::kv::PageList;
use crate::request::{Event, FinishReason, Request, Timings};
use crate::sampling::{History, Sampled, Sampler};
use crate::stop::StopMatcher;

/// One request: its tokens, its place in the state, and how its answer is made.
pub(crate) struct Sequence {
    /// Prompt and answer.
    pub tokens: Vec<u32>,
    /// How many of them the user gave.
    pub prompt_len: usize,
    /// How many of them are in the state.
    pub computed: usize,
    pub pages: PageList,
    pub request: Request,
    /// Generated tokens at which the answer ends.
    pub max_tokens: usize,
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
        let sampler = Sampler::new(request.sampling.clone())?;
        let stop = StopMatcher::new(&request.stop)?;
        Ok(Self {
            tokens: request.prompt.clone(),
            prompt_len,
            computed: 0,
            pages: PageList::default(),
            max_tokens: request.max_tokens.map_or(room, |max| max.min(room)),
            sampler,
            detokenizer,
            stop,
            events: link.events,
            cancelled: link.cancelled,
            times: Times {
                arrived: Instant::now(),
                started: None,
                first_token: None,
                last_token: None,
            },
            cached: 0,
            request,
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
        let (prompt, generated) = self.tokens.split_at(self.prompt_len);
        let sampled = self.sampler.sample(logits, History { prompt, generated })?;
        let now = Instant::now();
        self.times.first_token.get_or_insert(now);
        self.times.last_token = Some(now);
        self.tokens.push(sampled.id);
        if !self.request.ignore_eos && eos.contains(&sampled.id) {
            return Ok(Some(FinishReason::Stop));
        }
        let text = match &mut self.detokenizer {
            Some(detokenizer) => detokenizer.push(sampled.id)?.unwrap_or_default(),
            None => String::new(),
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
        let tail = self.detokenizer.take().and_then(Detokenizer::finish).unwrap_or_default();
        let timings = self.timings();
        let mut text = self.stop.push(&tail).text;
        text.push_str(&self.stop.finish());
        // Nobody listening is no error: the answer was not wanted any more.
        let _ = self.events.send(Event::Finished { reason, text, timings });
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
