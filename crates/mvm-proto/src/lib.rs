//! The wire protocol between a host and the agent inside a VM.
//!
//! ```text
//!  bytes ──► Decoder ──► Frame ──► Session ──► Event        (receiving)
//!  bytes ◄── Frame::encode ◄────── Session ◄── open, reply, send_data …
//! ```
//!
//! Everything here is sans-IO: it turns bytes into events and wishes into bytes, and refuses to
//! know sockets, threads, clocks and the domain of the host. The agent is frozen inside images
//! and snapshots, so what is written here stays readable for as long as a snapshot lives:
//! unknown fields are ignored, an unknown request is answered with [`FailureKind::Unsupported`],
//! and only a new [`Generations`] range may change the meaning of what exists.
//!
//! | port | who listens | who calls |
//! |---|---|---|
//! | [`GUEST_PORT`] | the agent in the guest | the host, through Firecracker's `CONNECT` |
//! | [`HOST_PORT`] | the per-VM process on the host | the agent, about its own instance only |
//!
//! Read next: [`frame`], then [`message`], then [`session`].

pub mod config;
mod event;
pub mod frame;
pub mod generation;
pub mod message;
pub mod routes;
pub mod session;
pub mod workload;

pub use config::{GuestConfig, Integration, MacAddress, MinRuntimePolicy, NetworkIdentity};
pub use frame::{DATA_MAX, Decoder, Frame, FrameError, JSON_MAX, Kind};
pub use generation::{GenerationError, Generations};
pub use message::{
    Channel, Entropy, Exec, Exit, Failure, FailureKind, Hello, Input, Message, Reply, Request,
    WorkerState,
};
pub use routes::{
    Backend, DEFAULT_ROUTE_PORT, InstanceSelector, MatchRule, Route, RouteTarget, Routes,
};
pub use session::{Event, ProtocolError, SendError, Session, StreamId};
pub use workload::{Restart, Service, Workload};

/// The vsock port that the agent in the guest listens on (SPEC §6).
pub const GUEST_PORT: u32 = 5252;

/// The word on the kernel's command line by which a host asks a guest to wait at its start gate for
/// [`message::Configure`], whatever its drives say.
pub const HOLD: &str = "mvm.hold";

/// The vsock port on the host that the agent may call about its own instance (SPEC §6).
pub const HOST_PORT: u32 = 5253;

/// The context id of every guest; the host's socket path is what tells guests apart (SPEC §2).
pub const GUEST_CID: u32 = 3;
