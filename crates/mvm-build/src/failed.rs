//! A file operation that failed: what was tried, with which file, and what the system said.
//!
//! What the file was for is said by whoever tried it.

use std::io;
use std::path::{Path, PathBuf};

/// A file operation failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {act} {path}")]
pub struct FileError {
    /// What was tried.
    pub act: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// The system's reason.
    #[source]
    pub source: io::Error,
}

impl FileError {
    /// Puts act and file to the system's reason.
    pub(crate) fn new(act: &'static str, path: &Path, source: io::Error) -> Self {
        Self { act, path: path.to_owned(), source }
    }
}
