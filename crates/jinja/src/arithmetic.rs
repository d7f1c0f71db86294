//! Operators: Python's, on the values that templates have.

use std::cmp::Ordering;

use crate::ast::Operation;
use crate::error::{Result, failed, failure};
use crate::execute::Run;
use crate::numbers::truncated;
use crate::percent::percent;
use crate::strings;
use crate::text::{Char, Text};
use crate::value::{Key, Value, View};

/// A number of any kind.
#[derive(Clone, Copy)]
enum Number {
    Int(i128),
    Float(f64),
}

impl Number {
    fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Float(number) => Some(Self::Float(*number)),
            other => other.index().map(Self::Int),
        }
    }

    fn float(self) -> f64 {
        match self {
            Self::Int(number) => number as f64,
            Self::Float(number) => number,
        }
    }

    /// Exactly, also where a float cannot hold the integer.
    fn order(self, other: Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(&b)),
            (Self::Float(a), Self::Float(b)) => a.partial_cmp(&b),
            (Self::Int(a), Self::Float(b)) => match truncated(b.floor()) {
                Some(whole) if a == whole && b.fract() != 0.0 => Some(Ordering::Less),
                Some(whole) => Some(a.cmp(&whole)),
                None => (a as f64).partial_cmp(&b),
            },
            (Self::Float(_), Self::Int(_)) => other.order(self).map(Ordering::reverse),
        }
    }
}

/// Fails with the message of a value that is not there, if it is one.
pub(crate) fn present(value: &Value) -> Result<()> {
    match value {
        Value::Undefined(message) => failed(&**message),
        _ => Ok(()),
    }
}

pub(crate) fn binary(
    run: &Run,
    operation: Operation,
    left: &Value,
    right: &Value,
) -> Result<Value> {
    present(left)?;
    if let (Operation::Remainder, Value::Str(text)) = (operation, left) {
        return percent(run, text, right);
    }
    present(right)?;
    if let (Some(a), Some(b)) = (Number::of(left), Number::of(right)) {
        return match (a, b) {
            (Number::Int(a), Number::Int(b)) => integers(operation, a, b),
            _ => floats(operation, a.float(), b.float()),
        };
    }
    let budget = &run.budget;
    match (operation, left, right) {
        (Operation::Add, Value::Str(a), Value::Str(b)) => {
            let markup = a.markup || b.markup;
            let escaped = |text: &Text| -> Result<Text> {
                if markup && !text.markup { strings::escape(run, text) } else { Ok(text.clone()) }
            };
            let (a, b) = (escaped(a)?, escaped(b)?);
            budget.room(a.len() + b.len())?;
            Ok(Value::Str(budget.raw_text([&a[..], &b[..]].concat())?.as_markup(markup)))
        }
        (Operation::Add, Value::List(a), Value::List(b)) => {
            budget.room((a.len() + b.len()) * 8)?;
            Value::list([&a[..], &b[..]].concat(), budget)
        }
        (Operation::Add, Value::Tuple(a), Value::Tuple(b)) => {
            budget.room((a.len() + b.len()) * 8)?;
            Value::tuple([&a[..], &b[..]].concat(), budget)
        }
        (Operation::Add, Value::Str(_), other) => {
            failed(format!("can only concatenate str (not \"{}\") to str", other.type_name()))
        }
        (Operation::Add, Value::List(_), other) => {
            failed(format!("can only concatenate list (not \"{}\") to list", other.type_name()))
        }
        (Operation::Multiply, sequence, count) | (Operation::Multiply, count, sequence)
            if count.index().is_some()
                && matches!(sequence, Value::Str(_) | Value::List(_) | Value::Tuple(_)) =>
        {
            repeated(run, sequence, count.index().unwrap_or(0))
        }
        _ => failed(format!(
            "unsupported operand type(s) for {}: '{}' and '{}'",
            operation.sign(),
            left.type_name(),
            right.type_name()
        )),
    }
}

fn repeated(run: &Run, sequence: &Value, count: i128) -> Result<Value> {
    let budget = &run.budget;
    let times = |len: usize, size: usize| -> Result<usize> {
        let count = usize::try_from(count.max(0)).unwrap_or(usize::MAX);
        budget.room(len.saturating_mul(count).saturating_mul(size))?;
        Ok(if len == 0 { 0 } else { count })
    };
    match sequence {
        Value::Str(text) => {
            let made = budget.raw_text(text.repeat(times(text.len(), 1)?))?;
            Ok(Value::Str(made.as_markup(text.markup)))
        }
        Value::Tuple(items) => {
            let count = times(items.len(), 8)?;
            Value::tuple((0..count).flat_map(|_| items.iter().cloned()).collect(), budget)
        }
        Value::List(items) => {
            let count = times(items.len(), 8)?;
            Value::list((0..count).flat_map(|_| items.iter().cloned()).collect(), budget)
        }
        other => failed(format!("a '{}' cannot be repeated", other.type_name())),
    }
}

