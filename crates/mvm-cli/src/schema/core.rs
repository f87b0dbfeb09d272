//! What the library's own types are called and mean: words, results and what is seen of a host.

use mvm::{
    Acted, Actor, Assignment, BootId, Change, Cidr, CopyReport, Deferral, Drain, Error, ErrorKind,
    EventKind, Failed, Finding, GroupStats, GuestMetrics, ImageHash, Instance, InstanceId,
    InstanceRef, LoggedEvent, Logs, Made, NetId, NodeFacts, Offset, OperationId, Outcome, ParkedBy,
    Pool, PoolId, PoolRef, Preview, Removal, Role, Scope, SecretsSource, Selector, Source, State,
    Step, Subnet, Template, Tenant, TenantId, TenantSecrets, VmmVersion, VolumeId, Want,
    WorkerState,
    units::{Generation, Gib, Mib, Seconds, Timestamp, Uid, Vcpus},
};
use serde_json::{Value, json};

use super::{Definitions, Described, Fields, describe, leaf, named, words};

leaf! {
    TenantId => { "type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$" };
    PoolId => { "type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$" };
    VolumeId => { "type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$" };
    InstanceId => { "type": "string", "pattern": "^i-[0-9a-f]{8}$" };
    PoolRef => { "type": "string", "pattern": "^[a-z0-9-]+/[a-z0-9-]+$" };
    InstanceRef => { "type": "string", "pattern": "^[a-z0-9-]+/[a-z0-9-]+/i-[0-9a-f]{8}$" };
    OperationId => { "type": "string", "pattern": "^[0-9a-f]{8}$" };
    VmmVersion => { "type": "string", "pattern": "^[0-9]{1,5}\\.[0-9]{1,5}\\.[0-9]{1,5}$" };
    ImageHash => { "type": "string", "pattern": "^[0-9a-f]{64}$" };
    Subnet => { "type": "string" };
    Role => { "type": "string" };
    BootId => { "type": "string" };
    Scope => { "type": "string" };
    NetId => { "type": "integer", "minimum": 0 };
    Offset => { "type": "integer", "minimum": 0 };
    Uid => { "type": "integer", "minimum": 0 };
    Vcpus => { "type": "integer", "minimum": 0 };
    Mib => { "type": "integer", "minimum": 0 };
    Gib => { "type": "integer", "minimum": 0 };
    Seconds => { "type": "integer", "minimum": 0 };
    Timestamp => { "type": "integer", "minimum": 0 };
    Generation => { "type": "integer", "minimum": 0 };
    Cidr => { "type": "string" };
    Selector => { "type": ["string", "object"] };
    Step => { "type": ["object", "string"] };
    Assignment => { "type": "object" };
}

words!(
    State,
    "State",
    "The state of an instance.",
    [Created, Ready, Running, Warm, Sleeping, Stopped, Destroyed,]
);
words!(
    Want,
    "Want",
    "What is asked of an instance.",
    [Idle, Running, Warm, Sleeping, Stopped, Destroyed,]
);
words!(Drain, "Drain", "Whether the guest is asked before it sleeps.", [Ask, Skip]);
words!(
    ParkedBy,
    "ParkedBy",
    "Who put an instance into Warm or Sleeping.",
    [Policy, Counts, Person]
);
words!(
    WorkerState,
    "WorkerState",
    "What a workload says about itself.",
    [Starting, Ready, Idle, Busy, Unknown,]
);
words!(
    ErrorKind,
    "ErrorKind",
    "One of the nine kinds of error, each with its exit code, 1 to 9.",
    [Failed, Usage, NotFound, Conflict, Refused, Invalid, Permission, Unavailable, Integrity,]
);

impl Described for EventKind {
    fn schema(definitions: &mut Definitions) -> Value {
        named(definitions, "EventKind", |_| {
            json!({
                "description": "What happened; the audit log's closed list, which grows.",
                "type": "string",
                "pattern": "^[A-Z][A-Za-z]+$",
            })
        })
    }
}

impl Described for Source {
    fn schema(definitions: &mut Definitions) -> Value {
        let _: fn(&Self) = |one| match one {
            Self::Image(_) | Self::Flake(_) | Self::Template(_) => {}
        };
        named(definitions, "Source", |_| {
            let one = |name: &str| single(name, json!({ "type": "string" }));
            json!({
                "description": "Where an image comes from.",
                "anyOf": [one("image"), one("flake"), one("template")],
            })
        })
    }
}

