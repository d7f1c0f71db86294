//! Masks, worked out beside the model.
//!
//! The threads are few and shared by all answers, so what one answer's masks may take of their time is
//! bounded: a mask by the library's own limits, all of them by [`budget`]. An answer whose masks take long
//! has them made by a thread of its kind, which gives way to the model's, and sits steps out until they are
//! there, so that other answers do not wait for it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use keeve_graph::sampling::TokenMask;
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

/// An answer is slow if its masks take longer than this on the average: what a small model needs for a step.
const SLOW: Duration = Duration::from_millis(2);

/// How much less of a core the thread of slow answers gets than others that want it: a tenth.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;

/// Where answers have their masks made.
#[derive(Clone)]
pub(super) struct Jobs {
    quick: Sender<Job>,
    slow: Sender<Job>,
}

/// A matcher that is to go on after `token`.
pub(super) struct Job {
    matcher: Matcher,
    token: u32,
    answer: Sender<Ready>,
}

/// A matcher, and the tokens that it lets through; `None` if nothing may follow.
#[derive(Clone)]
pub(super) struct Ready {
    matcher: Matcher,
    allowed: Result<Option<SimpleVob>, String>,
    took: Duration,
}

impl Ready {
    /// The same, sharing nothing that grows on the way through an answer.
    pub fn apart(&self) -> Self {
        let Self { matcher, allowed, took } = self;
        Self { matcher: matcher.deep_clone(), allowed: allowed.clone(), took: *took }
    }
}

/// Starts the threads. They end when the engine and all constraints are gone, and hold nothing of
/// theirs.
pub(super) fn start() -> std::io::Result<Jobs> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let quick = threads("keeve-masks", (cores / 4).clamp(1, MOST_THREADS), || ())?;
    let slow = threads("keeve-masks-slow", 1, || {
        // On Linux it is the thread that becomes nice. Without it, it works too.
        #[cfg(target_os = "linux")]
        let _ = rustix::process::nice(NICE);
    })?;
    Ok(Jobs { quick, slow })
}

