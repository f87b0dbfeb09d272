//! What the commands about the machine itself print.

use mvm::{
    dev::Step,
    doctor::{Check, Health},
    provider::{HostKind, MachineState},
    upgrade::{UpgradeAct, UpgradeReport},
};
use serde_json::{Value, json};

use super::{Definitions, Described, Fields, Shape, describe, words};
use crate::show::{Dev, ImageMade, Machine, SshConfig, Would};

/// The commands about this machine, images without a pool and dev mode that print a document.
pub(super) fn shape(name: &str) -> Option<Shape> {
    let plan: Option<fn(&mut Definitions) -> Value> = Some(Would::schema);
    Some(match name {
        "doctor" => Shape { result: Vec::<Check>::schema, plan: None },
        "bootstrap" | "setup" | "status" | "destroy" => {
            Shape { result: Machine::schema, plan: None }
        }
        "upgrade" => Shape { result: UpgradeReport::schema, plan: None },
        "build" | "image-export" | "image-import" => Shape { result: ImageMade::schema, plan },
        "start" | "dev" => Shape { result: Dev::schema, plan },
        "stop" => Shape { result: stopped, plan },
        "ssh-config" => Shape { result: SshConfig::schema, plan: None },
        "ssh" => Shape { result: crate::commands::guest::Would::schema, plan: None },
        "run" => Shape { result: Would::schema, plan: None },
        _ => return None,
    })
}

/// Of the dev VM, or with --machine of the machine.
fn stopped(definitions: &mut Definitions) -> Value {
    json!({ "anyOf": [Dev::schema(definitions), Machine::schema(definitions)] })
}

words!(Health, "Health", "How a check ended.", [Ok, Warning, Failed]);
words!(HostKind, "HostKind", "What runs microVMs.", [Native, Qemu, Lima]);
words!(
    MachineState,
    "MachineState",
    "The machine for microVMs at the moment.",
    [Absent, Stopped, Running]
);

describe!(Check, "Check", "One check of this machine.", {
    name: "What was looked at.",
    health: "The verdict.",
    found: "What was found.",
    advice: "What to do; null when all is well.",
});

words!(
    UpgradeAct,
    "UpgradeAct",
    "What became of the version here: `none` when it is the one that was asked for.",
    [None, Available, Installed, RolledBack]
);

describe!(UpgradeReport, "UpgradeReport", "What an upgrade found or did.", {
    act: "What became of the version here.",
    version: "The version that is in force.",
    asked: "The version that was asked about: that of the release, or the former one.",
    former: "The version that a rollback would bring back; null without one.",
    directory: "The directory that programs are started from.",
    restart: "Units that go on in their former version until they are restarted.",
});

words!(
    Step,
    "DevStep",
    "A step of dev mode.",
    [Bootstrap, SetUp, StartMachine, Make, Start, Wake, Stop, Enter]
);

describe!(Dev, "Dev", "The dev VM.", {
    state: "Its state; null when there is none.",
    instance: "Its address among instances.",
    address: "Its IPv4 address.",
    image: "The image that it has.",
    vcpus: "Its vCPUs.",
    mem_mib: "Its memory in MiB.",
    data_disk_mib: "The size of what its volumes lie on, in MiB; 0 without volumes.",
    last_failure: "Why it died last, if it did.",
    steps: "What was done, to the machine for microVMs first.",
});

describe!(SshConfig, "SshConfig", "What OpenSSH needs to know.", {
    host: "The name of the block.",
    host_name: "The address of the dev VM.",
    user: "Who logs in.",
    proxy_command: "What carries the connection.",
    known_hosts: "Where host keys are remembered: nowhere, since each start makes new ones.",
});

impl Described for Machine {
    fn schema(definitions: &mut Definitions) -> Value {
        let _: fn(&Self) = |one| {
            let Self {
                provider: _,
                state: _,
                problem: _,
                version: _,
                firecracker: _,
                dev: _,
                would: _,
            } = one;
        };
        super::named(definitions, "Machine", |definitions| {
            let mut fields = Fields::new("Where microVMs run.");
            let provider = Option::<HostKind>::schema(definitions);
            fields.add("provider", "What runs them; null when nothing can.", provider);
            let state = "What the machine is at the moment.";
            fields.add("state", state, MachineState::schema(definitions));
            let text = Option::<String>::schema(definitions);
            fields.add("problem", "Why nothing can run them.", text);
            fields.add("version", "The version of this program.", String::schema(definitions));
            let firecracker = "The version of Firecracker for new microVMs.";
            fields.add("firecracker", firecracker, String::schema(definitions));
            let vm = Option::<Dev>::schema(definitions);
            fields.add("dev", "The dev VM; null while it cannot be told.", vm);
            let would = "What the command would do, with --dry-run.";
            fields.add_optional("would", would, String::schema(definitions));
            fields.finish()
        })
    }
}
