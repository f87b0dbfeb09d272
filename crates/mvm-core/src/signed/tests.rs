#![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]

use proptest::prelude::*;

use super::*;

const KEY: PublicKey = PublicKey([7; 32]);
const NOW: Timestamp = Timestamp(1_000_000_000);

/// A stand-in for a signature: 64 bytes that depend on every bit of key and message. Real ones are
/// tested where they are made.
fn seal(key: &PublicKey, message: &[u8]) -> Vec<u8> {
    let mut sums = [0xcbf2_9ce4_8422_2325_u64; 8];
    for (number, sum) in (0_u8..).zip(sums.iter_mut()) {
        for byte in key.0.iter().chain([&number]).chain(message) {
            *sum = (*sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    sums.iter().flat_map(|sum| sum.to_be_bytes()).collect()
}

fn holds(key: &PublicKey, message: &[u8], signature: &[u8]) -> bool {
    seal(key, message) == signature
}

fn sealed(mut envelope: Envelope) -> Envelope {
    envelope.signature = base64::encode(&seal(&KEY, &envelope.message()));
    envelope
}

fn envelope() -> Envelope {
    sealed(Envelope {
        payload: base64::encode(b"{\"tenants\": []}"),
        signature: String::new(),
        signer_id: "aa".to_owned(),
        node_id: "node-1".to_owned(),
        sequence: 5,
        not_before: Timestamp(NOW.0 - 1000),
        not_after: Timestamp(NOW.0 + 1000),
    })
}

fn judged(envelope: &Envelope, last: Option<u64>) -> Result<Authentic, Rejection> {
    let keys = TrustedKeys::from([("aa".to_owned(), KEY)]);
    let surroundings = Surroundings { node_id: "node-1", keys: &keys, now: NOW, verify: &holds };
    verdict(envelope, &surroundings, last)
}

fn name(envelope: &Envelope, last: Option<u64>) -> &'static str {
    judged(envelope, last).map_or_else(|rejection| rejection.name(), |_| "accepted")
}

#[test]
fn a_signed_state_for_this_node_and_hour_is_accepted() {
    let accepted = judged(&envelope(), Some(4)).unwrap();
    assert_eq!(accepted.document, b"{\"tenants\": []}");
    assert_eq!(judged(&envelope(), None).unwrap(), accepted);
}

#[test]
fn each_reason_against_it_has_its_name() {
    let with = |change: fn(&mut Envelope)| {
        let mut changed = envelope();
        change(&mut changed);
        sealed(changed)
    };
    assert_eq!(name(&with(|one| one.node_id = "node-2".to_owned()), None), "wrong node");
    assert_eq!(name(&with(|one| one.signer_id = "bb".to_owned()), None), "unknown signer");
    assert_eq!(name(&with(|one| one.not_after = Timestamp(NOW.0 - 1)), None), "expired");
    let late = with(|one| one.not_before = NOW.plus(Seconds(301)));
    assert_eq!(name(&late, None), "not yet valid");
    assert_eq!(name(&with(|one| one.payload = "?".to_owned()), None), "malformed");
    assert_eq!(name(&with(|one| one.node_id = "n".repeat(129)), None), "malformed");
    let unsealed = Envelope { signature: "AAAA".to_owned(), ..envelope() };
    assert_eq!(name(&unsealed, None), "malformed");
    let forged = Envelope { signature: base64::encode(&[1; 64]), ..envelope() };
    assert_eq!(name(&forged, None), "bad signature");
}

#[test]
fn the_same_state_again_and_an_older_one_are_old() {
    assert_eq!(name(&envelope(), Some(5)), "old sequence");
    assert_eq!(name(&envelope(), Some(6)), "old sequence");
}

#[test]
fn a_node_whose_clock_is_a_little_behind_takes_it() {
    let early = sealed(Envelope { not_before: NOW.plus(SKEW), ..envelope() });
    assert_eq!(name(&early, None), "accepted");
}

#[test]
fn fields_cannot_be_moved_into_each_other() {
    let one = Envelope { signer_id: "aan".to_owned(), node_id: "ode-1".to_owned(), ..envelope() };
    assert_ne!(one.message(), envelope().message());
}

#[test]
fn every_flipped_bit_of_an_envelope_is_rejected() {
    let bytes = serde_json::to_vec(&envelope()).unwrap();
    for place in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        *flipped.get_mut(place / 8).unwrap() ^= 1 << (place % 8);
        let read = Envelope::read(&flipped).and_then(|envelope| judged(&envelope, Some(4)));
        assert!(read.is_err(), "bit {place}: {}", String::from_utf8_lossy(&flipped));
    }
}

proptest! {
    #[test]
    fn no_bytes_crash_the_reader(bytes: Vec<u8>) {
        let _ = Envelope::read(&bytes).map(|envelope| judged(&envelope, None));
    }

    #[test]
    fn no_envelope_crashes_the_verdict_and_none_unsealed_passes(
        payload: String, signature: String, signer in "aa|bb|.*", node_id in "node-1|.*",
        sequence: u64, from: u64, to: u64, last: Option<u64>,
    ) {
        let (not_before, not_after) = (Timestamp(from / 2), Timestamp(to));
        let one = Envelope {
            payload, signature, signer_id: signer, node_id, sequence, not_before, not_after,
        };
        prop_assert!(judged(&one, last).is_err());
    }
}