fn integers(operation: Operation, a: i128, b: i128) -> Result<Value> {
    let checked = match operation {
        Operation::Add => a.checked_add(b),
        Operation::Subtract => a.checked_sub(b),
        Operation::Multiply => a.checked_mul(b),
        Operation::Divide if b == 0 => return failed("division by zero"),
        Operation::Divide => return Ok(Value::Float(a as f64 / b as f64)),
        Operation::FloorDivide | Operation::Remainder if b == 0 => {
            return failed("integer division or modulo by zero");
        }
        Operation::FloorDivide => {
            a.checked_div(b).map(|quotient| quotient - i128::from(a % b != 0 && (a < 0) != (b < 0)))
        }
        Operation::Remainder => a
            .checked_rem(b)
            .map(|rest| if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest }),
        Operation::Power if b < 0 && a == 0 => {
            return failed("0.0 cannot be raised to a negative power");
        }
        Operation::Power if b < 0 => return Ok(Value::Float((a as f64).powf(b as f64))),
        Operation::Power => match (a, b) {
            (0 | 1, 1..) => Some(a),
            (-1, _) => Some(if b % 2 == 0 { 1 } else { -1 }),
            _ => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
        },
    };
    let too_large = || failure("an integer has more than 127 bits");
    checked.map(Value::Int).ok_or_else(too_large)
}

fn floats(operation: Operation, a: f64, b: f64) -> Result<Value> {
    Ok(Value::Float(match operation {
        Operation::Add => a + b,
        Operation::Subtract => a - b,
        Operation::Multiply => a * b,
        Operation::Divide if b == 0.0 => return failed("float division by zero"),
        Operation::Divide => a / b,
        Operation::FloorDivide | Operation::Remainder if b == 0.0 => {
            return failed("float floor division by zero");
        }
        Operation::FloorDivide => {
            let rest = remainder(a, b);
            ((a - rest) / b).round()
        }
        Operation::Remainder => remainder(a, b),
        Operation::Power if a == 0.0 && b < 0.0 => {
            return failed("0.0 cannot be raised to a negative power");
        }
        Operation::Power if a < 0.0 && b.fract() != 0.0 => {
            return failed("complex numbers are not supported");
        }
        Operation::Power => a.powf(b),
    }))
}

/// Of the sign of `b`.
fn remainder(a: f64, b: f64) -> f64 {
    let rest = a % b;
    if rest != 0.0 && (rest < 0.0) != (b < 0.0) {
        rest + b
    } else if rest == 0.0 {
        0f64.copysign(b)
    } else {
        rest
    }
}

pub(crate) fn negative(value: &Value) -> Result<Value> {
    present(value)?;
    match Number::of(value) {
        Some(Number::Int(number)) => integers(Operation::Subtract, 0, number),
        Some(Number::Float(number)) => Ok(Value::Float(-number)),
        None => failed(format!("bad operand type for unary -: '{}'", value.type_name())),
    }
}

pub(crate) fn positive(value: &Value) -> Result<Value> {
    present(value)?;
    match Number::of(value) {
        Some(Number::Int(number)) => Ok(Value::Int(number)),
        Some(Number::Float(_)) => Ok(value.clone()),
        None => failed(format!("bad operand type for unary +: '{}'", value.type_name())),
    }
}

/// Python's `==` of values that hold no others.
pub(crate) fn equal_leaves(a: &Value, b: &Value) -> bool {
    if let (Some(a), Some(b)) = (Number::of(a), Number::of(b)) {
        return a.order(b) == Some(Ordering::Equal);
    }
    match (a, b) {
        (Value::Undefined(_), Value::Undefined(_)) | (Value::None, Value::None) => true,
        (Value::Str(a), Value::Str(b)) => a[..] == b[..],
        (Value::Function(a), Value::Function(b)) => a == b,
        (Value::Namespace(a), Value::Namespace(b)) => std::rc::Rc::ptr_eq(a, b),
        (Value::Macro(a), Value::Macro(b)) => std::rc::Rc::ptr_eq(a, b),
        (Value::Loop(a), Value::Loop(b)) => std::rc::Rc::ptr_eq(a, b),
        (Value::Stream(a), Value::Stream(b)) => std::rc::Rc::ptr_eq(a, b),
        (Value::Cycler(a), Value::Cycler(b)) => std::rc::Rc::ptr_eq(a, b),
        (Value::Joiner(a), Value::Joiner(b)) => std::rc::Rc::ptr_eq(a, b),
        (Value::Range(a), Value::Range(b)) => {
            a.count == b.count
                && (a.count == 0 || (a.start == b.start && (a.count == 1 || a.step == b.step)))
        }
        _ => false,
    }
}

