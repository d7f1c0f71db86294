//! What sequences carry from step to step.
//!
//! A graph declares slots; a backend allocates them for many sequences at once, cut into pages
//! that hold the same tokens in every paged slot. Which page belongs to whom is the caller's
//! business: it keeps a list of pages per sequence, so that forking and truncating a sequence
//! are operations on that list (with [`State::copy_page`] for a page that two would write to).

use std::any::Any;
use std::fmt;
use std::str::FromStr;

/// How keys and values are stored. They are rounded as they are stored, and a token attends to itself
/// through its rounded key and value too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KvCodec {
    /// As they are.
    F32,
    /// Rounded to binary16, numbers beyond its range to the largest one.
    F16,
    /// Each run of 32 numbers of a head (the last may be shorter) as int8 with a binary16 scale, as
    /// in weights of the codec `q8_0`.
    Q8_0,
}

impl KvCodec {
    /// All of them, the most exact first.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::Q8_0];

    /// The name that options use.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q8_0 => "q8_0",
        }
    }
}

impl fmt::Display for KvCodec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is no [`KvCodec`]'s.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown codec of keys and values '{0}': there are f32, f16 and q8_0")]
pub struct UnknownKvCodec(String);

impl FromStr for KvCodec {
    type Err = UnknownKvCodec;

    fn from_str(name: &str) -> Result<Self, UnknownKvCodec> {
        let found = Self::ALL.into_iter().find(|codec| codec.name() == name);
        found.ok_or_else(|| UnknownKvCodec(name.into()))
    }
}

/// A kind of state that each sequence has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Slot {
    /// Keys and values of every token, in pages.
    Paged {
        /// Key and value heads.
        kv_heads: usize,
        /// Width of a head.
        head_dim: usize,
    },
    /// Keys and values of the last `tokens` tokens.
    Window {
        /// How many tokens are kept.
        tokens: usize,
        /// Key and value heads.
        kv_heads: usize,
        /// Width of a head.
        head_dim: usize,
    },
    /// A fixed number of values (recurrent and convolution states).
    Fixed {
        /// How many values.
        values: usize,
    },
}

/// A slot of the graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SlotId(pub(crate) u32);

impl SlotId {
    /// Its index in the graph's slots.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A slot at one moment: operations take a state and return the next version of it, so the order
/// of updates is part of the graph. Backends update in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StateRef {
    /// Which slot.
    pub slot: SlotId,
    /// How many operations have updated it before.
    pub version: u32,
}

/// A page of a [`State`], by number.
pub type PageId = u32;

/// The states of many sequences, held by a backend.
pub trait State: Send {
    /// Tokens in a page.
    fn page_tokens(&self) -> usize;

    /// Pages there are.
    fn pages(&self) -> usize;

    /// Bytes of one page over all slots.
    fn page_bytes(&self) -> usize;

    /// Copies page `from` over page `to` in every slot.
    ///
    /// # Panics
    /// If a page does not exist.
    fn copy_page(&mut self, from: PageId, to: PageId);

    /// The content of a page, in a form that [`State::import_page`] of a state of the same graph
    /// and backend takes.
    ///
    /// # Panics
    /// If the page does not exist.
    fn export_page(&self, page: PageId) -> Vec<u8>;

    /// Overwrites a page. `false`, with nothing changed, if `bytes` is not of the right length.
    ///
    /// # Panics
    /// If the page does not exist.
    fn import_page(&mut self, page: PageId, bytes: &[u8]) -> bool;

    /// For the backend that made it.
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_kv_codecs_are_read_back_and_others_are_errors() {
        for codec in KvCodec::ALL {
            assert_eq!(codec.to_string().parse(), Ok(codec));
        }
        for wrong in ["", "F16", "q8", "f16 "] {
            let error = wrong.parse::<KvCodec>().unwrap_err().to_string();
            assert!(error.contains(&format!("'{wrong}'")) && error.contains("q8_0"), "{error}");
        }
    }
}
