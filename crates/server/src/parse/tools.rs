//! Finding tool calls in an answer.

use std::sync::Arc;

use super::Delta;
use super::braces::CALL;
use super::marker::{Begins, Marker, Specials, first, without_marks};
use super::notation::{Form, Notation};
use super::object::ObjectReader;
use super::reader::{Found, NotACall, Reader, ToolList, form_markers, reader};
use super::table::NOTATIONS;

/// How a model writes calls, with its own tokens for the markers.
#[derive(Debug, Clone)]
pub(crate) struct ToolStyle {
    /// The notation first, then others that begin in the same way.
    rows: Vec<Row>,
    /// What calls of any of them begin with.
    openers: Vec<Marker>,
    /// Whether nothing but this notation is taken.
    strict: bool,
}

/// A notation with its markers.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub notation: &'static Notation,
    pub open: Marker,
    pub close: Marker,
    pub call_open: Marker,
    pub call_close: Marker,
    /// What may stand behind the arguments.
    pub tail: &'static str,
    pub form: Vec<Marker>,
}

impl Row {
    fn new(notation: &'static Notation, specials: &Specials) -> Self {
        let new = |text: &str| Marker::new(text, specials);
        Self {
            notation,
            open: new(notation.open),
            close: new(notation.close),
            call_open: new(notation.call_open),
            call_close: new(notation.call_close),
            tail: match notation.form {
                Form::Named { tail, .. } => tail.trim_start(),
                _ => "",
            },
            form: form_markers(notation, new),
        }
    }
}

impl ToolStyle {
    /// A notation, and those that it could be confused with: models of a family do not keep to the
    /// letter of their template.
    pub fn kin(notation: &'static Notation) -> Vec<&'static Notation> {
        let kin = NOTATIONS.iter().filter(|other| {
            let alike = !other.unmarked && other.opener() == notation.opener();
            **other != *notation && (alike || other.name == notation.also)
        });
        std::iter::once(notation).chain(kin).collect()
    }

    /// A notation and its kin as models with these special tokens write them.
    pub fn new(notation: &'static Notation, specials: &Specials) -> Self {
        Self::of(Self::kin(notation), specials, false)
    }

    /// A notation and nothing else.
    pub fn strict(notation: &'static Notation) -> Self {
        Self::of(vec![notation], &Specials::default(), true)
    }

    fn of(notations: Vec<&'static Notation>, specials: &Specials, strict: bool) -> Self {
        let rows: Vec<_> = notations.iter().map(|notation| Row::new(notation, specials)).collect();
        let mut openers = vec![];
        // The marker of a call, too: some models leave out what should stand before it.
        for row in &rows {
            let both = if row.open.is_empty() || !strict { 2 } else { 1 };
            for marker in [&row.open, &row.call_open].into_iter().take(both) {
                if !marker.is_empty() && !openers.contains(marker) {
                    openers.push(marker.clone());
                }
            }
        }
        Self { rows, openers, strict }
    }

    /// The notation.
    pub fn notation(&self) -> &'static Notation {
        self.rows[0].notation
    }

    /// Whether calls may stand in brackets.
    fn lists(&self) -> bool {
        match self.strict {
            true => self.notation().layout[0].contains('['),
            false => true,
        }
    }

    /// What calls begin with, where that is a special token.
    pub fn special_openers(&self) -> impl Iterator<Item = Marker> {
        self.openers.iter().filter_map(Marker::special)
    }
}

enum Stage {
    Text,
    /// Where a call may begin.
    Between(Area),
    /// In a call.
    Call(Call),
    /// After a call, before its end marker.
    AfterCall {
        row: usize,
        area: Area,
    },
    /// After the only call that is wanted.
    Ended,
}

/// A call that is being read.
struct Call {
    reader: Box<dyn Reader>,
    row: usize,
    area: Area,
    named: bool,
    /// What was found of it and is held until it is known to be a call.
    pending: Vec<Delta>,
    /// Its arguments among that.
    arguments: String,
    released: bool,
    /// Whether only the tools of the request are taken for functions.
    known_only: bool,
}

/// What was found of an area of calls.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Area {
    /// The marker that began it, none if the answer began with a call.
    opener: Option<Marker>,
    /// Whether a list has begun, or ended.
    list: bool,
    listed: bool,
    /// Whether there was a call.
    any: bool,
}

