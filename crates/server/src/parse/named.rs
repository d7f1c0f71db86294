//! One tool call as a name and, behind it, its arguments as JSON: `NAME[ARGS]{...}`.

use super::marker::{Marker, first, without_marks};
use super::notation::{Form, Identifier};
use super::object::in_json;
use super::reader::{Found, LONGEST_NAME, NotACall, Reader, is_name};
use super::tools::Row;

/// Reads a call and hands out its arguments as they arrive.
pub(super) struct NamedReader {
    before: Marker,
    behind: Marker,
    after: Vec<Marker>,
    qualified: bool,
    /// What came before the arguments, until they begin.
    header: String,
    begun: bool,
    value: JsonEnd,
}

impl NamedReader {
    pub fn new(row: &Row) -> Self {
        let mut markers = row.form.iter().cloned();
        let id = match row.notation.form {
            Form::Named { id, .. } => id,
            _ => Identifier::None,
        };
        Self {
            before: markers.next().unwrap_or_default(),
            behind: markers.next().unwrap_or_default(),
            after: markers.collect(),
            qualified: id == Identifier::Qualified,
            header: String::new(),
            begun: false,
            value: JsonEnd::default(),
        }
    }

    /// The function and the identifier that the header names.
    fn named(&self) -> Option<Found> {
        let mut name = &*self.header;
        while let Some((at, length)) = self.before.find(name) {
            name = &name[at + length..];
        }
        let after: Vec<_> = self.after.iter().collect();
        let end = first(name, &after).map_or(name.len(), |(_, at, _)| at);
        let name = name[..end].trim();
        let id = if self.qualified {
            let whole = self.after.first().and_then(|marker| marker.find(&self.header));
            let whole = self.header[..whole.map_or(self.header.len(), |(at, _)| at)].trim();
            Some(whole.to_owned()).filter(|id| id.contains(':'))
        } else {
            self.behind.find(&self.header).map(|(at, length)| {
                let id = &self.header[at + length..];
                let end = first(id, &after).map_or(id.len(), |(_, at, _)| at);
                id[..end].trim().to_owned()
            })
        };
        let clean = |text: String| Some(without_marks(text)).filter(|text| is_name(text));
        Some(Found::Start { id: id.and_then(clean), name: clean(name.to_owned())? })
    }
}

impl Reader for NamedReader {
    fn push(&mut self, text: &str, found: &mut Vec<Found>) -> Result<Option<String>, NotACall> {
        let mut json = text;
        if !self.begun {
            let end = text.find('{').unwrap_or(text.len());
            self.header.push_str(&text[..end]);
            // The header is a word and markers.
            let words = self.header.split_whitespace().count();
            if self.header.len() > LONGEST_NAME || words > 3 {
                return Err(NotACall(text[end..].to_owned()));
            }
            if end == text.len() {
                return Ok(None);
            }
            let Some(start) = self.named() else {
                return Err(NotACall(text[end..].to_owned()));
            };
            self.begun = true;
            found.push(start);
            json = &text[end..];
        }
        let end = self.value.push(json);
        let (mine, rest) = json.split_at(match end {
            JsonPlace::Open => json.len(),
            JsonPlace::End(at) | JsonPlace::Wrong(at) => at,
        });
        found.push(Found::Arguments(mine.to_owned()));
        match end {
            JsonPlace::Open => Ok(None),
            JsonPlace::End(_) => Ok(Some(rest.to_owned())),
            JsonPlace::Wrong(_) => Err(NotACall(rest.to_owned())),
        }
    }
}

/// Looks for the end of a JSON value that begins with a bracket.
#[derive(Debug, Default)]
pub(super) struct JsonEnd {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

/// Where a value stands after a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JsonPlace {
    /// It goes on.
    Open,
    /// It ended here.
    End(usize),
    /// What stands here cannot be of a value.
    Wrong(usize),
}

impl JsonEnd {
    /// Reads on.
    pub fn push(&mut self, text: &str) -> JsonPlace {
        for (at, c) in text.char_indices() {
            match c {
                _ if self.escaped => self.escaped = false,
                '\\' if self.in_string => self.escaped = true,
                '"' => self.in_string = !self.in_string,
                _ if self.in_string => {}
                '{' | '[' => self.depth += 1,
                '}' | ']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return JsonPlace::End(at + 1);
                    }
                }
                c if !in_json(c) => return JsonPlace::Wrong(at),
                _ => {}
            }
        }
        JsonPlace::Open
    }
}
