//! What can go wrong on disk, in words for the reader, and its kind at the port.

use std::{io, path::PathBuf};

use mvm_core::{ErrorKind, units::Mib};
use thiserror::Error as ThisError;

/// A failure of one act on disk.
#[derive(Debug, ThisError)]
pub enum Error {
    /// The kernel refused.
    #[error("cannot {act} {path}", path = path.display())]
    Io {
        /// A verb: what was tried.
        act: &'static str,
        /// The object.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// It would eat into the reserve of the file system, or into a tmpfs that is too small.
    #[error("no room in {path}: {needed} needed, {free} free beside the reserve", path = path.display())]
    NoRoom {
        /// Where.
        path: PathBuf,
        /// What it may take at most.
        needed: Mib,
        /// What may be taken.
        free: Mib,
    },
    /// What was read is not what was written.
    #[error("{path} does not verify: {reason}", path = path.display())]
    Integrity {
        /// The file.
        path: PathBuf,
        /// Why, without any of its content.
        reason: String,
    },
    /// It is not there.
    #[error("{what} does not exist")]
    Missing {
        /// What, with its name.
        what: String,
        /// What a person can do.
        hint: Option<String>,
    },
    /// It is there in a form that forbids the act.
    #[error("{0}")]
    Conflict(String),
    /// It can be reached by more people than its owner.
    #[error("{path} may be read by others (mode {mode:04o})", path = path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It can't be put into a drive.
    #[error("cannot make the drive: {0}")]
    Drive(String),
    /// A helper program failed.
    #[error(transparent)]
    Tool(#[from] crate::tool::Error),
}

impl Error {
    /// An integrity failure of `path`.
    pub(crate) fn integrity(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::Integrity { path: path.into(), reason: reason.into() }
    }

    /// Whether the file system was full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }

    /// The kind at the port.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                ErrorKind::Permission
            }
            Self::NoRoom { .. } => ErrorKind::Refused,
            Self::Io { .. } if self.is_full() => ErrorKind::Refused,
            Self::Io { .. } => ErrorKind::Failed,
            Self::Integrity { .. } => ErrorKind::Integrity,
            Self::Missing { .. } => ErrorKind::NotFound,
            Self::Conflict(_) => ErrorKind::Conflict,
            Self::Exposed { .. } => ErrorKind::Permission,
            Self::Drive(_) => ErrorKind::Invalid,
            Self::Tool(error) => error.kind(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Missing { hint, .. } => hint.clone(),
            Self::NoRoom { path, .. } => {
                Some(format!("free space on the file system of {}", path.display()))
            }
            Self::Exposed { path, .. } => Some(format!("run `chmod 0600 {}`", path.display())),
            Self::Io { .. } | Self::Integrity { .. } | Self::Conflict(_) | Self::Drive(_) => None,
            Self::Tool(error) => error.hint(),
        }
    }
}

impl From<Error> for mvm_core::Error {
    fn from(error: Error) -> Self {
        crate::tool::at_port(error.kind(), &error, error.hint())
    }
}

/// Names the act and its object for an error of the kernel.
pub(crate) trait Act<T> {
    /// Turns the error into `cannot <act> <path>`.
    fn act(self, act: &'static str, path: impl Into<PathBuf>) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> Act<T> for Result<T, E> {
    fn act(self, act: &'static str, path: impl Into<PathBuf>) -> Result<T, Error> {
        self.map_err(|source| Error::Io { act, path: path.into(), source: source.into() })
    }
}
