//! Methods of Python's values.

use crate::arguments::{Bound, Given};
use crate::arithmetic::{self, find};
use crate::error::{Result, failed};
use crate::execute::Run;
use crate::format;
use crate::python;
use crate::sequences;
use crate::strings::{self, Side};
use crate::text::{Char, Text};
use crate::value::{Dict, Key, Value, View};

/// Methods that change what they are of; the sandbox hides them. Strings have none.
pub(crate) const CHANGING: [&str; 12] = [
    "append",
    "clear",
    "extend",
    "insert",
    "pop",
    "popitem",
    "remove",
    "reverse",
    "setdefault",
    "sort",
    "update",
    "discard",
];

const OF_TEXT: [&str; 44] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "upper",
    "zfill",
];
const OF_DICT: [&str; 11] = [
    "clear",
    "copy",
    "fromkeys",
    "get",
    "items",
    "keys",
    "pop",
    "popitem",
    "setdefault",
    "update",
    "values",
];
const OF_LIST: [&str; 11] = [
    "append", "clear", "copy", "count", "extend", "index", "insert", "pop", "remove", "reverse",
    "sort",
];

/// The names of the methods that `value` has.
pub(crate) fn of(value: &Value) -> &'static [&'static str] {
    match value {
        Value::Str(_) => &OF_TEXT,
        Value::Dict(_) => &OF_DICT,
        Value::List(_) => &OF_LIST,
        Value::Tuple(_) | Value::Range(_) => &["count", "index"],
        Value::Int(_) | Value::Bool(_) => &["bit_length", "conjugate"],
        Value::Float(_) => &["is_integer", "conjugate"],
        Value::Loop(_) => &["cycle", "changed"],
        Value::Cycler(_) => &["next", "reset"],
        Value::Function(crate::value::Function::Dict) => &["fromkeys"],
        _ => &[],
    }
}

/// Calls the method `name` of `of`.
pub(crate) fn call(run: &Run, of: &Value, name: &'static str, given: Given) -> Result<Value> {
    match of {
        Value::Str(text) => of_text(run, text, name, given),
        Value::Dict(dict) => of_dict(run, dict, name, given),
        Value::Function(_) => from_keys(run, given),
        Value::List(_) | Value::Tuple(_) | Value::Range(_) => of_items(run, of, name, given),
        Value::Loop(state) if name == "changed" => run.loop_changed(state, given),
        Value::Loop(state) => match given.positional.len() {
            0 => failed("no items for cycling given"),
            count => Ok(given.positional[state.index.get() % count].clone()),
        },
        Value::Cycler(of) => {
            given.bind(name, &[], 0)?;
            let (items, at) = &**of;
            let current = items.get(at.get()).cloned().unwrap_or(Value::None);
            if name == "reset" {
                at.set(0);
                return Ok(Value::None);
            }
            at.set((at.get() + 1) % items.len().max(1));
            Ok(current)
        }
        Value::Float(number) if name == "is_integer" => {
            given.bind(name, &[], 0)?;
            Ok(Value::Bool(number.is_finite() && number.fract() == 0.0))
        }
        Value::Float(_) => Ok(of.clone()),
        number if name == "bit_length" => {
            given.bind(name, &[], 0)?;
            let number = number.index().unwrap_or(0).unsigned_abs();
            Ok(Value::Int(i128::from(128 - number.leading_zeros())))
        }
        number => Ok(number.index().map_or(Value::None, Value::Int)),
    }
}

fn of_dict(run: &Run, dict: &Dict, name: &str, given: Given) -> Result<Value> {
    match name {
        "get" => {
            let bound = given.bind("get", &["key", "default"], 1)?;
            let found = match bound.value(0) {
                Value::Str(name) => {
                    run.budget.characters(name.len())?;
                    dict.get(&name).cloned()
                }
                key => dict.map().get(&Key::new(key, &run.budget)?).cloned(),
            };
            Ok(found.unwrap_or_else(|| bound.value(1)))
        }
        "fromkeys" => from_keys(run, given),
        _ => {
            given.bind(name, &[], 0)?;
            Ok(match name {
                "keys" => Value::View(View::Keys, dict.clone()),
                "values" => Value::View(View::Values, dict.clone()),
                "items" => Value::View(View::Items, dict.clone()),
                _ => Value::Dict(dict.clone()),
            })
        }
    }
}

fn from_keys(run: &Run, given: Given) -> Result<Value> {
    let bound = given.bind("fromkeys", &["iterable", "value"], 1)?;
    let keys = bound.value(0).iterate(&run.budget)?;
    let pair = |key| Ok((Key::new(key, &run.budget)?, bound.value(1)));
    let map = keys.into_iter().map(pair).collect::<Result<_>>()?;
    Ok(Value::Dict(Dict::new(map, &run.budget)?))
}

