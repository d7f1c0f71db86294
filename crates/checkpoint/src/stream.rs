//! Writing a file tensor by tensor, visible under its name only when it is complete.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::Error;

/// A container being written: a header, then tensors in the order announced. The bytes go to a
/// temporary file beside the target, which takes the target's name in [`TensorStream::finish`]; if
/// that is not reached, the temporary file is removed and the target stays as it was.
pub(crate) struct TensorStream {
    target: PathBuf,
    file: BufWriter<Part>,
    /// Bytes before the first tensor.
    header: u64,
    /// Name and bytes of each tensor.
    expected: Vec<(String, usize)>,
    /// How many are complete.
    done: usize,
    /// Tensors are followed by zeros up to a multiple of this many bytes.
    alignment: usize,
}

/// The file that is written before it has its name.
enum Part {
    /// Vanishes if it is not completed.
    Temporary(NamedTempFile),
    /// Stays, so that writing can go on later. Locked while it is written.
    Kept { file: File, path: PathBuf },
}

impl Part {
    fn file(&self) -> &File {
        match self {
            Self::Temporary(file) => file.as_file(),
            Self::Kept { file, .. } => file,
        }
    }
}

impl Write for Part {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file().flush()
    }
}

/// How the names of parts that stay end.
const KEPT: &str = ".keeve-part";

/// Bytes that are gathered before they are written.
const BUFFER: usize = 1 << 20;

impl TensorStream {
    /// As [`TensorStream::create`], but a part that is not completed stays beside the target, and a later
    /// call with the same `fingerprint` (letters and digits) and the same header goes on after the last
    /// tensor that it has whole: see [`TensorStream::done`]. Parts of other fingerprints are removed.
    pub(crate) fn resume(
        target: &Path,
        header: &[u8],
        expected: Vec<(String, usize)>,
        alignment: usize,
        fingerprint: &str,
    ) -> Result<Self, Error> {
        let failed = |source| Error::io(target, source);
        let Some(name) = target.file_name() else {
            return Err(Error::file(target, "is no name of a file"));
        };
        let prefix = format!(".{}.", name.to_string_lossy());
        let own = format!("{prefix}{fingerprint}{KEPT}");
        let parent = parent(target);
        for entry in std::fs::read_dir(parent).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let found = entry.file_name().to_string_lossy().into_owned();
            if found.starts_with(&prefix) && found.ends_with(KEPT) && found != own {
                // One that is being written is locked, and stays.
                let file = File::open(entry.path()).map_err(failed)?;
                if file.try_lock().is_ok() {
                    std::fs::remove_file(entry.path()).map_err(failed)?;
                }
            }
        }
        let path = parent.join(own);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = file.map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::file(target, "is being written by another process"));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let mut found = Vec::new();
        (&mut file).take(header.len() as u64).read_to_end(&mut found).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let header_length = header.len() as u64;
        let part = Part::Kept { file, path };
        let file = BufWriter::with_capacity(BUFFER, part);
        let target = target.into();
        let mut stream = Self { target, file, header: header_length, expected, done: 0, alignment };
        if found == header {
            let whole = |count: &usize| stream.end_of(*count) <= length;
            stream.done = (1..=stream.expected.len()).take_while(whole).count();
            stream.rewind(stream.done)?;
        } else {
            let failed = |source| Error::io(&stream.target, source);
            stream.file.get_ref().file().set_len(0).map_err(failed)?;
            stream.file.get_ref().file().rewind().map_err(failed)?;
            stream.file.write_all(header).map_err(failed)?;
            // So that the file may be cut.
            stream.file.flush().map_err(failed)?;
        }
        Ok(stream)
    }

    /// Where the first `count` tensors end, padding included.
    fn end_of(&self, count: usize) -> u64 {
        let padded = |(_, bytes): &(String, usize)| bytes.next_multiple_of(self.alignment) as u64;
        self.header + self.expected[..count].iter().map(padded).sum::<u64>()
    }

    /// How many tensors are there.
    pub(crate) fn done(&self) -> usize {
        self.done
    }

    /// Forgets all but the first `count` tensors. Nothing may have been written since it was opened.
    pub(crate) fn rewind(&mut self, count: usize) -> Result<(), Error> {
        let count = count.min(self.done);
        let end = self.end_of(count);
        let failed = |source| Error::io(&self.target, source);
        let mut file = self.file.get_ref().file();
        file.set_len(end).map_err(failed)?;
        file.seek(SeekFrom::Start(end)).map_err(failed)?;
        self.done = count;
        Ok(())
    }

    pub(crate) fn create(
        target: &Path,
        header: &[u8],
        expected: Vec<(String, usize)>,
        alignment: usize,
    ) -> Result<Self, Error> {
        let failed = |source| Error::io(target, source);
        let mut builder = tempfile::Builder::new();
        builder.prefix(".keeve-").suffix(".part");
        #[cfg(unix)]
        {
            // As any other file: readable by whom the umask allows.
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let file = builder.tempfile_in(parent(target)).map_err(failed)?;
        let mut file = BufWriter::with_capacity(BUFFER, Part::Temporary(file));
        file.write_all(header).map_err(failed)?;
        let header = header.len() as u64;
        Ok(Self { target: target.into(), file, header, expected, done: 0, alignment })
    }

    /// Writes the next tensor from its pieces.
    pub(crate) fn tensor(&mut self, name: &str, pieces: &[&[u8]]) -> Result<(), Error> {
        let Some((announced, bytes)) = self.expected.get(self.done) else {
            return Err(Error::tensor(&self.target, name, "was not announced"));
        };
        if announced != name {
            let problem = format!("was written where '{announced}' was announced");
            return Err(Error::tensor(&self.target, name, problem));
        }
        let found: usize = pieces.iter().map(|piece| piece.len()).sum();
        if found != *bytes {
            let problem = format!("has {found} bytes, {bytes} were announced");
            return Err(Error::tensor(&self.target, name, problem));
        }
        let failed = |source| Error::io(&self.target, source);
        for piece in pieces {
            self.file.write_all(piece).map_err(failed)?;
        }
        let padding = found.next_multiple_of(self.alignment) - found;
        self.file.write_all(&vec![0; padding]).map_err(failed)?;
        self.done += 1;
        Ok(())
    }

    /// Flushes everything to the disk and gives the file its name.
    pub(crate) fn finish(self) -> Result<(), Error> {
        if let Some((name, _)) = self.expected.get(self.done) {
            return Err(Error::tensor(&self.target, name, "was announced but not written"));
        }
        let failed = |source| Error::io(&self.target, source);
        let part = self.file.into_inner().map_err(|error| failed(error.into_error()))?;
        part.file().sync_all().map_err(failed)?;
        match part {
            Part::Temporary(file) => {
                file.persist(&self.target).map_err(|error| failed(error.error))?;
            }
            Part::Kept { path, .. } => std::fs::rename(path, &self.target).map_err(failed)?,
        }
        Ok(())
    }
}

