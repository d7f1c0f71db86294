//! `text % values`: Python's "printf-style String Formatting".

use crate::error::{Result, failed};
use crate::execute::Run;
use crate::format::{Spec, format_float, format_int};
use crate::numbers::truncated;
use crate::text::{Char, Text, own, plain};
use crate::value::Value;

/// Where values come from: one after the other, or by name.
struct Values<'v> {
    all: &'v [Value],
    used: usize,
    map: Option<&'v Value>,
}

impl Values<'_> {
    fn next(&mut self) -> Result<Value> {
        match self.all.get(self.used) {
            Some(value) => {
                self.used += 1;
                Ok(value.clone())
            }
            None => failed("not enough arguments for format string"),
        }
    }
}

pub(crate) fn percent(run: &Run, text: &Text, values: &Value) -> Result<Value> {
    let mut source = match values {
        Value::Tuple(items) => Values { all: items, used: 0, map: None },
        one => {
            let map = matches!(one, Value::Dict(_) | Value::List(_)).then_some(one);
            Values { all: std::slice::from_ref(one), used: 0, map }
        }
    };
    let mut out = run.budget.collect();
    let mut at = 0;
    while let Some(&c) = text.get(at) {
        at += 1;
        if c.get() != '%' {
            out.push(c);
            continue;
        }
        out.check()?;
        let made = conversion(run, text, &mut at, &mut source)?;
        out.extend(&made);
    }
    if source.used < source.all.len() && source.map.is_none() {
        return failed("not all arguments converted during string formatting");
    }
    Ok(Value::Str(run.budget.raw_text(out.chars()?)?.as_markup(text.markup)))
}

/// The value that stands for what begins behind a `%` at `at`, which is moved past it.
fn conversion(run: &Run, text: &[Char], at: &mut usize, source: &mut Values) -> Result<Vec<Char>> {
    let peek = |at: usize| text.get(at).map(|c| c.get());
    let mut named = None;
    if peek(*at) == Some('(') {
        let begin = *at + 1;
        let mut open = 1;
        *at += 1;
        while open > 0 {
            match peek(*at) {
                Some('(') => open += 1,
                Some(')') => open -= 1,
                Some(_) => (),
                None => return failed("incomplete format key"),
            }
            *at += 1;
        }
        let key = plain(&text[begin..*at - 1]);
        let Some(Value::Dict(map)) = source.map else { return failed("format requires a mapping") };
        match map.get(&text[begin..*at - 1]) {
            Some(value) => named = Some(value.clone()),
            None => return failed(format!("the mapping has no '{key}'")),
        }
    }
    let mut spec = Spec::default();
    while let Some(flag) = peek(*at).filter(|c| "-+ 0#".contains(*c)) {
        match flag {
            '-' => spec.align = Some('<'),
            '+' => spec.sign = Some('+'),
            ' ' if spec.sign.is_none() => spec.sign = Some(' '),
            '0' => spec.zero = true,
            '#' => spec.alternate = true,
            _ => (),
        }
        *at += 1;
    }
    let number = |at: &mut usize, source: &mut Values| -> Result<Option<i128>> {
        if peek(*at) == Some('*') {
            *at += 1;
            return match source.next()?.index() {
                Some(number) => Ok(Some(number)),
                None => failed("* wants int"),
            };
        }
        let begin = *at;
        while peek(*at).is_some_and(|c| c.is_ascii_digit()) {
            *at += 1;
        }
        Ok(plain(&text[begin..*at]).parse().ok())
    };
    if let Some(width) = number(at, source)? {
        if width < 0 {
            spec.align = Some('<');
        }
        spec.width = usize::try_from(width.unsigned_abs()).unwrap_or(usize::MAX);
    }
    if peek(*at) == Some('.') {
        *at += 1;
        spec.precision = Some(usize::try_from(number(at, source)?.unwrap_or(0)).unwrap_or(0));
    }
    while peek(*at).is_some_and(|c| matches!(c, 'h' | 'l' | 'L')) {
        *at += 1;
    }
    let Some(kind) = peek(*at) else { return failed("incomplete format") };
    *at += 1;
    if kind == '%' {
        return Ok(own("%"));
    }
    let value = match named {
        Some(value) => value,
        None => source.next()?,
    };
    one(run, kind, &value, spec)
}

fn one(run: &Run, kind: char, value: &Value, mut spec: Spec) -> Result<Vec<Char>> {
    let unsuited = |wanted: &str| {
        let found = value.type_name();
        failed(format!("%{kind} format: {wanted} is required, not {found}"))
    };
    if spec.align == Some('<') {
        spec.zero = false;
    }
    match kind {
        's' | 'r' | 'a' => {
            let mut out = run.budget.collect();
            if kind == 's' {
                run.show(value, &mut out)?;
            } else {
                run.spell(value, &mut out)?;
            }
            let mut body = out.chars()?;
            body.truncate(spec.precision.unwrap_or(usize::MAX));
            spec.zero = false;
            spec.laid_out(run, "", body, '>')
        }
        'c' => {
            spec.zero = false;
            let body = match value {
                Value::Str(text) if text.len() == 1 => text.to_vec(),
                other => {
                    match other.index().and_then(|n| u32::try_from(n).ok()).and_then(char::from_u32)
                    {
                        Some(c) => vec![Char::own(c)],
                        None => return failed("%c requires int or char"),
                    }
                }
            };
            spec.laid_out(run, "", body, '>')
        }
        'd' | 'i' | 'u' | 'o' | 'x' | 'X' => {
            let number = match value {
                Value::Float(number) if matches!(kind, 'd' | 'i' | 'u') => truncated(*number),
                other => other.index(),
            };
            let Some(number) = number else {
                return unsuited(if kind == 'd' { "a real number" } else { "an integer" });
            };
            // A precision is the least number of digits.
            if let Some(digits) = spec.precision.take() {
                let shortest = Spec {
                    kind: Some(if kind == 'i' || kind == 'u' { 'd' } else { kind }),
                    ..Spec::default()
                };
                let made = format_int(
                    run,
                    i128::try_from(number.unsigned_abs()).unwrap_or(i128::MAX),
                    &shortest,
                )?;
                let body = Spec { zero: true, width: digits, ..Spec::default() }
                    .laid_out(run, "", made, '>')?;
                let sign = if number < 0 {
                    "-"
                } else {
                    spec.sign.map_or("", |s| if s == '+' { "+" } else { " " })
                };
                return spec.laid_out(run, sign, body, '>');
            }
            spec.kind = Some(if matches!(kind, 'i' | 'u') { 'd' } else { kind });
            format_int(run, number, &spec)
        }
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
            let number = match value {
                Value::Float(number) => *number,
                other => match other.index() {
                    Some(number) => number as f64,
                    None => {
                        let found = value.type_name();
                        return failed(format!("must be real number, not {found}"));
                    }
                },
            };
            spec.kind = Some(kind);
            format_float(run, number, &spec)
        }
        other => failed(format!("unsupported format character '{other}'")),
    }
}
