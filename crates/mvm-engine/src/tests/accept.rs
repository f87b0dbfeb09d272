//! A desired state from afar is stored with its sequence, or rejected; the node's log tells either.

use mvm_core::{
    base64,
    event::{Actor, LoggedEvent},
    id::TenantId,
    port::Store,
    signed::{Envelope, PublicKey, TrustedKeys},
    units::Timestamp,
};

use crate::{
    engine::{Context, Trust},
    fake::*,
};

const KEY: PublicKey = PublicKey([7; 32]);

/// A stand-in for cryptography, which is tested where it is: the signature is the message's length.
fn holds(_: &PublicKey, message: &[u8], signature: &[u8]) -> bool {
    signature == seal(message)
}

fn seal(message: &[u8]) -> Vec<u8> {
    let length = message.len() as u64;
    length.to_be_bytes().repeat(8)
}

fn caller() -> Context {
    Context::silent(Actor::Certificate("coordinator:boss".to_owned()))
}

fn offer(
    rig: &Rig,
    document: &str,
    change: impl FnOnce(&mut Envelope),
) -> Result<u64, mvm_core::Error> {
    let mut envelope = Envelope {
        payload: base64::encode(document.as_bytes()),
        signature: String::new(),
        signer_id: "aa".to_owned(),
        node_id: rig.engine.node_id().unwrap(),
        sequence: 5,
        not_before: Timestamp(0),
        not_after: Timestamp(u64::MAX),
    };
    change(&mut envelope);
    if envelope.signature.is_empty() {
        envelope.signature = base64::encode(&seal(&envelope.message()));
    }
    let keys = TrustedKeys::from([("aa".to_owned(), KEY)]);
    let trust = Trust { keys: &keys, verify: &holds };
    rig.engine.accept_signed(&caller(), &envelope, &trust).map(|one| one.sequence.unwrap())
}

fn document() -> String {
    r#"{"schema_version": 1, "node_id": "local", "tenants": []}"#.to_owned()
}

/// What the node's log says of states, as `reason` or `accepted`.
fn told(rig: &Rig) -> Vec<String> {
    let all = rig.store.events(&TenantId::node(), 0, 100).unwrap();
    let of = |one: LoggedEvent| {
        assert_eq!(one.event.actor, Actor::Certificate("coordinator:boss".to_owned()));
        one.event.reason
    };
    all.into_iter().map(of).collect()
}

#[test]
fn an_accepted_state_is_kept_with_its_sequence_and_told() {
    let rig = Rig::new();
    assert_eq!(offer(&rig, &document(), |_| {}), Ok(5));
    let kept = rig.again().engine.accepted().unwrap().unwrap();
    assert_eq!((kept.document, kept.acceptance.signer_id.as_deref()), (document(), Some("aa")));
    assert_eq!(told(&rig), ["pushed"]);
}

#[test]
fn the_same_state_again_is_old_and_a_later_one_takes_its_place() {
    let rig = Rig::new();
    offer(&rig, &document(), |_| {}).unwrap();
    let refused = offer(&rig, &document(), |_| {}).unwrap_err();
    assert_eq!(refused.kind, mvm_core::ErrorKind::Conflict);
    let pruning = document().replace("\"tenants\"", "\"prune_unknown_tenants\": true, \"tenants\"");
    assert_eq!(offer(&rig, &pruning, |one| one.sequence = 6), Ok(6));
    assert_eq!(rig.engine.accepted().unwrap().unwrap().document, pruning);
    assert_eq!(told(&rig), ["pushed", "old sequence", "pushed"]);
}

#[test]
fn every_rejection_is_told_by_its_name_and_changes_nothing() {
    let rig = Rig::new();
    let refuse = |change: fn(&mut Envelope)| offer(&rig, &document(), change).unwrap_err();
    refuse(|one| one.node_id = "node-other".to_owned());
    refuse(|one| one.signer_id = "bb".to_owned());
    refuse(|one| one.not_after = Timestamp(0));
    refuse(|one| one.signature = base64::encode(&[0; 64]));
    refuse(|one| one.signature = "?".to_owned());
    offer(&rig, "{\"tenants\": 7}", |_| {}).unwrap_err();
    let names =
        ["wrong node", "unknown signer", "expired", "bad signature", "malformed", "malformed"];
    assert_eq!(told(&rig), names);
    assert!(rig.engine.accepted().unwrap().is_none());
}

#[test]
fn a_document_for_another_node_is_rejected_whatever_the_envelope_says() {
    let rig = Rig::new();
    let foreign = document().replace("local", "node-other");
    offer(&rig, &foreign, |_| {}).unwrap_err();
    assert_eq!(told(&rig), ["malformed"]);
}

#[test]
fn what_nobody_signed_is_taken_in_development_only() {
    let rig = Rig::new();
    let accepted = rig.engine.accept_unsigned(&caller(), &document()).unwrap();
    assert_eq!((accepted.signer_id, accepted.sequence), (None, None));
    let mut strict = rig.again();
    strict.engine.config.production = true;
    let refused = strict.engine.accept_unsigned(&caller(), &document()).unwrap_err();
    assert_eq!(refused.kind, mvm_core::ErrorKind::Integrity);
    assert_eq!(told(&rig), ["pushed", "unsigned"]);
}

#[test]
fn a_strangers_name_in_the_log_is_short_and_plain() {
    let rig = Rig::new();
    offer(&rig, &document(), |one| one.signer_id = "\u{1b}[31m".repeat(20)).unwrap_err();
    let all = rig.store.events(&TenantId::node(), 0, 1).unwrap();
    let signer = &all[0].event.detail["signer"];
    assert!(signer.len() <= 64 && !signer.contains('\u{1b}'), "{signer}");
}
