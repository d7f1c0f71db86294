//! Values of the template language as JSON text, written the way Python's `json.dumps` does.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

/// Deepest nesting written; deeper input ends in an error, not in a full stack.
const MAX_DEPTH: usize = 128;

/// How `tojson` lays its output out.
#[derive(Debug, Clone)]
pub(crate) struct JsonStyle {
    /// Text that indents one level, absent for one line.
    pub(crate) indent: Option<String>,
    /// Between items; spaces after it are dropped by the default when indenting.
    pub(crate) item_separator: String,
    /// Between key and value.
    pub(crate) key_separator: String,
    pub(crate) ensure_ascii: bool,
    pub(crate) sort_keys: bool,
}

/// Writes `value` as Python's `json.dumps` would. Undefined values have no JSON form.
pub(crate) fn to_json(value: &Value, style: &JsonStyle) -> Result<String, Error> {
    let mut out = String::new();
    write(value, style, 0, &mut out)?;
    Ok(out)
}

fn write(value: &Value, style: &JsonStyle, depth: usize, out: &mut String) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(unsupported("a value nested more than 128 levels deep"));
    }
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number if value.is_integer() => out.push_str(&value.to_string()),
        ValueKind::Number => out.push_str(&float(f64::try_from(value.clone())?)),
        ValueKind::String => write_string(value.as_str().unwrap_or_default(), style, out),
        ValueKind::Seq | ValueKind::Iterable => {
            let mut items = value.try_iter()?.peekable();
            if items.peek().is_none() {
                out.push_str("[]");
                return Ok(());
            }
            out.push('[');
            for (at, item) in items.enumerate() {
                separate(at, style, depth + 1, out);
                write(&item, style, depth + 1, out)?;
            }
            close(style, depth, ']', out);
        }
        ValueKind::Map => {
            let mut entries: Vec<(Value, Value)> = Vec::new();
            for key in value.try_iter()? {
                let item = value.get_item(&key)?;
                entries.push((key, item));
            }
            if style.sort_keys {
                entries.sort_by(|a, b| a.0.cmp(&b.0));
            }
            if entries.is_empty() {
                out.push_str("{}");
                return Ok(());
            }
            out.push('{');
            for (at, (key, item)) in entries.iter().enumerate() {
                separate(at, style, depth + 1, out);
                write_key(key, style, out)?;
                out.push_str(&style.key_separator);
                write(item, style, depth + 1, out)?;
            }
            close(style, depth, '}', out);
        }
        other => return Err(unsupported(&format!("a value of kind {other}"))),
    }
    Ok(())
}

/// JSON keys are strings; Python spells other simple keys out.
fn write_key(key: &Value, style: &JsonStyle, out: &mut String) -> Result<(), Error> {
    let spelled = match key.kind() {
        ValueKind::String => key.as_str().unwrap_or_default().to_owned(),
        ValueKind::None | ValueKind::Bool | ValueKind::Number => {
            let mut text = String::new();
            write(key, style, 0, &mut text)?;
            text
        }
        other => return Err(unsupported(&format!("a key of kind {other}"))),
    };
    write_string(&spelled, style, out);
    Ok(())
}

fn separate(at: usize, style: &JsonStyle, depth: usize, out: &mut String) {
    if at > 0 {
        out.push_str(&style.item_separator);
    }
    if let Some(indent) = &style.indent {
        out.push('\n');
        out.extend(std::iter::repeat_n(indent.as_str(), depth));
    }
}

fn close(style: &JsonStyle, depth: usize, bracket: char, out: &mut String) {
    if let Some(indent) = &style.indent {
        out.push('\n');
        out.extend(std::iter::repeat_n(indent.as_str(), depth));
    }
    out.push(bracket);
}

fn write_string(text: &str, style: &JsonStyle, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' || (style.ensure_ascii && !c.is_ascii()) => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// A float as Python's `repr` spells it: shortest digits, exponent form below 1e-4 and from 1e16.
fn float(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let size = number.abs();
    if size != 0.0 && !(1e-4..1e16).contains(&size) {
        // Rust writes 1e-5 and 1e16 where Python writes 1e-05 and 1e+16.
        let spelled = format!("{number:e}");
        let (digits, exponent) = spelled.split_once('e').unwrap_or((&spelled, "0"));
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(rest) => ('-', rest),
            None => ('+', exponent),
        };
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    let spelled = number.to_string();
    if spelled.contains('.') { spelled } else { spelled + ".0" }
}

fn unsupported(what: &str) -> Error {
    Error::new(ErrorKind::BadSerialization, format!("tojson cannot write {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> JsonStyle {
        JsonStyle {
            indent: None,
            item_separator: ", ".to_owned(),
            key_separator: ": ".to_owned(),
            ensure_ascii: false,
            sort_keys: false,
        }
    }

    fn dump(json: &str, style: &JsonStyle) -> String {
        let value: serde_json::Value = serde_json::from_str(json).unwrap();
        to_json(&crate::chat::template_value(&value), style).unwrap()
    }

    #[test]
    fn one_line_output_is_pythons() {
        // Expected text: json.dumps(json.loads(s), ensure_ascii=False).
        let source = r#"{"z":1,"a":[true,null,-2.5,1e16,1e-5,1.0,123456789012345678],"é<&'\"\u0007\n":{},"e":[]}"#;
        let expected = r#"{"z": 1, "a": [true, null, -2.5, 1e+16, 1e-05, 1.0, 123456789012345678], "é<&'\"\u0007\n": {}, "e": []}"#;
        assert_eq!(dump(source, &plain()), expected);
    }

    #[test]
    fn indent_sort_and_ascii_are_pythons() {
        let style = JsonStyle {
            indent: Some("  ".to_owned()),
            item_separator: ",".to_owned(),
            ensure_ascii: true,
            sort_keys: true,
            ..plain()
        };
        let expected = "{\n  \"a\": [\n    1,\n    \"\\ud83d\\ude00\"\n  ],\n  \"b\": {}\n}";
        assert_eq!(dump(r#"{"b":{},"a":[1,"😀"]}"#, &style), expected);
    }

    #[test]
    fn undefined_and_deep_values_are_errors() {
        assert!(to_json(&Value::UNDEFINED, &plain()).is_err());
        let mut deep = Value::from(1);
        for _ in 0..200 {
            deep = Value::from(vec![deep]);
        }
        assert!(to_json(&deep, &plain()).unwrap_err().to_string().contains("128"));
    }
}
