//! Regular expressions of schemas: ECMA-262's, searched for, as `pattern` and `patternProperties` have
//! them; and the same inside a JSON string, where some characters are escaped.

use regex_syntax::hir::{Class, ClassUnicode, ClassUnicodeRange, Hir, HirKind, Look};

/// One character inside a JSON string, as it is written here: escaped where JSON asks for it.
pub(super) const CHARACTER: &str = r#"([^"\\\x00-\x1f]|\\(["\\bfnrt]|u00[01][0-9a-fA-F]))"#;

/// Characters of an expression and of what it becomes.
const LONGEST: usize = 8 << 10;
const LONGEST_QUOTED: usize = 256 << 10;

/// What ECMA-262 calls white space, as ranges of a class.
const SPACE: &str =
    r"\t-\r \x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}\x{feff}";

/// An expression.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    /// For the `regex` crate: finds what the expression finds.
    matcher: regex::Regex,
    /// What is between the quotes of a JSON string in which the expression finds something.
    pub quoted: String,
    /// Further expressions that must find something, or must not: looks ahead from the start.
    pub also: Vec<(Pattern, bool)>,
}

/// Why an expression is malformed, in the language that whitespace is written in; `None` if it is not.
pub(super) fn malformed(expression: &str) -> Option<String> {
    regex_syntax::ParserBuilder::new().utf8(false).build().parse(expression).err().map(why)
}

fn why(error: regex_syntax::Error) -> String {
    match error {
        regex_syntax::Error::Parse(error) => error.kind().to_string(),
        regex_syntax::Error::Translate(error) => error.kind().to_string(),
        _ => "it is malformed".to_owned(),
    }
}

impl Pattern {
    /// # Errors
    /// If the expression is malformed, too large, or looks around other than ahead from its start.
    pub fn new(expression: &str) -> Result<Self, String> {
        if expression.len() > LONGEST {
            return Err(format!("it has {} bytes, expected at most {LONGEST}", expression.len()));
        }
        let Some((looks, rest)) = looks_at_start(expression) else {
            return Self::plain(expression);
        };
        let mut pattern = Self::plain(&format!("^{rest}"))?;
        for (inner, wanted) in looks {
            pattern.also.push((Self::plain(&format!("^(?:{inner})"))?, wanted));
        }
        Ok(pattern)
    }

    fn plain(expression: &str) -> Result<Self, String> {
        let translated = translated(expression)?;
        let hir = regex_syntax::Parser::new().parse(&translated).map_err(why)?;
        let mut ways = vec![];
        for way in ways_of(&hir)? {
            let mut text = String::new();
            if !way.starts {
                text.push_str(&format!("{CHARACTER}*"));
            }
            for part in &way.parts {
                quote(part, &mut text)?;
            }
            if !way.ends {
                text.push_str(&format!("{CHARACTER}*"));
            }
            ways.push(text);
        }
        let quoted = format!("({})", ways.join("|"));
        let matcher = regex::RegexBuilder::new(&translated).size_limit(1 << 20).build();
        let matcher = matcher.map_err(|_| "it is too large".to_owned())?;
        Ok(Self { matcher, quoted, also: vec![] })
    }

    pub fn is_match(&self, text: &str) -> bool {
        self.matcher.is_match(text)
            && self.also.iter().all(|(pattern, wanted)| pattern.is_match(text) == *wanted)
    }
}

/// What `^(?!a)(?=b)c` looks for at the start, and what is left; `None` for any other form.
fn looks_at_start(expression: &str) -> Option<(Vec<(&str, bool)>, &str)> {
    let mut rest = expression.strip_prefix('^')?;
    let mut looks = vec![];
    while let Some(inner) = rest.strip_prefix("(?!").or_else(|| rest.strip_prefix("(?=")) {
        let wanted = rest.starts_with("(?=");
        let end = top_level(inner, ')')?;
        looks.push((&inner[..end], wanted));
        rest = &inner[end + 1..];
    }
    // Behind a bar, there would be no look ahead.
    (!looks.is_empty() && top_level(rest, '|').is_none()).then_some((looks, rest))
}

