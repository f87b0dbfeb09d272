#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests stop at the first surprise"
)]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{read::*, *};
use crate::{
    pool::{Compression, OnNodeLoss, Readiness, SeccompPolicy, SleepPolicy},
    tenant::{Egress, EgressPolicy},
    units::{Gib, Mib, Seconds, Vcpus},
};

const SCHEMA: &str = include_str!("../../../../docs/formats/desired-state.json");

fn look(value: &Value) -> Result<DesiredState, Vec<String>> {
    parse(value.to_string().as_bytes(), Addressee::Anyone).map_err(|error| error.causes)
}

fn pool_json() -> Value {
    json!({
        "pool_id": "web", "image": "default",
        "instance_resources": {"vcpus": 1, "mem_mib": 128},
    })
}

fn with_pools(pools: Value) -> Value {
    json!({
        "schema_version": 1, "node_id": "local",
        "tenants": [{
            "tenant_id": "acme",
            "network": {"tenant_net_id": 3, "ipv4_subnet": "10.240.3.0/24"},
            "pools": pools,
        }],
    })
}

#[test]
fn what_is_left_out_has_the_documented_defaults() {
    let state = look(&with_pools(json!([pool_json()]))).unwrap();
    let tenant = state.tenants.first().unwrap();
    assert_eq!(tenant.quotas, Quotas::default());
    let pool = tenant.pools.first().unwrap();
    assert_eq!((pool.profile.as_str(), &pool.role), ("minimal", &Role::Worker));
    assert_eq!(pool.runtime_policy, RuntimePolicy::default());
    assert_eq!(pool.policy, PoolPolicy::default());
    assert_eq!(pool.desired_counts, Counts::default());
}

#[test]
fn everything_that_is_wrong_is_told_at_once_with_its_path() {
    let mut wrong = pool_json();
    wrong["flake_ref"] = json!("github:a/b");
    wrong["sleep_policy"] = json!({"warm_after": 1});
    wrong["instance_resources"]["mem_mib"] = json!(0);
    wrong["seccomp_policy"] = json!("loose");
    let mut document = with_pools(json!([wrong, pool_json(), pool_json()]));
    document["tenants"][0]["pools"][1]["desired_counts"] = json!({"running": 101});
    document["tenants"][0]["quotas"] = json!({"max_pools": 2});
    document["node"] = json!("x");
    let found = look(&document).unwrap_err();
    for path in [
        "node: unknown field, did you mean node_id?",
        "tenants[0].pools[0]: needs exactly one of",
        "tenants[0].pools[0].instance_resources.mem_mib: must be",
        "tenants[0].pools[0].sleep_policy.warm_after: unknown field",
        "tenants[0].pools[0].seccomp_policy: must be baseline or strict",
        "tenants[0].pools[1].desired_counts.running: must be a whole number from 0 to 100",
        "tenants[0].pools[2].pool_id: web is there twice",
        "tenants[0].pools: the pools ask for 3 (max_pools 2)",
    ] {
        assert!(found.iter().any(|one| one.starts_with(path)), "{path} is not in {found:#?}");
    }
}

#[test]
fn networks_that_meet_and_counts_over_the_quota_are_found() {
    let mut document = with_pools(json!([pool_json()]));
    let mut other = document["tenants"][0].clone();
    other["tenant_id"] = json!("other");
    other["network"]["ipv4_subnet"] = json!("10.240.0.0/16");
    other["pools"][0]["desired_counts"] = json!({"running": 9, "warm": 5, "sleeping": 3});
    document["tenants"].as_array_mut().unwrap().push(other);
    let found = look(&document).unwrap_err();
    for path in [
        "tenants[1].network.tenant_net_id: 3 is the net-id of acme already",
        "tenants[1].network.ipv4_subnet: 10.240.0.0/16 overlaps",
        "tenants[1].pools[0].desired_counts: ask for 17 instances",
        "tenants[1].pools: the pools ask for 9 (max_running 8)",
        "tenants[1].pools: the pools ask for 5 (max_warm 4)",
    ] {
        assert!(found.iter().any(|one| one.starts_with(path)), "{path} is not in {found:#?}");
    }
}

#[test]
fn a_document_for_another_node_is_found_wrong_and_local_is_for_development() {
    let read = |node: &str, production| {
        let document = json!({"schema_version": 1, "node_id": node, "tenants": []}).to_string();
        parse(document.as_bytes(), Addressee::Node { id: "n-1", production }).is_ok()
    };
    assert!(read("n-1", true) && read("local", false));
    assert!(!read("local", true) && !read("n-2", false));
}

#[test]
fn hostile_documents_are_refused() {
    let deep = "[".repeat(100_000);
    for text in [
        r#"{"schema_version": 1, "schema_version": 1}"#,
        r#"{"node_id": {"a": 1, "a": 2}}"#,
        r#"{"schema_version": 1e999}"#,
        "{\"node_id\": \"a\0b\"}",
        "",
        "[]",
        r#"{"schema_version": 1, "node_id": "local", "tenants": []} x"#,
        &deep,
    ] {
        let error = parse(text.as_bytes(), Addressee::Anyone).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
    }
    assert!(parse(b"{\"node_id\": \"\xff\"}", Addressee::Anyone).is_err());
    assert!(parse(&vec![b' '; SIZE_MAX + 1], Addressee::Anyone).is_err());
}

