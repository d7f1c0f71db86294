//! One tool call whose arguments are nested elements, each mark before a tag:
//! `NAME">MARK<KEY>VALUEMARK</KEY>...MARK</invoke>`. Objects are elements in an element, lists elements called
//! `item`.
//!
//! The text does not say of what type a value is, so the tool's schema does. Strings are handed out as they
//! arrive, other values when they are whole.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::literal;
use super::marker::{Begins, Marker, without_marks};
use super::reader::{
    Found, Kind, LONGEST_NAME, NotACall, Reader, ToolList, escaped, is_name, kind_of, quoted,
};
use super::tools::Row;

/// Elements inside each other; what is deeper is text.
const DEEPEST: usize = 32;

/// What list items are called.
pub(super) const ITEM: &str = "item";

/// What ends the tag of a call's name.
pub(super) const NAME_END: &str = "\">";

pub(super) struct ElementsReader {
    mark: Marker,
    call_close: Marker,
    /// What ends all calls, in case that the call's own end is missing.
    close: Marker,
    tools: Arc<ToolList>,
    held: String,
    stage: Stage,
    name: String,
    /// Arguments so far.
    count: usize,
}

#[derive(Debug, Clone)]
enum Stage {
    Name,
    Between,
    /// In a string; whether any of it was handed out.
    Text {
        close: Marker,
        begun: bool,
    },
    /// In another value, which has been looked at up to a place; the elements that are open there.
    Value {
        key: String,
        looked: usize,
        open: Vec<String>,
    },
}

/// How a step ended.
enum Step {
    On,
    Wait,
    Done,
}

impl ElementsReader {
    pub fn new(row: &Row, tools: Arc<ToolList>) -> Self {
        Self {
            mark: row.form.first().cloned().unwrap_or_default(),
            call_close: row.call_close.clone(),
            close: row.close.clone(),
            tools,
            held: String::new(),
            stage: Stage::Name,
            name: String::new(),
            count: 0,
        }
    }

    /// `None` if this is no call.
    fn step(&mut self, found: &mut Vec<Found>) -> Option<Step> {
        match self.stage.clone() {
            Stage::Name => self.read_name(found),
            Stage::Between => self.read_between(found),
            Stage::Text { close, begun } => Some(self.read_text(&close, begun, found)),
            Stage::Value { key, looked, open } => self.read_value(&key, looked, open, found),
        }
    }

    fn read_name(&mut self, found: &mut Vec<Found>) -> Option<Step> {
        let Some(end) = self.held.find(NAME_END) else {
            let sure = self.held.trim_start().trim_end_matches('"');
            return (sure.is_empty() || is_name(sure)).then_some(Step::Wait);
        };
        let name = self.held[..end].trim().to_owned();
        if !is_name(&name) {
            return None;
        }
        self.held.drain(..end + NAME_END.len());
        found.push(Found::Start { id: None, name: name.clone() });
        (self.name, self.stage) = (name, Stage::Between);
        Some(Step::On)
    }

    fn read_between(&mut self, found: &mut Vec<Found>) -> Option<Step> {
        let text = self.held.trim_start();
        let blank = self.held.len() - text.len();
        let ends = [self.call_close.begins(text), self.close.begins(text)];
        match ends {
            [Begins::Yes(length), _] => {
                self.held.drain(..blank + length);
                self.end(found);
                return Some(Step::Done);
            }
            [_, Begins::Yes(_)] => {
                self.end(found);
                return Some(Step::Done);
            }
            _ => {}
        }
        let opened = match self.mark.begins(text) {
            Begins::Yes(length) => text[length..].strip_prefix('<').map(|tag| (length + 1, tag)),
            Begins::Perhaps => return Some(Step::Wait),
            Begins::No => return None,
        };
        let perhaps = ends.contains(&Begins::Perhaps);
        let Some((before, tag)) = opened else {
            return (perhaps || self.mark.begins(text) == Begins::Yes(text.len()))
                .then_some(Step::Wait);
        };
        let Some(end) = tag.find('>') else {
            return (perhaps || tag.len() <= LONGEST_NAME).then_some(Step::Wait);
        };
        let key = tag[..end].to_owned();
        if !is_key(&key) {
            return None;
        }
        self.held.drain(..blank + before + end + 1);
        let between = if self.count == 0 { "{" } else { ", " };
        found.push(Found::Arguments(format!("{between}{}: ", quoted(&key))));
        self.count += 1;
        self.stage = match self.tools.kind(&self.name, &key) {
            Kind::Text => Stage::Text { close: self.mark.and(&format!("</{key}>")), begun: false },
            _ => Stage::Value { open: vec![key.clone()], key, looked: 0 },
        };
        Some(Step::On)
    }

    fn end(&self, found: &mut Vec<Found>) {
        found.push(Found::Arguments(if self.count == 0 { "{}" } else { "}" }.into()));
    }

