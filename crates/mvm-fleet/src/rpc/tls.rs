//! What a connection demands, and who the peer is.
//!
//! A session is never resumed: each connection shows its certificate. It refuses to know what is said.

use std::{sync::Arc, time::Duration};

use mvm_core::{
    api::{ALPN, Code, Refusal, Role},
    error::{Error, ErrorKind},
    units::Timestamp,
};
use quinn::{
    Connection, TransportConfig, VarInt,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use rustls::{
    RootCertStore,
    client::Resumption,
    pki_types::{CertificateDer, UnixTime},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    version::TLS13,
};

use crate::certs::{Facts, Identity, facts_of};

/// Streams of one connection at a time.
const STREAMS: u32 = 8;
/// Unread bytes of one stream and of one connection.
const STREAM_WINDOW: u32 = 1 << 20;
const WINDOW: u32 = 4 << 20;
/// A connection that says nothing for so long is over.
const IDLE: Duration = Duration::from_secs(30);
/// How often a client says that it is still there, while it waits for an answer.
const ALIVE: Duration = Duration::from_secs(10);

fn failed(error: &(dyn std::error::Error + 'static)) -> Error {
    Error::new(ErrorKind::Invalid, "the certificates here are of no use").because(error)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(identity: &Identity) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for authority in &identity.authorities {
        roots.add(authority.clone()).map_err(|error| failed(&error))?;
    }
    Ok(roots)
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(WINDOW))
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(IDLE.try_into().ok());
    transport
}

/// What a node demands of its callers.
pub(super) fn server(identity: &Identity) -> Result<quinn::ServerConfig, Error> {
    let roots = Arc::new(roots(identity)?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
        .build()
        .map_err(|error| failed(&error))?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| failed(&error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())
        .map_err(|error| failed(&error))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    let crypto = QuicServerConfig::try_from(config).map_err(|error| failed(&error))?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(Arc::new(transport())).migration(false).max_incoming(256);
    Ok(config)
}

/// What a caller demands of a node.
pub(super) fn client(identity: &Identity) -> Result<quinn::ClientConfig, Error> {
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| failed(&error))?
        .with_root_certificates(roots(identity)?)
        .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
        .map_err(|error| failed(&error))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    let crypto = QuicClientConfig::try_from(config).map_err(|error| failed(&error))?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    let mut transport = transport();
    transport.max_concurrent_bidi_streams(VarInt::from_u32(0)).keep_alive_interval(Some(ALIVE));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// What the certificate of the other side says; TLS has verified it.
pub(super) fn peer(connection: &Connection) -> Option<Facts> {
    let identity = connection.peer_identity()?;
    let chain = identity.downcast_ref::<Vec<CertificateDer<'static>>>()?;
    facts_of(chain.first()?, now()).ok()
}

/// What the other side may be: a role, while its certificate lasts.
pub(super) fn role(peer: Option<&Facts>) -> Result<(Role, String), Refusal> {
    let unknown = |why: &str| Refusal::new(Code::Unknown, ErrorKind::Permission, why);
    let facts = peer.ok_or_else(|| unknown("the caller has no certificate"))?;
    if now() > facts.not_after {
        return Err(unknown("the caller's certificate is over"));
    }
    let role = facts.role.ok_or_else(|| unknown("the caller's certificate names no role"))?;
    Ok((role, facts.name.clone()))
}

/// The time of day, as TLS has it.
fn now() -> Timestamp {
    Timestamp(UnixTime::now().as_secs().saturating_mul(1000))
}

/// A caller that shows nothing.
#[cfg(test)]
pub(super) fn nameless(identity: &Identity) -> Result<quinn::ClientConfig, Error> {
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| failed(&error))?
        .with_root_certificates(roots(identity)?)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    let crypto = QuicClientConfig::try_from(config).map_err(|error| failed(&error))?;
    Ok(quinn::ClientConfig::new(Arc::new(crypto)))
}
