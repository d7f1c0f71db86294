//! SentencePiece-style encoding by score, as GGUF's tokenizer model `llama` wants it.
//!
//! Not BPE by rank: that ranks pairs of tokens, while here the *joined* text has a
//! score, its halves need not be tokens, and equal scores go to the leftmost pair.
//! Reference: ggml-org/llama.cpp `src/llama-vocab.cpp` (`llm_tokenizer_spm_session`).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use crate::unigram::Normalizer;

/// What stands for a space in the vocabulary.
pub(crate) const SPACE: &str = "\u{2581}";

/// Where a space is put before text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SpacePrefix {
    Never,
    /// At the start of everything.
    Start,
    /// At the start and after each whole token.
    Each,
}

impl SpacePrefix {
    pub fn applies(self, start: bool) -> bool {
        self == Self::Each || self == Self::Start && start
    }
}

/// Scores, and what is done to text before.
#[derive(Debug)]
pub(crate) struct Spm {
    /// For each id, the place of its score among all scores, equal scores sharing one; `None` for
    /// tokens that text never becomes by merging (special tokens and single bytes).
    pub ranks: Vec<Option<u32>>,
    /// Tokens for bytes that nothing else expresses. What has none is left out.
    pub bytes: [Option<u32>; 256],
    /// Stands for a run of characters without tokens, where bytes have none.
    pub unknown: Option<u32>,
    pub prefix: SpacePrefix,
    /// A SentencePiece model's own normalizing; GGUF files of this kind have none.
    pub normalizer: Option<Normalizer>,
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
    /// Appends the tokens of `text`; `start` if nothing is before it.
    pub fn encode(
        &self,
        text: &str,
        start: bool,
        vocabulary: &HashMap<String, u32>,
        ids: &mut Vec<u32>,
    ) {
        let text = match &self.normalizer {
            Some(normalizer) => normalizer.normalize(text, self.prefix.applies(start)),
            None => {
                let prefix = if self.prefix.applies(start) { SPACE } else { "" };
                format!("{prefix}{}", text.replace(' ', SPACE))
            }
        };
        Merging { spm: self, vocabulary }.merge(&text, ids);
    }
}

/// A vocabulary at work.
struct Merging<'a> {
    spm: &'a Spm,
    vocabulary: &'a HashMap<String, u32>,
}

impl Merging<'_> {
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
        let mut after_unknown = false;
        for Symbol { start, length, .. } in symbols.iter().filter(|symbol| symbol.length > 0) {
            let symbol = &text[*start..start + length];
            let known = self.mergeable(symbol);
            match (known, self.spm.unknown) {
                (Some((id, _)), _) => ids.push(id),
                (None, Some(unknown)) => ids.extend((!after_unknown).then_some(unknown)),
                (None, None) => {
                    ids.extend(symbol.bytes().filter_map(|byte| self.spm.bytes[usize::from(byte)]));
                }
            }
            after_unknown = known.is_none();
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
        let id = *self.vocabulary.get(text)?;
        Some((id, (*self.spm.ranks.get(id as usize)?)?))
    }
}
