//! Filters: pallets/jinja `src/jinja2/filters.py`, and `tojson` as transformers has it.

use std::cmp::Ordering;

use crate::arguments::{Bound, Given};
use crate::arithmetic::present;
use crate::attributes;
use crate::error::{Result, failed};
use crate::execute::Run;
use crate::json;
use crate::numbers::{parse_float, parse_int, rounded, truncated};
use crate::percent::percent;
use crate::sequences;
use crate::strings::{self, Side};
use crate::text::{Char, Text, own, plain, same};
use crate::value::{Dict, Key, Value, View};

/// Names of filters, their parameters behind the value, and how many of these are needed.
const PARAMETERS: [(&str, &[&str], usize); 48] = [
    ("abs", &[], 0),
    ("attr", &["name"], 1),
    ("batch", &["linecount", "fill_with"], 1),
    ("capitalize", &[], 0),
    ("center", &["width"], 0),
    ("count", &[], 0),
    ("d", &["default_value", "boolean"], 0),
    ("default", &["default_value", "boolean"], 0),
    ("dictsort", &["case_sensitive", "by", "reverse"], 0),
    ("e", &[], 0),
    ("escape", &[], 0),
    ("filesizeformat", &["binary"], 0),
    ("first", &[], 0),
    ("float", &["default"], 0),
    ("forceescape", &[], 0),
    ("groupby", &["attribute", "default", "case_sensitive"], 1),
    ("indent", &["width", "first", "blank"], 0),
    ("int", &["default", "base"], 0),
    ("items", &[], 0),
    ("join", &["d", "attribute"], 0),
    ("last", &[], 0),
    ("length", &[], 0),
    ("list", &[], 0),
    ("lower", &[], 0),
    ("max", &["case_sensitive", "attribute"], 0),
    ("min", &["case_sensitive", "attribute"], 0),
    ("replace", &["old", "new", "count"], 2),
    ("reverse", &[], 0),
    ("round", &["precision", "method"], 0),
    ("safe", &[], 0),
    ("slice", &["slices", "fill_with"], 1),
    ("sort", &["reverse", "case_sensitive", "attribute"], 0),
    ("string", &[], 0),
    ("striptags", &[], 0),
    ("sum", &["attribute", "start"], 0),
    ("title", &[], 0),
    ("tojson", &["ensure_ascii", "indent", "separators", "sort_keys"], 0),
    ("trim", &["chars"], 0),
    ("truncate", &["length", "killwords", "end", "leeway"], 0),
    ("unique", &["case_sensitive", "attribute"], 0),
    ("upper", &[], 0),
    ("urlencode", &[], 0),
    ("wordcount", &[], 0),
    ("wordwrap", &["width", "break_long_words", "wrapstring", "break_on_hyphens"], 0),
    ("xmlattr", &["autospace"], 0),
    ("pprint", &[], 0),
    ("random", &[], 0),
    ("urlize", &[], 0),
];

/// Filters that take whatever they are given.
const OPEN: [&str; 6] = ["format", "map", "reject", "rejectattr", "select", "selectattr"];

pub(crate) fn exists(name: &str) -> bool {
    OPEN.contains(&name) || PARAMETERS.iter().any(|(known, ..)| *known == name)
}

pub(crate) fn apply(run: &Run, name: &str, value: Value, given: Given) -> Result<Value> {
    run.budget.steps(1)?;
    match name {
        "format" => return format(run, &value, given),
        "map" => return sequences::map(run, &value, given),
        "select" => return sequences::select(run, &value, given, false, true),
        "reject" => return sequences::select(run, &value, given, false, false),
        "selectattr" => return sequences::select(run, &value, given, true, true),
        "rejectattr" => return sequences::select(run, &value, given, true, false),
        _ => (),
    }
    let Some((name, parameters, required)) = PARAMETERS.iter().find(|(known, ..)| *known == name)
    else {
        return failed(format!("No filter named '{name}'."));
    };
    // The value is the first parameter.
    let mut all = vec!["value"];
    all.extend_from_slice(parameters);
    let Given { mut positional, named } = given;
    positional.insert(0, value);
    let bound = Given { positional, named }.bind(name, &all, required + 1)?;
    let value = &bound.value(0);
    match *name {
        "batch" => sequences::batch(run, value, &bound),
        "dictsort" => sequences::dict_sort(run, value, &bound),
        "groupby" => sequences::group_by(run, value, &bound),
        "join" => sequences::join(run, value, &bound),
        "max" => sequences::extreme(run, value, &bound, Ordering::Greater),
        "min" => sequences::extreme(run, value, &bound, Ordering::Less),
        "slice" => sequences::slices(run, value, &bound),
        "sort" => sequences::sort(run, value, &bound),
        "sum" => sequences::sum(run, value, &bound),
        "unique" => sequences::unique(run, value, &bound),
        "tojson" => json::tojson(run, value, &bound),
        "abs" | "float" | "int" | "round" | "filesizeformat" => number(run, name, value, &bound),
        "attr" | "count" | "length" | "d" | "default" | "first" | "last" | "list" | "items"
        | "reverse" | "random" => general(run, name, value, &bound),
        _ => text(run, name, value, &bound),
    }
}

