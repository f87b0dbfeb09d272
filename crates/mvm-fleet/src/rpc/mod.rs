//! The API of a node over QUIC: TLS 1.3 with certificates on both sides, one request a stream.
//!
//! - [`wire`] — frames.
//! - `tls` — what a connection demands and who the peer is.
//! - `limit` — how often and how much at once a peer may ask.
//! - [`server`] — the node's side; it asks a [`Node`].
//! - [`client`] — the other side.
//! - [`join`] — what a node and an operator say before the node has a certificate, on a protocol of its own.
//!
//! What is said is [`mvm_core::api`]'s. A peer that holds a certificate may still be hostile: every frame,
//! stream, connection and wait has a bound, and the role in the certificate is asked for each request.

pub mod client;
pub mod join;
mod limit;
pub mod server;
#[cfg(test)]
mod tests;
mod tls;
pub mod wire;

use std::net::SocketAddr;

use mvm_core::api::{Answer, Refusal, Request, Role};

pub use client::Client;
pub use join::{Joining, approve};
pub use server::{Face, Server};
pub(crate) use tls::verifier;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// What its certificate lets it be.
    pub role: Role,
    /// Whose certificate it is.
    pub name: String,
    /// Where it calls from.
    pub address: SocketAddr,
}

impl Caller {
    /// Who it is, for audit logs.
    #[must_use]
    pub fn subject(&self) -> String {
        format!("{}:{}", self.role, self.name)
    }
}

/// What the server asks: the node behind the API. It is called from several threads and may take its time.
pub trait Node: Send + Sync {
    /// Does what is asked; the caller may ask it.
    ///
    /// # Errors
    /// Why it was not done.
    fn answer(&self, caller: &Caller, request: Request) -> Result<Answer, Refusal>;
}