/// Where a character stands outside groups, classes and escapes.
fn top_level(text: &str, wanted: char) -> Option<usize> {
    let (mut depth, mut in_class, mut escaped) = (0usize, false, false);
    for (at, c) in text.char_indices() {
        if std::mem::take(&mut escaped) {
            continue;
        }
        match c {
            '\\' => escaped = true,
            ']' => in_class = false,
            _ if in_class => {}
            '[' => in_class = true,
            c if c == wanted && depth == 0 => return Some(at),
            '(' => depth += 1,
            ')' => depth = depth.checked_sub(1)?,
            _ => {}
        }
    }
    None
}

/// Text between the quotes of a JSON string, as an expression.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::new();
    text.chars().for_each(|c| quote_char(c, &mut out));
    out
}

/// ECMA-262's expression in the notation of the `regex` crate.
fn translated(expression: &str) -> Result<String, String> {
    let mut out = String::with_capacity(expression.len() + 16);
    let mut rest = expression.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\\' => out.push_str(&escape(&mut rest, false)?),
            '.' => out.push_str(r"[^\n\r\x{2028}\x{2029}]"),
            '[' => class(&mut rest, &mut out)?,
            '(' if rest.peek() == Some(&'?') => {
                rest.next();
                group(&mut rest, &mut out)?;
            }
            '{' => {
                // What is no repetition stands for itself.
                let ahead: String = rest.clone().take_while(|c| *c != '}').collect();
                let closed = rest.clone().any(|c| c == '}');
                let (least, most) = ahead.split_once(',').unwrap_or((&ahead, ""));
                let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
                if closed && !least.is_empty() && number(least) && number(most) {
                    out.push('{');
                } else {
                    out.push_str(r"\{");
                }
            }
            '}' => {
                let opened = out.rfind(['{', '}']);
                let open = opened
                    .is_some_and(|at| out[at..].starts_with('{') && !out[..at].ends_with('\\'));
                out.push_str(if open { "}" } else { r"\}" });
            }
            ']' => out.push_str(r"\]"),
            // Slashes and line ends stand for themselves.
            c if c.is_control() || c == '/' => literal(c, &mut out),
            c => out.push(c),
        }
    }
    Ok(out)
}

type Rest<'a> = std::iter::Peekable<std::str::Chars<'a>>;

/// What follows `(?`.
fn group(rest: &mut Rest<'_>, out: &mut String) -> Result<(), String> {
    match rest.peek() {
        Some('=' | '!') => Err("it looks ahead, which cannot be followed".into()),
        Some('<') => {
            rest.next();
            if matches!(rest.peek(), Some('=' | '!')) {
                return Err("it looks behind, which cannot be followed".into());
            }
            // A name has no effect.
            rest.by_ref().take_while(|c| *c != '>').for_each(drop);
            out.push('(');
            Ok(())
        }
        _ => {
            let flags: String = rest.clone().take_while(|c| !matches!(c, ')' | ':')).collect();
            if let Some(other) = flags.chars().find(|flag| *flag != 'i' && *flag != '-') {
                return Err(format!("it has the flag {other:?}, expected none but i"));
            }
            out.push_str("(?");
            Ok(())
        }
    }
}

fn literal(c: char, out: &mut String) {
    out.push_str(&format!(r"\x{{{:x}}}", c as u32));
}

