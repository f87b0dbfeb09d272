//! What commands print, and which command prints what.

use mvm::{
    AuditFile, AuditReport, CopyReport, Error, LoggedEvent, Logs, NetReport, OperationId, Origin,
    Outcome, Preview, Rebuilt, Recovered, Setting, Volume,
};
use serde_json::{Value, json};

use super::{Definitions, Described, Fields, Shape, describe, named, words};
use crate::{
    commands::guest::Would,
    show::{
        Dashboard, Disk, DiskFigures, Fleet, HealthFigures, ImageFile, ImageMade, Instance,
        MemoryFigures, NetworkFigures, Node, Pool, Secrets, Stats, Tenant,
    },
};

/// What is printed instead of a result when a command fails.
pub(super) struct Failure;

impl Described for Failure {
    fn schema(definitions: &mut Definitions) -> Value {
        let error = Error::schema(definitions);
        let operation = OperationId::schema(definitions);
        named(definitions, "ErrorDocument", |_| {
            json!({
                "description": "What is printed instead when the command fails.",
                "type": "object",
                "properties": { "error": error, "operation": operation },
                "required": ["error"],
                "additionalProperties": false,
            })
        })
    }
}

/// Every command that prints a document, by its file's name.
pub(super) fn shape(name: &str) -> Option<Shape> {
    let question = |result: fn(&mut Definitions) -> Value| Some(Shape { result, plan: None });
    match name {
        "connect" => question(Dashboard::schema),
        "tenant-list" => question(Vec::<Tenant>::schema),
        "tenant-info" => question(Tenant::schema),
        "tenant-secrets-list" => question(Secrets::schema),
        "pool-list" => question(Vec::<Pool>::schema),
        "pool-info" => question(Pool::schema),
        "instance-list" => question(Vec::<Instance>::schema),
        "instance-info" => question(Instance::schema),
        "instance-logs" => question(Logs::schema),
        "instance-stats" => question(Stats::schema),
        "agent-desired" => question(desired_state),
        // It serves until it is told to stop, and prints only why it cannot.
        "agent-serve" => question(Failure::schema),
        "events" => question(events),
        "config-ls" => question(Vec::<Setting>::schema),
        "node-rebuild" => question(Rebuilt::schema),
        "node-info" => question(Node::schema),
        "node-stats" => question(Fleet::schema),
        "node-disk" => question(Disk::schema),
        "volume-list" => question(Vec::<Volume>::schema),
        "volume-info" => question(Volume::schema),
        "net-verify" => question(NetReport::schema),
        "instance-cp" => Some(Shape { result: CopyReport::schema, plan: Some(Would::schema) }),
        "instance-exec" | "instance-ssh" | "instance-console" => question(Would::schema),
        "tenant-create"
        | "tenant-update"
        | "tenant-destroy"
        | "tenant-secrets-set"
        | "tenant-secrets-rotate"
        | "pool-create"
        | "pool-update"
        | "pool-build"
        | "pool-rollback"
        | "pool-roll"
        | "pool-scale"
        | "pool-gc"
        | "pool-destroy"
        | "node-gc"
        | "instance-create"
        | "instance-start"
        | "instance-stop"
        | "instance-warm"
        | "instance-sleep"
        | "instance-wake"
        | "instance-destroy"
        | "instance-publish"
        | "instance-unpublish"
        | "instance-update"
        | "tenant-key-rotate"
        | "agent-reconcile"
        | "new"
        | "deploy"
        | "volume-remove" => Some(Shape { result: Outcome::schema, plan: Some(Preview::schema) }),
        _ => super::template::shape(name)
            .or_else(|| super::fleet::shape(name))
            .or_else(|| super::machine::shape(name)),
    }
}

/// The desired state is also written by people and other programs, so that its schema is a file of
/// its own, which is tested against the reader; here it is what the command prints.
fn desired_state(definitions: &mut Definitions) -> Value {
    const FILE: &str = include_str!("../../../../docs/formats/desired-state.json");
    let mut schema = serde_json::from_str::<Definitions>(FILE).unwrap_or_default();
    if let Some(Value::Object(parts)) = schema.remove("$defs") {
        definitions.extend(parts);
    }
    for key in ["$schema", "$id", "title"] {
        schema.remove(key);
    }
    named(definitions, "DesiredState", |_| Value::Object(schema))
}

/// The entries, or with `--verify` what a look at the logs found.
fn events(definitions: &mut Definitions) -> Value {
    let entries = Vec::<LoggedEvent>::schema(definitions);
    json!({ "anyOf": [entries, Vec::<AuditReport>::schema(definitions)] })
}

