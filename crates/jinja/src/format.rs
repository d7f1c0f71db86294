//! `str.format` and its little language (Python's "Format Specification Mini-Language").

use crate::arguments::Given;
use crate::arithmetic::present;
use crate::attributes;
use crate::error::{Result, failed};
use crate::execute::Run;
use crate::numbers::{exponent, float};
use crate::text::{Char, Text, own, plain};
use crate::value::{Dict, Value};

/// Most digits behind the point that are written.
const MAX_PRECISION: usize = 2000;

/// How a value is to be laid out.
#[derive(Default, Clone)]
pub(crate) struct Spec {
    pub fill: Option<Char>,
    /// `<`, `>`, `^` or `=` (behind the sign).
    pub align: Option<char>,
    /// `+`, `-` or a space.
    pub sign: Option<char>,
    pub alternate: bool,
    pub zero: bool,
    pub width: usize,
    pub group: Option<char>,
    pub precision: Option<usize>,
    pub kind: Option<char>,
}

impl Spec {
    fn parse(source: &[Char]) -> Result<Self> {
        let mut spec = Self::default();
        let is_align =
            |c: Option<&Char>| c.is_some_and(|c| matches!(c.get(), '<' | '>' | '^' | '='));
        let mut rest = source;
        if is_align(rest.get(1)) {
            (spec.fill, spec.align) = (Some(rest[0]), Some(rest[1].get()));
            rest = &rest[2..];
        } else if is_align(rest.first()) {
            spec.align = Some(rest[0].get());
            rest = &rest[1..];
        }
        let mut take = |wanted: &[char]| -> Option<char> {
            let c = rest.first()?.get();
            wanted.contains(&c).then(|| {
                rest = &rest[1..];
                c
            })
        };
        spec.sign = take(&['+', '-', ' ']);
        spec.alternate = take(&['#']).is_some();
        spec.zero = take(&['0']).is_some();
        let digits = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9'];
        let number = |take: &mut dyn FnMut(&[char]) -> Option<char>| -> Result<Option<usize>> {
            let mut number: Option<usize> = None;
            while let Some(digit) = take(&digits).and_then(|c| c.to_digit(10)) {
                let more =
                    number.unwrap_or(0).checked_mul(10).and_then(|n| n.checked_add(digit as usize));
                match more.filter(|n| *n <= i32::MAX as usize) {
                    Some(more) => number = Some(more),
                    None => return failed("Too many decimal digits in format string"),
                }
            }
            Ok(number)
        };
        spec.width = number(&mut take)?.unwrap_or(0);
        spec.group = take(&[',', '_']);
        if take(&['.']).is_some() {
            spec.precision = number(&mut take)?;
            if spec.precision.is_none() {
                return failed("Format specifier missing precision");
            }
        }
        match rest {
            [] => Ok(spec),
            [kind] => Ok(Self { kind: Some(kind.get()), ..spec }),
            _ => failed("Invalid format specifier"),
        }
    }

    /// `sign` and `body` at their place in the width.
    pub fn laid_out(
        &self,
        run: &Run,
        sign: &str,
        body: Vec<Char>,
        default: char,
    ) -> Result<Vec<Char>> {
        let sign = own(sign);
        let missing = self.width.saturating_sub(sign.len() + body.len());
        run.budget.room(self.width.max(body.len()))?;
        let zero = self.zero && self.align.is_none();
        let fill = self.fill.unwrap_or(Char::own(if self.zero { '0' } else { ' ' }));
        let fill = |count: usize| vec![fill; count];
        Ok(match self.align.unwrap_or(if zero { '=' } else { default }) {
            '<' => [sign, body, fill(missing)].concat(),
            '^' => [fill(missing / 2), sign, body, fill(missing - missing / 2)].concat(),
            '=' => [sign, fill(missing), body].concat(),
            _ => [fill(missing), sign, body].concat(),
        })
    }

    fn sign_of(&self, negative: bool) -> &'static str {
        match self.sign {
            _ if negative => "-",
            Some('+') => "+",
            Some(' ') => " ",
            _ => "",
        }
    }
}

/// `format(value, spec)`.
fn formatted(run: &Run, value: &Value, source: &[Char]) -> Result<Vec<Char>> {
    if source.is_empty() {
        return Ok(run.string(value)?.to_vec());
    }
    let spec = Spec::parse(source)?;
    match value {
        Value::Str(text) => {
            if !matches!(spec.kind, None | Some('s')) {
                return failed("Unknown format code for object of type 'str'");
            }
            if spec.align == Some('=') || spec.sign.is_some() || spec.group.is_some() {
                return failed("this format specifier is not allowed for strings");
            }
            let end = spec.precision.unwrap_or(text.len()).min(text.len());
            let align = Spec { align: spec.align.or(Some('<')), ..spec };
            align.laid_out(run, "", text[..end].to_vec(), '<')
        }
        Value::Float(number) => format_float(run, *number, &spec),
        other => match other.index() {
            Some(number) => format_int(run, number, &spec),
            None => {
                let kind = other.type_name();
                failed(format!("unsupported format string passed to {kind}.__format__"))
            }
        },
    }
}

