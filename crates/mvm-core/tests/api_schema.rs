//! `schema/api-1.json` holds one example of every message of the API, with every field filled in. A change
//! of the wire format shows as a diff of that file, and what was once written there must stay readable.
//! `MVM_UPDATE_SCHEMA=1 cargo test -p mvm-core` writes it anew.
#![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
#![expect(clippy::disallowed_methods, reason = "R3 is for what is shipped")]

use std::{collections::BTreeMap, path::Path};

use mvm_core::{
    api::{
        Answer, Certificate, CertificateRequest, Code, Greeting, Hello, InstanceRow, Moved,
        NodeFigures, NodeInfo, Page, PageOf, Part, Pass, Refusal, Reply, Request, Revocations,
        TenantRow, Welcome, join,
    },
    error::{Error, ErrorKind},
    event::{Actor, Event, EventKind, LoggedEvent},
    instance::ParkedBy,
    net::NetId,
    observed::NodeFacts,
    quota::{Quotas, Usage},
    signed::{Acceptance, AcceptedState, Envelope},
    state::State,
    units::{Mib, Timestamp, Vcpus},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

fn envelope() -> Envelope {
    Envelope {
        payload: "e30=".to_owned(),
        signature: "c2lnbmF0dXJl".to_owned(),
        signer_id: "00112233445566778899aabbccddeeff".to_owned(),
        node_id: "node-00000001".to_owned(),
        sequence: 7,
        not_before: Timestamp(1000),
        not_after: Timestamp(2000),
    }
}

fn acceptance() -> Acceptance {
    Acceptance {
        signer_id: Some("00112233445566778899aabbccddeeff".to_owned()),
        sequence: Some(7),
        accepted_at: Timestamp(1500),
        tenants: 2,
    }
}

fn page() -> PageOf {
    PageOf { after: Some("acme".to_owned()), limit: 10 }
}

fn requests() -> Vec<Request> {
    let instance = || "acme/workers/i-00000001".parse().unwrap();
    let tenant = || "acme".parse().unwrap();
    vec![
        Request::ReconcileSigned { envelope: envelope(), parts: vec!["00".repeat(32)] },
        Request::Reconcile { document: "{}".to_owned() },
        Request::NodeInfo {},
        Request::NodeStats {},
        Request::TenantList { page: page() },
        Request::InstanceList { tenant: Some(tenant()), page: page() },
        Request::WakeInstance { instance: instance() },
        Request::SleepInstance { instance: instance() },
        Request::Events { tenant: tenant(), after_seq: 3, limit: 10 },
        Request::CertificateRequest {},
        Request::InstallCertificate { certificate: "PEM".to_owned() },
        Request::Revoke { list: "PEM".to_owned() },
    ]
}

fn node() -> Answer {
    Answer::Node(Box::new(NodeInfo {
        node_id: "node-00000001".to_owned(),
        version: "0.1.0".to_owned(),
        production: true,
        facts: NodeFacts::default(),
        usage: Usage::default(),
        desired: Some(acceptance()),
        pass: Some(Pass { ended_at: Timestamp(1600), failures: vec!["acme: no room".to_owned()] }),
        certificate: Some(certificate()),
        revocations: Some(Revocations { number: 2, certificates: 1 }),
    }))
}

fn certificate() -> Certificate {
    Certificate {
        name: "node-00000001".to_owned(),
        serial: "4a00112233445566778899aabbccddee".to_owned(),
        fingerprint: "00".repeat(32),
        not_before: Timestamp(1000),
        not_after: Timestamp(2000),
        renewal_due: true,
    }
}

fn event() -> LoggedEvent {
    LoggedEvent {
        seq: 4,
        event: Event {
            time: Timestamp(1000),
            tenant: "acme".parse().unwrap(),
            pool: Some("workers".parse().unwrap()),
            instance: Some("i-00000001".parse().unwrap()),
            event: EventKind::InstanceWoken,
            actor: Actor::Certificate("coordinator:boss".to_owned()),
            reason: "instance wake".to_owned(),
            detail: BTreeMap::from([("operation".to_owned(), "00000001".to_owned())]),
        },
        previous: "0".repeat(64),
        hash: "1".repeat(64),
    }
}

fn tenant() -> TenantRow {
    TenantRow {
        tenant_id: "acme".parse().unwrap(),
        net_id: NetId(3),
        subnet: "10.240.3.0/24".parse().unwrap(),
        quotas: Quotas::default(),
        usage: Usage::default(),
        pools: 1,
        instances: 2,
    }
}

fn instance() -> InstanceRow {
    InstanceRow {
        instance: "acme/workers/i-00000001".parse().unwrap(),
        state: State::Sleeping,
        in_flight: false,
        role: "worker".to_owned().try_into().unwrap(),
        address: Some("10.240.3.3".parse().unwrap()),
        vcpus: Vcpus(1),
        mem_mib: Mib(128),
        parked_by: Some(ParkedBy::Policy),
        last_failure: Some("exit status 1".to_owned()),
        state_since: Timestamp(1000),
    }
}

fn answers() -> Vec<Answer> {
    let next = || Some("acme".to_owned());
    let figures = NodeFigures {
        states: BTreeMap::from([(State::Running, 2)]),
        usage: Usage::default(),
        tenants: BTreeMap::from([("acme".parse().unwrap(), Usage::default())]),
    };
    let moved =
        Moved { instance: "acme/workers/i-00000001".parse().unwrap(), state: State::Running };
    vec![
        Answer::Accepted(acceptance()),
        node(),
        Answer::Stats(figures),
        Answer::Tenants(Page { items: vec![tenant()], next: next() }),
        Answer::Instances(Page { items: vec![instance()], next: next() }),
        Answer::Moved(moved),
        Answer::Events(Page { items: vec![event()], next: next() }),
        Answer::Requested(CertificateRequest { request: "PEM".to_owned() }),
        Answer::Certificate(certificate()),
        Answer::Revoked(Revocations { number: 2, certificates: 1 }),
    ]
}

/// Writes each value and reads it back.
fn written<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(all: &[T]) -> Value {
    for one in all {
        let text = serde_json::to_string(one).unwrap();
        assert_eq!(&serde_json::from_str::<T>(&text).unwrap(), one);
    }
    serde_json::to_value(all).unwrap()
}

fn examples() -> BTreeMap<&'static str, Value> {
    let error = Error::new(ErrorKind::Permission, "the role observer may not ask for this");
    let refusal = Refusal { code: Code::Forbidden, error: error.hint("ask somebody else") };
    let replies: Vec<Reply> =
        answers().into_iter().map(Reply::Done).chain([Reply::Refused(refusal.clone())]).collect();
    let greetings =
        [Greeting::Welcome(Welcome { generation: 1 }), Greeting::Refused(refusal.clone())];
    let state = AcceptedState { acceptance: acceptance(), document: "{}".to_owned() };
    let grant = join::Grant {
        certificate: "PEM".to_owned(),
        authority: "PEM".to_owned(),
        revocations: Some("PEM".to_owned()),
    };
    let offer = join::Offer { request: "PEM".to_owned(), proof: "AAAA".to_owned() };
    let offers = [join::Answer::Offer(offer), join::Answer::Refused(refusal.clone())];
    let joined = [join::Outcome::Joined(certificate()), join::Outcome::Refused(refusal.clone())];
    BTreeMap::from([
        ("join hello", written(&[join::Hello { proof: "AAAA".to_owned() }])),
        ("join answer", written(&offers)),
        ("join grant", written(&[grant])),
        ("join outcome", written(&joined)),
        ("hello", written(&[Hello { generations: [1, 1] }])),
        ("greeting", written(&greetings)),
        ("request", written(&requests())),
        ("part", written(&[Part { text: "e30=".to_owned() }])),
        ("reply", written(&replies)),
        ("stored state", written(&[state])),
    ])
}

#[test]
fn the_messages_are_those_of_the_schema() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema/api-1.json");
    let now = serde_json::to_string_pretty(&examples()).unwrap() + "\n";
    if std::env::var_os("MVM_UPDATE_SCHEMA").is_some() {
        std::fs::write(&path, &now).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap();
    let how = "see the diff after MVM_UPDATE_SCHEMA=1 cargo test -p mvm-core";
    assert!(kept == now, "the API changed: {how}");
}

#[test]
fn an_unknown_field_is_refused() {
    for text in [
        r#"{"generations": [1, 1], "more": 1}"#,
        r#"{"wake_instance": {"instance": "acme/workers/i-00000001", "force": true}}"#,
        r#"{"node_info": {"more": 1}}"#,
    ] {
        assert!(serde_json::from_str::<Hello>(text).is_err(), "{text}");
        assert!(serde_json::from_str::<Request>(text).is_err(), "{text}");
    }
}
