#![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]

use std::{fs, os::unix::fs::PermissionsExt};

use super::*;

mod enrolling;

const NOW: Timestamp = Timestamp(1_800_000_000_000);
const HOUR: u32 = 3600;

fn node() -> Vec<(Role, String)> {
    vec![(Role::Node, "node-1".to_owned())]
}

/// A file with an authority, with or without its key.
fn authority(directory: &Path, with_key: bool) -> PathBuf {
    let made = Authority::make("fleet", NOW).unwrap();
    let file = directory.join("fleet.pem");
    let key = if with_key { made.key_pem().to_string() } else { String::new() };
    files::write(&file, &(made.pem() + &key), Readers::Owner).unwrap();
    file
}

#[test]
fn a_side_of_its_own_has_authority_certificate_and_role() {
    let place = tempfile::tempdir().unwrap();
    let steps = init(place.path(), None, &node(), NOW).unwrap();
    assert!(steps.iter().all(|step| step.changed));
    let identity = identity(&Places::of(place.path(), Role::Node), NOW).unwrap();
    assert_eq!((identity.facts.role, identity.facts.name.as_str()), (Some(Role::Node), "node-1"));
    assert_eq!(identity.facts.not_after, NOW.plus(LIFE));
    assert_eq!(identity.facts.not_before, Timestamp(NOW.0 - 300_000));
    for key in ["ca.key", "node.key"] {
        let mode = fs::metadata(place.path().join(key)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
    let again = init(place.path(), None, &node(), NOW).unwrap();
    assert!(again.iter().all(|step| !step.changed), "{again:?}");
}

#[test]
fn half_its_life_later_a_certificate_is_due_and_renewed_once() {
    let place = tempfile::tempdir().unwrap();
    init(place.path(), None, &node(), NOW).unwrap();
    let (early, late) = (NOW.plus(Seconds(11 * HOUR)), NOW.plus(Seconds(12 * HOUR)));
    assert!(!renew_if_due(place.path(), Role::Node, early).unwrap());
    assert!(status(place.path(), late).unwrap().iter().all(|facts| facts.is_due));
    assert!(renew_if_due(place.path(), Role::Node, late).unwrap());
    assert!(!renew_if_due(place.path(), Role::Node, late).unwrap());
    let renewed = identity(&Places::of(place.path(), Role::Node), late).unwrap();
    assert_eq!(renewed.facts.not_after, late.plus(LIFE));
}

#[test]
fn a_certificate_that_is_over_is_no_identity() {
    let place = tempfile::tempdir().unwrap();
    init(place.path(), None, &node(), NOW).unwrap();
    let later = NOW.plus(Seconds(25 * HOUR));
    let refused = identity(&Places::of(place.path(), Role::Node), later).err().unwrap();
    assert_eq!(refused.kind, ErrorKind::Integrity);
}

#[test]
fn with_an_authority_without_its_key_a_request_is_left() {
    let place = tempfile::tempdir().unwrap();
    let file = authority(place.path(), false);
    let certs = place.path().join("certs");
    init(&certs, Some(&file), &node(), NOW).unwrap();
    let request = fs::read_to_string(certs.join("node.csr")).unwrap();
    assert!(request.starts_with("-----BEGIN CERTIFICATE REQUEST-----\n"));
    let key = fs::read(certs.join("node.key")).unwrap();
    init(&certs, Some(&file), &node(), NOW).unwrap();
    assert_eq!(fs::read(certs.join("node.key")).unwrap(), key, "the request's key stays");
    assert!(!certs.join("node.crt").exists());
    let refused = rotate(&certs, Role::Node, None, NOW).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::NotFound);
}

#[test]
fn with_an_authority_and_its_key_it_is_signed_at_once_and_the_key_is_not_kept() {
    let place = tempfile::tempdir().unwrap();
    let file = authority(place.path(), true);
    let certs = place.path().join("certs");
    init(&certs, Some(&file), &node(), NOW).unwrap();
    let first = identity(&Places::of(&certs, Role::Node), NOW).unwrap().facts;
    assert!(!certs.join("ca.key").exists());
    assert_eq!(rotate(&certs, Role::Node, None, NOW).unwrap_err().kind, ErrorKind::Conflict);
    let next = rotate(&certs, Role::Node, Some(&file), NOW).unwrap();
    assert_ne!(next.fingerprint, first.fingerprint);
    assert_eq!((next.name, next.issuer), (first.name, first.issuer));
}

#[test]
fn a_second_authority_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let file = authority(place.path(), true);
    let certs = place.path().join("certs");
    init(&certs, None, &node(), NOW).unwrap();
    assert_eq!(init(&certs, Some(&file), &node(), NOW).unwrap_err().kind, ErrorKind::Conflict);
}

#[test]
fn what_is_no_authority_is_refused() {
    let place = tempfile::tempdir().unwrap();
    init(place.path(), None, &node(), NOW).unwrap();
    let kind = |file: &str| Authority::read(&place.path().join(file)).err().unwrap().kind;
    assert_eq!(kind("node.crt"), ErrorKind::Invalid);
    assert_eq!(kind("node.key"), ErrorKind::Invalid);
    assert_eq!(kind("nothing"), ErrorKind::NotFound);
    let pem = fs::read_to_string(place.path().join("ca.crt")).unwrap();
    let key = fs::read_to_string(place.path().join("node.key")).unwrap();
    files::write(&place.path().join("mixed.pem"), &(pem + &key), Readers::Owner).unwrap();
    assert_eq!(kind("mixed.pem"), ErrorKind::Invalid);
}

#[test]
fn a_key_that_others_may_read_is_refused() {
    let place = tempfile::tempdir().unwrap();
    init(place.path(), None, &node(), NOW).unwrap();
    let key = place.path().join("node.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let refused = identity(&Places::of(place.path(), Role::Node), NOW).err().unwrap();
    assert_eq!(refused.kind, ErrorKind::Permission);
}

#[test]
fn commands_at_once_leave_a_certificate_with_its_own_key() {
    let place = tempfile::tempdir().unwrap();
    init(place.path(), None, &node(), NOW).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| rotate(place.path(), Role::Node, None, NOW).unwrap());
        }
    });
    let again = init(place.path(), None, &node(), NOW).unwrap();
    assert!(again.iter().all(|step| !step.changed), "{again:?}");
}