pub(crate) fn format_int(run: &Run, number: i128, spec: &Spec) -> Result<Vec<Char>> {
    let size = number.unsigned_abs();
    let (digits, prefix, every) = match spec.kind {
        None | Some('d' | 'n') => (size.to_string(), "", 3),
        Some('b') => (format!("{size:b}"), "0b", 4),
        Some('o') => (format!("{size:o}"), "0o", 4),
        Some('x') => (format!("{size:x}"), "0x", 4),
        Some('X') => (format!("{size:X}"), "0X", 4),
        Some('c') => {
            let c = u32::try_from(number).ok().and_then(char::from_u32);
            let Some(c) = c else { return failed("%c arg not in range(0x110000)") };
            return spec.laid_out(run, "", vec![Char::own(c)], '<');
        }
        Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%') => {
            return format_float(run, number as f64, spec);
        }
        Some(other) => {
            return failed(format!("Unknown format code '{other}' for object of type 'int'"));
        }
    };
    if spec.precision.is_some() {
        return failed("Precision not allowed in integer format specifier");
    }
    let digits = grouped(&digits, spec.group, every);
    let prefix = if spec.alternate { prefix } else { "" };
    let sign = format!("{}{prefix}", spec.sign_of(number < 0));
    spec.laid_out(run, &sign, own(&digits), '>')
}

/// `digits` with a mark between every few of the whole part.
fn grouped(digits: &str, mark: Option<char>, every: usize) -> String {
    let Some(mark) = mark else { return digits.to_owned() };
    let whole = digits.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(digits.len());
    let mut made = String::new();
    for (index, c) in digits[..whole].chars().enumerate() {
        if index > 0 && (whole - index) % every == 0 {
            made.push(mark);
        }
        made.push(c);
    }
    made + &digits[whole..]
}

pub(crate) fn format_float(run: &Run, number: f64, spec: &Spec) -> Result<Vec<Char>> {
    let size = number.abs();
    let precision = spec.precision.unwrap_or(6);
    if precision > MAX_PRECISION {
        return failed(format!("precision is above {MAX_PRECISION}"));
    }
    let kind = spec.kind.unwrap_or('r');
    let mut body = match kind {
        'f' | 'F' => format!("{size:.precision$}"),
        'e' | 'E' => exponent(&format!("{size:.precision$e}")),
        '%' => format!("{:.precision$}%", size * 100.0),
        'g' | 'G' | 'n' => general(size, precision, spec.alternate),
        'r' => match spec.precision {
            None => float(size),
            Some(_) => {
                let made = general(size, precision, spec.alternate);
                if made.contains(['.', 'e', 'n']) { made } else { made + ".0" }
            }
        },
        other => {
            return failed(format!("Unknown format code '{other}' for object of type 'float'"));
        }
    };
    if !number.is_finite() {
        body = if number.is_nan() { "nan" } else { "inf" }.to_owned()
            + if kind == '%' { "%" } else { "" };
    } else {
        body = grouped(&body, spec.group, 3);
    }
    if kind.is_ascii_uppercase() {
        body = body.to_uppercase();
    }
    let negative = number.is_sign_negative() && !number.is_nan();
    spec.laid_out(run, spec.sign_of(negative), own(&body), '>')
}

