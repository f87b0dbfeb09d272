//! Bytes that mean harm, by the hundred thousand: whatever decodes them says no, and does not fall.
//!
//! Good messages of every kind are altered by a seeded generator (or are made of nothing but chance) and given
//! to every decoder that a stranger reaches, and one in fifty to a live session. `MVM_HOSTILE_CASES` says how
//! many there are (100,000 unless told otherwise), `MVM_HOSTILE_SEED` where they begin.

use std::panic::{AssertUnwindSafe, catch_unwind};

use mvm_core::{
    api::{Part, join},
    desired::{self, Addressee},
    signed::{self, Surroundings, TrustedKeys},
    units::Seconds,
};
use serde::{Serialize, de::DeserializeOwned};

use super::*;
use crate::{
    certs::{Revoked, SigningRequest, Token, facts_of},
    keys::{self, SigningKey, Terms},
};

const CASES: u64 = 100_000;
/// Of so many cases one goes over the network.
const LIVE: u64 = 50;
/// Who is connected, each with its own rate; the server has room for 64.
const CALLERS: u64 = 48;

/// Numbers that look like chance (`splitmix64`).
struct Chance(u64);

impl Chance {
    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit.max(1) as u64).unwrap()
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let length = self.below(most);
        (0..length).map(|_| self.next().to_le_bytes()[0]).collect()
    }

    /// One to four alterations.
    fn alter(&mut self, good: &[u8], other: &[u8]) -> Vec<u8> {
        let mut bytes = good.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            let length = self.below(16) + 1;
            let end = (at + length).min(bytes.len());
            match self.below(7) {
                0 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << (length % 8)),
                1 => drop(bytes.splice(at..end, self.bytes(length))),
                2 => drop(bytes.drain(at..end)),
                3 => bytes.truncate(at),
                4 => {
                    let again = bytes.get(at..end).unwrap_or_default().to_vec();
                    drop(bytes.splice(at..at, again));
                }
                5 => {
                    let from = self.below(other.len());
                    let piece = other.iter().skip(from).take(length * 8).copied();
                    drop(bytes.splice(at..end, piece));
                }
                _ => {
                    let word =
                        [&b"null"[..], b"-1", b"1e999", b"\"", b"{", b"[[[[[[[[", b"\\u0000"];
                    let word = word.get(self.below(7)).copied().unwrap_or_default();
                    drop(bytes.splice(at..at, word.iter().copied()));
                }
            }
        }
        bytes
    }
}

const STATE: &str = r#"{"schema_version": 1, "node_id": "a-node", "tenants": [{"tenant_id": "acme",
 "network": {"tenant_net_id": 3, "ipv4_subnet": "10.240.3.0/24"}, "quotas": {"max_vcpus": 8, "max_mem_mib": 2048,
 "max_running": 4, "max_warm": 4, "max_pools": 2, "max_instances_per_pool": 8, "max_disk_gib": 10},
 "pools": [{"pool_id": "workers", "image": "default", "instance_resources": {"vcpus": 1, "mem_mib": 128},
 "desired_counts": {"running": 1, "warm": 0, "sleeping": 1}, "routing_table": {"routes": [{"name": "all",
 "match_rule": {"port": 80, "path_prefix": "/a", "source_cidr": "10.0.0.0/8"},
 "target": {"pool_id": "workers", "instance_selector": "any", "target_port": 8080}}]}}]}]}"#;

/// What strangers are given, and what the good ones of it are.
struct Range {
    bench: Bench,
    keys: TrustedKeys,
    envelope: Envelope,
    list: Revoked,
    authority: Identity,
    corpus: Vec<Vec<u8>>,
    callers: Vec<Rude>,
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap()
}

fn frames(envelope: &Envelope, request: &str, list: &str) -> Vec<Vec<u8>> {
    let instance = || "acme/workers/i-00000001".parse().unwrap();
    let whole = Request::ReconcileSigned { envelope: envelope.clone(), parts: Vec::new() };
    let all = [
        Request::Reconcile { document: STATE.to_owned() },
        Request::WakeInstance { instance: instance() },
        Request::SleepInstance { instance: instance() },
        Request::Events { tenant: "acme".parse().unwrap(), after_seq: 3, limit: 10 },
        Request::InstallCertificate { certificate: request.to_owned() },
        Request::Revoke { list: list.to_owned() },
        whole,
    ];
    let proof = "A".repeat(44);
    let offer = join::Offer { request: request.to_owned(), proof: proof.clone() };
    let (certificate, authority) = (request.to_owned(), request.to_owned());
    let grant = join::Grant { certificate, authority, revocations: Some(list.to_owned()) };
    let said = [json(&Hello { generations: [1, 1] }), json(&join::Hello { proof })];
    let said = said.into_iter().chain([json(&offer), json(&grant), json(envelope)]);
    let said = said.chain([json(&Part { text: "QUJD".to_owned() })]);
    all.iter().map(json).chain(said).collect()
}

