//! What can go wrong while getting bytes.
//!
//! A list of reasons; what to do about them is the caller's business.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::{AptError, HttpError, MemberError, PipError};
use crate::hash::ContentHash;

/// Why one source did not deliver.
#[derive(Debug, thiserror::Error)]
pub enum SourceFailure {
    /// Over HTTP.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// By pip.
    #[error(transparent)]
    Pip(#[from] PipError),
    /// By apt.
    #[error(transparent)]
    Apt(#[from] AptError),
    /// Inside the archive.
    #[error(transparent)]
    Member(#[from] MemberError),
    /// Other bytes than wanted.
    #[error("it has {found} instead of {want}")]
    WrongHash {
        /// What was wanted.
        want: ContentHash,
        /// What came.
        found: ContentHash,
    },
    /// A local file operation.
    #[error("cannot use {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

/// The sources that were tried, and what each said.
#[derive(Debug, Default)]
pub struct Attempts(pub Vec<(String, SourceFailure)>);

impl fmt::Display for Attempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (source, failure)) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{source}: {failure}")?;
            let mut cause = std::error::Error::source(failure);
            while let Some(error) = cause {
                write!(f, ": {error}")?;
                cause = error.source();
            }
        }
        Ok(())
    }
}

/// Why a file could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Every source was tried.
    #[error("no source delivered {name}: {attempts}")]
    NoSource {
        /// The file.
        name: String,
        /// What was tried.
        attempts: Attempts,
    },
    /// The client could not be set up.
    #[error("cannot prepare downloads")]
    Client(#[source] HttpError),
    /// The cache directory can't be used.
    #[error("cannot use the download cache {path}")]
    Cache {
        /// The path in it.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// Another process held the cache for too long.
    #[error("another process works in the download cache {path}; waited {} s", waited.as_secs())]
    Busy {
        /// The cache.
        path: PathBuf,
        /// For how long this one waited.
        waited: Duration,
    },
}