/// Python's `==`.
pub(crate) fn equal(run: &Run, a: &Value, b: &Value) -> Result<bool> {
    run.budget.steps(1)?;
    match (a, b) {
        (Value::Str(a), Value::Str(b)) if a.len() == b.len() => run.budget.characters(a.len())?,
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
            if a.is(b) {
                return Ok(true);
            }
            if a.len() != b.len() {
                return Ok(false);
            }
            for (a, b) in a.iter().zip(b.iter()) {
                if !equal(run, a, b)? {
                    return Ok(false);
                }
            }
            return Ok(true);
        }
        (Value::Dict(a), Value::Dict(b)) => {
            if a.is(b) {
                return Ok(true);
            }
            if a.map().len() != b.map().len() {
                return Ok(false);
            }
            for (key, a) in a.map() {
                match b.map().get(key) {
                    Some(b) if equal(run, a, b)? => (),
                    _ => return Ok(false),
                }
            }
            return Ok(true);
        }
        (Value::View(View::Keys, a), Value::View(View::Keys, b)) => {
            run.budget.items(a.map().len())?;
            return Ok(a.map().len() == b.map().len()
                && a.map().keys().all(|key| b.map().contains_key(key)));
        }
        _ => (),
    }
    Ok(equal_leaves(a, b))
}

/// The order of two values; `None` if there is none, as for what is not a number.
pub(crate) fn order(run: &Run, a: &Value, b: &Value, sign: &str) -> Result<Option<Ordering>> {
    run.budget.steps(1)?;
    present(a)?;
    present(b)?;
    if let (Some(a), Some(b)) = (Number::of(a), Number::of(b)) {
        return Ok(a.order(b));
    }
    match (a, b) {
        (Value::Str(a), Value::Str(b)) => {
            run.budget.characters(a.len().min(b.len()))?;
            Ok(Some(a[..].cmp(&b[..])))
        }
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
            for (a, b) in a.iter().zip(b.iter()) {
                if !equal(run, a, b)? {
                    return order(run, a, b, sign);
                }
            }
            Ok(Some(a.len().cmp(&b.len())))
        }
        _ => {
            let (a, b) = (a.type_name(), b.type_name());
            failed(format!("'{sign}' not supported between instances of '{a}' and '{b}'"))
        }
    }
}

/// Python's `in`.
pub(crate) fn contains(run: &Run, all: &Value, one: &Value) -> Result<bool> {
    match all {
        Value::Str(all) => match one {
            Value::Str(one) => {
                run.budget.characters(all.len())?;
                Ok(find(all, one).is_some())
            }
            other => {
                let found = other.type_name();
                failed(format!("'in <string>' requires string as left operand, not {found}"))
            }
        },
        Value::Dict(dict) | Value::View(View::Keys, dict) => {
            let key = Key::new(one.clone(), &run.budget)?;
            Ok(dict.map().contains_key(&key))
        }
        Value::List(items) | Value::Tuple(items) => any_equal(run, items, one),
        Value::Range(range) => match Number::of(one) {
            Some(number) => {
                let whole = truncated(number.float()).unwrap_or(i128::MAX);
                let offset = whole.checked_sub(range.start).unwrap_or(i128::MAX);
                let inside =
                    offset % range.step == 0 && (0..range.count).contains(&(offset / range.step));
                Ok(inside && Number::Int(whole).order(number) == Some(Ordering::Equal))
            }
            None => Ok(false),
        },
        other if other.is_iterable() => any_equal(run, &other.iterate(&run.budget)?, one),
        other => failed(format!("argument of type '{}' is not iterable", other.type_name())),
    }
}

fn any_equal(run: &Run, items: &[Value], one: &Value) -> Result<bool> {
    for item in items {
        if equal(run, item, one)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Where `one` begins in `all`. Takes a time that grows with `all` but hardly with `one`.
pub(crate) fn find(all: &[Char], one: &[Char]) -> Option<usize> {
    let Some(last) = one.len().checked_sub(1) else { return Some(0) };
    if one.len() > all.len() {
        return None;
    }
    if last == 0 {
        return all.iter().position(|c| *c == one[0]);
    }
    // How far back to go on in `one` after a mismatch (Knuth, Morris, Pratt).
    let mut back = vec![0usize; one.len()];
    let mut matched = 0;
    for index in 1..one.len() {
        while matched > 0 && one[index] != one[matched] {
            matched = back[matched - 1];
        }
        matched += usize::from(one[index] == one[matched]);
        back[index] = matched;
    }
    matched = 0;
    for (index, c) in all.iter().enumerate() {
        while matched > 0 && *c != one[matched] {
            matched = back[matched - 1];
        }
        matched += usize::from(*c == one[matched]);
        if matched == one.len() {
            return Some(index + 1 - matched);
        }
    }
    None
}
