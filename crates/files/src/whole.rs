//! Small files that are read whole: recipes, settings, keys, texts.
//!
//! Whatever a path leads to, no more is read than the limit, and only from a regular file or from a pipe that the
//! process was started with (`<(command)`, `/dev/stdin`). Opening never waits.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// One mebibyte.
pub const MIB: u64 = 1 << 20;

/// Why a file was not read: one line.
#[derive(Debug)]
pub struct Error {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it, or was when it was read.
    pub problem: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.problem)
    }
}

impl std::error::Error for Error {}

/// Reads the file at `path`, which may have `most` bytes. `what` is the flag or setting that names it, for messages.
///
/// # Errors
/// If it cannot be read, is no regular file (a folder, a device, a named pipe), or is larger.
pub fn read(path: &Path, most: u64, what: &str) -> Result<Vec<u8>, Error> {
    let wrong = |problem: String| Error { path: path.into(), problem };
    let (file, metadata) = open(path).map_err(|error| wrong(error.to_string()))?;
    if !metadata.is_file() && !inherited(path) {
        return Err(wrong(format!("is {}, expected a file for {what}", kind_of(&metadata))));
    }
    let too_large = || wrong(format!("is larger than {}, the limit of {what}", size(most)));
    if metadata.is_file() && metadata.len() > most {
        return Err(too_large());
    }
    let bytes = bounded(file, most).map_err(|error| wrong(error.to_string()))?;
    bytes.ok_or_else(too_large)
}

/// [`read`] for a file of text.
///
/// # Errors
/// As [`read`]; also if it is not UTF-8.
pub fn text(path: &Path, most: u64, what: &str) -> Result<String, Error> {
    let bytes = read(path, most, what)?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let problem = match crate::kind::told(error.as_bytes()) {
            Some(told) => format!("{told}, expected a text for {what}"),
            None => format!("is not UTF-8 at byte {at}, expected a text for {what}"),
        };
        Error { path: path.into(), problem }
    })
}

/// Standard input, which may have `most` bytes; `None` if there are more.
///
/// # Errors
/// If it cannot be read.
pub fn standard_input(most: u64) -> io::Result<Option<Vec<u8>>> {
    bounded(io::stdin().lock(), most)
}

/// All bytes; `None` if there are more than `most`.
fn bounded(from: impl Read, most: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    // One byte more than is allowed is enough to know.
    from.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= most).then_some(bytes))
}

/// A limit for a person.
fn size(bytes: u64) -> String {
    match bytes {
        bytes if bytes >= MIB => format!("{} MiB", bytes / MIB),
        bytes => format!("{bytes} bytes"),
    }
}

/// Opens a file without waiting for the other end of a pipe.
fn open(path: &Path) -> io::Result<(File, Metadata)> {
    let mut options = File::options();
    options.read(true);
    #[cfg(unix)]
    if !inherited(path) {
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32);
    }
    let file = options.open(path)?;
    let metadata = file.metadata()?;
    Ok((file, metadata))
}

/// Whether a path is one of the process's own open files. A shell's `<(command)` gives such a path, to a pipe whose
/// other end is there.
fn inherited(path: &Path) -> bool {
    let parents = ["/dev/fd", "/proc/self/fd"];
    path == Path::new("/dev/stdin") || parents.iter().any(|parent| path.starts_with(parent))
}

fn kind_of(metadata: &Metadata) -> &'static str {
    if metadata.is_dir() {
        return "a folder";
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        let kind = metadata.file_type();
        if kind.is_fifo() {
            return "a named pipe";
        }
        if kind.is_char_device() || kind.is_block_device() {
            return "a device";
        }
        if kind.is_socket() {
            return "a socket";
        }
    }
    "no regular file"
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn problem(path: &Path, most: u64) -> String {
        read(path, most, "--recipe").unwrap_err().problem
    }

    #[test]
    fn files_are_read_up_to_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, b"12345").unwrap();
        assert_eq!(read(&path, 5, "--recipe").unwrap(), b"12345");
        assert_eq!(problem(&path, 4), "is larger than 4 bytes, the limit of --recipe");
        // A sparse file is not read at all.
        std::fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(problem(&path, MIB), "is larger than 1 MiB, the limit of --recipe");
        assert_eq!(problem(folder.path(), MIB), "is a folder, expected a file for --recipe");
        assert!(problem(&folder.path().join("none"), 1).contains("No such file"));
    }

    #[test]
    fn texts_are_utf8() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, b"ab\xff").unwrap();
        let error = text(&path, MIB, "--data").unwrap_err().to_string();
        assert!(error.ends_with("is not UTF-8 at byte 2, expected a text for --data"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn devices_and_named_pipes_are_refused_at_once() {
        for device in ["/dev/zero", "/dev/null"] {
            let problem = problem(Path::new(device), MIB);
            assert_eq!(problem, "is a device, expected a file for --recipe", "{device}");
        }
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        assert_eq!(problem(&pipe, MIB), "is a named pipe, expected a file for --recipe");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        assert_eq!(problem(&link, MIB), "is a device, expected a file for --recipe");
    }
}
