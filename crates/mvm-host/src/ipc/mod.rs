//! The wall between what faces the network and what has root.
//!
//! ```text
//!  mvm-agentd (user mvm)                      mvm-hostd (root)
//!  engine ─▶ HostdClient ──/run/mvm/hostd.sock──▶ server ─▶ AdmittedHost ─▶ LocalHost
//!  VsockGuest ◀── an open socket to the agent ──┘              │
//!                                                              ▼
//!  mvm (root) ─▶ engine ─────────────────────────────▶ AdmittedHost, ledger
//! ```
//!
//! - [`wire`] — what is asked and answered: a frame of JSON, and open files beside it.
//! - [`client`] — the `Host` and `Vault` ports over that socket; the door to a guest's agent.
//! - [`server`] — who calls (peer credentials), one thread a connection.
//! - [`admit`] — what an effect lays claim to, and which bounds it must keep; pure.
//! - [`ledger`] — the claims that were granted, in files that only root can write.
//! - [`admitted`] — a host that does nothing that was not admitted; root's own commands use it too.
//! - [`home`] — the directories that the documented files lie in, and whose they are.
//! - [`scope`] — for whom a caller may act.
//!
//! Nothing here believes the store: whoever can call can write it. Paths, argument vectors and secrets
//! never cross; what a caller names by id, this side looks up.

pub mod admit;
pub mod admitted;
pub mod client;
pub mod home;
pub mod ledger;
pub mod scope;
pub mod server;
pub mod wire;
