//! Which texts of a vocabulary a text starts with.

/// Texts in order, so that those with a common start are neighbours.
#[derive(Debug)]
pub(crate) struct Prefixes {
    texts: Vec<(Box<[u8]>, u32)>,
}

impl Prefixes {
    /// Texts and their ids. Empty ones are left out; of equal ones the smallest id is kept.
    pub fn new(texts: impl Iterator<Item = (Vec<u8>, u32)>) -> Self {
        let texts = texts.filter(|(text, _)| !text.is_empty());
        let mut texts: Vec<_> = texts.map(|(text, id)| (text.into_boxed_slice(), id)).collect();
        texts.sort();
        texts.dedup_by(|later, earlier| later.0 == earlier.0);
        Self { texts }
    }

    /// Calls `found` with length and id of each text that `text` starts with, shorter ones first.
    pub fn of(&self, text: &[u8], mut found: impl FnMut(usize, u32)) {
        let mut range = &self.texts[..];
        for (depth, byte) in text.iter().enumerate() {
            // All in the range agree before `depth`, and are longer.
            let low = range.partition_point(|(other, _)| other[depth] < *byte);
            let high = range.partition_point(|(other, _)| other[depth] <= *byte);
            range = &range[low..high];
            if let Some(((first, id), rest)) = range.split_first()
                && first.len() == depth + 1
            {
                found(depth + 1, *id);
                range = rest;
            }
            if range.is_empty() {
                return;
            }
        }
    }

    /// The longest of them.
    pub fn longest(&self, text: &[u8]) -> Option<(usize, u32)> {
        let mut longest = None;
        self.of(text, |length, id| longest = Some((length, id)));
        longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_starts_are_found_from_short_to_long() {
        let texts = ["a", "abc", "b", "ab", "abd", "", "a"];
        let prefixes = Prefixes::new((0..).zip(texts).map(|(id, text)| (text.into(), id)));
        let found = |text: &str| {
            let mut found = vec![];
            prefixes.of(text.as_bytes(), |length, id| found.push((length, id)));
            found
        };
        assert_eq!(found("abdx"), [(1, 0), (2, 3), (3, 4)]);
        assert_eq!(found("ba"), [(1, 2)]);
        assert!(found("c").is_empty());
        assert_eq!(prefixes.longest(b"abcabc"), Some((3, 1)));
    }
}
