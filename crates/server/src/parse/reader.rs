//! What the readers of single calls have in common.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::braces::BracesReader;
use super::elements::{ElementsReader, Place};
use super::marker::Marker;
use super::named::NamedReader;
use super::notation::{Form, Identifier, Notation};
use super::object::ObjectReader;
use super::python::PythonReader;
use super::tagged::TaggedReader;
use super::tools::Row;

/// Something certain about a call.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Its function, and what the model calls it.
    Start { id: Option<String>, name: String },
    /// More of its arguments, as JSON text.
    Arguments(String),
}

/// The text is no tool call, or no longer one; this part of it was not used.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotACall(pub String);

/// Reads one call as it arrives.
pub(super) trait Reader: Send {
    /// Reads on. Returns the rest of the text, after the end of the call, once it has ended.
    ///
    /// # Errors
    /// If it is no call.
    fn push(&mut self, text: &str, found: &mut Vec<Found>) -> Result<Option<String>, NotACall>;

    /// Ends the answer within the call: whether the call can be taken as whole, `found` having what
    /// was missing.
    fn finish(&mut self, _found: &mut Vec<Found>) -> bool {
        false
    }
}

/// The longest name, key or header of a call, in bytes.
pub(super) const LONGEST_NAME: usize = 512;

/// Whether this can be the name of a function or of a parameter.
pub(super) fn is_name(text: &str) -> bool {
    let strange = |c: char| c.is_whitespace() || "{}[]()<>\"'`,;=".contains(c);
    !text.is_empty() && text.len() <= LONGEST_NAME && !text.contains(strange)
}

/// The tools of a request: their names, and the schemas of their arguments.
#[derive(Debug, Clone, Default)]
pub(crate) struct ToolList(pub Vec<(String, Option<Map<String, Value>>)>);

/// What the schema of an argument says about the text of its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It is a string.
    Text,
    /// It is a string or null.
    Nullable,
    /// It is something else.
    Json,
    /// It may be a string or something else.
    Either,
}

impl ToolList {
    fn schema(&self, name: &str) -> Option<&Map<String, Value>> {
        self.0.iter().find(|(known, _)| known == name)?.1.as_ref()
    }

    /// Whether there is a tool of this name.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| known == name)
    }

    /// The schema of an argument, and what its references are to.
    pub fn property(&self, name: &str, key: &str) -> Place<'_> {
        let schema = self.schema(name)?;
        Some((schema.get("properties")?.get(key)?, schema))
    }

    /// What an argument may be.
    pub fn kind(&self, name: &str, key: &str) -> Kind {
        self.property(name, key).map_or(Kind::Either, |(schema, root)| kind_of(schema, root))
    }

    /// The name of the argument at a position.
    pub fn parameter(&self, name: &str, position: usize) -> Option<String> {
        let properties = self.schema(name)?.get("properties")?.as_object()?;
        properties.keys().nth(position).cloned()
    }
}

const TEXT: u8 = 1;
const NULL: u8 = 2;
const OTHER: u8 = 4;

/// What values of a schema may be.
pub(super) fn kind_of(schema: &Value, root: &Map<String, Value>) -> Kind {
    match types(schema, root, 8) {
        TEXT => Kind::Text,
        types if types == TEXT | NULL => Kind::Nullable,
        types if types & TEXT == 0 => Kind::Json,
        _ => Kind::Either,
    }
}

