//! Markers: the fixed pieces of text around reasoning and tool calls, looked for in an answer that
//! arrives in pieces.
//!
//! A marker may be special tokens of the model, of which an answer's text shows nothing. Those that a
//! notation is made of are shown as private-use characters ([`keeve_engine::detokenizer::SHOWN`]), so
//! each marker has up to two forms: spelled, and with those characters.

use std::collections::BTreeMap;

use keeve_engine::Tokenizer;
use keeve_engine::detokenizer::{SHOWN, Shown};

/// The special tokens that markers of a model are made of.
#[derive(Debug, Clone, Default)]
pub(crate) struct Specials {
    ids: BTreeMap<String, u32>,
    marks: BTreeMap<String, char>,
}

impl Specials {
    /// Those of a tokenizer that these markers contain.
    pub fn new<'a>(tokenizer: Option<&Tokenizer>, markers: impl Iterator<Item = &'a str>) -> Self {
        let Some(tokenizer) = tokenizer else { return Self::default() };
        let mut found = Self::default();
        let mut free = SHOWN;
        for marker in markers {
            for text in tokenizer.special_tokens().iter().filter(|text| !text.is_empty()) {
                if marker.contains(text.as_str())
                    && !found.ids.contains_key(text)
                    && let (Some(id), Some(mark)) = (tokenizer.token_id(text), free.next())
                {
                    found.ids.insert(text.clone(), id);
                    found.marks.insert(text.clone(), mark);
                }
            }
        }
        found
    }

    /// How the engine is to show them.
    pub fn shown(&self) -> Shown {
        self.ids.iter().filter_map(|(text, &id)| Some((id, *self.marks.get(text)?))).collect()
    }

    /// A text as ordinary text and special tokens, in order.
    pub fn cut<'a>(&self, text: &'a str) -> Vec<Piece<'a>> {
        let mut pieces = vec![];
        let (mut plain, mut rest) = (0, 0);
        while rest < text.len() {
            let here = &text[rest..];
            let longest = self.ids.iter().filter(|(special, _)| here.starts_with(special.as_str()));
            match longest.max_by_key(|(special, _)| special.len()) {
                Some((special, &id)) => {
                    if plain < rest {
                        pieces.push(Piece::Text(&text[plain..rest]));
                    }
                    pieces.push(Piece::Special(id));
                    rest += special.len();
                    plain = rest;
                }
                None => rest += here.chars().next().map_or(1, char::len_utf8),
            }
        }
        if plain < rest {
            pieces.push(Piece::Text(&text[plain..]));
        }
        pieces
    }

    fn marked(&self, text: &str) -> String {
        let shown = self.shown();
        let piece = |piece: &Piece<'_>| match piece {
            Piece::Text(text) => (*text).to_owned(),
            Piece::Special(id) => shown.get(id).map(char::to_string).unwrap_or_default(),
        };
        self.cut(text).iter().map(piece).collect()
    }
}

/// A part of a marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    Text(&'a str),
    Special(u32),
}

/// A marker, in the forms that it may come in. One without text is never found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Marker(Vec<String>);

/// Whether a text begins with something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begins {
    /// It does, and that takes so many bytes.
    Yes(usize),
    /// More text will tell.
    Perhaps,
    No,
}

impl Marker {
    pub fn new(text: &str, specials: &Specials) -> Self {
        let mut forms = vec![specials.marked(text), text.to_owned()];
        forms.dedup();
        forms.retain(|form| !form.is_empty());
        Self(forms)
    }

    /// Whether it has no text.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Its form of special tokens alone, which nobody can write by accident.
    pub fn special(&self) -> Option<Self> {
        let special = self.0.iter().filter(|form| form.contains(is_mark));
        let special: Vec<_> = special.cloned().collect();
        (!special.is_empty()).then_some(Self(special))
    }

    /// It and a text behind it.
    pub fn and(&self, text: &str) -> Self {
        Self(self.0.iter().map(|form| format!("{form}{text}")).collect())
    }

    /// Whether `text` begins with it.
    pub fn begins(&self, text: &str) -> Begins {
        let mut found = Begins::No;
        for form in &self.0 {
            if text.starts_with(form.as_str()) {
                return Begins::Yes(form.len());
            }
            if form.starts_with(text) {
                found = Begins::Perhaps;
            }
        }
        found
    }

    /// Where it is first in `text`, and how many bytes it takes.
    pub fn find(&self, text: &str) -> Option<(usize, usize)> {
        let places = self.0.iter().filter_map(|form| Some((text.find(form.as_str())?, form.len())));
        places.min_by_key(|&(at, length)| (at, std::cmp::Reverse(length)))
    }

    /// How many bytes at the end of `text` are it, if they are.
    pub fn ends(&self, text: &str) -> Option<usize> {
        self.0.iter().find(|form| text.ends_with(form.as_str())).map(String::len)
    }

    /// Bytes at the end of `text` that may be its beginning.
    pub fn overlap(&self, text: &str) -> usize {
        self.0.iter().map(|form| overlap(text, form)).max().unwrap_or(0)
    }
}

/// Bytes at the end of `text` that are a beginning of `mark`.
fn overlap(text: &str, mark: &str) -> usize {
    let longest = mark.len().min(text.len() + 1).saturating_sub(1);
    let mut lengths = (1..=longest).rev();
    let ends = |&length: &usize| text.as_bytes().ends_with(&mark.as_bytes()[..length]);
    lengths.find(ends).unwrap_or(0)
}

/// Which of `markers` is first in `text`: its number, where, and how many bytes. Of several at a
/// place, the longest.
pub(crate) fn first(text: &str, markers: &[&Marker]) -> Option<(usize, usize, usize)> {
    let found = markers.iter().enumerate().filter_map(|(number, marker)| {
        let (at, length) = marker.find(text)?;
        Some((number, at, length))
    });
    found.min_by_key(|&(_, at, length)| (at, std::cmp::Reverse(length)))
}

/// Whether a character stands for a special token.
pub(crate) fn is_mark(c: char) -> bool {
    SHOWN.contains(&c)
}

/// Text for people: special tokens are no part of it.
pub(crate) fn without_marks(mut text: String) -> String {
    if text.contains(is_mark) {
        text.retain(|c| !is_mark(c));
    }
    text
}