/// What follows in an area.
enum Next {
    Call { row: usize, length: usize, object: bool },
    Close { length: usize },
    Wait,
    Other,
}

/// Arguments, in bytes, that are held until the call is whole, so that calls that break off come back
/// as text. Longer ones are handed out as they arrive.
const MOST_HELD: usize = 256;

pub(super) struct ToolParser {
    style: Arc<ToolStyle>,
    tools: Arc<ToolList>,
    /// Whether an answer that begins with a call without its marker is taken for one.
    lenient: bool,
    /// Whether only the first call is wanted.
    single: bool,
    stage: Stage,
    held: String,
    /// What was read since the last certain thing, in case that it is no call.
    read: String,
    /// Calls that were begun.
    calls: usize,
    complete: usize,
    /// Whether there was any text, after which calls need their markers.
    had_text: bool,
}

impl ToolParser {
    pub fn new(style: Arc<ToolStyle>, tools: Arc<ToolList>, lenient: bool, single: bool) -> Self {
        Self {
            style,
            tools,
            lenient,
            single,
            stage: Stage::Text,
            held: String::new(),
            read: String::new(),
            calls: 0,
            complete: 0,
            had_text: false,
        }
    }

    pub fn complete(&self) -> usize {
        self.complete
    }

    pub fn push(&mut self, text: &str) -> Vec<Delta> {
        self.held.push_str(text);
        let mut deltas = vec![];
        while self.step(&mut deltas, false) {}
        deltas
    }

    pub fn finish(&mut self) -> Vec<Delta> {
        let mut deltas = vec![];
        while self.step(&mut deltas, true) {}
        deltas
    }

    fn text(&mut self, deltas: &mut Vec<Delta>, text: String) {
        let text = without_marks(text);
        self.had_text |= !text.trim().is_empty();
        // Blank lines between and after calls are no answer.
        if !text.is_empty() && (self.calls == 0 || !text.trim().is_empty()) {
            deltas.push(Delta::Text(text));
        }
    }

    /// Goes on as far as one stage; false if it takes more text to go on.
    fn step(&mut self, deltas: &mut Vec<Delta>, last: bool) -> bool {
        match std::mem::replace(&mut self.stage, Stage::Text) {
            Stage::Text => self.read_text(deltas, last),
            Stage::Between(area) => self.read_between(area, deltas, last),
            Stage::Call(call) => self.read_call(call, deltas, last),
            Stage::AfterCall { row, area } => self.after_call(row, area, last),
            Stage::Ended => {
                self.held.clear();
                self.stage = Stage::Ended;
                false
            }
        }
    }

    /// Takes the first bytes of what is held as read.
    fn take(&mut self, length: usize) {
        let rest = self.held.split_off(length);
        self.read.push_str(&std::mem::replace(&mut self.held, rest));
    }

    /// Gives back what was read as text.
    fn give_back(&mut self, deltas: &mut Vec<Delta>) {
        let read = std::mem::take(&mut self.read);
        self.text(deltas, read);
        self.stage = Stage::Text;
    }

    fn read_text(&mut self, deltas: &mut Vec<Delta>, last: bool) -> bool {
        let begun = self.held.trim_start();
        let openers: Vec<&Marker> = self.style.openers.iter().collect();
        let unmarked = self.style.notation().unmarked || self.lenient;
        let marked = openers.iter().any(|opener| opener.begins(begun) != Begins::No);
        if unmarked && !marked && !self.had_text && begun.starts_with(['{', '[']) {
            self.take(self.held.len() - begun.len());
            self.stage = Stage::Between(Area::default());
            return true;
        }
        if let Some((number, at, length)) = first(&self.held, &openers) {
            let opener = openers[number].clone();
            let sure = self.held[..at].trim_end().len();
            let rest = self.held.split_off(sure);
            let text = std::mem::replace(&mut self.held, rest);
            self.text(deltas, text);
            // The whitespace comes back if this is no call.
            self.take(at - sure + length);
            self.stage = Stage::Between(Area { opener: Some(opener), ..Area::default() });
            return true;
        }
        // Whitespace before a call is no answer, so it waits for what follows.
        let keep = openers.iter().map(|opener| opener.overlap(&self.held)).max().unwrap_or(0);
        let sure = match last {
            true => self.held.len(),
            false => self.held[..self.held.len() - keep].trim_end().len(),
        };
        let rest = self.held.split_off(sure);
        let text = std::mem::replace(&mut self.held, rest);
        self.text(deltas, text);
        false
    }

