//! The API keys of a server: from a file and from the environment, as people write them.
//!
//! A key that no client could send, or that is another than its writer meant, is an error at the start: a
//! server that lets nobody in, or somebody else, must not begin without a word.

use std::ffi::OsString;
use std::path::Path;

use keeve_files::whole;

use crate::limits;

/// The variable with a key.
pub const VARIABLE: &str = "KEEVE_API_KEY";

/// The longest key, in bytes: a request's head has to hold it.
const LONGEST: usize = 4096;

/// The mark that some editors put in front of a file (Unicode Standard, 23.8).
const MARK: char = '\u{feff}';

/// The keys of a file: one a line, without blank lines and lines that begin with `#`. White space around
/// a key is not part of it.
///
/// # Errors
/// A file that cannot be read, is too long or has no key, and the line of a key that cannot be one.
pub fn from_file(path: &Path) -> Result<Vec<String>, String> {
    let wrong = |problem: &str| format!("{} (--api-key-file): {problem}", path.display());
    let read = whole::read(path, limits::KEYS, "--api-key-file");
    let bytes = read.map_err(|error| error.to_string())?;
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(wrong("is UTF-16, expected UTF-8"));
    }
    let text = String::from_utf8(bytes).map_err(|_| wrong("is no text in UTF-8"))?;
    let text = text.strip_prefix(MARK).unwrap_or(&text);
    let mut keys = vec![];
    // Old editors of the Mac end lines with a carriage return alone.
    for (index, line) in text.replace("\r\n", "\n").split(['\n', '\r']).enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        checked(line).map_err(|problem| wrong(&format!("line {}: {problem}", index + 1)))?;
        keys.push(line.to_owned());
    }
    if keys.is_empty() {
        return Err(wrong("there is no key in it"));
    }
    Ok(keys)
}

/// The key of [`VARIABLE`], whose value this is, if it is set. White space around it is not part of it.
///
/// # Errors
/// A value that cannot be a key; an empty one too, since whoever sets it means to have a key.
pub fn from_variable(value: Option<OsString>) -> Result<Option<String>, String> {
    let Some(value) = value else { return Ok(None) };
    let wrong = |problem: &str| format!("{VARIABLE}: {problem}");
    let value = value.into_string().map_err(|_| wrong("is no text in UTF-8"))?;
    let key = value.trim().trim_start_matches(MARK).trim();
    if key.is_empty() {
        return Err(wrong("holds no key; unset it to have none"));
    }
    checked(key).map_err(|problem| wrong(&problem))?;
    Ok(Some(key.to_owned()))
}

/// Whether clients can send a key as `Authorization: Bearer KEY` (RFC 6750, 2.1, whose tokens have
/// visible ASCII characters only).
fn checked(key: &str) -> Result<(), String> {
    if key.len() > LONGEST {
        return Err(format!("a key of {} bytes, expected at most {LONGEST}", key.len()));
    }
    // The key itself is not shown: errors end up in logs.
    match key.chars().find(|character| !character.is_ascii_graphic()) {
        None => Ok(()),
        Some(character) => {
            let code = u32::from(character);
            let kind = match character {
                _ if character.is_control() => "a control character",
                _ if character.is_whitespace() => "white space",
                _ => "a character outside ASCII",
            };
            Err(format!("a key with {kind} in it (U+{code:04X}), which clients cannot send"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(bytes: &[u8]) -> Result<Vec<String>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        from_file(file.path())
    }

    #[test]
    fn files_are_read_as_people_mean_them() {
        for (text, expected) in [
            ("a\nb\n", &["a", "b"][..]),
            ("a", &["a"]),
            ("\u{feff}a\n", &["a"]),
            ("\u{feff}# staging\r\n\r\n a \r\nb", &["a", "b"]),
            ("a\rb\r", &["a", "b"]),
            ("  # indented\n\n\ta\t\n#b\n", &["a"]),
            ("a#b\n", &["a#b"]),
        ] {
            assert_eq!(keys(text.as_bytes()).unwrap(), expected, "{text:?}");
        }
    }

    #[test]
    fn keys_that_nobody_can_send_are_refused_by_their_line() {
        for (text, expected) in [
            ("", "no key"),
            (" \n\n", "no key"),
            ("# a\n", "no key"),
            ("a\nb c\n", "line 2: a key with white space in it (U+0020)"),
            ("a # staging\n", "line 1: a key with white space"),
            ("a\u{0}\n", "line 1: a key with a control character in it (U+0000)"),
            ("a\u{1b}[1m\n", "(U+001B)"),
            ("a\u{feff}b\n", "outside ASCII in it (U+FEFF)"),
            ("schlüssel\n", "(U+00FC)"),
            (&"k".repeat(5000), "a key of 5000 bytes"),
            (&"k\n".repeat(1 << 20), "larger than 1 MiB"),
        ] {
            let problem = keys(text.as_bytes()).unwrap_err();
            assert!(problem.contains(expected) && !problem.contains('\n'), "{problem}");
            assert!(problem.contains("--api-key-file"), "{problem}");
        }
        assert!(keys(b"\xff\xfek\0").unwrap_err().contains("UTF-16"));
        assert!(keys(b"k\xff").unwrap_err().contains("UTF-8"));
        assert!(from_file(Path::new("/no/such/file")).unwrap_err().contains("/no/such/file"));
    }

    #[test]
    fn the_variable_is_trimmed_or_refused() {
        let key = |text: &str| from_variable(Some(text.into()));
        assert_eq!(from_variable(None), Ok(None));
        for text in ["k1", "k1\n", " k1\r\n", "\u{feff}k1"] {
            assert_eq!(key(text), Ok(Some("k1".into())), "{text:?}");
        }
        for text in ["", " ", "\n", "a b", "a\nb", "a\u{1b}", "ü"] {
            let problem = key(text).unwrap_err();
            assert!(problem.starts_with("KEEVE_API_KEY: ") && !problem.contains('\n'), "{problem}");
        }
    }
}
