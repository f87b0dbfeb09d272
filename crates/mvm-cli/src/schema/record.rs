//! What is recorded of tenants, pools and instances, as it is called and meant.

use mvm::{
    Counts, Failure, Grant, Instance, Integration, MatchRule, NetId, Network, Pool, Quotas,
    Resources, Revision, Rolling, Route, RoutingTable, RuntimePolicy, Subnet, Taken, Target,
    Tenant, TenantId, TenantSecrets, Usage, VolumeFate, VolumeKind, VolumePlan,
};
use serde_json::Value;

use super::{Definitions, Described, Fields, describe, named, words};

describe!(Resources, "Resources", "The size of one instance.", {
    vcpus: "Virtual CPUs.",
    mem_mib: "Memory in MiB.",
    data_disk_mib: "Data disk in MiB; 0 for none.",
} or absent {
    disk_iops: "Most operations per second of the data disk.",
    disk_mbps: "Most MB per second of the data disk.",
    net_mbps: "Most MB per second of the network, each way.",
});

words!(VolumeKind, "VolumeKind", "How a data volume lies on the host's disk.", [Plain, Luks]);
words!(
    VolumeFate,
    "VolumeFate",
    "What becomes of a destroyed instance's volume.",
    [Delete, Keep, Wipe]
);

describe!(VolumePlan, "VolumePlan", "What is recorded of an instance's data volume.", {
    kind: "How it lies on disk.",
    is_told: "Whether the audit log says that it was made.",
    is_growing: "Whether it has a new size that its guest was not given yet.",
    fate: "What becomes of it when the instance is destroyed.",
    kept_as: "The name under which it is being kept.",
    joining: "The kept volume that it shall be made from.",
});

describe!(Counts, "Counts", "How many instances there shall be.", {
    running: "Available: running, or parked by the policy.",
    warm: "Held in memory, paused, in addition.",
    sleeping: "Held on disk, in addition.",
});

describe!(RuntimePolicy, "RuntimePolicy", "Waiting times of a pool's instances.", {
    min_running_seconds: "Shortest time in Running before policy may act.",
    min_warm_seconds: "Shortest time in Warm before policy may act.",
    drain_timeout_seconds: "How long a guest may take to drain before sleep is forced.",
    graceful_shutdown_seconds: "How long a guest may take to shut down before it is killed.",
});

describe!(Quotas, "Quotas", "A tenant's limits.", {
    max_vcpus: "Sum of vCPUs of running and warm instances.",
    max_mem_mib: "Sum of their memory in MiB.",
    max_running: "Running instances.",
    max_warm: "Warm instances.",
    max_pools: "Pools.",
    max_instances_per_pool: "Instances of one pool.",
    max_disk_gib: "Disk of volumes and snapshots in GiB.",
});

describe!(Usage, "Usage", "What instances cost.", {
    vcpus: "vCPUs of running and warm instances.",
    mem_mib: "Their memory in MiB.",
    running: "Running instances.",
    warm: "Warm instances.",
    disk_mib: "Disk of volumes and snapshots in MiB.",
});

impl Described for Network {
    fn schema(definitions: &mut Definitions) -> Value {
        named(definitions, "Network", |definitions| {
            let mut fields = Fields::new("A tenant's network.");
            fields.add("tenant", "Whose it is.", TenantId::schema(definitions));
            fields.add("tenant_net_id", "Its number.", NetId::schema(definitions));
            fields.add("ipv4_subnet", "Its addresses.", Subnet::schema(definitions));
            fields.finish()
        })
    }
}

describe!(TenantSecrets, "TenantSecrets", "What is recorded of a tenant's secrets; no value.", {
    epoch: "Rises with every set and rotation.",
    count: "How many there are.",
    source: "Where they came from.",
    updated_at: "When, in milliseconds since 1970-01-01 UTC.",
});

describe!(Grant, "Grant", "What an instance gets of its tenant's secrets.", {
    epoch: "The oldest epoch that it may be left with; 0 for none.",
    delivered: "The oldest epoch that its guest can have, while it runs.",
    scopes: "What it sees of them; everything when empty.",
});

describe!(Tenant, "TenantRecord", "What is recorded of a tenant.", {
    tenant_id: "Its id.",
    network: "Its network.",
    quotas: "Its limits.",
    keyed: "Whether it has a key; without one its snapshots are plain.",
    rotating: "Whether its key is being replaced.",
    secrets: "What is known of its secrets; null without any.",
    policy: "What is decided for it without being asked.",
    destroying: "Whether it is being destroyed.",
    created_at: "When it was created, in milliseconds since 1970-01-01 UTC.",
    generation: "Counts the changes of the record.",
});

