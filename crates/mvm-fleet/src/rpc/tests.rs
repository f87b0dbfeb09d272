#![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use mvm_core::{
    api::{
        Answer, Code, FRAME_MAX, Greeting, Hello, NodeFigures, Part, Refusal, Reply, Request, Role,
    },
    error::{Error, ErrorKind},
    signed::{Acceptance, Envelope},
    units::Timestamp,
};
use proptest::prelude::*;
use quinn::{Endpoint, VarInt};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::runtime::Runtime;

use super::*;
use crate::certs::{self, Identity, Places, Registry};

mod changing;
mod hostile;
mod joining;
mod rate;

/// A node that keeps what it was given.
#[derive(Default)]
struct Kept {
    asked: Mutex<Vec<(Caller, Request)>>,
}

impl Node for Kept {
    fn answer(&self, caller: &Caller, request: Request) -> Result<Answer, Refusal> {
        self.asked.lock().unwrap().push((caller.clone(), request.clone()));
        match request {
            Request::ReconcileSigned { envelope, .. } => Ok(Answer::Accepted(Acceptance {
                signer_id: Some(envelope.signer_id),
                sequence: Some(envelope.sequence),
                accepted_at: Timestamp(1),
                tenants: 0,
            })),
            Request::NodeStats {} => Ok(Answer::Stats(NodeFigures::default())),
            Request::Reconcile { .. }
            | Request::NodeInfo {}
            | Request::TenantList { .. }
            | Request::InstanceList { .. }
            | Request::WakeInstance { .. }
            | Request::SleepInstance { .. }
            | Request::Events { .. }
            | Request::CertificateRequest {}
            | Request::InstallCertificate { .. }
            | Request::Revoke { .. } => {
                Err(Error::new(ErrorKind::NotFound, "there is no such thing").into())
            }
        }
    }
}

struct Bench {
    directory: tempfile::TempDir,
    node: Arc<Kept>,
    server: Server,
}

fn now() -> Timestamp {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap();
    Timestamp(u64::try_from(since.as_millis()).unwrap())
}

fn made(directory: &Path, at: Timestamp) {
    let wanted = Role::ALL.map(|role| (role, format!("a-{role}")));
    certs::init(directory, None, &wanted, at).unwrap();
}

fn identity(directory: &Path, role: Role) -> Identity {
    certs::identity(&Places::of(directory, role), now()).unwrap()
}

/// Somebody whom the authority of a node signed, without a file.
fn signed_by(registry: &Registry, role: Role, name: &str, node: &Identity) -> Identity {
    let made = registry.issue(role, name, now()).unwrap();
    let der = CertificateDer::from_pem_slice(made.certificate.as_bytes()).unwrap();
    let facts = certs::facts_of(&der, now()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(made.key.as_bytes()).unwrap();
    Identity { chain: vec![der], key, authorities: node.authorities.clone(), revoked: None, facts }
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        made(directory.path(), now());
        let node = Arc::new(Kept::default());
        let (address, shown) =
            ("127.0.0.1:0".parse().unwrap(), identity(directory.path(), Role::Node));
        let server = Server::start(address, &shown, Arc::<Kept>::clone(&node)).unwrap();
        Self { directory, node, server }
    }

    fn client(&self, role: Role) -> Client {
        let identity = identity(self.directory.path(), role);
        Client::connect(&self.server.address().to_string(), &identity).unwrap()
    }

    /// Whether it still answers who behaves.
    fn is_well(&self) -> bool {
        self.client(Role::Coordinator).ask(&Request::NodeStats {}).is_ok()
    }
}

/// A peer that says what it likes.
struct Rude {
    runtime: Runtime,
    connection: quinn::Connection,
    _endpoint: Endpoint,
}

impl Rude {
    fn connect(bench: &Bench, role: Role) -> Self {
        Self::connect_as(bench, &identity(bench.directory.path(), role))
    }

    fn connect_as(bench: &Bench, caller: &Identity) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let config = tls::client(caller).unwrap();
        let (endpoint, connection) = runtime.block_on(async {
            let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
            let name = certs::server_name(Role::Node);
            let connecting = endpoint.connect_with(config, bench.server.address(), name).unwrap();
            (endpoint, connecting.await.unwrap())
        });
        Self { runtime, connection, _endpoint: endpoint }
    }

    fn greeted(bench: &Bench, role: Role) -> Self {
        Self::connect(bench, role).greets()
    }

    fn greets(self) -> Self {
        let greeting: Greeting = self.say(&wire::encode(&Hello { generations: [1, 1] }).unwrap());
        assert!(matches!(greeting, Greeting::Welcome(_)));
        self
    }

    fn say<T: serde::de::DeserializeOwned>(&self, bytes: &[u8]) -> T {
        self.runtime.block_on(async {
            let (mut send, mut receive) = self.connection.open_bi().await.unwrap();
            send.write_all(bytes).await.unwrap();
            let _ = send.finish();
            wire::read(&mut receive).await.unwrap()
        })
    }

    fn code(&self, bytes: &[u8]) -> Option<Code> {
        match self.say(bytes) {
            Reply::Done(_) => None,
            Reply::Refused(refusal) => Some(refusal.code),
        }
    }
}

