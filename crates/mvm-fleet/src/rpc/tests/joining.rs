//! A machine without a certificate, its operator, and who else listens and speaks.

use mvm_core::{
    api::{Certificate, join},
    units::Seconds,
};

use super::*;
use crate::certs::{
    Token,
    enroll::{self, Given},
};

/// A node that waits.
struct Machine {
    directory: PathBuf,
    refused: Mutex<Vec<String>>,
}

use std::{net::SocketAddr, path::PathBuf};

impl Joining for Machine {
    fn install(&self, _: SocketAddr, grant: &join::Grant) -> Result<Identity, Error> {
        let places = Places::of(&self.directory, Role::Node);
        let given = Given {
            certificate: &grant.certificate,
            authority: Some(&grant.authority),
            revocations: grant.revocations.as_deref(),
        };
        enroll::install(&places, given, "node-1", now())?;
        certs::identity(&places, now())
    }

    fn refused(&self, _: SocketAddr, why: &str) {
        self.refused.lock().unwrap().push(why.to_owned());
    }
}

struct Scene {
    place: tempfile::TempDir,
    token: Token,
    machine: Arc<Machine>,
    server: Server,
}

impl Scene {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let fleet = place.path().join("fleet");
        made(&fleet, now());
        let registry = Registry::open(&fleet, None).unwrap();
        let token = registry.invite(Seconds(60), now()).unwrap();
        let directory = place.path().join("node");
        let (machine, server) = waits(directory, &token);
        Self { place, token, machine, server }
    }

    fn fleet(&self) -> PathBuf {
        self.place.path().join("fleet")
    }

    fn address(&self) -> String {
        self.server.address().to_string()
    }

    fn approve(&self, node: &str, token: &Token) -> Result<Certificate, Error> {
        let registry = Registry::open(&self.fleet(), None)?;
        approve(node, token, &mut |request| {
            registry.redeem(token, &request.key, now())?;
            let (certificate, _) = registry.sign(request, now())?;
            Ok(join::Grant { certificate, authority: registry.authority(), revocations: None })
        })
    }

    fn asks(&self) -> Result<Answer, Error> {
        let coordinator = identity(&self.fleet(), Role::Coordinator);
        Client::connect(&self.address(), &coordinator)?.ask(&Request::NodeStats {})
    }
}

fn waits(directory: PathBuf, token: &Token) -> (Arc<Machine>, Server) {
    enroll::prepare(&directory, token, None, "node-1", now()).unwrap();
    let waiting = enroll::waiting(&directory, "node-1", now()).unwrap().unwrap();
    let machine = Arc::new(Machine { directory, refused: Mutex::default() });
    let address = "127.0.0.1:0".parse().unwrap();
    let joining: Arc<dyn Joining> = Arc::<Machine>::clone(&machine);
    let server = Server::wait(address, waiting, joining, Arc::new(Kept::default())).unwrap();
    (machine, server)
}

#[test]
fn an_approved_node_is_one_of_the_fleet_without_a_new_start() {
    let scene = Scene::new();
    assert!(scene.asks().is_err(), "a node that waits can be asked nothing");
    let certificate = scene.approve(&scene.address(), &scene.token).unwrap();
    assert_eq!(certificate.name, "node-1");
    assert!(scene.asks().is_ok());
    assert!(scene.machine.refused.lock().unwrap().is_empty());
    let again = scene.approve(&scene.address(), &scene.token).unwrap_err();
    assert_eq!(again.kind, ErrorKind::Conflict, "{again}");
}

#[test]
fn who_does_not_know_the_token_learns_and_changes_nothing() {
    let scene = Scene::new();
    let other = Registry::open(&scene.fleet(), None).unwrap();
    let other = other.invite(Seconds(60), now()).unwrap();
    let refused = scene.approve(&scene.address(), &other).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Integrity, "{refused}");
    assert_eq!(scene.machine.refused.lock().unwrap().len(), 1);
    assert!(!scene.machine.directory.join("node.crt").exists());
    scene.approve(&scene.address(), &scene.token).unwrap();
}