describe!(Revision, "Revision", "One build of a pool.", {
    image: "Its image.",
    built_at: "When it was built, in milliseconds since 1970-01-01 UTC.",
} or absent {
    source: "What it was built from.",
});

describe!(Integration, "Integration", "What of a workload keeps state of its own.", {
    name: "Its name.",
    critical: "Whether the guest stays awake when it cannot be saved.",
} or absent {
    checkpoint_cmd: "What saves it before a sleep.",
    restore_cmd: "What restores it after a wake.",
});

describe!(RoutingTable, "RoutingTable", "Where a pool's gateways lead to.", {
    routes: "The routes; of those that match the narrowest wins.",
});

describe!(Route, "Route", "Where some of the traffic goes.", {
    name: "Its name.",
    match_rule: "Which traffic.",
    target: "Where to.",
});

describe!(MatchRule, "MatchRule", "Which traffic; what is absent matches everything.", {
} or absent {
    port: "The port that it arrives at; 8080 if absent.",
    path_prefix: "The first segments of the path.",
    source_cidr: "The addresses that it comes from.",
});

describe!(Target, "Target", "Where a route leads.", {
    pool_id: "The pool, of the same tenant.",
    instance_selector: "Which of its available instances.",
} or absent {
    target_port: "The port there; the one that the traffic arrived at if absent.",
});

describe!(Pool, "PoolRecord", "What is recorded of a pool.", {
    pool: "Its address.",
    source: "What its next build is made from.",
    profile: "The profile of the source.",
    role: "What its instances are for.",
    instance_resources: "The size of new instances.",
    desired_counts: "How many there shall be.",
    runtime_policy: "Waiting times of new instances.",
    secret_scopes: "What its instances see of the tenant's secrets; everything when empty.",
    integrations: "What of its workload keeps state of its own.",
    routing_table: "Where its gateways lead to; null without one.",
    policy: "What is decided for it without being asked.",
    revisions: "Its builds, newest first.",
    destroying: "Whether it is being destroyed.",
    created_at: "When it was created, in milliseconds since 1970-01-01 UTC.",
    generation: "Counts the changes of the record.",
} or absent {
    rolled_back_to: "The build that a rollback made current; the newest is while this is absent.",
    rolling: "The roll that is under way, or was interrupted.",
});

describe!(Rolling, "Rolling", "A roll that is not over.", {
    to: "The build that instances get.",
    from: "The build that the pool returns to when that one does not become ready.",
    taken: "The instances that were taken so far, in order.",
} or absent {
    failed: "Why it is being taken back; absent while it goes forward.",
});

describe!(Taken, "Taken", "An instance that a roll replaces or has replaced.", {
    instance: "Which.",
    is_ready: "Whether it was ready long enough.",
} or absent {
    warm: "Who had it Warm, if it was; it becomes so again.",
});

describe!(Failure, "Failure", "Why an instance stopped by itself.", {
    at: "When it was noticed, in milliseconds since 1970-01-01 UTC.",
    reason: "Why, for people.",
});

describe!(Instance, "InstanceRecord", "What is recorded of an instance.", {
    instance: "Its address.",
    network: "Its network.",
    offset: "Its place in the network.",
    uid: "Its user and group on this host.",
    resources: "Its size.",
    publish: "The host's ports that lead to it.",
    role: "What it is for.",
    policy: "Its waiting times.",
    integrations: "What of its workload keeps state of its own.",
    compression: "How its snapshots are packed.",
    routing_table: "Where it leads to; null without one.",
    image: "The image that it boots; null while Created.",
    keyed: "Whether its snapshots are sealed.",
    volume: "What is recorded of its data volume.",
    secrets: "What it gets of its tenant's secrets.",
    state: "Its state.",
    want: "What is asked of it.",
    drain: "Whether the guest is asked before it sleeps.",
    epoch: "How often it ran.",
    parked_by: "Who parked it, while Warm or Sleeping.",
    manual_override_until: "Until when policy and counts leave it alone.",
    last_failure: "Why it stopped by itself, until it runs again.",
    failures: "How often in a row it failed.",
    created_at: "When it was created, in milliseconds since 1970-01-01 UTC.",
    state_since: "Since when it is in its state.",
    boot: "The boot of the host in which it last ran.",
    generation: "Counts the changes of the record.",
});
