//! What the engine is doing, for whoever watches it.

use std::sync::{Mutex, PoisonError};

use crate::scheduler::Scheduler;

/// What the engine is doing now, and what it has done since it was loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Sequences that are being computed.
    pub running: usize,
    /// Sequences that wait for their turn.
    pub waiting: usize,
    /// Pages of keys and values that some sequence holds.
    pub pages_held: usize,
    /// Pages there are.
    pub pages: usize,
    /// Tokens in a page.
    pub page_tokens: usize,
    /// Tokens of admitted prompts (and of sequences that were admitted again).
    pub prompt_tokens: u64,
    /// How many of them were found in the prefix cache.
    pub cached_tokens: u64,
    /// Sequences that had to give up their pages to others, and ran again later.
    pub preemptions: u64,
    /// Tokens that were guessed ahead, and checked.
    pub drafted_tokens: u64,
    /// How many of them were right.
    pub accepted_tokens: u64,
    /// Images that were seen; those whose features were still known are not counted.
    pub images_seen: u64,
}

/// The latest [`Stats`], shared by the engine's thread and its handle.
#[derive(Default)]
pub(crate) struct Gauges(Mutex<Stats>);

impl Gauges {
    pub fn publish(&self, scheduler: &Scheduler) {
        let pages = scheduler.pool.total_pages();
        let counts = scheduler.counts;
        let stats = Stats {
            running: scheduler.running.len(),
            waiting: scheduler.waiting.len(),
            pages_held: pages.saturating_sub(scheduler.pool.free_pages()),
            pages,
            page_tokens: scheduler.pool.page_tokens(),
            prompt_tokens: counts.prompt_tokens,
            cached_tokens: counts.cached_tokens,
            preemptions: counts.preemptions,
            drafted_tokens: counts.drafted_tokens,
            accepted_tokens: counts.accepted_tokens,
            images_seen: counts.images_seen,
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = stats;
    }

    pub fn read(&self) -> Stats {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
