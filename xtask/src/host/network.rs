//! Several hosts on one wire: a bridge in a network namespace of the task's own.
//!
//! Needs root. A link is cut with `ip -n <namespace> link set t<n> nomaster`; the namespace's name
//! is in the environment of a task as printed on standard error.

use std::process::Command;

use super::machine::{Lifetime, Peers};
use super::payload::Payload;
use super::settle::Place;
use super::test_host::{HostFiles, Starting, TestHost};
use crate::error::Result;
use crate::tool;

/// A network namespace with a bridge; gone when dropped.
struct Wire {
    namespace: String,
}

/// Hosts that can reach each other as `host1` … `hostN`; they have no way out.
pub(crate) struct Group {
    hosts: Vec<TestHost>,
    /// Dropped after the hosts, which live in it.
    _wire: Wire,
}

impl Group {
    /// Resumes `count` hosts side by side.
    pub(crate) fn resume(files: &HostFiles, payload: &Payload, count: usize) -> Result<Self> {
        let wire = Wire::create(count)?;
        eprintln!("xtask: {count} hosts in network namespace {}", wire.namespace);
        let mut starting: Vec<Starting> = Vec::new();
        for index in 1..=count {
            let peers = Peers::Tap { namespace: wire.namespace.clone(), tap: format!("t{index}") };
            let place = Place { index, of: count };
            starting.push(TestHost::start(files, payload, place, peers, Lifetime::Task)?);
        }
        let hosts = starting.into_iter().map(Starting::finish).collect::<Result<_>>()?;
        Ok(Self { hosts, _wire: wire })
    }

    /// The host that commands run on.
    pub(crate) fn first(&self) -> Option<&TestHost> {
        self.hosts.first()
    }
}

impl Wire {
    fn create(count: usize) -> Result<Self> {
        sweep();
        let wire = Self { namespace: format!("mvmx-{}", std::process::id()) };
        tool::silent(&mut tool::command(&["ip", "netns", "add", &wire.namespace]))?;
        wire.ip(&["link", "set", "lo", "up"])?;
        wire.ip(&["link", "add", "wire", "type", "bridge"])?;
        wire.ip(&["link", "set", "wire", "up"])?;
        for index in 1..=count {
            let tap = format!("t{index}");
            wire.ip(&["tuntap", "add", &tap, "mode", "tap"])?;
            wire.ip(&["link", "set", &tap, "master", "wire", "up"])?;
        }
        Ok(wire)
    }

    fn ip(&self, words: &[&str]) -> Result<()> {
        tool::silent(tool::command(&["ip", "-n", &self.namespace]).args(words))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let _best_effort = tool::silent(&mut delete(&self.namespace));
    }
}

/// Removes namespaces whose task is gone; their names end in its pid.
fn sweep() {
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return };
    for entry in entries.filter_map(std::result::Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) = name.strip_prefix("mvmx-") else { continue };
        if !std::path::Path::new("/proc").join(pid).exists() {
            let _best_effort = tool::silent(&mut delete(&name));
        }
    }
}

fn delete(namespace: &str) -> Command {
    tool::command(&["ip", "netns", "del", namespace])
}