/// The types that values of a schema have. `depth` bounds how many schemas are followed.
fn types(schema: &Value, root: &Map<String, Value>, depth: usize) -> u8 {
    let all = |types: &mut dyn Iterator<Item = u8>| types.fold(0, |one, other| one | other);
    let of_name = |name: &Value| match name.as_str() {
        Some("string") => TEXT,
        Some("null") => NULL,
        _ => OTHER,
    };
    let of_value = |value: &Value| match value {
        Value::String(_) => TEXT,
        Value::Null => NULL,
        _ => OTHER,
    };
    match schema.get("type") {
        Some(Value::Array(names)) => return all(&mut names.iter().map(of_name)),
        Some(name) => return of_name(name),
        None => {}
    }
    if let Some(value) = schema.get("const") {
        return of_value(value);
    }
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        return all(&mut values.iter().map(of_value));
    }
    let any = TEXT | NULL | OTHER;
    let Some(depth) = depth.checked_sub(1) else { return any };
    let target = schema.get("$ref").and_then(Value::as_str);
    if let Some(path) = target.and_then(|path| path.strip_prefix("#/")) {
        let mut steps = path.split('/').map(|step| step.replace("~1", "/").replace("~0", "~"));
        let first = steps.next().and_then(|step| root.get(&step));
        let target = steps.try_fold(first, |here, step| Some(here?.get(&step)));
        return target.flatten().map_or(any, |schema| types(schema, root, depth));
    }
    let choices = ["anyOf", "oneOf"].iter().find_map(|name| schema.get(name)?.as_array());
    choices.map_or(any, |list| all(&mut list.iter().map(|schema| types(schema, root, depth))))
}

/// A reader of calls of a row.
pub(super) fn reader(row: &Row, tools: &Arc<ToolList>) -> Box<dyn Reader> {
    match row.notation.form {
        Form::Object { .. } => Box::new(ObjectReader::new(false)),
        Form::Keyed => Box::new(ObjectReader::new(true)),
        Form::Named { .. } => Box::new(NamedReader::new(row)),
        Form::Tagged(tags) => Box::new(TaggedReader::new(row, tags, tools.clone())),
        Form::Python => Box::new(PythonReader::new(tools.clone())),
        Form::Braces { .. } => Box::new(BracesReader::new(&row.form, tools.clone())),
        Form::Elements { .. } => Box::new(ElementsReader::new(row, tools.clone())),
    }
}

/// The markers of a form, in the order that its reader expects.
pub(super) fn form_markers(notation: &Notation, new: impl Fn(&str) -> Marker) -> Vec<Marker> {
    let texts: Vec<&str> = match notation.form {
        Form::Object { .. } | Form::Keyed | Form::Python => vec![],
        Form::Named { before, after, id, .. } => {
            let behind = match id {
                Identifier::Behind(marker) => marker,
                Identifier::None | Identifier::Qualified => "",
            };
            [before, behind].into_iter().chain(after.iter().copied()).collect()
        }
        Form::Tagged(tags) => vec![
            tags.name_close,
            tags.after,
            tags.key_open,
            tags.key_close,
            tags.value_open,
            tags.value_close,
        ],
        Form::Braces { quote } => vec![quote],
        Form::Elements { mark } => vec![mark],
    };
    texts.into_iter().map(new).collect()
}

/// A name as JSON text.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A text as it stands in a JSON string, without the quotation marks.
pub(super) fn escaped(text: &str) -> String {
    let quoted = quoted(text);
    quoted[1..quoted.len() - 1].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn schemas_say_what_the_text_of_a_value_is() {
        let schema = json!({ "properties": {
            "text": { "type": "string" }, "number": { "type": "integer" },
            "both": { "type": ["string", "null"] }, "one": { "enum": ["a", "b"] },
            "two": { "enum": ["a", 2] }, "three": { "anyOf": [{ "type": "object" }, { "type": "array" }] },
            "four": { "$ref": "#/$defs/word" }, "five": { "$ref": "#/properties/five" },
            "six": { "const": 6 }, "any": {},
        }, "$defs": { "word": { "type": "string" } } });
        let list = ToolList(vec![("f".into(), schema.as_object().cloned())]);
        for (key, kind) in [
            ("text", Kind::Text),
            ("number", Kind::Json),
            ("both", Kind::Nullable),
            ("one", Kind::Text),
            ("two", Kind::Either),
            ("three", Kind::Json),
            ("four", Kind::Text),
            ("five", Kind::Either),
            ("six", Kind::Json),
            ("any", Kind::Either),
            ("none", Kind::Either),
        ] {
            assert_eq!(list.kind("f", key), kind, "{key}");
        }
        assert_eq!(list.kind("g", "text"), Kind::Either);
        assert_eq!(list.parameter("f", 1).as_deref(), Some("number"));
    }
}
