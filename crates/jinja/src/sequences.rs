//! Filters of lists: pallets/jinja `src/jinja2/filters.py`.

use indexmap::IndexSet;
use std::cmp::Ordering;

use crate::arguments::{Bound, Given};
use crate::arithmetic;
use crate::ast::Operation;
use crate::attributes::path;
use crate::error::{Error, Result, failed};
use crate::execute::Run;
use crate::filters;
use crate::is_tests;
use crate::strings;
use crate::text::Text;
use crate::value::{Key, List, Value};

/// Text in lower case, unless case matters.
fn folded(run: &Run, value: Value, case_sensitive: bool) -> Result<Value> {
    match value {
        Value::Str(text) if !case_sensitive => run.budget.text(strings::lower(&text)),
        other => Ok(other),
    }
}

/// What an item is judged by: an attribute of it, or itself.
fn key_of(run: &Run, item: &Value, attribute: &Value, case_sensitive: bool) -> Result<Value> {
    folded(run, path(run, item, attribute)?, case_sensitive)
}

/// Sorts by keys, as Python does: stable, and backwards with equal ones in their order.
fn sorted(
    run: &Run,
    items: Vec<Value>,
    reverse: bool,
    key: impl Fn(&Value) -> Result<Value>,
) -> Result<Vec<Value>> {
    let mut keyed = Vec::with_capacity(items.len());
    for item in items {
        keyed.push((key(&item)?, item));
    }
    let mut problem: Option<Error> = None;
    let compare = |a: &Value, b: &Value| {
        if problem.is_some() {
            return Ordering::Equal;
        }
        match arithmetic::order(run, a, b, "<") {
            Ok(order) => order.unwrap_or(Ordering::Equal),
            Err(error) => {
                problem = Some(error);
                Ordering::Equal
            }
        }
    };
    merge_sort(&mut keyed, reverse, compare);
    match problem {
        Some(problem) => Err(problem),
        None => Ok(keyed.into_iter().map(|(_, item)| item).collect()),
    }
}

/// A sort that cannot fail, whatever the comparison says: what is not a number has no order.
fn merge_sort(
    items: &mut Vec<(Value, Value)>,
    reverse: bool,
    mut compare: impl FnMut(&Value, &Value) -> Ordering,
) {
    let mut width = 1;
    while width < items.len() {
        let mut merged = Vec::with_capacity(items.len());
        let mut rest = std::mem::take(items).into_iter().peekable();
        while rest.peek().is_some() {
            let left: Vec<_> = rest.by_ref().take(width).collect();
            let right: Vec<_> = rest.by_ref().take(width).collect();
            let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
            while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
                let order = if reverse { compare(&a.0, &b.0) } else { compare(&b.0, &a.0) };
                merged.extend(if order == Ordering::Less { right.next() } else { left.next() });
            }
            merged.extend(left);
            merged.extend(right);
        }
        *items = merged;
        width *= 2;
    }
}

pub(crate) fn sort(run: &Run, value: &Value, bound: &Bound) -> Result<Value> {
    let (reverse, case_sensitive) = (bound.flag(1, false), bound.flag(2, false));
    let attributes = match bound.some(3) {
        Some(Value::Str(all)) => {
            let parts = all.split(|c| c.get() == ',');
            parts.map(|part| run.budget.text(part.to_vec())).collect::<Result<Vec<_>>>()?
        }
        Some(index) => vec![index.clone()],
        None => vec![Value::None],
    };
    let key = |item: &Value| {
        let parts = attributes.iter().map(|attribute| key_of(run, item, attribute, case_sensitive));
        Value::list(parts.collect::<Result<_>>()?, &run.budget)
    };
    Value::list(sorted(run, value.iterate(&run.budget)?, reverse, key)?, &run.budget)
}

pub(crate) fn dict_sort(run: &Run, value: &Value, bound: &Bound) -> Result<Value> {
    let Value::Dict(dict) = value else {
        arithmetic::present(value)?;
        return failed(format!("'{}' object has no attribute 'items'", value.type_name()));
    };
    let (case_sensitive, reverse) = (bound.flag(1, false), bound.flag(3, false));
    let place = match bound.get(2) {
        None => 0,
        Some(Value::Str(by)) if by.is("key") => 0,
        Some(Value::Str(by)) if by.is("value") => 1,
        Some(_) => return failed("You can only sort by either \"key\" or \"value\""),
    };
    let items = Value::View(crate::value::View::Items, dict.clone()).iterate(&run.budget)?;
    let key = |pair: &Value| match pair {
        Value::Tuple(pair) => folded(run, pair[place].clone(), case_sensitive),
        other => Ok(other.clone()),
    };
    Value::list(sorted(run, items, reverse, key)?, &run.budget)
}

