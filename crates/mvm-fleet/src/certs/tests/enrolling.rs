//! Join tokens, what is installed, and what is revoked.

use super::*;
use crate::certs::enroll::{Given, install, prepare, request_again, waiting};

struct Fleet {
    place: tempfile::TempDir,
}

impl Fleet {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let boss = [(Role::Coordinator, "boss".to_owned())];
        init(&place.path().join("fleet"), None, &boss, NOW).unwrap();
        Self { place }
    }

    fn registry(&self) -> Registry {
        Registry::open(&self.place.path().join("fleet"), None).unwrap()
    }

    fn node(&self) -> PathBuf {
        self.place.path().join("node")
    }

    fn places(&self) -> Places {
        Places::of(&self.node(), Role::Node)
    }

    fn waits(&self) -> (Token, SigningRequest) {
        let token = self.registry().invite(Seconds(HOUR), NOW).unwrap();
        prepare(&self.node(), &token, None, "node-1", NOW).unwrap();
        let found = waiting(&self.node(), "node-1", NOW).unwrap().unwrap();
        (token, SigningRequest::read(&found.request).unwrap())
    }

    fn joined(&self) -> Facts {
        let (_, request) = self.waits();
        let registry = self.registry();
        let (certificate, _) = registry.sign(&request, NOW).unwrap();
        let authority = registry.authority();
        let given =
            Given { certificate: &certificate, authority: Some(&authority), revocations: None };
        let (facts, is_new) = install(&self.places(), given, "node-1", NOW).unwrap();
        assert!(is_new);
        facts
    }
}

const fn alone(certificate: &str) -> Given<'_> {
    Given { certificate, authority: None, revocations: None }
}

#[test]
fn a_node_with_a_token_gets_a_certificate_and_forgets_the_token() {
    let fleet = Fleet::new();
    let facts = fleet.joined();
    assert_eq!((facts.name.as_str(), facts.role), ("node-1", Some(Role::Node)));
    let shown = identity(&fleet.places(), NOW).unwrap();
    assert_eq!(shown.facts, facts);
    for gone in ["join.token", "node.csr"] {
        assert!(!fleet.node().join(gone).exists(), "{gone}");
    }
    assert!(waiting(&fleet.node(), "node-1", NOW).unwrap().is_none());
    let token = fleet.registry().invite(Seconds(HOUR), NOW).unwrap();
    let steps = prepare(&fleet.node(), &token, None, "node-1", NOW).unwrap();
    assert!(steps.iter().all(|step| !step.changed), "who has a certificate keeps it: {steps:?}");
}

#[test]
fn a_token_is_for_one_key_and_one_hour() {
    let fleet = Fleet::new();
    let registry = fleet.registry();
    let token = registry.invite(Seconds(HOUR), NOW).unwrap();
    assert_eq!(registry.examine(&token, NOW), Ok(None));
    registry.redeem(&token, "aa", NOW).unwrap();
    registry.redeem(&token, "aa", NOW).unwrap();
    assert_eq!(registry.examine(&token, NOW), Ok(Some("aa".to_owned())));
    let kind = |result: Result<(), Error>| result.unwrap_err().kind;
    assert_eq!(kind(registry.redeem(&token, "bb", NOW)), ErrorKind::Conflict);
    let late = NOW.plus(Seconds(HOUR + 1));
    assert_eq!(kind(registry.redeem(&token, "aa", late)), ErrorKind::Integrity);
    let unknown = Token::draw(&token.authority, token.expires).unwrap();
    assert_eq!(kind(registry.redeem(&unknown, "aa", NOW)), ErrorKind::Integrity);
    let foreign = Fleet::new().registry().invite(Seconds(HOUR), NOW).unwrap();
    assert_eq!(kind(registry.redeem(&foreign, "aa", NOW)), ErrorKind::Integrity);
}