/// What follows a backslash.
fn escape(rest: &mut Rest<'_>, in_class: bool) -> Result<String, String> {
    let Some(c) = rest.next() else { return Err("it ends with a backslash".into()) };
    let one = |c: char| {
        let mut text = String::new();
        literal(c, &mut text);
        text
    };
    let set = |inner: &str, negated: bool| match negated {
        true => format!("[^{inner}]"),
        false => format!("[{inner}]"),
    };
    Ok(match c {
        'd' | 'D' => set("0-9", c == 'D'),
        'w' | 'W' => set("0-9A-Za-z_", c == 'W'),
        's' | 'S' => set(SPACE, c == 'S'),
        'n' => one('\n'),
        'r' => one('\r'),
        't' => one('\t'),
        'f' => one('\u{c}'),
        'v' => one('\u{b}'),
        'b' if in_class => one('\u{8}'),
        'b' | 'B' => return Err(format!(r"it has \{c}, and word boundaries cannot be followed")),
        '0' if !rest.peek().is_some_and(char::is_ascii_digit) => one('\0'),
        'c' => match rest.next() {
            Some(letter) if letter.is_ascii_alphabetic() => one(char::from(letter as u8 % 32)),
            _ => return Err(r"\c needs a letter".into()),
        },
        'x' => {
            one(code(rest, 2).and_then(char::from_u32).ok_or(r"\x needs two hexadecimal digits")?)
        }
        'u' => {
            let value = if rest.peek() == Some(&'{') {
                rest.next();
                let digits: String = rest.by_ref().take_while(|c| *c != '}').collect();
                u32::from_str_radix(&digits, 16).ok()
            } else {
                code(rest, 4).map(|high| {
                    // A pair of surrogates is one character.
                    let mut ahead = rest.clone();
                    let low = (ahead.next() == Some('\\') && ahead.next() == Some('u'))
                        .then(|| code(&mut ahead, 4))
                        .flatten();
                    match low {
                        Some(low)
                            if (0xd800..0xdc00).contains(&high)
                                && (0xdc00..0xe000).contains(&low) =>
                        {
                            *rest = ahead;
                            0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00)
                        }
                        _ => high,
                    }
                })
            };
            one(value.and_then(char::from_u32).ok_or(r"\u is not a character")?)
        }
        'p' | 'P' => {
            if rest.next() != Some('{') {
                return Err(format!(r"\{c} needs a property in braces"));
            }
            let name: String = rest.by_ref().take_while(|c| *c != '}').collect();
            format!(r"\{c}{{{name}}}")
        }
        '1'..='9' | 'k' => {
            return Err("it refers to what a group matched, which cannot be followed".into());
        }
        c if c.is_ascii_alphanumeric() => return Err(format!(r"\{c} is no escape")),
        c => one(c),
    })
}

fn code(rest: &mut Rest<'_>, digits: usize) -> Option<u32> {
    let mut value = 0;
    for _ in 0..digits {
        value = value * 16 + rest.next()?.to_digit(16)?;
    }
    Some(value)
}

/// What follows an opening bracket.
fn class(rest: &mut Rest<'_>, out: &mut String) -> Result<(), String> {
    let negated = rest.peek() == Some(&'^');
    if negated {
        rest.next();
    }
    let mut items: Vec<String> = vec![];
    loop {
        let Some(c) = rest.next() else { return Err("a class is not closed".into()) };
        match c {
            ']' => break,
            '\\' => items.push(escape(rest, true)?),
            // Between two characters it is a range, elsewhere it stands for itself.
            '-' => {
                let last =
                    items.last().is_some_and(|item| item.starts_with(r"\x") && !item.contains('-'));
                let before_end = rest.peek() == Some(&']');
                if !last || before_end {
                    items.push(r"\x{2d}".into());
                    continue;
                }
                let mut ahead = rest.clone();
                let end = match ahead.next() {
                    Some('\\') => escape(&mut ahead, true)?,
                    Some(c) => {
                        let mut text = String::new();
                        literal(c, &mut text);
                        text
                    }
                    None => return Err("a class is not closed".into()),
                };
                if end.starts_with(r"\x") {
                    *rest = ahead;
                    if let Some(start) = items.last_mut() {
                        start.push('-');
                        start.push_str(&end);
                    }
                } else {
                    items.push(r"\x{2d}".into());
                }
            }
            c => {
                let mut text = String::new();
                literal(c, &mut text);
                items.push(text);
            }
        }
    }
    match (items.is_empty(), negated) {
        // Nothing, and anything.
        (true, false) => out.push_str(r"[^\x{0}-\x{10ffff}]"),
        (true, true) => out.push_str(r"[\x{0}-\x{10ffff}]"),
        (false, _) => {
            out.push('[');
            if negated {
                out.push('^');
            }
            out.push_str(&items.concat());
            out.push(']');
        }
    }
    Ok(())
}

