//! How few tokens a text can become, known without tokenizing it.

/// A token is made of at most so many bytes of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Least {
    pub bytes: usize,
    /// White space may become no token at all: it does not count.
    pub but_spaces: bool,
}

impl Least {
    /// No fewer tokens come of `text`.
    pub fn tokens(&self, text: &str) -> usize {
        let counted = if self.but_spaces {
            text.chars().filter(|letter| !letter.is_whitespace()).map(char::len_utf8).sum()
        } else {
            text.len()
        };
        counted.div_ceil(self.bytes.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_count_and_spaces_may_not() {
        let least = Least { bytes: 4, but_spaces: false };
        assert_eq!((least.tokens(""), least.tokens("abcd "), least.tokens("\u{1f600}")), (0, 2, 1));
        let least = Least { bytes: 4, but_spaces: true };
        assert_eq!((least.tokens(" \n\u{3000}"), least.tokens("ab cd   ")), (0, 1));
    }
}
