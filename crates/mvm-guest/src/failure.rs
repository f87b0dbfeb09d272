//! How the agent's own functions fail: with the protocol's [`Failure`], which goes to the caller
//! as it is. This module refuses to know what was attempted.

use std::fmt::Display;

use mvm_proto::{Failure, FailureKind};

/// What the agent's functions give.
pub(crate) type Outcome<T> = Result<T, Failure>;

/// Puts the act before an error's own words.
pub(crate) trait Context<T> {
    /// Turns the error into a failure that says what could not be done.
    fn because(self, act: impl Display) -> Outcome<T>;
}

impl<T, E: Into<std::io::Error>> Context<T> for Result<T, E> {
    fn because(self, act: impl Display) -> Outcome<T> {
        self.map_err(|error| of_io(&act, &error.into()))
    }
}

/// What an I/O error is to the caller.
#[expect(clippy::wildcard_enum_match_arm, reason = "the standard library adds kinds at will")]
pub(crate) fn of_io(act: &impl Display, error: &std::io::Error) -> Failure {
    let kind = match error.kind() {
        std::io::ErrorKind::NotFound => FailureKind::NotFound,
        std::io::ErrorKind::PermissionDenied => FailureKind::Denied,
        std::io::ErrorKind::TimedOut => FailureKind::Timeout,
        std::io::ErrorKind::InvalidInput => FailureKind::Invalid,
        _ => FailureKind::Failed,
    };
    Failure::new(kind, format!("{act}: {error}"))
}

/// A failure of this kind.
pub(crate) fn failure<T>(kind: FailureKind, message: impl Into<String>) -> Outcome<T> {
    Err(Failure::new(kind, message))
}