/// One way to find something.
#[derive(Clone)]
struct Way {
    starts: bool,
    ends: bool,
    parts: Vec<Hir>,
}

/// The ways of an expression, with anchors only where they stand.
fn ways_of(hir: &Hir) -> Result<Vec<Way>, String> {
    let whole = |parts: Vec<Hir>| Way { starts: false, ends: false, parts };
    if hir.properties().look_set().is_empty() {
        return Ok(vec![whole(vec![hir.clone()])]);
    }
    Ok(match hir.kind() {
        HirKind::Look(Look::Start) => vec![Way { starts: true, ..whole(vec![]) }],
        HirKind::Look(Look::End) => vec![Way { ends: true, ..whole(vec![]) }],
        HirKind::Capture(capture) => ways_of(&capture.sub)?,
        HirKind::Alternation(options) => {
            let mut ways = vec![];
            for option in options {
                ways.extend(ways_of(option)?);
            }
            ways
        }
        HirKind::Concat(parts) => {
            let mut ways = vec![whole(vec![])];
            for part in parts {
                let next = ways_of(part)?;
                if ways.len() * next.len() > 256 {
                    return Err("it has too many alternatives with anchors".into());
                }
                let mut both = vec![];
                for way in &ways {
                    for next in &next {
                        // Nothing but nothing is before the start or after the end.
                        let before = way.parts.iter().all(|part| *part.kind() == HirKind::Empty);
                        let after = next.parts.iter().all(|part| *part.kind() == HirKind::Empty);
                        if (next.starts && !(before && (way.starts || way.parts.is_empty())))
                            || (way.ends && !after)
                        {
                            return Err("it has an anchor inside, which cannot be followed".into());
                        }
                        both.push(Way {
                            starts: way.starts || next.starts,
                            ends: way.ends || next.ends,
                            parts: way.parts.iter().chain(&next.parts).cloned().collect(),
                        });
                    }
                }
                ways = both;
            }
            ways
        }
        _ => return Err("it has an anchor inside, which cannot be followed".into()),
    })
}

/// What matches the text that `hir` matches, written inside a JSON string.
fn quote(hir: &Hir, out: &mut String) -> Result<(), String> {
    if out.len() > LONGEST_QUOTED {
        return Err("it is too large".into());
    }
    match hir.kind() {
        HirKind::Empty => {}
        HirKind::Literal(bytes) => {
            let text = std::str::from_utf8(&bytes.0).map_err(|_| "it is no text".to_owned())?;
            text.chars().for_each(|c| quote_char(c, out));
        }
        HirKind::Class(Class::Unicode(class)) => quote_class(class, out),
        HirKind::Class(Class::Bytes(class)) => {
            let ranges = class.iter().map(|range| {
                ClassUnicodeRange::new(char::from(range.start()), char::from(range.end()))
            });
            quote_class(&ClassUnicode::new(ranges), out);
        }
        HirKind::Look(_) => return Err("it looks around, which cannot be followed".into()),
        HirKind::Repetition(repetition) => {
            out.push_str("(?:");
            quote(&repetition.sub, out)?;
            let most = repetition.max.map(|most| most.to_string()).unwrap_or_default();
            out.push_str(&format!("){{{},{most}}}", repetition.min));
        }
        HirKind::Capture(capture) => {
            out.push_str("(?:");
            quote(&capture.sub, out)?;
            out.push(')');
        }
        HirKind::Concat(parts) => {
            for part in parts {
                out.push_str("(?:");
                quote(part, out)?;
                out.push(')');
            }
        }
        HirKind::Alternation(options) => {
            out.push_str("(?:");
            for (index, option) in options.iter().enumerate() {
                if index > 0 {
                    out.push('|');
                }
                quote(option, out)?;
            }
            out.push(')');
        }
    }
    Ok(())
}