impl Range {
    fn new() -> Self {
        let bench = Bench::new();
        let place = bench.directory.path().to_owned();
        let registry = Registry::open(&place, None).unwrap();
        let key = SigningKey::make(&place.join("signing.key")).unwrap();
        let keys = TrustedKeys::from([(keys::signer_id(&key.public()), key.public())]);
        let terms = Terms { now: now(), sequence: Some(7), valid: Seconds(86_400) };
        let envelope = key.sign(STATE.as_bytes(), "a-node", &terms);
        let request = certs::request(&place, Role::Node, "a-node").unwrap();
        let (list, _) = registry.revoke("aabbccdd", now()).unwrap();
        let token = registry.invite(Seconds(60), now()).unwrap();
        let mut corpus = frames(&envelope, &request, &list.pem());
        corpus.extend([request, list.pem(), token.text().to_string()].map(String::into_bytes));
        corpus.push(STATE.as_bytes().to_vec());
        let authority = identity(&place, Role::Node);
        corpus.push(authority.chain.first().unwrap().to_vec());
        let callers = (0..CALLERS).map(|number| {
            let eye = signed_by(&registry, Role::Observer, &format!("eye-{number}"), &authority);
            Rude::connect_as(&bench, &eye).greets()
        });
        let callers = callers.collect();
        Self { bench, keys, envelope, list, authority, corpus, callers }
    }

    fn bytes(&self, chance: &mut Chance) -> Vec<u8> {
        if chance.below(8) == 0 {
            return chance.bytes(300);
        }
        let mut pick = || self.corpus.get(chance.below(self.corpus.len())).unwrap();
        let (good, other) = (pick(), pick());
        chance.alter(good, other)
    }

    /// Every decoder, and what is asked of what it lets through.
    fn decode(&self, bytes: &[u8]) {
        stable::<Request>(bytes);
        stable::<Reply>(bytes);
        stable::<Greeting>(bytes);
        stable::<join::Grant>(bytes);
        stable::<join::Answer>(bytes);
        let _ = wire::decode::<Hello>(bytes);
        let _ = wire::decode::<Part>(bytes);
        let _ = wire::decode::<join::Hello>(bytes);
        let _ = wire::decode::<join::Outcome>(bytes);
        if let Some(header) = bytes.first_chunk::<4>() {
            assert!(
                wire::length(*header, FRAME_MAX).is_ok_and(|size| size <= FRAME_MAX)
                    || u32::from_be_bytes(*header) as usize > FRAME_MAX
            );
        }
        let _ = desired::parse(bytes, Addressee::Anyone);
        if let Ok(envelope) = Envelope::read(bytes) {
            self.judge(&envelope);
        }
        if let Ok(text) = std::str::from_utf8(bytes) {
            let _ = text.parse::<Token>();
            let _ = SigningRequest::read(text);
            if let Ok(list) = Revoked::read(text, &self.authority.authorities) {
                assert_eq!(list, self.list, "a list that the authority did not sign");
            }
        }
        let _ = facts_of(&bytes.to_vec().into(), now());
    }

    fn judge(&self, envelope: &Envelope) {
        let (keys, verify): (_, signed::Verify<'_>) = (&self.keys, &keys::verify);
        let surroundings = Surroundings { node_id: "a-node", keys, now: now(), verify };
        if let Ok(authentic) = signed::authentic(envelope, &surroundings) {
            assert_eq!(*envelope, self.envelope, "what nobody signed is authentic");
            assert_eq!(authentic.document, STATE.as_bytes());
        }
    }

    /// A stream of a session that was made by the rules.
    fn say(&self, turn: u64, bytes: &[u8]) {
        let rude = self.callers.get(usize::try_from(turn % CALLERS).unwrap()).unwrap();
        // The length is right, one too many or too few.
        let length = u32::try_from(bytes.len()).unwrap();
        let header = match turn / CALLERS % 4 {
            0 => length.saturating_add(1).to_be_bytes(),
            1 => length.saturating_sub(1).to_be_bytes(),
            _ => length.to_be_bytes(),
        };
        let said: Reply = rude.say(&[&header, bytes].concat());
        if let Reply::Done(answer) = said {
            assert!(matches!(answer, Answer::Stats(_)), "{answer:?}");
        }
    }
}

/// What is read is what was meant: written and read again it is the same.
fn stable<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    if let Ok(value) = wire::decode::<T>(bytes) {
        assert_eq!(wire::decode::<T>(&json(&value)), Ok(value));
    }
}

#[expect(clippy::disallowed_methods, reason = "R3: how long this test runs is asked of outside")]
fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn hostile_bytes_are_obeyed_by_nothing_and_crash_nothing() {
    let range = Range::new();
    let (seed, cases) = (number("MVM_HOSTILE_SEED", 1), number("MVM_HOSTILE_CASES", CASES));
    for case in 0..cases {
        let mut chance = Chance(seed.wrapping_mul(0x1_0000_0001).wrapping_add(case));
        let bytes = range.bytes(&mut chance);
        let fell = catch_unwind(AssertUnwindSafe(|| range.decode(&bytes))).is_err();
        assert!(!fell, "seed {seed}, case {case}: {:?}", String::from_utf8_lossy(&bytes));
        if case % LIVE == 0 {
            range.say(case / LIVE, &bytes);
        }
    }
    let asked = std::mem::take(&mut *range.bench.node.asked.lock().unwrap());
    let may = |(_, request): &(Caller, Request)| Role::Observer.may(request);
    assert!(asked.iter().all(may), "what an observer may not ask came to the node");
    assert!(range.bench.is_well());
}