#[test]
fn a_coordinator_asks_and_is_known() {
    let bench = Bench::new();
    let client = bench.client(Role::Coordinator);
    assert_eq!(client.node_id, "a-node");
    assert_eq!(client.ask(&Request::NodeStats {}), Ok(Answer::Stats(NodeFigures::default())));
    let (caller, _) = bench.node.asked.lock().unwrap().remove(0);
    assert_eq!(caller.subject(), "coordinator:a-coordinator");
    let refused = client.ask_coded(&Request::NodeInfo {}).unwrap_err();
    assert_eq!((refused.code, refused.error.kind), (Code::Missing, ErrorKind::NotFound));
}

#[test]
fn an_observer_and_a_node_may_not_change_anything() {
    let bench = Bench::new();
    let instance = "acme/workers/i-00000001".parse().unwrap();
    let wake = Request::WakeInstance { instance };
    for role in [Role::Observer, Role::Node] {
        let refused = bench.client(role).ask_coded(&wake).unwrap_err();
        assert_eq!((refused.code, refused.error.kind), (Code::Forbidden, ErrorKind::Permission));
    }
    assert!(bench.client(Role::Observer).ask(&Request::NodeStats {}).is_ok());
    assert_eq!(bench.node.asked.lock().unwrap().len(), 1);
}

#[test]
fn a_large_state_comes_in_parts_and_arrives_whole() {
    let bench = Bench::new();
    let envelope = Envelope {
        payload: "QUJD".repeat(1 << 20),
        signature: "s".to_owned(),
        signer_id: "aa".to_owned(),
        node_id: "a-node".to_owned(),
        sequence: 1,
        not_before: Timestamp(0),
        not_after: Timestamp(1),
    };
    bench.client(Role::Coordinator).push(envelope.clone()).unwrap();
    let (_, request) = bench.node.asked.lock().unwrap().remove(0);
    assert_eq!(request, Request::ReconcileSigned { envelope, parts: Vec::new() });
}

#[test]
fn a_part_that_is_another_one_is_refused() {
    let bench = Bench::new();
    let rude = Rude::greeted(&bench, Role::Coordinator);
    let envelope = Envelope {
        payload: String::new(),
        signature: String::new(),
        signer_id: String::new(),
        node_id: String::new(),
        sequence: 1,
        not_before: Timestamp(0),
        not_after: Timestamp(1),
    };
    let request = Request::ReconcileSigned { envelope, parts: vec!["00".repeat(32)] };
    let mut bytes = wire::encode(&request).unwrap();
    bytes.extend(wire::encode(&Part { text: "QUJD".to_owned() }).unwrap());
    assert_eq!(rude.code(&bytes), Some(Code::Malformed));
    assert!(bench.node.asked.lock().unwrap().is_empty());
}

#[test]
fn garbage_and_an_oversized_frame_end_a_stream_and_not_the_server() {
    let bench = Bench::new();
    let rude = Rude::greeted(&bench, Role::Observer);
    let oversized = u32::try_from(FRAME_MAX + 1).unwrap().to_be_bytes();
    for bytes in [&b"\0\0\0\x05hello"[..], &oversized, b"\0\0\0\x09short", b"", b"\xff\xff\xff\xff"]
    {
        assert_eq!(rude.code(bytes), Some(Code::Malformed), "{bytes:?}");
    }
    assert_eq!(rude.code(&wire::encode(&Request::NodeStats {}).unwrap()), None);
    assert!(bench.is_well());
}

#[test]
fn another_generation_is_refused_with_a_reason() {
    let bench = Bench::new();
    let rude = Rude::connect(&bench, Role::Observer);
    let greeting: Greeting = rude.say(&wire::encode(&Hello { generations: [7, 9] }).unwrap());
    assert!(matches!(greeting, Greeting::Refused(refusal) if refusal.code == Code::Malformed));
    assert!(bench.is_well());
}

#[test]
fn who_asks_too_often_is_told_so() {
    let bench = Bench::new();
    let rude = Rude::greeted(&bench, Role::Observer);
    let ask = wire::encode(&Request::NodeStats {}).unwrap();
    let refused = (0..60).filter(|_| rude.code(&ask) == Some(Code::TooMany)).count();
    assert!((20..=40).contains(&refused), "{refused}");
    assert!(bench.is_well(), "another identity is not held back");
}

