//! Files that are written beside the place that they will have.
//!
//! Their names can be known before, and whoever may write to the folder may have put something under them: a link to
//! another file, a named pipe, a folder. Nothing of that is followed, written to or waited for, and nothing of that
//! keeps anybody from writing.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::ops::Deref;
use std::path::Path;

/// Opens the file at `path` to read and to write, if it is one that this user's earlier run can have left: a regular
/// file with this name only. `None` if nothing is there or it is anything else.
///
/// # Errors
/// If the system does not say what is there, or refuses to open it.
pub fn open_own(path: &Path) -> io::Result<Option<File>> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
        Ok(found) if !found.is_file() => return Ok(None),
        Ok(_) => {}
    }
    let mut options = File::options();
    options.read(true).write(true);
    without_following(&mut options);
    let file = match options.open(path) {
        Ok(file) => file,
        // Something else has taken its place meanwhile, or it is not ours to write.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    // Asked of what is open, which stays the same whatever happens to the name.
    Ok(is_own(&file.metadata()?).then_some(file))
}

/// The file at `path`, as [`open_own`] takes it, or a new one where nothing is that it takes. What else stands there is
/// removed.
///
/// # Errors
/// If a folder stands there that is not empty, or the file cannot be opened or made.
pub fn open_or_create(path: &Path) -> io::Result<File> {
    or_new(path, open_own)
}

/// The file at `path`, whoever's it is, as long as it is a regular one, or a new one: for locks, which are never
/// written to.
///
/// # Errors
/// As [`open_or_create`].
pub fn lock_file(path: &Path) -> io::Result<File> {
    or_new(path, |path| {
        if !fs::symlink_metadata(path).is_ok_and(|found| found.is_file()) {
            return Ok(None);
        }
        let mut options = File::options();
        options.read(true).write(true);
        without_following(&mut options);
        options.open(path).map(Some)
    })
}

/// A file that this process alone writes to, among those that ask for the lock, until it is dropped.
///
/// Closing a file releases its lock only with the last descriptor, and a child process that another thread is just
/// starting has one of each for a moment. So the lock is released by name.
pub struct Locked(File);

impl Locked {
    /// `file` with its lock; `None` if somebody else has that.
    ///
    /// # Errors
    /// If the system cannot say.
    pub fn new(file: File) -> io::Result<Option<Self>> {
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

impl Deref for Locked {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // What cannot be released so is released with the descriptor.
        let _ = self.0.unlock();
    }
}

/// What `open` gives, or a new file.
fn or_new(path: &Path, open: impl Fn(&Path) -> io::Result<Option<File>>) -> io::Result<File> {
    const TRIES: u32 = 8;
    for last in (0..TRIES).rev() {
        if let Some(file) = open(path)? {
            return Ok(file);
        }
        match File::options().read(true).write(true).create_new(true).open(path) {
            // Either another process was faster, and the next round finds its file, or something else is there.
            Err(error) if error.kind() == ErrorKind::AlreadyExists && last > 0 => {
                if open(path)?.is_none() {
                    clear(path)?;
                }
            }
            outcome => return outcome,
        }
    }
    Err(ErrorKind::AlreadyExists.into())
}

/// Removes what stands at `path`; of folders only empty ones.
fn clear(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// A new, empty file at `path` to read and to write. Links, pipes and files of others that stand there are removed, not
/// followed.
///
/// # Errors
/// If a folder stands there, or the file cannot be made.
pub fn create(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create_new(true);
    let mut tries = 0;
    loop {
        match options.open(path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists && tries < 3 => {
                tries += 1;
                clear(path)?;
            }
            outcome => return outcome,
        }
    }
}

/// Writes `bytes` to `path` by way of a new file beside it, so that there is the old content or the new, on the disk
/// as well.
///
/// # Errors
/// If anything of it fails.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let (part, mut file) = first(|number| {
        let part = parent(path).join(format!(".{name}.{number}.keeve-part"));
        create(&part).map(|file| (part, file))
    })?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    match written.and_then(|()| fs::rename(&part, path)) {
        Ok(()) => {
            sync_parent(path);
            Ok(())
        }
        Err(error) => {
            let _ = fs::remove_file(&part);
            Err(error)
        }
    }
}

