//! Numbers as Python writes and reads them.

/// A float as Python's `repr` spells it: shortest digits, exponent form below 1e-4 and from 1e16.
pub(crate) fn float(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let size = number.abs();
    if size != 0.0 && !(1e-4..1e16).contains(&size) {
        return exponent(&format!("{number:e}"));
    }
    let spelled = number.to_string();
    if spelled.contains('.') { spelled } else { spelled + ".0" }
}

/// Rust writes 1e-5 and 1e16 where Python writes 1e-05 and 1e+16.
pub(crate) fn exponent(spelled: &str) -> String {
    let (digits, exponent) = spelled.split_once('e').unwrap_or((spelled, "0"));
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(rest) => ('-', rest),
        None => ('+', exponent),
    };
    format!("{digits}e{sign}{exponent:0>2}")
}

/// `text` without the white space around it and the underscores between digits; `None` if they stand elsewhere.
fn tidied(text: &str) -> Option<String> {
    let text = text.trim_matches(crate::python::is_space);
    let chars: Vec<char> = text.chars().collect();
    let digit = |index: usize| chars.get(index).is_some_and(|c| c.is_ascii_alphanumeric());
    for (index, c) in chars.iter().enumerate() {
        if *c == '_' && !(index > 0 && digit(index - 1) && digit(index + 1)) {
            return None;
        }
    }
    // Decimal digits of any script count.
    let plain = |c: char| match c {
        c if c.is_ascii() => c,
        c => decimal(c).unwrap_or(c),
    };
    Some(chars.into_iter().filter(|c| *c != '_').map(plain).collect())
}

/// The ASCII digit of a decimal digit: they come in runs of ten, of which the first is a zero.
fn decimal(c: char) -> Option<char> {
    use crate::python::is_decimal;
    if !is_decimal(c) {
        return None;
    }
    let before = |n: u32| char::from_u32(u32::from(c).wrapping_sub(n)).is_some_and(is_decimal);
    let value = (1..10).take_while(|n| before(*n)).last().unwrap_or(0);
    char::from_digit(value, 10)
}

/// `int(text, base)`; `None` if it is no integer.
pub(crate) fn parse_int(text: &str, base: u32) -> Option<i128> {
    let tidied = tidied(text)?;
    let (negative, digits) = match tidied.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, tidied.strip_prefix('+').unwrap_or(&tidied)),
    };
    let lower = digits.to_ascii_lowercase();
    let marked = [("0x", 16), ("0o", 8), ("0b", 2)];
    let mark =
        marked.into_iter().find(|(mark, of)| lower.starts_with(mark) && (base == *of || base == 0));
    let (base, digits) = match mark {
        Some((mark, base)) => (base, lower[mark.len()..].trim_start_matches('_')),
        None if base == 0 => (10, &*lower),
        None => (base, &*lower),
    };
    if !(2..=36).contains(&base) || digits.starts_with(['+', '-']) {
        return None;
    }
    let number = i128::from_str_radix(digits, base).ok()?;
    Some(if negative { -number } else { number })
}

/// `float(text)`; `None` if it is no number.
pub(crate) fn parse_float(text: &str) -> Option<f64> {
    let tidied = tidied(text)?.to_ascii_lowercase();
    let bare = tidied.trim_start_matches(['+', '-']);
    if tidied.len() - bare.len() > 1 {
        return None;
    }
    let known = ["inf", "infinity", "nan"].contains(&bare);
    let number = bare.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    (known || number).then(|| tidied.parse().ok()).flatten()
}

/// `int(number)`; `None` if it is too large or no number.
pub(crate) fn truncated(number: f64) -> Option<i128> {
    (number.abs() < 1.7e38).then_some(number as i128)
}

/// `round(number, digits)`: to the nearest decimal, as the exact value of the float has it, halves to even.
pub(crate) fn rounded(number: f64, digits: i128) -> f64 {
    match usize::try_from(digits) {
        // Formatting rounds the exact value, halves to even.
        Ok(digits) if digits < 320 => format!("{number:.digits$}").parse().unwrap_or(number),
        Ok(_) => number,
        Err(_) if digits < -308 => 0.0 * number,
        Err(_) => {
            let scale = 10f64.powi(i32::try_from(-digits).unwrap_or(0));
            (number / scale).round_ties_even() * scale
        }
    }
}