pub(crate) fn group_by(run: &Run, value: &Value, bound: &Bound) -> Result<Value> {
    let (attribute, case_sensitive) = (bound.value(1), bound.flag(3, false));
    let with_default = |item: &Value| -> Result<Value> {
        let found = path(run, item, &attribute)?;
        Ok(match bound.some(2) {
            Some(default) if found.is_undefined() => default.clone(),
            _ => found,
        })
    };
    let key = |item: &Value| folded(run, with_default(item)?, case_sensitive);
    let items = sorted(run, value.iterate(&run.budget)?, false, key)?;
    let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
    for item in items {
        let of = key(&item)?;
        match groups.last_mut() {
            Some((last, items)) if arithmetic::equal(run, last, &of)? => items.push(item),
            _ => groups.push((of, vec![item])),
        }
    }
    let group = |(_, items): (Value, Vec<Value>)| {
        let grouper = match items.first() {
            Some(first) if !case_sensitive => with_default(first)?,
            Some(first) => key(first)?,
            None => Value::None,
        };
        let items = Value::list(items, &run.budget)?;
        Ok(Value::Tuple(List::group(vec![grouper, items], &run.budget)?))
    };
    Value::list(groups.into_iter().map(group).collect::<Result<_>>()?, &run.budget)
}

pub(crate) fn unique(run: &Run, value: &Value, bound: &Bound) -> Result<Value> {
    let (case_sensitive, attribute) = (bound.flag(1, false), bound.value(2));
    let mut seen = IndexSet::new();
    let mut kept = Vec::new();
    for item in value.iterate(&run.budget)? {
        let key = key_of(run, &item, &attribute, case_sensitive)?;
        if seen.insert(Key::new(key, &run.budget)?) {
            kept.push(item);
        }
    }
    Value::stream(kept, &run.budget)
}

/// The `min` and `max` filters.
pub(crate) fn extreme(run: &Run, value: &Value, bound: &Bound, wanted: Ordering) -> Result<Value> {
    let (case_sensitive, attribute) = (bound.flag(1, false), bound.value(2));
    let mut best: Option<(Value, Value)> = None;
    let sign = if wanted == Ordering::Less { "<" } else { ">" };
    for item in value.iterate(&run.budget)? {
        let key = key_of(run, &item, &attribute, case_sensitive)?;
        let better = match &best {
            Some((best, _)) => arithmetic::order(run, &key, best, sign)? == Some(wanted),
            None => true,
        };
        if better {
            best = Some((key, item));
        }
    }
    let none = || Value::undefined("No aggregated item, sequence was empty.");
    Ok(best.map_or_else(none, |(_, item)| item))
}

pub(crate) fn sum(run: &Run, value: &Value, bound: &Bound) -> Result<Value> {
    let attribute = bound.value(1);
    let start = bound.get(2).cloned().unwrap_or(Value::Int(0));
    if matches!(start, Value::Str(_)) {
        return failed("sum() can't sum strings [use ''.join(seq) instead]");
    }
    value.iterate(&run.budget)?.iter().try_fold(start, |sum, item| {
        arithmetic::binary(run, Operation::Add, &sum, &path(run, item, &attribute)?)
    })
}

pub(crate) fn join(run: &Run, value: &Value, bound: &Bound) -> Result<Value> {
    let separator = match bound.get(1) {
        Some(separator) => run.string(separator)?,
        None => Text::literal(""),
    };
    let attribute = bound.value(2);
    let mut out = run.budget.collect();
    for (index, item) in value.iterate(&run.budget)?.iter().enumerate() {
        if index > 0 {
            out.extend(&separator);
        }
        out.check()?;
        run.show(&path(run, item, &attribute)?, &mut out)?;
    }
    out.value()
}

/// `separator.join(items)`: all must be strings.
pub(crate) fn join_texts(run: &Run, separator: &Text, items: &[Value]) -> Result<Value> {
    let mut out = run.budget.collect();
    for (index, item) in items.iter().enumerate() {
        let Value::Str(text) = item else {
            let found = item.type_name();
            return failed(format!("sequence item {index}: expected str instance, {found} found"));
        };
        if index > 0 {
            out.extend(separator);
        }
        run.budget.characters(text.len())?;
        out.extend(text);
        out.check()?;
    }
    out.value()
}