fn threads(name: &str, count: usize, begin: fn()) -> std::io::Result<Sender<Job>> {
    let (sender, inbox) = channel::<Job>();
    let inbox = Arc::new(Mutex::new(inbox));
    for _ in 0..count {
        let inbox = inbox.clone();
        std::thread::Builder::new().name(name.into()).spawn(move || {
            begin();
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
    let Job { matcher, token, answer } = job;
    // The answer may have been cancelled.
    let _ = answer.send(ready(matcher, Some(token)));
}

fn ready(mut matcher: Matcher, token: Option<u32>) -> Ready {
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
    Ready { matcher, allowed, took: begun.elapsed() }
}

/// What may come first, worked out on this thread: nobody knows yet how long it takes, and all answers of a step
/// would wait for it.
///
/// # Errors
/// If it takes too long or too much memory.
pub(super) fn first(matcher: Matcher) -> Result<Ready, Error> {
    let Ready { matcher, allowed, took } = ready(matcher, None);
    let allowed = allowed.map_err(super::one_line)?;
    Ok(Ready { matcher, allowed: Ok(allowed), took })
}

/// A constraint on its way through an answer.
pub(crate) struct Following {
    jobs: Jobs,
    coming: Mutex<Receiver<Ready>>,
    /// What has come, once it was looked for.
    come: OnceLock<Ready>,
    /// Tokens that were chosen, and what their masks took.
    tokens: u32,
    spent: Duration,
}

/// Where an answer stands in its grammar.
pub(crate) enum Standing<'a> {
    /// Nothing may follow.
    Complete,
    /// These tokens may follow: one bit a token, lowest first.
    Open(&'a [u32]),
}

impl Following {
    /// Goes on from what may come first.
    pub fn start(constraint: Constraint) -> Self {
        let Constraint { first, jobs } = constraint;
        let coming = Mutex::new(channel().1);
        Self { jobs, coming, come: OnceLock::from(first), tokens: 0, spent: Duration::ZERO }
    }

    fn is_slow(&self) -> bool {
        self.spent > SLOW * self.tokens
    }

    /// What has come, waiting until it has; `None` if the thread is gone.
    fn ready(&self) -> Option<&Ready> {
        if self.come.get().is_none() {
            let coming = self.coming.lock().unwrap_or_else(PoisonError::into_inner);
            // Somebody else may have been waiting for it.
            if self.come.get().is_none() {
                let _ = self.come.set(coming.recv().ok()?);
            }
        }
        self.come.get()
    }

    /// Whether a step may be made with the answer: if what may follow is known, or soon will be. Waits so
    /// long for it.
    pub fn may_run(&self, patience: Duration) -> bool {
        if !self.is_slow() || self.come.get().is_some() {
            return true;
        }
        let coming = self.coming.lock().unwrap_or_else(PoisonError::into_inner);
        match coming.recv_timeout(patience) {
            Ok(ready) => {
                let _ = self.come.set(ready);
                true
            }
            // If the thread is gone, `standing` says so.
            Err(error) => error == RecvTimeoutError::Disconnected,
        }
    }

    /// What may come next, waiting until it is known.
    pub fn standing(&self) -> Result<Standing<'_>, Error> {
        let Some(Ready { allowed, took, .. }) = self.ready() else {
            return Err(Error::Grammar("the thread that follows it has died".into()));
        };
        let spent = self.spent + *took;
        if spent > budget(self.tokens) {
            let problem = format!(
                "what may follow took {} ms to work out for {} tokens, expected at most {} ms",
                spent.as_millis(),
                self.tokens,
                budget(self.tokens).as_millis()
            );
            return Err(Error::Grammar(problem));
        }
        match allowed {
            Err(problem) => Err(super::one_line(problem.clone())),
            Ok(None) => Ok(Standing::Complete),
            Ok(Some(tokens)) => Ok(Standing::Open(tokens.as_slice())),
        }
    }

    /// Goes on with the token that was chosen.
    pub fn advance(&mut self, token: u32) {
        // Without it, `standing` says that the thread is gone.
        let Some(Ready { matcher, took, .. }) = self.come.take() else { return };
        self.tokens = self.tokens.saturating_add(1);
        self.spent += took;
        let (answer, coming) = channel();
        self.coming = Mutex::new(coming);
        let jobs = if self.is_slow() { &self.jobs.slow } else { &self.jobs.quick };
        // If the thread is gone, `standing` says so.
        let _ = jobs.send(Job { matcher, token, answer });
    }
}

impl TokenMask for Following {
    fn bits(&self) -> Option<&[u32]> {
        match self.standing() {
            Ok(Standing::Open(bits)) => Some(bits),
            Ok(Standing::Complete) | Err(_) => None,
        }
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
        let mut following = Following::start(Constraint { first: first(matcher).unwrap(), jobs });
        for _ in 0..3 {
            assert!(matches!(following.standing(), Ok(Standing::Open(_))));
            following.advance(u32::from(b'a'));
        }
        assert_eq!(following.tokens, 3);
        following.spent = budget(3);
        let error = following.standing().err().unwrap().to_string();
        assert!(error.contains("3 tokens") && error.contains("2060 ms"), "{error}");
    }

    #[test]
    fn nobody_waits_for_a_slow_answer() {
        let grammar = Grammar::Regex("[ab]{20}".into());
        let matcher = compile::matcher(&suite::bytewise(), &grammar).unwrap();
        // Nobody makes the masks: it takes as long as the test likes.
        let ((quick, quick_jobs), (slow, slow_jobs)) = (channel(), channel());
        let first = Ready { took: 2 * SLOW, ..first(matcher).unwrap() };
        let mut following = Following::start(Constraint { first, jobs: Jobs { quick, slow } });
        assert!(following.may_run(Duration::ZERO));
        assert!(matches!(following.standing(), Ok(Standing::Open(_))));
        following.advance(u32::from(b'a'));
        assert!(quick_jobs.try_recv().is_err());
        assert!(!following.may_run(Duration::from_millis(1)));
        work_out(slow_jobs.recv().unwrap());
        assert!(following.may_run(Duration::ZERO) && following.may_run(Duration::ZERO));
        assert!(matches!(following.standing(), Ok(Standing::Open(_))));
        following.advance(u32::from(b'b'));
        drop(slow_jobs);
        // That the thread has died is told where the mask is needed.
        assert!(following.may_run(Duration::ZERO));
        assert!(following.standing().is_err());
    }
}
