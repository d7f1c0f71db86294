//! Text whose characters know where they come from.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::budget::{Meter, TEXT};

/// Set in characters that came in with a value.
const FOREIGN: u32 = 1 << 31;

/// A character and its origin. Equality and hashing ask for the character only, so that no template can tell
/// origins apart.
#[derive(Clone, Copy)]
pub struct Char(u32);

impl Char {
    /// A character that the template wrote.
    pub const fn own(c: char) -> Self {
        Self(c as u32)
    }

    /// A character that came in with a value.
    pub const fn foreign(c: char) -> Self {
        Self(c as u32 | FOREIGN)
    }

    /// The character.
    pub fn get(self) -> char {
        char::from_u32(self.0 & !FOREIGN).unwrap_or(char::REPLACEMENT_CHARACTER)
    }

    /// Whether it came in with a value, such as a message.
    pub const fn is_foreign(self) -> bool {
        self.0 & FOREIGN != 0
    }

    /// Another character of the same origin.
    pub(crate) const fn with(self, c: char) -> Self {
        Self((self.0 & FOREIGN) | c as u32)
    }
}

impl PartialEq for Char {
    fn eq(&self, other: &Self) -> bool {
        (self.0 ^ other.0) & !FOREIGN == 0
    }
}

impl Eq for Char {}

impl PartialOrd for Char {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Char {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0 & !FOREIGN).cmp(&(other.0 & !FOREIGN))
    }
}

impl Hash for Char {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u32(self.0 & !FOREIGN);
    }
}

impl std::fmt::Debug for Char {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.get())
    }
}

/// A string. Cloning shares the characters.
#[derive(Clone)]
pub(crate) struct Text {
    buffer: Arc<Buffer>,
    /// Marked as safe HTML (`safe`, `escape`): what is added to it is escaped.
    pub markup: bool,
}

struct Buffer {
    chars: Box<[Char]>,
    /// What counts the characters while they are in use; none for those of the template itself.
    meter: Option<Arc<Meter>>,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(meter) = &self.meter {
            meter.give_back(self.chars.len() + TEXT);
        }
    }
}

impl Text {
    /// Text of the template itself, which no meter counts.
    pub fn literal(text: &str) -> Self {
        let chars = text.chars().map(Char::own).collect();
        Self { buffer: Arc::new(Buffer { chars, meter: None }), markup: false }
    }

    /// Text that `meter` has counted already.
    pub fn counted(chars: Vec<Char>, meter: Arc<Meter>) -> Self {
        let chars = chars.into_boxed_slice();
        Self { buffer: Arc::new(Buffer { chars, meter: Some(meter) }), markup: false }
    }

    pub fn as_markup(&self, markup: bool) -> Self {
        Self { markup, ..self.clone() }
    }

    pub fn is(&self, other: &str) -> bool {
        same(self, other)
    }
}

impl std::ops::Deref for Text {
    type Target = [Char];

    fn deref(&self) -> &[Char] {
        &self.buffer.chars
    }
}

/// Whether `chars` spell `text`.
pub(crate) fn same(chars: &[Char], text: &str) -> bool {
    let mut given = text.chars();
    chars.iter().all(|c| given.next() == Some(c.get())) && given.next().is_none()
}

pub(crate) fn plain(chars: &[Char]) -> String {
    chars.iter().map(|c| c.get()).collect()
}

pub(crate) fn own(text: &str) -> Vec<Char> {
    text.chars().map(Char::own).collect()
}
