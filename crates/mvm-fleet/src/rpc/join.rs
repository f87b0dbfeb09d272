//! How a machine without a certificate becomes a node: both sides of [`mvm_core::api::join`].
//!
//! ```text
//! TLS 1.3: the node shows the key of its request, the operator shows nothing
//! session key = exporter of this TLS session: two sessions never have the same
//! operator proves HMAC(token, operator ‖ session)          else: refused, told, over
//! node proves     HMAC(token, node ‖ session ‖ request)    else: nothing is signed
//! ```
//!
//! Somebody between the two has two sessions with two session keys, so that neither proof is of use in the
//! other; and the certificate is for the key that the session was made with. What the node is given it
//! verifies by the authority that the token names. Of a node that waits nothing else can be asked: the
//! protocol has another name, and the node's server knows no other until it has its certificate. This module
//! refuses to know who signs and where the certificate goes.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use mvm_core::{
    api::{
        Certificate, Code, Refusal,
        join::{Answer, FRAME_MAX, Grant, Hello, Offer, Outcome},
    },
    error::{Error, ErrorKind},
};
use quinn::{Connection, Endpoint, RecvStream, SendStream, VarInt};
use ring::digest;
use tokio::{runtime::Builder, time::timeout};

use super::{
    client::{self, CONNECT_TIME},
    server::{FRAME_TIME, Face, finish},
    tls,
    wire::{self, WireError},
};
use crate::certs::{Identity, Side, SigningRequest, Token, enroll, enroll::Waiting};

/// How long the operator's side may take to sign, and the node's to install.
const GRANT_TIME: Duration = Duration::from_secs(30);

/// What a node does that waits for its certificate.
pub trait Joining: Send + Sync {
    /// Installs what was granted; who this side is from now on.
    ///
    /// # Errors
    /// Why it is not installed.
    fn install(&self, address: SocketAddr, grant: &Grant) -> Result<Identity, Error>;

    /// Somebody called who does not know the token, or came too late.
    fn refused(&self, address: SocketAddr, why: &str);
}

/// The node's side.
pub(super) async fn serve(
    face: &Face,
    joining: &Arc<dyn Joining>,
    connection: &Connection,
) -> Result<(), String> {
    let waiting = face.waiting().ok_or("this node waits for nothing")?;
    let late = |_| "it took too long".to_owned();
    let lost = |error: quinn::ConnectionError| error.to_string();
    let accepted = timeout(FRAME_TIME, connection.accept_bi()).await.map_err(late)?;
    let (mut send, mut receive) = accepted.map_err(lost)?;
    let heard = timeout(FRAME_TIME, wire::read_at_most::<Hello>(&mut receive, FRAME_MAX)).await;
    let heard = heard.unwrap_or(Err(WireError::Ended));
    let address = connection.remote_address();
    let offer = match offer(&waiting, connection, heard) {
        Ok(offer) => offer,
        Err(refusal) => {
            joining.refused(address, &refusal.error.message);
            return tell(&mut send, &Answer::Refused(refusal)).await;
        }
    };
    let text = |error: WireError| error.to_string();
    wire::write(&mut send, &Answer::Offer(offer)).await.map_err(text)?;
    let read = timeout(GRANT_TIME, wire::read_at_most::<Grant>(&mut receive, FRAME_MAX * 4)).await;
    let grant = read.map_err(late)?.map_err(text)?;
    let node = Arc::clone(joining);
    let work = tokio::task::spawn_blocking(move || node.install(address, &grant));
    let installed = work.await.map_err(|error| error.to_string())?;
    let outcome = installed.and_then(|identity| {
        face.show(&identity)?;
        Ok(Outcome::Joined(identity.facts.told()))
    });
    let outcome = outcome.unwrap_or_else(|error| Outcome::Refused(Refusal::from(error)));
    tell(&mut send, &outcome).await
}

/// The last word of a side.
async fn tell<T: serde::Serialize>(send: &mut SendStream, message: &T) -> Result<(), String> {
    wire::write(send, message).await.map_err(|error| error.to_string())?;
    finish(send).await;
    Ok(())
}

fn offer(
    waiting: &Waiting,
    connection: &Connection,
    heard: Result<Hello, WireError>,
) -> Result<Offer, Refusal> {
    let hello = heard
        .map_err(|error| Refusal::new(Code::Malformed, ErrorKind::Invalid, error.to_string()))?;
    let unknown = |what: &str| Refusal::new(Code::Unknown, ErrorKind::Integrity, what);
    let session = tls::session_key(connection)?;
    if !waiting.token.holds(&hello.proof, Side::Operator, &session, b"") {
        return Err(unknown("the caller does not know this node's join token"));
    }
    if waiting.token.is_over(tls::now()) {
        return Err(unknown("the join token is over"));
    }
    let hash = digest::digest(&digest::SHA256, waiting.request.as_bytes());
    let proof = waiting.token.prove(Side::Node, &session, hash.as_ref());
    Ok(Offer { request: waiting.request.clone(), proof })
}