    fn read_between(&mut self, mut area: Area, deltas: &mut Vec<Delta>, last: bool) -> bool {
        let blank = self.held.len() - self.held.trim_start().len();
        let text = &self.held[blank..];
        let punctuation = text.chars().next().filter(|c| match c {
            '[' => self.style.lists() && !area.list && !area.any,
            ']' => area.list,
            ',' | ';' | '}' => area.any,
            _ => false,
        });
        if let Some(c) = punctuation {
            area.list |= c == '[';
            area.listed |= c == ']';
            // A list without an end marker ends with its bracket.
            let ends = c == ']' && self.style.rows.iter().all(|row| row.close.is_empty());
            self.take(blank + 1);
            if !ends {
                self.stage = Stage::Between(area);
            } else if area.any {
                self.read.clear();
            } else {
                self.give_back(deltas);
            }
            return true;
        }
        match self.next(text, &area) {
            Next::Wait if !last => {
                self.stage = Stage::Between(area);
                false
            }
            Next::Call { row, length, object } => {
                self.take(blank + length);
                let chosen = &self.style.rows[row];
                let known_only = area.opener.is_none() || row > 0;
                let reader: Box<dyn Reader> = if object {
                    Box::new(ObjectReader::new(chosen.notation.form == Form::Keyed))
                } else {
                    reader(chosen, &self.tools)
                };
                self.stage = Stage::Call(Call {
                    reader,
                    row,
                    area,
                    named: false,
                    pending: vec![],
                    arguments: String::new(),
                    released: false,
                    known_only,
                });
                true
            }
            Next::Close { length } => {
                self.take(blank + length);
                if area.any {
                    self.read.clear();
                    self.stage = Stage::Text;
                } else {
                    self.give_back(deltas);
                }
                true
            }
            Next::Wait | Next::Other => {
                if area.any {
                    // The blanks and commas that were read since are not text.
                    self.read.clear();
                    self.stage = Stage::Text;
                } else {
                    self.give_back(deltas);
                    // What follows is text as well, however it begins: it is not looked at again.
                    self.had_text |= !self.held.trim().is_empty();
                }
                !self.held.is_empty()
            }
        }
    }

    /// What a text in an area begins with.
    fn next(&self, text: &str, area: &Area) -> Next {
        let Some(c) = text.chars().next() else { return Next::Wait };
        let mut wait = false;
        for (number, row) in self.style.rows.iter().enumerate() {
            let opened = area.opener.as_ref().is_some_and(|opener| *opener == row.call_open);
            let opened = opened && !area.any;
            // Rows that begin otherwise have nothing to say here.
            let mine = area.opener.as_ref().is_none_or(|opener| {
                *opener == row.open || *opener == row.call_open || (row.open.is_empty() && opened)
            });
            if !mine {
                continue;
            }
            match row.close.begins(text) {
                Begins::Yes(length) => return Next::Close { length },
                Begins::Perhaps => wait = true,
                Begins::No => {}
            }
            if !opened && !row.call_open.is_empty() {
                match row.call_open.begins(text) {
                    Begins::Yes(length) => {
                        return Next::Call { row: number, length, object: false };
                    }
                    Begins::Perhaps => wait = true,
                    Begins::No => {}
                }
                continue;
            }
            let starts = match row.notation.form {
                Form::Object { .. } | Form::Keyed => {
                    c == '{' && (!self.style.strict || area.list == self.style.lists())
                }
                Form::Python => c.is_alphabetic() || c == '_',
                Form::Tagged(_) | Form::Elements { .. } => !"<{[".contains(c),
                Form::Named { .. } => c != '{' && c != '[',
                Form::Braces { .. } => {
                    wait |= CALL.starts_with(text);
                    text.starts_with(CALL)
                }
            };
            if starts && !area.listed {
                return Next::Call { row: number, length: 0, object: false };
            }
        }
        // An object behind any marker is a call.
        if c == '{' && !self.style.strict && !area.listed {
            return Next::Call { row: 0, length: 0, object: true };
        }
        if wait { Next::Wait } else { Next::Other }
    }

