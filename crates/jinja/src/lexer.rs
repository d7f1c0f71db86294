//! Template source to tokens: pallets/jinja `src/jinja2/lexer.py` with `trim_blocks` and `lstrip_blocks`.

use crate::error::{Error, Result};
use crate::python::is_space;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Token {
    Data(String),
    PrintBegin,
    PrintEnd,
    BlockBegin,
    BlockEnd,
    Name(String),
    Str(String),
    Int(i128),
    Float(f64),
    Sign(&'static str),
    End,
}

/// Longest first where one begins another.
const SIGNS: [&str; 26] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}",
    ">", "<", "=", ".", ":", "|", ",", ";",
];

struct Lexer {
    source: Vec<char>,
    at: usize,
    line: usize,
    counted: usize,
    tokens: Vec<(Token, usize)>,
    /// Closing brackets that are waited for.
    open: Vec<&'static str>,
    /// Whether what comes now begins a line.
    line_begins: bool,
}

/// The tokens of `source` with their lines.
pub(crate) fn tokens(source: &str) -> Result<Vec<(Token, usize)>> {
    let mut source = source.replace("\r\n", "\n").replace('\r', "\n");
    if source.ends_with('\n') {
        source.pop();
    }
    let mut lexer = Lexer {
        source: source.chars().collect(),
        at: 0,
        line: 1,
        counted: 0,
        tokens: Vec::new(),
        open: Vec::new(),
        line_begins: true,
    };
    while lexer.text()? {}
    lexer.push(Token::End);
    Ok(lexer.tokens)
}

impl Lexer {
    fn starts(&self, at: usize, text: &str) -> bool {
        let mut at = at;
        text.chars().all(|c| {
            at += 1;
            self.source.get(at - 1) == Some(&c)
        })
    }

    fn peek(&self, offset: usize) -> Option<char> {
        self.source.get(self.at + offset).copied()
    }

    fn line(&mut self) -> usize {
        if self.counted < self.at {
            let passed = &self.source[self.counted..self.at];
            self.line += passed.iter().filter(|&&c| c == '\n').count();
            self.counted = self.at;
        }
        self.line
    }

    fn push(&mut self, token: Token) {
        let line = self.line();
        self.tokens.push((token, line));
    }

    fn fail<T>(&mut self, message: impl Into<String>) -> Result<T> {
        Err(Error::Syntax { message: message.into(), line: self.line() })
    }

    fn skip_space(&mut self) {
        while self.peek(0).is_some_and(is_space) {
            self.at += 1;
        }
    }

    /// Reads text and the tag after it; false at the end.
    fn text(&mut self) -> Result<bool> {
        let begin = self.at;
        let mut tag = begin;
        while tag < self.source.len()
            && !(self.source[tag] == '{'
                && matches!(self.source.get(tag + 1), Some('%' | '{' | '#')))
        {
            tag += 1;
        }
        if tag == self.source.len() {
            self.data(begin, tag);
            self.at = tag;
            return Ok(false);
        }
        let kind = self.source[tag + 1];
        let end = self.stripped(begin, tag, kind != '{');
        self.data(begin, end);
        self.at = tag + 2;
        if kind == '#' {
            return self.comment();
        }
        if matches!(self.peek(0), Some('-' | '+')) {
            self.at += 1;
        }
        if kind == '%' && self.raw()? {
            return Ok(true);
        }
        let (open, close) = match kind {
            '%' => (Token::BlockBegin, Token::BlockEnd),
            _ => (Token::PrintBegin, Token::PrintEnd),
        };
        self.push(open);
        self.inside(kind == '%', close)?;
        Ok(true)
    }

    /// Where text from `begin` ends that is followed by a tag at `tag`.
    fn stripped(&self, begin: usize, tag: usize, is_block: bool) -> usize {
        let text = &self.source[begin..tag];
        match self.source.get(tag + 2) {
            Some('-') => {
                let kept = text.iter().rposition(|&c| !is_space(c));
                begin + kept.map_or(0, |last| last + 1)
            }
            Some('+') => tag,
            _ if is_block => {
                let line = text.iter().rposition(|&c| c == '\n').map_or(0, |last| last + 1);
                let begins = line > 0 || self.line_begins;
                if begins && text[line..].iter().all(|&c| is_space(c)) { begin + line } else { tag }
            }
            _ => tag,
        }
    }

    fn data(&mut self, begin: usize, end: usize) {
        if end > begin {
            self.at = begin;
            self.push(Token::Data(self.source[begin..end].iter().collect()));
        }
    }

    /// Ends a block or comment whose last two characters stand at `self.at`, `sign` before them.
    fn after_tag(&mut self, sign: Option<char>, trims: bool) {
        self.at += 2 + usize::from(sign.is_some());
        let from = self.at;
        match sign {
            Some('-') => self.skip_space(),
            Some(_) => (),
            None if trims && self.peek(0) == Some('\n') => self.at += 1,
            None => (),
        }
        self.line_begins = self.at > from && self.source[self.at - 1] == '\n';
    }

