//! JSON as the programs write and read it that most model files are of: Python's `json`, which also has `NaN` and
//! `Infinity` (Python documentation, "json", section "Standard Compliance and Interoperability").

use std::path::Path;

use serde_json::Value;

use keeve_files::kind;

use crate::Error;

/// Fields of what servers answer with when something is wrong.
const MESSAGES: [&str; 3] = ["error", "message", "detail"];
const BESIDES: [&str; 8] =
    ["status", "statusCode", "code", "error_code", "errors", "type", "url", "success"];

/// Reads a whole file. Numbers that JSON does not have become null. A byte order mark is passed over.
///
/// # Errors
/// If it is no JSON, or a server's message instead of the file.
pub(crate) fn read(path: &Path, bytes: &[u8]) -> Result<Value, Error> {
    if let Some(told) = kind::told(bytes) {
        return Err(Error::file(path, told));
    }
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    if text.trim_ascii().is_empty() {
        return Err(Error::file(path, "is empty"));
    }
    let value: Value = match serde_json::from_slice(text) {
        Ok(value) => value,
        Err(error) => {
            let plain =
                without_infinities(text).and_then(|text| serde_json::from_slice(&text).ok());
            plain.ok_or_else(|| Error::file(path, problem(text, &error)))?
        }
    };
    match message(&value) {
        Some(message) => {
            let problem = format!("is a server's message instead of the file: '{message}'");
            Err(Error::file(path, problem))
        }
        None => Ok(value),
    }
}

fn problem(text: &[u8], error: &serde_json::Error) -> String {
    let begins = std::str::from_utf8(&text[..text.len().min(400)]).ok();
    let is_text = |text: &&str| text.starts_with(|c: char| c.is_alphabetic());
    let says = begins.filter(is_text).map(|text| format!("; it begins '{}'", kind::line(text)));
    format!("is not valid JSON: {error}{}", says.unwrap_or_default())
}

/// What a server said, if that is all there is.
fn message(value: &Value) -> Option<String> {
    let fields = value.as_object()?;
    let known = |key: &&String| MESSAGES.contains(&key.as_str()) || BESIDES.contains(&key.as_str());
    if !fields.keys().all(|key| known(&key)) {
        return None;
    }
    let message = MESSAGES.iter().find_map(|key| fields.get(*key))?;
    Some(kind::line(message.as_str().unwrap_or(&message.to_string())))
}

/// The text with `null` for numbers that are none; `None` if it has no such.
fn without_infinities(text: &[u8]) -> Option<Vec<u8>> {
    const NUMBERS: [&[u8]; 3] = [b"-Infinity", b"Infinity", b"NaN"];
    let (mut out, mut at, mut inside, mut any) = (Vec::with_capacity(text.len()), 0, false, false);
    while let Some(&byte) = text.get(at) {
        let number = NUMBERS.iter().find(|number| !inside && text[at..].starts_with(number));
        if let Some(number) = number {
            out.extend(b"null");
            (at, any) = (at + number.len(), true);
            continue;
        }
        let escaped = inside && byte == b'\\';
        inside ^= byte == b'"';
        let end = (at + 1 + usize::from(escaped)).min(text.len());
        out.extend(&text[at..end]);
        at = end;
    }
    any.then_some(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(text: &[u8]) -> Result<Value, String> {
        read(Path::new("config.json"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn pythons_json_is_read() {
        assert_eq!(found(b"\xef\xbb\xbf{\"a\": 1}"), Ok(json!({"a": 1})));
        let text = br#"{"a": [0.0, Infinity, -Infinity], "b": NaN, "c": "NaN \" Infinity \\"}"#;
        let expected = json!({"a": [0.0, null, null], "b": null, "c": "NaN \" Infinity \\"});
        assert_eq!(found(text), Ok(expected));
        // As Python: the last of two.
        assert_eq!(found(br#"{"a": 1, "a": 2}"#), Ok(json!({"a": 2})));
    }

    #[test]
    fn what_is_no_json_is_told_for_what_it_is() {
        for (text, expected) in [
            (&b""[..], "is empty"),
            (b"\n ", "is empty"),
            (
                b"Entry not found",
                "not valid JSON: expected value at line 1 column 1; it begins 'Entry not found'",
            ),
            (b"{\"a\": }", "is not valid JSON"),
            (
                b"{\"error\": \"Repository not found\"}",
                "a server's message instead of the file: 'Repository not found'",
            ),
            (
                b"{\"detail\": {\"a\": 1}, \"status\": 404}",
                "message instead of the file: '{\"a\":1}'",
            ),
            (b"<!DOCTYPE html><title>x</title>", "a web page ('x')"),
            (
                b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
                "a pointer of Git LFS instead of the file of 9 bytes",
            ),
        ] {
            let error = found(text).unwrap_err();
            assert!(error.starts_with("config.json: ") && error.contains(expected), "{error}");
        }
        assert_eq!(found(b"{\"message\": \"a\", \"model_type\": 1}").unwrap()["message"], "a");
    }
}
