//! What `mvm node disk` shows.

use std::collections::BTreeMap;

use mvm::{DiskClass, DiskView, Room, TenantId};
use serde::Serialize;

use crate::render::table::{facts, table};

/// The disk of the node; what is used is in bytes.
#[derive(Debug, Serialize)]
pub(crate) struct Disk {
    #[serde(flatten)]
    pub(crate) room: Room,
    pub(crate) available_mib: u64,
    pub(crate) used_bytes: BTreeMap<DiskClass, u64>,
    pub(crate) tenants: BTreeMap<TenantId, BTreeMap<DiskClass, u64>>,
}

impl Disk {
    pub(crate) fn of(view: DiskView) -> Self {
        let found = |class| view.used.classes.get(&class).copied().unwrap_or(0);
        Self {
            available_mib: view.room.available_mib(),
            room: view.room,
            used_bytes: DiskClass::ALL.into_iter().map(|class| (class, found(class))).collect(),
            tenants: view.used.tenants,
        }
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

pub(crate) fn disk(disk: &Disk) -> String {
    let room = &disk.room;
    let mut lines = vec![
        ("Total", format!("{} MiB", room.total_mib)),
        ("Free", format!("{} MiB", room.free_mib)),
        ("Reserve", format!("{} MiB", room.reserve_mib)),
        ("Available", format!("{} MiB", disk.available_mib)),
    ];
    lines.extend(disk.used_bytes.iter().map(|(class, bytes)| (class.label(), mib(*bytes))));
    let mut text = facts(lines);
    if !disk.tenants.is_empty() {
        let row = |(tenant, classes): (&TenantId, &BTreeMap<DiskClass, u64>)| {
            let of = |class| mib(classes.get(&class).copied().unwrap_or(0));
            [
                tenant.to_string(),
                of(DiskClass::Volumes),
                of(DiskClass::Snapshots),
                of(DiskClass::Logs),
                mib(classes.values().sum()),
            ]
        };
        text.push_str("\n\n");
        text.push_str(&table(
            ["TENANT", "VOLUMES", "SNAPSHOTS", "LOGS", "ALL"],
            disk.tenants.iter().map(row).collect(),
        ));
    }
    text
}
