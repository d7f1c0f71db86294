//! One tool call whose arguments are text between markers:
//! `NAME><parameter=KEY>VALUE</parameter>...</function>`.
//!
//! The text does not say of what type a value is, so the tool's schema does. Strings are handed out
//! as they arrive, other values when they are whole.

use std::sync::Arc;

use super::literal;
use super::marker::{Begins, Marker, first, without_marks};
use super::notation::Tags;
use super::reader::{
    Found, Kind, LONGEST_NAME, NotACall, Reader, ToolList, escaped, is_name, quoted,
};
use super::tools::Row;

pub(super) struct TaggedReader {
    tags: Tags,
    markers: Markers,
    tools: Arc<ToolList>,
    held: String,
    /// How much of `held` has been searched for the end of a value.
    searched: usize,
    stage: Stage,
    name: String,
    /// Arguments so far.
    count: usize,
}

struct Markers {
    name_close: Marker,
    after: Marker,
    key_open: Marker,
    key_close: Marker,
    value_open: Marker,
    value_close: Marker,
    call_close: Marker,
    /// What ends all calls, in case that the call's own end is missing.
    close: Marker,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    Name,
    /// Between the name and what ends its tag.
    AfterName,
    Between,
    Key,
    Attributes {
        key: String,
    },
    Value {
        kind: Kind,
        begun: bool,
    },
}

/// How a step ended.
enum Step {
    On,
    Wait,
    Done,
}

impl TaggedReader {
    pub fn new(row: &Row, tags: Tags, tools: Arc<ToolList>) -> Self {
        let marker = |index: usize| row.form.get(index).cloned().unwrap_or_default();
        Self {
            tags,
            markers: Markers {
                name_close: marker(0),
                after: marker(1),
                key_open: marker(2),
                key_close: marker(3),
                value_open: marker(4),
                value_close: marker(5),
                call_close: row.call_close.clone(),
                close: row.close.clone(),
            },
            tools,
            held: String::new(),
            searched: 0,
            stage: Stage::Name,
            name: String::new(),
            count: 0,
        }
    }

    fn step(&mut self, found: &mut Vec<Found>) -> Option<Step> {
        match self.stage.clone() {
            Stage::Name => self.read_name(found),
            Stage::AfterName => Some(self.skip_to(|markers| &markers.after, Stage::Between)),
            Stage::Between => self.read_between(found),
            Stage::Key => self.read_key(),
            Stage::Attributes { key } => self.read_attributes(&key, found),
            Stage::Value { kind, begun } => Some(self.read_value(kind, begun, found)),
        }
    }

    fn read_name(&mut self, found: &mut Vec<Found>) -> Option<Step> {
        let markers = &self.markers;
        let text = self.held.trim_start();
        let blank = self.held.len() - text.len();
        let (end, used) = if markers.name_close.is_empty() {
            let ends = first(text, &[&markers.key_open, &markers.call_close]);
            let white = text.find(char::is_whitespace);
            let end = [ends.map(|(_, at, _)| at), white].into_iter().flatten().min();
            (end, 0)
        } else {
            let found = markers.name_close.find(text);
            (found.map(|(at, _)| at), found.map_or(0, |(_, length)| length))
        };
        let Some(end) = end else {
            let keep = markers.key_open.overlap(text).max(markers.call_close.overlap(text));
            let keep = keep.max(markers.name_close.overlap(text));
            let sure = &text[..text.len() - keep];
            return (sure.is_empty() || is_name(sure)).then_some(Step::Wait);
        };
        let name = without_marks(text[..end].to_owned());
        if !is_name(&name) {
            return None;
        }
        self.held.drain(..blank + end + used);
        found.push(Found::Start { id: None, name: name.clone() });
        self.name = name;
        self.stage = if self.markers.after.is_empty() { Stage::Between } else { Stage::AfterName };
        Some(Step::On)
    }

    /// Drops everything up to a marker, and it.
    fn skip_to(&mut self, marker: impl Fn(&Markers) -> &Marker, then: Stage) -> Step {
        match marker(&self.markers).find(&self.held) {
            Some((at, length)) => {
                self.held.drain(..at + length);
                self.stage = then;
                Step::On
            }
            None => Step::Wait,
        }
    }

    fn read_between(&mut self, found: &mut Vec<Found>) -> Option<Step> {
        let text = self.held.trim_start();
        if text.is_empty() {
            return Some(Step::Wait);
        }
        let blank = self.held.len() - text.len();
        let Markers { key_open, call_close, close, .. } = &self.markers;
        match (key_open.begins(text), call_close.begins(text), close.begins(text)) {
            (Begins::Yes(length), ..) => {
                self.held.drain(..blank + length);
                self.stage = Stage::Key;
                Some(Step::On)
            }
            (_, Begins::Yes(length), _) => {
                self.held.drain(..blank + length);
                self.close(found);
                Some(Step::Done)
            }
            (_, _, Begins::Yes(_)) => {
                self.close(found);
                Some(Step::Done)
            }
            (Begins::No, Begins::No, Begins::No) => None,
            _ => Some(Step::Wait),
        }
    }