    fn read_call(&mut self, mut call: Call, deltas: &mut Vec<Delta>, last: bool) -> bool {
        loop {
            // Until there is a name, what was read may have to be given back, to the character.
            let first = self.held.chars().next();
            let length = match (call.named, first) {
                (false, Some(c)) => c.len_utf8(),
                _ => self.held.len(),
            };
            let rest = self.held.split_off(length);
            let text = std::mem::replace(&mut self.held, rest);
            if text.is_empty() && !last {
                self.stage = Stage::Call(call);
                return false;
            }
            let mut found = vec![];
            let mut outcome = call.reader.push(&text, &mut found);
            if text.is_empty() && outcome == Ok(None) && call.reader.finish(&mut found) {
                outcome = Ok(Some(String::new()));
            }
            self.read.push_str(&text);
            if !self.note(&mut call, found) {
                self.give_back(deltas);
                return true;
            }
            if call.released || call.arguments.len() > MOST_HELD {
                self.release(&mut call, deltas);
            }
            match outcome {
                Ok(None) if !text.is_empty() => {}
                Ok(None) => {
                    // Cut off: what there is of a call stays one where it has begun to arrive.
                    self.calls += usize::from(call.released);
                    self.give_back(deltas);
                    return false;
                }
                Ok(Some(rest)) => {
                    self.held.insert_str(0, &rest);
                    let json = serde_json::from_str::<serde::de::IgnoredAny>(&call.arguments);
                    if !call.released && json.is_err() {
                        self.give_back_but(&rest, deltas);
                        return true;
                    }
                    self.release(&mut call, deltas);
                    self.calls += 1;
                    self.complete += 1;
                    call.area.any = true;
                    self.stage = match self.single {
                        true => Stage::Ended,
                        false => Stage::AfterCall { row: call.row, area: call.area },
                    };
                    return true;
                }
                Err(NotACall(rest)) => {
                    // What follows half a call is text, so that nothing is lost.
                    self.held.insert_str(0, &rest);
                    self.calls += usize::from(call.released);
                    self.give_back_but(&rest, deltas);
                    return true;
                }
            }
        }
    }

    /// Gives back what was read, but for its end.
    fn give_back_but(&mut self, end: &str, deltas: &mut Vec<Delta>) {
        self.read.truncate(self.read.len().saturating_sub(end.len()));
        self.give_back(deltas);
    }

    /// Takes note of what was found of a call; false if its function is none that can be called.
    fn note(&self, call: &mut Call, found: Vec<Found>) -> bool {
        for found in found {
            match found {
                Found::Start { name, .. } if call.known_only && !self.tools.has(&name) => {
                    return false;
                }
                Found::Start { id, name } => {
                    call.pending.push(Delta::ToolStart { index: self.calls, id, name });
                    call.named = true;
                }
                Found::Arguments(text) => {
                    let text = without_marks(text);
                    if !call.released {
                        call.arguments.push_str(&text);
                    }
                    if !text.is_empty() {
                        call.pending.push(Delta::ToolArguments { index: self.calls, text });
                    }
                }
            }
        }
        true
    }

    /// Hands out what is held of a call.
    fn release(&mut self, call: &mut Call, deltas: &mut Vec<Delta>) {
        call.released = true;
        self.read.clear();
        deltas.append(&mut call.pending);
    }

    fn after_call(&mut self, row: usize, area: Area, last: bool) -> bool {
        let chosen = &self.style.rows[row];
        let mut text = self.held.trim_start();
        let mut wait = false;
        if !chosen.tail.is_empty() {
            match text.strip_prefix(chosen.tail) {
                Some(rest) => text = rest.trim_start(),
                None => wait = chosen.tail.starts_with(text),
            }
        }
        // Tagged calls end with their marker, which their reader has read.
        let tagged = matches!(chosen.notation.form, Form::Tagged(_) | Form::Elements { .. });
        if !chosen.call_close.is_empty() && !tagged {
            match chosen.call_close.begins(text) {
                Begins::Yes(length) => {
                    let used = self.held.len() - text.len() + length;
                    self.held.drain(..used);
                    wait = false;
                }
                Begins::Perhaps => wait = true,
                Begins::No => {}
            }
        }
        if wait && !last {
            self.stage = Stage::AfterCall { row, area };
            return false;
        }
        // Where nothing stands around all calls, each begins like the first.
        let alone = chosen.open.is_empty() && area.opener.is_some();
        self.stage = if alone { Stage::Text } else { Stage::Between(area) };
        true
    }
}
