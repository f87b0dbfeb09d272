//! The other side of the API: asks a node.
//!
//! Everything waits with a deadline, and nothing is asked twice. It refuses to know why it asks.

use std::{
    net::{SocketAddr, ToSocketAddrs, UdpSocket},
    sync::Arc,
    time::Duration,
};

use mvm_core::{
    api::{
        Answer, FRAME_MAX, GENERATIONS, Greeting, Hello, PART_MAX, Part, Refusal, Reply, Request,
        Role,
    },
    error::{Error, ErrorKind},
    signed::Envelope,
};
use quinn::{Connection, ConnectionError, Endpoint, TransportErrorCode, VarInt};
use ring::digest;
use tokio::{
    runtime::{Builder, Runtime},
    time::timeout,
};

use super::{
    tls,
    wire::{self, WireError},
};
use crate::certs::{Identity, server_name};

/// How long a node may take to say who it is.
pub(super) const CONNECT_TIME: Duration = Duration::from_secs(10);
/// How long it may take to do what is asked.
const ANSWER_TIME: Duration = Duration::from_secs(120);
/// How long the end of a connection may take.
const CLOSE_TIME: Duration = Duration::from_secs(1);
/// What of a frame is not payload.
const MARGIN: usize = 4096;

/// A connection to a node.
pub struct Client {
    runtime: Runtime,
    endpoint: Endpoint,
    connection: Connection,
    node: String,
    /// Who the node is, by its certificate.
    pub node_id: String,
}

impl Client {
    /// Connects to a node.
    ///
    /// # Errors
    /// `Unavailable` when it does not answer, `Integrity` when it is no node of this fleet, `Permission`
    /// when it does not take this side's certificate.
    pub fn connect(node: &str, identity: &Identity) -> Result<Self, Error> {
        let address = resolve(node)?;
        let config = tls::client(identity)?;
        let io = |error: &std::io::Error| {
            Error::new(ErrorKind::Failed, "cannot open a socket").because(error)
        };
        let runtime =
            Builder::new_current_thread().enable_all().build().map_err(|error| io(&error))?;
        let (endpoint, connection) = runtime.block_on(async {
            let endpoint = open(address).map_err(|error| io(&error))?;
            let connection = timeout(CONNECT_TIME, greet(&endpoint, config, address, node)).await;
            let connection = connection.unwrap_or_else(|_| Err(silent(node)))?;
            Ok::<_, Error>((endpoint, connection))
        })?;
        let node_id = tls::peer(&connection).map(|facts| facts.name).unwrap_or_default();
        Ok(Self { runtime, endpoint, connection, node: node.to_owned(), node_id })
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// What the node says of it, or why it says nothing.
    pub fn ask(&self, request: &Request) -> Result<Answer, Error> {
        self.exchange(request, &[]).map_err(|refusal| refusal.error)
    }

    /// As [`Client::ask`], with the node's code.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn ask_coded(&self, request: &Request) -> Result<Answer, Refusal> {
        self.exchange(request, &[])
    }

    /// Pushes a signed state, in parts when it does not fit a frame.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn push(&self, envelope: Envelope) -> Result<Answer, Error> {
        if envelope.payload.len() + MARGIN <= FRAME_MAX {
            return self.ask(&Request::ReconcileSigned { envelope, parts: Vec::new() });
        }
        // Base64 is ASCII, so that every place in it is a boundary.
        let pieces = envelope.payload.as_bytes().chunks(PART_MAX);
        let pieces: Vec<Part> = pieces
            .map(|piece| Part { text: String::from_utf8_lossy(piece).into_owned() })
            .collect();
        let hash = |part: &Part| digest::digest(&digest::SHA256, part.text.as_bytes());
        let parts = pieces.iter().map(|part| hex::encode(hash(part))).collect();
        let envelope = Envelope { payload: String::new(), ..envelope };
        let request = Request::ReconcileSigned { envelope, parts };
        self.exchange(&request, &pieces).map_err(|refusal| refusal.error)
    }

    fn exchange(&self, request: &Request, parts: &[Part]) -> Result<Answer, Refusal> {
        let said = self.runtime.block_on(async {
            let exchanged = timeout(ANSWER_TIME, exchange(&self.connection, request, parts)).await;
            exchanged.map_err(|_| silent(&self.node))?.map_err(|error| {
                explained(&self.connection, &self.node).unwrap_or_else(|| lost(&self.node, &error))
            })
        })?;
        match said {
            Reply::Done(answer) => Ok(answer),
            Reply::Refused(mut refusal) => {
                refusal.error = refusal.error.context(format!("{} refused", self.node));
                Err(refusal)
            }
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.connection.close(VarInt::from_u32(0), b"done");
        self.runtime.block_on(async {
            // A node that does not hear the end notices it by itself.
            let _ = timeout(CLOSE_TIME, self.endpoint.wait_idle()).await;
        });
    }
}

