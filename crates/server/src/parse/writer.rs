//! Writing calls as a model would.

use serde_json::Value;

use super::elements::{ITEM, NAME_END};
use super::notation::{Form, Notation, Tags};

/// Calls, each a function and its arguments, as a notation writes them.
pub(crate) fn write_calls(notation: &Notation, calls: &[(&str, Value)]) -> String {
    let [first, between, last] = notation.layout;
    let (open, close) = match notation.unmarked {
        true => ("", ""),
        false => (notation.open, notation.close),
    };
    let calls: Vec<_> = calls
        .iter()
        .map(|(name, arguments)| {
            let call = call(notation, name, arguments);
            [notation.call_open, &call, notation.call_close].concat()
        })
        .collect();
    if notation.shared {
        return [open, first, &calls.join(between), last, close].concat();
    }
    let areas: Vec<_> =
        calls.iter().map(|call| [open, first, call, last, close].concat()).collect();
    areas.join(between)
}

fn call(notation: &Notation, name: &str, arguments: &Value) -> String {
    let quoted = Value::from(name);
    match notation.form {
        Form::Object { name, arguments: key } => {
            format!("{{\"{name}\": {quoted}, \"{key}\": {arguments}}}")
        }
        Form::Keyed => format!("{{{quoted}: {arguments}}}"),
        Form::Named { before, after, tail, .. } => {
            let after = after.first().copied().unwrap_or_default();
            format!("{before}{name}{after}{arguments}{tail}")
        }
        Form::Tagged(tags) => {
            let items = items(arguments).map(|(key, value)| argument(&tags, key, value));
            format!("{name}{}{}\n{}", tags.name_close, tags.after, items.collect::<String>())
        }
        Form::Python => {
            let items = items(arguments).map(|(key, value)| format!("{key}={}", python(value)));
            format!("{name}({})", items.collect::<Vec<_>>().join(", "))
        }
        Form::Braces { quote } => format!("call:{name}{}", braces(arguments, quote)),
        Form::Elements { mark } => format!("{name}{NAME_END}{}", elements(arguments, mark)),
    }
}

/// What is in an element. Null has no form of its own: the element is left out.
fn elements(value: &Value, mark: &str) -> String {
    let element =
        |key: &str, value| format!("{mark}<{key}>{}{mark}</{key}>", elements(value, mark));
    match value {
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(|value| element(ITEM, value)).collect(),
        Value::Object(map) => {
            let given = map.iter().filter(|(_, value)| !value.is_null());
            given.map(|(key, value)| element(key, value)).collect()
        }
        value => value.to_string(),
    }
}

fn items(arguments: &Value) -> impl Iterator<Item = (&String, &Value)> {
    arguments.as_object().into_iter().flatten()
}

fn argument(tags: &Tags, key: &str, value: &Value) -> String {
    let [text, other] = tags.attributes;
    let (attribute, value) = match value {
        Value::String(value) => (text, value.clone()),
        value => (other, value.to_string()),
    };
    let Tags { key_open, key_close, value_open, value_close, around, .. } = tags;
    format!(
        "{key_open}{key}{key_close}{attribute}{value_open}{around}{value}{around}{value_close}\n"
    )
}

fn python(value: &Value) -> String {
    match value {
        Value::Null => "None".into(),
        Value::Bool(true) => "True".into(),
        Value::Bool(false) => "False".into(),
        Value::Array(list) => {
            format!("[{}]", list.iter().map(python).collect::<Vec<_>>().join(", "))
        }
        Value::Object(map) => {
            let items = map.iter();
            let items = items
                .map(|(key, value)| format!("{}: {}", Value::from(key.as_str()), python(value)));
            format!("{{{}}}", items.collect::<Vec<_>>().join(", "))
        }
        value => value.to_string(),
    }
}

fn braces(value: &Value, quote: &str) -> String {
    match value {
        Value::String(text) => format!("{quote}{text}{quote}"),
        Value::Array(list) => {
            let items: Vec<_> = list.iter().map(|value| braces(value, quote)).collect();
            format!("[{}]", items.join(","))
        }
        Value::Object(map) => {
            let item = |(key, value)| format!("{key}:{}", braces(value, quote));
            format!("{{{}}}", map.iter().map(item).collect::<Vec<_>>().join(","))
        }
        value => value.to_string(),
    }
}