fn of_items(run: &Run, of: &Value, name: &str, given: Given) -> Result<Value> {
    if name == "copy" {
        given.bind(name, &[], 0)?;
        return Ok(of.clone());
    }
    let bound = given.bind(name, &["value", "start", "stop"], 1)?;
    let wanted = bound.value(0);
    let items = of.iterate(&run.budget)?;
    let len = items.len() as i128;
    let place = |index: usize, default: i128| -> Result<usize> {
        let at = bound.int(index, default)?;
        let at = if at < 0 { at.saturating_add(len) } else { at };
        Ok(usize::try_from(at.clamp(0, len)).unwrap_or(0))
    };
    let (start, stop) = (place(1, 0)?, place(2, len)?);
    let mut count = 0;
    for (index, item) in items.iter().enumerate() {
        if arithmetic::equal(run, item, &wanted)? {
            if name == "index" && (start..stop).contains(&index) {
                return Ok(Value::Int(index as i128));
            }
            count += 1;
        }
    }
    if name == "index" { failed("the value is not in the list") } else { Ok(Value::Int(count)) }
}

/// The part of a text that `start` and `end` name, and where it begins; `None` if they are past it.
fn part<'t>(text: &'t [Char], bound: &Bound, first: usize) -> Result<Option<(usize, &'t [Char])>> {
    let len = text.len() as i128;
    let place = |index: usize, default: i128| -> Result<i128> {
        let at = if bound.some(index).is_some() { bound.int(index, default)? } else { default };
        Ok(if at < 0 { at.saturating_add(len).max(0) } else { at })
    };
    let (start, end) = (place(first, 0)?, place(first + 1, len)?.min(len));
    if start > end {
        return Ok(None);
    }
    let (start, end) = (usize::try_from(start).unwrap_or(0), usize::try_from(end).unwrap_or(0));
    Ok(Some((start, &text[start..end])))
}

