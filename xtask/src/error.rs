//! What can go wrong in a task, worded for the person who ran it.
//!
//! Knows nothing about single tasks; see the module that returns the error.

use std::io;

/// The result of every task.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Why a task stopped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The operating system refused an act.
    #[error("cannot {act}")]
    Io {
        /// The act, as the end of the sentence "cannot …".
        act: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A program was started and ended badly.
    #[error("`{command}` failed with {status}{output}")]
    Tool {
        /// The command line.
        command: String,
        /// Its exit status in words.
        status: String,
        /// What it printed, on lines of its own; empty when it was shown already.
        output: String,
    },
    /// A document could not be read as JSON.
    #[error("cannot understand {what}")]
    Json {
        /// Where the document came from.
        what: String,
        /// The parser's words.
        #[source]
        source: serde_json::Error,
    },
    /// Everything else, as a full sentence.
    #[error("{0}")]
    Refused(String),
}

impl Error {
    /// A refusal in the caller's own words.
    pub(crate) fn refused(why: impl Into<String>) -> Self {
        Self::Refused(why.into())
    }
}

/// Adds the act to an I/O error.
pub(crate) trait Act<T> {
    /// Completes the sentence "cannot …".
    fn act(self, act: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Act<T> for io::Result<T> {
    fn act(self, act: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Io { act: act(), source })
    }
}

impl<T> Act<T> for rustix::io::Result<T> {
    fn act(self, act: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|errno| Error::Io { act: act(), source: errno.into() })
    }
}