    fn close(&mut self, found: &mut Vec<Found>) {
        let end = if self.count == 0 { "{}" } else { "}" };
        found.push(Found::Arguments(end.into()));
    }

    fn read_key(&mut self) -> Option<Step> {
        let Some((at, length)) = self.markers.key_close.find(&self.held) else {
            return (self.held.len() <= LONGEST_NAME).then_some(Step::Wait);
        };
        let key = without_marks(self.held[..at].trim().to_owned());
        if key.is_empty() || key.len() > LONGEST_NAME {
            return None;
        }
        self.held.drain(..at + length);
        self.stage = Stage::Attributes { key };
        Some(Step::On)
    }

    fn read_attributes(&mut self, key: &str, found: &mut Vec<Found>) -> Option<Step> {
        let (at, length) = match &self.markers.value_open {
            none if none.is_empty() => (0, 0),
            open => match open.find(&self.held) {
                Some(place) => place,
                None => return (self.held.len() <= LONGEST_NAME).then_some(Step::Wait),
            },
        };
        let attributes = &self.held[..at];
        let [text, _] = self.tags.attributes;
        let kind = match (text.is_empty(), attributes.trim()) {
            (true, _) | (false, "") => self.tools.kind(&self.name, key),
            (false, said) if said.contains(text.trim()) => Kind::Text,
            (false, _) => Kind::Json,
        };
        let before = if self.count == 0 { "{" } else { ", " };
        found.push(Found::Arguments(format!("{before}{}: ", quoted(key))));
        self.held.drain(..at + length);
        self.searched = 0;
        self.count += 1;
        self.stage = Stage::Value { kind, begun: false };
        Some(Step::On)
    }

    fn read_value(&mut self, kind: Kind, begun: bool, found: &mut Vec<Found>) -> Step {
        let lines = self.tags.around == "\n";
        let mut from = self.searched;
        while !self.held.is_char_boundary(from) {
            from -= 1;
        }
        let end = self.markers.value_close.find(&self.held[from..]);
        let Some((at, length)) = end.map(|(at, length)| (from + at, length)) else {
            let keep = self.markers.value_close.overlap(&self.held);
            self.searched = self.held.len() - keep;
            if kind == Kind::Text {
                self.give_text(begun, lines, found);
            }
            return Step::Wait;
        };
        let mut value = &self.held[..at];
        if lines {
            value = if begun { value } else { value.strip_prefix('\n').unwrap_or(value) };
            value = value.strip_suffix('\n').unwrap_or(value);
        }
        let value = without_marks(value.to_owned());
        found.push(Found::Arguments(match kind {
            Kind::Text => {
                let open = if begun { "" } else { "\"" };
                format!("{open}{}\"", escaped(&value))
            }
            Kind::Nullable if matches!(value.trim(), "null" | "None") => "null".into(),
            Kind::Nullable => quoted(&value),
            Kind::Json | Kind::Either => as_json(&value),
        }));
        self.held.drain(..at + length);
        self.stage = Stage::Between;
        Step::On
    }

    /// Hands out what is certain of a string.
    fn give_text(&mut self, begun: bool, lines: bool, found: &mut Vec<Found>) {
        if !begun {
            if self.held.is_empty() || (lines && self.held == "\n") {
                return;
            }
            if lines && self.held.starts_with('\n') && self.searched > 0 {
                self.held.remove(0);
                self.searched -= 1;
            }
        }
        let mut sure = self.searched;
        if lines && self.held[..sure].ends_with('\n') {
            // It may be the line end before the end of the value.
            sure -= 1;
        }
        if sure == 0 {
            if !begun && self.searched > 0 {
                self.open_text(found);
            }
            return;
        }
        if !begun {
            self.open_text(found);
        }
        let text: String = self.held.drain(..sure).collect();
        found.push(Found::Arguments(escaped(&without_marks(text))));
        self.searched -= sure;
    }

    fn open_text(&mut self, found: &mut Vec<Found>) {
        found.push(Found::Arguments("\"".into()));
        self.stage = Stage::Value { kind: Kind::Text, begun: true };
    }
}

/// A value that need not be a string, as JSON text: what JSON or Python read in it, otherwise the
/// string.
fn as_json(text: &str) -> String {
    literal::to_json(text.trim()).unwrap_or_else(|| quoted(text))
}

impl Reader for TaggedReader {
    fn push(&mut self, text: &str, found: &mut Vec<Found>) -> Result<Option<String>, NotACall> {
        self.held.push_str(text);
        loop {
            match self.step(found) {
                Some(Step::On) => {}
                Some(Step::Wait) => return Ok(None),
                Some(Step::Done) => return Ok(Some(std::mem::take(&mut self.held))),
                None => return Err(NotACall(std::mem::take(&mut self.held))),
            }
        }
    }

    /// An end token may stand for the end of the call.
    fn finish(&mut self, found: &mut Vec<Found>) -> bool {
        let whole = self.stage == Stage::Between && self.held.trim().is_empty();
        if whole {
            self.close(found);
        }
        whole
    }
}
