//! SentencePiece-style encoding by score, as GGUF's tokenizer model `llama` wants it.
//!
//! Not the `tokenizers` crate's BPE: that ranks pairs of tokens, while here the *joined* text has a
//! score, its halves need not be tokens, and equal scores go to the leftmost pair.
//! Reference: ggml-org/llama.cpp `src/llama-vocab.cpp` (`llm_tokenizer_spm_session` and
//! `tokenizer_st_partition`).

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::ops::Range;

use aho_corasick::AhoCorasick;

use crate::chat::Segment;

/// What stands for a space in the vocabulary.
pub(crate) const SPACE: &str = "\u{2581}";

/// A token that is cut out of text before the rest is merged.
#[derive(Debug, Clone)]
pub(crate) struct WholeToken {
    pub id: u32,
    /// Only where special tokens are recognised.
    pub special: bool,
}

/// A vocabulary with scores.
#[derive(Debug)]
pub(crate) struct Spm {
    /// Texts by id.
    pub tokens: Vec<String>,
    /// Ids by text.
    pub ids: HashMap<String, u32>,
    /// For each id, the place of its score among all scores, equal scores sharing one; `None` for
    /// tokens that text never becomes by merging (special tokens and single bytes).
    pub ranks: Vec<Option<u32>>,
    /// Tokens for bytes that nothing else expresses.
    pub bytes: [u32; 256],
    /// Whole tokens, the longest first, as [`Self::finder`] numbers them.
    pub whole: Vec<WholeToken>,
    /// Finds the texts of `whole`.
    pub finder: AhoCorasick,
    /// Put before everything.
    pub bos: Option<u32>,
    /// Put after everything.
    pub eos: Option<u32>,
    /// Whether a space goes before text at the start and after each whole token.
    pub space_prefix: bool,
}

/// Part of a text under way: a linked list whose links are indices.
struct Symbol {
    start: usize,
    /// 0 once it was merged into its left neighbour.
    length: usize,
    previous: Option<usize>,
    next: Option<usize>,
}

/// Pairs that would make a token: rank, left symbol (the smaller wins a tie), right symbol, length.
type Queue = BinaryHeap<(u32, Reverse<usize>, usize, usize)>;

impl Spm {
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    pub fn token_text(&self, id: u32) -> Option<&str> {
        self.tokens.get(id as usize).map(String::as_str)
    }

    /// As [`crate::tokenizer::Tokenizer::encode_segments`]. Text of neighbouring segments is merged
    /// as if it were one.
    pub fn encode(&self, segments: &[Segment], add_special: bool) -> Vec<u32> {
        let mut ids = vec![];
        if add_special {
            ids.extend(self.bos);
        }
        let mut pending = String::new();
        for Segment { text, trusted } in segments {
            let mut done = 0;
            for (range, id) in self.whole_tokens(text, *trusted) {
                pending.push_str(&text[done..range.start]);
                self.take(&mut pending, &mut ids);
                ids.push(id);
                done = range.end;
            }
            pending.push_str(&text[done..]);
        }
        self.take(&mut pending, &mut ids);
        if add_special {
            ids.extend(self.eos);
        }
        ids
    }

    /// Encodes the text that has gathered since the start or the last whole token, leaving none.
    fn take(&self, pending: &mut String, ids: &mut Vec<u32>) {
        if pending.is_empty() {
            return;
        }
        let prefix = if self.space_prefix { SPACE } else { "" };
        self.merge(&format!("{prefix}{}", pending.replace(' ', SPACE)), ids);
        pending.clear();
    }

    /// The tokens to cut out of `text`, from left to right. The longest go first, each wherever
    /// what longer ones left holds it.
    fn whole_tokens(&self, text: &str, with_special: bool) -> Vec<(Range<usize>, u32)> {
        // Few of perhaps thousands occur, and only they are worth a search each.
        let present: BTreeSet<usize> = self
            .finder
            .find_overlapping_iter(text)
            .map(|found| found.pattern().as_usize())
            .collect();
        let mut found: Vec<(Range<usize>, u32)> = vec![];
        for index in present {
            let WholeToken { id, special } = self.whole[index];
            if special && !with_special {
                continue;
            }
            let pattern = &self.tokens[id as usize];
            let mut both = Vec::with_capacity(found.len() + 1);
            let mut start = 0;
            for taken in found.into_iter().map(Some).chain([None]) {
                let end = taken.as_ref().map_or(text.len(), |(range, _)| range.start);
                let hits = text[start..end].match_indices(pattern.as_str());
                both.extend(hits.map(|(at, _)| (start + at..start + at + pattern.len(), id)));
                if let Some(taken) = taken {
                    start = taken.0.end;
                    both.push(taken);
                }
            }
            found = both;
        }
        found
    }

    /// Merges the characters of `text` and appends the tokens that come of it.
    fn merge(&self, text: &str, ids: &mut Vec<u32>) {
        let starts = text.char_indices().enumerate();
        let mut symbols: Vec<Symbol> = starts
            .map(|(index, (start, character))| {
                let length = character.len_utf8();
                let next = (start + length < text.len()).then_some(index + 1);
                Symbol { start, length, previous: index.checked_sub(1), next }
            })
            .collect();
        let mut queue = Queue::new();
        for right in 1..symbols.len() {
            self.consider(text, &symbols, Some(right - 1), Some(right), &mut queue);
        }
        while let Some((_, Reverse(left), right, length)) = queue.pop() {
            let merged = symbols[right].length;
            // Out of date: one of the two has become part of another symbol, or has grown.
            if symbols[left].length == 0 || merged == 0 || symbols[left].length + merged != length {
                continue;
            }
            let next = symbols[right].next;
            symbols[right].length = 0;
            symbols[left].length = length;
            symbols[left].next = next;
            if let Some(next) = next {
                symbols[next].previous = Some(left);
            }
            self.consider(text, &symbols, symbols[left].previous, Some(left), &mut queue);
            self.consider(text, &symbols, Some(left), next, &mut queue);
        }
        for Symbol { start, length, .. } in symbols.iter().filter(|symbol| symbol.length > 0) {
            let symbol = &text[*start..start + length];
            match self.mergeable(symbol) {
                Some((id, _)) => ids.push(id),
                None => ids.extend(symbol.bytes().map(|byte| self.bytes[usize::from(byte)])),
            }
        }
    }

    /// Queues two neighbours if together they are a token.
    fn consider(
        &self,
        text: &str,
        symbols: &[Symbol],
        left: Option<usize>,
        right: Option<usize>,
        queue: &mut Queue,
    ) {
        let (Some(left), Some(right)) = (left, right) else { return };
        let length = symbols[left].length + symbols[right].length;
        let start = symbols[left].start;
        if let Some((_, rank)) = self.mergeable(&text[start..start + length]) {
            queue.push((rank, Reverse(left), right, length));
        }
    }

    /// Id and rank of the token that `text` may become.
    fn mergeable(&self, text: &str) -> Option<(u32, u32)> {
        let id = self.token_id(text)?;
        Some((id, self.ranks[id as usize]?))
    }
}