words!(Origin, "Origin", "Where a value comes from.", [Flag, Environment, File, Default]);

describe!(Setting, "Setting", "A setting as it is in force.", {
    name: "Its key in `config.toml`.",
    value: "Its value; null when it is not set and has no default.",
    origin: "Where the value comes from.",
    variable: "The environment variable that sets it, if one does.",
});

describe!(AuditFile, "AuditFile", "One file of an exported audit log.", {
    name: "Its name in the tenant's directory or in the archive.",
    first_seq: "Its first entry; 0 when it is empty.",
    last_seq: "Its last entry; 0 when it is empty.",
});

describe!(AuditReport, "AuditReport", "What a look at one audit log found.", {
    tenant: "Whose log.",
    last_seq: "The last entry, as anchored.",
    last_hash: "The hash of the last entry, as anchored.",
    first_stored_seq: "The first entry that is in the store.",
    files: "The exported files, oldest first.",
    unexported: "How many entries the files lack until the next event.",
    problems: "Where the chain breaks; empty when it is whole.",
} or absent {
    archive: "Where the archived log of a destroyed tenant is.",
});

describe!(Recovered, "Recovered", "An instance in the new store.", {
    instance: "Its address.",
    state: "Its state.",
} or absent {
    note: "What the machine showed otherwise than its file.",
});

describe!(Rebuilt, "Rebuilt", "What is, or would be, in the new store.", {
    reason: "Why the old store was given up.",
    tenants: "The tenants.",
    pools: "How many pools.",
    instances: "The instances.",
    volumes: "The kept volumes.",
    events: "How many audit entries.",
    lost: "What could not be recovered, and why.",
} or absent {
    kept: "Where the old store is now.",
});

describe!(Tenant, "Tenant", "A tenant.", {
    tenant_id: "Its id.",
    network: "Its network.",
    gateway: "The address of its bridge.",
    quotas: "Its limits.",
    usage: "What its instances cost.",
    pools: "How many pools it has.",
    instances: "How many instances it has.",
    keyed: "Whether it has a key; without one its snapshots are plain.",
    secrets: "What is known of its secrets; null without any.",
    destroying: "Whether it is being destroyed.",
    created_at: "When it was created, in milliseconds since 1970-01-01 UTC.",
});

describe!(Secrets, "Secrets", "A tenant's secrets; no value.", {
    tenant: "Whose.",
    epoch: "Rises with every set and rotation; 0 before the first.",
    keys: "Their keys, sorted.",
    source: "Where they came from: a file's name, or standard input; null before the first.",
    updated_at: "When, in milliseconds since 1970-01-01 UTC; null before the first.",
    sealed: "Whether the tenant's key seals them.",
});

describe!(Dashboard, "Dashboard", "A deployment at a glance.", {
    tenant: "Its tenant.",
    bridge: "The bridge of its network.",
    pools: "Its pools, gateways first.",
    instances: "Its instances.",
});

describe!(Pool, "Pool", "A pool.", {
    pool: "Its address.",
    source: "What its next build is made from.",
    profile: "The profile of the source.",
    role: "What its instances are for.",
    instance_resources: "The size of new instances.",
    runtime_policy: "Waiting times of new instances.",
    desired_counts: "How many instances there shall be.",
    secret_scopes: "What its instances see of the tenant's secrets; everything when empty.",
    integrations: "What of its workload keeps state of its own.",
    routing_table: "Where its gateways lead to; null without one.",
    current: "The hash of the image that starts use; null without a build.",
    revisions: "Its builds, newest first.",
    states: "Its instances by state.",
    created_at: "When it was created, in milliseconds since 1970-01-01 UTC.",
} or absent {
    readiness: "When an instance is ready to serve; as soon as its agent answers if absent.",
    rolling: "The roll that is under way, or was interrupted.",
});

describe!(Instance, "Instance", "An instance as it is.", {
    instance: "Its address.",
    state: "Its true state.",
    in_flight: "Whether it is on its way to another one.",
    address: "Its IPv4 address.",
    mac: "Its Ethernet address.",
    uid: "Its user and group on the host.",
    role: "What it is for.",
    resources: "Its size.",
    publish: "The host's ports that lead to it.",
    image: "The hash of the image that it boots.",
    pid: "The VMM's pid on the host.",
    resident_kib: "The VMM's resident memory in KiB.",
    shim: "Whether its shim lives.",
    silent: "Whether its VMM lives and does not answer.",
    parked_by: "Who parked it, while Warm or Sleeping.",
    last_failure: "Why it stopped by itself.",
    failures: "How often in a row it failed.",
    manual_override_until: "Until when policy and counts leave it alone.",
    secrets_epoch: "The oldest epoch of secrets that its guest can have, while it runs.",
    created_at: "When it was created, in milliseconds since 1970-01-01 UTC.",
    state_since: "Since when it is in its state.",
});