/// The folder that holds `target`.
fn parent(target: &Path) -> &Path {
    match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected() -> Vec<(String, usize)> {
        vec![("a".into(), 5), ("b".into(), 8), ("c".into(), 1)]
    }

    fn resumed(target: &Path, header: &[u8], fingerprint: &str) -> TensorStream {
        TensorStream::resume(target, header, expected(), 4, fingerprint).unwrap()
    }

    #[test]
    fn writing_goes_on_after_the_last_whole_tensor() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out.bin");
        let mut stream = resumed(&target, b"head", "one");
        stream.tensor("a", &[b"aaaaa"]).unwrap();
        // What a process that is killed in the middle of 'b' leaves.
        stream.file.write_all(b"bbb").unwrap();
        drop(stream);
        assert!(!target.exists());
        let part = folder.path().join(".out.bin.one.keeve-part");
        assert_eq!(std::fs::read(&part).unwrap(), b"headaaaaa\0\0\0bbb");

        let mut stream = resumed(&target, b"head", "one");
        assert_eq!(stream.done(), 1);
        let second = TensorStream::resume(&target, b"head", expected(), 4, "one");
        let error = second.err().unwrap().to_string();
        assert!(error.contains("another process"), "{error}");
        stream.tensor("b", &[b"bbbb", b"bbbb"]).unwrap();
        stream.tensor("c", &[b"c"]).unwrap();
        stream.finish().unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"headaaaaa\0\0\0bbbbbbbbc\0\0\0");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_new_part_can_be_rewound() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out.bin");
        let mut stream = resumed(&target, b"head", "one");
        stream.rewind(2).unwrap();
        assert_eq!(stream.done(), 0);
        for (name, bytes) in [("a", &b"aaaaa"[..]), ("b", b"bbbbbbbb"), ("c", b"c")] {
            stream.tensor(name, &[bytes]).unwrap();
        }
        stream.finish().unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"headaaaaa\0\0\0bbbbbbbbc\0\0\0");
    }

    #[test]
    fn another_header_or_fingerprint_starts_anew() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out.bin");
        let mut stream = resumed(&target, b"head", "one");
        stream.tensor("a", &[b"aaaaa"]).unwrap();
        drop(stream);
        assert_eq!(resumed(&target, b"HEAD", "one").done(), 0);
        assert_eq!(resumed(&target, b"head", "two").done(), 0);
        let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
    }
}
