//! One tool call, `{"name": ..., "arguments": {...}}`, read a character at a time.

/// Reads a call and hands out its arguments as they arrive.
#[derive(Debug, Default)]
pub struct CallReader {
    depth: usize,
    in_string: bool,
    escaped: bool,
    place: Place,
    key: String,
    /// The value being read, unless it is handed out as it arrives.
    value: String,
    name: Option<String>,
    /// Arguments that came before the name, or have not been taken yet.
    arguments: String,
    has_arguments: bool,
    done: bool,
}

#[derive(Debug, Default, PartialEq, Clone, Copy)]
enum Place {
    #[default]
    Before,
    Key,
    Value,
}

impl CallReader {
    /// Reads on. Returns the rest of the text, after the end of the call, once it has ended.
    ///
    /// # Errors
    /// If this is no JSON object.
    pub fn push<'a>(&mut self, text: &'a str) -> Result<Option<&'a str>, NotACall> {
        for (at, character) in text.char_indices() {
            self.character(character)?;
            if self.done {
                return Ok(Some(&text[at + character.len_utf8()..]));
            }
        }
        Ok(None)
    }

    /// The function's name, once it is known.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Arguments that arrived since the last time.
    pub fn take_arguments(&mut self) -> String {
        // A model may write the object as text. That cannot be known to be whole before its end.
        if self.arguments.starts_with('"') && !self.done {
            return String::new();
        }
        let text = std::mem::take(&mut self.arguments);
        match serde_json::from_str::<String>(&text) {
            Ok(inside) if text.starts_with('"') => inside,
            _ => text,
        }
    }

    /// Whether the call has arguments at all.
    pub fn has_arguments(&self) -> bool {
        self.has_arguments
    }

    fn character(&mut self, character: char) -> Result<(), NotACall> {
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
                _ => return Err(NotACall),
            },
            Place::Key => match character {
                ':' if structural => {
                    self.place = Place::Value;
                    let key: String =
                        serde_json::from_str(self.key.trim()).map_err(|_| NotACall)?;
                    self.key = key;
                    self.value.clear();
                }
                '}' if structural => self.end_object()?,
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
                        '{' | '[' => self.depth += 1,
                        '}' | ']' if self.depth > 1 => self.depth -= 1,
                        ']' => return Err(NotACall),
                        _ => {}
                    }
                }
                let blank = character.is_whitespace() && self.depth == 1 && !was_string;
                if blank {
                    return Ok(());
                }
                if matches!(&*self.key, "arguments" | "parameters") {
                    self.has_arguments = true;
                    self.arguments.push(character);
                } else {
                    self.value.push(character);
                }
            }
        }
        Ok(())
    }

    fn end_value(&mut self) -> Result<(), NotACall> {
        if self.key == "name" {
            self.name = Some(serde_json::from_str(&self.value).map_err(|_| NotACall)?);
        }
        self.key.clear();
        Ok(())
    }

    fn end_object(&mut self) -> Result<(), NotACall> {
        self.done = true;
        if self.name.is_none() { Err(NotACall) } else { Ok(()) }
    }
}

/// The text is no tool call.
#[derive(Debug, PartialEq, Eq)]
pub struct NotACall;