#[test]
fn what_the_operator_keeps_of_a_token_proves_nothing_and_is_his_alone() {
    let fleet = Fleet::new();
    let token = fleet.registry().invite(Seconds(HOUR), NOW).unwrap();
    let file = fleet.place.path().join("fleet/ca.tokens");
    let text = fs::read_to_string(&file).unwrap();
    let secret = token.text().rsplit('.').next().unwrap().to_owned();
    assert!(text.contains(&token.id()) && !text.contains(&secret));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_token_that_is_over_or_of_another_fleet_prepares_nothing() {
    let fleet = Fleet::new();
    let token = fleet.registry().invite(Seconds(HOUR), NOW).unwrap();
    let late = NOW.plus(Seconds(HOUR + 1));
    let refused = prepare(&fleet.node(), &token, None, "node-1", late).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Integrity);
    let other = authority(fleet.place.path(), false);
    let refused = prepare(&fleet.node(), &token, Some(&other), "node-1", NOW).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Integrity);
    assert!(!fleet.node().join("join.token").exists());
    prepare(&fleet.node(), &token, None, "node-1", NOW).unwrap();
    assert_eq!(waiting(&fleet.node(), "node-1", late).err().unwrap().kind, ErrorKind::Integrity);
}

#[test]
fn only_a_valid_certificate_of_this_node_and_key_is_installed() {
    let fleet = Fleet::new();
    let (_, request) = fleet.waits();
    let registry = fleet.registry();
    let (good, _) = registry.sign(&request, NOW).unwrap();
    let kind = |certificate: &str, authority: &str, name: &str, at: Timestamp| {
        let given = Given { certificate, authority: Some(authority), revocations: None };
        install(&fleet.places(), given, name, at).unwrap_err().kind
    };
    let ca = registry.authority();
    let stranger = Fleet::new();
    let (foreign, _) = stranger.registry().sign(&request, NOW).unwrap();
    let foreign_ca = stranger.registry().authority();
    assert_eq!(kind(&foreign, &ca, "node-1", NOW), ErrorKind::Integrity);
    assert_eq!(kind(&foreign, &foreign_ca, "node-1", NOW), ErrorKind::Integrity);
    assert_eq!(kind(&good, &ca, "node-2", NOW), ErrorKind::Permission);
    assert_eq!(
        kind(&good, &ca, "node-1", NOW.plus(Seconds(1800 + 24 * HOUR))),
        ErrorKind::Integrity
    );
    let observing = SigningRequest {
        role: Role::Observer,
        ..SigningRequest::read(&waiting(&fleet.node(), "node-1", NOW).unwrap().unwrap().request)
            .unwrap()
    };
    let (observer, _) = registry.sign(&observing, NOW).unwrap();
    assert_eq!(kind(&observer, &ca, "node-1", NOW), ErrorKind::Integrity, "no name of a node");
    let other = registry.issue(Role::Node, "node-1", NOW).unwrap().certificate;
    assert_eq!(kind(&other, &ca, "node-1", NOW), ErrorKind::Permission);
    assert_eq!(kind("nothing", &ca, "node-1", NOW), ErrorKind::Invalid);
    assert!(!fleet.places().cert.exists() && !fleet.places().ca.exists());
    let given = Given { certificate: &good, authority: Some(&ca), revocations: None };
    install(&fleet.places(), given, "node-1", NOW).unwrap();
}

#[test]
fn a_renewed_certificate_has_the_same_key_and_another_serial() {
    let fleet = Fleet::new();
    let first = fleet.joined();
    let request = request_again(&fleet.places(), "node-1").unwrap();
    let request = SigningRequest::read(&request).unwrap();
    let later = NOW.plus(Seconds(13 * HOUR));
    let (certificate, signed) = fleet.registry().sign(&request, later).unwrap();
    let (facts, is_new) = install(&fleet.places(), alone(&certificate), "node-1", later).unwrap();
    assert_eq!((facts.clone(), is_new), (signed, true));
    assert_eq!(facts.key, first.key);
    assert_ne!(facts.serial, first.serial);
    assert_eq!(facts.not_after, later.plus(LIFE));
    let (_, is_new) = install(&fleet.places(), alone(&certificate), "node-1", later).unwrap();
    assert!(!is_new);
}