impl Described for Node {
    fn schema(definitions: &mut Definitions) -> Value {
        let _: fn(&Self) = |one| {
            let Self {
                node_id: _,
                facts: _,
                agent: _,
                off: _,
                bridges: _,
                firewall: _,
                host: _,
                attestation: _,
                usage: _,
            } = one;
        };
        named(definitions, "Node", |definitions| {
            let mut fields = Fields::new("This node.");
            fields.add("node_id", "Its id.", String::schema(definitions));
            fields.add("agent", "Whether an agent serves.", bool::schema(definitions));
            let off = "What does not happen because no agent serves.";
            fields.add("off", off, Vec::<String>::schema(definitions));
            fields.add("bridges", "How many tenants have a bridge.", usize::schema(definitions));
            let firewall = "Which generation of the firewall is in force; null when none is.";
            fields.add("firewall", firewall, Option::<u64>::schema(definitions));
            fields.add(
                "host",
                "Where guests run: on this machine itself.",
                String::schema(definitions),
            );
            let attestation = "Which provider attests this node; null without one.";
            fields.add("attestation", attestation, Option::<String>::schema(definitions));
            fields.add("usage", "What all instances cost.", mvm::Usage::schema(definitions));
            let facts = mvm::NodeFacts::schema(definitions);
            fields.flatten(&facts, definitions);
            fields.finish()
        })
    }
}

describe!(ImageMade, "ImageMade", "An image that is in the image store.", {
    image: "Its hash.",
} or absent {
    file: "The file that it was written into.",
});

describe!(ImageFile, "ImageFile", "A file with an image.", {
    path: "As it was asked for.",
    sha256: "Its digest.",
    size: "Its length in bytes.",
});

describe!(Would, "GuestPlan", "What would be done inside a guest.", {
    act: "What.",
    instance: "Where.",
    what: "With what.",
});

describe!(Stats, "Stats", "What an instance does and takes.", {
    instance: "Its address.",
    state: "Its state.",
    state_since: "Since when, in milliseconds since 1970-01-01 UTC.",
    cpu_percent: "Processor time of the moment; 100 is one CPU.",
    cpu_seconds: "Processor time since the VMM's start.",
    vcpus: "Its virtual CPUs.",
    memory: "Memory.",
    network: "Network, seen from the guest.",
    disk: "Disk that is allocated.",
    paging: "How its memory comes to it; null of one that booted.",
    idle_seconds: "For how long it has had nothing to do; null while that is not known.",
    worker: "What its workload says.",
    guest: "What its agent measures; null when it does not answer.",
    health: "Who is there.",
});

describe!(MemoryFigures, "MemoryFigures", "Memory of an instance.", {
    size_bytes: "What the guest was given.",
    guest_used_bytes: "What is in use inside the guest; null when its agent does not answer.",
    resident_bytes: "What is resident on the host.",
    charged_bytes: "What its cgroup is charged.",
    limit_bytes: "The limit of that.",
});

describe!(NetworkFigures, "NetworkFigures", "Network of an instance.", {
    rx_bytes: "Bytes received.",
    tx_bytes: "Bytes sent.",
    rx_packets: "Packets received.",
    tx_packets: "Packets sent.",
});

describe!(DiskFigures, "DiskFigures", "Disk of an instance.", {
    volume_bytes: "Its data volume.",
    snapshot_bytes: "Its snapshots.",
    snapshots: "How many those are.",
    log_bytes: "Its logs.",
});

describe!(mvm::Paging, "Paging", "What the page server of a woken instance did, in pages of 4 KiB.", {
    faults: "Faults that the guest waited for.",
    snapshot_pages: "Pages of its snapshot that are not those of the base.",
    brought_pages: "Pages of those that were brought.",
    prefetched_pages: "Pages of those that were brought before anybody asked.",
    base_pages: "Pages that came from the base.",
    zero_pages: "Pages that were zero.",
    returned_pages: "Pages that the guest gave back.",
});

describe!(HealthFigures, "HealthFigures", "Who of an instance is there.", {
    vmm: "Its VMM.",
    shim: "Its shim.",
    agent: "The agent in the guest.",
    last_failure: "Why it stopped by itself, until it runs again.",
});

describe!(Fleet, "Fleet", "What all instances of the node hold and take.", {
    total: "All tenants together.",
    tenants: "Each tenant by its id.",
});
