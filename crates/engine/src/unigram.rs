//! The most probable tokens of a text, as SentencePiece's Unigram models and GGUF's tokenizer model `t5` want it.
//!
//! Reference: ggml-org/llama.cpp `src/llama-vocab.cpp` (`llm_tokenizer_ugm_session`) and google/sentencepiece
//! `src/normalizer.cc` and `src/unigram_model.cc`.

use crate::charsmap::Charsmap;
use crate::prefixes::Prefixes;
use crate::spm::{SPACE, SpacePrefix};

/// How much less probable than the least probable token what has no token is.
const UNKNOWN_PENALTY: f32 = 10.0;

/// What SentencePiece does to text before it looks for tokens.
#[derive(Debug)]
pub(crate) struct Normalizer {
    pub charsmap: Option<Charsmap>,
    /// Texts that stay as they are.
    pub kept: Prefixes,
    /// Runs of spaces become one, and those at the ends go.
    pub merges_spaces: bool,
    /// A space is written as U+2581.
    pub marks: bool,
    /// The space that `prefix` asks for comes after the text.
    pub suffix: bool,
}

impl Normalizer {
    /// The text with one space before (or after) it if `prefix`.
    pub fn normalize(&self, text: &str, prefix: bool) -> String {
        let space = if self.marks { SPACE } else { " " };
        let mut out = String::with_capacity(text.len() + text.len() / 4 + 8);
        let mut begun = self.suffix || !prefix;
        // After a space that is not written yet, if spaces merge.
        let mut spaces = false;
        let mut write = |piece: &str| {
            for letter in piece.chars() {
                if letter == ' ' {
                    if !self.merges_spaces {
                        if !begun {
                            out.push_str(space);
                            begun = true;
                        }
                        out.push_str(space);
                    }
                    spaces = true;
                    continue;
                }
                if !begun || self.merges_spaces && spaces && !out.is_empty() {
                    out.push_str(space);
                }
                (begun, spaces) = (true, false);
                out.push(letter);
            }
        };
        let mut rest = text;
        while let Some(letter) = rest.chars().next() {
            let bytes = rest.as_bytes();
            let (taken, replaced) = if let Some((length, _)) = self.kept.longest(bytes) {
                (length, None)
            } else {
                let found = self.charsmap.as_ref().and_then(|map| map.longest(bytes));
                let found =
                    found.and_then(|(length, by)| Some((length, std::str::from_utf8(by).ok()?)));
                match found.filter(|(length, _)| rest.is_char_boundary(*length)) {
                    Some((length, by)) => (length, Some(by)),
                    None => (letter.len_utf8(), None),
                }
            };
            write(replaced.unwrap_or(&rest[..taken]));
            rest = &rest[taken..];
        }
        if self.merges_spaces {
            // Marks that the text has itself go with them.
            while out.ends_with(space) {
                out.truncate(out.len() - space.len());
            }
        }
        if self.suffix && prefix && !out.is_empty() {
            out.push_str(space);
        }
        out
    }
}

/// Tokens and how probable they are.
#[derive(Debug)]
pub(crate) struct Unigram {
    pub normalizer: Normalizer,
    pub prefix: SpacePrefix,
    /// Texts that text may become.
    tokens: Prefixes,
    /// By id: logarithms of probabilities.
    scores: Vec<f64>,
    unknown: u32,
    unknown_score: f64,
    /// Tokens of bytes, for what has no token; else it is the unknown one.
    bytes: Option<Box<[u32; 256]>>,
}

/// The best way to a place in the text: its last token, where that starts, and its score.
#[derive(Clone, Copy)]
struct Best {
    id: u32,
    start: usize,
    score: f64,
}

impl Unigram {
    /// `normal` says which scores count for what the unknown token's is.
    pub fn new(
        normalizer: Normalizer,
        prefix: SpacePrefix,
        tokens: Prefixes,
        scores: Vec<f64>,
        lowest: f32,
        unknown: u32,
        bytes: Option<Box<[u32; 256]>>,
    ) -> Self {
        let unknown_score = f64::from(lowest - UNKNOWN_PENALTY);
        Self { normalizer, prefix, tokens, scores, unknown, unknown_score, bytes }
    }

    /// Appends the tokens of `text`; `start` if nothing is before it.
    pub fn encode(&self, text: &str, start: bool, ids: &mut Vec<u32>) {
        let text = self.normalizer.normalize(text, self.prefix.applies(start));
        let none = Best { id: self.unknown, start: 0, score: f64::NEG_INFINITY };
        let mut best = vec![none; text.len() + 1];
        best[0].score = 0.0;
        for (at, letter) in text.char_indices() {
            let here = best[at].score;
            let letter = letter.len_utf8();
            let mut known = false;
            self.tokens.of(&text.as_bytes()[at..], |length, id| {
                known |= length == letter;
                let score = here + self.scores.get(id as usize).copied().unwrap_or(0.0);
                let champion = &mut best[at + length];
                if score > champion.score {
                    *champion = Best { id, start: at, score };
                }
            });
            let score = here + self.unknown_score;
            let champion = &mut best[at + letter];
            if !known && score > champion.score {
                *champion = Best { id: self.unknown, start: at, score };
            }
        }
        // From the end; neighbouring unknown ones are one.
        let from = ids.len();
        let (mut end, mut after_unknown) = (text.len(), false);
        while end > 0 {
            let Best { id, start, .. } = best[end];
            let unknown = id == self.unknown;
            match &self.bytes {
                Some(bytes) if unknown => {
                    ids.extend(text[start..end].bytes().rev().map(|byte| bytes[usize::from(byte)]));
                }
                _ if unknown && after_unknown => {}
                _ => ids.push(id),
            }
            (end, after_unknown) = (start, unknown);
        }
        ids[from..].reverse();
    }
}
