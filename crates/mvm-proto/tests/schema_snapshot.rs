//! `schema/gen-1.json` holds one example of every message with every field filled in. A change of
//! the wire format shows as a diff of that file, and what was once written there must stay
//! readable. `MVM_UPDATE_SCHEMA=1 cargo test -p mvm-proto` writes it anew.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests stop at the first surprise")]
#![expect(clippy::disallowed_methods, reason = "R3 is for what is shipped")]

use std::collections::BTreeMap;
use std::path::Path;

use mvm_proto::message::{
    AttachDrive, Configure, IntegrationFailure, IntegrationState, Metrics, ProbeOutcome,
    ProbeProtocol, ProbeResult, ProbeTarget, Pty, Readiness, Ready, Status, Wake,
};
use mvm_proto::{
    Backend, Entropy, Exec, Exit, Failure, FailureKind, Generations, GuestConfig, Hello, Input,
    InstanceSelector, Integration, MacAddress, MatchRule, Message, MinRuntimePolicy,
    NetworkIdentity, Reply, Request, Route, RouteTarget, Routes, WorkerState,
};
use serde_json::Value;

fn integrations() -> Vec<Integration> {
    vec![Integration {
        name: "mail".to_owned(),
        checkpoint_cmd: Some(vec!["/bin/save".to_owned(), "-a".to_owned()]),
        restore_cmd: Some(vec!["/bin/load".to_owned()]),
        critical: true,
    }]
}

fn network() -> NetworkIdentity {
    NetworkIdentity {
        address: "10.240.1.3".parse().unwrap(),
        prefix: 24,
        gateway: Some("10.240.1.1".parse().unwrap()),
        mac: Some(MacAddress([2, 0xfc, 0, 1, 0, 3])),
        mtu: 1500,
        hostname: "i-00000001".to_owned(),
        dns: vec!["10.240.1.1".parse().unwrap()],
    }
}

fn config() -> GuestConfig {
    GuestConfig {
        instance_id: "i-00000001".to_owned(),
        pool_id: Some("web".to_owned()),
        tenant_id: "acme".to_owned(),
        role: "worker".to_owned(),
        guest_ip: Some("10.240.1.3".parse().unwrap()),
        prefix: 24,
        gateway: Some("10.240.1.1".parse().unwrap()),
        mac: Some(MacAddress([2, 0xfc, 0, 1, 0, 3])),
        mtu: 1500,
        hostname: "web-1".to_owned(),
        dns: vec!["10.240.1.1".parse().unwrap()],
        vcpus: 2,
        mem_mib: 1024,
        min_runtime_policy: MinRuntimePolicy::default(),
        secrets_epoch: 3,
        integrations: integrations(),
        ssh_authorized_keys: vec!["ssh-ed25519 AAAA person".to_owned()],
    }
}

fn routes() -> Routes {
    let route = |name: &str, instance_selector| Route {
        name: name.to_owned(),
        match_rule: MatchRule {
            port: Some(80),
            path_prefix: Some("/api".to_owned()),
            source_cidr: Some("10.240.1.0/24".to_owned()),
        },
        target: RouteTarget {
            pool_id: "web".to_owned(),
            instance_selector,
            target_port: Some(8080),
        },
    };
    let backend =
        Backend { instance_id: "i-00000001".to_owned(), ip: "10.240.1.3".parse().unwrap() };
    Routes {
        generation: 9,
        routes: vec![
            route("any", InstanceSelector::Any),
            route("one", InstanceSelector::ByIp("10.240.1.3".parse().unwrap())),
            route("least", InstanceSelector::LeastConnections),
        ],
        backends: BTreeMap::from([("web".to_owned(), vec![backend])]),
    }
}

fn drive() -> AttachDrive {
    AttachDrive { label: "mvm-data".to_owned(), path: Some("/data".to_owned()), read_only: true }
}

fn probe_target() -> ProbeTarget {
    ProbeTarget { address: "10.240.2.3".parse().unwrap(), port: 22, protocol: ProbeProtocol::Tcp }
}

