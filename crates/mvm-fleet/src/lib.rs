//! What nodes and coordinators trust, and how they talk.
//!
//! - [`keys`] — Ed25519 keys that sign desired states, and which of them a node trusts.
//! - [`certs`] — a certificate authority, certificates with a role, their renewal.
//! - [`rpc`] — the API of a node over QUIC with certificates on both sides.
//!
//! All cryptography of the network and its only runtime are here. The rest of the system is synchronous:
//! the server calls a [`rpc::Node`] on a bounded number of threads. This crate refuses to know what a
//! desired state asks for, where the store is, and what a command line looks like.

pub mod certs;
mod files;
pub mod keys;
pub mod rpc;
