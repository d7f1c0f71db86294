//! Who runs in the next step.
//!
//! Every step takes the next token of each sequence that is generating, and fills up with chunks
//! of prompts: half of the room is the oldest prompt's, which so gets on whatever comes after it, the other
//! half goes to those that need least, so that a short prompt does not wait for the long ones before it. Waiting and running sequences together are always in the order in which they came.
//! When no page is left for a sequence, the youngest one gives up its pages; it is run again
//! later, each row in the phase it first ran in, so its answer is the same.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use keeve_graph::{RowInput, SequenceRows, Step};

use crate::kv::PagePool;
use crate::request::FinishReason;
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
    /// The draft model's pages, where there is one.
    pub draft_pool: Option<PagePool>,
    limits: Limits,
    pub counts: Counts,
}

/// What was done so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    /// Tokens of admitted sequences.
    pub prompt_tokens: u64,
    /// How many of them were found in the prefix cache.
    pub cached_tokens: u64,
    /// Sequences that had to give up their pages to others.
    pub preemptions: u64,
    /// Drafts that were checked.
    pub drafted_tokens: u64,
    /// How many of them were right.
    pub accepted_tokens: u64,
    /// Images that were seen.
    pub images_seen: u64,
}

/// How many rows of each running sequence are in a step; 0 for those that sit it out.
pub(crate) type Shares = Vec<usize>;

impl Scheduler {
    pub fn new(pool: PagePool, draft_pool: Option<PagePool>, limits: Limits) -> Self {
        let counts = Counts::default();
        Self { waiting: VecDeque::new(), running: vec![], pool, draft_pool, limits, counts }
    }

    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Takes out the sequences that were cancelled or whose time is up, with the reason.
    pub fn remove_given_up(&mut self, now: Instant) -> Vec<(Sequence, FinishReason)> {
        let mut removed = vec![];
        for index in (0..self.waiting.len()).rev() {
            if let Some(reason) = self.waiting[index].given_up(now) {
                removed.extend(self.waiting.remove(index).map(|sequence| (sequence, reason)));
            }
        }
        for index in (0..self.running.len()).rev() {
            if let Some(reason) = self.running[index].given_up(now) {
                removed.push((self.remove(index), reason));
            }
        }
        removed
    }

    /// Takes the running sequence `index` out and frees its pages.
    pub fn remove(&mut self, index: usize) -> Sequence {
        let mut sequence = self.running.remove(index);
        self.pool.release(std::mem::take(&mut sequence.pages));
        let drafting = &mut sequence.drafting;
        if let Some(pool) = &mut self.draft_pool {
            pool.release(std::mem::take(&mut drafting.pages));
        }
        drafting.computed = 0;
        drafting.drafts.clear();
        sequence
    }

    /// Admits waiting sequences and decides how many rows of each running one come next.
    pub fn schedule(&mut self) -> Shares {
        self.admit();
        let prompt_shares = self.prompt_shares();
        let mut shares = vec![];
        let mut index = 0;
        while index < self.running.len() {
            let runs = self.runs(&self.running[index]);
            let sequence = &mut self.running[index];
            // A single row waits for nobody else: it is a generated token, or ends a prompt. Its drafts come
            // with it, but nobody gives up pages for them.
            let mut share = prompt_shares[index];
            if runs == 1 {
                share = 1 + sequence.drafting.drafts.len();
                if !self.pool.grow(&mut sequence.pages, sequence.computed + share) {
                    sequence.drafting.drafts.clear();
                    share = 1;
                }
            }
            if self.pool.grow(&mut sequence.pages, sequence.computed + share) {
                shares.push(share);
                index += 1;
            } else {
                // The youngest may be this one. The oldest always fits once it is alone: sequences
                // longer than all pages hold are refused. So some sequence always gets on.
                self.preempt_youngest();
            }
        }
        shares
    }

    /// Rows of a sequence that could run in this step.
    fn runs(&self, sequence: &Sequence) -> usize {
        let (remaining, ready) = (sequence.remaining(), sequence.ready());
        if !sequence.may_run(Duration::ZERO) {
            return 0;
        }
        match ready < remaining {
            // An image is still being seen. What comes before it runs with it, or fills steps.
            true if ready < self.limits.prompt_rows => 0,
            true => ready,
            false => remaining,
        }
    }

    /// The prompt rows that each running sequence may have.
    fn prompt_shares(&self) -> Shares {
        let wanted: Vec<usize> = self.running.iter().map(|sequence| self.runs(sequence)).collect();
        let mut shares = vec![0; wanted.len()];
        let mut left = self.limits.prompt_rows;
        let mut give = |index: usize, most: usize| {
            let share = (wanted[index] - shares[index]).min(most).min(left);
            shares[index] += share;
            left -= share;
        };
        let prompts = (0..wanted.len()).filter(|&index| wanted[index] > 1);
        let mut prompts: Vec<usize> = prompts.collect();
        if let Some(&oldest) = prompts.first() {
            give(oldest, self.limits.prompt_rows.div_ceil(2));
        }
        prompts.sort_by_key(|&index| wanted[index]);
        prompts.into_iter().for_each(|index| give(index, usize::MAX));
        shares
    }

    /// Waits a while for a sequence that can run, if all of them wait for their grammars.
    pub fn wait(&self, patience: Duration) {
        if let Some(first) = self.running.first() {
            first.may_run(patience);
        }
    }

    /// The rows that `shares` stands for. Answers end at `eos`.
    pub fn step(&self, shares: &Shares, eos: &[u32]) -> Step<'_> {
        let mut step = Step::default();
        for (sequence, &share) in self.running.iter().zip(shares).filter(|(_, share)| **share > 0) {
            let first = step.rows.len();
            for index in sequence.computed..sequence.computed + share {
                let mut row = RowInput::text(sequence.token(index), 0, sequence.phase(index));
                row.position = sequence.position(index);
                row.logits = sequence.wants_logits(index);
                row.hidden = sequence.wants_hidden(index);
                let sampling = sequence.sampling(index, eos);
                step.sampling.extend(sampling.map(|sampling| (step.rows.len(), sampling)));
                step.given.extend(sequence.given(index).map(|given| (step.rows.len(), given)));
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

    /// Moves waiting sequences to the running ones, first come first served, while there is room
    /// for all that they and the running ones have to compute.
    fn admit(&mut self) {
        while self.running.len() < self.limits.sequences
            && let Some(mut sequence) = self.waiting.pop_front()
        {
            let found;
            // Rows found in the cache give no outputs.
            (sequence.pages, found) = self.pool.find_prefix(sequence.reusable());
            let promised: usize = self.running.iter().map(|other| self.missing_pages(other)).sum();
            let needed = promised + self.missing_pages(&sequence);
            if needed > self.pool.free_pages() && !self.running.is_empty() {
                self.pool.release(std::mem::take(&mut sequence.pages));
                self.waiting.push_front(sequence);
                return;
            }
            sequence.start(found);
            self.counts.prompt_tokens += sequence.tokens.len() as u64;
            self.counts.cached_tokens += found as u64;
            self.running.push(sequence);
        }
    }

    /// Pages that a sequence lacks for the tokens it has and the next one.
    fn missing_pages(&self, sequence: &Sequence) -> usize {
        let all = self.pool.pages_for(sequence.tokens.len() + 1);
        all.saturating_sub(sequence.pages.pages.len())
    }

    fn preempt_youngest(&mut self) {
        if let Some(index) = self.running.len().checked_sub(1) {
            let mut sequence = self.remove(index);
            self.counts.preemptions += 1;
            sequence.computed = 0;
            self.waiting.push_front(sequence);
        }
    }
}
