//! What stands in a file that is not what its name says.
//!
//! A model's folder is often filled by tools that put something else in the place of a file: `git clone` without Git LFS
//! leaves pointers (git-lfs/git-lfs `docs/spec.md`), `curl` saves the page or the message that a server answered with,
//! and scripts rename files of other formats.

/// Bytes that are looked at.
const HEAD: usize = 4096;

/// What the bytes of a file evidently are instead of a model's file, as the end of a sentence that begins with its
/// path; `None` if nothing is evident.
pub fn told(bytes: &[u8]) -> Option<String> {
    let head = &bytes[..bytes.len().min(HEAD)];
    if head.starts_with(b"version https://git-lfs") || head.starts_with(b"version http://git-media")
    {
        return Some(pointer(head));
    }
    if head.starts_with(b"/annex/objects/") || head.starts_with(b".git/annex/objects/") {
        return Some(
            "is a pointer of git-annex instead of the file; get it with `git annex get`".into(),
        );
    }
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    let begins = |with: &str| {
        text.get(..with.len()).is_some_and(|found| found.eq_ignore_ascii_case(with.as_bytes()))
    };
    if begins("<!doctype html") || begins("<html") || begins("<head") || begins("<body") {
        let title = title(text).map(|title| format!(" ('{title}')")).unwrap_or_default();
        return Some(format!("is a web page{title} instead of the file; download the file itself"));
    }
    if begins("<?xml") || begins("<error>") {
        return Some("is an XML text, such as a server's error, instead of the file".into());
    }
    None
}

/// What the bytes of a file that is no safetensors file are instead, as [`told`]; also other formats of weights.
pub fn told_of_weights(bytes: &[u8]) -> Option<String> {
    if let Some(told) = told(bytes) {
        return Some(told);
    }
    const FORMATS: [(&[u8], &str); 12] = [
        (b"GGUF", "is a GGUF file"),
        (b"lmgg", "is a GGML file of before GGUF, which nothing of today reads"),
        (b"fmgg", "is a GGML file of before GGUF, which nothing of today reads"),
        (b"tjgg", "is a GGML file of before GGUF, which nothing of today reads"),
        (b"algg", "is a GGML adapter of before GGUF"),
        (b"PK\x03\x04", "is a zip archive, as PyTorch writes its .bin files"),
        (b"\x80\x02", "is a Python pickle, as PyTorch writes its .bin files"),
        (b"\x89HDF", "is an HDF5 file"),
        (b"\x1f\x8b", "is compressed by gzip; unpack it"),
        (b"\x28\xb5\x2f\xfd", "is compressed by zstd; unpack it"),
        (b"\xfd7zXZ", "is compressed by xz; unpack it"),
        (b"\x93NUMPY", "is a NumPy array"),
    ];
    if let Some((_, what)) = FORMATS.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return Some((*what).into());
    }
    // A header's length comes first in safetensors, a word in GGUF: both hold bytes that no text has.
    let head = &bytes[..bytes.len().min(HEAD)];
    let text = std::str::from_utf8(head).ok().filter(|text| !text.is_empty());
    if let Some(text) = text.filter(|_| bytes.len() < HEAD)
        && text.chars().all(|c| !c.is_control() || c.is_ascii_whitespace())
    {
        return Some(format!("is a text instead of weights: '{}'", line(text)));
    }
    let nothing = bytes.len() >= HEAD && head.iter().all(|byte| *byte == 0);
    nothing.then(|| "begins with zeros: what was there first has not been downloaded".into())
}

/// A pointer of Git LFS, with the size of what it stands for.
fn pointer(head: &[u8]) -> String {
    let text = String::from_utf8_lossy(head);
    let size = text.lines().find_map(|line| line.strip_prefix("size ")?.trim().parse::<u64>().ok());
    let size = size.map(|size| format!(" of {size} bytes")).unwrap_or_default();
    format!("is a pointer of Git LFS instead of the file{size}; get it with `git lfs pull`")
}

/// The title of a web page.
fn title(page: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(page);
    let lower = text.to_ascii_lowercase();
    let from = lower.find("<title")?;
    let from = from + lower[from..].find('>')? + 1;
    let to = from + lower[from..].find("</")?;
    // Lower case of ASCII only: the same bytes.
    text.get(from..to).map(line).filter(|title| !title.is_empty())
}

/// The beginning of a text on one line.
pub fn line(text: &str) -> String {
    const LONGEST: usize = 100;
    let joined = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut out: String = joined.chars().filter(|c| !c.is_control()).take(LONGEST).collect();
    if joined.chars().count() > LONGEST {
        out.push_str("...");
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_is_no_model_file_is_told() {
        let pointer =
            "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4976698672\n";
        assert!(
            told(pointer.as_bytes())
                .unwrap()
                .contains("Git LFS instead of the file of 4976698672 bytes")
        );
        let page = "\n <!DOCTYPE HTML>\n<html><head><title>Sign\n in</title></head>";
        assert!(told(page.as_bytes()).unwrap().starts_with("is a web page ('Sign in')"));
        assert!(told(b"<html>").unwrap().starts_with("is a web page instead"));
        assert!(told(b"\xef\xbb\xbf<?xml version=\"1.0\"?><Error>").unwrap().contains("XML"));
        for fine in [&b"{}"[..], b"GGUF", b"", b"{% for m in messages %}<html>", b"version 3"] {
            assert_eq!(told(fine), None);
        }
    }

    #[test]
    fn weights_in_other_formats_are_told() {
        for (bytes, expected) in [
            (&b"PK\x03\x04"[..], "zip archive"),
            (b"\x80\x02}q", "pickle"),
            (b"tjgg\x03\0\0\0", "GGML"),
            (b"{\"error\": \"Repository not found\"}", "a text instead of weights: '{\"error\""),
            (b"Entry not found", "a text instead of weights: 'Entry not found'"),
            (&[0; HEAD], "begins with zeros"),
        ] {
            let found = told_of_weights(bytes).unwrap();
            assert!(found.contains(expected), "{found}");
        }
        // A header of 123 bytes, whose length is a letter.
        assert_eq!(told_of_weights(b"{\0\0\0\0\0\0\0{\"a\":"), None);
        assert_eq!(told_of_weights(b""), None);
    }
}
