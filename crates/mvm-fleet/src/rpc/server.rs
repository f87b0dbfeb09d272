//! The node's side of the API.
//!
//! ```text
//! accept ─▶ handshake (certificate) ─▶ hello ─▶ streams, each: turn ─▶ request ─▶ role ─▶ Node ─▶ reply
//! ```
//!
//! The runtime has one thread for connections and a bounded number for what is asked of the [`Node`]. What
//! is not understood is answered with 400 and ends its stream, nothing else. What it shows and whom it refuses
//! changes while it serves ([`Face`]): who connects from then on meets it, and who is connected is asked at
//! each request. It refuses to know what is asked.

use std::{
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use mvm_core::{
    api::{
        Answer, Code, GENERATIONS, Greeting, Hello, PART_MAX, PARTS_MAX, Part, Refusal, Reply,
        Request, Welcome, common_generation, join,
    },
    error::{Error, ErrorKind},
};
use quinn::{Connection, Endpoint, Incoming, RecvStream, SendStream, VarInt};
use ring::digest;
use tokio::{
    runtime::{Builder, Runtime},
    sync::Semaphore,
    time::timeout,
};

use super::{
    Caller, Joining, Node, join as joins,
    limit::Limits,
    tls,
    wire::{self, WireError},
};
use crate::certs::{Facts, Identity, Revoked, enroll::Waiting};

/// Connections, counted from their first packet.
const CONNECTIONS: usize = 64;
/// From this many on, who calls must first show that its address is its own.
const TRUSTING: usize = 8;
/// Requests that are worked on at once.
const REQUESTS: usize = 16;
/// Payloads that come in parts at once.
const UPLOADS: usize = 2;
/// How long a handshake, a hello and a frame may take.
pub(super) const FRAME_TIME: Duration = Duration::from_secs(5);
/// How long what is being answered may take once the server is told to stop.
const STOP_TIME: Duration = Duration::from_secs(5);

/// The server of a node; it ends when it is dropped.
pub struct Server {
    runtime: Option<Runtime>,
    face: Face,
    address: SocketAddr,
}

/// What a server shows and whom it refuses.
#[derive(Clone)]
pub struct Face {
    endpoint: Endpoint,
    now: Arc<RwLock<Now>>,
}

#[derive(Default)]
struct Now {
    revoked: Option<Arc<Revoked>>,
    waiting: Option<Arc<Waiting>>,
}

impl Face {
    /// Shows another certificate to who connects from now on, and refuses at once who is on its list.
    ///
    /// # Errors
    /// `Invalid` when the identity is of no use.
    pub fn show(&self, identity: &Identity) -> Result<(), Error> {
        let config = tls::server(identity)?;
        let revoked = identity.revoked.clone().map(Arc::new);
        // The list first: who slips through a handshake of before is refused at its first request.
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = Now { revoked, waiting: None };
        self.endpoint.set_server_config(Some(config));
        Ok(())
    }

    /// Refuses at once who is on a list, connected or not.
    pub fn refuse(&self, list: Revoked) {
        let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
        now.revoked = Some(Arc::new(list));
    }

    /// Whether it waits for its approval.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.waiting().is_some()
    }

    /// The list of revoked certificates that is in force.
    #[must_use]
    pub fn revoked(&self) -> Option<Arc<Revoked>> {
        self.now.read().unwrap_or_else(PoisonError::into_inner).revoked.clone()
    }

    pub(super) fn waiting(&self) -> Option<Arc<Waiting>> {
        self.now.read().unwrap_or_else(PoisonError::into_inner).waiting.clone()
    }
}

struct Shared {
    node: Arc<dyn Node>,
    joining: Option<Arc<dyn Joining>>,
    face: Face,
    limits: Arc<Limits>,
    connections: Arc<Semaphore>,
    requests: Arc<Semaphore>,
    uploads: Arc<Semaphore>,
}

impl Server {
    /// Listens.
    ///
    /// # Errors
    /// `Unavailable` when the address cannot be had, `Invalid` when the identity is of no use.
    pub fn start(
        address: SocketAddr,
        identity: &Identity,
        node: Arc<dyn Node>,
    ) -> Result<Self, Error> {
        let revoked = identity.revoked.clone().map(Arc::new);
        let now = Now { revoked, waiting: None };
        Self::open(address, tls::server(identity)?, now, node, None)
    }

