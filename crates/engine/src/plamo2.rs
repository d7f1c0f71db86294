//! The cheapest pieces of a text, as GGUF's tokenizer model `plamo2` wants it.
//!
//! Scores are rounded to ten-thousandths and added from the end; of equal sums the longer piece is taken; what has no
//! piece costs a thousand a character and becomes bytes.
//! Reference: ggml-org/llama.cpp `src/llama-vocab.cpp` (`llm_tokenizer_plamo2`), which finds pieces by their ends in a
//! table; the pieces are the same.

use crate::prefixes::Prefixes;

/// The score of a character without a piece.
const UNKNOWN: i64 = -10_000_000;
/// No piece scores so little.
const INVALID: i64 = -20_000_000;

/// Pieces and their scores.
#[derive(Debug)]
pub(crate) struct Plamo2 {
    tokens: Prefixes,
    /// By id, in ten-thousandths.
    scores: Vec<i64>,
    bytes: Box<[Option<u32>; 256]>,
}

impl Plamo2 {
    /// Scores by id.
    pub fn new(tokens: Prefixes, scores: &[f32], bytes: Box<[Option<u32>; 256]>) -> Self {
        let scaled = |score: &f32| {
            if score.is_finite() { (f64::from(*score) * 1e4).round() as i64 } else { INVALID }
        };
        Self { tokens, scores: scores.iter().map(scaled).collect(), bytes }
    }

    /// Appends the tokens of `text`, without a byte order mark at its start.
    pub fn encode(&self, text: &str, ids: &mut Vec<u32>) {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        // By place: the cost of the rest, and the piece that starts here.
        let mut best: Vec<(i64, usize, Option<u32>)> = vec![(0, 0, None); text.len() + 1];
        for (at, letter) in text.char_indices().rev() {
            let length = letter.len_utf8();
            let mut champion = (best[at + length].0.saturating_sub(UNKNOWN), length, None);
            let mut found = vec![];
            self.tokens.of(&text.as_bytes()[at..], |length, id| found.push((length, id)));
            for (length, id) in found {
                let score = self.scores.get(id as usize).copied().unwrap_or(INVALID);
                let cost = best[at + length].0.saturating_sub(score);
                if score > INVALID && cost <= champion.0 {
                    champion = (cost, length, Some(id));
                }
            }
            best[at] = champion;
        }
        let mut at = 0;
        while at < text.len() {
            let (_, length, id) = best[at];
            let end = at + length.max(1);
            match id {
                Some(id) => ids.push(id),
                None => {
                    let bytes = text.as_bytes().get(at..end).unwrap_or_default();
                    ids.extend(bytes.iter().filter_map(|byte| self.bytes[usize::from(*byte)]));
                }
            }
            at = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cheapest_way_is_taken_and_the_longer_piece_among_equals() {
        let tokens = ["a", "b", "ab", "abc"];
        let prefixes = Prefixes::new((0..).zip(tokens).map(|(id, text)| (text.into(), id)));
        let mut bytes = Box::new([None; 256]);
        bytes[usize::from(b'z')] = Some(9);
        let plamo = Plamo2::new(prefixes, &[-1.0, -1.0, -2.0, f32::NAN], bytes);
        let mut ids = vec![];
        plamo.encode("\u{feff}abazc", &mut ids);
        assert_eq!(ids, [2, 0, 9]);
    }
}
