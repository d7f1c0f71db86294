//! Values as models write them in calls that are no JSON: Python's literals (Python, "The Python
//! Language Reference", 2.4 and 2.5) and those between marks of their own, as JSON text.

use super::reader::quoted;

/// Stands for a mark that strings are put between, in which nothing is escaped.
pub(super) const QUOTE: char = '\u{1}';

/// How deep values may be nested.
const DEEPEST: usize = 64;

/// The JSON text of a literal; `None` if it is none.
pub(super) fn to_json(text: &str) -> Option<String> {
    // What is JSON stays as it is, to the digit.
    if serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() {
        return Some(text.trim().to_owned());
    }
    let mut parser = Parser { text, at: 0 };
    let mut json = String::new();
    parser.value(&mut json, DEEPEST)?;
    parser.blank();
    (parser.at == text.len()).then_some(json)
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn next(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn blank(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    /// Passes a character, if it is next.
    fn pass(&mut self, wanted: char) -> bool {
        self.blank();
        let is = self.next() == Some(wanted);
        if is {
            self.at += wanted.len_utf8();
        }
        is
    }

    fn value(&mut self, json: &mut String, depth: usize) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        self.blank();
        match self.next()? {
            '[' => self.list(']', json, depth),
            '(' => self.list(')', json, depth),
            '{' => self.map(json, depth),
            quote @ ('"' | '\'' | QUOTE) => {
                let text = self.string(quote)?;
                json.push_str(&quoted(&text));
                Some(())
            }
            _ => self.word(json),
        }
    }

    fn list(&mut self, end: char, json: &mut String, depth: usize) -> Option<()> {
        self.at += 1;
        json.push('[');
        let mut count = 0;
        while !self.pass(end) {
            if count > 0 {
                json.push_str(", ");
            }
            self.value(json, depth)?;
            count += 1;
            if !self.pass(',') && self.next() != Some(end) {
                return None;
            }
        }
        json.push(']');
        Some(())
    }

    fn map(&mut self, json: &mut String, depth: usize) -> Option<()> {
        self.at += 1;
        json.push('{');
        let mut count = 0;
        while !self.pass('}') {
            if count > 0 {
                json.push_str(", ");
            }
            let key = match self.next()? {
                quote @ ('"' | '\'' | QUOTE) => self.string(quote)?,
                _ => {
                    let end = self.rest().find(':')?;
                    let key = self.rest()[..end].trim().to_owned();
                    self.at += end;
                    (!key.is_empty() && !key.contains(['{', '}', ','])).then_some(key)?
                }
            };
            json.push_str(&quoted(&key));
            json.push_str(": ");
            if !self.pass(':') {
                return None;
            }
            self.value(json, depth)?;
            count += 1;
            if !self.pass(',') && self.next() != Some('}') {
                return None;
            }
        }
        json.push('}');
        Some(())
    }

    fn string(&mut self, quote: char) -> Option<String> {
        self.at += quote.len_utf8();
        if quote == QUOTE {
            let end = self.rest().find(QUOTE)?;
            let text = self.rest()[..end].to_owned();
            self.at += end + quote.len_utf8();
            return Some(text);
        }
        let mut text = String::new();
        loop {
            let c = self.next()?;
            self.at += c.len_utf8();
            match c {
                c if c == quote => return Some(text),
                '\\' => self.escape(&mut text)?,
                c => text.push(c),
            }
        }
    }

    fn escape(&mut self, text: &mut String) -> Option<()> {
        let c = self.next()?;
        self.at += c.len_utf8();
        let plain = match c {
            'n' => "\n",
            't' => "\t",
            'r' => "\r",
            'b' => "\u{8}",
            'f' => "\u{c}",
            // A line that goes on.
            '\n' => "",
            'x' => return self.code(2, text),
            'u' => return self.code(4, text),
            'U' => return self.code(8, text),
            c => {
                if !"\\'\"/".contains(c) {
                    text.push('\\');
                }
                text.push(c);
                ""
            }
        };
        text.push_str(plain);
        Some(())
    }

    /// A character as the hexadecimal digits of its code.
    fn code(&mut self, digits: usize, text: &mut String) -> Option<()> {
        let mut code = self.hex(digits)?;
        // JSON writes characters beyond 16 bits as two.
        if (0xd800..0xdc00).contains(&code) && self.rest().starts_with("\\u") {
            self.at += 2;
            let low = self.hex(4)?;
            code = 0x10000 + ((code - 0xd800) << 10) + low.checked_sub(0xdc00)?;
        }
        text.push(char::from_u32(code)?);
        Some(())
    }

    fn hex(&mut self, digits: usize) -> Option<u32> {
        let text = self.rest().get(..digits)?;
        self.at += digits;
        u32::from_str_radix(text, 16).ok()
    }

    /// A number, or one of the words that stand for a value.
    fn word(&mut self, json: &mut String) -> Option<()> {
        let rest = self.rest();
        let end = rest.find(|c: char| c.is_whitespace() || ",]})".contains(c));
        let word = &rest[..end.unwrap_or(rest.len())];
        self.at += word.len();
        let plain = word.replace('_', "");
        let plain = plain.strip_prefix('+').unwrap_or(&plain);
        let number = match (plain.strip_prefix('.'), plain.strip_suffix('.')) {
            (Some(rest), _) => format!("0.{rest}"),
            (None, Some(rest)) => format!("{rest}.0"),
            (None, None) => plain.to_owned(),
        };
        json.push_str(match word {
            "True" | "true" => "true",
            "False" | "false" => "false",
            "None" | "null" => "null",
            _ if serde_json::from_str::<serde_json::Number>(&number).is_ok() => &number,
            _ => return None,
        });
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_become_json() {
        for (literal, json) in [
            ("12345678901234567890123", "12345678901234567890123"),
            ("{\"a\": 1.50}", "{\"a\": 1.50}"),
            ("'it\\'s \\x41\\u00e9\\n\"'", "\"it's Aé\\n\\\"\""),
            ("'\\ud83c\\udf26'", "\"🌦\""),
            ("[True, None, (1, 2,), {'a': False}]", "[true, null, [1, 2], {\"a\": false}]"),
            ("{a:\u{1}x, 'y'\u{1},b:[1,-2.5]}", "{\"a\": \"x, 'y'\", \"b\": [1, -2.5]}"),
            ("1_000", "1000"),
            (".5", "0.5"),
            ("5.", "5.0"),
            ("{}", "{}"),
        ] {
            assert_eq!(to_json(literal).as_deref(), Some(json), "{literal}");
        }
        for other in ["", "word", "'open", "[1 2]", "{a}", "1 2", "[1,,2]", "nan", "{'a': 1", "\\"]
        {
            assert_eq!(to_json(other), None, "{other}");
        }
        assert_eq!(to_json(&"[".repeat(100_000)), None);
    }
}
