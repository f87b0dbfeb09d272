//! What the commands of a fleet print.

use mvm::{
    Acceptance, Envelope, LoggedEvent,
    api::{self, InstanceRow, Moved, NodeFigures, NodeInfo, Pass, Role, TenantRow},
};

use serde_json::Value;

use super::{Definitions, Described, Shape, describe, words};
use crate::show::{
    Approval, Certificate, Invited, PushedTo, Request, RevokedList, RevokedOne, Signer, Step, Would,
};

/// The commands of a fleet that print a document, by their files' names.
pub(super) fn shape(name: &str) -> Option<Shape> {
    let question = |result: fn(&mut Definitions) -> Value| Some(Shape { result, plan: None });
    let planned =
        |result: fn(&mut Definitions) -> Value| Some(Shape { result, plan: Some(Would::schema) });
    match name {
        "agent-certs-status" => question(Vec::<Certificate>::schema),
        "agent-certs-init" => planned(Vec::<Step>::schema),
        "agent-certs-request" => planned(Request::schema),
        "agent-certs-install" | "agent-certs-rotate" => planned(Certificate::schema),
        "add-host" => question(Vec::<Step>::schema),
        "coordinator-keygen" => planned(Signer::schema),
        "coordinator-sign" => question(Envelope::schema),
        "coordinator-push" => planned(Acceptance::schema),
        "coordinator-status" => question(NodeInfo::schema),
        "coordinator-list-instances" => question(Vec::<InstanceRow>::schema),
        "coordinator-list-tenants" => question(Vec::<TenantRow>::schema),
        "coordinator-stats" => question(NodeFigures::schema),
        "coordinator-events" => question(Vec::<LoggedEvent>::schema),
        "coordinator-wake" | "coordinator-sleep" => planned(Moved::schema),
        "coordinator-token" => planned(Invited::schema),
        "coordinator-approve" => planned(Approval::schema),
        "coordinator-renew" => planned(api::Certificate::schema),
        "coordinator-revoke" => planned(RevokedList::schema),
        _ => None,
    }
}

words!(
    Role,
    "CertificateRole",
    "What a certificate lets its holder be.",
    [Coordinator, Node, Observer,]
);

describe!(Would, "FleetPlan", "What would be done.", {
    act: "What.",
    subject: "With what.",
});

describe!(Step, "Step", "A step of the command.", {
    act: "What was done, or found to be there.",
    changed: "Whether anything changed.",
});

describe!(Request, "CertificateRequest", "A request for a certificate.", {
    role: "What the certificate shall let its holder be.",
    name: "Whose it shall be.",
    request: "The request, PEM.",
    file: "Where it was written.",
});

describe!(Certificate, "Certificate", "A certificate of this side.", {
    role: "What it lets its holder be; null in one of another kind.",
    name: "Whose it is.",
    subject: "Its subject, as one line.",
    issuer: "Who signed it.",
    not_before: "From when it is valid, in milliseconds since 1970-01-01 UTC.",
    not_after: "Until when.",
    serial: "Its number among those of its authority, hexadecimal.",
    fingerprint: "Its SHA-256, hexadecimal.",
    key: "The SHA-256 of its public key, hexadecimal.",
    renewal_due: "Whether half its life is over.",
});

describe!(api::Certificate, "NodeCertificate", "A certificate of a node.", {
    name: "Whose it is.",
    serial: "Its number among those of its authority, hexadecimal.",
    fingerprint: "Its SHA-256, hexadecimal.",
    not_before: "From when it is valid, in milliseconds since 1970-01-01 UTC.",
    not_after: "Until when.",
    renewal_due: "Whether half its life is over.",
});

describe!(api::Revocations, "Revocations", "A list of revoked certificates.", {
    number: "Its number; rises with each list.",
    certificates: "How many certificates are on it.",
});