#[test]
fn a_certificate_of_another_authority_is_refused_on_both_sides() {
    let bench = Bench::new();
    let foreign = tempfile::tempdir().unwrap();
    made(foreign.path(), now());
    let address = bench.server.address().to_string();
    let theirs = identity(foreign.path(), Role::Coordinator);
    let refused = Client::connect(&address, &theirs).err().unwrap();
    assert_eq!(refused.kind, ErrorKind::Integrity, "it does not believe the node");
    // It believes the node, and the node does not believe it.
    let places = Places {
        ca: bench.directory.path().join("ca.crt"),
        ..Places::of(foreign.path(), Role::Coordinator)
    };
    let theirs = certs::identity(&places, now()).unwrap();
    let refused = Client::connect(&address, &theirs).err().unwrap();
    assert_eq!(refused.kind, ErrorKind::Permission, "{refused}");
    assert!(bench.is_well());
}

#[test]
fn a_certificate_that_is_over_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let long_ago = Timestamp(now().0 - 25 * 3600 * 1000);
    made(directory.path(), long_ago);
    certs::rotate(directory.path(), Role::Node, None, now()).unwrap();
    let shown = identity(directory.path(), Role::Node);
    let address = "127.0.0.1:0".parse().unwrap();
    let server = Server::start(address, &shown, Arc::new(Kept::default())).unwrap();
    let places = Places::of(directory.path(), Role::Coordinator);
    let late = certs::identity(&places, long_ago).unwrap();
    let refused = Client::connect(&server.address().to_string(), &late).err().unwrap();
    assert_eq!(refused.kind, ErrorKind::Permission, "{refused}");
}

#[test]
fn without_a_certificate_nothing_is_heard() {
    let bench = Bench::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let known = identity(bench.directory.path(), Role::Coordinator);
    let config = tls::nameless(&known).unwrap();
    let greeting = runtime.block_on(async {
        let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let name = certs::server_name(Role::Node);
        let connecting = endpoint.connect_with(config, bench.server.address(), name).unwrap();
        let connection = connecting.await.map_err(|error| error.to_string())?;
        let (mut send, mut receive) =
            connection.open_bi().await.map_err(|error| error.to_string())?;
        let hello = Hello { generations: [1, 1] };
        wire::write(&mut send, &hello).await.map_err(|error| error.to_string())?;
        wire::read::<Greeting>(&mut receive).await.map_err(|error| error.to_string())
    });
    assert!(greeting.is_err(), "{greeting:?}");
    assert!(bench.is_well());
}

#[test]
fn a_coordinator_cannot_pose_as_a_node() {
    let directory = tempfile::tempdir().unwrap();
    made(directory.path(), now());
    let shown = identity(directory.path(), Role::Observer);
    let address = "127.0.0.1:0".parse().unwrap();
    let server = Server::start(address, &shown, Arc::new(Kept::default())).unwrap();
    let caller = identity(directory.path(), Role::Coordinator);
    let refused = Client::connect(&server.address().to_string(), &caller).err().unwrap();
    assert_eq!(refused.kind, ErrorKind::Integrity);
}

#[test]
fn many_silent_connections_leave_room_for_others_when_they_are_gone() {
    let bench = Bench::new();
    let silent: Vec<Rude> = (0..16).map(|_| Rude::connect(&bench, Role::Observer)).collect();
    assert!(bench.is_well());
    for one in &silent {
        one.connection.close(VarInt::from_u32(0), b"");
    }
    drop(silent);
    assert!(bench.is_well());
}

#[test]
fn another_certificate_is_shown_without_a_new_start() {
    let bench = Bench::new();
    certs::rotate(bench.directory.path(), Role::Node, None, now()).unwrap();
    let next = identity(bench.directory.path(), Role::Node);
    bench.server.show(&next).unwrap();
    assert!(bench.is_well());
}

#[test]
fn where_nobody_listens_is_said() {
    let bench = Bench::new();
    let known = identity(bench.directory.path(), Role::Coordinator);
    for wrong in ["nowhere", "host:", "host:99999", ":4433x"] {
        assert_eq!(Client::connect(wrong, &known).err().unwrap().kind, ErrorKind::Usage, "{wrong}");
    }
}

proptest! {
    #[test]
    fn no_bytes_crash_the_decoder(header: [u8; 4], body: Vec<u8>) {
        if let Ok(size) = wire::length(header, FRAME_MAX) {
            prop_assert!(size <= FRAME_MAX);
        }
        let _ = wire::decode::<Request>(&body);
        let _ = wire::decode::<Hello>(&body);
        let _ = wire::decode::<Part>(&body);
        let _ = wire::decode::<Reply>(&body);
    }

    #[test]
    fn a_flipped_bit_crashes_nothing(bit in 0_usize..400) {
        let instance = "acme/workers/i-00000001".parse().unwrap();
        let mut bytes = serde_json::to_vec(&Request::WakeInstance { instance }).unwrap();
        let length = bytes.len();
        if let Some(byte) = bytes.get_mut(bit / 8 % length) {
            *byte ^= 1 << (bit % 8);
        }
        let _ = wire::decode::<Request>(&bytes);
    }
}
