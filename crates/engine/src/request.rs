//! What is asked of the engine, and what it answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvError};
use std::time::{Duration, Instant};

use keeve_image::Patches;

use crate::constraint::Constraint;
use crate::detokenizer::Shown;
use crate::error::Error;
use crate::sampling::{SamplingParams, TokenLogprob};

/// A prompt and how to continue it.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Token ids, used as they are.
    pub prompt: Vec<u32>,
    /// The images of the prompt, in order, as [`crate::Engine::image_processor`] makes them. For each the
    /// prompt has one image token.
    pub images: Vec<Arc<Patches>>,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// The most tokens to generate; `None`: as many as the context holds.
    pub max_tokens: Option<usize>,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// Whether to go on after the model's end tokens.
    pub ignore_eos: bool,
    /// Further tokens that end the answer, whatever `ignore_eos` says; they are not part of it.
    pub stop_tokens: Vec<u32>,
    /// Tokens of the answer before which no end token is chosen.
    pub min_tokens: usize,
    /// Whether the texts of special tokens are part of the answer's text.
    pub keep_special: bool,
    /// Whether the answer's text goes on with the prompt's: a space that it begins with is then part of it
    /// also where the tokenizer drops that of a text.
    pub continues: bool,
    /// Whether to report the logits of prompt positions, each once and in order. They run, whatever
    /// the prefix cache holds.
    pub prompt_logits: bool,
    /// The first prompt position whose logits are reported, if any are. What comes before it may be
    /// found in the prefix cache, so a long prompt can be looked at part by part, by requests that
    /// each end where their part ends.
    pub prompt_logits_from: usize,
    /// Whether to make an embedding of the prompt instead of continuing it. `max_tokens` is then
    /// taken as 0.
    pub embedding: Option<Pooling>,
    /// What the answer must look like, from [`crate::Engine::constraint`]. An end token then ends it
    /// even with `ignore_eos`.
    pub constraint: Option<Constraint>,
    /// Special tokens that the answer's text shows, each as a character that stands for it. All others
    /// are left out.
    pub shown: Arc<Shown>,
    /// When to give up, whether or not the answer is complete.
    pub deadline: Option<Instant>,
}

/// How one vector is made of the last hidden states of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pooling {
    /// The mean over all positions.
    Mean,
    /// That of the last position.
    Last,
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// An end token or a stop text.
    Stop,
    /// The number of tokens asked for is reached, or the context is full.
    Length,
    /// Its [`Generation`] was cancelled.
    Cancelled,
    /// Its deadline passed.
    TimedOut,
}

impl FinishReason {
    /// `stop`, `length`, `cancelled` or `timed_out`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed_out",
        }
    }
}

/// How long things took.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Timings {
    /// Waiting for its turn.
    pub queued: Duration,
    /// From its turn to the first token (or to the end of the prompt if none was asked for).
    pub prompt: Duration,
    /// From the first token to the last.
    pub decode: Duration,
    /// Prompt tokens, all tokens of images included.
    pub prompt_tokens: usize,
    /// Prompt tokens whose state was found in the prefix cache.
    pub cached_tokens: usize,
    /// Generated tokens, a stop token included.
    pub decode_tokens: usize,
    /// Tokens that were guessed ahead, and checked.
    pub drafted_tokens: usize,
    /// How many of them were right.
    pub accepted_tokens: usize,
}

impl Timings {
    /// Prompt tokens that ran, a second.
    pub fn prompt_rate(&self) -> f64 {
        rate(self.prompt_tokens.saturating_sub(self.cached_tokens), self.prompt)
    }

    /// Tokens after the first, a second.
    pub fn decode_rate(&self) -> f64 {
        rate(self.decode_tokens.saturating_sub(1), self.decode)
    }
}

fn rate(count: usize, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { count as f64 / time.as_secs_f64() }
}

/// One piece of an answer.
#[derive(Debug, Clone)]
pub enum Event {
    /// Logits of prompt positions from `start` on: `[.., vocabulary]`.
    PromptLogits {
        /// The first position.
        start: usize,
        /// Width of a row.
        vocabulary: usize,
        /// The rows.
        values: Vec<f32>,
    },
    /// The embedding that was asked for, as the model gives it (not normalized).
    Embedding(Vec<f32>),
    /// A token of the answer (never the one that ended it).
    Token {
        /// Its id.
        id: u32,
        /// Its natural log probability under the model.
        logprob: f32,
        /// The likeliest tokens, best first, as many as asked for.
        alternatives: Vec<TokenLogprob>,
        /// Text that is now certain. Empty while a character or a stop text may be incomplete,
        /// and where there is no tokenizer.
        text: String,
    },
    /// The end.
    Finished {
        /// Why.
        reason: FinishReason,
        /// Text that was held back until now.
        text: String,
        /// Which of the request's stop texts ended the answer, if one did.
        stop_text: Option<usize>,
        /// How long things took.
        timings: Timings,
    },
    /// The request failed; nothing follows.
    Failed(Arc<Error>),
}

/// A running request. Dropping it cancels the request.
pub struct Generation {
    pub(crate) events: Receiver<Event>,
    pub(crate) cancelled: Arc<AtomicBool>,
    pub(crate) ended: bool,
}

/// Cancels a request from elsewhere, such as a signal handler.
#[derive(Debug, Clone)]
pub struct Canceller(pub(crate) Arc<AtomicBool>);

impl Canceller {
    /// Asks the engine to stop the request within one step.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the request was asked to stop. It may have run to its end before it saw that.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Generation {
    /// A handle that cancels this request.
    pub fn canceller(&self) -> Canceller {
        Canceller(self.cancelled.clone())
    }
}

impl Iterator for Generation {
    type Item = Event;

    /// The next event, waiting for it; `None` after the last. If the engine dies, the last event
    /// is [`Event::Failed`].
    fn next(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        let event = self
            .events
            .recv()
            .unwrap_or_else(|RecvError| Event::Failed(Arc::new(Error::EngineDied)));
        self.ended = matches!(event, Event::Finished { .. } | Event::Failed(_));
        Some(event)
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}
