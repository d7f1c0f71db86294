//! `tojson`: Python's `json.dumps` with the arguments that transformers passes on.

use crate::arguments::Bound;
use crate::arithmetic;
use crate::budget::Out;
use crate::error::{Result, failed};
use crate::execute::Run;
use crate::numbers::float;
use crate::text::{Char, Text};
use crate::value::Value;

struct Style {
    ascii: bool,
    indent: Option<Text>,
    /// Between items, and between key and value.
    separators: [Text; 2],
    sort: bool,
}

/// Longest indentation of one level.
const MAX_INDENT: i128 = 1000;

pub(crate) fn tojson(run: &Run, value: &Value, bound: &Bound) -> Result<Value> {
    let indent = match bound.some(2) {
        None => None,
        Some(Value::Str(text)) => Some(text.clone()),
        Some(count) => match count.index().filter(|count| *count <= MAX_INDENT) {
            Some(count) => Some(Text::literal(&" ".repeat(usize::try_from(count).unwrap_or(0)))),
            None => return failed("tojson: indent must be a string or a number up to 1000"),
        },
    };
    let separators = match bound.some(3) {
        None => [Text::literal(if indent.is_some() { "," } else { ", " }), Text::literal(": ")],
        Some(pair) => match &pair.iterate(&run.budget)?[..] {
            [Value::Str(item), Value::Str(key)] => [item.clone(), key.clone()],
            _ => return failed("tojson: separators must be a pair of strings"),
        },
    };
    let style =
        Style { ascii: bound.flag(1, false), indent, separators, sort: bound.flag(4, false) };
    let mut out = run.budget.collect();
    write(run, value, &style, 0, &mut out)?;
    out.value()
}

fn write(run: &Run, value: &Value, style: &Style, depth: usize, out: &mut Out) -> Result<()> {
    run.budget.steps(1)?;
    out.check()?;
    match value {
        Value::None => out.own("null"),
        Value::Bool(flag) => out.own(if *flag { "true" } else { "false" }),
        Value::Int(number) => out.own(&number.to_string()),
        Value::Float(number) => out.own(&json_float(*number)),
        Value::Str(text) => {
            run.budget.characters(text.len())?;
            string(text, style, out);
        }
        Value::List(items) | Value::Tuple(items) => {
            if items.is_empty() {
                out.own("[]");
                return Ok(());
            }
            out.own("[");
            for (index, item) in items.iter().enumerate() {
                separate(index, style, depth + 1, out);
                write(run, item, style, depth + 1, out)?;
            }
            close(style, depth, "]", out);
        }
        Value::Dict(dict) => {
            if dict.map().is_empty() {
                out.own("{}");
                return Ok(());
            }
            out.own("{");
            let mut entries: Vec<(&Value, &Value)> =
                dict.map().iter().map(|(key, item)| (key.value(), item)).collect();
            if style.sort {
                let mut problem = Ok(());
                entries.sort_by(|a, b| match arithmetic::order(run, a.0, b.0, "<") {
                    Ok(order) => order.unwrap_or(std::cmp::Ordering::Equal),
                    Err(error) => {
                        problem = Err(error);
                        std::cmp::Ordering::Equal
                    }
                });
                problem?;
            }
            for (index, (key, item)) in entries.into_iter().enumerate() {
                separate(index, style, depth + 1, out);
                write_key(run, key, style, out)?;
                out.extend(&style.separators[1]);
                write(run, item, style, depth + 1, out)?;
            }
            close(style, depth, "}", out);
        }
        other => {
            return failed(format!(
                "Object of type {} is not JSON serializable",
                other.type_name()
            ));
        }
    }
    Ok(())
}

/// JSON keys are strings; Python spells other simple keys out.
fn write_key(run: &Run, key: &Value, style: &Style, out: &mut Out) -> Result<()> {
    match key {
        Value::Str(text) => {
            run.budget.characters(text.len())?;
            string(text, style, out);
        }
        Value::None | Value::Bool(_) | Value::Int(_) | Value::Float(_) => {
            out.own("\"");
            write(run, key, style, 0, out)?;
            out.own("\"");
        }
        other => {
            let kind = other.type_name();
            return failed(format!("keys must be str, int, float, bool or None, not {kind}"));
        }
    }
    Ok(())
}

fn json_float(number: f64) -> String {
    match number {
        number if number.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "Infinity".to_owned(),
        f64::NEG_INFINITY => "-Infinity".to_owned(),
        number => float(number),
    }
}

fn line(style: &Style, depth: usize, out: &mut Out) {
    if let Some(indent) = &style.indent {
        out.own("\n");
        for _ in 0..depth {
            out.extend(indent);
        }
    }
}

fn separate(index: usize, style: &Style, depth: usize, out: &mut Out) {
    if index > 0 {
        out.extend(&style.separators[0]);
    }
    line(style, depth, out);
}

fn close(style: &Style, depth: usize, bracket: &str, out: &mut Out) {
    line(style, depth, out);
    out.own(bracket);
}

/// What is written in place of a character is of its origin.
fn string(text: &[Char], style: &Style, out: &mut Out) {
    out.own("\"");
    for &c in text {
        let plain = c.get();
        let escape = match plain {
            '"' => "\\\"".to_owned(),
            '\\' => "\\\\".to_owned(),
            '\n' => "\\n".to_owned(),
            '\r' => "\\r".to_owned(),
            '\t' => "\\t".to_owned(),
            '\u{8}' => "\\b".to_owned(),
            '\u{c}' => "\\f".to_owned(),
            _ if plain < ' ' || (style.ascii && !(' '..='~').contains(&plain)) => {
                let mut units = [0; 2];
                let units = plain.encode_utf16(&mut units);
                units.iter().map(|unit| format!("\\u{unit:04x}")).collect()
            }
            _ => {
                out.push(c);
                continue;
            }
        };
        for e in escape.chars() {
            out.push(c.with(e));
        }
    }
    out.own("\"");
}
