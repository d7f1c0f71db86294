//! One tool call as a JSON object, `{"name": ..., "arguments": {...}}` or `{"NAME": {...}}`, read a
//! character at a time.

use super::reader::{Found, NotACall, Reader};

/// What models call the function in a call, and its arguments.
const NAMES: [&str; 3] = ["name", "tool_name", "function"];
const ARGUMENTS: [&str; 2] = ["arguments", "parameters"];

/// Reads a call and hands out its arguments as they arrive.
#[derive(Debug, Default)]
pub(super) struct ObjectReader {
    /// Whether the function's name is the key.
    keyed: bool,
    depth: usize,
    in_string: bool,
    escaped: bool,
    place: Place,
    key: String,
    /// The value being read, unless it is handed out as it arrives.
    value: String,
    name: Option<String>,
    started: bool,
    /// Arguments that came before the name, or have not been handed out yet.
    arguments: String,
    state: Arguments,
    done: bool,
}

#[derive(Debug, Default, PartialEq, Clone, Copy)]
enum Place {
    #[default]
    Before,
    Key,
    Value,
}

/// How far the arguments have come.
#[derive(Debug, Default, PartialEq, Clone, Copy)]
enum Arguments {
    #[default]
    None,
    /// An object: handed out as it arrives.
    Streaming,
    /// Something else, which is only known when it is whole.
    Held,
    Whole,
}

impl Reader for ObjectReader {
    fn push(&mut self, text: &str, found: &mut Vec<Found>) -> Result<Option<String>, NotACall> {
        for (at, character) in text.char_indices() {
            let read = self.character(character);
            if read.is_err() || self.done {
                self.hand_out(found);
            }
            read.map_err(|Wrong| NotACall(text[at..].to_owned()))?;
            if self.done {
                return Ok(Some(text[at + character.len_utf8()..].to_owned()));
            }
        }
        self.hand_out(found);
        Ok(None)
    }
}

struct Wrong;

impl ObjectReader {
    pub fn new(keyed: bool) -> Self {
        Self { keyed, ..Self::default() }
    }

    fn hand_out(&mut self, found: &mut Vec<Found>) {
        if !self.started
            && let Some(name) = &self.name
        {
            found.push(Found::Start { id: None, name: name.clone() });
            self.started = true;
        }
        let ready = matches!(self.state, Arguments::Streaming | Arguments::Whole);
        if self.started && ready && !self.arguments.is_empty() {
            found.push(Found::Arguments(std::mem::take(&mut self.arguments)));
        }
        if self.done && self.state == Arguments::None {
            found.push(Found::Arguments("{}".into()));
        }
    }

    fn character(&mut self, character: char) -> Result<(), Wrong> {
        let was_string = self.in_string;
        if self.in_string {
            match character {
                _ if self.escaped => self.escaped = false,
                '\\' => self.escaped = true,
                '"' => self.in_string = false,
                _ => {}
            }
        } else if character == '"' {
            self.in_string = true;
        }
        let structural = !was_string && character != '"';
        match self.place {
            Place::Before => match character {
                '{' => (self.depth, self.place) = (1, Place::Key),
                _ if character.is_whitespace() => {}
                _ => return Err(Wrong),
            },
            Place::Key => match character {
                ':' if structural => self.begin_value()?,
                '}' if structural => self.end_object()?,
                // Before the first quotation mark of a key.
                _ if structural && self.key.is_empty() && !character.is_whitespace() => {
                    return Err(Wrong);
                }
                _ if structural && self.key.is_empty() => {}
                _ => self.key.push(character),
            },
            Place::Value => {
                if structural && self.depth == 1 && matches!(character, ',' | '}') {
                    self.end_value()?;
                    self.place = Place::Key;
                    if character == '}' {
                        self.end_object()?;
                    }
                    return Ok(());
                }
                if structural {
                    match character {
                        c if !in_json(c) => return Err(Wrong),
                        '{' | '[' => self.depth += 1,
                        '}' | ']' if self.depth > 1 => self.depth -= 1,
                        ']' => return Err(Wrong),
                        _ => {}
                    }
                }
                let blank = character.is_whitespace() && self.depth == 1 && !was_string;
                if !blank {
                    self.take(character);
                }
            }
        }
        Ok(())
    }

    fn begin_value(&mut self) -> Result<(), Wrong> {
        self.key = serde_json::from_str(self.key.trim()).map_err(|_| Wrong)?;
        self.value.clear();
        self.place = Place::Value;
        if self.keyed && self.name.is_none() {
            self.name = Some(self.key.clone());
            "arguments".clone_into(&mut self.key);
        }
        Ok(())
    }

    /// A character of a value.
    fn take(&mut self, character: char) {
        if !ARGUMENTS.contains(&&*self.key) || self.state == Arguments::Whole {
            self.value.push(character);
            return;
        }
        if self.state == Arguments::None {
            self.state = if character == '{' { Arguments::Streaming } else { Arguments::Held };
        }
        self.arguments.push(character);
    }

    fn end_value(&mut self) -> Result<(), Wrong> {
        if NAMES.contains(&&*self.key) && self.name.is_none() {
            // `"function": {...}` is not a name.
            self.name = serde_json::from_str(&self.value).ok();
        } else if ARGUMENTS.contains(&&*self.key) {
            if self.state == Arguments::Held {
                self.arguments = whole(&self.arguments)?;
            }
            if self.state != Arguments::None {
                self.state = Arguments::Whole;
            }
        }
        self.key.clear();
        Ok(())
    }

    fn end_object(&mut self) -> Result<(), Wrong> {
        match &self.name {
            Some(name) if !name.is_empty() => self.done = true,
            _ => return Err(Wrong),
        }
        Ok(())
    }
}

/// Whether a character may stand outside strings in JSON. (A mark does not, so a value that never
/// ends is noticed.)
pub(super) fn in_json(c: char) -> bool {
    c.is_ascii_alphanumeric() || c.is_whitespace() || "{}[],:+-.".contains(c)
}

/// Arguments that are no object: models write the object as text, or null where there are none.
fn whole(text: &str) -> Result<String, Wrong> {
    match serde_json::from_str(text) {
        Ok(serde_json::Value::Null) => Ok("{}".into()),
        Ok(serde_json::Value::String(inside)) => {
            let object = serde_json::from_str::<serde_json::Map<_, _>>(&inside);
            Ok(if object.is_ok() { inside } else { text.into() })
        }
        Ok(_) => Ok(text.into()),
        Err(_) => Err(Wrong),
    }
}
