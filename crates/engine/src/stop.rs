//! Stop strings over streamed text.
//!
//! The stop that counts is the one that is *completed first*; among stops completed by the same
//! byte, the longest. That choice depends on the text alone, not on how it is cut into pieces, and
//! it is known as soon as the stop's last byte has arrived.

/// Why a list of stop strings was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum StopError {
    /// An empty stop string would stop before the first token.
    #[error("stop[{0}] is empty (expected at least one character)")]
    Empty(usize),
}

/// What [`StopMatcher::push`] found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StopOutput {
    /// Text that is certain not to belong to a stop string.
    pub text: String,
    /// Index of the stop string that ended the text; its own text is not part of `text`.
    pub stopped: Option<usize>,
}

/// Watches the text of one sequence for stop strings.
///
/// Text is held back only while it may be the beginning of a stop string. Each stop string is
/// followed by its own Knuth-Morris-Pratt automaton, so the work is one step a byte and stop string
/// on average, whatever the text.
#[derive(Debug, Clone)]
pub struct StopMatcher {
    stops: Vec<Pattern>,
    /// Text not given out yet; it ends with the longest beginning of a stop string.
    held: String,
    stopped: Option<usize>,
}

#[derive(Debug, Clone)]
struct Pattern {
    bytes: Vec<u8>,
    /// `back[n]`: how much of the pattern still matches when its first `n + 1` bytes do and the
    /// next byte does not.
    back: Vec<usize>,
    matched: usize,
}

impl Pattern {
    fn new(text: &str) -> Self {
        let bytes = text.as_bytes().to_vec();
        let mut back = vec![0; bytes.len()];
        let mut matched = 0;
        for at in 1..bytes.len() {
            while matched > 0 && bytes[at] != bytes[matched] {
                matched = back[matched - 1];
            }
            if bytes[at] == bytes[matched] {
                matched += 1;
            }
            back[at] = matched;
        }
        Self { bytes, back, matched: 0 }
    }

    /// Follows one byte of text; true when it completes the pattern.
    fn step(&mut self, byte: u8) -> bool {
        while self.matched > 0 && self.bytes[self.matched] != byte {
            self.matched = self.back[self.matched - 1];
        }
        if self.bytes[self.matched] == byte {
            self.matched += 1;
        }
        self.matched == self.bytes.len()
    }
}

impl StopMatcher {
    /// A matcher for `stops`; an empty list lets all text through at once.
    pub fn new<S: AsRef<str>>(stops: &[S]) -> Result<Self, StopError> {
        if let Some(empty) = stops.iter().position(|stop| stop.as_ref().is_empty()) {
            return Err(StopError::Empty(empty));
        }
        let stops = stops.iter().map(|stop| Pattern::new(stop.as_ref())).collect();
        Ok(Self { stops, held: String::new(), stopped: None })
    }

    /// Adds text and returns what became certain. After a stop, nothing more comes out.
    pub fn push(&mut self, text: &str) -> StopOutput {
        if self.stopped.is_some() {
            return StopOutput { text: String::new(), stopped: self.stopped };
        }
        let before = self.held.len();
        self.held.push_str(text);
        for (at, byte) in text.bytes().enumerate() {
            let mut longest: Option<usize> = None;
            for index in 0..self.stops.len() {
                let length = |index: usize| self.stops[index].bytes.len();
                let is_longer = longest.is_none_or(|other| length(index) > length(other));
                if self.stops[index].step(byte) && is_longer {
                    longest = Some(index);
                }
            }
            if let Some(index) = longest {
                // The stop's bytes are all in `held`: text that may begin a stop is never released.
                let start = (before + at + 1).saturating_sub(self.stops[index].bytes.len());
                self.held.truncate(start);
                self.stopped = Some(index);
                return StopOutput { text: std::mem::take(&mut self.held), stopped: self.stopped };
            }
        }
        // A stop begins at a character's first byte, so this is a character boundary.
        let hold = self.stops.iter().map(|stop| stop.matched).max().unwrap_or(0);
        let kept = self.held.split_off(self.held.len() - hold);
        StopOutput { text: std::mem::replace(&mut self.held, kept), stopped: None }
    }

    /// Ends the text: what was held back, empty after a stop.
    pub fn finish(self) -> String {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Tries every prefix of the whole text, shortest first.
    fn naive(text: &str, stops: &[String]) -> (String, Option<usize>) {
        for end in 1..=text.len() {
            let ending = stops
                .iter()
                .enumerate()
                .filter(|(_, stop)| text.as_bytes()[..end].ends_with(stop.as_bytes()))
                .max_by_key(|&(index, stop)| (stop.len(), std::cmp::Reverse(index)));
            if let Some((index, stop)) = ending {
                return (text[..end - stop.len()].to_owned(), Some(index));
            }
        }
        (text.to_owned(), None)
    }

    fn streamed(pieces: &[&str], stops: &[String]) -> (String, Option<usize>) {
        let mut matcher = StopMatcher::new(stops).unwrap();
        let (mut text, mut stopped) = (String::new(), None);
        for piece in pieces {
            let output = matcher.push(piece);
            text.push_str(&output.text);
            stopped = output.stopped;
        }
        text.push_str(&matcher.finish());
        (text, stopped)
    }

    #[test]
    fn text_is_held_back_only_while_it_may_begin_a_stop() {
        let mut matcher = StopMatcher::new(&["\n\nUser:", "END"]).unwrap();
        assert_eq!(matcher.push("hello").text, "hello");
        assert_eq!(matcher.push("\n").text, "");
        assert_eq!(matcher.push("\nUs").text, "");
        assert_eq!(matcher.push("ers\n").text, "\n\nUsers");
        assert_eq!(matcher.push("\nUser"), StopOutput::default());
        let last = matcher.push(": more");
        assert_eq!(last, StopOutput { text: String::new(), stopped: Some(0) });
        assert_eq!(matcher.push("END").text, "");
        assert_eq!(matcher.finish(), "");
    }

    #[test]
    fn the_stop_completed_first_wins_and_then_the_longest() {
        let stops = ["abcd", "bc", "xabc"].map(str::to_owned);
        assert_eq!(streamed(&["zabcd"], &stops), ("za".to_owned(), Some(1)));
        assert_eq!(streamed(&["zx", "ab", "c"], &stops), ("z".to_owned(), Some(2)));
    }

    #[test]
    fn finish_returns_an_unfinished_stop() {
        let mut matcher = StopMatcher::new(&["日本語"]).unwrap();
        assert_eq!(matcher.push("日本").text, "");
        assert_eq!(matcher.finish(), "日本");
    }

    #[test]
    fn an_empty_stop_is_refused() {
        assert_eq!(StopMatcher::new(&["a", ""]).unwrap_err(), StopError::Empty(1));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn streaming_equals_a_search_of_the_whole_text(
            text in "[abé日]{0,40}",
            stops in prop::collection::vec("[abé日]{1,4}", 0..5),
            cuts in prop::collection::vec(0usize..41, 0..6),
        ) {
            let mut cuts: Vec<usize> =
                cuts.into_iter().filter(|&cut| text.is_char_boundary(cut)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&str> = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
            prop_assert_eq!(streamed(&pieces, &stops), naive(&text, &stops));
        }
    }
}