fn of_text(run: &Run, text: &Text, name: &'static str, given: Given) -> Result<Value> {
    let budget = &run.budget;
    budget.characters(text.len())?;
    if name.ends_with("split") || name == "splitlines" {
        // There may be as many parts as characters.
        budget.room(text.len() * 4)?;
    }
    let make = |chars: Vec<Char>| -> Result<Value> {
        Ok(Value::Str(budget.raw_text(chars)?.as_markup(text.markup)))
    };
    let test = |holds: fn(char) -> bool| {
        Value::Bool(!text.is_empty() && text.iter().all(|c| holds(c.get())))
    };
    match name {
        "format" => return format::format(run, text, given),
        "format_map" => {
            let Value::Dict(map) = given.bind(name, &["mapping"], 1)?.value(0) else {
                return failed("format_map() expects a mapping");
            };
            return format::format_map(run, text, &map);
        }
        "strip" | "lstrip" | "rstrip" => {
            let of = given.bind(name, &["chars"], 0)?.optional_text(0)?;
            let side = match name {
                "strip" => Side::Both,
                "lstrip" => Side::Left,
                _ => Side::Right,
            };
            return budget.part(text, strings::strip(text, of.as_deref(), side));
        }
        "split" | "rsplit" => {
            let bound = given.bind(name, &["sep", "maxsplit"], 0)?;
            return split(run, text, &bound, name == "rsplit");
        }
        "splitlines" => {
            let keep = given.bind(name, &["keepends"], 0)?.flag(0, false);
            return parts(run, text, strings::lines(text, keep));
        }
        "partition" | "rpartition" => {
            let separator = given.bind(name, &["sep"], 1)?.text(0)?;
            if separator.is_empty() {
                return failed("empty separator");
            }
            let from_right = name == "rpartition";
            let found = if from_right {
                strings::find_last(text, &separator)
            } else {
                find(text, &separator)
            };
            let (before, middle, after) = match found {
                Some(at) => {
                    (&text[..at], &text[at..at + separator.len()], &text[at + separator.len()..])
                }
                None if from_right => (&text[..0], &text[..0], &text[..]),
                None => (&text[..], &text[..0], &text[..0]),
            };
            let parts = [before, middle, after].into_iter().map(|part| budget.part(text, part));
            return Value::tuple(parts.collect::<Result<_>>()?, budget);
        }
        "startswith" | "endswith" => {
            let bound = given.bind(name, &["prefix", "start", "end"], 1)?;
            let Some((_, part)) = part(text, &bound, 1)? else { return Ok(Value::Bool(false)) };
            let fits = |one: &Value| match one {
                Value::Str(one) if name == "startswith" => Ok(part.starts_with(one)),
                Value::Str(one) => Ok(part.ends_with(one)),
                other => {
                    let found = other.type_name();
                    failed(format!("{name} first arg must be str or a tuple of str, not {found}"))
                }
            };
            let holds = match bound.value(0) {
                Value::Tuple(all) => {
                    let mut fitting = all.iter().map(fits);
                    fitting.try_fold(false, |any, fits| Ok::<_, crate::Error>(any || fits?))?
                }
                one => fits(&one)?,
            };
            return Ok(Value::Bool(holds));
        }
        "find" | "rfind" | "index" | "rindex" | "count" => {
            let bound = given.bind(name, &["sub", "start", "end"], 1)?;
            let one = bound.text(0)?;
            let part = part(text, &bound, 1)?;
            if name == "count" {
                let count = part.map_or(0, |(_, part)| strings::count(part, &one));
                return Ok(Value::Int(count as i128));
            }
            let place = |part: &[Char]| match name {
                "find" | "index" => find(part, &one),
                _ => strings::find_last(part, &one),
            };
            let found = part.and_then(|(start, part)| Some(start + place(part)?));
            return match found {
                Some(at) => Ok(Value::Int(at as i128)),
                None if name.ends_with("find") => Ok(Value::Int(-1)),
                None => failed("substring not found"),
            };
        }
        "replace" => {
            let bound = given.bind(name, &["old", "new", "count"], 2)?;
            let most = usize::try_from(bound.int(2, -1)?).unwrap_or(usize::MAX);
            return make(strings::replace(run, text, &bound.text(0)?, &bound.text(1)?, most)?);
        }
        "join" => {
            let items = given.bind(name, &["iterable"], 1)?.value(0).iterate(budget)?;
            return sequences::join_texts(run, text, &items);
        }
        "removeprefix" | "removesuffix" => {
            let affix = given.bind(name, &["affix"], 1)?.text(0)?;
            let rest = match name {
                "removeprefix" => text.strip_prefix(&affix[..]),
                _ => text.strip_suffix(&affix[..]),
            };
            return budget.part(text, rest.unwrap_or(text));
        }
        "center" | "ljust" | "rjust" => {
            let bound = given.bind(name, &["width", "fillchar"], 1)?;
            let fill = match bound.get(1) {
                None => Char::own(' '),
                Some(_) => match bound.text(1)?[..] {
                    [fill] => fill,
                    _ => return failed("The fill character must be exactly one character long"),
                },
            };
            let side = match name {
                "center" => Side::Both,
                "ljust" => Side::Left,
                _ => Side::Right,
            };
            return make(strings::pad(run, text, bound.int(0, 0)?, fill, side)?);
        }
        "zfill" => {
            let width = given.bind(name, &["width"], 1)?.int(0, 0)?;
            return make(strings::zero_fill(run, text, width)?);
        }
        "expandtabs" => {
            let size = given.bind(name, &["tabsize"], 0)?.int(0, 8)?;
            return make(strings::expand_tabs(run, text, size)?);
        }
        _ => (),
    }
    given.bind(name, &[], 0)?;
    Ok(match name {
        "upper" => make(strings::upper(text))?,
        "lower" | "casefold" => {
            let lower = strings::lower(text);
            let folded = lower.iter().flat_map(|c| match c.get() {
                'ß' => vec![c.with('s'); 2],
                'ς' => vec![c.with('σ')],
                _ => vec![*c],
            });
            make(if name == "lower" { lower } else { folded.collect() })?
        }
        "title" => make(strings::title(text))?,
        "capitalize" => make(strings::capitalize(text))?,
        "swapcase" => make(strings::swapcase(text))?,
        "islower" => Value::Bool(strings::is_lower(text)),
        "isupper" => Value::Bool(strings::is_upper(text)),
        "istitle" => Value::Bool(strings::is_title(text)),
        "isspace" => test(python::is_space),
        "isalpha" => test(python::is_alpha),
        "isalnum" => test(python::is_alnum),
        "isdecimal" => test(python::is_decimal),
        "isdigit" => test(python::is_digit),
        "isnumeric" => test(python::is_numeric),
        "isidentifier" => match text.first() {
            Some(first) => Value::Bool(
                (first.get() == '_' || python::is_alpha(first.get()))
                    && text.iter().all(|c| python::is_word(c.get())),
            ),
            None => Value::Bool(false),
        },
        "isascii" => Value::Bool(text.iter().all(|c| c.get().is_ascii())),
        "isprintable" => Value::Bool(text.iter().all(|c| python::is_printable(c.get()))),
        other => return failed(format!("the method '{other}' of strings is not supported")),
    })
}

fn split(run: &Run, text: &Text, bound: &Bound, from_right: bool) -> Result<Value> {
    let most = usize::try_from(bound.int(1, -1)?).unwrap_or(usize::MAX);
    match bound.optional_text(0)? {
        Some(separator) if separator.is_empty() => failed("empty separator"),
        Some(separator) => parts(run, text, strings::split(text, &separator, most, from_right)),
        None => parts(run, text, strings::words(text, most, from_right)),
    }
}

/// Parts of a text as a list.
fn parts(run: &Run, text: &Text, parts: Vec<&[Char]>) -> Result<Value> {
    run.budget.room(parts.len() * 8)?;
    let parts = parts.into_iter().map(|part| run.budget.part(text, part));
    Value::list(parts.collect::<Result<_>>()?, &run.budget)
}
