//! Guessing tokens ahead, so that one step can check several of them.
//!
//! Drafts run behind a sequence's last token as rows of the generated phase. After each of them the
//! next token is chosen exactly as it would be without drafts, from the same logits (a row does not
//! depend on the rows beside it) with the same random number; a draft counts if it is that token, and
//! what follows the first one that is not is forgotten. So drafts change no answer, greedy or drawn:
//! only how many tokens a step gives. For a draft that is one token this accepts as often as rejection
//! sampling does (Leviathan et al., "Fast inference from transformers via speculative decoding", 2023):
//! with the probability that the model gives it.

use std::collections::HashMap;
use std::time::Duration;

use crate::kv::PageList;

/// Where drafts come from, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Speculation {
    /// There are none.
    Off,
    /// From a draft model if there is one, else from what the sequence repeats; as many as pay by the
    /// measured time of steps and by how many were right so far.
    #[default]
    Auto,
    /// From what the sequence repeats, always as many as allowed.
    Ngram,
    /// From the draft model, always as many as allowed.
    Draft,
}

/// Lengths of the runs of tokens that are looked up, the longest first.
const RUNS: [usize; 2] = [3, 2];
/// Stands for no token.
const NONE: u32 = u32::MAX;

/// Where runs of tokens occurred last in a sequence (prompt lookup).
#[derive(Default)]
pub(crate) struct Lookup {
    /// The token after the last occurrence of a run, by its place.
    after: HashMap<[u32; 3], usize>,
    /// Tokens before this one have ended runs.
    indexed: usize,
}

impl Lookup {
    /// What followed when the tokens last ended as they do now, at most `most` tokens. What would go
    /// past the end goes on with itself, as loops do.
    pub fn propose(&mut self, tokens: &[u32], most: usize) -> Vec<u32> {
        // Runs that the last token ends are not entered yet: they would find themselves.
        let end = tokens.len().saturating_sub(1);
        for place in self.indexed..end {
            for run in RUNS.into_iter().filter_map(|length| run(&tokens[..=place], length)) {
                self.after.insert(run, place + 1);
            }
        }
        self.indexed = self.indexed.max(end);
        let found = RUNS.into_iter().find_map(|length| self.after.get(&run(tokens, length)?));
        let Some(&start) = found else { return vec![] };
        let mut drafts: Vec<u32> = Vec::with_capacity(most);
        for place in start..start + most {
            let draft = match tokens.get(place) {
                Some(&token) => token,
                None => drafts[place - tokens.len()],
            };
            drafts.push(draft);
        }
        drafts
    }
}

/// The last `length` tokens.
fn run(tokens: &[u32], length: usize) -> Option<[u32; 3]> {
    let mut run = [NONE; 3];
    run[..length].copy_from_slice(&tokens[tokens.len().checked_sub(length)?..]);
    Some(run)
}

/// What a sequence knows about its drafts.
#[derive(Default)]
pub(crate) struct Drafting {
    /// Drafts that the next step checks.
    pub drafts: Vec<u32>,
    pub lookup: Lookup,
    /// How often drafts were right lately; `None` before the first.
    rate: Option<f64>,
    /// Steps since there were drafts, though some could be made.
    skipped: usize,
    /// Drafts that were checked, and those that were right.
    pub drafted: usize,
    pub accepted: usize,
    /// The draft model's pages of this sequence, and how many tokens are in them.
    pub pages: PageList,
    pub computed: usize,
}

/// How fast old observations are forgotten.
const FORGET: f64 = 0.1;
/// Without drafts for so many steps, one is tried.
const PATIENCE: usize = 24;

impl Drafting {
    /// Takes note that of `drafted` drafts the first `accepted` were right.
    pub fn note(&mut self, drafted: usize, accepted: usize, pace: &mut Pace) {
        self.drafted += drafted;
        self.accepted += accepted;
        for right in 0..drafted.min(accepted + 1) {
            let right = f64::from(u8::from(right < accepted));
            let rate = self.rate.get_or_insert(pace.rate);
            *rate += FORGET * (right - *rate);
            pace.rate += FORGET / 4.0 * (right - pace.rate);
        }
    }

    /// How many drafts to make of at most `most`, if one must be right with a probability of `least` to
    /// be worth a row.
    pub fn length(&mut self, most: usize, least: f64, pace: &Pace) -> usize {
        let rate = self.rate.unwrap_or(pace.rate);
        // A draft counts if all before it are right too.
        let mut right = rate;
        let mut length = 0;
        while length < most && right > least {
            length += 1;
            right *= rate;
        }
        if length > 0 {
            self.skipped = 0;
            return length;
        }
        self.skipped += 1;
        // Where even right ones do not pay, it is only to see whether that has changed.
        let patience = if least < 1.0 { PATIENCE } else { 16 * PATIENCE };
        if self.skipped < patience {
            return 0;
        }
        self.skipped = 0;
        most.min(1)
    }
}

/// How long steps take by their rows, and how often drafts of all sequences are right.
pub(crate) struct Pace {
    /// Sums over steps, the older the lighter: of 1, rows, seconds, rows squared, rows times seconds.
    sums: [f64; 5],
    /// Seconds that one draft costs besides its row.
    draft_cost: f64,
    rate: f64,
}