impl Described for SecretsSource {
    fn schema(definitions: &mut Definitions) -> Value {
        let _: fn(&Self) = |one| match one {
            Self::File(_) | Self::Stdin | Self::Each(_) => {}
        };
        named(definitions, "SecretsSource", |_| {
            json!({
                "description": "Where secrets come from: a file, standard input, or a place for each key.",
                "anyOf": [
                    single("file", json!({ "type": "string" })),
                    { "type": "string", "enum": ["stdin"] },
                    single("each", json!({
                        "type": "object",
                        "additionalProperties": { "anyOf": [
                            single("file", json!({ "type": "string" })),
                            single("env", json!({ "type": "string" })),
                        ] },
                    })),
                ],
            })
        })
    }
}

impl Described for Actor {
    fn schema(definitions: &mut Definitions) -> Value {
        named(definitions, "Actor", |_| {
            json!({
                "description": "Who made it happen: a user by number, the engine, or the policy.",
                "anyOf": [
                    single("uid", json!({ "type": "integer", "minimum": 0 })),
                    { "type": "string" },
                    { "type": "object" },
                ],
            })
        })
    }
}

impl Described for Made {
    fn schema(definitions: &mut Definitions) -> Value {
        let _: fn(&Self) = |one| match one {
            Self::Tenant(_)
            | Self::Secrets { .. }
            | Self::Pool(_)
            | Self::Image(_)
            | Self::Instance(_)
            | Self::Template(_)
            | Self::Key(_)
            | Self::Removed(_) => {}
        };
        let mut of_tenant = Fields::new("A tenant's secrets.");
        of_tenant.add("tenant", "Whose.", TenantId::schema(definitions));
        of_tenant.add("secrets", "What is known of them.", TenantSecrets::schema(definitions));
        let of_tenant = of_tenant.finish();
        let kinds = [
            single("tenant", Tenant::schema(definitions)),
            single("secrets", of_tenant),
            single("pool", Pool::schema(definitions)),
            single("image", ImageHash::schema(definitions)),
            single("instance", Instance::schema(definitions)),
            single("template", Template::schema(definitions)),
            single("key", TenantId::schema(definitions)),
            single("removed", String::schema(definitions)),
        ];
        named(
            definitions,
            "Made",
            |_| json!({ "description": "What was made, changed or removed.", "anyOf": kinds }),
        )
    }
}

/// An object with one field.
pub(super) fn single(name: &str, schema: Value) -> Value {
    json!({
        "type": "object",
        "properties": { name: schema },
        "required": [name],
        "additionalProperties": false,
    })
}

describe!(Change, "Change", "An instance that is in another state.", {
    instance: "Which.",
    from: "The state before; null for a new one.",
    to: "The state after.",
    events: "What happened on the way, as in the audit log.",
    duration_ms: "How long it took, in milliseconds.",
});

describe!(Deferral, "Deferral", "Something that was left alone.", {
    instance: "Which instance.",
    reason: "Why.",
});

describe!(Failed, "Failed", "Something that did not work, while the rest went on.", {
    subject: "An address.",
    error: "Why.",
});

describe!(Error, "Error", "A failure.", {
    kind: "Its kind.",
    message: "The act and its object.",
    causes: "What lay below, outermost first.",
    hints: "What can be done next.",
});

describe!(Acted, "Acted", "An operation that is a part of another one.", {
    act: "Its name, as in logs.",
    subject: "An address.",
} or absent {
    detail: "Figures and names.",
});

describe!(Removal, "Removal", "Something that nothing used.", {
    effect: "The act that removes it.",
    subject: "An address, an id or a hash.",
    bytes: "How much disk that gives back.",
});

impl Described for Outcome {
    fn schema(definitions: &mut Definitions) -> Value {
        let _: fn(&Self) = |one| {
            let Self {
                operation: _,
                made: _,
                acts: _,
                changes: _,
                deferrals: _,
                removals: _,
                notes: _,
                failures: _,
                duration_ms: _,
            } = one;
        };
        named(definitions, "Outcome", |definitions| {
            let mut fields = Fields::new("What a change did, piece by piece.");
            let text = || json!({ "type": "string" });
            let id = OperationId::schema(definitions);
            fields.add_optional("operation", "Its id, as in logs and events.", id);
            fields.add("changes", "Changes of instances.", Vec::<Change>::schema(definitions));
            fields.add("deferrals", "What was left alone.", Vec::<Deferral>::schema(definitions));
            fields.add("failures", "What did not work.", Vec::<Failed>::schema(definitions));
            fields.add("duration_ms", "How long it took.", u64::schema(definitions));
            fields.add_optional("made", "What was made.", Made::schema(definitions));
            let acts = Vec::<Acted>::schema(definitions);
            fields.add_optional("acts", "The operations that it consisted of.", acts);
            let removals = Vec::<Removal>::schema(definitions);
            fields.add_optional("removals", "What was removed as unused.", removals);
            let notes = Vec::<String>::schema(definitions);
            fields.add_optional("notes", "What a person should know.", notes);
            for name in ["tenant", "pool", "instance", "image", "template", "removed"] {
                fields.add_optional(name, "The address or hash of what was made.", text());
            }
            fields.finish()
        })
    }
}