/// Lists of `count` items.
pub(crate) fn batch(run: &Run, value: &Value, bound: &Bound) -> Result<Value> {
    let count = bound.int(1, 1)?;
    let mut batches: Vec<Value> = Vec::new();
    let mut current: Vec<Value> = Vec::new();
    for item in value.iterate(&run.budget)? {
        if current.len() as i128 == count {
            batches.push(Value::list(std::mem::take(&mut current), &run.budget)?);
        }
        current.push(item);
    }
    if !current.is_empty() {
        if let Some(fill) = bound.some(2)
            && let Ok(missing) = usize::try_from(count - current.len() as i128)
        {
            run.budget.room(missing.saturating_mul(8))?;
            current.resize(current.len() + missing, fill.clone());
        }
        batches.push(Value::list(current, &run.budget)?);
    }
    Value::stream(batches, &run.budget)
}

/// `count` lists of about as many items.
pub(crate) fn slices(run: &Run, value: &Value, bound: &Bound) -> Result<Value> {
    let items = value.iterate(&run.budget)?;
    let count = match usize::try_from(bound.int(1, 1)?) {
        Ok(count @ 1..) => count,
        Ok(0) => return failed("integer division or modulo by zero"),
        Err(_) => return Value::stream(Vec::new(), &run.budget),
    };
    run.budget.room(count.saturating_mul(8))?;
    let (each, longer) = (items.len() / count, items.len() % count);
    let mut rest = items.into_iter();
    let mut made = Vec::new();
    for index in 0..count {
        let mut part: Vec<Value> = rest.by_ref().take(each + usize::from(index < longer)).collect();
        if let Some(fill) = bound.some(2).filter(|_| index >= longer) {
            part.push(fill.clone());
        }
        made.push(Value::list(part, &run.budget)?);
    }
    Value::stream(made, &run.budget)
}

pub(crate) fn map(run: &Run, value: &Value, mut given: Given) -> Result<Value> {
    if !value.is_true() {
        return Value::stream(Vec::new(), &run.budget);
    }
    let items = value.iterate(&run.budget)?;
    let attribute = if given.positional.is_empty() { given.take("attribute") } else { None };
    if let Some(attribute) = attribute {
        let bound = given.bind("map", &["default"], 0)?;
        let find = |item: &Value| -> Result<Value> {
            let found = path(run, item, &attribute)?;
            Ok(match bound.some(0) {
                Some(default) if found.is_undefined() => default.clone(),
                _ => found,
            })
        };
        return Value::stream(items.iter().map(find).collect::<Result<_>>()?, &run.budget);
    }
    if given.positional.is_empty() {
        return failed("map requires a filter argument");
    }
    let name = filter_name(&given.positional.remove(0))?;
    let apply = |item: Value| {
        let args = Given { positional: given.positional.clone(), named: given.named.clone() };
        filters::apply(run, &name, item, args)
    };
    Value::stream(items.into_iter().map(apply).collect::<Result<_>>()?, &run.budget)
}

fn filter_name(value: &Value) -> Result<String> {
    match value {
        Value::Str(name) => Ok(crate::text::plain(name)),
        other => failed(format!("a name is expected, not '{}'", other.type_name())),
    }
}

/// `select`, `reject` and, by an attribute, `selectattr` and `rejectattr`.
pub(crate) fn select(
    run: &Run,
    value: &Value,
    mut given: Given,
    by_attribute: bool,
    keep: bool,
) -> Result<Value> {
    if !value.is_true() {
        return Value::stream(Vec::new(), &run.budget);
    }
    let attribute = match by_attribute {
        true if given.positional.is_empty() => {
            return failed("Missing parameter for attribute name");
        }
        true => given.positional.remove(0),
        false => Value::None,
    };
    let test = match given.positional.is_empty() {
        true => None,
        false => Some(filter_name(&given.positional.remove(0))?),
    };
    let mut kept = Vec::new();
    for item in value.iterate(&run.budget)? {
        let subject = path(run, &item, &attribute)?;
        let holds = match &test {
            Some(test) => {
                let args =
                    Given { positional: given.positional.clone(), named: given.named.clone() };
                is_tests::apply(run, test, &subject, args)?
            }
            None => subject.is_true(),
        };
        if holds == keep {
            kept.push(item);
        }
    }
    Value::stream(kept, &run.budget)
}
