//! Text from elsewhere, made fit for a terminal.
//!
//! What a model, a file or the hub says may hold characters that command a terminal (ECMA-48, 5.3 and 8.3:
//! C0 and C1) or turn the order of what is shown around (Unicode Standard Annex 9, "Explicit directional
//! formatting"). They are shown as what they are.

use std::borrow::Cow;

/// What is escaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Escaping {
    /// Nothing.
    Nothing,
    /// Control characters but for line ends and tabs: what a terminal behind a pipe would obey.
    Controls,
    /// These, and what changes the direction of text or hides in it.
    All,
}

/// Whether a terminal obeys this character.
fn commands(character: char) -> bool {
    character.is_control() && !matches!(character, '\n' | '\t')
}

/// Whether a character makes text look other than it is: what changes its direction, ends lines in its own way,
/// or spells invisible text (tags).
fn misleads(character: char) -> bool {
    matches!(
        character,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
    )
}

impl Escaping {
    fn wants(self, character: char) -> bool {
        match self {
            Self::Nothing => false,
            Self::Controls => commands(character),
            Self::All => commands(character) || misleads(character),
        }
    }

    /// The text with what is escaped spelled out, `\u{1b}` for instance. Each character stands for itself, so
    /// pieces of a text can be shown one by one. A carriage return right before a line end is no part of what
    /// is shown.
    pub fn shown(self, text: &str) -> Cow<'_, str> {
        if !text.chars().any(|character| self.wants(character)) {
            return text.into();
        }
        let mut shown = String::with_capacity(text.len() + 16);
        let mut rest = text.chars().peekable();
        while let Some(character) = rest.next() {
            match character {
                '\r' if rest.peek() == Some(&'\n') => {}
                character if self.wants(character) => shown.extend(character.escape_default()),
                character => shown.push(character),
            }
        }
        shown.into()
    }

    /// JSON text with what is escaped spelled as JSON spells it. (Such characters stand only inside of its
    /// strings, and JSON escapes the first 32 of them itself.)
    pub fn json(self, text: &str) -> Cow<'_, str> {
        if !text.chars().any(|character| self.wants(character)) {
            return text.into();
        }
        let mut shown = String::with_capacity(text.len() + 16);
        for character in text.chars() {
            if self.wants(character) {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    shown += &format!("\\u{unit:04x}");
                }
            } else {
                shown.push(character);
            }
        }
        shown.into()
    }
}

/// Text that may come from elsewhere on one line: lines are joined, and everything escaped that
/// [`Escaping::All`] escapes.
pub fn one_line(text: &str) -> String {
    let parts = text.lines().map(str::trim).filter(|part| !part.is_empty());
    let line = parts.collect::<Vec<_>>().join(" ");
    Escaping::All.shown(&line.replace('\t', " ")).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_commands_a_terminal_is_spelled_out() {
        for (text, all, controls) in [
            ("plain, größer, 你好 👩‍👩‍👧 \u{200c}", None, None),
            ("lines\n\tand tabs\n", None, None),
            ("\u{1b}[31mred", Some("\\u{1b}[31mred"), Some("\\u{1b}[31mred")),
            (
                "\u{9b}2J\u{7f}\u{8}\0",
                Some("\\u{9b}2J\\u{7f}\\u{8}\\u{0}"),
                Some("\\u{9b}2J\\u{7f}\\u{8}\\u{0}"),
            ),
            ("a\r\nb\rc\r", Some("a\nb\\rc\\r"), Some("a\nb\\rc\\r")),
            ("a\u{202e}b\u{2066}\u{200f}", Some("a\\u{202e}b\\u{2066}\\u{200f}"), None),
            ("a\u{e0041}\u{2028}", Some("a\\u{e0041}\\u{2028}"), None),
        ] {
            assert_eq!(Escaping::All.shown(text), all.unwrap_or(text));
            assert_eq!(Escaping::Controls.shown(text), controls.unwrap_or(text));
            assert_eq!(Escaping::Nothing.shown(text), text);
        }
    }

    #[test]
    fn pieces_are_escaped_as_the_whole_is() {
        let text = "a\u{1b}]0;title\u{7}\u{9b}31m\u{202e}\n\tz";
        let pieces: String = text
            .chars()
            .map(|piece| Escaping::All.shown(&piece.to_string()).into_owned())
            .collect();
        assert_eq!(pieces, Escaping::All.shown(text));
        assert!(!pieces.contains(['\u{1b}', '\u{7}', '\u{9b}', '\u{202e}']));
    }

    #[test]
    fn json_stays_json_and_says_the_same() {
        let value = serde_json::json!({ "a\u{9b}": "\u{1b}\u{202e}\u{e0041}\u{7f}\"\\ü" });
        let text = value.to_string();
        let shown = Escaping::All.json(&text);
        assert!(shown.chars().all(|character| !Escaping::All.wants(character)), "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
    }

    #[test]
    fn errors_are_one_line() {
        assert_eq!(one_line(" a\n\n b\u{1b}\tc\u{85}d\u{202e} "), "a b\\u{1b} c\\u{85}d\\u{202e}");
    }
}
