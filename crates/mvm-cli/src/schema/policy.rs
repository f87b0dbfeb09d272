//! What the standing decisions for tenants and pools are called and mean.

use mvm::{
    Compression, Destination, Egress, EgressPolicy, OnNodeLoss, PoolPolicy, Readiness,
    SeccompPolicy, SleepPolicy, TenantPolicy,
};
use serde_json::{Value, json};

use super::{Definitions, Described, describe, leaf, named, words};

leaf! {
    Destination => { "type": "string" };
}

words!(EgressPolicy, "EgressPolicy", "Which way it is decided.", [Allow, Deny, List]);
words!(SeccompPolicy, "SeccompPolicy", "Which system calls a VMM may make.", [Baseline, Strict]);
words!(Compression, "Compression", "How a snapshot's chunks are packed.", [None, Lz4, Zstd]);
words!(OnNodeLoss, "OnNodeLoss", "What becomes of instances of a lost node.", [Keep, Replace]);

describe!(Egress, "Egress", "Where guests may send to.", {
    policy: "Which way it is decided.",
    destinations: "Where to, if that is a list.",
    enforce_sni: "Whether other sites at a listed name's address are refused.",
});

describe!(TenantPolicy, "TenantPolicy", "What is decided for a tenant without being asked.", {
    pinned: "Never stopped or put to sleep by policy.",
} or absent {
    egress: "Where its guests may send to; anywhere outside if absent.",
});

describe!(SleepPolicy, "SleepPolicy", "When an idle instance is paused and put to disk.", {
    warm_after_seconds: "How long it must have been idle to become Warm.",
    sleep_after_seconds: "How long it must have been idle to go to sleep.",
    cpu_percent: "Below this load of its vCPUs it is idle.",
    net_bytes: "Below this many bytes in the interval it is idle.",
});

describe!(PoolPolicy, "PoolPolicy", "What is decided for a pool without being asked.", {
    sleep_policy: "When idle instances sleep.",
    seccomp_policy: "How the VMM is confined.",
    snapshot_compression: "How snapshots are packed.",
    metadata: "Names and texts; they have no meaning here.",
    on_node_loss: "What becomes of its instances when their node is lost.",
    pinned: "Never stopped or put to sleep by policy.",
    critical: "Never touched by policy.",
} or absent {
    readiness: "When an instance is ready to serve; as soon as its agent answers if absent.",
});

impl Described for Readiness {
    fn schema(definitions: &mut Definitions) -> Value {
        let _: fn(&Self) = |one| match one {
            Self::WorkerReady | Self::Tcp { port: _ } | Self::Http { port: _, path: _ } => {}
        };
        named(definitions, "Readiness", |definitions| {
            json!({
                "description": "What an instance must show to be ready.",
                "type": "object",
                "properties": {
                    "kind": { "type": "string", "enum": ["worker_ready", "tcp", "http"] },
                    "port": u16::schema(definitions),
                    "path": { "type": "string" },
                },
                "required": ["kind"],
                "additionalProperties": false,
            })
        })
    }
}