/// C's `%g`.
fn general(size: f64, precision: usize, keep_zeros: bool) -> String {
    let digits = precision.max(1);
    let spelled = format!("{size:.*e}", digits - 1);
    let power: i64 = spelled.split_once('e').and_then(|(_, power)| power.parse().ok()).unwrap_or(0);
    let trimmed = |text: &str| match text.contains('.') && !keep_zeros {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if power < -4 || power >= digits as i64 {
        let (mantissa, power) = spelled.split_once('e').unwrap_or((&spelled, "0"));
        return exponent(&format!("{}e{power}", trimmed(mantissa)));
    }
    let decimals = usize::try_from(digits as i64 - 1 - power).unwrap_or(0);
    trimmed(&format!("{size:.decimals$}"))
}

/// Where the arguments of a format come from.
enum Source<'a> {
    Given(&'a Given),
    Map(&'a Dict),
}

/// `text.format(..)`.
pub(crate) fn format(run: &Run, text: &Text, given: Given) -> Result<Value> {
    let mut formatter = Formatter { run, source: Source::Given(&given), next: Some(0) };
    formatter.whole(text)
}

/// `text.format_map(map)`.
pub(crate) fn format_map(run: &Run, text: &Text, map: &Dict) -> Result<Value> {
    let mut formatter = Formatter { run, source: Source::Map(map), next: Some(0) };
    formatter.whole(text)
}

struct Formatter<'a> {
    run: &'a Run<'a>,
    source: Source<'a>,
    /// The next number of `{}`; none once fields are numbered by hand.
    next: Option<usize>,
}

impl Formatter<'_> {
    fn whole(&mut self, text: &Text) -> Result<Value> {
        let made = self.fields(text, 2)?;
        Ok(Value::Str(self.run.budget.raw_text(made)?.as_markup(text.markup)))
    }

    fn fields(&mut self, text: &[Char], depth: u32) -> Result<Vec<Char>> {
        if depth == 0 {
            return failed("Max string recursion exceeded");
        }
        let mut out = self.run.budget.collect();
        let mut at = 0;
        while at < text.len() {
            let c = text[at].get();
            let next = text.get(at + 1).map(|c| c.get());
            at += 1;
            match (c, next) {
                ('{', Some('{')) | ('}', Some('}')) => {
                    out.push(text[at]);
                    at += 1;
                }
                ('}', _) => return failed("Single '}' encountered in format string"),
                ('{', _) => {
                    let begin = at;
                    let (mut open, mut brackets) = (1, false);
                    while open > 0 {
                        let Some(c) = text.get(at) else {
                            return failed("expected '}' before end of string");
                        };
                        match c.get() {
                            '[' => brackets = true,
                            ']' => brackets = false,
                            '{' if !brackets => open += 1,
                            '}' if !brackets => open -= 1,
                            _ => (),
                        }
                        at += 1;
                    }
                    let field = self.field(&text[begin..at - 1], depth)?;
                    out.extend(&field);
                }
                _ => out.push(text[at - 1]),
            }
            out.check()?;
        }
        out.chars()
    }

    fn field(&mut self, field: &[Char], depth: u32) -> Result<Vec<Char>> {
        let mut brackets = false;
        let end = field.iter().position(|c| {
            match c.get() {
                '[' => brackets = true,
                ']' => brackets = false,
                _ => (),
            }
            !brackets && matches!(c.get(), '!' | ':')
        });
        let (name, rest) = field.split_at(end.unwrap_or(field.len()));
        let value = self.value(name)?;
        let (conversion, rest) = match rest {
            [mark, conversion, rest @ ..] if mark.get() == '!' => (Some(conversion.get()), rest),
            [mark] if mark.get() == '!' => return failed("unmatched '{' in format spec"),
            _ => (None, rest),
        };
        let spec = match rest {
            [] => Vec::new(),
            [colon, spec @ ..] if colon.get() == ':' => self.fields(spec, depth - 1)?,
            _ => return failed("expected ':' after conversion specifier"),
        };
        let run = self.run;
        let value = match conversion {
            None => value,
            Some('s') => Value::Str(run.string(&value)?),
            Some('r' | 'a') => {
                let mut out = run.budget.collect();
                run.spell(&value, &mut out)?;
                out.value()?
            }
            Some(other) => return failed(format!("Unknown conversion specifier '{other}'")),
        };
        formatted(run, &value, &spec)
    }

    /// The argument that a field names, with its attributes and items.
    fn value(&mut self, name: &[Char]) -> Result<Value> {
        let end = name.iter().position(|c| matches!(c.get(), '.' | '[')).unwrap_or(name.len());
        let first = plain(&name[..end]);
        let number = match (first.is_empty(), self.next) {
            (true, Some(next)) => {
                self.next = Some(next + 1);
                Some(next)
            }
            (true, None) => {
                return failed(
                    "cannot switch from manual field specification to automatic field numbering",
                );
            }
            (false, next) => {
                match first.parse().ok().filter(|_| first.chars().all(|c| c.is_ascii_digit())) {
                    Some(_) if next.is_some_and(|next| next > 0) => {
                        return failed(
                            "cannot switch from automatic field numbering to manual field specification",
                        );
                    }
                    Some(number) => {
                        self.next = None;
                        Some(number)
                    }
                    None => None,
                }
            }
        };
        let found = match (number, &self.source) {
            (Some(number), Source::Given(given)) => match given.positional.get(number) {
                Some(value) => value.clone(),
                None => {
                    return failed(format!(
                        "Replacement index {number} out of range for positional args tuple"
                    ));
                }
            },
            (Some(_), Source::Map(_)) => return failed("Format string contains positional fields"),
            (None, Source::Given(given)) => {
                match given.named.iter().find(|(given, _)| **given == *first) {
                    Some((_, value)) => value.clone(),
                    None => return failed(format!("no argument named '{first}'")),
                }
            }
            (None, Source::Map(map)) => match map.get(&name[..end]) {
                Some(value) => value.clone(),
                None => return failed(format!("no item named '{first}'")),
            },
        };
        let mut rest = &name[end..];
        let mut value = found;
        while let Some((mark, after)) = rest.split_first() {
            present(&value)?;
            if mark.get() == '[' {
                let Some(close) = after.iter().position(|c| c.get() == ']') else {
                    return failed("Missing ']' in format string");
                };
                let index = plain(&after[..close]);
                let index = match index.parse() {
                    Ok(number) => Value::Int(number),
                    Err(_) => self.run.chars(&after[..close])?,
                };
                value = attributes::item(self.run, &value, &index)?;
                rest = &after[close + 1..];
            } else {
                let end =
                    after.iter().position(|c| matches!(c.get(), '.' | '[')).unwrap_or(after.len());
                let name = self.run.budget.raw_text(after[..end].to_vec())?;
                value = attributes::attribute(self.run, &value, &name)?;
                rest = &after[end..];
            }
        }
        Ok(value)
    }
}
