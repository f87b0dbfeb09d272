//! I/O errors with the act that met them, as the error that crosses the ports.

use std::{fmt, io};

use mvm_core::{Error, ErrorKind};

/// Adds the act to an I/O result.
pub trait Act<T> {
    /// Names the act, `open /x`, in a failure `cannot open /x`.
    ///
    /// # Errors
    /// The failure; its kind follows from the error number.
    fn act(self, what: impl fmt::Display) -> Result<T, Error>;
}

impl<T> Act<T> for io::Result<T> {
    fn act(self, what: impl fmt::Display) -> Result<T, Error> {
        self.map_err(|error| {
            Error::new(kind(error.kind()), format!("cannot {what}")).because(&error)
        })
    }
}

impl<T> Act<T> for rustix::io::Result<T> {
    fn act(self, what: impl fmt::Display) -> Result<T, Error> {
        self.map_err(io::Error::from).act(what)
    }
}

fn kind(kind: io::ErrorKind) -> ErrorKind {
    if kind == io::ErrorKind::PermissionDenied {
        return ErrorKind::Permission;
    }
    let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
    if full.contains(&kind) {
        return ErrorKind::Refused;
    }
    let waiting = [io::ErrorKind::TimedOut, io::ErrorKind::WouldBlock];
    if waiting.contains(&kind) { ErrorKind::Unavailable } else { ErrorKind::Failed }
}

/// Whether something is absent, which is no error for most questions.
pub fn absent<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
