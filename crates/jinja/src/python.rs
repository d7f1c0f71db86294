//! What Python says of characters.

use std::sync::LazyLock;

use regex::Regex;

/// `str.isspace`, and `\s` of regular expressions.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// A character class; the pattern is a constant, and one that cannot be compiled has no characters.
fn class(pattern: &str) -> Option<Regex> {
    Regex::new(pattern).ok()
}

fn within(class: &Option<Regex>, c: char) -> bool {
    let mut spelled = [0; 4];
    class.as_ref().is_some_and(|class| class.is_match(c.encode_utf8(&mut spelled)))
}

/// `str.isalpha`.
pub(crate) fn is_alpha(c: char) -> bool {
    static CLASS: LazyLock<Option<Regex>> = LazyLock::new(|| class(r"\p{L}"));
    if c.is_ascii() { c.is_ascii_alphabetic() } else { within(&CLASS, c) }
}

/// `str.isdecimal`.
pub(crate) fn is_decimal(c: char) -> bool {
    static CLASS: LazyLock<Option<Regex>> = LazyLock::new(|| class(r"\p{Nd}"));
    if c.is_ascii() { c.is_ascii_digit() } else { within(&CLASS, c) }
}

/// `str.isdigit`: decimals, and those raised, lowered or circled.
pub(crate) fn is_digit(c: char) -> bool {
    is_decimal(c)
        || matches!(c, '²' | '³' | '¹' | '⁰' | '⁴'..='⁹' | '₀'..='₉' | '①'..='⑨' | '⑴'..='⑼' | '⒈'..='⒐'
            | '⓪' | '⓵'..='⓽' | '⓿' | '❶'..='❾' | '➀'..='➈' | '➊'..='➒')
}

/// `str.isnumeric`, nearly.
pub(crate) fn is_numeric(c: char) -> bool {
    c.is_numeric()
}

/// `str.isalnum`.
pub(crate) fn is_alnum(c: char) -> bool {
    is_alpha(c) || is_digit(c) || is_numeric(c)
}

/// `\w` of regular expressions.
pub(crate) fn is_word(c: char) -> bool {
    c == '_' || is_alnum(c)
}

/// `str.isprintable`.
pub(crate) fn is_printable(c: char) -> bool {
    static CLASS: LazyLock<Option<Regex>> = LazyLock::new(|| class(r"[\p{C}\p{Z}]"));
    if c.is_ascii() { matches!(c, ' '..='~') } else { !within(&CLASS, c) }
}

pub(crate) fn is_upper(c: char) -> bool {
    c.is_uppercase()
}

pub(crate) fn is_lower(c: char) -> bool {
    c.is_lowercase()
}

pub(crate) fn is_cased(c: char) -> bool {
    is_upper(c) || is_lower(c) || matches!(c, 'ǅ' | 'ǈ' | 'ǋ' | 'ǲ')
}

/// The line ends that `str.splitlines` knows besides `\r\n`.
pub(crate) fn is_line_end(c: char) -> bool {
    matches!(
        c,
        '\n' | '\r'
            | '\u{b}'
            | '\u{c}'
            | '\u{1c}'
            | '\u{1d}'
            | '\u{1e}'
            | '\u{85}'
            | '\u{2028}'
            | '\u{2029}'
    )
}
