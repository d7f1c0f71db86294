//! Numbers as JSON writes them, exactly: what is at least, at most or a multiple of another, as regular
//! expressions over digits. Nothing goes through floats, so 2^53 and one are two numbers.

use std::cmp::Ordering;
use std::fmt;

use serde_json::Number;

/// Digits that a number of a schema may have, written without an exponent.
const MOST_DIGITS: usize = 400;

/// Numbers without a sign, exponent or fraction; and fractions.
const DIGITS: &str = "(0|[1-9][0-9]*)";
const FRACTION: &str = r"(\.[0-9]+)?";
/// A fraction that is not zero.
const SOME_FRACTION: &str = r"\.[0-9]*[1-9][0-9]*";

/// Any number.
pub(super) const ANY: &str = r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?";
/// Any number that has no exponent.
pub(super) const PLAIN: &str = r"-?(0|[1-9][0-9]*)(\.[0-9]+)?";
/// Whole numbers without a fraction.
pub(super) const WHOLE: &str = r"-?(0|[1-9][0-9]*)";
/// Numbers that are not whole.
pub(super) const NOT_WHOLE: &str = r"-?(0|[1-9][0-9]*)\.[0-9]*[1-9][0-9]*";

/// A decimal number.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Decimal {
    negative: bool,
    /// Without leading zeros; "0" for zero.
    whole: String,
    /// Without zeros at the end.
    fraction: String,
}

impl Decimal {
    /// What a schema says, exactly if serde_json kept it: whole numbers of 64 bits, and fractions that an
    /// `f64` tells apart.
    pub fn new(number: &Number) -> Result<Self, String> {
        let text = number.to_string();
        Self::parse(&text).ok_or_else(|| format!("{text} has more than {MOST_DIGITS} digits"))
    }

