//! What a connection demands, and who the peer is.
//!
//! A session is never resumed: each connection shows its certificate. It refuses to know what is said.

use std::{sync::Arc, time::Duration};

use mvm_core::{
    api::{ALPN, Code, Refusal, Role, join},
    error::{Error, ErrorKind},
    units::Timestamp,
};
use quinn::{
    Connection, TransportConfig, VarInt,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use rustls::{
    DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    version::TLS13,
};

use crate::certs::{Facts, Identity, Revoked, enroll::Waiting, facts_of};

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

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(authorities: &[CertificateDer<'static>]) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
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

/// Who believes the authorities and their list.
pub(crate) fn verifier(
    authorities: &[CertificateDer<'static>],
    list: Option<&Revoked>,
) -> Result<Arc<WebPkiServerVerifier>, Error> {
    let roots = Arc::new(roots(authorities)?);
    WebPkiServerVerifier::builder_with_provider(roots, provider())
        .with_crls(list.map(Revoked::der))
        .build()
        .map_err(|error| failed(&error))
}

/// What a node demands of its callers.
pub(super) fn server(identity: &Identity) -> Result<quinn::ServerConfig, Error> {
    let roots = Arc::new(roots(&identity.authorities)?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
        .with_crls(identity.revoked.as_ref().map(Revoked::der))
        .build()
        .map_err(|error| failed(&error))?;
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| failed(&error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())
        .map_err(|error| failed(&error))?;
    listening(config, ALPN)
}

/// What a node that waits for its certificate shows: that it has the key of its request. Who calls has no
/// certificate to show; what each side knows is proven within.
pub(super) fn waiting(waiting: &Waiting) -> Result<quinn::ServerConfig, Error> {
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| failed(&error))?
        .with_no_client_auth()
        .with_single_cert(waiting.chain.clone(), waiting.key.clone_key())
        .map_err(|error| failed(&error))?;
    listening(config, join::ALPN)
}

fn listening(mut config: rustls::ServerConfig, alpn: &[u8]) -> Result<quinn::ServerConfig, Error> {
    config.alpn_protocols = vec![alpn.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    let crypto = QuicServerConfig::try_from(config).map_err(|error| failed(&error))?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(Arc::new(transport())).migration(false).max_incoming(256);
    Ok(config)
}

/// What a caller demands of a node.
pub(super) fn client(identity: &Identity) -> Result<quinn::ClientConfig, Error> {
    let config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| failed(&error))?
        .with_webpki_verifier(verifier(&identity.authorities, identity.revoked.as_ref())?)
        .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
        .map_err(|error| failed(&error))?;
    calling(config, ALPN)
}

/// What an operator demands of a node that waits: that it has the key that it shows. Whether it is the right
/// one is proven within.
pub(super) fn approving() -> Result<quinn::ClientConfig, Error> {
    let config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| failed(&error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(KeyHolder(provider())))
        .with_no_client_auth();
    calling(config, join::ALPN)
}

fn calling(mut config: rustls::ClientConfig, alpn: &[u8]) -> Result<quinn::ClientConfig, Error> {
    config.alpn_protocols = vec![alpn.to_vec()];
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

/// Which protocol the handshake was for.
pub(super) fn protocol(connection: &Connection) -> Option<Vec<u8>> {
    let data = connection.handshake_data()?;
    data.downcast::<quinn::crypto::rustls::HandshakeData>().ok()?.protocol
}

/// The key that only the two sides of a session can have.
pub(super) fn session_key(connection: &Connection) -> Result<[u8; 32], Error> {
    let mut key = [0; 32];
    connection
        .export_keying_material(&mut key, b"EXPORTER-mvm-join-1", b"")
        .map_err(|_| Error::new(ErrorKind::Failed, "the session has no key of its own"))?;
    Ok(key)
}

/// Believes whoever has the key of the certificate that is shown, and nothing else of it.
#[derive(Debug)]
struct KeyHolder(Arc<CryptoProvider>);

impl ServerCertVerifier for KeyHolder {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// What the other side may be: a role, while its certificate lasts and is not revoked.
pub(super) fn role(
    peer: Option<&Facts>,
    revoked: Option<&Revoked>,
) -> Result<(Role, String), Refusal> {
    let unknown = |why: &str| Refusal::new(Code::Unknown, ErrorKind::Permission, why);
    let facts = peer.ok_or_else(|| unknown("the caller has no certificate"))?;
    if revoked.is_some_and(|list| list.has(&facts.serial)) {
        return Err(unknown("the caller's certificate is revoked"));
    }
    if now() > facts.not_after {
        return Err(unknown("the caller's certificate is over"));
    }
    let role = facts.role.ok_or_else(|| unknown("the caller's certificate names no role"))?;
    Ok((role, facts.name.clone()))
}

/// The time of day, as TLS has it.
pub(super) fn now() -> Timestamp {
    Timestamp(UnixTime::now().as_secs().saturating_mul(1000))
}

/// A caller that shows nothing.
#[cfg(test)]
pub(super) fn nameless(identity: &Identity) -> Result<quinn::ClientConfig, Error> {
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| failed(&error))?
        .with_root_certificates(roots(&identity.authorities)?)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    let crypto = QuicClientConfig::try_from(config).map_err(|error| failed(&error))?;
    Ok(quinn::ClientConfig::new(Arc::new(crypto)))
}
