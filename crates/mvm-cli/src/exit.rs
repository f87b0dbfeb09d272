//! Exit codes: one for each kind of error, for ever (SPEC §13).

use std::process::ExitCode;

use mvm::{Error, ExecStatus};

/// `mvm`'s own failure while running a guest's command.
pub(crate) const EXEC_FAILED: u8 = 125;
/// Stopped by Ctrl-C.
pub(crate) const CANCELLED: u8 = 130;

/// The code of an error.
pub(crate) fn of_error(error: &Error) -> ExitCode {
    ExitCode::from(if mvm::is_cancelled(error) { CANCELLED } else { error.kind.exit_code() })
}

/// The code of a guest's command: its own, 128 and the signal, or what a shell gives for one that it
/// cannot run.
pub(crate) fn of_guest(status: ExecStatus) -> ExitCode {
    ExitCode::from(match status {
        ExecStatus::Code(code) => code,
        ExecStatus::Signal(signal) => 128u8.saturating_add(signal),
        ExecStatus::NotExecutable => 126,
        ExecStatus::Absent => 127,
    })
}
