//! What can go wrong between a name and a file.

use std::io;
use std::path::{Path, PathBuf};

/// Why a model is not in the cache.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file that cannot be read.
    #[error(transparent)]
    File(#[from] keeve_files::whole::Error),
    /// Not a repository's name, a revision or a file's name.
    #[error("'{text}' is no {what}: expected {expected}")]
    Name {
        /// What was given.
        text: String,
        /// What it should be.
        what: &'static str,
        /// What that looks like.
        expected: &'static str,
    },
    /// An environment variable or a file of settings has a value that cannot be used.
    #[error("{name} {problem}")]
    Setting {
        /// The variable or file.
        name: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// The server refuses.
    #[error("{what}: {problem}")]
    Refused {
        /// Repository or file.
        what: String,
        /// Why, and what may help.
        problem: String,
    },
    /// The server asks to wait for longer than keeve waits.
    #[error("{what}: the server asks to come back in {seconds} seconds (status {status})")]
    Busy {
        /// Repository or file.
        what: String,
        /// How long.
        seconds: u64,
        /// The HTTP status.
        status: u16,
    },
    /// No connection, or it broke off too often.
    #[error("{what}: {problem}")]
    Connection {
        /// Repository or file.
        what: String,
        /// What happened last.
        problem: String,
    },
    /// The server sent something other than was asked for.
    #[error("{what}: {problem}")]
    Answer {
        /// Repository or file.
        what: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The network must not be used and the cache does not have it.
    #[error("{what} is not in the cache ({}), and the network is not to be used", cache.display())]
    Offline {
        /// Repository or file.
        what: String,
        /// The cache.
        cache: PathBuf,
    },
    /// The repository has nothing that keeve can run, or too much to choose from.
    #[error("{repo}: {problem}")]
    Choice {
        /// The repository.
        repo: String,
        /// What there is.
        problem: String,
    },
    /// A file of the cache cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The caller wanted no more.
    #[error("the download was stopped; it will go on from where it was")]
    Cancelled,
}

impl Error {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.into(), source }
    }

    /// Whether what is in the cache may be used instead: the server could not be asked.
    pub(crate) fn is_out_of_reach(&self) -> bool {
        matches!(self, Self::Connection { .. } | Self::Busy { .. })
    }
}