fn short(c: char) -> Option<char> {
    Some(match c {
        '"' | '\\' => c,
        '\u{8}' => 'b',
        '\u{c}' => 'f',
        '\n' => 'n',
        '\r' => 'r',
        '\t' => 't',
        _ => return None,
    })
}

/// All ways to write a character that JSON wants escaped.
fn escapes(c: char) -> String {
    let mut ways = vec![];
    if let Some(short) = short(c) {
        ways.push(format!(r"\x5c\x{:02x}", short as u32));
    }
    if (c as u32) < 0x20 {
        let (high, low) = (c as u32 / 16, c as u32 % 16);
        let low = char::from_digit(low, 16).unwrap_or('0');
        ways.push(format!(r"\x5cu00{high}[{low}{}]", low.to_ascii_uppercase()));
    }
    format!("(?:{})", ways.join("|"))
}

fn quote_char(c: char, out: &mut String) {
    if (c as u32) < 0x20 || c == '"' || c == '\\' {
        out.push_str(&escapes(c));
    } else if c.is_ascii_alphanumeric() {
        out.push(c);
    } else {
        literal(c, out);
    }
}

fn quote_class(class: &ClassUnicode, out: &mut String) {
    let special = |c: char| (c as u32) < 0x20 || c == '"' || c == '\\';
    let mut plain = class.clone();
    let mut specials = vec![
        ClassUnicodeRange::new('\0', '\u{1f}'),
        ClassUnicodeRange::new('"', '"'),
        ClassUnicodeRange::new('\\', '\\'),
    ];
    plain.difference(&ClassUnicode::new(specials.drain(..)));
    let has = |c: char| class.iter().any(|range| range.start() <= c && c <= range.end());
    let all = ('\0'..='\u{1f}').all(has);
    let mut ways = vec![];
    if plain.iter().next().is_some() {
        let mut text = String::from("[");
        for range in plain.iter() {
            literal(range.start(), &mut text);
            if range.end() > range.start() {
                text.push('-');
                literal(range.end(), &mut text);
            }
        }
        text.push(']');
        ways.push(text);
    }
    if all {
        ways.push(r"\x5c(?:[bfnrt]|u00[01][0-9a-fA-F])".into());
        ways.extend(['"', '\\'].into_iter().filter(|c| has(*c)).map(escapes));
    } else {
        let found = ('\0'..='\\').filter(|c| special(*c) && has(*c));
        ways.extend(found.map(escapes));
    }
    if ways.is_empty() {
        // Nothing at all.
        ways.push(r"[^\x{0}-\x{10ffff}]".into());
    }
    out.push_str(&format!("(?:{})", ways.join("|")));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the quoted expression matches the JSON string of a text.
    fn quoted_match(pattern: &Pattern, text: &str) -> bool {
        let json = serde_json::to_string(text).unwrap();
        let inner = &json[1..json.len() - 1];
        regex::Regex::new(&format!("^(?:{})$", pattern.quoted)).unwrap().is_match(inner)
    }

    #[test]
    fn expressions_find_what_ecma_262_finds_also_inside_json() {
        let texts = [
            "",
            "a",
            "b",
            "ab",
            "xaby",
            "a/b",
            "a\nb",
            "a\"b",
            "a\\b",
            "\t",
            "5",
            "٥",
            "é",
            "e",
            "-",
            "]",
            "{}",
            "a{,2}",
            "^a",
            "line\u{2028}",
            "\u{feff}",
            "A",
            "🐲",
            "🐲🐲",
            "foo.bar",
            "aaa",
            "1\u{7f}",
        ];
        for (expression, found) in [
            ("^a", vec!["a", "ab", "a/b", "a\nb", "a\"b", "a\\b", "a{,2}", "aaa"]),
            ("b$", vec!["b", "ab", "a/b", "a\nb", "a\"b", "a\\b"]),
            ("^(a|b)$", vec!["a", "b"]),
            ("^a$|^b$|5", vec!["a", "b", "5"]),
            (r"a\/b", vec!["a/b"]),
            ("a/b", vec!["a/b"]),
            (r"[\/]", vec!["a/b"]),
            (r"^\d$", vec!["5"]),
            (r"^\W$", vec!["٥", "é", "-", "]", "\t", "\u{feff}", "🐲"]),
            (r"^\s$", vec!["\t", "\u{feff}"]),
            ("^a.b$", vec!["a/b", "a\"b", "a\\b"]),
            (r"^a[\s\S]b$", vec!["a/b", "a\nb", "a\"b", "a\\b"]),
            ("^[^]$", vec!["a", "b", "\t", "5", "٥", "é", "e", "-", "]", "A", "🐲", "\u{feff}"]),
            ("[]", vec![]),
            (r#"["\\]"#, vec!["a\"b", "a\\b"]),
            (r"^[\]-]$", vec!["-", "]"]),
            (r"^\{\}$", vec!["{}"]),
            ("^{}$", vec!["{}"]),
            ("^a{,2}$", vec!["a{,2}"]),
            ("^a{2,}$", vec!["aaa"]),
            ("^\\^a$", vec!["^a"]),
            (r"^\uD83D\uDC32*$", vec!["", "🐲", "🐲🐲"]),
            (r"^\u{1f432}$", vec!["🐲"]),
            (r"^\p{Letter}$", vec!["a", "b", "é", "e", "A"]),
            (r"^(?i:a)$", vec!["a", "A"]),
            (r"\u2028$", vec!["line\u{2028}"]),
            (r"^(?<name>x)?a?b", vec!["b", "ab", "xaby"]),
            (r"\x7f", vec!["1\u{7f}"]),
            ("^$", vec![""]),
            ("", texts.to_vec()),
            ("^$|^a$", vec!["", "a"]),
            (r"^(?!a)(?!.*\])[^5-]?$", vec!["", "b", "é", "e", "\t", "٥", "A", "🐲", "\u{feff}"]),
            ("^(?=.b)", vec!["ab"]),
        ] {
            let pattern = Pattern::new(expression).unwrap_or_else(|e| panic!("{expression}: {e}"));
            for text in texts {
                assert_eq!(
                    pattern.is_match(text),
                    found.contains(&text),
                    "{expression} in {text:?}"
                );
                let looks = |(one, wanted): &(Pattern, bool)| quoted_match(one, text) == *wanted;
                assert_eq!(
                    quoted_match(&pattern, text) && pattern.also.iter().all(looks),
                    found.contains(&text),
                    "{expression} in {text:?} as JSON"
                );
            }
        }
    }

    #[test]
    fn what_cannot_be_followed_is_said() {
        for (expression, reason) in [
            ("(?=a)", "looks ahead"),
            ("(?<!a)", "looks behind"),
            (r"(a)\1", "refers to what a group matched"),
            (r"\bword", "word boundaries"),
            ("a^b", "anchor inside"),
            ("(", "unclosed group"),
            ("[a", "not closed"),
            (r"\a", "no escape"),
            ("a\\", "backslash"),
            ("(?m)a", "flag"),
            ("[z-a]", "invalid"),
        ] {
            let problem = Pattern::new(expression).unwrap_err();
            assert!(problem.contains(reason), "{expression}: {problem}");
        }
        assert!(Pattern::new(&"a".repeat(9000)).is_err());
    }
}
