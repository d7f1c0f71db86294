//! One tool call as Python writes it: `NAME(key=value, ...)`.

use std::sync::Arc;

use super::literal;
use super::marker::is_mark;
use super::reader::{Found, LONGEST_NAME, NotACall, Reader, ToolList, is_name, quoted};

/// Reads a call and hands out each argument when it is whole.
pub(super) struct PythonReader {
    tools: Arc<ToolList>,
    name: String,
    begun: bool,
    /// The argument being read.
    argument: String,
    /// Where in it the value begins, if it has a name.
    value: Option<usize>,
    depth: usize,
    quote: Option<char>,
    escaped: bool,
    count: usize,
}

impl PythonReader {
    pub fn new(tools: Arc<ToolList>) -> Self {
        Self {
            tools,
            name: String::new(),
            begun: false,
            argument: String::new(),
            value: None,
            depth: 0,
            quote: None,
            escaped: false,
            count: 0,
        }
    }

    /// Reads a character; whether the call has ended. `None` if this is no call.
    fn character(&mut self, c: char, found: &mut Vec<Found>) -> Option<bool> {
        if !self.begun {
            if c != '(' {
                self.name.push(c);
                let name = self.name.trim_start();
                return (name.is_empty() || is_name(name)).then_some(false);
            }
            self.name = self.name.trim().to_owned();
            if !is_name(&self.name) || self.name.starts_with(|c: char| c.is_ascii_digit()) {
                return None;
            }
            self.begun = true;
            return Some(false);
        }
        if let Some(quote) = self.quote {
            match c {
                _ if self.escaped => self.escaped = false,
                '\\' => self.escaped = true,
                c if c == quote => self.quote = None,
                _ => {}
            }
        } else {
            match c {
                '\'' | '"' => self.quote = Some(c),
                '(' | '[' | '{' => self.depth += 1,
                ')' if self.depth == 0 => {
                    self.end_argument(found, false)?;
                    if self.count == 0 {
                        self.start(found);
                    }
                    let end = if self.count == 0 { "{}" } else { "}" };
                    found.push(Found::Arguments(end.into()));
                    return Some(true);
                }
                ')' | ']' | '}' => self.depth = self.depth.checked_sub(1)?,
                ',' if self.depth == 0 => {
                    self.end_argument(found, true)?;
                    return Some(false);
                }
                '=' if self.depth == 0 && self.value.is_none() => {
                    is_name(self.argument.trim()).then_some(())?;
                    self.value = Some(self.argument.len() + 1);
                }
                _ => {}
            }
        }
        if !is_mark(c) {
            self.argument.push(c);
        }
        // A name that never ends is none.
        (self.value.is_some() || self.quote.is_some() || self.depth > 0 || {
            self.argument.len() <= LONGEST_NAME
        })
        .then_some(false)
    }

    /// The name is certain once an argument could be read, or there is none.
    fn start(&self, found: &mut Vec<Found>) {
        found.push(Found::Start { id: None, name: self.name.clone() });
    }

    fn end_argument(&mut self, found: &mut Vec<Found>, needed: bool) -> Option<()> {
        let argument = std::mem::take(&mut self.argument);
        let value = self.value.take();
        if argument.trim().is_empty() {
            return (!needed).then_some(());
        }
        let (key, value) = match value {
            Some(at) => (argument[..at - 1].trim().to_owned(), &argument[at..]),
            // By position, which the schema names.
            None => (self.tools.parameter(&self.name, self.count)?, &*argument),
        };
        let value = literal::to_json(value.trim())?;
        if self.count == 0 {
            self.start(found);
        }
        let before = if self.count == 0 { "{" } else { ", " };
        found.push(Found::Arguments(format!("{before}{}: {value}", quoted(&key))));
        self.count += 1;
        Some(())
    }
}

impl Reader for PythonReader {
    fn push(&mut self, text: &str, found: &mut Vec<Found>) -> Result<Option<String>, NotACall> {
        for (at, c) in text.char_indices() {
            match self.character(c, found) {
                Some(false) => {}
                Some(true) => return Ok(Some(text[at + c.len_utf8()..].to_owned())),
                None => {
                    let unused = std::mem::take(&mut self.argument);
                    return Err(NotACall(unused + &text[at..]));
                }
            }
        }
        Ok(None)
    }
}