fn general(run: &Run, name: &str, value: &Value, bound: &Bound) -> Result<Value> {
    let budget = &run.budget;
    match name {
        "attr" => {
            present(value)?;
            let name = bound.text(1)?;
            let found = attributes::own_attribute(run, value, &name)?;
            let missing = || {
                Value::undefined(format!("'{}' object has no such attribute", value.type_name()))
            };
            Ok(found.unwrap_or_else(missing))
        }
        "count" | "length" => Ok(Value::Int(value.len()? as i128)),
        "d" | "default" => {
            let instead = value.is_undefined() || (bound.flag(2, false) && !value.is_true());
            let default = || bound.get(1).cloned().unwrap_or(Value::Str(Text::literal("")));
            Ok(if instead { default() } else { value.clone() })
        }
        "first" => {
            let none = || Value::undefined("No first item, sequence was empty.");
            Ok(match value {
                // Of what can be had once, the rest stays.
                Value::Stream(of) => {
                    let at = of.1.get();
                    of.1.set((at + 1).min(of.0.len()));
                    of.0.get(at).cloned().unwrap_or_else(none)
                }
                other => other.iterate(budget)?.into_iter().next().unwrap_or_else(none),
            })
        }
        "last" => match value {
            Value::Stream(_) => failed("'generator' object is not reversible"),
            other => {
                let none = || Value::undefined("No last item, sequence was empty.");
                Ok(other.iterate(budget)?.pop().unwrap_or_else(none))
            }
        },
        "random" => failed("random gives another prompt each time; no prompt is made with it"),
        "list" => Value::list(value.iterate(budget)?, budget),
        "items" => match value {
            Value::Undefined(_) => Value::stream(Vec::new(), budget),
            Value::Dict(dict) => {
                Value::stream(Value::View(View::Items, dict.clone()).iterate(budget)?, budget)
            }
            _ => failed("Can only get item pairs from a mapping."),
        },
        _ => match value {
            Value::Str(text) => {
                let made = budget.raw_text(text.iter().rev().copied().collect())?;
                Ok(Value::Str(made.as_markup(text.markup)))
            }
            other => {
                let mut items = other.iterate(budget)?;
                items.reverse();
                Value::stream(items, budget)
            }
        },
    }
}

fn number(run: &Run, name: &str, value: &Value, bound: &Bound) -> Result<Value> {
    let of_number = |value: &Value| match value {
        Value::Float(number) => Some(*number),
        other => other.index().map(|number| number as f64),
    };
    let parsed = |value: &Value| match value {
        Value::Str(text) => parse_float(&plain(text)),
        other => of_number(other),
    };
    match name {
        "abs" => match value {
            Value::Float(number) => Ok(Value::Float(number.abs())),
            other => match other.index() {
                Some(number) => Ok(Value::Int(number.saturating_abs())),
                None => failed(format!("bad operand type for abs(): '{}'", other.type_name())),
            },
        },
        "float" => {
            present(value)?;
            Ok(match parsed(value) {
                Some(number) => Value::Float(number),
                None => bound.get(1).cloned().unwrap_or(Value::Float(0.0)),
            })
        }
        "int" => {
            present(value)?;
            let base = u32::try_from(bound.int(2, 10)?).unwrap_or(1);
            let whole = match value {
                Value::Str(text) => parse_int(&plain(text), base),
                other => other.index(),
            };
            let whole = whole.or_else(|| parsed(value).and_then(truncated));
            Ok(whole
                .map(Value::Int)
                .unwrap_or_else(|| bound.get(1).cloned().unwrap_or(Value::Int(0))))
        }
        "round" => {
            present(value)?;
            let method = bound.get(2).map(|_| bound.name(2)).transpose()?;
            let digits = bound.int(1, 0)?;
            let Some(number) = of_number(value) else {
                let kind = value.type_name();
                return failed(format!("type {kind} doesn't define __round__ method"));
            };
            let scale = 10f64.powi(i32::try_from(digits).unwrap_or(0));
            match method.as_deref() {
                None | Some("common") => Ok(match value.index() {
                    Some(whole) if digits >= 0 => Value::Int(whole),
                    Some(_) => Value::Int(rounded(number, digits) as i128),
                    None => Value::Float(rounded(number, digits)),
                }),
                Some("ceil") => Ok(Value::Float((number * scale).ceil() / scale)),
                Some("floor") => Ok(Value::Float((number * scale).floor() / scale)),
                Some(_) => failed("method must be common, ceil or floor"),
            }
        }
        _ => {
            present(value)?;
            let Some(bytes) = parsed(value) else {
                return failed("could not convert string to float");
            };
            run.budget.own(&file_size(bytes, bound.flag(1, false)))
        }
    }
}