#[test]
fn a_used_token_admits_no_other_node() {
    let scene = Scene::new();
    let (_, second) = waits(scene.place.path().join("second"), &scene.token);
    scene.approve(&scene.address(), &scene.token).unwrap();
    let refused = scene.approve(&second.address().to_string(), &scene.token).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Conflict, "{refused}");
    assert!(!scene.place.path().join("second/node.crt").exists());
}

#[test]
fn a_fleet_that_the_token_does_not_name_cannot_take_the_node() {
    let scene = Scene::new();
    let foreign = scene.place.path().join("foreign");
    made(&foreign, now());
    let registry = Registry::open(&foreign, None).unwrap();
    let refused = approve(&scene.address(), &scene.token, &mut |request| {
        let (certificate, _) = registry.sign(request, now())?;
        Ok(join::Grant { certificate, authority: registry.authority(), revocations: None })
    });
    assert_eq!(refused.unwrap_err().kind, ErrorKind::Integrity);
    assert!(!scene.machine.directory.join("node.crt").exists());
    scene.approve(&scene.address(), &scene.token).unwrap();
}

/// Somebody between the two, with a key of his own on the operator's side.
fn relayed(scene: &Scene, operator: &quinn::Connection) -> join::Answer {
    let runtime = tokio::runtime::Handle::current();
    tokio::task::block_in_place(|| {
        runtime.block_on(async {
            let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
            let config = tls::approving().unwrap();
            let connecting = endpoint.connect_with(config, scene.server.address(), enroll::JOINING);
            let node = connecting.unwrap().await.unwrap();
            let (mut answer, mut hear) = operator.accept_bi().await.unwrap();
            let (mut ask, mut heard) = node.open_bi().await.unwrap();
            let hello: join::Hello = wire::read(&mut hear).await.unwrap();
            wire::write(&mut ask, &hello).await.unwrap();
            let said: join::Answer = wire::read(&mut heard).await.unwrap();
            wire::write(&mut answer, &said).await.unwrap();
            let _ = answer.finish();
            let _ = answer.stopped().await;
            said
        })
    })
}

#[test]
fn somebody_in_the_middle_gains_nothing() {
    let scene = Scene::new();
    let own = scene.place.path().join("middle");
    let stranger = Token::draw(&scene.token.authority, scene.token.expires).unwrap();
    enroll::prepare(&own, &stranger, None, "node-1", now()).unwrap();
    let waiting = enroll::waiting(&own, "node-1", now()).unwrap().unwrap();
    let config = tls::waiting(&waiting).unwrap();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let _inside = runtime.enter();
    let endpoint = Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
    let address = endpoint.local_addr().unwrap().to_string();
    std::thread::scope(|scope| {
        let middle = scope.spawn(|| {
            runtime.block_on(async {
                let operator = endpoint.accept().await.unwrap().await.unwrap();
                relayed(&scene, &operator)
            })
        });
        let refused = scene.approve(&address, &scene.token).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Integrity, "{refused}");
        assert!(matches!(middle.join().unwrap(), join::Answer::Refused(_)));
    });
    assert_eq!(scene.machine.refused.lock().unwrap().len(), 1);
    let examined = Registry::open(&scene.fleet(), None).unwrap().examine(&scene.token, now());
    assert_eq!(examined, Ok(None), "the token was used for nobody");
}

#[test]
fn garbage_before_the_join_ends_nothing() {
    let scene = Scene::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let huge = (1_u32 << 20).to_be_bytes();
    for bytes in [&b"\0\0\0\x05hello"[..], &huge, b"\0\0\0\x02{}", b""] {
        runtime.block_on(async {
            let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
            let config = tls::approving().unwrap();
            let connecting = endpoint.connect_with(config, scene.server.address(), enroll::JOINING);
            let connection = connecting.unwrap().await.unwrap();
            let (mut send, mut receive) = connection.open_bi().await.unwrap();
            send.write_all(bytes).await.unwrap();
            let _ = send.finish();
            let said: join::Answer = wire::read(&mut receive).await.unwrap();
            assert!(matches!(said, join::Answer::Refused(_)));
        });
    }
    scene.approve(&scene.address(), &scene.token).unwrap();
}