    fn read_text(&mut self, close: &Marker, begun: bool, found: &mut Vec<Found>) -> Step {
        let open = if begun { "" } else { "\"" };
        if let Some((at, length)) = close.find(&self.held) {
            let text = without_marks(self.held[..at].to_owned());
            found.push(Found::Arguments(format!("{open}{}\"", escaped(&text))));
            self.held.drain(..at + length);
            self.stage = Stage::Between;
            return Step::On;
        }
        let sure = self.held.len() - close.overlap(&self.held);
        if sure > 0 {
            let text: String = self.held.drain(..sure).collect();
            found.push(Found::Arguments(format!("{open}{}", escaped(&without_marks(text)))));
            self.stage = Stage::Text { close: close.clone(), begun: true };
        }
        Step::Wait
    }

    fn read_value(
        &mut self,
        key: &str,
        mut looked: usize,
        mut open: Vec<String>,
        found: &mut Vec<Found>,
    ) -> Option<Step> {
        while let Some((at, length)) = self.mark.find(&self.held[looked..]) {
            let tag = &self.held[looked + at + length..];
            let Some(end) = tag.find('>') else {
                if tag.len() > LONGEST_NAME {
                    return None;
                }
                looked += at;
                break;
            };
            let after = looked + at + length + end + 1;
            match tag[..end].strip_prefix('<') {
                Some(name) if name.starts_with('/') => {
                    if open.last().is_none_or(|last| *last != name[1..]) {
                        return None;
                    }
                    open.pop();
                    if open.is_empty() {
                        let text = &self.held[..looked + at];
                        let schema = self.tools.property(&self.name, key);
                        let value = value(text, &self.mark, schema, 0);
                        found.push(Found::Arguments(value));
                        self.held.drain(..after);
                        self.stage = Stage::Between;
                        return Some(Step::On);
                    }
                }
                Some(name) if is_key(name) && open.len() < DEEPEST => open.push(name.to_owned()),
                _ => return None,
            }
            looked = after;
        }
        let unsure = self.mark.overlap(&self.held[looked..]);
        if self.mark.find(&self.held[looked..]).is_none() {
            looked = self.held.len() - unsure;
        }
        self.stage = Stage::Value { key: key.to_owned(), looked, open };
        Some(Step::Wait)
    }
}

fn is_key(text: &str) -> bool {
    let strange = |c: char| c.is_control() || "<>/".contains(c);
    !text.is_empty() && text.len() <= LONGEST_NAME && !text.contains(strange)
}

/// A schema, and what its references are to.
pub(super) type Place<'a> = Option<(&'a Value, &'a Map<String, Value>)>;

/// What is in an element, as JSON text.
fn value(text: &str, mark: &Marker, schema: Place<'_>, depth: usize) -> String {
    let children = if depth < DEEPEST { children(text, mark) } else { vec![] };
    let list = match schema.and_then(|(schema, _)| schema.get("type")?.as_str()) {
        Some("array") => true,
        Some("object") => false,
        _ => !children.is_empty() && children.iter().all(|(key, _)| *key == ITEM),
    };
    let of = |key: &str| -> Place<'_> {
        let (schema, root) = schema?;
        let part = if list { schema.get("items") } else { schema.get("properties")?.get(key) };
        Some((part?, root))
    };
    let each = |(key, text): &(&str, &str)| {
        let inner = value(text, mark, of(key), depth + 1);
        if list { inner } else { format!("{}: {inner}", quoted(key)) }
    };
    let kind = schema.map_or(Kind::Either, |(schema, root)| kind_of(schema, root));
    let empty = text.trim().is_empty() && kind == Kind::Json;
    if children.is_empty() && !(empty && schema.is_some_and(|(schema, _)| is_nest(schema))) {
        let text = without_marks(text.to_owned());
        return match kind {
            Kind::Text => quoted(&text),
            Kind::Nullable if matches!(text.trim(), "null" | "None") => "null".into(),
            Kind::Nullable => quoted(&text),
            Kind::Json | Kind::Either => {
                literal::to_json(text.trim()).unwrap_or_else(|| quoted(&text))
            }
        };
    }
    let inner: Vec<_> = children.iter().map(each).collect();
    let inner = inner.join(", ");
    if list { format!("[{inner}]") } else { format!("{{{inner}}}") }
}

fn is_nest(schema: &Value) -> bool {
    matches!(schema.get("type").and_then(Value::as_str), Some("array" | "object"))
}

/// The elements directly in a text, whose marks are known to match.
fn children<'a>(text: &'a str, mark: &Marker) -> Vec<(&'a str, &'a str)> {
    let (mut list, mut at, mut depth, mut begun) = (vec![], 0, 0usize, ("", 0));
    while let Some((found, length)) = mark.find(&text[at..]) {
        let tag = &text[at + found + length..];
        let Some(end) = tag.find('>') else { break };
        let after = at + found + length + end + 1;
        let name = tag[..end].trim_start_matches('<');
        if name.starts_with('/') {
            depth = depth.saturating_sub(1);
            if depth == 0 {
                list.push((begun.0, &text[begun.1..at + found]));
            }
        } else {
            if depth == 0 {
                begun = (name, after);
            }
            depth += 1;
        }
        at = after;
    }
    list
}

impl Reader for ElementsReader {
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
        let whole = matches!(self.stage, Stage::Between) && self.held.trim().is_empty();
        if whole {
            self.end(found);
        }
        whole
    }
}
