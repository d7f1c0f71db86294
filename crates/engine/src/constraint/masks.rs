//! Masks, worked out beside the model.
//!
//! The threads are few and shared by all answers, so what one answer's masks may take of their time is
//! bounded: a mask by the library's own limits, all of them by [`budget`].

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use llguidance::Matcher;
use llguidance::toktrie::SimpleVob;

use super::Constraint;
use crate::error::Error;

/// Threads that work out masks, at most.
const MOST_THREADS: usize = 4;

/// What an answer's masks may take, all together: for an answer of so many tokens.
fn budget(tokens: u32) -> Duration {
    Duration::from_secs(2) + Duration::from_millis(20) * tokens
}

/// A matcher that is to go on, after `token` if there is one.
pub(super) struct Job {
    matcher: Matcher,
    token: Option<u32>,
    answer: Sender<Ready>,
}

/// A matcher, and the tokens that it lets through; `None` if nothing may follow.
struct Ready {
    matcher: Matcher,
    allowed: Result<Option<SimpleVob>, String>,
    took: Duration,
}

/// Starts the threads. They end when the engine and all constraints are gone, and hold nothing of
/// theirs.
pub(super) fn start() -> std::io::Result<Sender<Job>> {
    let (sender, inbox) = channel::<Job>();
    let inbox = Arc::new(Mutex::new(inbox));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    for _ in 0..(cores / 4).clamp(1, MOST_THREADS) {
        let inbox = inbox.clone();
        let named = std::thread::Builder::new().name("keeve-masks".into());
        named.spawn(move || {
            loop {
                let job = inbox.lock().unwrap_or_else(PoisonError::into_inner).recv();
                let Ok(job) = job else { return };
                work_out(job);
            }
        })?;
    }
    Ok(sender)
}

fn work_out(job: Job) {
    let Job { mut matcher, token, answer } = job;
    let begun = Instant::now();
    let allowed = catch_unwind(AssertUnwindSafe(|| {
        if let Some(token) = token {
            matcher.consume_token(token).map_err(|error| error.to_string())?;
        }
        if matcher.is_stopped() {
            return matcher.get_error().map_or(Ok(None), Err);
        }
        matcher.compute_mask().map(Some).map_err(|error| error.to_string())
    }));
    let allowed = allowed.unwrap_or_else(|_| Err("it made the library panic".into()));
    // The answer may have been cancelled.
    let _ = answer.send(Ready { matcher, allowed, took: begun.elapsed() });
}

/// A constraint on its way through an answer.
pub(crate) struct Following {
    jobs: Sender<Job>,
    ready: Receiver<Ready>,
    /// Tokens that were chosen, and what their masks took.
    tokens: u32,
    spent: Duration,
}

/// Where an answer stands in its grammar.
pub(crate) enum Standing {
    /// Nothing may follow.
    Complete,
    /// These tokens may follow.
    Open(Box<Allowed>),
}

/// Tokens that may come next, and the matcher that waits for one of them.
pub(crate) struct Allowed {
    matcher: Matcher,
    tokens: SimpleVob,
    took: Duration,
}

impl Allowed {
    /// One bit a token, lowest first.
    pub fn bits(&self) -> &[u32] {
        self.tokens.as_slice()
    }
}

impl Following {
    /// Begins to work out what may come first.
    pub fn start(constraint: Constraint) -> Self {
        let Constraint { matcher, jobs } = constraint;
        let mut following = Self { jobs, ready: channel().1, tokens: 0, spent: Duration::ZERO };
        following.post(matcher, None);
        following
    }

    /// What may come next, waiting until it is known.
    pub fn standing(&self) -> Result<Standing, Error> {
        let Ok(Ready { matcher, allowed, took }) = self.ready.recv() else {
            return Err(Error::Grammar("the thread that follows it has died".into()));
        };
        let spent = self.spent + took;
        if spent > budget(self.tokens) {
            let problem = format!(
                "what may follow took {} ms to work out for {} tokens, expected at most {} ms",
                spent.as_millis(),
                self.tokens,
                budget(self.tokens).as_millis()
            );
            return Err(Error::Grammar(problem));
        }
        Ok(match allowed.map_err(super::one_line)? {
            None => Standing::Complete,
            Some(tokens) => Standing::Open(Box::new(Allowed { matcher, tokens, took })),
        })
    }

    /// Goes on with the token that was chosen.
    pub fn advance(&mut self, allowed: Box<Allowed>, token: u32) {
        self.tokens = self.tokens.saturating_add(1);
        self.spent += allowed.took;
        self.post(allowed.matcher, Some(token));
    }

    fn post(&mut self, matcher: Matcher, token: Option<u32>) {
        let (answer, ready) = channel();
        self.ready = ready;
        // If the thread is gone, `standing` says so.
        let _ = self.jobs.send(Job { matcher, token, answer });
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Grammar, compile, suite};
    use super::*;

    #[test]
    fn an_answer_whose_masks_take_too_long_ends() {
        let jobs = start().unwrap();
        let grammar = Grammar::Regex("[ab]{20}".into());
        let matcher = compile::matcher(&suite::bytewise(), &grammar).unwrap();
        let mut following = Following::start(Constraint { matcher, jobs });
        for _ in 0..3 {
            let Ok(Standing::Open(allowed)) = following.standing() else { panic!("it has ended") };
            following.advance(allowed, u32::from(b'a'));
        }
        assert_eq!(following.tokens, 3);
        following.spent = budget(3);
        let error = following.standing().err().unwrap().to_string();
        assert!(error.contains("3 tokens") && error.contains("2060 ms"), "{error}");
    }
}
