//! Values as text: Python's `str` and `repr`.

use crate::budget::Out;
use crate::error::Result;
use crate::execute::Run;
use crate::numbers::float;
use crate::python::is_printable;
use crate::text::{Char, Text, plain};
use crate::value::{Function, Key, Value, View};

impl Run<'_> {
    /// Writes `str(value)`.
    pub fn show(&self, value: &Value, out: &mut Out) -> Result<()> {
        match value {
            Value::Str(text) => {
                self.budget.characters(text.len())?;
                out.extend(text);
                Ok(())
            }
            Value::Undefined(_) => Ok(()),
            other => self.spell(other, out),
        }
    }

    /// `str(value)`.
    pub fn string(&self, value: &Value) -> Result<Text> {
        if let Value::Str(text) = value {
            return Ok(text.clone());
        }
        let mut out = self.budget.collect();
        self.show(value, &mut out)?;
        self.budget.raw_text(out.chars()?)
    }

    /// Writes `repr(value)`.
    pub fn spell(&self, value: &Value, out: &mut Out) -> Result<()> {
        self.budget.steps(1)?;
        out.check()?;
        match value {
            Value::Undefined(_) => out.own("Undefined"),
            Value::None => out.own("None"),
            Value::Bool(flag) => out.own(if *flag { "True" } else { "False" }),
            Value::Int(number) => out.own(&number.to_string()),
            Value::Float(number) => out.own(&float(*number)),
            Value::Str(text) => {
                self.budget.characters(text.len())?;
                if text.markup {
                    out.own("Markup(");
                    quote(text, out);
                    out.own(")");
                } else {
                    quote(text, out);
                }
            }
            Value::List(items) => self.spell_all("[", items.iter(), "]", out)?,
            Value::Tuple(items) if items.len() == 1 => {
                self.spell_all("(", items.iter(), ",)", out)?
            }
            Value::Tuple(items) => self.spell_all("(", items.iter(), ")", out)?,
            Value::Dict(dict) => self.spell_map(dict.map().iter(), out)?,
            Value::View(View::Keys, dict) => {
                self.spell_all("dict_keys([", dict.map().keys().map(Key::value), "])", out)?;
            }
            Value::View(View::Values, dict) => {
                self.spell_all("dict_values([", dict.map().values(), "])", out)?;
            }
            Value::View(View::Items, _) => {
                let items = value.iterate(&self.budget)?;
                self.spell_all("dict_items([", items.iter(), "])", out)?;
            }
            Value::Range(range) => {
                let stop = range.start + range.step * range.count;
                let step =
                    if range.step == 1 { String::new() } else { format!(", {}", range.step) };
                out.own(&format!("range({}, {stop}{step})", range.start));
            }
            Value::Namespace(namespace) => {
                // It may hold itself.
                let _level = self.budget.deeper()?;
                out.own("<Namespace ");
                let values = namespace.values.borrow().clone();
                self.spell_map(values.iter(), out)?;
                out.own(">");
            }
            Value::Macro(of) => {
                out.own("<Macro ");
                quote(&Text::literal(&of.definition.name), out);
                out.own(">");
            }
            Value::Loop(state) => {
                out.own(&format!("<LoopContext {}/{}>", state.index.get() + 1, state.items.len()));
            }
            Value::Stream(_) => out.own("<generator object>"),
            Value::Function(function) => match function {
                Function::Range => out.own("<function safe_range>"),
                Function::Cycler => out.own("<class 'jinja2.utils.Cycler'>"),
                Function::Joiner => out.own("<class 'jinja2.utils.Joiner'>"),
                _ => out.own("<function>"),
            },
            Value::Method(of) => out.own(&format!("<method {} of {}>", of.1, of.0.type_name())),
            Value::Cycler(_) => out.own("<Cycler>"),
            Value::Joiner(_) => out.own("<Joiner>"),
        }
        Ok(())
    }

    fn spell_all<'v>(
        &self,
        open: &str,
        items: impl Iterator<Item = &'v Value>,
        close: &str,
        out: &mut Out,
    ) -> Result<()> {
        out.own(open);
        for (index, item) in items.enumerate() {
            if index > 0 {
                out.own(", ");
            }
            self.spell(item, out)?;
        }
        out.own(close);
        Ok(())
    }

    fn spell_map<'v>(
        &self,
        items: impl Iterator<Item = (&'v Key, &'v Value)>,
        out: &mut Out,
    ) -> Result<()> {
        out.own("{");
        for (index, (key, item)) in items.enumerate() {
            if index > 0 {
                out.own(", ");
            }
            self.spell(key.value(), out)?;
            out.own(": ");
            self.spell(item, out)?;
        }
        out.own("}");
        Ok(())
    }
}

/// A string in quotes. What is written in place of a character is of its origin.
fn quote(text: &[Char], out: &mut Out) {
    let double = text.iter().any(|c| c.get() == '\'') && !text.iter().any(|c| c.get() == '"');
    let mark = if double { '"' } else { '\'' };
    out.push(Char::own(mark));
    for &c in text {
        let escape = match c.get() {
            '\n' => "\\n".to_owned(),
            '\r' => "\\r".to_owned(),
            '\t' => "\\t".to_owned(),
            '\\' => "\\\\".to_owned(),
            plain if plain == mark => format!("\\{plain}"),
            plain if is_printable(plain) => {
                out.push(c);
                continue;
            }
            plain => match u32::from(plain) {
                code @ ..=0xff => format!("\\x{code:02x}"),
                code @ ..=0xffff => format!("\\u{code:04x}"),
                code => format!("\\U{code:08x}"),
            },
        };
        for e in escape.chars() {
            out.push(c.with(e));
        }
    }
    out.push(Char::own(mark));
}

/// `text` for an error message.
pub(crate) fn shown(text: &[Char]) -> String {
    let cut = plain(&text[..text.len().min(80)]);
    format!("'{cut}'")
}