fn requests() -> Vec<Request> {
    vec![
        Request::Ping {},
        Request::Status {},
        Request::SleepPrep { drain_timeout_secs: 30 },
        Request::Wake(Wake {
            wall_clock_ns: 1_790_000_000_000_000_000,
            entropy: Entropy([0xab; Entropy::LENGTH]),
            network: Some(network()),
            secrets_epoch: 3,
            generation: 7,
        }),
        Request::Checkpoint { integrations: integrations(), timeout_secs: 20 },
        Request::Restore { integrations: integrations(), timeout_secs: 20 },
        Request::IntegrationStatus {},
        Request::Exec(Exec {
            argv: vec!["sh".to_owned(), "-l".to_owned()],
            env: BTreeMap::from([("LANG".to_owned(), "C".to_owned())]),
            cwd: Some("/tmp".to_owned()),
            user: Some("nobody".to_owned()),
            pty: Some(Pty { rows: 24, cols: 80, term: "xterm".to_owned() }),
            stdin: true,
        }),
        Request::CopyIn { path: "/srv".to_owned() },
        Request::CopyOut { path: "/srv/file".to_owned() },
        Request::Configure(Box::new(Configure {
            config: config(),
            machine_id: Some("0123456789abcdef0123456789abcdef".to_owned()),
            routes: Some("{}".to_owned()),
            drives: vec![drive()],
        })),
        Request::AttachDrive(drive()),
        Request::DetachDrive { label: "mvm-data".to_owned() },
        Request::SecretsRefresh { epoch: 4 },
        Request::Routes(Box::new(routes())),
        Request::Ready(Ready {
            address: "10.240.1.3".parse().unwrap(),
            readiness: Some(Readiness::Http { port: 80, path: "/up".to_owned() }),
            timeout_ms: 2000,
        }),
        Request::Quiesce { workload: true, filesystems: true, timeout_ms: 5000 },
        Request::Thaw {},
        Request::Probe { targets: vec![probe_target()], timeout_ms: 500 },
        Request::Resize { label: "mvm-data".to_owned() },
        Request::Shutdown { grace_secs: 15 },
        Request::Metrics {},
        Request::Notify { worker: WorkerState::Idle },
    ]
}

fn replies() -> Vec<Reply> {
    vec![
        Reply::Pong {},
        Reply::Ack { success: true, detail: "done".to_owned() },
        Reply::Status(Status {
            worker: WorkerState::Busy,
            last_busy_at: Some(1_790_000_000_000),
            has_hooks: true,
            is_ready: true,
            is_configured: true,
            is_frozen: true,
            generation: 7,
            secrets_epoch: 3,
            workload_exit: Some(Exit::Code(1)),
        }),
        Reply::Integrations {
            success: false,
            failed: vec![IntegrationFailure {
                name: "mail".to_owned(),
                detail: "exit code 1".to_owned(),
                critical: true,
            }],
        },
        Reply::IntegrationStatus {
            integrations: vec![IntegrationState {
                name: "mail".to_owned(),
                has_checkpoint: true,
                checkpointed_at: Some(1_790_000_000_000),
            }],
        },
        Reply::Started { pid: 42 },
        Reply::Exit(Exit::Code(0)),
        Reply::Exit(Exit::Signal(9)),
        Reply::Copied { entries: 3, bytes: 1000 },
        Reply::Probe {
            results: vec![ProbeResult { target: probe_target(), outcome: ProbeOutcome::Silent }],
        },
        Reply::Metrics(Metrics {
            cpu_total_ms: 1,
            cpu_idle_ms: 2,
            mem_total_kib: 3,
            mem_available_kib: 4,
            net_rx_bytes: 5,
            net_tx_bytes: 6,
            load_milli: [7, 8, 9],
            uptime_ms: 10,
            processes: 11,
        }),
    ]
}

fn inputs() -> Vec<Input> {
    vec![Input::InputClosed {}, Input::Signal { signal: 15 }, Input::Resize { rows: 50, cols: 132 }]
}

fn messages() -> Vec<Message> {
    let hello = Message::Hello(Hello {
        generations: Generations::SUPPORTED,
        version: "0.1.0".to_owned(),
        boot_id: "6d1cf1e5-0000-4000-8000-000000000000".to_owned(),
        instance_id: Some("i-00000001".to_owned()),
        operation: Some("0badcafe".to_owned()),
    });
    let failure = Failure::new(FailureKind::NotFound, "no program named frob");
    let mut all = vec![hello];
    all.extend(requests().into_iter().map(Message::Request));
    all.extend(inputs().into_iter().map(Message::Input));
    all.extend(replies().into_iter().map(Message::Reply));
    all.extend([Message::Error(failure), Message::Credit { bytes: 131_072 }]);
    all
}

