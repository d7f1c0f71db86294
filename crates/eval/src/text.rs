//! A text as tokens, with what each of them stands for.

use keeve_engine::Tokenizer;

use crate::Error;

/// The tokens of a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Text {
    /// Token ids, the tokenizer's BOS first if it has one.
    ids: Vec<u32>,
    bos: Option<u32>,
    /// Bytes of each token, and words that begin in it.
    sizes: Vec<(u32, u32)>,
    /// Bytes and words of the text itself.
    total: (usize, usize),
}

impl Text {
    /// Turns a text into tokens. The names of special tokens in it are text like any other.
    ///
    /// # Errors
    /// If the tokenizer cannot encode it.
    pub fn new(text: &str, tokenizer: &Tokenizer) -> Result<Self, Error> {
        let bos = bos(tokenizer)?;
        let mut ids = tokenizer.encode(text, false, false)?;
        let pieces = ids.iter().map(|&id| tokenizer.token_bytes(id).unwrap_or_default());
        let mut sizes = sizes(pieces);
        if let Some(bos) = bos {
            ids.insert(0, bos);
            sizes.insert(0, (0, 0));
        }
        Ok(Self { ids, bos, sizes, total: (text.len(), text.split_whitespace().count()) })
    }

    /// A text that is known only as tokens. Nothing can be said of its bytes and words.
    pub fn from_ids(ids: Vec<u32>, bos: Option<u32>) -> Self {
        let sizes = vec![(0, 0); ids.len()];
        Self { ids, bos, sizes, total: (0, 0) }
    }

    /// Token ids, the tokenizer's BOS first if it has one.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The token that the tokenizer puts before a text.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// Bytes and words of the tokens for which `counts` is true. For all of them (the first apart, which
    /// nothing predicts) these are the bytes and words of the text; for a part, they are in proportion to
    /// what its tokens decode to, which a tokenizer that normalizes text may make differ a little.
    pub fn size_of(&self, counts: impl Fn(usize) -> bool) -> (f64, f64) {
        let (mut part, mut all) = ((0.0, 0.0), (0.0, 0.0));
        for (index, &(bytes, words)) in self.sizes.iter().enumerate() {
            let (bytes, words) = (f64::from(bytes), f64::from(words));
            all = (all.0 + bytes, all.1 + words);
            if index == 0 || counts(index) {
                part = (part.0 + bytes, part.1 + words);
            }
        }
        let share = |part: f64, all: f64, total: usize| {
            if all > 0.0 { total as f64 * part / all } else { 0.0 }
        };
        (share(part.0, all.0, self.total.0), share(part.1, all.1, self.total.1))
    }
}

/// The token that the tokenizer puts before a text, if it puts exactly one there.
fn bos(tokenizer: &Tokenizer) -> Result<Option<u32>, Error> {
    let (plain, whole) =
        (tokenizer.encode("a", false, false)?, tokenizer.encode("a", true, false)?);
    let before = whole.windows(plain.len().max(1)).position(|part| part == plain);
    Ok(before.filter(|&before| before == 1).map(|_| whole[0]))
}

/// The bytes of each piece of a text, and the words that begin in it. A word is what stands between white
/// space.
fn sizes<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<(u32, u32)> {
    let (mut text, mut sizes, mut ends) = (vec![], vec![], vec![]);
    for piece in pieces {
        text.extend_from_slice(piece);
        ends.push(text.len());
        sizes.push((piece.len() as u32, 0));
    }
    let (mut at, mut token, mut in_word) = (0, 0, false);
    for chunk in text.utf8_chunks() {
        // A broken character counts as a letter.
        let broken = (!chunk.invalid().is_empty()).then_some((chunk.invalid().len(), false));
        let characters = chunk.valid().chars().map(|one| (one.len_utf8(), one.is_whitespace()));
        for (length, space) in characters.chain(broken) {
            while ends.get(token).is_some_and(|&end| end <= at) {
                token += 1;
            }
            if !space && !in_word {
                sizes[token].1 += 1;
            }
            in_word = !space;
            at += length;
        }
    }
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(pieces: &[&[u8]]) -> Vec<(u32, u32)> {
        sizes(pieces.iter().copied())
    }

    #[test]
    fn words_begin_in_the_token_that_has_their_first_letter() {
        assert_eq!(counted(&[b"ab", b"c d", b" ", b" e"]), [(2, 1), (3, 1), (1, 0), (2, 1)]);
        assert_eq!(counted(&[b"", b" ", b"", b"x", b""]), [(0, 0), (1, 0), (0, 0), (1, 1), (0, 0)]);
        // A no-break space between words, and a letter, both cut in the middle.
        assert_eq!(counted(&[b"a\xc2", b"\xa0b"]), [(2, 1), (2, 1)]);
        assert_eq!(counted(&[b" \xc3", b"\xa9"]), [(2, 1), (1, 0)]);
        assert_eq!(counted(&[b" \xff", b"\xff x"]), [(2, 1), (3, 1)]);
        assert_eq!(counted(&[]), []);
    }
}
