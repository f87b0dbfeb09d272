//! Certificates and lists of revoked ones that change while a server serves.

use super::*;
use crate::certs::{
    SigningRequest,
    enroll::{self, Given},
};

impl Bench {
    fn places(&self) -> Places {
        Places::of(self.directory.path(), Role::Node)
    }

    fn registry(&self) -> Registry {
        Registry::open(self.directory.path(), None).unwrap()
    }

    /// As a coordinator renews it: the same key, another certificate, shown at once.
    fn renew(&self) {
        let request = enroll::request_again(&self.places(), "a-node").unwrap();
        let request = SigningRequest::read(&request).unwrap();
        let (certificate, _) = self.registry().sign(&request, now()).unwrap();
        let given = Given { certificate: &certificate, authority: None, revocations: None };
        enroll::install(&self.places(), given, "a-node", now()).unwrap();
        self.server.show(&identity(self.directory.path(), Role::Node)).unwrap();
    }

    fn shown(&self) -> String {
        let rude = Rude::connect(self, Role::Observer);
        tls::peer(&rude.connection).unwrap().serial
    }
}

#[test]
fn certificates_change_under_load_and_no_request_fails() {
    let bench = Bench::new();
    let open = bench.client(Role::Coordinator);
    let ask = |client: &Client| drop(client.ask(&Request::NodeStats {}).unwrap());
    let mut serials = vec![bench.shown()];
    for _ in 0..12 {
        std::thread::scope(|scope| {
            // One stays connected all the time, one connects anew for each request.
            scope.spawn(|| (0..5).for_each(|_| ask(&bench.client(Role::Coordinator))));
            scope.spawn(|| bench.renew());
            (0..40).for_each(|_| ask(&open));
        });
        serials.push(bench.shown());
    }
    let all = serials.len();
    serials.sort();
    serials.dedup();
    assert_eq!(serials.len(), all, "each renewal is shown");
}

#[test]
fn a_revoked_caller_is_refused_in_its_open_session_and_at_the_door() {
    let bench = Bench::new();
    let open = Rude::greeted(&bench, Role::Coordinator);
    let ask = wire::encode(&Request::NodeStats {}).unwrap();
    assert_eq!(open.code(&ask), None);
    let known = identity(bench.directory.path(), Role::Coordinator);
    bench.registry().revoke(&known.facts.serial, now()).unwrap();
    bench.server.show(&identity(bench.directory.path(), Role::Node)).unwrap();
    let asked = bench.node.asked.lock().unwrap().len();
    assert_eq!(open.code(&ask), Some(Code::Unknown));
    assert_eq!(bench.node.asked.lock().unwrap().len(), asked, "nothing was asked of the node");
    let refused = Client::connect(&bench.server.address().to_string(), &known).err().unwrap();
    assert_eq!(refused.kind, ErrorKind::Permission, "{refused}");
    let own = certs::identity(&Places::of(bench.directory.path(), Role::Coordinator), now());
    assert_eq!(own.err().unwrap().kind, ErrorKind::Integrity, "and knows it");
    assert!(bench.client(Role::Observer).ask(&Request::NodeStats {}).is_ok());
}

#[test]
fn a_revoked_node_is_believed_by_nobody_who_has_the_list() {
    let bench = Bench::new();
    bench.registry().revoke("a-node", now()).unwrap();
    let known = identity(bench.directory.path(), Role::Coordinator);
    let refused = Client::connect(&bench.server.address().to_string(), &known).err().unwrap();
    assert_eq!(refused.kind, ErrorKind::Integrity, "{refused}");
    bench.renew();
    assert!(bench.is_well(), "a new certificate of the same key is not the revoked one");
}
