#![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]

use std::{os::unix::fs::PermissionsExt, path::PathBuf};

use mvm_core::signed::{Surroundings, verdict};
use proptest::prelude::*;

use super::*;

const NOW: Timestamp = Timestamp(1_000_000_000);
const TERMS: Terms = Terms { now: NOW, sequence: Some(3), valid: Seconds(60) };

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

fn is_accepted(envelope: &Envelope, key: &SigningKey) -> bool {
    let keys = TrustedKeys::from([(signer_id(&key.public()), key.public())]);
    let surroundings = Surroundings { node_id: "node-1", keys: &keys, now: NOW, verify: &verify };
    verdict(envelope, &surroundings, None).is_ok()
}

#[test]
fn a_key_is_read_back_and_is_its_owners() {
    let place = Place::new();
    let made = SigningKey::make(&place.at("signing.key")).unwrap();
    let mode = fs::metadata(place.at("signing.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let read = SigningKey::read(&place.at("signing.key")).unwrap();
    assert_eq!(read.public(), made.public());
    let published = fs::read_to_string(place.at("signing.pub")).unwrap();
    assert_eq!(read_public(&published), Ok(made.public()));
    assert!(is_accepted(&read.sign(b"{}", "node-1", &TERMS), &made));
}

#[test]
fn a_key_is_never_replaced_and_never_read_when_others_may() {
    let place = Place::new();
    let file = place.at("signing.key");
    SigningKey::make(&file).unwrap();
    assert_eq!(SigningKey::make(&file).err().unwrap().kind, ErrorKind::Conflict);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(SigningKey::read(&file).err().unwrap().kind, ErrorKind::Permission);
    fs::write(place.at("other"), "short").unwrap();
    fs::set_permissions(place.at("other"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(SigningKey::read(&place.at("other")).err().unwrap().kind, ErrorKind::Invalid);
    assert_eq!(SigningKey::read(&place.at("none")).err().unwrap().kind, ErrorKind::NotFound);
}

#[test]
fn the_example_of_rfc_8032_verifies() {
    let bytes = |text: &str| hex::decode(text).unwrap();
    let key = bytes("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c");
    let signature = bytes(
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da\
         085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    );
    let key = PublicKey(key.try_into().unwrap());
    assert!(verify(&key, &[0x72], &signature));
    assert!(!verify(&key, &[0x73], &signature));
}

#[test]
fn a_malformed_trusted_key_is_told_and_skipped() {
    let place = Place::new();
    let directory = place.at("trusted_keys");
    assert!(trusted(&directory).unwrap().keys.is_empty());
    let key = SigningKey::make(&place.at("signing.key")).unwrap();
    let (signer, is_new) = trust(&directory, &key.public_text()).unwrap();
    assert!(is_new && !trust(&directory, &key.public_text()).unwrap().1);
    fs::write(directory.join("broken.pub"), "?").unwrap();
    fs::write(directory.join("small.pub"), base64::encode(&[0; 32])).unwrap();
    fs::write(directory.join("notes.txt"), "not a key").unwrap();
    let found = trusted(&directory).unwrap();
    assert_eq!(found.keys.keys().collect::<Vec<_>>(), [&signer]);
    let skipped: Vec<&str> = found.skipped.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(skipped, ["broken.pub", "small.pub"]);
}

#[test]
fn a_key_that_others_may_write_is_not_trusted() {
    let place = Place::new();
    let directory = place.at("trusted_keys");
    let key = SigningKey::make(&place.at("signing.key")).unwrap();
    let (signer, _) = trust(&directory, &key.public_text()).unwrap();
    let file = directory.join(format!("{signer}.pub"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    let found = trusted(&directory).unwrap();
    assert!(found.keys.is_empty() && found.skipped.len() == 1);
}

#[test]
fn every_flipped_bit_of_a_signed_envelope_is_rejected() {
    let place = Place::new();
    let key = SigningKey::make(&place.at("signing.key")).unwrap();
    let bytes = serde_json::to_vec(&key.sign(b"{\"tenants\": []}", "node-1", &TERMS)).unwrap();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        *flipped.get_mut(bit / 8).unwrap() ^= 1 << (bit % 8);
        let is_taken = Envelope::read(&flipped).is_ok_and(|envelope| is_accepted(&envelope, &key));
        assert!(!is_taken, "bit {bit}: {}", String::from_utf8_lossy(&flipped));
    }
}

proptest! {
    #[test]
    fn no_text_crashes_the_reader_of_keys(text: String) {
        let _ = read_public(&text);
    }
}

#[test]
fn a_signed_document_opens_for_who_trusts_its_signer_and_for_nobody_else() {
    let directory = tempfile::tempdir().unwrap();
    let key = SigningKey::make(&directory.path().join("a")).unwrap();
    let other = SigningKey::make(&directory.path().join("b")).unwrap();
    let trusts = |key: &SigningKey| TrustedKeys::from([(signer_id(&key.public()), key.public())]);
    let signed = key.sign_document(Purpose::Template, b"a template");
    let open = |signed: &SignedDocument, keys: &TrustedKeys| {
        signed.open(Purpose::Template, keys, &verify).map_err(|why| why.name())
    };
    assert_eq!(open(&signed, &trusts(&key)), Ok(b"a template".to_vec()));
    assert_eq!(open(&signed, &trusts(&other)), Err("unknown signer"));
    let altered = SignedDocument { payload: base64::encode(b"another"), ..signed.clone() };
    assert_eq!(open(&altered, &trusts(&key)), Err("bad signature"));
    let claimed = SignedDocument { signer_id: signer_id(&other.public()), ..signed };
    assert_eq!(open(&claimed, &trusts(&other)), Err("bad signature"));
    // What signs a state signs no template.
    let terms = Terms { now: Timestamp(1), sequence: None, valid: Seconds(9) };
    let state = key.sign(b"a template", "node", &terms);
    let Envelope { payload, signature, signer_id, .. } = state;
    let borrowed = SignedDocument { payload, signature, signer_id };
    assert_eq!(open(&borrowed, &trusts(&key)), Err("bad signature"));
}
