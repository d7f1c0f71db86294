//! Reading fields of a config, each with its range.

use std::ops::RangeInclusive;

use serde_json::Value;

use crate::Error;

/// Widths, head counts and the like. Far above any real model.
const WIDTH: RangeInclusive<u64> = 1..=1 << 24;

/// A config whose fields are checked as they are read.
pub(crate) struct Config<'a> {
    pub value: &'a Value,
    /// The most tokens of a sequence, if that is known.
    pub context: Option<usize>,
}

impl<'a> Config<'a> {
    /// A part of a config.
    pub fn new(value: &'a Value) -> Self {
        Self { value, context: None }
    }
}

impl Config<'_> {
    /// The field, unless it is absent or null.
    pub fn get(&self, field: &'static str) -> Option<&Value> {
        self.value.get(field).filter(|value| !value.is_null())
    }

    /// A whole number in `range`; `None` if it is absent.
    pub fn integer(
        &self,
        field: &'static str,
        range: RangeInclusive<u64>,
    ) -> Result<Option<usize>, Error> {
        let Some(value) = self.get(field) else { return Ok(None) };
        match value.as_u64().filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number as usize)),
            None => {
                let (low, high) = (range.start(), range.end());
                Err(wrong(
                    field,
                    format!("is {}, expected a whole number from {low} to {high}", short(value)),
                ))
            }
        }
    }

    /// A width or count that may be absent.
    pub fn width(&self, field: &'static str) -> Result<Option<usize>, Error> {
        self.integer(field, WIDTH)
    }

    /// A width or count that must be there.
    pub fn required(&self, field: &'static str) -> Result<usize, Error> {
        self.width(field)?.ok_or_else(|| wrong(field, "is missing"))
    }

    /// A finite number; `None` if it is absent.
    pub fn number(&self, field: &'static str) -> Result<Option<f64>, Error> {
        let Some(value) = self.get(field) else { return Ok(None) };
        match value.as_f64().filter(|number| number.is_finite()) {
            Some(number) => Ok(Some(number)),
            None => Err(wrong(field, format!("is {}, expected a number", short(value)))),
        }
    }

    /// A finite number above zero; `default` if it is absent.
    pub fn positive(&self, field: &'static str, default: f64) -> Result<f64, Error> {
        match self.number(field)? {
            None => Ok(default),
            Some(number) if number > 0.0 => Ok(number),
            Some(number) => Err(wrong(field, format!("is {number}, expected a number above 0"))),
        }
    }

    /// True or false; `default` if it is absent.
    pub fn flag(&self, field: &'static str, default: bool) -> Result<bool, Error> {
        match self.get(field) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(value) => {
                Err(wrong(field, format!("is {}, expected true or false", short(value))))
            }
        }
    }

    /// A number to multiply or divide by, such that neither it nor its inverse leaves `f32`; `None` if
    /// it is absent.
    pub fn moderate(&self, field: &'static str) -> Result<Option<f64>, Error> {
        match self.number(field)? {
            Some(number) if !(1e-6..=1e6).contains(&number) => {
                Err(wrong(field, format!("is {number}, expected a number from 1e-6 to 1e6")))
            }
            number => Ok(number),
        }
    }

    /// A string; `None` if it is absent.
    pub fn string(&self, field: &'static str) -> Result<Option<&str>, Error> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::String(string)) => Ok(Some(string)),
            Some(value) => Err(wrong(field, format!("is {}, expected a string", short(value)))),
        }
    }
}

impl Config<'_> {
    /// A list with an item for each of `layers` layers, or `None` if it is absent. `read` gives what an
    /// item means, or `None` if nothing that is known.
    pub fn by_layer<T>(
        &self,
        field: &'static str,
        layers: usize,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>, Error> {
        let Some(list) = self.get(field) else { return Ok(None) };
        let items = list.as_array().filter(|items| items.len() == layers).ok_or_else(|| {
            wrong(field, format!("is {}, expected a list of {layers} items", short(list)))
        })?;
        let known = |item| {
            let unknown = || wrong(field, format!("has {}, which is not supported", short(item)));
            read(item).ok_or_else(unknown)
        };
        items.iter().map(known).collect::<Result<_, _>>().map(Some)
    }

    /// Refuses a switch that is on, since keeve does not do what it asks for.
    pub fn refuse(&self, field: &'static str) -> Result<(), Error> {
        match self.flag(field, false)? {
            true => Err(wrong(field, "is true, which keeve does not support")),
            false => Ok(()),
        }
    }
}

/// An error about `field`.
pub(crate) fn wrong(field: &'static str, problem: impl Into<String>) -> Error {
    Error::Field { field, problem: problem.into() }
}

/// A value for an error message: on one line, and cut if it is long.
pub(crate) fn short(value: &Value) -> String {
    const LONGEST: usize = 40;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// A text from a config for an error message.
pub(crate) fn quoted(text: &str) -> String {
    short(&text.into())
}
