//! `is` tests: pallets/jinja `src/jinja2/tests.py`.

use crate::arguments::Given;
use crate::arithmetic;
use crate::ast::{Comparison, Operation};
use crate::error::{Result, failed};
use crate::execute::Run;
use crate::filters;
use crate::strings::{is_lower, is_upper};
use crate::text::plain;
use crate::value::{Key, Value};

/// All names.
const NAMES: [&str; 39] = [
    "odd",
    "even",
    "divisibleby",
    "defined",
    "undefined",
    "filter",
    "test",
    "none",
    "boolean",
    "false",
    "true",
    "integer",
    "float",
    "lower",
    "upper",
    "string",
    "mapping",
    "number",
    "sequence",
    "iterable",
    "callable",
    "sameas",
    "escaped",
    "in",
    "==",
    "eq",
    "equalto",
    "!=",
    "ne",
    ">",
    "gt",
    "greaterthan",
    "ge",
    ">=",
    "<",
    "lt",
    "lessthan",
    "<=",
    "le",
];

/// Whether `value is name(..)`.
pub(crate) fn apply(run: &Run, name: &str, value: &Value, given: Given) -> Result<bool> {
    let (parameters, required): (&[&str], usize) = match name {
        "divisibleby" => (&["num"], 1),
        "sameas" => (&["other"], 1),
        "in" => (&["seq"], 1),
        "eq" | "==" | "equalto" | "ne" | "!=" | "lt" | "lessthan" | "<" | "le" | "<=" | "gt"
        | "greaterthan" | ">" | "ge" | ">=" => (&["other"], 1),
        _ if NAMES.contains(&name) => (&[], 0),
        _ => return failed(format!("No test named '{name}'.")),
    };
    let other = given.bind(name, parameters, required)?.value(0);
    let rest = |divisor: &Value, expected: i128| -> Result<bool> {
        let rest = arithmetic::binary(run, Operation::Remainder, value, divisor)?;
        arithmetic::equal(run, &rest, &Value::Int(expected))
    };
    let compare = |kind| run.compare_values(kind, value, &other);
    Ok(match name {
        "odd" => rest(&Value::Int(2), 1)?,
        "even" => rest(&Value::Int(2), 0)?,
        "divisibleby" => rest(&other, 0)?,
        "defined" => !value.is_undefined(),
        "undefined" => value.is_undefined(),
        "filter" | "test" => match value {
            Value::Str(text) if name == "filter" => filters::exists(&plain(text)),
            Value::Str(text) => NAMES.contains(&plain(text).as_str()),
            other => {
                // What can be no key is an error.
                Key::new(other.clone(), &run.budget)?;
                false
            }
        },
        "none" => matches!(value, Value::None),
        "boolean" => matches!(value, Value::Bool(_)),
        "true" => matches!(value, Value::Bool(true)),
        "false" => matches!(value, Value::Bool(false)),
        "integer" => matches!(value, Value::Int(_)),
        "float" => matches!(value, Value::Float(_)),
        "number" => matches!(value, Value::Int(_) | Value::Float(_) | Value::Bool(_)),
        "lower" => is_lower(&run.string(value)?),
        "upper" => is_upper(&run.string(value)?),
        "string" => matches!(value, Value::Str(_)),
        "mapping" => matches!(value, Value::Dict(_)),
        // What has a length and items.
        "sequence" => matches!(
            value,
            Value::Str(_)
                | Value::List(_)
                | Value::Tuple(_)
                | Value::Dict(_)
                | Value::Range(_)
                | Value::Undefined(_)
        ),
        "iterable" => value.is_iterable(),
        "callable" => matches!(
            value,
            Value::Undefined(_)
                | Value::Macro(_)
                | Value::Loop(_)
                | Value::Function(_)
                | Value::Method(_)
                | Value::Joiner(_)
        ),
        "sameas" => same(value, &other),
        "escaped" => matches!(value, Value::Str(text) if text.markup),
        "in" => compare(Comparison::In)?,
        "eq" | "==" | "equalto" => compare(Comparison::Equal)?,
        "ne" | "!=" => compare(Comparison::NotEqual)?,
        "lt" | "lessthan" | "<" => compare(Comparison::Less)?,
        "le" | "<=" => compare(Comparison::LessOrEqual)?,
        "gt" | "greaterthan" | ">" => compare(Comparison::Greater)?,
        _ => compare(Comparison::GreaterOrEqual)?,
    })
}

/// Whether both are one object. Small numbers and equal texts are taken for one, as they mostly are in Python.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => a.is(b),
        (Value::Dict(a), Value::Dict(b)) => a.is(b),
        _ => a.type_name() == b.type_name() && arithmetic::equal_leaves(a, b),
    }
}