    fn comment(&mut self) -> Result<bool> {
        let from = self.at;
        while self.at < self.source.len() {
            for (end, sign) in [("-#}", Some('-')), ("+#}", Some('+')), ("#}", None)] {
                if self.starts(self.at, end) {
                    self.after_tag(sign, true);
                    return Ok(true);
                }
            }
            self.at += 1;
        }
        self.at = from;
        self.fail("Missing end of comment tag")
    }

    /// Reads a raw block if one begins here, behind `{%` and its sign.
    fn raw(&mut self) -> Result<bool> {
        let from = self.at;
        self.skip_space();
        let is_raw = self.starts(self.at, "raw");
        self.at += 3;
        if is_raw {
            self.skip_space();
        }
        if !is_raw || !(self.starts(self.at, "%}") || self.starts(self.at, "-%}")) {
            self.at = from;
            return Ok(false);
        }
        let sign = self.peek(0).filter(|&c| c == '-');
        self.after_tag(sign, false);
        let begin = self.at;
        for tag in begin..self.source.len() {
            if !self.starts(tag, "{%") {
                continue;
            }
            self.at = tag + 2;
            if matches!(self.peek(0), Some('-' | '+')) {
                self.at += 1;
            }
            self.skip_space();
            if !self.starts(self.at, "endraw") {
                continue;
            }
            self.at += 6;
            self.skip_space();
            let sign = self.peek(0).filter(|c| matches!(c, '-' | '+'));
            if self.starts(self.at + usize::from(sign.is_some()), "%}") {
                let end = self.at;
                let text = self.stripped(begin, tag, true);
                self.data(begin, text);
                self.at = end;
                self.after_tag(sign, true);
                return Ok(true);
            }
        }
        self.at = from;
        self.fail("Missing end of raw directive")
    }

    /// Reads tokens up to the end of a tag.
    fn inside(&mut self, is_block: bool, close: Token) -> Result<()> {
        loop {
            if self.open.is_empty() {
                let end = if is_block { "%}" } else { "}}" };
                let signs: &[_] =
                    if is_block { &[Some('-'), Some('+'), None] } else { &[Some('-'), None] };
                let fits = |sign: &Option<char>| match sign {
                    Some(sign) => self.peek(0) == Some(*sign) && self.starts(self.at + 1, end),
                    None => self.starts(self.at, end),
                };
                if let Some(sign) = signs.iter().copied().find(fits) {
                    self.push(close);
                    self.after_tag(sign, is_block);
                    return Ok(());
                }
            }
            let Some(c) = self.peek(0) else {
                self.push(Token::End);
                return Ok(());
            };
            if is_space(c) {
                self.skip_space();
            } else if c.is_ascii_digit() {
                self.number()?;
            } else if c == '_' || c.is_alphanumeric() {
                let begin = self.at;
                while self.peek(0).is_some_and(|c| c == '_' || c.is_alphanumeric()) {
                    self.at += 1;
                }
                let name: String = self.source[begin..self.at].iter().collect();
                self.push(Token::Name(name));
            } else if matches!(c, '\'' | '"') {
                self.string(c)?;
            } else {
                self.sign(c)?;
            }
        }
    }

    fn sign(&mut self, c: char) -> Result<()> {
        let Some(sign) = SIGNS.into_iter().find(|sign| self.starts(self.at, sign)) else {
            return self.fail(format!("unexpected char {c:?}"));
        };
        match sign {
            "{" => self.open.push("}"),
            "(" => self.open.push(")"),
            "[" => self.open.push("]"),
            "}" | ")" | "]" => match self.open.pop() {
                None => return self.fail(format!("unexpected '{sign}'")),
                Some(expected) if expected != sign => {
                    return self.fail(format!("unexpected '{sign}', expected '{expected}'"));
                }
                Some(_) => (),
            },
            _ => (),
        }
        self.push(Token::Sign(sign));
        self.at += sign.len();
        Ok(())
    }

    /// Digits from `at` on, with underscores between them; where they end.
    fn digits(&self, mut at: usize, radix: u32) -> usize {
        let digit = |at: usize| self.source.get(at).is_some_and(|c| c.is_digit(radix));
        while digit(at) || (self.source.get(at) == Some(&'_') && digit(at + 1)) {
            at += 1;
        }
        at
    }