/// The operator's side: lets `sign` decide on the request of a node that knows the token, and gives the node
/// what was signed.
///
/// # Errors
/// `Conflict` when the node waits for no approval; `Integrity` when one of the sides does not know the token;
/// what `sign` says; why the node does not take the certificate.
pub fn approve(
    node: &str,
    token: &Token,
    sign: &mut dyn FnMut(&SigningRequest) -> Result<Grant, Error>,
) -> Result<Certificate, Error> {
    let address = client::resolve(node)?;
    let io = |error: &std::io::Error| {
        Error::new(ErrorKind::Failed, "cannot open a socket").because(error)
    };
    let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| io(&error))?;
    runtime.block_on(async {
        let endpoint = client::open(address).map_err(|error| io(&error))?;
        let connection = timeout(CONNECT_TIME, connect(&endpoint, address, node)).await;
        let connection = connection.unwrap_or_else(|_| Err(client::silent(node)))?;
        let said = converse(&connection, node, token, sign).await;
        connection.close(VarInt::from_u32(0), b"done");
        // A node that does not hear the end notices it by itself.
        let _ = timeout(Duration::from_secs(1), endpoint.wait_idle()).await;
        said
    })
}

async fn connect(
    endpoint: &Endpoint,
    address: SocketAddr,
    node: &str,
) -> Result<Connection, Error> {
    let connecting = endpoint.connect_with(tls::approving()?, address, enroll::JOINING);
    let connecting = connecting.map_err(|error| {
        Error::new(ErrorKind::Failed, format!("cannot connect to {node}")).because(&error)
    })?;
    connecting.await.map_err(|error| {
        if error == quinn::ConnectionError::TimedOut {
            return client::silent(node);
        }
        Error::new(ErrorKind::Conflict, format!("{node} waits for no approval"))
            .because(&error)
            .hint("it has a certificate, or no join token: mvm agent certs status, on the node")
    })
}

async fn converse(
    connection: &Connection,
    node: &str,
    token: &Token,
    sign: &mut dyn FnMut(&SigningRequest) -> Result<Grant, Error>,
) -> Result<Certificate, Error> {
    let lost = |error: &(dyn std::error::Error + 'static)| {
        Error::new(ErrorKind::Unavailable, format!("{node} gave no answer")).because(error)
    };
    let session = tls::session_key(connection)?;
    let opened = connection.open_bi().await;
    let (mut send, mut receive) = opened.map_err(|error| lost(&error))?;
    let hello = Hello { proof: token.prove(Side::Operator, &session, b"") };
    wire::write(&mut send, &hello).await.map_err(|error| lost(&error))?;
    let offer = match hear::<Answer>(&mut receive).await.map_err(|error| lost(&error))? {
        Answer::Offer(offer) => offer,
        Answer::Refused(refusal) => {
            return Err(refusal.error.context(format!("{node} refused")));
        }
    };
    let hash = digest::digest(&digest::SHA256, offer.request.as_bytes());
    if !token.holds(&offer.proof, Side::Node, &session, hash.as_ref()) {
        let message = format!("{node} does not know the join token");
        return Err(Error::new(ErrorKind::Integrity, message)
            .hint("it may be another machine than you think: nothing was signed"));
    }
    let request = SigningRequest::read(&offer.request)?;
    if tls::peer(connection).is_none_or(|facts| facts.key != request.key) {
        let message = format!("{node} asks for a certificate of a key that is not its own");
        return Err(Error::new(ErrorKind::Integrity, message));
    }
    let grant = sign(&request)?;
    wire::write(&mut send, &grant).await.map_err(|error| lost(&error))?;
    match hear::<Outcome>(&mut receive).await.map_err(|error| lost(&error))? {
        Outcome::Joined(certificate) => Ok(certificate),
        Outcome::Refused(refusal) => Err(refusal.error.context(format!("{node} refused"))),
    }
}

async fn hear<T: serde::de::DeserializeOwned>(receive: &mut RecvStream) -> Result<T, WireError> {
    let read = timeout(GRANT_TIME, wire::read_at_most(receive, FRAME_MAX)).await;
    read.unwrap_or(Err(WireError::Ended))
}
