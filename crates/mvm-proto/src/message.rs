//! Messages: what the payload of a json frame says.
//!
//! The side that made the connection (the *caller*) opens a stream with a [`Request`]; the other
//! (the *callee*) answers with [`Reply`] messages or one [`Failure`], and ends the stream:
//!
//! | request | raw data caller → callee | answer |
//! |---|---|---|
//! | `exec` | channel byte 0, stdin | `started`, data with channel byte 1 or 2, `exit` |
//! | `copy_in` | a tar stream, then `input_closed` | `copied` |
//! | `copy_out` | — | a tar stream, then `copied` |
//! | all others | — | one reply |
//!
//! Every variant is a JSON object, also the empty ones, so that any of them can grow a field.
//! This module refuses to know frames, streams and what a guest does on a request.

mod ready;
mod reply;
mod request;

use serde::{Deserialize, Serialize};

pub use self::ready::{Readiness, Ready};
pub use self::reply::{
    Exit, Failure, FailureKind, IntegrationFailure, IntegrationState, Metrics, ProbeOutcome,
    ProbeResult, Reply, Status, WorkerState,
};
pub use self::request::{
    AttachDrive, Channel, Configure, Entropy, EntropyError, Exec, Input, PROBE_MAX, ProbeProtocol,
    ProbeTarget, Pty, Request, Wake,
};
use crate::generation::Generations;

/// The payload of a json frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// The first message of either side, on stream 0.
    Hello(Hello),
    /// Opens a stream; from the caller only.
    Request(Request),
    /// More from the caller on an open stream.
    Input(Input),
    /// An answer; from the callee only.
    Reply(Reply),
    /// The request failed; from the callee only, the last message before the end.
    Error(Failure),
    /// The receiver of data took `bytes` and the sender may send that many more.
    Credit {
        /// Payload bytes of data frames, channel bytes included.
        bytes: u32,
    },
}

/// What a side says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The protocol generations it speaks.
    pub generations: Generations,
    /// The version of its program, for people.
    pub version: String,
    /// The kernel's boot id of its machine: another one means another boot, not a wake.
    #[serde(default)]
    pub boot_id: String,
    /// The instance it is or calls about, where it knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<String>,
    /// The id of the operation that it calls for, for the other side's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
}