pub(super) fn resolve(node: &str) -> Result<SocketAddr, Error> {
    let unknown = || {
        Error::new(ErrorKind::Usage, format!("{node:?} is no node: write HOST:PORT"))
            .hint("the port is 4433 unless the node was told otherwise")
    };
    if node.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
        return Err(unknown());
    }
    let found = node.to_socket_addrs().map_err(|error| {
        Error::new(ErrorKind::Unavailable, format!("cannot find {node}")).because(&error)
    })?;
    // A name with both kinds of address is tried by the older one: nodes listen there by default.
    let mut all: Vec<SocketAddr> = found.collect();
    all.sort_by_key(SocketAddr::is_ipv6);
    all.into_iter().next().ok_or_else(unknown)
}

pub(super) fn open(address: SocketAddr) -> std::io::Result<Endpoint> {
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    let runtime = Arc::new(quinn::TokioRuntime);
    Endpoint::new(quinn::EndpointConfig::default(), None, socket, runtime)
}

async fn greet(
    endpoint: &Endpoint,
    config: quinn::ClientConfig,
    address: SocketAddr,
    node: &str,
) -> Result<Connection, Error> {
    let connection = loop {
        let connecting = endpoint.connect_with(config.clone(), address, server_name(Role::Node));
        let connecting = connecting.map_err(|error| {
            Error::new(ErrorKind::Failed, format!("cannot connect to {node}")).because(&error)
        })?;
        match connecting.await {
            Err(error) if was_mixed_up(&error) => {}
            connected => break connected.map_err(|error| why(&error, node))?,
        }
    };
    let greeting = async {
        let lost = |error: ConnectionError| WireError::Lost(error.to_string());
        let (mut send, mut receive) = connection.open_bi().await.map_err(lost)?;
        wire::write(&mut send, &Hello { generations: GENERATIONS }).await?;
        // The stream is gone when the connection is.
        let _ = send.finish();
        wire::read::<Greeting>(&mut receive).await
    };
    match greeting.await {
        Ok(Greeting::Welcome(_)) => Ok(connection),
        Ok(Greeting::Refused(refusal)) => {
            Err(refusal.error.context(format!("{node} refuses this side")))
        }
        Err(error) => Err(explained(&connection, node).unwrap_or_else(|| lost(node, &error))),
    }
}

async fn exchange(
    connection: &Connection,
    request: &Request,
    parts: &[Part],
) -> Result<Reply, WireError> {
    let lost = |error: ConnectionError| WireError::Lost(error.to_string());
    let (mut send, mut receive) = connection.open_bi().await.map_err(lost)?;
    let sent = async {
        wire::write(&mut send, request).await?;
        for part in parts {
            wire::write(&mut send, part).await?;
        }
        Ok(())
    };
    let sent: Result<(), WireError> = sent.await;
    if let Err(WireError::TooLarge(size)) = sent {
        return Err(WireError::TooLarge(size));
    }
    // A node that has heard enough stops listening and says why.
    let _ = send.finish();
    wire::read::<Reply>(&mut receive).await
}

/// A busy node lets who connects show that it can be reached at its address, and has forgotten that when a copy
/// of the first packet comes late: then both sides mean another connection. Nobody was asked anything yet, and
/// the caller's bound ends the trying.
fn was_mixed_up(error: &ConnectionError) -> bool {
    matches!(error, ConnectionError::TransportError(error)
        if error.code == TransportErrorCode::TRANSPORT_PARAMETER_ERROR)
}

/// Why the connection ended, if it did.
fn explained(connection: &Connection, node: &str) -> Option<Error> {
    connection.close_reason().map(|reason| why(&reason, node))
}

/// What the end of a connection means for who asked.
fn why(reason: &ConnectionError, node: &str) -> Error {
    match reason {
        ConnectionError::TransportError(_) => {
            let message = format!("{node} is no node of this fleet");
            Error::new(ErrorKind::Integrity, message)
                .because(reason)
                .hint("both sides must trust one authority: compare ca.crt here and on the node")
        }
        ConnectionError::ConnectionClosed(_) => {
            let message = format!("{node} does not take this side's certificate");
            Error::new(ErrorKind::Permission, message)
                .because(reason)
                .hint("see whether it is valid and of the node's authority: mvm agent certs status")
        }
        ConnectionError::TimedOut => silent(node),
        ConnectionError::VersionMismatch
        | ConnectionError::ApplicationClosed(_)
        | ConnectionError::Reset
        | ConnectionError::LocallyClosed
        | ConnectionError::CidsExhausted => {
            let message = format!("the connection to {node} ended");
            Error::new(ErrorKind::Unavailable, message).because(reason)
        }
    }
}

pub(super) fn silent(node: &str) -> Error {
    Error::new(ErrorKind::Unavailable, format!("{node} does not answer"))
        .hint("see whether its agent listens there: mvm agent serve --listen ADDRESS, on the node")
}

fn lost(node: &str, error: &WireError) -> Error {
    Error::new(ErrorKind::Unavailable, format!("{node} gave no answer")).because(error)
}