    /// Listens for the approval of a node that has no certificate yet, and for nothing else until it has it.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn wait(
        address: SocketAddr,
        waiting: Waiting,
        joining: Arc<dyn Joining>,
        node: Arc<dyn Node>,
    ) -> Result<Self, Error> {
        let config = tls::waiting(&waiting)?;
        let now = Now { revoked: None, waiting: Some(Arc::new(waiting)) };
        Self::open(address, config, now, node, Some(joining))
    }

    fn open(
        address: SocketAddr,
        config: quinn::ServerConfig,
        now: Now,
        node: Arc<dyn Node>,
        joining: Option<Arc<dyn Joining>>,
    ) -> Result<Self, Error> {
        let cannot = |error: &std::io::Error| {
            Error::new(ErrorKind::Unavailable, format!("cannot listen on {address}")).because(error)
        };
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(REQUESTS)
            .thread_name("mvm-api")
            .enable_all()
            .build()
            .map_err(|error| cannot(&error))?;
        let endpoint = {
            let _inside = runtime.enter();
            Endpoint::server(config, address).map_err(|error| cannot(&error))?
        };
        let bound = endpoint.local_addr().map_err(|error| cannot(&error))?;
        let face = Face { endpoint: endpoint.clone(), now: Arc::new(RwLock::new(now)) };
        let shared = Arc::new(Shared {
            node,
            joining,
            face: face.clone(),
            limits: Arc::default(),
            connections: Arc::new(Semaphore::new(CONNECTIONS)),
            requests: Arc::new(Semaphore::new(REQUESTS)),
            uploads: Arc::new(Semaphore::new(UPLOADS)),
        });
        runtime.spawn(accept(endpoint, shared));
        Ok(Self { runtime: Some(runtime), face, address: bound })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it shows, for who changes that.
    #[must_use]
    pub fn face(&self) -> Face {
        self.face.clone()
    }

    /// As [`Face::show`].
    ///
    /// # Errors
    /// As [`Face::show`].
    pub fn show(&self, identity: &Identity) -> Result<(), Error> {
        self.face.show(identity)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.face.endpoint.close(VarInt::from_u32(0), b"the node stops");
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(STOP_TIME);
        }
    }
}

async fn accept(endpoint: Endpoint, shared: Arc<Shared>) {
    while let Some(incoming) = endpoint.accept().await {
        let Ok(place) = Arc::clone(&shared.connections).try_acquire_owned() else {
            incoming.refuse();
            continue;
        };
        let is_busy = CONNECTIONS - shared.connections.available_permits() > TRUSTING;
        if is_busy && !incoming.remote_address_validated() && incoming.may_retry() {
            // Fails only for what was validated.
            let _ = incoming.retry();
            continue;
        }
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let address = incoming.remote_address();
            if let Err(error) = serve(&shared, incoming).await {
                tracing::debug!(%address, error, "a connection ended");
            }
            drop(place);
        });
    }
}

async fn serve(shared: &Arc<Shared>, incoming: Incoming) -> Result<(), String> {
    let address = incoming.remote_address();
    let late = |_| "it took too long".to_owned();
    let connecting = incoming.accept().map_err(|error| error.to_string())?;
    let connection = timeout(FRAME_TIME, connecting).await.map_err(late)?;
    let connection = connection.map_err(|error| error.to_string())?;
    if tls::protocol(&connection).as_deref() == Some(join::ALPN) {
        let joining = shared.joining.as_ref().ok_or("this node waits for nothing")?;
        return joins::serve(&shared.face, joining, &connection).await;
    }
    let peer = tls::peer(&connection);
    let greeted = timeout(FRAME_TIME, greet(shared, &connection, peer.as_ref())).await;
    let greeted = greeted.map_err(late)?;
    greeted.map_err(|error| error.to_string())?;
    while let Ok((send, receive)) = connection.accept_bi().await {
        let (shared, peer) = (Arc::clone(shared), peer.clone());
        tokio::spawn(async move {
            if let Err(error) = stream(&shared, peer.as_ref(), address, send, receive).await {
                tracing::debug!(%address, %error, "a stream ended");
            }
        });
    }
    Ok(())
}

async fn greet(
    shared: &Shared,
    connection: &Connection,
    peer: Option<&Facts>,
) -> Result<(), WireError> {
    let lost = |error: quinn::ConnectionError| WireError::Lost(error.to_string());
    let (mut send, mut receive) = connection.accept_bi().await.map_err(lost)?;
    let read = wire::read::<Hello>(&mut receive).await;
    let generation = read.map_err(malformed).and_then(|hello| {
        tls::role(peer, shared.face.revoked().as_deref())?;
        common_generation(GENERATIONS, hello.generations).ok_or_else(|| {
            let [low, high] = GENERATIONS;
            let message = format!("this node speaks the generations {low} to {high} of the API");
            Refusal::new(Code::Malformed, ErrorKind::Invalid, message)
        })
    });
    let (greeting, refused) = match generation {
        Ok(generation) => (Greeting::Welcome(Welcome { generation }), None),
        Err(refusal) => (Greeting::Refused(refusal.clone()), Some(refusal)),
    };
    wire::write(&mut send, &greeting).await?;
    finish(&mut send).await;
    refused.map_or(Ok(()), |refusal| Err(WireError::Malformed(refusal.error.to_string())))
}

