//! The closed set of error kinds, and the error that crosses every port.
//!
//! A kind decides the exit code (SPEC §13), the message names the act and its object, the causes
//! are the chain below it, and a hint is an order that a person can follow.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The nine kinds of failure; each has one exit code and keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The act was tried and did not succeed.
    Failed,
    /// The command line makes no sense.
    Usage,
    /// The named thing does not exist.
    NotFound,
    /// The thing exists in a state that does not allow the act.
    Conflict,
    /// A quota or the node's capacity refuses it.
    Refused,
    /// The input is malformed.
    Invalid,
    /// The caller may not do this.
    Permission,
    /// Something needed does not answer, or not in time.
    Unavailable,
    /// A signature, checksum or decryption does not verify.
    Integrity,
}

impl ErrorKind {
    /// All kinds, in the order of their exit codes.
    pub const ALL: [Self; 9] = [
        Self::Failed,
        Self::Usage,
        Self::NotFound,
        Self::Conflict,
        Self::Refused,
        Self::Invalid,
        Self::Permission,
        Self::Unavailable,
        Self::Integrity,
    ];

    /// The exit code of this kind, 1–9 (SPEC §13).
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Conflict => 4,
            Self::Refused => 5,
            Self::Invalid => 6,
            Self::Permission => 7,
            Self::Unavailable => 8,
            Self::Integrity => 9,
        }
    }
}

/// A failure with its kind, its chain of causes and what to do next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// Which of the nine kinds.
    pub kind: ErrorKind,
    /// The act and its object, lower case, no full stop.
    pub message: String,
    /// What lay below, outermost first.
    #[serde(default)]
    pub causes: Vec<String>,
    /// What a person can do next.
    #[serde(default)]
    pub hints: Vec<String>,
}

impl Error {
    /// Makes an error of `kind` whose message names the act.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), causes: Vec::new(), hints: Vec::new() }
    }

    /// Adds what a person can do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Adds the chain of `source` below this message.
    #[must_use]
    pub fn because(mut self, source: &(dyn std::error::Error + 'static)) -> Self {
        let mut next = Some(source);
        while let Some(error) = next {
            self.causes.push(error.to_string());
            next = error.source();
        }
        self
    }

    /// Puts `message` above this error; kind and hints stay.
    #[must_use]
    pub fn context(mut self, message: impl Into<String>) -> Self {
        self.causes.insert(0, std::mem::replace(&mut self.message, message.into()));
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        for cause in &self.causes {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_kind_has_its_own_exit_code_from_one_to_nine() {
        let codes: BTreeSet<u8> = ErrorKind::ALL.iter().map(|kind| kind.exit_code()).collect();
        assert_eq!(codes, (1..=9).collect());
    }

    #[test]
    fn context_stands_above_the_message_and_keeps_the_kind() {
        let error =
            Error::new(ErrorKind::Integrity, "chunk 3 does not verify").context("cannot wake a");
        assert_eq!(error.to_string(), "cannot wake a: chunk 3 does not verify");
        assert_eq!(error.kind, ErrorKind::Integrity);
    }
}
