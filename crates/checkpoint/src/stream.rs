//! Writing a file tensor by tensor, visible under its name only when it is complete.

use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use keeve_files::part::{self, Locked, parent};
use tempfile::NamedTempFile;

use crate::Error;
use crate::journal::{Hash, Journal};

/// A container being written: a header, then tensors in the order announced. The bytes go to a
/// temporary file beside the target, which takes the target's name in [`TensorStream::finish`]; if
/// that is not reached, the temporary file is removed and the target stays as it was.
pub(crate) struct TensorStream {
    target: PathBuf,
    /// Gone when the stream is finished.
    file: Option<BufWriter<Part>>,
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
    Kept(Box<Kept>),
}

struct Kept {
    file: Locked,
    path: PathBuf,
    journal: Journal,
    /// Bytes that are not known to be on the disk, and since when there are such.
    unsynced: u64,
    since: Instant,
}

impl Part {
    fn file(&self) -> &File {
        match self {
            Self::Temporary(file) => file.as_file(),
            Self::Kept(kept) => &kept.file,
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

/// How the names of parts that stay end, and those of their records.
const KEPT: &str = ".keeve-part";
const RECORDS: &str = ".keeve-sums";

/// Bytes that are gathered before they are written.
const BUFFER: usize = 1 << 20;

/// What may be lost when the process is killed: so many bytes of small tensors, and the work of such a time.
const UNSYNCED: u64 = BUFFER as u64;
const UNSYNCED_FOR: Duration = Duration::from_secs(1);

impl TensorStream {
    /// As [`TensorStream::create`], but a part that is not completed stays beside the target, and a later
    /// call with the same `fingerprint` (letters and digits) and the same header goes on after the last
    /// tensor that it is known to have whole: see [`TensorStream::done`]. Parts of other fingerprints are removed.
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
        remove_others(parent(target), &prefix, fingerprint);
        // The first records are those of the header.
        let most = expected.len() + 1;
        let opened = part::first(|number| {
            let stem = match number {
                0 => format!("{prefix}{fingerprint}"),
                _ => format!("{prefix}{fingerprint}-{number}"),
            };
            let path = parent(target).join(format!("{stem}{KEPT}"));
            let file = part::open_or_create(&path)?;
            let Some(file) = Locked::new(file)? else { return Ok(None) };
            let journal = Journal::open(&parent(target).join(format!("{stem}{RECORDS}")), most)?;
            Ok(Some((file, path, journal)))
        });
        let Some((file, path, (journal, hashes))) = opened.map_err(failed)? else {
            return Err(Error::file(target, "is being written by another process"));
        };
        let kept = Kept { file, path, journal, unsynced: 0, since: Instant::now() };
        let file = BufWriter::with_capacity(BUFFER, Part::Kept(Box::new(kept)));
        let mut stream = Self {
            target: target.into(),
            file: Some(file),
            header: header.len() as u64,
            expected,
            done: 0,
            alignment,
        };
        let known = stream.verified(header, &hashes).map_err(failed)?;
        match known {
            Some(count) => {
                stream.done = count;
                stream.rewind(count)?;
            }
            None => stream.start(header).map_err(failed)?,
        }
        Ok(stream)
    }

    /// How many tensors of a part are as its records say; `None` if not even the header is.
    fn verified(&mut self, header: &[u8], hashes: &[String]) -> io::Result<Option<usize>> {
        let Some(file) = &self.file else { return Ok(None) };
        let mut file = file.get_ref().file();
        let Some((first, rest)) = hashes.split_first() else { return Ok(None) };
        file.rewind()?;
        let mut hash = Hash::new();
        hash.update(header);
        if hash.finish() != *first || hash_of(file, self.header)?.as_ref() != Some(first) {
            return Ok(None);
        }
        let mut count = 0;
        for (recorded, (_, bytes)) in rest.iter().zip(&self.expected) {
            let padded = bytes.next_multiple_of(self.alignment) as u64;
            if hash_of(file, padded)?.as_ref() != Some(recorded) {
                break;
            }
            count += 1;
        }
        Ok(Some(count))
    }

    /// Begins a part that stays: with its header, and nothing else.
    fn start(&mut self, header: &[u8]) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        file.get_ref().file().set_len(0)?;
        file.get_ref().file().rewind()?;
        file.write_all(header)?;
        let mut hash = Hash::new();
        hash.update(header);
        if let Part::Kept(kept) = file.get_mut() {
            kept.journal.keep(0)?;
            kept.journal.written(hash.finish());
        }
        file.flush()?;
        sync(file, 1)
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
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut plain = file.get_ref().file();
        plain.set_len(end).map_err(failed)?;
        plain.seek(SeekFrom::Start(end)).map_err(failed)?;
        if let Part::Kept(kept) = file.get_mut() {
            kept.journal.keep(count + 1).map_err(failed)?;
        }
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
        Ok(Self { target: target.into(), file: Some(file), header, expected, done: 0, alignment })
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
        let Some(file) = &mut self.file else {
            return Err(Error::tensor(&self.target, name, "comes after the end"));
        };
        let padding = vec![0; found.next_multiple_of(self.alignment) - found];
        let is_kept = matches!(file.get_ref(), Part::Kept(_));
        let mut hash = Hash::new();
        for piece in pieces.iter().copied().chain([&padding[..]]) {
            file.write_all(piece).map_err(failed)?;
            if is_kept {
                hash.update(piece);
            }
        }
        if let Part::Kept(kept) = file.get_mut() {
            kept.journal.written(hash.finish());
            kept.unsynced = kept.unsynced.saturating_add(found as u64);
            if kept.unsynced >= UNSYNCED || kept.since.elapsed() >= UNSYNCED_FOR {
                file.flush().and_then(|()| sync(file, usize::MAX)).map_err(failed)?;
            }
        }
        self.done += 1;
        Ok(())
    }

    /// Flushes everything to the disk and gives the file its name.
    pub(crate) fn finish(mut self) -> Result<(), Error> {
        if let Some((name, _)) = self.expected.get(self.done) {
            return Err(Error::tensor(&self.target, name, "was announced but not written"));
        }
        let failed = |source| Error::io(&self.target, source);
        let Some(file) = self.file.take() else { return Ok(()) };
        let part = file.into_inner().map_err(|error| failed(error.into_error()))?;
        part.file().sync_all().map_err(failed)?;
        match part {
            Part::Temporary(file) => {
                file.persist(&self.target).map_err(|error| failed(error.error))?;
            }
            Part::Kept(kept) => {
                std::fs::rename(&kept.path, &self.target).map_err(failed)?;
                kept.journal.remove();
            }
        }
        part::sync_parent(&self.target);
        Ok(())
    }
}

impl Drop for TensorStream {
    /// What was written until an orderly end is there for the next run, even if the end came because there was no more
    /// room. Where that fails, the next run does it again.
    fn drop(&mut self) {
        let Some(file) = self.file.as_mut().filter(|file| matches!(file.get_ref(), Part::Kept(_)))
        else {
            return;
        };
        let _ = file.flush();
        let Ok(length) = file.get_ref().file().metadata().map(|found| found.len()) else { return };
        let whole = (1..=self.done).take_while(|count| self.end_of(*count) <= length).count();
        if let Some(file) = &mut self.file {
            let _ = sync(file, whole + 1);
        }
    }
}

/// Brings what was given to the system to the disk, and records it after that: at most so many records in all.
fn sync(file: &mut BufWriter<Part>, most: usize) -> io::Result<()> {
    file.get_ref().file().sync_data()?;
    if let Part::Kept(kept) = file.get_mut() {
        (kept.unsynced, kept.since) = (0, Instant::now());
        kept.journal.record(most)?;
    }
    Ok(())
}

/// The hash of the next `length` bytes; `None` if there are fewer.
fn hash_of(file: &File, length: u64) -> io::Result<Option<String>> {
    let (mut hash, mut buffer, mut left) = (Hash::new(), vec![0; BUFFER], length);
    let mut from = file.take(length);
    while left > 0 {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(None),
            Ok(read) => {
                hash.update(&buffer[..read]);
                left -= read as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Some(hash.finish()))
}

/// Removes what runs with other fingerprints left. What cannot be removed stays, and so does what is being written.
fn remove_others(folder: &Path, prefix: &str, fingerprint: &str) {
    let own = format!("{prefix}{fingerprint}");
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let found = entry.file_name().to_string_lossy().into_owned();
        let Some(stem) = found.strip_suffix(KEPT).filter(|_| found.starts_with(prefix)) else {
            continue;
        };
        if stem.starts_with(&own) {
            continue;
        }
        let Ok(Some(file)) = part::open_own(&entry.path()) else { continue };
        // One that is being written is locked.
        if let Ok(Some(_lock)) = Locked::new(file) {
            part::remove_leftover(&entry.path());
            part::remove_leftover(&folder.join(format!("{stem}{RECORDS}")));
        }
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
        stream.file.as_mut().unwrap().write_all(b"bbb").unwrap();
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
        assert_eq!(names.len(), 2, "the part and its records: {names:?}");
    }

    /// The part and its records after 'a' and 'b' were written.
    fn left(target: &Path) -> (PathBuf, PathBuf) {
        let mut stream = resumed(target, b"head", "one");
        stream.tensor("a", &[b"aaaaa"]).unwrap();
        stream.tensor("b", &[b"bbbb", b"bbbb"]).unwrap();
        drop(stream);
        let place = |ending: &str| target.with_file_name(format!(".out.bin.one{ending}"));
        (place(KEPT), place(RECORDS))
    }

    #[test]
    fn a_tensor_counts_if_its_bytes_are_what_was_recorded() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out.bin");
        // Each damage, and how many tensors are left of two.
        type Damage<'a> = &'a dyn Fn(&mut Vec<u8>, &mut Vec<u8>);
        let damages: [(Damage<'_>, usize); 9] = [
            (&|_, _| {}, 2),
            // As long as it should be, with zeros where blocks were never written.
            (&|part, _| part[12..].fill(0), 1),
            (&|part, _| part[4..12].fill(0), 0),
            (&|part, _| part[0] = 0, 0),
            (&|part, _| part.truncate(15), 1),
            (&|part, _| part.extend(b"more"), 2),
            // Records that are cut, lost or of something else.
            (&|_, records| records.truncate(records.len() - 1), 1),
            (&|_, records| records.clear(), 0),
            (&|_, records| records[30] ^= 1, 0),
        ];
        for (number, (damage, expected)) in damages.into_iter().enumerate() {
            let (part, records) = left(&target);
            let mut bytes = (std::fs::read(&part).unwrap(), std::fs::read(&records).unwrap());
            damage(&mut bytes.0, &mut bytes.1);
            std::fs::write(&part, &bytes.0).unwrap();
            std::fs::write(&records, &bytes.1).unwrap();
            let mut stream = resumed(&target, b"head", "one");
            assert_eq!(stream.done(), expected, "damage {number}");
            for (name, bytes) in [("a", &b"aaaaa"[..]), ("b", b"bbbbbbbb"), ("c", b"c")] {
                let at = ["a", "b", "c"].iter().position(|other| *other == name).unwrap();
                if at >= expected {
                    stream.tensor(name, &[bytes]).unwrap();
                }
            }
            stream.finish().unwrap();
            assert_eq!(std::fs::read(&target).unwrap(), b"headaaaaa\0\0\0bbbbbbbbc\0\0\0");
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        }
    }

    #[cfg(unix)]
    #[test]
    fn what_stands_in_the_place_of_a_part_is_neither_followed_nor_in_the_way() {
        let folder = tempfile::tempdir().unwrap();
        let (target, precious) = (folder.path().join("out.bin"), folder.path().join("precious"));
        std::fs::write(&precious, b"precious").unwrap();
        let path = |ending: &str| folder.path().join(format!(".out.bin.{ending}"));
        let in_the_way: [&dyn Fn(&Path); 4] = [
            &|path| std::os::unix::fs::symlink(&precious, path).unwrap(),
            &|path| std::fs::hard_link(&precious, path).unwrap(),
            &|path| std::fs::create_dir_all(path.join("full")).unwrap(),
            &|path| {
                let made = std::process::Command::new("mkfifo").arg(path).status();
                assert!(made.unwrap().success());
            },
        ];
        for put in in_the_way {
            for ending in ["one.keeve-part", "one.keeve-sums", "two.keeve-part"] {
                put(&path(ending));
                let mut stream = resumed(&target, b"head", "one");
                assert_eq!(stream.done(), 0);
                stream.tensor("a", &[b"aaaaa"]).unwrap();
                stream.tensor("b", &[b"bbbbbbbb"]).unwrap();
                stream.tensor("c", &[b"c"]).unwrap();
                stream.finish().unwrap();
                assert_eq!(std::fs::read(&precious).unwrap(), b"precious");
                std::fs::remove_file(&target).unwrap();
                let _ = std::fs::remove_dir_all(path(ending));
                let _ = std::fs::remove_file(path(ending));
                for entry in std::fs::read_dir(folder.path()).unwrap() {
                    let entry = entry.unwrap();
                    if entry.path() != precious {
                        let _ = std::fs::remove_file(entry.path());
                    }
                }
            }
        }
    }
}