#[test]
fn the_published_schema_has_the_fields_of_the_types() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let keys = |at: &Value| {
        assert_eq!(at["additionalProperties"], json!(false), "unknown fields are rejected");
        let mut keys: Vec<String> = at["properties"].as_object().unwrap().keys().cloned().collect();
        keys.sort();
        keys
    };
    let sorted = |keys: &[&str]| {
        let mut keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
        keys.sort();
        keys
    };
    assert_eq!(keys(&schema), sorted(STATE));
    for (name, known) in [
        ("tenant", TENANT),
        ("network", NETWORK),
        ("quotas", QUOTAS),
        ("egress", EGRESS),
        ("pool", POOL),
        ("instance_resources", RESOURCES),
        ("desired_counts", COUNTS),
        ("runtime_policy", RUNTIME_POLICY),
        ("sleep_policy", SLEEP_POLICY),
        ("readiness", READINESS),
    ] {
        assert_eq!(keys(&schema["$defs"][name]), sorted(known), "{name}");
    }
}

fn a_pool() -> impl Strategy<Value = DesiredPool> {
    let words = ("[a-z][a-z0-9]{0,8}", 0u32..3, 0u32..2, 0u32..2, any::<[bool; 4]>());
    let sizes = (1u32..=4, 64u32..=512, prop_oneof![Just(0u32), 16u32..=64]);
    (words, sizes, 0u8..3, proptest::option::of(1u32..1000)).prop_map(
        |((name, running, warm, sleeping, flags), (vcpus, mem, disk), kind, limit)| {
            let [pinned, critical, strict, replace] = flags;
            DesiredPool {
                pool_id: name.parse().unwrap(),
                source: match kind {
                    0 => Source::Flake("github:org/app".to_owned()),
                    1 => Source::Template(name.clone()),
                    _ => Source::Image("default".to_owned()),
                },
                profile: "minimal".to_owned(),
                role: if kind == 0 { Role::Gateway } else { Role::Capability(name) },
                instance_resources: Resources {
                    vcpus: Vcpus(vcpus),
                    mem_mib: Mib(mem),
                    data_disk_mib: Mib(disk),
                    disk_iops: limit,
                    disk_mbps: None,
                    net_mbps: limit,
                },
                desired_counts: Counts { running, warm, sleeping },
                runtime_policy: RuntimePolicy {
                    min_running_seconds: Seconds(mem),
                    ..RuntimePolicy::default()
                },
                routing_table: (kind == 0).then(RoutingTable::default),
                secret_scopes: if strict { vec!["mail".parse().unwrap()] } else { Vec::new() },
                integrations: Vec::new(),
                policy: PoolPolicy {
                    sleep_policy: SleepPolicy { cpu_percent: vcpus, ..SleepPolicy::default() },
                    seccomp_policy: if strict {
                        SeccompPolicy::Strict
                    } else {
                        SeccompPolicy::Baseline
                    },
                    snapshot_compression: Compression::Zstd,
                    metadata: BTreeMap::from([("team".to_owned(), "a \"b\"".to_owned())]),
                    readiness: match kind {
                        0 => Some(Readiness::WorkerReady),
                        1 => Some(Readiness::Tcp { port: 80 }),
                        _ => Some(Readiness::Http { port: 80, path: "/up".to_owned() }),
                    },
                    on_node_loss: if replace { OnNodeLoss::Replace } else { OnNodeLoss::Keep },
                    pinned,
                    critical,
                },
            }
        },
    )
}

fn a_state() -> impl Strategy<Value = DesiredState> {
    let pools = proptest::collection::vec(a_pool(), 0..3);
    (proptest::collection::vec((pools, any::<bool>()), 0..4), any::<[bool; 2]>()).prop_map(
        |(tenants, [prune_unknown_tenants, prune_unknown_pools])| DesiredState {
            prune_unknown_tenants,
            prune_unknown_pools,
            tenants: tenants
                .into_iter()
                .zip(1u16..)
                .map(|((mut pools, pinned), n)| {
                    pools.sort_by(|one, two| one.pool_id.cmp(&two.pool_id));
                    pools.dedup_by(|one, two| one.pool_id == two.pool_id);
                    DesiredTenant {
                        tenant_id: format!("t{n}").parse().unwrap(),
                        network: DesiredNetwork {
                            tenant_net_id: NetId(n),
                            ipv4_subnet: Subnet::automatic(NetId(n)).unwrap(),
                        },
                        quotas: Quotas {
                            max_vcpus: Vcpus(64),
                            max_warm: 8,
                            max_disk_gib: Gib(101),
                            ..Quotas::default()
                        },
                        pools,
                        secrets_hash: pinned.then(|| "0f".repeat(32)),
                        policy: TenantPolicy {
                            pinned,
                            egress: pinned.then(|| Egress {
                                policy: EgressPolicy::List,
                                destinations: vec!["192.0.2.0/24".parse().unwrap()],
                                enforce_sni: true,
                            }),
                        },
                    }
                })
                .collect(),
            ..DesiredState::of("n-1")
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read_back_as_it_was(state in a_state()) {
        let text = serde_json::to_vec(&state).unwrap();
        let read = parse(&text, Addressee::Anyone).map_err(|error| error.to_string());
        prop_assert_eq!(read, Ok(state));
    }

    #[test]
    fn no_bytes_make_the_reader_fall(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        drop(parse(&bytes, Addressee::Anyone));
    }
}