fn file_size(bytes: f64, binary: bool) -> String {
    let base: f64 = if binary { 1024.0 } else { 1000.0 };
    if bytes == 1.0 {
        return "1 Byte".to_owned();
    }
    if bytes < base {
        return format!("{} Bytes", bytes.trunc());
    }
    let mut unit = base;
    for (index, prefix) in "kMGTPEZY".chars().enumerate() {
        unit *= base;
        if bytes < unit || index == 7 {
            let prefix = if binary {
                format!("{}i", prefix.to_ascii_uppercase())
            } else {
                prefix.to_string()
            };
            return format!("{:.1} {prefix}B", base * bytes / unit);
        }
    }
    String::new()
}

fn text(run: &Run, name: &str, value: &Value, bound: &Bound) -> Result<Value> {
    let budget = &run.budget;
    let string = run.string(value)?;
    budget.characters(string.len())?;
    let make = |chars: Vec<Char>| -> Result<Value> {
        Ok(Value::Str(budget.raw_text(chars)?.as_markup(string.markup)))
    };
    match name {
        "upper" => make(strings::upper(&string)),
        "lower" => make(strings::lower(&string)),
        "capitalize" => make(strings::capitalize(&string)),
        "title" => budget.text(strings::title_words(&string)),
        "string" => Ok(Value::Str(string)),
        "safe" => Ok(Value::Str(string.as_markup(true))),
        "e" | "escape" if string.markup => Ok(Value::Str(string)),
        "e" | "escape" | "forceescape" => Ok(Value::Str(strings::escape(run, &string)?)),
        "trim" => {
            let of = bound.optional_text(1)?;
            budget.part(&string, strings::strip(&string, of.as_deref(), Side::Both))
        }
        "center" => {
            make(strings::pad(run, &string, bound.int(1, 80)?, Char::own(' '), Side::Both)?)
        }
        "replace" => {
            let (old, new) = (run.string(&bound.value(1))?, run.string(&bound.value(2))?);
            let most = if bound.some(3).is_some() { bound.int(3, -1)? } else { -1 };
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            budget.text(strings::replace(run, &string, &old, &new, most)?)
        }
        "indent" => {
            let Value::Str(string) = value else {
                return failed(format!("indent expects a string, not '{}'", value.type_name()));
            };
            let by = match bound.get(1) {
                Some(Value::Str(by)) => by.to_vec(),
                _ => {
                    let width = usize::try_from(bound.int(1, 4)?).unwrap_or(0);
                    budget.room(width)?;
                    own(" ").repeat(width)
                }
            };
            make(strings::indent(run, string, &by, bound.flag(2, false), bound.flag(3, false))?)
        }
        "truncate" => truncate(run, &string, bound),
        "wordcount" => Ok(Value::Int(strings::word_count(&string) as i128)),
        "wordwrap" => {
            let width = usize::try_from(bound.int(1, 79)?).unwrap_or(0);
            if width == 0 {
                return failed("invalid width (must be > 0)");
            }
            // Lines are made one by one before they are joined.
            budget.room(string.len() * 12)?;
            let newline = bound.optional_text(3)?.unwrap_or(Text::literal("\n"));
            let mut out = budget.collect();
            for (index, line) in strings::lines(&string, false).into_iter().enumerate() {
                if index > 0 {
                    out.extend(&newline);
                }
                let wrapped = strings::wrap(line, width, bound.flag(2, true), bound.flag(4, true));
                budget.steps(wrapped.len() as u64)?;
                for (index, line) in wrapped.iter().enumerate() {
                    if index > 0 {
                        out.extend(&newline);
                    }
                    out.extend(line);
                }
            }
            out.value()
        }
        "striptags" => strip_tags(run, &string),
        "urlencode" => url_encode(run, value, &string),
        "xmlattr" => xml_attributes(run, value, bound.flag(1, true)),
        other => failed(format!("the filter '{other}' is not supported")),
    }
}