#[test]
fn a_list_of_revoked_certificates_only_moves_on() {
    let fleet = Fleet::new();
    let facts = fleet.joined();
    let registry = fleet.registry();
    let ca = fleet.places().ca;
    let (first, meant) = registry.revoke("aabbcc", NOW).unwrap();
    assert_eq!((first.number(), meant.len()), (1, 1));
    assert_eq!(revoke(&ca, &first.pem()).unwrap(), (first.clone(), true));
    assert!(!revoke(&ca, &first.pem()).unwrap().1, "the same again is no change");
    let (second, meant) = registry.revoke("node-1", NOW).unwrap();
    let serials: Vec<&str> = meant.iter().map(|one| one.serial.as_str()).collect();
    assert_eq!((second.number(), serials), (2, vec![facts.serial.as_str()]));
    assert!(second.has(&facts.serial) && second.has("aabbcc"));
    assert_eq!(registry.revoke(&facts.fingerprint, NOW).unwrap().0.number(), 2, "it is on it");
    assert!(revoke(&ca, &second.pem()).unwrap().1);
    assert_eq!(revoke(&ca, &first.pem()).unwrap_err().kind, ErrorKind::Conflict);
    let foreign = Fleet::new().registry().revoke("aabbcc", NOW).unwrap().0;
    assert_eq!(revoke(&ca, &foreign.pem()).unwrap_err().kind, ErrorKind::Integrity);
    assert_eq!(revoke(&ca, "nothing").unwrap_err().kind, ErrorKind::Invalid);
    assert_eq!(revoked(&ca).unwrap(), Some(second));
    assert_eq!(registry.revoke("nobody", NOW).unwrap_err().kind, ErrorKind::NotFound);
}

#[test]
fn what_was_revoked_is_not_installed_and_leaves_the_list_when_it_is_long_over() {
    let fleet = Fleet::new();
    let (_, request) = fleet.waits();
    let registry = fleet.registry();
    let (certificate, facts) = registry.sign(&request, NOW).unwrap();
    let (list, _) = registry.revoke(&facts.serial, NOW).unwrap();
    let (ca, list) = (registry.authority(), list.pem());
    let given = Given { certificate: &certificate, authority: Some(&ca), revocations: Some(&list) };
    let refused = install(&fleet.places(), given, "node-1", NOW).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Integrity);
    let (other, _) = registry.sign(&request, NOW).unwrap();
    install(&fleet.places(), Given { certificate: &other, ..given }, "node-1", NOW).unwrap();
    assert!(revoked(&fleet.places().ca).unwrap().unwrap().has(&facts.serial));
    let later = registry.revoke("aabbcc", NOW.plus(Seconds(49 * HOUR))).unwrap().0;
    assert!(!later.has(&facts.serial) && later.has("aabbcc"));
}

#[test]
fn a_request_that_its_key_did_not_sign_is_refused() {
    let fleet = Fleet::new();
    let request = request(&fleet.node(), Role::Node, "node-1").unwrap();
    let of = |pem: &str| SigningRequest::read(pem);
    assert_eq!(of(&request).unwrap().name, "node-1");
    let mut refused = 0;
    let body: Vec<usize> = request.char_indices().map(|(at, _)| at).collect();
    for at in body.into_iter().filter(|at| (40..request.len() - 40).contains(at)).step_by(7) {
        let (before, rest) = request.split_at(at);
        let letter = if rest.starts_with('A') { 'B' } else { 'A' };
        let altered = format!("{before}{letter}{}", rest.get(1..).unwrap());
        refused += usize::from(of(&altered).is_err());
    }
    assert!(refused > 40, "{refused}");
    for wrong in ["", "nothing", &"A".repeat(1 << 20)] {
        assert!(of(wrong).is_err());
    }
    assert!(
        super::super::request(&fleet.node(), Role::Node, "a b").is_ok_and(|it| of(&it).is_err())
    );
}