/// Ends a stream once the peer has what was written, or no longer wants it.
pub(super) async fn finish(send: &mut SendStream) {
    if send.finish().is_ok() {
        // A peer that takes nothing is let go.
        let _ = timeout(FRAME_TIME, send.stopped()).await;
    }
}

fn malformed(error: WireError) -> Refusal {
    Refusal::new(Code::Malformed, ErrorKind::Invalid, error.to_string())
}

async fn stream(
    shared: &Arc<Shared>,
    peer: Option<&Facts>,
    address: SocketAddr,
    mut send: SendStream,
    mut receive: RecvStream,
) -> Result<(), WireError> {
    let reply = match answer(shared, peer, address, &mut receive).await {
        Ok(answer) => Reply::Done(answer),
        Err(refusal) => Reply::Refused(refusal),
    };
    // What is left unread is not wanted.
    let _ = receive.stop(VarInt::from_u32(0));
    match wire::write(&mut send, &reply).await {
        Err(WireError::TooLarge(_)) => {
            let message = "the answer does not fit a frame: ask for fewer items";
            let refusal = Refusal::new(Code::Failed, ErrorKind::Failed, message);
            wire::write(&mut send, &Reply::Refused(refusal)).await?;
        }
        written => written?,
    }
    finish(&mut send).await;
    Ok(())
}

async fn answer(
    shared: &Arc<Shared>,
    peer: Option<&Facts>,
    address: SocketAddr,
    receive: &mut RecvStream,
) -> Result<Answer, Refusal> {
    let (role, name) = tls::role(peer, shared.face.revoked().as_deref())?;
    let too_many = || {
        Refusal::new(Code::TooMany, ErrorKind::Unavailable, "too many requests: ask again later")
    };
    let turn = shared.limits.turn(role, &name, Instant::now()).ok_or_else(too_many)?;
    let place = Arc::clone(&shared.requests).try_acquire_owned().map_err(|_| too_many())?;
    let caller = Caller { role, name, address };
    let read = timeout(FRAME_TIME, wire::read::<Request>(receive)).await;
    let request = read.unwrap_or(Err(WireError::Ended)).map_err(malformed)?;
    if !role.may(&request) {
        let message = format!("the role {role} may not ask for {}", request.name());
        tracing::warn!(caller = caller.subject(), %address, request = request.name(), "forbidden");
        return Err(Refusal::new(Code::Forbidden, ErrorKind::Permission, message));
    }
    let request = whole(shared, request, receive).await?;
    let node = Arc::clone(&shared.node);
    let work = tokio::task::spawn_blocking(move || {
        let answered = node.answer(&caller, request);
        drop((turn, place));
        answered
    });
    work.await.unwrap_or_else(|_| {
        Err(Refusal::new(Code::Failed, ErrorKind::Failed, "the node failed to answer"))
    })
}

/// The request with its payload, if that comes in parts.
async fn whole(
    shared: &Shared,
    request: Request,
    receive: &mut RecvStream,
) -> Result<Request, Refusal> {
    let Request::ReconcileSigned { mut envelope, parts } = request else { return Ok(request) };
    if parts.is_empty() {
        return Ok(Request::ReconcileSigned { envelope, parts });
    }
    let refuse = |message: &str| Refusal::new(Code::Malformed, ErrorKind::Invalid, message);
    if parts.len() > PARTS_MAX || !envelope.payload.is_empty() {
        return Err(refuse("a payload comes whole, or in a bounded number of parts"));
    }
    let _place = shared.uploads.try_acquire().map_err(|_| {
        let message = "other states are on their way: ask again later";
        Refusal::new(Code::TooMany, ErrorKind::Unavailable, message)
    })?;
    for hash in &parts {
        let read = timeout(FRAME_TIME, wire::read::<Part>(receive)).await;
        let part = read.unwrap_or(Err(WireError::Ended)).map_err(malformed)?;
        let found = hex::encode(digest::digest(&digest::SHA256, part.text.as_bytes()));
        if part.text.len() > PART_MAX || found != *hash {
            return Err(refuse("a part is not the one that was announced"));
        }
        envelope.payload.push_str(&part.text);
    }
    Ok(Request::ReconcileSigned { envelope, parts: Vec::new() })
}
