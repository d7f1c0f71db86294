//! Tokens that are cut out of a text before the rest is split or merged: markers, and what a model's author added.
//!
//! The longest go first, each wherever longer ones left its text. Reference: ggml-org/llama.cpp `src/llama-vocab.cpp`
//! (`tokenizer_st_partition`).

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::ops::Range;

use aho_corasick::AhoCorasick;

/// A token that is cut out of text.
#[derive(Debug, Clone)]
pub(crate) struct WholeToken {
    pub id: u32,
    pub text: String,
    /// Only where special tokens are recognised.
    pub special: bool,
    /// White space before it belongs to it.
    pub strips_left: bool,
    /// White space after it belongs to it.
    pub strips_right: bool,
}

/// All such tokens of a vocabulary.
#[derive(Debug)]
pub(crate) struct WholeTokens {
    /// The longest first, as `finder` numbers them.
    tokens: Vec<WholeToken>,
    finder: AhoCorasick,
}

impl WholeTokens {
    /// # Errors
    /// If they are too many.
    pub fn new(mut tokens: Vec<WholeToken>) -> Result<Self, String> {
        tokens.retain(|token| !token.text.is_empty());
        tokens.sort_by_key(|token| Reverse(token.text.len()));
        let finder = AhoCorasick::new(tokens.iter().map(|token| &token.text))
            .map_err(|error| format!("too many special tokens: {error}"))?;
        Ok(Self { tokens, finder })
    }

    /// Whether any of them takes white space with it.
    pub fn strip(&self) -> bool {
        self.tokens.iter().any(|token| token.strips_left || token.strips_right)
    }

    /// The tokens to cut out of `text`, from left to right.
    pub fn find(&self, text: &str, with_special: bool) -> Vec<(Range<usize>, &WholeToken)> {
        // Few of perhaps thousands occur, and only they are worth a search each.
        let present: BTreeSet<usize> = self
            .finder
            .find_overlapping_iter(text)
            .map(|found| found.pattern().as_usize())
            .collect();
        let mut found: Vec<(Range<usize>, &WholeToken)> = vec![];
        for index in present {
            let token = &self.tokens[index];
            if token.special && !with_special {
                continue;
            }
            let pattern = &token.text;
            let mut both = Vec::with_capacity(found.len() + 1);
            let mut start = 0;
            for taken in found.into_iter().map(Some).chain([None]) {
                let end = taken.as_ref().map_or(text.len(), |(range, _)| range.start);
                let hits = text[start..end].match_indices(pattern.as_str());
                both.extend(hits.map(|(at, _)| (start + at..start + at + pattern.len(), token)));
                if let Some(taken) = taken {
                    start = taken.0.end;
                    both.push(taken);
                }
            }
            found = both;
        }
        found
    }
}