/// The first of some numbered places that `make` can use.
///
/// # Errors
/// What the last one failed with.
pub fn first<T>(make: impl Fn(u32) -> io::Result<T>) -> io::Result<T> {
    // Whoever puts something into more places than these keeps us from writing in other ways, too.
    const PLACES: u32 = 64;
    let mut last = None;
    for number in 0..PLACES {
        match make(number) {
            Ok(made) => return Ok(made),
            // Another place is no better.
            Err(error) if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::NotFound) => {
                return Err(error);
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| ErrorKind::AlreadyExists.into()))
}

/// Makes sure that a new name in the folder of `path` is on the disk. Where the system cannot, it comes there later.
pub fn sync_parent(path: &Path) {
    #[cfg(unix)]
    if let Ok(folder) = File::open(parent(path)) {
        let _ = folder.sync_all();
    }
    #[cfg(not(unix))]
    let _ = path;
}

/// The folder that holds `path`.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Whether `path` is a folder itself, no link to one, and this user's.
pub fn is_own_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_dir() && is_of_user(&found))
}

/// Removes a leftover at `path`, if it is a file or a link; folders stay.
pub fn remove_leftover(path: &Path) {
    if fs::symlink_metadata(path).is_ok_and(|found| !found.is_dir()) {
        let _ = fs::remove_file(path);
    }
}

#[cfg(unix)]
fn without_following(options: &mut fs::OpenOptions) {
    use rustix::fs::OFlags;
    use std::os::unix::fs::OpenOptionsExt;
    options.custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32);
}

#[cfg(not(unix))]
fn without_following(_: &mut fs::OpenOptions) {}

/// Whether an open file is a regular one of this user that has no other name.
#[cfg(unix)]
fn is_own(found: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    found.is_file() && found.nlink() == 1 && is_of_user(found)
}

#[cfg(not(unix))]
fn is_own(found: &fs::Metadata) -> bool {
    found.is_file()
}

#[cfg(unix)]
fn is_of_user(found: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    found.uid() == rustix::process::geteuid().as_raw()
}

#[cfg(not(unix))]
fn is_of_user(_: &fs::Metadata) -> bool {
    true
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_was_left_is_opened_and_what_others_put_there_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("part");
        assert!(open_own(&path).unwrap().is_none());
        fs::write(&path, b"left").unwrap();
        assert!(open_own(&path).unwrap().is_some());
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(open_own(&path).unwrap().is_none());
        create(&path).unwrap();
        assert!(path.is_file(), "an empty folder goes away");
    }

    #[cfg(unix)]
    #[test]
    fn links_and_pipes_are_never_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (precious, path) = (folder.path().join("precious"), folder.path().join("part"));
        fs::write(&precious, b"precious").unwrap();
        let put: [&dyn Fn(); 4] = [
            &|| std::os::unix::fs::symlink(&precious, &path).unwrap(),
            &|| std::os::unix::fs::symlink(folder.path().join("nowhere"), &path).unwrap(),
            &|| fs::hard_link(&precious, &path).unwrap(),
            &|| {
                let made = std::process::Command::new("mkfifo").arg(&path).status();
                assert!(made.unwrap().success());
            },
        ];
        for put in put {
            put();
            assert!(open_own(&path).unwrap().is_none());
            create(&path).unwrap().write_all(b"new").unwrap();
            assert_eq!(fs::read(&precious).unwrap(), b"precious");
            assert_eq!(fs::read(&path).unwrap(), b"new");
            fs::remove_file(&path).unwrap();
        }
        // The name itself: the link is replaced, not what it leads to.
        std::os::unix::fs::symlink(&precious, &path).unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(fs::read(&precious).unwrap(), b"precious");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_dropped_lock_is_free_even_if_a_copy_of_the_descriptor_is_open() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = Locked::new(lock_file(&path).unwrap()).unwrap().unwrap();
        // As a child process has it between its start and its program.
        let _copy = first.try_clone().unwrap();
        assert!(Locked::new(lock_file(&path).unwrap()).unwrap().is_none());
        drop(first);
        assert!(Locked::new(lock_file(&path).unwrap()).unwrap().is_some());
    }

    #[test]
    fn a_place_that_cannot_be_had_blocks_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let taken = folder.path().join(".file.0.keeve-part");
        fs::create_dir(&taken).unwrap();
        fs::write(taken.join("something"), b"").unwrap();
        replace(&path, b"content").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"content");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
