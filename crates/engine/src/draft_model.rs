//! A small model that guesses what a larger one will say.

use std::time::Instant;

use keeve_checkpoint::Checkpoint;
use keeve_graph::sampling::RowSampling;
use keeve_graph::{Plan, RowInput, SequenceRows, State, Step};
use keeve_models::Model;

use crate::error::Error;
use crate::kv::PagePool;
use crate::sampling::History;
use crate::sequence::Sequence;
use crate::speculation::Pace;
use crate::text::TextSide;

/// The draft model. Which of its pages is whose is the scheduler's business.
pub(crate) struct DraftModel {
    pub plan: Box<dyn Plan>,
    pub state: Box<dyn State>,
    /// The most tokens of a sequence that it follows.
    pub context: usize,
    /// Ids are below this.
    pub own_vocabulary: usize,
    /// Ids of the large model are below this.
    pub vocabulary: usize,
    /// Rows with which it catches up with sequences in a step.
    pub prompt_rows: usize,
}

/// What is wanted for a sequence.
pub(crate) struct Wanted {
    /// Its place among the running ones.
    pub index: usize,
    /// Drafts, at most.
    pub most: usize,
    /// The least probability, in the draft model's opinion, with which all drafts up to one are right
    /// if it is to be made.
    pub least: f64,
}

/// A sequence while drafts are made for it.
struct Making {
    index: usize,
    most: usize,
    least: f64,
    /// Its tokens, without drafts.
    tokens: usize,
    /// The probability of all drafts so far.
    likely: f64,
    open: bool,
}

/// Tokens that it is behind, at most, in the course of things: after drafts that were all right it has
/// not seen the last of them, nor the token that followed.
const FEW: usize = 2;

impl DraftModel {
    /// Makes drafts, as far as its pages allow. Sequences that it has not read to their end are read
    /// on, and get none yet if they are long.
    ///
    /// # Errors
    /// If the model cannot be run.
    pub fn propose(
        &mut self,
        running: &mut [Sequence],
        pool: &mut PagePool,
        wanted: &[Wanted],
        pace: &mut Pace,
    ) -> Result<(), Error> {
        let mut making: Vec<_> = wanted
            .iter()
            .map(|&Wanted { index, most, least }| {
                running[index].begin_drafts(pool);
                let tokens = running[index].tokens.len();
                let most = most.min(self.context.saturating_sub(tokens));
                Making { index, most, least, tokens, likely: 1.0, open: most > 0 }
            })
            .collect();
        loop {
            let begun = Instant::now();
            let shares = self.shares(running, pool, &mut making);
            if !self.round(running, &mut making, &shares)? {
                break;
            }
            // Reading what it has not read yet is no part of what a draft costs.
            if shares.iter().all(|&share| share <= FEW) {
                pace.note_draft(begun.elapsed());
            }
        }
        for making in &making {
            running[making.index].end_drafts(making.tokens);
        }
        Ok(())
    }

    /// How many rows each sequence has in the next round.
    fn shares(
        &self,
        running: &mut [Sequence],
        pool: &mut PagePool,
        making: &mut [Making],
    ) -> Vec<usize> {
        let mut room = self.prompt_rows;
        let mut share = |making: &mut Making| {
            let sequence = &mut running[making.index];
            let drafting = &mut sequence.drafting;
            if !making.open || sequence.tokens.len() - making.tokens >= making.most {
                return 0;
            }
            let behind = sequence.tokens.len() - drafting.computed;
            let share = if behind <= FEW { behind } else { behind.min(room) };
            room -= share.min(room);
            let tokens = &sequence.tokens[drafting.computed..drafting.computed + share];
            let known = tokens.iter().all(|&id| (id as usize) < self.own_vocabulary);
            if share == 0 || !known || !pool.grow(&mut drafting.pages, drafting.computed + share) {
                making.open = false;
                return 0;
            }
            share
        };
        making.iter_mut().map(&mut share).collect()
    }