describe!(Invited, "JoinToken", "A join token for one node.", {
    token: "Its text; whoever has it may become a node.",
    expires: "Until when it may be used, in milliseconds since 1970-01-01 UTC.",
    authority: "The SHA-256 of the authority's certificate, hexadecimal.",
});

describe!(Approval, "Approval", "What was approved.", {
    role: "What the holder may be.",
    name: "Who it is.",
    key: "The SHA-256 of its public key, hexadecimal.",
    certificate: "The certificate.",
    file: "Where it was written; null when the node has it.",
});

describe!(RevokedOne, "RevokedCertificate", "A revoked certificate.", {
    serial: "Its number, hexadecimal.",
    name: "Whose it is; null for one that was not signed here.",
});

describe!(PushedTo, "PushedList", "A node that the list was pushed to.", {
    node: "Its address.",
    number: "The number of the list that it has; null when it did not take it.",
    error: "Why it did not.",
});

describe!(RevokedList, "RevokedList", "The list of revoked certificates, and who has it.", {
    number: "Its number; rises with each list.",
    certificates: "How many certificates are on it.",
    revoked: "Those that were meant.",
    file: "Where it is.",
    pushed: "The nodes that it was pushed to.",
});

describe!(NodeFigures, "NodeFigures", "What a node holds.", {
    states: "Instances by state.",
    usage: "What all cost.",
    tenants: "What each tenant's cost.",
});

describe!(TenantRow, "RemoteTenant", "A tenant of a node.", {
    tenant_id: "Its id.",
    net_id: "Its net-id.",
    subnet: "Its addresses.",
    quotas: "Its limits.",
    usage: "What its instances cost.",
    pools: "How many pools it has.",
    instances: "How many instances it has.",
});

describe!(Signer, "Signer", "A key that signs desired states.", {
    signer_id: "Its id in signed states and audit logs.",
    public_key: "The public key, base64.",
    key: "Where the key is.",
    public_file: "Where the public key is, for nodes.",
});

describe!(Envelope, "Envelope", "A signed desired state.", {
    payload: "The document, base64.",
    signature: "The Ed25519 signature, base64.",
    signer_id: "Who signed.",
    node_id: "The node that it is for.",
    sequence: "Its place among the signer's states.",
    not_before: "From when it may be accepted, in milliseconds since 1970-01-01 UTC.",
    not_after: "Until when.",
});

describe!(Acceptance, "Acceptance", "That a state was accepted.", {
    signer_id: "Who signed it; null for nobody, in development.",
    sequence: "Its place among that signer's states; null when nobody signed it.",
    accepted_at: "When, in milliseconds since 1970-01-01 UTC.",
    tenants: "How many tenants it names.",
});

describe!(Pass, "Pass", "How a pass towards the desired state ended.", {
    ended_at: "When, in milliseconds since 1970-01-01 UTC.",
    failures: "What failed, and why.",
});

describe!(NodeInfo, "RemoteNode", "A node.", {
    node_id: "Its id.",
    version: "The version of its `mvm`.",
    production: "Whether it takes nothing unsigned.",
    facts: "The machine.",
    usage: "What its instances cost.",
    desired: "The state that it accepted last; null without any.",
    pass: "How its last pass towards that ended; null before the first.",
    certificate: "The certificate that it shows.",
    revocations: "The list of revoked certificates that is in force there; null before the first.",
});

describe!(InstanceRow, "RemoteInstance", "An instance of a node.", {
    instance: "Its address.",
    state: "Its true state.",
    in_flight: "Whether it is on its way to another one.",
    role: "What it is for.",
    address: "Its IPv4 address.",
    vcpus: "Its virtual CPUs.",
    mem_mib: "Its memory in MiB.",
    parked_by: "Who parked it, while Warm or Sleeping.",
    last_failure: "Why it stopped by itself.",
    state_since: "Since when it is in its state, in milliseconds since 1970-01-01 UTC.",
});

describe!(Moved, "Moved", "The state of an instance after the command.", {
    instance: "Its address.",
    state: "Its state.",
});
