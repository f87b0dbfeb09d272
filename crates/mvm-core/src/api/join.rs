//! What an operator and a node say before the node has a certificate.
//!
//! ```text
//! operator ─▶ Hello{proof} ─▶ node      proof of the token, bound to this TLS session
//!          ◀─ Offer{request, proof}     the node's own proof, over its request
//!          ─▶ Grant{certificate}        signed by the authority that the token names
//!          ◀─ Joined
//! ```
//!
//! All of it is one stream of a connection that speaks [`ALPN`] and nothing else. The operator proves first:
//! a node tells a stranger nothing. A proof is an HMAC-SHA256 by the token's secret, in base64; what it is over
//! is the business of who makes it.

use serde::{Deserialize, Serialize};

use super::{Certificate, Refusal};

/// The protocol's name in the TLS handshake.
pub const ALPN: &[u8] = b"mvm-join/1";
/// The largest frame, in bytes, without its length.
pub const FRAME_MAX: usize = 64 << 10;

/// The operator knows the token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// That it does.
    pub proof: String,
}

/// What the node says to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It wants this certificate.
    Offer(Offer),
    /// It does not believe the operator.
    Refused(Refusal),
}

/// What a node wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offer {
    /// The request for a certificate (PKCS #10), PEM.
    pub request: String,
    /// That the node knows the token, and that this is its request.
    pub proof: String,
}

/// What it is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// Its certificate, PEM.
    pub certificate: String,
    /// The authority's certificate, PEM.
    pub authority: String,
    /// The authority's list of revoked certificates, PEM; none before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revocations: Option<String>,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The node is one of the fleet.
    Joined(Certificate),
    /// The node does not take the certificate.
    Refused(Refusal),
}
