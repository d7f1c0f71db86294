//! Who runs in the next step.
//!
//! Every step takes the next token of each sequence that is generating, and fills up with chunks
//! of prompts. A sequence that finds no page for its next token makes the youngest other one give
//! up its pages; that one is run again later, each row in the phase it first ran in, so its answer
//! is the same.

use std::collections::VecDeque;

use keeve_graph::{RowInput, SequenceRows, Step};

use crate::kv::PagePool;
use crate::sequence::Sequence;

/// Limits of a step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Sequences that run at the same time.
    pub sequences: usize,
    /// Prompt rows in a step.
    pub prompt_rows: usize,
}

pub(crate) struct Scheduler {
    pub waiting: VecDeque<Sequence>,
    /// Oldest first.
    pub running: Vec<Sequence>,
    pub pool: PagePool,
    limits: Limits,
}

/// How many rows of each running sequence are in a step; 0 for those that sit it out.
pub(crate) type Shares = Vec<usize>;

impl Scheduler {
    pub fn new(pool: PagePool, limits: Limits) -> Self {
        Self { waiting: VecDeque::new(), running: vec![], pool, limits }
    }

    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Takes the cancelled sequences out.
    pub fn remove_cancelled(&mut self) -> Vec<Sequence> {
        let waiting = std::mem::take(&mut self.waiting);
        let (mut cancelled, waiting): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(Sequence::is_cancelled);
        self.waiting = waiting.into();
        while let Some(index) = self.running.iter().position(Sequence::is_cancelled) {
            cancelled.push(self.remove(index));
        }
        cancelled
    }

    /// Takes the running sequence `index` out and frees its pages.
    pub fn remove(&mut self, index: usize) -> Sequence {
        let mut sequence = self.running.remove(index);
        self.pool.release(std::mem::take(&mut sequence.pages));
        sequence
    }

    /// Admits waiting sequences and decides how many rows of each running one come next.
    pub fn schedule(&mut self) -> Shares {
        self.admit();
        let mut prompt_rows = self.limits.prompt_rows;
        let mut shares = vec![];
        let mut index = 0;
        while index < self.running.len() {
            let sequence = &mut self.running[index];
            let share = match sequence.remaining() {
                1 => 1,
                remaining => remaining.min(prompt_rows),
            };
            if self.pool.grow(&mut sequence.pages, sequence.computed + share) {
                if share > 1 {
                    prompt_rows -= share;
                }
                shares.push(share);
                index += 1;
            } else {
                // The youngest may be this one. Alone, a sequence always fits: longer ones than all
                // pages hold are refused.
                self.preempt_youngest();
            }
        }
        shares
    }

    /// The rows that `shares` stands for.
    pub fn step(&self, shares: &Shares) -> Step<'_> {
        let mut step = Step::default();
        for (sequence, &share) in self.running.iter().zip(shares).filter(|(_, share)| **share > 0) {
            let first = step.rows.len();
            for index in sequence.computed..sequence.computed + share {
                let mut row =
                    RowInput::text(sequence.tokens[index], index as u32, sequence.phase(index));
                let last = index + 1 == sequence.tokens.len() && sequence.max_tokens > 0;
                row.logits =
                    last || (sequence.request.prompt_logits && index < sequence.prompt_len);
                step.rows.push(row);
            }
            let rows = first..step.rows.len();
            step.sequences.push(SequenceRows {
                rows,
                past: sequence.computed,
                pages: &sequence.pages.pages,
            });
        }
        step
    }

    /// Moves waiting sequences to the running ones while there is room for their prompts.
    fn admit(&mut self) {
        while self.running.len() < self.limits.sequences
            && let Some(mut sequence) = self.waiting.pop_front()
        {
            // Rows found in the cache give no logits.
            let found = if sequence.request.prompt_logits {
                (Default::default(), 0)
            } else {
                self.pool.find_prefix(&sequence.tokens)
            };
            sequence.pages = found.0;
            let missing =
                self.pool.pages_for(sequence.tokens.len() + 1) - sequence.pages.pages.len();
            if missing > self.pool.free_pages() && !self.running.is_empty() {
                self.pool.release(std::mem::take(&mut sequence.pages));
                self.waiting.push_front(sequence);
                return;
            }
            sequence.start(found.1);
            self.running.push(sequence);
        }
    }

    fn preempt_youngest(&mut self) {
        if let Some(index) = self.running.len().checked_sub(1) {
            let mut sequence = self.remove(index);
            sequence.computed = 0;
            self.waiting.push_front(sequence);
        }
    }
}