/// The weight of a step after another one.
const KEEP: f64 = 0.98;
/// A step costs as much as so many rows more than it has, as far as nothing else is known.
const FIXED_ROWS: f64 = 2.0;
/// Steps must differ in their rows by this share of them, about, for what they tell to outweigh that.
const DOUBT: f64 = 0.25;
/// What a row costs at least, as a share of its part in a step.
const LEAST_COST: f64 = 0.05;
/// How often drafts are right, before anything is known.
const ASSUMED_RATE: f64 = 0.6;

impl Default for Pace {
    fn default() -> Self {
        Self { sums: [0.0; 5], draft_cost: 0.0, rate: ASSUMED_RATE }
    }
}

impl Pace {
    /// Takes note of a step without prompt rows.
    pub fn note(&mut self, rows: usize, time: Duration) {
        let (rows, time) = (rows as f64, time.as_secs_f64());
        for (sum, value) in self.sums.iter_mut().zip([1.0, rows, time, rows * rows, rows * time]) {
            *sum = *sum * KEEP + value;
        }
    }

    /// Takes note of how long the draft model took for drafts of one place.
    pub fn note_draft(&mut self, time: Duration) {
        let time = time.as_secs_f64();
        let known = self.draft_cost > 0.0;
        self.draft_cost += if known { FORGET * (time - self.draft_cost) } else { time };
    }

    /// The probability with which a draft must be right to be worth its row, in a step of `rows` rows
    /// that give a token each: the time it takes, in the time of a token.
    pub fn least(&self, rows: usize, draft_model: bool) -> f64 {
        let [count, sum_rows, sum_time, squares, products] = self.sums;
        let rows = rows as f64;
        if count == 0.0 || rows == 0.0 {
            return rows / (rows + FIXED_ROWS);
        }
        let (mean_rows, mean_time) = (sum_rows / count, sum_time / count);
        let each = mean_time / mean_rows;
        let assumed = each * mean_rows / (mean_rows + FIXED_ROWS);
        // The slope of time over rows. Where steps hardly differ in rows it would only be noise.
        let spread = squares / count - mean_rows * mean_rows;
        let together = products / count - mean_rows * mean_time;
        let doubt = (DOUBT * mean_rows).powi(2);
        let row = (together + doubt * assumed) / (spread + doubt);
        let row = row.clamp(LEAST_COST * each, each);
        let step = (mean_time + row * (rows - mean_rows)).max(row * rows);
        let extra = if draft_model { self.draft_cost } else { 0.0 };
        (rows * row + extra) / step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_followed_last_is_proposed_and_loops_go_on() {
        let mut lookup = Lookup::default();
        assert!(lookup.propose(&[], 4).is_empty());
        assert!(lookup.propose(&[1, 2, 3, 4], 4).is_empty());
        // After 1 2: 3 4 1 2, then what is proposed itself.
        assert_eq!(lookup.propose(&[1, 2, 3, 4, 1, 2], 6), [3, 4, 1, 2, 3, 4]);
        // Three tokens prevail over two, and the latest place over earlier ones.
        let tokens = [9, 1, 2, 5, 8, 1, 2, 6, 9, 1, 2];
        assert_eq!(Lookup::default().propose(&tokens, 1), [5]);
        let tokens = [1, 2, 5, 8, 1, 2, 6, 7, 1, 2];
        assert_eq!(Lookup::default().propose(&tokens, 1), [6]);
        assert_eq!(Lookup::default().propose(&[7, 7, 7], 5), [7; 5]);
        assert!(Lookup::default().propose(&[7, 7], 5).is_empty());
    }

    #[test]
    fn lookups_bit_by_bit_are_those_of_the_whole() {
        let tokens: Vec<u32> = (0..300u32).map(|at| at * at % 17 % 5).collect();
        let mut lookup = Lookup::default();
        for end in 1..=tokens.len() {
            let whole = Lookup::default().propose(&tokens[..end], 4);
            assert_eq!(lookup.propose(&tokens[..end], 4), whole, "{end}");
        }
    }

    #[test]
    fn drafts_are_made_when_they_pay_and_tried_again_later() {
        let mut pace = Pace::default();
        let millis = Duration::from_millis;
        // A row more is nearly for nothing.
        (0..50).for_each(|at| pace.note(1 + at % 4, millis(10)));
        assert!(pace.least(1, false) < 0.1, "{}", pace.least(1, false));
        let mut drafting = Drafting::default();
        (0..40).for_each(|_| drafting.note(4, 4, &mut pace));
        assert_eq!(drafting.length(8, pace.least(1, false), &pace), 8);
        // Always wrong: hardly ever.
        (0..40).for_each(|_| drafting.note(4, 0, &mut pace));
        let least = pace.least(1, false);
        let tried: usize = (0..10 * PATIENCE).map(|_| drafting.length(8, least, &pace)).sum();
        assert!((1..=11).contains(&tried), "{tried}");
        // Rows cost as much as in a step of their own: never worth it, unless always right.
        let mut pace = Pace::default();
        (0..50).for_each(|at| pace.note(1 + at % 4, millis(10 * (1 + at as u64 % 4))));
        assert!(pace.least(3, false) > 0.85);
        // Many rows that hardly differ in number: whatever noise says, they fill the step.
        let mut pace = Pace::default();
        (0..50).for_each(|at| pace.note(63 + at % 2, millis(60 + 7 * (at as u64 % 5))));
        assert!(pace.least(64, false) > 0.9, "{}", pace.least(64, false));
        // What the draft model takes counts too.
        let before = pace.least(1, true);
        (0..50).for_each(|_| pace.note_draft(millis(20)));
        assert!(pace.least(1, true) > before + 1.0);
    }
}
