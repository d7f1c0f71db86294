//! The cache on disk, laid out as Python's `huggingface_hub` does (its documentation, "Understand
//! caching"): `models--OWNER--NAME/` with `blobs/ETAG`, `refs/REVISION` and `snapshots/COMMIT/FILE`, the
//! last a link to a blob.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use keeve_files::{part, whole};

use crate::Error;
use crate::name::{self, ModelName, Revision};

/// A repository of which something is in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedModel {
    /// Its name.
    pub model: ModelName,
    /// Bytes on disk.
    pub bytes: u64,
    /// How many of them belong to downloads that broke off.
    pub partial_bytes: u64,
    /// Its commits.
    pub snapshots: Vec<Snapshot>,
    /// When one of its files was last read, as far as the system keeps that, or written.
    pub last_used: Option<SystemTime>,
}

/// A commit of which files are in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its hash.
    pub commit: String,
    /// Branches and tags that stood for it.
    pub refs: Vec<String>,
    /// Its files, with their sizes.
    pub files: Vec<(String, u64)>,
}

/// A repository's folder.
pub(crate) struct Repo {
    root: PathBuf,
    locks: PathBuf,
}

/// Folders deeper than this are not looked into.
const MAX_DEPTH: usize = 4;

/// More files than this are not listed; no repository of a model has so many.
const MAX_FILES: usize = 100_000;

impl Repo {
    pub fn new(cache: &Path, model: &ModelName) -> Self {
        let folder = model.folder();
        Self { root: cache.join(&folder), locks: cache.join(".locks").join(folder) }
    }

    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    /// Where the blob with this etag is or goes, and the lock that belongs to it. The folders exist.
    pub fn blob(&self, etag: &str) -> Result<(PathBuf, PathBuf), Error> {
        let blobs = self.root.join("blobs");
        for folder in [&blobs, &self.locks] {
            fs::create_dir_all(folder).map_err(Error::io(folder))?;
        }
        Ok((blobs.join(etag), self.locks.join(format!("{etag}.lock"))))
    }

    /// The commit that a revision stood for when it was last asked about.
    pub fn commit(&self, revision: &Revision) -> Option<String> {
        if revision.is_commit() {
            return Some(revision.as_str().into());
        }
        let path = self.root.join("refs").join(revision.as_str());
        let text = whole::text(&path, 1024, "a reference").ok()?;
        Some(text.trim().to_owned()).filter(|commit| name::is_commit(commit))
    }

    /// Remembers what a revision stands for.
    pub fn remember(&self, revision: &Revision, commit: &str) -> Result<(), Error> {
        let path = self.root.join("refs").join(revision.as_str());
        if revision.is_commit() || self.commit(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let folder = path.parent().unwrap_or(&self.root);
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        part::replace(&path, commit.as_bytes()).map_err(Error::io(&path))
    }

    /// Puts a blob into a snapshot under a file's name.
    pub fn link(&self, commit: &str, file: &str, etag: &str) -> Result<(), Error> {
        let path = self.snapshot(commit).join(file);
        let folder = path.parent().unwrap_or(&self.root);
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        if path.exists() {
            return Ok(());
        }
        // One that leads nowhere: its blob was removed.
        let _ = fs::remove_file(&path);
        let up = "../".repeat(2 + file.matches('/').count());
        let target = PathBuf::from(format!("{up}blobs/{etag}"));
        match place(&target, &self.root.join("blobs").join(etag), &path) {
            // Another process was faster.
            Err(_) if path.exists() => Ok(()),
            outcome => outcome.map_err(Error::io(&path)),
        }
    }

    /// The files of a snapshot that are there, with their sizes.
    pub fn files(&self, commit: &str) -> Vec<(String, u64)> {
        let mut files = vec![];
        walk(&self.snapshot(commit), "", MAX_DEPTH, &mut files);
        files.sort();
        files
    }

    /// Everything about it; `None` if there is nothing.
    fn describe(&self, model: ModelName) -> Option<CachedModel> {
        let mut refs = vec![];
        walk(&self.root.join("refs"), "", MAX_DEPTH, &mut refs);
        let commit_of = |name: &str| Revision::parse(name).ok().and_then(|name| self.commit(&name));
        let mut snapshots = vec![];
        for commit in names(&self.root.join("snapshots")) {
            let named = refs.iter().filter(|(name, _)| commit_of(name).as_ref() == Some(&commit));
            let refs = named.map(|(name, _)| name.clone()).collect();
            let files = self.files(&commit);
            snapshots.push(Snapshot { commit, refs, files });
        }
        let (mut bytes, mut partial_bytes, mut last_used) = (0, 0, None);
        let blobs = self.root.join("blobs");
        let stored = names(&blobs);
        for name in &stored {
            let Ok(metadata) = fs::metadata(blobs.join(name)) else { continue };
            bytes += metadata.len();
            if name.ends_with(".incomplete") {
                partial_bytes += metadata.len();
            }
            let times = [metadata.accessed(), metadata.modified()];
            last_used = last_used.max(times.into_iter().flatten().max());
        }
        (!snapshots.is_empty() || !stored.is_empty()).then_some(CachedModel {
            model,
            bytes,
            partial_bytes,
            snapshots,
            last_used,
        })
    }

    /// Removes everything; `false` if there was nothing.
    fn remove(&self) -> Result<bool, Error> {
        if !self.root.is_dir() {
            return Ok(false);
        }
        fs::remove_dir_all(&self.root).map_err(Error::io(&self.root))?;
        match fs::remove_dir_all(&self.locks) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(&self.locks)(error))
            }
            _ => Ok(true),
        }
    }
}

/// The models in a cache, by name. A cache that does not exist has none.
pub(crate) fn list(cache: &Path) -> Vec<CachedModel> {
    let models = names(cache).into_iter().filter_map(|folder| ModelName::of_folder(&folder));
    let mut models: Vec<_> =
        models.filter_map(|model| Repo::new(cache, &model).describe(model)).collect();
    models.sort_by_key(|cached| cached.model.repo());
    models
}

/// What is in the cache of one repository.
pub(crate) fn find(cache: &Path, model: &ModelName) -> Option<CachedModel> {
    Repo::new(cache, model).describe(model.repository())
}

/// Removes a repository from a cache; `false` if it is not there.
pub(crate) fn remove(cache: &Path, model: &ModelName) -> Result<bool, Error> {
    Repo::new(cache, model).remove()
}

/// The names in a folder that are text.
fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return vec![] };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// The files under a folder, with folders' names before theirs. Links to files are the cache's own way to hold them; links
/// to folders lead elsewhere and are passed by.
fn walk(folder: &Path, before: &str, depth: usize, files: &mut Vec<(String, u64)>) {
    if !fs::symlink_metadata(folder).is_ok_and(|found| found.is_dir()) {
        return;
    }
    for name in names(folder) {
        if files.len() >= MAX_FILES {
            return;
        }
        let path = folder.join(&name);
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.is_file() {
            files.push((format!("{before}{name}"), metadata.len()));
        } else if metadata.is_dir() && depth > 0 {
            walk(&path, &format!("{before}{name}/"), depth - 1, files);
        }
    }
}

#[cfg(unix)]
fn place(target: &Path, _blob: &Path, path: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

/// Not everybody may make links on Windows; then the snapshot gets the file itself, as with
/// `huggingface_hub`.
#[cfg(not(unix))]
fn place(_target: &Path, blob: &Path, path: &Path) -> std::io::Result<()> {
    fs::hard_link(blob, path).or_else(|_| fs::copy(blob, path).map(|_| ()))
}
