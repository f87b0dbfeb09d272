//! Why something was not done, and how that is counted.

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};

/// How a refusal is counted; the numbers are those of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub enum Code {
    /// What is asked makes no sense.
    Malformed,
    /// Whoever asks, or signed, is unknown.
    Unknown,
    /// Whoever asks may not.
    Forbidden,
    /// There is no such thing.
    Missing,
    /// Its state, a quota or the node's capacity does not allow it.
    Conflict,
    /// Too often.
    TooMany,
    /// It was tried and failed.
    Failed,
}

impl Code {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Malformed,
        Self::Unknown,
        Self::Forbidden,
        Self::Missing,
        Self::Conflict,
        Self::TooMany,
        Self::Failed,
    ];

    /// The code of an error.
    #[must_use]
    pub const fn of(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Usage | ErrorKind::Invalid => Self::Malformed,
            ErrorKind::Integrity => Self::Unknown,
            ErrorKind::Permission => Self::Forbidden,
            ErrorKind::NotFound => Self::Missing,
            ErrorKind::Conflict | ErrorKind::Refused => Self::Conflict,
            ErrorKind::Failed | ErrorKind::Unavailable => Self::Failed,
        }
    }
}

impl From<Code> for u16 {
    fn from(code: Code) -> Self {
        match code {
            Code::Malformed => 400,
            Code::Unknown => 401,
            Code::Forbidden => 403,
            Code::Missing => 404,
            Code::Conflict => 409,
            Code::TooMany => 429,
            Code::Failed => 500,
        }
    }
}

impl TryFrom<u16> for Code {
    type Error = String;

    fn try_from(number: u16) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|code| u16::from(*code) == number);
        found.ok_or_else(|| format!("{number} is no code"))
    }
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refusal {
    /// How it is counted.
    pub code: Code,
    /// What a command would say of it.
    pub error: Error,
}

impl Refusal {
    /// A refusal with its code and reason.
    #[must_use]
    pub fn new(code: Code, kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { code, error: Error::new(kind, message) }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self { code: Code::of(error.kind), error }
    }
}