    fn parse(text: &str) -> Option<Self> {
        let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (digits, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let exponent: i64 = exponent.trim_start_matches('+').parse().ok()?;
        if exponent.unsigned_abs() > MOST_DIGITS as u64 {
            return None;
        }
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let mut all = format!("{whole}{fraction}");
        let mut point = whole.len() as i64 + exponent;
        while point < 0 {
            all.insert(0, '0');
            point += 1;
        }
        while (all.len() as i64) < point {
            all.push('0');
        }
        let (whole, fraction) = all.split_at(point as usize);
        let whole = whole.trim_start_matches('0');
        let fraction = fraction.trim_end_matches('0');
        if whole.len() + fraction.len() > MOST_DIGITS {
            return None;
        }
        let zero = whole.is_empty() && fraction.is_empty();
        let whole = if whole.is_empty() { "0" } else { whole };
        Some(Self { negative: negative && !zero, whole: whole.into(), fraction: fraction.into() })
    }

    pub fn is_whole(&self) -> bool {
        self.fraction.is_empty()
    }

    pub fn is_negative(&self) -> bool {
        self.negative
    }

    fn is_zero(&self) -> bool {
        self.whole == "0" && self.fraction.is_empty()
    }

    /// Whether an `f64` that has this value is one of several that it could have been read from.
    pub fn is_beyond_64_bits(&self) -> bool {
        self.fraction.is_empty() && self.whole.parse::<u64>().is_err()
    }

    /// The number without its point, and how many digits were behind it; `None` if it is too long.
    fn scaled(&self) -> Option<(u128, usize)> {
        let digits = format!("{}{}", self.whole, self.fraction);
        (digits.len() <= 30)
            .then(|| digits.parse().ok())
            .flatten()
            .map(|n| (n, self.fraction.len()))
    }

    /// Whether it is a multiple of another number; `None` if that takes too many digits to say.
    pub fn is_multiple_of(&self, of: &Self) -> Option<bool> {
        let ((a, a_scale), (b, b_scale)) = (self.scaled()?, of.scaled()?);
        let most = a_scale.max(b_scale);
        let up = |n: u128, scale: usize| n.checked_mul(10u128.checked_pow((most - scale) as u32)?);
        let (a, b) = (up(a, a_scale)?, up(b, b_scale)?);
        a.checked_rem(b).map(|rest| rest == 0)
    }

    /// A step of `multipleOf` as its digits without zeros at the end, and the power of ten they stand for.
    pub fn step(&self) -> Option<(u64, i32)> {
        let (mut n, scale) = self.scaled()?;
        let mut power = -(scale as i32);
        while n > 0 && n % 10 == 0 {
            n /= 10;
            power += 1;
        }
        Some((u64::try_from(n).ok()?, power))
    }

    /// The shortest way to write it.
    pub fn literal(&self) -> String {
        self.to_string().replace('.', "\\.")
    }

    /// All ways to write it without an exponent.
    pub fn forms(&self) -> String {
        let sign = match (self.negative, self.is_zero()) {
            (true, _) => "-",
            (false, true) => "-?",
            (false, false) => "",
        };
        if self.fraction.is_empty() {
            format!(r"{sign}{}(\.0+)?", self.whole)
        } else {
            format!(r"{sign}{}\.{}0*", self.whole, self.fraction)
        }
    }

    /// Numbers of at least this much; of more than it, if `strict`.
    pub fn or_more(&self, strict: bool) -> String {
        if self.negative {
            return format!("({DIGITS}{FRACTION}|-({}))", self.smaller(strict).unwrap_or_default());
        }
        let larger = self.larger(strict);
        if self.is_zero() && !strict { format!(r"({larger}|-0(\.0+)?)") } else { larger }
    }

    /// Numbers of at most this much; of less than it, if `strict`.
    pub fn or_less(&self, strict: bool) -> String {
        if self.negative || (self.is_zero() && strict) {
            return format!("-({})", self.larger(strict));
        }
        // Zero is less than whatever is larger, so there is something.
        format!("(-{DIGITS}{FRACTION}|{})", self.smaller(strict).unwrap_or_default())
    }

    /// Numbers without a sign that are at least as far from zero.
    fn larger(&self, strict: bool) -> String {
        let digits = self.whole.as_bytes();
        let count = digits.len();
        let mut ways = vec![];
        if self.whole == "0" {
            ways.push(format!("[1-9][0-9]*{FRACTION}"));
        } else {
            ways.push(format!("[1-9][0-9]{{{count},}}{FRACTION}"));
            for (index, &digit) in digits.iter().enumerate().filter(|(_, digit)| **digit < b'9') {
                let (same, next) = (&self.whole[..index], char::from(digit + 1));
                ways.push(format!("{same}[{next}-9][0-9]{{{}}}{FRACTION}", count - index - 1));
            }
        }
        let fraction = &self.fraction;
        let equal = match (fraction.is_empty(), strict) {
            (true, true) => SOME_FRACTION.to_owned(),
            (true, false) => FRACTION.to_owned(),
            (false, strict) => {
                let mut ways = vec![];
                for (index, digit) in
                    fraction.bytes().enumerate().filter(|(_, digit)| *digit < b'9')
                {
                    let next = char::from(digit + 1);
                    ways.push(format!("{}[{next}-9][0-9]*", &fraction[..index]));
                }
                ways.push(format!("{fraction}[0-9]*{}", if strict { "[1-9][0-9]*" } else { "" }));
                format!(r"\.({})", ways.join("|"))
            }
        };
        ways.push(format!("{}{equal}", self.whole));
        format!("({})", ways.join("|"))
    }

    /// Numbers without a sign that are at most as far from zero; `None` if there are none.
    fn smaller(&self, strict: bool) -> Option<String> {
        let digits = self.whole.as_bytes();
        let count = digits.len();
        let mut ways = vec![];
        if count > 1 {
            ways.push(format!("(0|[1-9][0-9]{{0,{}}}){FRACTION}", count - 2));
        }
        for (index, &digit) in digits.iter().enumerate() {
            let least = if index == 0 && count > 1 { b'1' } else { b'0' };
            if digit > least {
                let (same, least, last) =
                    (&self.whole[..index], char::from(least), char::from(digit - 1));
                ways.push(format!(
                    "{same}[{least}-{last}][0-9]{{{}}}{FRACTION}",
                    count - index - 1
                ));
            }
        }
        let fraction = &self.fraction;
        if fraction.is_empty() {
            if !strict {
                ways.push(format!(r"{}(\.0+)?", self.whole));
            }
        } else {
            let mut inner = vec![];
            for (index, digit) in fraction.bytes().enumerate() {
                if digit > b'0' {
                    let last = char::from(digit - 1);
                    inner.push(format!("{}[0-{last}][0-9]*", &fraction[..index]));
                }
                if index > 0 {
                    inner.push(fraction[..index].to_owned());
                }
            }
            if !strict {
                inner.push(format!("{fraction}0*"));
            }
            ways.push(format!(r"{}(\.({}))?", self.whole, inner.join("|")));
        }
        (!ways.is_empty()).then(|| format!("({})", ways.join("|")))
    }
}

/// Multiples of some digits times a power of ten, where their last three digits at most tell; all ways to
/// write them without an exponent. `None` for others.
pub(super) fn multiples(digits: u64, power: i32) -> Option<String> {
    if digits == 1 {
        return Some(match power {
            0 => r"-?(0|[1-9][0-9]*)(\.0+)?".to_owned(),
            1.. => format!(r"-?(0|[1-9][0-9]*0{{{power}}})(\.0+)?"),
            _ => format!(r"-?(0|[1-9][0-9]*)(\.[0-9]{{1,{}}}0*)?", -power),
        });
    }
    // How many digits tell, and what they may be.
    let told = (1..=3u32).find(|told| 10u64.pow(*told) % digits == 0)?;
    let range = (0..10u64.pow(told)).step_by(usize::try_from(digits).ok()?);
    let width = told as usize;
    let ends: Vec<String> = range.clone().map(|end| format!("{end:0width$}")).collect();
    let Some(behind) = usize::try_from(-power).ok().filter(|behind| *behind > 0) else {
        let short = range.map(|end| end.to_string()).collect::<Vec<_>>().join("|");
        let all = format!("{short}|[1-9][0-9]*({})", ends.join("|"));
        return Some(if power > 0 {
            format!(r"-?(0|({all})0{{{power}}})(\.0+)?")
        } else {
            format!(r"-?({all})(\.0+)?")
        });
    };
    if width > behind {
        return None;
    }
    let mut ways = vec![];
    for count in 1..=behind {
        // Digits that are not written are zero.
        let missing = behind - count;
        if missing >= width {
            ways.push(format!("[0-9]{{{count}}}"));
            continue;
        }
        let zeros = "0".repeat(missing);
        let written: Vec<&str> =
            ends.iter().filter_map(|end| end.strip_suffix(zeros.as_str())).collect();
        let free = count - (width - missing);
        let more = if missing == 0 { "0*" } else { "" };
        ways.push(format!("[0-9]{{{free}}}({}){more}", written.join("|")));
    }
    Some(format!(r"-?(0|[1-9][0-9]*)(\.({}))?", ways.join("|")))
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let point = if self.fraction.is_empty() { "" } else { "." };
        let sign = if self.negative { "-" } else { "" };
        write!(f, "{sign}{}{point}{}", self.whole, self.fraction)
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        let far = |a: &Self, b: &Self| {
            let whole = a.whole.len().cmp(&b.whole.len()).then_with(|| a.whole.cmp(&b.whole));
            whole.then_with(|| a.fraction.cmp(&b.fraction))
        };
        match (self.negative, other.negative) {
            (false, false) => far(self, other),
            (true, true) => far(other, self),
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decimal(text: &str) -> Decimal {
        Decimal::parse(text).unwrap()
    }

    #[test]
    fn numbers_are_what_is_written() {
        for (text, shown) in [
            ("1e3", "1000"),
            ("-0.0", "0"),
            ("1.50", "1.5"),
            ("12e-3", "0.012"),
            ("9007199254740993", "9007199254740993"),
            ("1.25e1", "12.5"),
        ] {
            assert_eq!(decimal(text).to_string(), shown);
        }
        assert!(Decimal::parse("1e401").is_none());
        assert!(decimal("1e20").is_beyond_64_bits() && !decimal("1.5").is_beyond_64_bits());
        assert_eq!(decimal("4.5").is_multiple_of(&decimal("1.5")), Some(true));
        assert_eq!(decimal("0.35").is_multiple_of(&decimal("0.01")), Some(true));
        assert_eq!(decimal("35").is_multiple_of(&decimal("1.5")), Some(false));
        assert_eq!(decimal("0.0075").step(), Some((75, -4)));
        assert_eq!(decimal("1200").step(), Some((12, 2)));
    }

    #[test]
    fn bounds_are_exact() {
        let numbers = [
            "-1000.5",
            "-100",
            "-99.99",
            "-10",
            "-9.5",
            "-1.5",
            "-1",
            "-0.5",
            "-0.05",
            "-0.049",
            "0",
            "0.001",
            "0.05",
            "0.5",
            "0.51",
            "1",
            "1.5",
            "2",
            "9",
            "9.99",
            "10",
            "10.1",
            "19",
            "20",
            "99",
            "100",
            "101",
            "123.456",
            "123.4561",
            "999",
            "1000",
            "9007199254740992",
            "9007199254740993",
        ];
        for bound in numbers {
            let bound = decimal(bound);
            for strict in [false, true] {
                let full =
                    |pattern: String| regex::Regex::new(&format!("^(?:{pattern})$")).unwrap();
                let (more, less) = (full(bound.or_more(strict)), full(bound.or_less(strict)));
                for number in numbers {
                    let value = decimal(number);
                    for text in [
                        number.to_owned(),
                        format!("{value}"),
                        format!("{number}{}", if number.contains('.') { "00" } else { ".0" }),
                    ] {
                        let order = value.cmp(&bound);
                        assert_eq!(
                            more.is_match(&text),
                            order.is_gt() || (order.is_eq() && !strict),
                            "{text} or more than {bound}, {strict}"
                        );
                        assert_eq!(
                            less.is_match(&text),
                            order.is_lt() || (order.is_eq() && !strict),
                            "{text} or less than {bound}, {strict}"
                        );
                    }
                }
                assert_eq!(
                    more.is_match("-0"),
                    bound.is_negative() || (bound.is_zero() && !strict)
                );
            }
        }
    }

    #[test]
    fn literals_and_their_forms() {
        let full = |pattern: String| regex::Regex::new(&format!("^(?:{pattern})$")).unwrap();
        let forms = full(decimal("12.5").forms());
        assert!(forms.is_match("12.500") && !forms.is_match("12.51") && !forms.is_match("-12.5"));
        assert!(full(decimal("0").forms()).is_match("-0.0"));
        assert!(full(decimal("-3").literal()).is_match("-3"));
    }

    #[test]
    fn multiples_are_all_and_only_those() {
        for step in [
            "1", "100", "0.01", "2", "5", "25", "4", "8", "125", "50", "0.5", "0.05", "0.25",
            "0.125", "0.002",
        ] {
            let step = decimal(step);
            let (digits, power) = step.step().unwrap();
            let pattern = multiples(digits, power).unwrap();
            let pattern = regex::Regex::new(&format!("^(?:{pattern})$")).unwrap();
            let more = [10_000, 12_500, 100_000, 125_000, 123_456, 250_005];
            for thousandths in (0..3_000).chain(more) {
                let full = format!("{}.{:03}", thousandths / 1000, thousandths % 1000);
                let value = decimal(&full);
                let expected = value.is_multiple_of(&step).unwrap();
                for text in [value.to_string(), full.clone(), format!("-{full}0")] {
                    assert_eq!(pattern.is_match(&text), expected, "{text} of {step}");
                }
            }
        }
        assert!(multiples(3, 0).is_none() && multiples(25, -1).is_none());
    }
}
