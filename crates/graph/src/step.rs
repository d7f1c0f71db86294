//! One step: which tokens run, whose they are, and what is wanted of them.

use std::ops::Range;

use crate::Error;
use crate::sampling::RowSampling;
use crate::state::PageId;

/// What a row can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Want {
    /// A score for each token of the vocabulary.
    Logits,
    /// The normalized last hidden state.
    Hidden,
}

/// Where a row's token came from. Recipes for quantizing activations are chosen by codec and
/// phase, so a row must be replayed in the phase it first ran in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// Given by the user.
    Prompt,
    /// Generated (also when drafted and only verified here).
    Generated,
}

/// One token row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowInput {
    /// Token id. Ignored where the step gives the row.
    pub id: u32,
    /// Rotary positions: time, height, width. Text repeats one number.
    pub position: [u32; 3],
    /// Prompt or generated.
    pub phase: Phase,
    /// Low-rank adapter, 0 for none.
    pub adapter: u32,
    /// Whether its logits are wanted.
    pub logits: bool,
    /// Whether its hidden state is wanted.
    pub hidden: bool,
}

impl RowInput {
    /// A row of text at `position`, nothing wanted of it.
    pub fn text(id: u32, position: u32, phase: Phase) -> Self {
        Self { id, position: [position; 3], phase, adapter: 0, logits: false, hidden: false }
    }

    /// Whether this is wanted of the row.
    pub fn wants(&self, want: Want) -> bool {
        match want {
            Want::Logits => self.logits,
            Want::Hidden => self.hidden,
        }
    }
}

/// The rows of one sequence: consecutive tokens, following the `past` ones in its pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SequenceRows<'a> {
    /// Its rows in the step.
    pub rows: Range<usize>,
    /// Tokens already in its state.
    pub past: usize,
    /// Its pages in order, enough for `past` and the rows.
    pub pages: &'a [PageId],
}

/// What a plan runs. Rows that belong to no sequence are padding.
#[derive(Debug, Clone, Default)]
pub struct Step<'a> {
    /// All token rows.
    pub rows: Vec<RowInput>,
    /// Whose they are; ranges do not overlap and are in order.
    pub sequences: Vec<SequenceRows<'a>>,
    /// Rows given instead of ids (images): which row, and as many values as the graph reads
    /// ([`crate::Graph::given_width`]), in order of rows.
    pub given: Vec<(usize, &'a [f32])>,
    /// Rows whose next token is sampled, in order, and how.
    pub sampling: Vec<(usize, RowSampling<'a>)>,
}

impl<'a> Step<'a> {
    /// What the step gives for `row`, if anything.
    pub fn given_row(&self, row: usize) -> Option<&'a [f32]> {
        let found = self.given.binary_search_by_key(&row, |&(row, _)| row);
        found.ok().map(|index| self.given[index].1)
    }

    /// How the token after `row` is sampled, if it is.
    pub fn row_sampling(&self, row: usize) -> Option<&RowSampling<'a>> {
        let found = self.sampling.binary_search_by_key(&row, |&(row, _)| row);
        found.ok().map(|index| &self.sampling[index].1)
    }

    /// The rows whose logits are computed, in order: those that ask for them, and those that are sampled from.
    pub fn logits_rows(&self) -> impl Iterator<Item = usize> {
        let computed =
            |&index: &usize| self.rows[index].logits || self.row_sampling(index).is_some();
        (0..self.rows.len()).filter(computed)
    }

    /// The rows that ask for `want`, in order.
    pub fn wanted(&self, want: Want) -> impl Iterator<Item = usize> {
        self.rows.iter().enumerate().filter(move |(_, row)| row.wants(want)).map(|(index, _)| index)
    }

    /// Checks what every backend relies on: sequences in order and inside the rows, ids inside
    /// the vocabulary, pages that exist, are enough and are written by one sequence only, given rows
    /// of the right width.
    ///
    /// # Errors
    /// [`Error::Step`] with the first thing that is wrong.
    pub fn check(&self, limits: &StepLimits) -> Result<(), Error> {
        let wrong = |problem: String| Err(Error::Step(problem));
        let mut next = 0;
        let mut written = vec![];
        for (index, sequence) in self.sequences.iter().enumerate() {
            let rows = &sequence.rows;
            if rows.start < next || rows.start >= rows.end || rows.end > self.rows.len() {
                return wrong(format!(
                    "rows {rows:?} of sequence {index} are empty or out of order"
                ));
            }
            next = rows.end;
            if limits.whole_sequences && sequence.past > 0 {
                return wrong(format!("sequence {index} does not come whole"));
            }
            let tokens = sequence.past.saturating_add(rows.len());
            if tokens > sequence.pages.len().saturating_mul(limits.page_tokens) {
                let pages = sequence.pages.len();
                return wrong(format!("sequence {index} has {pages} pages for {tokens} tokens"));
            }
            if let Some(page) = sequence.pages.iter().find(|&&page| page as usize >= limits.pages) {
                return wrong(format!("page {page} of {}", limits.pages));
            }
            let last = (tokens - 1) / limits.page_tokens;
            written.extend_from_slice(&sequence.pages[sequence.past / limits.page_tokens..=last]);
        }
        written.sort_unstable();
        if let Some(pair) = written.windows(2).find(|pair| pair[0] == pair[1]) {
            return wrong(format!("page {} would be written by two sequences", pair[0]));
        }
        if self.given.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
            return wrong("the given rows are not in order".into());
        }
        for &(row, values) in &self.given {
            if row >= self.rows.len() || values.len() != limits.given_width {
                return wrong(format!("what is given for row {row} does not fit"));
            }
        }
        if self.sampling.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
            return wrong("the rows that are sampled from are not in order".into());
        }
        if let Some((row, _)) = self.sampling.last()
            && *row >= self.rows.len()
        {
            return wrong(format!("row {row} of {} is sampled from", self.rows.len()));
        }
        for (index, row) in self.rows.iter().enumerate() {
            if row.id as usize >= limits.vocabulary && self.given_row(index).is_none() {
                let vocabulary = limits.vocabulary;
                return wrong(format!(
                    "token id {} is outside the vocabulary of {vocabulary}",
                    row.id
                ));
            }
        }
        Ok(())
    }
}

/// What a step is checked against.
#[derive(Debug, Clone, Copy)]
pub struct StepLimits {
    /// Rows of the embedding table.
    pub vocabulary: usize,
    /// Width of given rows.
    pub given_width: usize,
    /// Whether sequences must come whole.
    pub whole_sequences: bool,
    /// Tokens in a page.
    pub page_tokens: usize,
    /// Pages there are.
    pub pages: usize,
}
