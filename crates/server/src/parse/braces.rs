//! One tool call as Gemma writes it: `call:NAME{key:value,...}`, strings between marks of their own.

use std::sync::Arc;

use super::literal::{self, QUOTE};
use super::marker::{Marker, is_mark};
use super::reader::{Found, Kind, LONGEST_NAME, NotACall, Reader, ToolList, is_name, quoted};

/// What the name stands behind.
pub(super) const CALL: &str = "call:";

/// Reads a call and hands out each argument when it is whole.
pub(super) struct BracesReader {
    tools: Arc<ToolList>,
    quote: Marker,
    name: String,
    begun: bool,
    /// The argument being read, with [`QUOTE`] for each mark.
    argument: String,
    quoted: bool,
    depth: usize,
    count: usize,
}

impl BracesReader {
    pub fn new(form: &[Marker], tools: Arc<ToolList>) -> Self {
        Self {
            tools,
            quote: form.first().cloned().unwrap_or_default(),
            name: String::new(),
            begun: false,
            argument: String::new(),
            quoted: false,
            depth: 0,
            count: 0,
        }
    }

    /// Reads a character; whether the call has ended. `None` if this is no call.
    fn character(&mut self, c: char, found: &mut Vec<Found>) -> Option<bool> {
        if !self.begun {
            if c != '{' {
                self.name.push(c);
                return (self.name.len() <= LONGEST_NAME).then_some(false);
            }
            let name = self.name.trim();
            let name = name.strip_prefix(CALL).unwrap_or(name).trim().to_owned();
            is_name(&name).then_some(())?;
            self.begun = true;
            found.push(Found::Start { id: None, name: name.clone() });
            self.name = name;
            return Some(false);
        }
        // Some leave out the comma behind a string.
        let ended = self.argument.ends_with(QUOTE) && self.depth == 0 && !self.quoted;
        if ended && self.argument.matches(QUOTE).count() >= 2 && (c.is_alphanumeric() || c == '_') {
            self.end_argument(found, true)?;
        }
        self.argument.push(c);
        if let Some(length) = self.quote.ends(&self.argument) {
            self.argument.truncate(self.argument.len() - length);
            self.argument.push(QUOTE);
            self.quoted = !self.quoted;
            return Some(false);
        }
        if self.quoted {
            return Some(false);
        }
        match c {
            '{' | '[' => self.depth += 1,
            '}' if self.depth == 0 => {
                self.argument.pop();
                self.end_argument(found, false)?;
                let end = if self.count == 0 { "{}" } else { "}" };
                found.push(Found::Arguments(end.into()));
                return Some(true);
            }
            '}' | ']' => self.depth = self.depth.checked_sub(1)?,
            ',' if self.depth == 0 => {
                self.argument.pop();
                self.end_argument(found, true)?;
            }
            _ => {}
        }
        Some(false)
    }

    fn end_argument(&mut self, found: &mut Vec<Found>, needed: bool) -> Option<()> {
        let argument = std::mem::take(&mut self.argument);
        if argument.trim().is_empty() {
            return (!needed).then_some(());
        }
        let (key, value) = argument.split_once(':')?;
        let key = key.trim().trim_matches(|c| c == QUOTE || c == '"');
        is_name(key).then_some(())?;
        let value = value.replace(is_mark, "");
        let value = value.trim();
        let string = value.strip_prefix(QUOTE).and_then(|rest| rest.strip_suffix(QUOTE));
        let inside = string.filter(|_| self.tools.kind(&self.name, key) == Kind::Json);
        let inside = inside.and_then(|text| literal::to_json(text.trim()));
        let value = inside.or_else(|| literal::to_json(value)).unwrap_or_else(|| quoted(value));
        let before = if self.count == 0 { "{" } else { ", " };
        found.push(Found::Arguments(format!("{before}{}: {value}", quoted(key))));
        self.count += 1;
        Some(())
    }
}

impl Reader for BracesReader {
    fn push(&mut self, text: &str, found: &mut Vec<Found>) -> Result<Option<String>, NotACall> {
        for (at, c) in text.char_indices() {
            match self.character(c, found) {
                Some(false) => {}
                Some(true) => return Ok(Some(text[at + c.len_utf8()..].to_owned())),
                None => {
                    let unused = std::mem::take(&mut self.argument);
                    return Err(NotACall(unused.replace(QUOTE, "\"") + &text[at..]));
                }
            }
        }
        Ok(None)
    }
}