fn truncate(run: &Run, text: &Text, bound: &Bound) -> Result<Value> {
    let end = bound.optional_text(3)?.unwrap_or(Text::literal("..."));
    let (length, leeway) =
        (bound.int(1, 255)?, if bound.some(4).is_some() { bound.int(4, 5)? } else { 5 });
    if length < end.len() as i128 || leeway < 0 {
        return failed(format!("expected length >= {} and leeway >= 0", end.len()));
    }
    if text.len() as i128 <= length.saturating_add(leeway) {
        return Ok(Value::Str(text.clone()));
    }
    let kept = usize::try_from(length).unwrap_or(0) - end.len();
    let mut part = &text[..kept];
    if !bound.flag(2, false)
        && let Some(space) = part.iter().rposition(|c| c.get() == ' ')
    {
        part = &part[..space];
    }
    run.budget.text([part, &end[..]].concat())
}

/// Without comments and tags, white space being single spaces.
fn strip_tags(run: &Run, text: &[Char]) -> Result<Value> {
    let mut kept = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        let starts = |mark: &str| rest.get(..mark.len()).is_some_and(|begin| same(begin, mark));
        let end = if starts("<!--") { "-->" } else { ">" };
        let close = Some(first)
            .filter(|c| c.get() == '<')
            .and_then(|_| crate::arithmetic::find(rest, &own(end)));
        match close {
            Some(at) => rest = &rest[at + end.len()..],
            None => {
                kept.push(*first);
                rest = tail;
            }
        }
        run.budget.steps(1)?;
    }
    let words = strings::words(&kept, usize::MAX, false);
    let text = run.budget.raw_text(words.join(&Char::own(' ')))?;
    // Entities are read back.
    let mut text = text;
    for (entity, plain) in [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&#34;", "\""),
        ("&#39;", "'"),
        ("&quot;", "\""),
        ("&amp;", "&"),
    ] {
        text = run.budget.raw_text(strings::replace(
            run,
            &text,
            &own(entity),
            &own(plain),
            usize::MAX,
        )?)?;
    }
    Ok(Value::Str(text))
}

fn url_encode(run: &Run, value: &Value, text: &Text) -> Result<Value> {
    let pairs = match value {
        Value::Dict(dict) => Value::View(View::Items, dict.clone()).iterate(&run.budget)?,
        Value::Str(_) => return run.budget.text(strings::url_quote(run, text, false)?),
        other if other.is_iterable() => other.iterate(&run.budget)?,
        _ => return run.budget.text(strings::url_quote(run, text, false)?),
    };
    let mut out = run.budget.collect();
    for (index, pair) in pairs.iter().enumerate() {
        let pair = pair.iterate(&run.budget)?;
        let [key, value] = &pair[..] else { return failed("urlencode expects pairs") };
        if index > 0 {
            out.own("&");
        }
        out.extend(&strings::url_quote(run, &run.string(key)?, true)?);
        out.own("=");
        out.extend(&strings::url_quote(run, &run.string(value)?, true)?);
    }
    out.value()
}

fn xml_attributes(run: &Run, value: &Value, space: bool) -> Result<Value> {
    let Value::Dict(dict) = value else {
        present(value)?;
        return failed(format!("'{}' object has no attribute 'items'", value.type_name()));
    };
    let mut out = run.budget.collect();
    let there = |(_, value): &(&Key, &Value)| !matches!(value, Value::None | Value::Undefined(_));
    for (index, (key, value)) in dict.map().iter().filter(there).enumerate() {
        let key = run.string(key.value())?;
        if key.iter().any(|c| matches!(c.get(), '/' | '>' | '=') || c.get().is_ascii_whitespace()) {
            return failed("Invalid character in attribute name");
        }
        out.own(if index > 0 || space { " " } else { "" });
        out.extend(&strings::escape(run, &key)?);
        out.own("=\"");
        out.extend(&strings::escape(run, &run.string(value)?)?);
        out.own("\"");
    }
    out.value()
}

/// The `format` filter: `%` with its arguments.
fn format(run: &Run, value: &Value, given: Given) -> Result<Value> {
    let text = run.string(value)?;
    if given.named.is_empty() {
        return percent(run, &text, &Value::tuple(given.positional, &run.budget)?);
    }
    if !given.positional.is_empty() {
        return failed("can't handle positional and keyword arguments at the same time");
    }
    let pair = |(name, value): (std::sync::Arc<str>, Value)| {
        Ok((Key::new(run.budget.own(&name)?, &run.budget)?, value))
    };
    let map = given.named.into_iter().map(pair).collect::<Result<_>>()?;
    percent(run, &text, &Value::Dict(Dict::new(map, &run.budget)?))
}