    fn number(&mut self) -> Result<()> {
        let begin = self.at;
        let spelled = |from: usize, to: usize| -> String {
            self.source[from..to].iter().filter(|&&c| c != '_').collect()
        };
        let radix = match (self.peek(0), self.peek(1)) {
            (Some('0'), Some('b' | 'B')) => 2,
            (Some('0'), Some('o' | 'O')) => 8,
            (Some('0'), Some('x' | 'X')) => 16,
            _ => 10,
        };
        if radix != 10 {
            let end = self.digits(begin + 2, radix);
            if end > begin + 2 {
                let Ok(number) = i128::from_str_radix(&spelled(begin + 2, end), radix) else {
                    return self.fail("an integer has more than 127 bits");
                };
                self.push(Token::Int(number));
                self.at = end;
                return Ok(());
            }
        }
        let whole = self.digits(begin, 10);
        let mut end = whole;
        // `a.0.1` is two items.
        if begin == 0 || self.source[begin - 1] != '.' {
            if self.source.get(end) == Some(&'.') {
                let fraction = self.digits(end + 1, 10);
                if fraction > end + 1 && self.source[end + 1] != '_' {
                    end = fraction;
                }
            }
            if matches!(self.source.get(end), Some('e' | 'E')) {
                let signed = usize::from(matches!(self.source.get(end + 1), Some('+' | '-')));
                let exponent = self.digits(end + 1 + signed, 10);
                if exponent > end + 1 + signed && self.source[end + 1 + signed] != '_' {
                    end = exponent;
                }
            }
        }
        let (token, end) = if end > whole {
            match spelled(begin, end).parse() {
                Ok(number) => (Token::Float(number), end),
                Err(_) => return self.fail("not a number"),
            }
        } else {
            // An integer has no zeros in front.
            let zeros =
                self.source[begin..whole].iter().take_while(|&&c| matches!(c, '0' | '_')).count();
            let end = if zeros > 0 { begin + zeros } else { whole };
            match spelled(begin, end).parse() {
                Ok(number) => (Token::Int(number), end),
                Err(_) => return self.fail("an integer has more than 127 bits"),
            }
        };
        self.push(token);
        self.at = end;
        Ok(())
    }

    fn string(&mut self, quote: char) -> Result<()> {
        let begin = self.at + 1;
        let mut end = begin;
        loop {
            match self.source.get(end) {
                None => return self.fail(format!("unexpected char {quote:?}")),
                Some('\\') => end += 2,
                Some(&c) if c == quote => break,
                Some(_) => end += 1,
            }
        }
        match unescaped(&self.source[begin..end]) {
            Ok(text) => self.push(Token::Str(text)),
            Err(message) => return self.fail(message),
        }
        self.at = end + 1;
        Ok(())
    }
}

/// A string literal's text, as Python's `unicode-escape` codec reads it.
fn unescaped(source: &[char]) -> std::result::Result<String, String> {
    let mut text = String::with_capacity(source.len());
    let mut at = 0;
    while let Some(&c) = source.get(at) {
        at += 1;
        if c != '\\' {
            text.push(c);
            continue;
        }
        let Some(&escape) = source.get(at) else { break };
        at += 1;
        let hex = |count: usize| {
            let digits = source.get(at..at + count)?;
            digits.iter().try_fold(0, |sum, c| Some(sum * 16 + c.to_digit(16)?))
        };
        let coded = |count: usize| match hex(count) {
            Some(code) if code > 0x10_ffff => Err("illegal Unicode character".to_owned()),
            // Half of a surrogate pair is no character.
            Some(code) => Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)),
            None => Err(format!("truncated \\{escape} escape in a string")),
        };
        match escape {
            '\n' => (),
            '\\' | '\'' | '"' => text.push(escape),
            'a' => text.push('\u{7}'),
            'b' => text.push('\u{8}'),
            'f' => text.push('\u{c}'),
            'n' => text.push('\n'),
            'r' => text.push('\r'),
            't' => text.push('\t'),
            'v' => text.push('\u{b}'),
            'x' => (text.push(coded(2)?), at += 2).1,
            'u' => {
                // Two halves that follow each other are one character.
                let low = || {
                    let rest = source.get(at + 4..at + 10)?;
                    let digits = rest.strip_prefix(&['\\', 'u'])?;
                    digits.iter().try_fold(0, |sum, c| Some(sum * 16 + c.to_digit(16)?))
                };
                match (hex(4), low()) {
                    (Some(high @ 0xd800..=0xdbff), Some(low @ 0xdc00..=0xdfff)) => {
                        let code = 0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00);
                        text.extend(char::from_u32(code));
                        at += 10;
                    }
                    _ => {
                        text.push(coded(4)?);
                        at += 4;
                    }
                }
            }
            'U' => (text.push(coded(8)?), at += 8).1,
            'N' => return Err("characters by name (\\N{...}) are not supported".to_owned()),
            '0'..='7' => {
                let mut code = escape.to_digit(8).unwrap_or(0);
                for _ in 0..2 {
                    if let Some(digit) = source.get(at).and_then(|c| c.to_digit(8)) {
                        code = code * 8 + digit;
                        at += 1;
                    }
                }
                text.extend(char::from_u32(code));
            }
            other => text.extend(['\\', other]),
        }
    }
    Ok(text)
}