describe!(Preview, "Plan", "What a change would do.", {
    steps: "The next steps of an instance.",
    assignments: "The changes of a pool's instances.",
    destroyed: "What would be destroyed with the subject.",
} or absent {
    made: "What would be made or changed.",
    acts: "The operations that it would consist of.",
    deferrals: "What would be left alone.",
    failures: "What would not be done.",
    removals: "What would be removed as unused.",
    notes: "What a person should know.",
});

describe!(Finding, "Finding", "Something wrong with the network.", {
    tenant: "Whose network; null when it concerns the host.",
    check: "What was checked.",
    problem: "What is wrong.",
});

describe!(Logs, "Logs", "Logs of an instance, oldest line first.", {
    console: "The guest's console.",
    vmm: "The VMM's own log.",
    shim: "The log of what watches the VMM.",
});

impl Described for LoggedEvent {
    fn schema(definitions: &mut Definitions) -> Value {
        named(definitions, "LoggedEvent", |definitions| {
            let mut fields = Fields::new("An entry of a tenant's audit log.");
            fields.add("seq", "Its place in the log, from 1.", u64::schema(definitions));
            let time = "When, in milliseconds since 1970-01-01 UTC.";
            fields.add("time", time, Timestamp::schema(definitions));
            fields.add("tenant", "Whose log.", TenantId::schema(definitions));
            fields.add("event", "What.", EventKind::schema(definitions));
            fields.add("actor", "By whom.", Actor::schema(definitions));
            fields.add("previous", "The hash of the entry before.", String::schema(definitions));
            fields.add("hash", "SHA-256 of this one.", String::schema(definitions));
            fields.add_optional("pool", "Which pool.", PoolId::schema(definitions));
            fields.add_optional("instance", "Which instance.", InstanceId::schema(definitions));
            fields.add_optional("reason", "Why, for people.", String::schema(definitions));
            let detail = json!({ "type": "object", "additionalProperties": { "type": "string" } });
            fields.add_optional("detail", "Figures and names.", detail);
            fields.finish()
        })
    }
}

describe!(NodeFacts, "NodeFacts", "What a host is and can do.", {
    boot: "Its present boot.",
    hostname: "Its name.",
    arch: "Its processor architecture.",
    kernel: "Its kernel's release.",
    vcpus: "Processors.",
    mem_mib: "Memory in MiB.",
    mem_available_mib: "Memory available now, in MiB.",
    disk_free_mib: "Free disk for state, in MiB.",
    kvm: "Whether /dev/kvm is usable.",
    kvm_detail: "How that was found out.",
    cgroup_v2: "Whether cgroup v2 with all controllers is there.",
    nftables: "Whether nft is there.",
    firecracker: "Installed Firecracker versions.",
    firecracker_new: "The one that new microVMs run.",
    jailer: "Whether the jailer is beside each.",
    dns: "Where guests' name queries go, and what is wrong with that.",
});

describe!(GroupStats, "GroupStats", "What a group of instances holds and takes.", {
    pools: "Pools.",
    states: "Instances by state.",
    vcpus: "vCPUs of running and warm instances.",
    mem_mib: "Memory promised to them, in MiB.",
    resident_kib: "Resident memory of their VMMs, in KiB.",
    volume_bytes: "Disk that data volumes take.",
    snapshots: "Snapshots that can be woken.",
    snapshot_bytes: "Disk that snapshots take.",
    log_bytes: "Disk that logs take.",
    idle: "Running instances whose workload says that it has nothing to do.",
});

describe!(GuestMetrics, "GuestMetrics", "What the guest's agent measures.", {
    cpu_total_ms: "Time of all vCPUs together.",
    cpu_idle_ms: "The idle part of it.",
    mem_total_kib: "Memory of the guest.",
    mem_available_kib: "Memory that programs could still get.",
    load_milli: "Load averages over 1, 5 and 15 minutes, in thousandths.",
    uptime_ms: "Time since boot.",
    processes: "Processes.",
    worker: "What the workload says.",
    has_hooks: "Whether it says anything at all.",
    last_busy_at_ms: "When it was last busy, by the guest's clock.",
});

describe!(CopyReport, "CopyReport", "What was copied.", {
    entries: "Files, directories and links.",
    bytes: "Bytes of file contents.",
});
