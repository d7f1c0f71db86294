//! `a.b`, `a['b']` and `a[1:2]`: what the sandbox of Jinja lets templates reach
//! (pallets/jinja `src/jinja2/sandbox.py`, `getattr` and `getitem`).

use crate::arithmetic::present;
use crate::error::{Result, failed};
use crate::execute::Run;
use crate::methods;
use crate::show::shown;
use crate::text::{Char, Text, plain};
use crate::value::{Key, Value};

/// `value.name`: a method or attribute first, then an item.
pub(crate) fn attribute(run: &Run, value: &Value, name: &Text) -> Result<Value> {
    present(value)?;
    if let Some(found) = own_attribute(run, value, name)? {
        return Ok(found);
    }
    let found = subscript(run, value, &Value::Str(name.clone()))?;
    Ok(found.unwrap_or_else(|| missing(value, name)))
}

/// `value[index]`: an item first, then a method or attribute.
pub(crate) fn item(run: &Run, value: &Value, index: &Value) -> Result<Value> {
    present(value)?;
    if let Some(found) = subscript(run, value, index)? {
        return Ok(found);
    }
    if let Value::Str(name) = index {
        if let Some(found) = own_attribute(run, value, name)? {
            return Ok(found);
        }
        return Ok(missing(value, name));
    }
    let mut out = run.budget.collect();
    run.spell(index, &mut out)?;
    let index = plain(&out.chars()?.into_iter().take(80).collect::<Vec<_>>());
    Ok(Value::undefined(format!("{} object has no element {index}", value.type_name())))
}

fn missing(value: &Value, name: &[Char]) -> Value {
    Value::undefined(format!("'{} object' has no attribute {}", value.type_name(), shown(name)))
}

/// An attribute that Python's object of that type has.
pub(crate) fn own_attribute(run: &Run, value: &Value, name: &[Char]) -> Result<Option<Value>> {
    if name.len() > 40 {
        return Ok(None);
    }
    let spelled = plain(name);
    if let Some(method) = methods::of(value).iter().find(|method| **method == spelled) {
        return Ok(Some(
            if methods::CHANGING.contains(method) && !matches!(value, Value::Str(_)) {
                let kind = value.type_name();
                Value::undefined(format!(
                    "access to attribute '{spelled}' of '{kind}' object is unsafe."
                ))
            } else {
                Value::Method(std::rc::Rc::new((value.clone(), method)))
            },
        ));
    }
    // All objects have these, and templates may use none.
    if spelled.starts_with("__")
        && [
            "__class__",
            "__doc__",
            "__init__",
            "__len__",
            "__str__",
            "__dict__",
            "__getitem__",
            "__iter__",
        ]
        .contains(&spelled.as_str())
    {
        return Ok(Some(Value::undefined(format!(
            "access to attribute '{spelled}' of '{}' object is unsafe.",
            value.type_name()
        ))));
    }
    let budget = &run.budget;
    Ok(match (value, spelled.as_str()) {
        (Value::Namespace(namespace), _) => {
            let key = Key::new(budget.own(&spelled)?, budget)?;
            namespace.values.borrow().get(&key).cloned()
        }
        (Value::Loop(state), name) => state.attribute(name),
        (Value::Macro(of), "name") => Some(budget.own(&of.definition.name)?),
        (Value::Macro(of), "arguments") => {
            let names = of.definition.parameters.iter().map(|(_, name)| budget.own(name));
            Some(Value::tuple(names.collect::<Result<_>>()?, budget)?)
        }
        (Value::Macro(of), "caller") => Some(Value::Bool(of.definition.uses_caller)),
        (Value::Macro(of), "catch_kwargs") => Some(Value::Bool(of.definition.uses_kwargs)),
        (Value::Macro(of), "catch_varargs") => Some(Value::Bool(of.definition.uses_varargs)),
        (Value::Cycler(of), "current") => of.0.get(of.1.get()).cloned(),
        (Value::Tuple(items), "grouper") if items.is_group() => items.first().cloned(),
        (Value::Tuple(items), "list") if items.is_group() => items.get(1).cloned(),
        (Value::Int(_) | Value::Bool(_), "real" | "numerator") => value.index().map(Value::Int),
        (Value::Int(_) | Value::Bool(_), "imag") => Some(Value::Int(0)),
        (Value::Int(_) | Value::Bool(_), "denominator") => Some(Value::Int(1)),
        (Value::Float(_), "real") => Some(value.clone()),
        (Value::Float(_), "imag") => Some(Value::Float(0.0)),
        (Value::Range(range), "start") => Some(Value::Int(range.start)),
        (Value::Range(range), "stop") => Some(Value::Int(range.start + range.step * range.count)),
        (Value::Range(range), "step") => Some(Value::Int(range.step)),
        _ => None,
    })
}

