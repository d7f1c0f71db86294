//! Mapping a file into memory. Calls to the operating system beyond the standard library, and `unsafe`, are here and in
//! `lost.rs` only.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use keeve_codec::{Bytes, Owner};
use memmap2::Mmap;

use crate::Error;
use crate::lost::Watched;

/// The bytes of the regular file at `path` (symbolic links are followed), mapped read-only.
///
/// The file must not be truncated or rewritten in place while the bytes live.
///
/// # Errors
/// If there is no such file, it is not a regular file, or it cannot be opened or mapped.
pub fn open(path: &Path) -> Result<Bytes, Error> {
    // Asked before opening: opening a pipe would block.
    let metadata = std::fs::metadata(path).map_err(|source| Error::io(path, source))?;
    if !metadata.is_file() {
        return Err(Error::file(path, "is not a regular file"));
    }
    let file = File::open(path).map_err(|source| Error::io(path, source))?;
    let length = file.metadata().map_err(|source| Error::io(path, source))?.len();
    if length == 0 {
        // Some systems refuse an empty mapping.
        return Ok(Bytes::from(Vec::new()));
    }
    // SAFETY: the mapping is read-only and owned by the `Bytes` that hand out its slices, so it
    // outlives them. Another process could still change the file; the crate documents that nobody
    // may while it is open, and files of this crate are replaced by renaming, which keeps the
    // mapped one intact. No parser relies on reading the same bytes twice.
    let map = unsafe { Mmap::map(&file) }.map_err(|source| Error::io(path, source))?;
    let watched = Watched::new(&map, path);
    Ok(Bytes::of(Mapped { _watched: watched, map }))
}

/// A mapped file.
struct Mapped {
    // Goes before the map.
    _watched: Watched,
    map: Mmap,
}

impl Owner for Mapped {
    fn all(&self) -> &[u8] {
        &self.map
    }

    /// The pages leave this process; the system may keep them as a part of its cache of the file.
    #[cfg(unix)]
    fn release(&self, range: Range<usize>) {
        use memmap2::UncheckedAdvice;
        // SAFETY: the map is of a file and never written to, so pages that are dropped come back from
        // the file as they were when they are read again.
        let _ = unsafe {
            self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len())
        };
        // If the system refuses, memory is used longer than it need be; nothing is wrong.
    }

    #[cfg(not(unix))]
    fn release(&self, _: Range<usize>) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_files_and_refuses_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, b"").unwrap();
        assert_eq!(open(&path).unwrap().len(), 0);
        std::fs::write(&path, b"abc").unwrap();
        let bytes = open(&path).unwrap();
        assert_eq!(&*bytes, b"abc");
        bytes.slice(1..2).unwrap().release();
        assert_eq!(&*bytes, b"abc");
        let error = open(folder.path()).unwrap_err().to_string();
        assert!(error.ends_with("is not a regular file"), "{error}");
        assert!(matches!(open(&folder.path().join("none")), Err(Error::Io { .. })));
    }
}