    /// Runs a round; `false` if there was nothing to run.
    fn round(
        &mut self,
        running: &mut [Sequence],
        making: &mut [Making],
        shares: &[usize],
    ) -> Result<bool, Error> {
        let mut step = Step::default();
        let taking = || (0..making.len()).filter(|&at| shares[at] > 0);
        for (at, share) in taking().map(|at| (at, shares[at])) {
            let sequence = &running[making[at].index];
            let start = sequence.drafting.computed;
            let rows = step.rows.len()..step.rows.len() + share;
            for place in start..start + share {
                if place + 1 == sequence.tokens.len() {
                    step.sampling.push((step.rows.len(), sequence.draft_sampling()));
                }
                let id = sequence.tokens[place];
                step.rows.push(RowInput::text(id, place as u32, sequence.phase(place)));
            }
            let pages = &sequence.drafting.pages.pages;
            step.sequences.push(SequenceRows { rows, past: start, pages });
        }
        if step.rows.is_empty() {
            return Ok(false);
        }
        let outputs = self.plan.run(&step, &mut *self.state, None)?;
        let mut sampled = outputs.sampled.into_iter();
        let taking: Vec<_> = taking().collect();
        for at in taking {
            let making = &mut making[at];
            let sequence = &mut running[making.index];
            sequence.drafting.computed += shares[at];
            if sequence.drafting.computed < sequence.tokens.len() {
                // The rest of it is read next time.
                making.open = false;
                continue;
            }
            match sampled.next() {
                // The large model may have fewer tokens.
                Some(Ok(Some(drawn))) if (drawn.id as usize) < self.vocabulary => {
                    making.likely *= f64::from(drawn.logprob).exp();
                    if making.likely > making.least {
                        sequence.tokens.push(drawn.id);
                    } else {
                        making.open = false;
                    }
                }
                // The draft model's opinion is no reason to fail.
                _ => making.open = false,
            }
        }
        Ok(true)
    }
}

/// Checks that the tokens of a model and of one that makes drafts for it mean the same.
///
/// # Errors
/// If they do not.
pub(crate) fn same_tokens(
    (text, model): (&TextSide, &Model),
    draft: &Checkpoint,
    small: &Model,
) -> Result<(), Error> {
    let differ = |problem: String| Error::DraftTokens { path: draft.path().into(), problem };
    let other = TextSide::read(draft, small.vocabulary);
    let (Ok(Some(own)), Ok(Some(other))) = (&text.tokenizer, &other.tokenizer) else {
        // Without tokenizers only the number of tokens can be compared.
        let (own, other) = (model.vocabulary, small.vocabulary);
        return match own == other {
            true => Ok(()),
            false => Err(differ(format!("it has {other} tokens, the model {own}"))),
        };
    };
    // Vocabularies may be padded differently.
    let shared = own.vocab_size().min(other.vocab_size()) as u32;
    match (0..shared).find(|&id| own.token_bytes(id) != other.token_bytes(id)) {
        None => Ok(()),
        Some(id) => Err(differ(format!("token {id} is another one than the model's"))),
    }
}

impl Sequence {
    /// Gets what the draft model computed for this beginning, and remembers what it has for this one.
    fn begin_drafts(&mut self, pool: &mut PagePool) {
        let mut pages = std::mem::take(&mut self.drafting.pages);
        let mut computed = self.drafting.computed;
        if pages.pages.is_empty() {
            (pages, computed) = pool.find_prefix(self.all_tokens());
        }
        pool.register(&mut pages, self.all_tokens(), computed);
        (self.drafting.pages, self.drafting.computed) = (pages, computed);
    }

    /// How a draft after all tokens (and drafts) so far is sampled.
    fn draft_sampling(&self) -> RowSampling<'static> {
        let (prompt, generated) = self.tokens.split_at(self.prompt_len);
        self.sampler.draft_row(History { prompt, generated, drafts: &[] })
    }

    /// Takes the drafts off the tokens, of which the first `tokens` are none.
    fn end_drafts(&mut self, tokens: usize) {
        self.drafting.drafts = self.tokens.split_off(tokens);
    }
}