/// Python's `value[index]`; `None` where that is an error.
fn subscript(run: &Run, value: &Value, index: &Value) -> Result<Option<Value>> {
    if let Value::Dict(dict) = value {
        return Ok(match index {
            Value::Str(name) => {
                run.budget.characters(name.len())?;
                dict.get(name).cloned()
            }
            Value::List(_) | Value::Dict(_) => None,
            other => dict.map().get(&Key::new(other.clone(), &run.budget)?).cloned(),
        });
    }
    let Some(index) = index.index() else { return Ok(None) };
    let place = |len: usize| {
        let index = if index < 0 { index + len as i128 } else { index };
        usize::try_from(index).ok().filter(|index| *index < len)
    };
    Ok(match value {
        Value::Str(text) => match place(text.len()) {
            Some(at) => Some(run.budget.part(text, &text[at..=at])?),
            None => None,
        },
        Value::List(items) | Value::Tuple(items) => place(items.len()).map(|at| items[at].clone()),
        Value::Range(range) => {
            place(usize::try_from(range.count).unwrap_or(0)).map(|at| range.get(at as i128))
        }
        _ => None,
    })
}

/// `value[start:stop:step]`.
pub(crate) fn slice(run: &Run, value: &Value, parts: [&Value; 3]) -> Result<Value> {
    present(value)?;
    let budget = &run.budget;
    let len = match value {
        Value::Str(text) => text.len(),
        Value::List(items) | Value::Tuple(items) => items.len(),
        Value::Range(range) => usize::try_from(range.count).unwrap_or(0),
        other => {
            return failed(format!("'{}' object is not subscriptable", other.type_name()));
        }
    };
    let mut bounds = [None; 3];
    for (bound, part) in bounds.iter_mut().zip(parts) {
        *bound = match part {
            Value::None => None,
            other => match other.index() {
                Some(index) => Some(index),
                None => return failed("slice indices must be integers or None"),
            },
        };
    }
    if bounds[2] == Some(0) {
        return failed("slice step cannot be zero");
    }
    let places = places(len as i128, bounds);
    let forward = bounds[2].is_none_or(|step| step == 1) && !matches!(value, Value::Range(_));
    if let [start, end] = places
        && forward
    {
        let part = start..end.max(start);
        return match value {
            Value::Str(text) => budget.part(text, &text[part]),
            Value::List(items) => Value::list(items[part].to_vec(), budget),
            Value::Tuple(items) => Value::tuple(items[part].to_vec(), budget),
            other => failed(format!("'{}' object is not subscriptable", other.type_name())),
        };
    }
    let step = bounds[2].unwrap_or(1);
    let chosen = stepped(len as i128, bounds);
    budget.items(len)?;
    let pick = |items: &[Value]| chosen.iter().map(|at| items[*at].clone()).collect::<Vec<_>>();
    match value {
        Value::Str(text) => {
            let made = budget.raw_text(chosen.iter().map(|at| text[*at]).collect())?;
            Ok(Value::Str(made.as_markup(text.markup)))
        }
        Value::List(items) => Value::list(pick(items), budget),
        Value::Tuple(items) => Value::tuple(pick(items), budget),
        Value::Range(range) => {
            let start =
                chosen.first().map_or(range.start, |at| range.start + range.step * *at as i128);
            let made = crate::value::Range {
                start,
                step: range.step.saturating_mul(step),
                count: chosen.len() as i128,
            };
            Ok(Value::Range(made))
        }
        other => failed(format!("'{}' object is not subscriptable", other.type_name())),
    }
}

/// Start and end of a slice that goes forward by one.
fn places(len: i128, [start, stop, _]: [Option<i128>; 3]) -> [usize; 2] {
    let place = |bound: Option<i128>, default: i128| {
        let bound = bound.unwrap_or(default);
        let bound = if bound < 0 { bound.saturating_add(len) } else { bound };
        usize::try_from(bound.clamp(0, len)).unwrap_or(0)
    };
    [place(start, 0), place(stop, len)]
}

/// The places that a slice takes (CPython `PySlice_AdjustIndices`).
fn stepped(len: i128, [start, stop, step]: [Option<i128>; 3]) -> Vec<usize> {
    let step = step.unwrap_or(1);
    let (lowest, highest) = if step > 0 { (0, len) } else { (-1, len - 1) };
    let place = |bound: Option<i128>, default: i128| match bound {
        None => default,
        Some(bound) if bound < 0 => bound.saturating_add(len).clamp(lowest, highest),
        Some(bound) => bound.clamp(lowest, highest),
    };
    let (first, last) = if step > 0 { (lowest, highest) } else { (highest, lowest) };
    let (mut at, stop) = (place(start, first), place(stop, last));
    let mut chosen = Vec::new();
    while (step > 0 && at < stop) || (step < 0 && at > stop) {
        chosen.extend(usize::try_from(at));
        at = at.saturating_add(step);
    }
    chosen
}

/// Follows names and numbers with dots between them, as the `attribute` of filters does.
pub(crate) fn path(run: &Run, value: &Value, path: &Value) -> Result<Value> {
    match path {
        Value::None => Ok(value.clone()),
        Value::Str(path) => {
            path.split(|c| c.get() == '.').try_fold(value.clone(), |value, part| {
                let name = plain(part);
                let number = Some(&name).filter(|name| name.chars().all(|c| c.is_ascii_digit()));
                let index = match number.and_then(|name| name.parse().ok()) {
                    Some(number) => Value::Int(number),
                    None => Value::Str(run.budget.raw_text(part.to_vec())?),
                };
                item(run, &value, &index)
            })
        }
        index => item(run, value, index),
    }
}
