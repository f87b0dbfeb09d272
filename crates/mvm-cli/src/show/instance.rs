//! What `mvm instance …` shows.

use mvm::{
    Logs, Resources, State,
    units::{Timestamp, Uid},
};
use serde::Serialize;

use crate::render::table::{facts, table};

/// An instance, as `instance list` shows it.
#[derive(Debug, Serialize)]
pub(crate) struct Instance {
    pub(crate) instance: String,
    pub(crate) state: State,
    pub(crate) in_flight: bool,
    pub(crate) address: Option<String>,
    pub(crate) mac: String,
    pub(crate) uid: Uid,
    pub(crate) role: String,
    pub(crate) resources: Resources,
    pub(crate) publish: Vec<mvm::Publish>,
    pub(crate) image: Option<String>,
    pub(crate) pid: Option<u32>,
    pub(crate) resident_kib: Option<u64>,
    pub(crate) shim: bool,
    pub(crate) silent: bool,
    pub(crate) parked_by: Option<mvm::ParkedBy>,
    pub(crate) last_failure: Option<mvm::Failure>,
    pub(crate) failures: u32,
    pub(crate) manual_override_until: Option<Timestamp>,
    /// The oldest epoch of secrets that its guest can have, while it runs.
    pub(crate) secrets_epoch: u64,
    pub(crate) created_at: Timestamp,
    pub(crate) state_since: Timestamp,
}

impl Instance {
    pub(crate) fn of(view: &mvm::InstanceView) -> Self {
        let record = &view.record;
        let vmm = view.observed.vmm;
        Self {
            instance: record.instance.to_string(),
            state: record.state,
            in_flight: view.in_flight,
            address: record.address().map(|address| address.to_string()),
            mac: record.mac().to_string(),
            uid: record.uid,
            role: record.role.to_string(),
            resources: record.resources,
            publish: record.publish.clone(),
            image: record.image.as_ref().map(ToString::to_string),
            pid: vmm.map(|vmm| vmm.pid),
            resident_kib: vmm.map(|vmm| vmm.resident_kib),
            shim: view.observed.shim,
            silent: vmm.is_some_and(|vmm| vmm.is_silent()),
            parked_by: record.parked_by,
            last_failure: record.last_failure.clone(),
            failures: record.failures,
            manual_override_until: record.manual_override_until,
            secrets_epoch: record.secrets.delivered.0,
            created_at: record.created_at,
            state_since: record.state_since,
        }
    }

    fn note(&self) -> String {
        if let Some(failure) = &self.last_failure {
            return failure.reason.clone();
        }
        if self.silent {
            return "its VMM does not answer: mvm instance stop ends it".to_owned();
        }
        match (self.in_flight, self.pid, self.shim) {
            (true, _, _) => "in flight".to_owned(),
            (false, Some(_), false) => "its shim is gone".to_owned(),
            (false, _, _) => String::new(),
        }
    }
}

pub(crate) fn instances(all: &[Instance]) -> String {
    let row = |one: &Instance| {
        [
            one.instance.clone(),
            one.state.to_string(),
            one.address.clone().unwrap_or_default(),
            one.resident_kib.map_or_else(String::new, |kib| format!("{} MiB", kib / 1024)),
            one.note(),
        ]
    };
    table(["INSTANCE", "STATE", "ADDRESS", "RESIDENT", "NOTE"], all.iter().map(row).collect())
}

pub(crate) fn instance(one: &Instance) -> String {
    let or =
        |value: &Option<String>, other: &str| value.clone().unwrap_or_else(|| other.to_owned());
    let size = one.resources;
    let short = one.image.as_ref().map(|hash| hash.chars().take(12).collect());
    let process = one.pid.map_or_else(
        || "none".to_owned(),
        |pid| format!("pid {pid}, {} MiB resident", one.resident_kib.unwrap_or(0) / 1024),
    );
    facts(vec![
        ("Instance", one.instance.clone()),
        ("State", format!("{} since {}", one.state, one.state_since.rfc3339())),
        ("Address", or(&one.address, "none")),
        ("MAC", one.mac.clone()),
        ("Role", one.role.clone()),
        (
            "Size",
            format!("{} vCPU, {}, data disk {}", size.vcpus, size.mem_mib, size.data_disk_mib),
        ),
        ("Image", or(&short, "none")),
        ("User", one.uid.to_string()),
        ("Process", process),
        ("Created", one.created_at.rfc3339()),
        ("Note", one.note()),
    ])
}

pub(crate) fn logs(logs: &Logs) -> String {
    let mut text = logs.console.join("\n");
    for (name, lines) in [("VMM", &logs.vmm), ("shim", &logs.shim)] {
        if !lines.is_empty() {
            text.push_str(&format!("\n--- {name} ---\n"));
            text.push_str(&lines.join("\n"));
        }
    }
    text.trim_start_matches('\n').to_owned()
}