/// Fails to compile when a variant is added, so that it gets its example above and a name here.
fn name(message: &Message) -> &'static str {
    match message {
        Message::Hello(_) => "hello",
        Message::Error(_) => "error",
        Message::Credit { .. } => "credit",
        Message::Input(input) => match input {
            Input::InputClosed {} => "input.input_closed",
            Input::Signal { .. } => "input.signal",
            Input::Resize { .. } => "input.resize",
        },
        Message::Request(request) => match request {
            Request::Ping {} => "request.ping",
            Request::Status {} => "request.status",
            Request::SleepPrep { .. } => "request.sleep_prep",
            Request::Wake(_) => "request.wake",
            Request::Checkpoint { .. } => "request.checkpoint",
            Request::Restore { .. } => "request.restore",
            Request::IntegrationStatus {} => "request.integration_status",
            Request::Exec(_) => "request.exec",
            Request::CopyIn { .. } => "request.copy_in",
            Request::CopyOut { .. } => "request.copy_out",
            Request::Configure(_) => "request.configure",
            Request::AttachDrive(_) => "request.attach_drive",
            Request::DetachDrive { .. } => "request.detach_drive",
            Request::SecretsRefresh { .. } => "request.secrets_refresh",
            Request::Routes(_) => "request.routes",
            Request::Ready(_) => "request.ready",
            Request::Quiesce { .. } => "request.quiesce",
            Request::Thaw {} => "request.thaw",
            Request::Probe { .. } => "request.probe",
            Request::Resize { .. } => "request.resize",
            Request::Shutdown { .. } => "request.shutdown",
            Request::Metrics {} => "request.metrics",
            Request::Notify { .. } => "request.notify",
        },
        Message::Reply(reply) => match reply {
            Reply::Pong {} => "reply.pong",
            Reply::Ack { .. } => "reply.ack",
            Reply::Status(_) => "reply.status",
            Reply::Integrations { .. } => "reply.integrations",
            Reply::IntegrationStatus { .. } => "reply.integration_status",
            Reply::Started { .. } => "reply.started",
            Reply::Exit(Exit::Code(_)) => "reply.exit.code",
            Reply::Exit(Exit::Signal(_)) => "reply.exit.signal",
            Reply::Copied { .. } => "reply.copied",
            Reply::Probe { .. } => "reply.probe",
            Reply::Metrics(_) => "reply.metrics",
        },
    }
}

fn schema() -> BTreeMap<&'static str, Value> {
    messages().iter().map(|m| (name(m), serde_json::to_value(m).unwrap())).collect()
}

fn path() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("schema/gen-1.json")
}

#[test]
fn the_wire_format_is_the_one_checked_in() {
    let now = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
    if std::env::var_os("MVM_UPDATE_SCHEMA").is_some() {
        std::fs::write(path(), &now).unwrap();
    }
    let checked_in = std::fs::read_to_string(path()).unwrap();
    assert_eq!(now, checked_in, "the wire format changed; see the head of this file");
}

#[test]
fn every_message_of_the_schema_is_read_back_as_it_was_written() {
    let checked_in: BTreeMap<String, Value> =
        serde_json::from_str(&std::fs::read_to_string(path()).unwrap()).unwrap();
    for (name, value) in checked_in {
        let message: Message =
            serde_json::from_value(value.clone()).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(serde_json::to_value(message).unwrap(), value, "{name}");
    }
}

/// Adds a field to every object but those whose single key is the tag of a message or exit.
fn add_unknown_fields(value: &mut Value, depth: usize, tags: usize) {
    match value {
        Value::Object(fields) => {
            for child in fields.values_mut() {
                add_unknown_fields(child, depth + 1, tags);
            }
            let is_tag = depth < tags
                || ["code", "by_ip", "http"].iter().any(|tag| fields.contains_key(*tag));
            let is_map = ["LANG", "web"].iter().any(|key| fields.contains_key(*key));
            if !is_tag && !is_map {
                fields.insert("a_field_of_the_future".to_owned(), Value::from(1));
            }
        }
        Value::Array(items) => {
            for item in items {
                add_unknown_fields(item, depth + 1, tags);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn a_field_of_the_future_is_ignored_at_every_level() {
    for message in messages() {
        let tags = match message {
            Message::Reply(Reply::Exit(_)) => continue,
            Message::Request(_) | Message::Reply(_) | Message::Input(_) => 2,
            Message::Hello(_) | Message::Error(_) | Message::Credit { .. } => 1,
        };
        let mut value = serde_json::to_value(&message).unwrap();
        add_unknown_fields(&mut value, 0, tags);
        assert!(value.to_string().contains("a_field_of_the_future"), "{value}");
        let read: Message = serde_json::from_value(value).unwrap();
        assert_eq!(read, message);
    }
}
