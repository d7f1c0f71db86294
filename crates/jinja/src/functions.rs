//! Global functions, and calling whatever can be called.

use std::cell::Cell;
use std::rc::Rc;

use indexmap::IndexMap;

use crate::arguments::Given;
use crate::arithmetic::present;
use crate::error::{Error, Result, failed};
use crate::execute::Run;
use crate::methods;
use crate::text::{Text, own, plain};
use crate::value::{Dict, Function, Key, List, Range, Value};

/// The functions that every template has.
pub(crate) const GLOBALS: [(&str, Function); 8] = [
    ("range", Function::Range),
    ("dict", Function::Dict),
    ("namespace", Function::Namespace),
    ("cycler", Function::Cycler),
    ("joiner", Function::Joiner),
    ("lipsum", Function::Lipsum),
    ("raise_exception", Function::RaiseException),
    ("strftime_now", Function::StrftimeNow),
];

/// Longest range, as in Jinja's sandbox.
const MAX_RANGE: i128 = 100_000;

pub(crate) fn call(run: &Run, callee: &Value, given: Given) -> Result<Value> {
    present(callee)?;
    let budget = &run.budget;
    match callee {
        Value::Macro(of) => run.call_macro(of, given),
        Value::Loop(state) => {
            let items = given.bind("loop", &["iterable"], 1)?.value(0);
            run.call_loop(state, &items)
        }
        Value::Method(of) => methods::call(run, &of.0, of.1, given),
        Value::Joiner(of) => {
            given.bind("joiner", &[], 0)?;
            let first = !of.1.replace(true);
            if first { budget.own("") } else { Ok(of.0.clone()) }
        }
        Value::Function(function) => match function {
            Function::Range => range(run, given),
            Function::Dict => Ok(Value::Dict(Dict::new(pairs(run, given)?, budget)?)),
            Function::Namespace => {
                let values = pairs(run, given)?;
                let hidden = |key: &Key| match key.value() {
                    Value::Str(name) => name.first().is_some_and(|c| c.get() == '_'),
                    _ => false,
                };
                if values.keys().any(hidden) {
                    return failed("attributes of a namespace cannot begin with an underscore");
                }
                run.namespace(values)
            }
            Function::Cycler => {
                if given.positional.is_empty() {
                    return failed("at least one item has to be provided");
                }
                let items = List::new(given.positional, budget)?;
                Ok(Value::Cycler(Rc::new((items, Cell::new(0)))))
            }
            Function::Joiner => {
                let bound = given.bind("joiner", &["sep"], 0)?;
                let separator = bound.get(0).cloned().unwrap_or(Value::Str(Text::literal(", ")));
                Ok(Value::Joiner(Rc::new((separator, Cell::new(false)))))
            }
            Function::Lipsum => failed("lipsum writes random text, which no prompt is made of"),
            Function::RaiseException => {
                let message =
                    run.string(&given.bind("raise_exception", &["message"], 1)?.value(0))?;
                let message = plain(&message[..message.len().min(2000)]);
                Err(Error::Raised(message.replace(['\n', '\r'], " ")))
            }
            Function::StrftimeNow => {
                let format = given.bind("strftime_now", &["format"], 1)?.name(0)?;
                match (run.host.strftime)(&format) {
                    Ok(time) => budget.text(own(&time)),
                    Err(problem) => failed(format!("strftime_now: {problem}")),
                }
            }
        },
        other => failed(format!("'{}' object is not callable", other.type_name())),
    }
}

fn range(run: &Run, given: Given) -> Result<Value> {
    let count = given.positional.len();
    let bound = given.bind("range", &["start", "stop", "step"], 1)?;
    for index in 0..3 {
        if let Some(value) = bound.get(index) {
            present(value)?;
        }
    }
    let (start, stop, step) = match count {
        1 => (0, bound.int(0, 0)?, 1),
        _ => (bound.int(0, 0)?, bound.int(1, 0)?, bound.int(2, 1)?),
    };
    if step == 0 {
        return failed("range() arg 3 must not be zero");
    }
    run.budget.steps(1)?;
    let distance = if step > 0 { stop.saturating_sub(start) } else { start.saturating_sub(stop) };
    let size = step.saturating_abs();
    let count = if distance <= 0 { 0 } else { (distance - 1) / size + 1 };
    if count > MAX_RANGE {
        return failed(format!(
            "Range too big. The sandbox blocks ranges larger than MAX_RANGE ({MAX_RANGE})."
        ));
    }
    Ok(Value::Range(Range { start, step, count }))
}

/// The entries of `dict(map, **more)`.
fn pairs(run: &Run, given: Given) -> Result<IndexMap<Key, Value>> {
    let budget = &run.budget;
    let mut map = IndexMap::new();
    let mut positional = given.positional.into_iter();
    match positional.next() {
        None => (),
        Some(Value::Dict(dict)) => map.clone_from(dict.map()),
        Some(other) => {
            for pair in other.iterate(budget)? {
                let mut pair = pair.iterate(budget)?.into_iter();
                match (pair.next(), pair.next(), pair.next()) {
                    (Some(key), Some(value), None) => map.insert(Key::new(key, budget)?, value),
                    _ => return failed("dict() expects pairs"),
                };
            }
        }
    }
    if positional.next().is_some() {
        return failed("dict expected at most 1 argument");
    }
    for (name, value) in given.named {
        map.insert(Key::new(budget.own(&name)?, budget)?, value);
    }
    Ok(map)
}
