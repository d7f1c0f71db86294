//! Whether a file is what its etag says.

use std::fmt::Write;
use std::io::Read;

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// What an etag of the hub says about a file's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// SHA-256 of the content: large files.
    Sha256,
    /// SHA-1 of a Git blob, its header included: small files.
    GitBlob,
    /// Nothing that can be checked, as other servers have it.
    Opaque,
}

pub(crate) fn kind(etag: &str) -> Kind {
    let hex = etag.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    match etag.len() {
        64 if hex => Kind::Sha256,
        40 if hex => Kind::GitBlob,
        _ => Kind::Opaque,
    }
}

/// Whether the `length` bytes of `content` have the hash `etag`, as the hub's cache names its files: SHA-256, or SHA-1 as
/// Git has it. `None` if it is neither.
///
/// # Errors
/// If the content cannot be read.
pub fn has_hash(etag: &str, length: u64, content: impl Read) -> std::io::Result<Option<bool>> {
    match kind(etag) {
        Kind::Opaque => Ok(None),
        _ => matches(etag, length, content).map(Some),
    }
}

/// Whether the `length` bytes of `content` have the hash `etag`. True where the etag is opaque.
pub(crate) fn matches(etag: &str, length: u64, content: impl Read) -> std::io::Result<bool> {
    let found = match kind(etag) {
        Kind::Opaque => return Ok(true),
        Kind::Sha256 => digest(Sha256::new(), content)?,
        Kind::GitBlob => {
            let mut hasher = Sha1::new();
            hasher.update(format!("blob {length}\0"));
            digest(hasher, content)?
        }
    };
    Ok(found == etag)
}

fn digest<D: Digest>(mut hasher: D, mut content: impl Read) -> std::io::Result<String> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        match content.read(&mut buffer)? {
            0 => break,
            read => hasher.update(&buffer[..read]),
        }
    }
    Ok(hasher.finalize().iter().fold(String::new(), |mut hex, byte| {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etags_are_checked_where_they_are_hashes() {
        // `printf 'hello\n' | sha256sum`, and `| git hash-object --stdin`.
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        for etag in [sha256, git] {
            assert!(matches(etag, 6, &b"hello\n"[..]).unwrap());
            assert!(!matches(etag, 6, &b"hellO\n"[..]).unwrap());
        }
        assert!(!matches(git, 7, &b"hello\n"[..]).unwrap());
        assert_eq!((kind("abc"), kind(&sha256.to_uppercase())), (Kind::Opaque, Kind::Opaque));
    }
}
