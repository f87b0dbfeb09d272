//! Who the guest is: from the config drive at boot, or from the host when it was cloned.
//!
//! The workload starts only once the guest knows: until then it is held at the start gate, so
//! that a pool's base snapshot holds no workload with somebody else's identity. This module
//! refuses to know how drives and networks work.

use std::fs;
use std::sync::Arc;

use mvm_proto::config::{DATA_LABEL, SECRETS_LABEL};
use mvm_proto::message::{AttachDrive, Configure};
use mvm_proto::{FailureKind, GuestConfig};

use crate::agent::Agent;
use crate::console::say;
use crate::failure::{Context, Outcome, failure};
use crate::{drives, integrations, net, workload};

/// Before anybody can hear this guest: what can be done although it does not know who it is, so that a
/// clone has it done. All of it is alike in every guest of the pool; what fails is told, and tried again
/// when the guest is configured.
pub(crate) fn prepare(agent: &Agent) {
    if !is_held(agent) {
        return;
    }
    let nobody = || {
        drives::without_secrets(agent)?;
        drives::write_public(&agent.places.config.join("config.json"), b"{}\n")?;
        set_machine_id("uninitialized")?;
        net::prepare()
    };
    if let Err(error) = nobody() {
        say(&error.message);
    }
}

/// At boot: reads the config drive, mounts the others, starts the workload. Without a config
/// drive, or when the host says so on the kernel's command line, the guest waits for [`configure`].
pub(crate) fn boot(agent: &Arc<Agent>) {
    if is_held(agent) {
        say("held; waiting to be configured");
        return;
    }
    let change = agent.change();
    let config = match drives::read_config(agent) {
        Ok(config) => config,
        Err(missing) if missing.kind == FailureKind::NotFound => {
            say("no config drive; waiting to be configured");
            return;
        }
        Err(error) => {
            say(&error.message);
            return;
        }
    };
    if let Err(error) = become_instance(agent, config) {
        say(&error.message);
    }
    for label in [SECRETS_LABEL, DATA_LABEL] {
        let drive = AttachDrive { label: label.to_owned(), path: None, read_only: false };
        match drives::attach_alone(agent, &drive) {
            Err(error) if error.kind != FailureKind::NotFound => say(&error.message),
            Ok(_) | Err(_) => {}
        }
    }
    integrations::prepare(agent);
    drop(change);
    workload::start(agent);
}

/// Becomes a clone: identity and drives, then the workload.
pub(crate) fn configure(agent: &Arc<Agent>, configure: &Configure) -> Outcome<()> {
    let change = agent.change();
    let config = &configure.config;
    let json = serde_json::to_vec_pretty(config).because("cannot write the configuration")?;
    drives::write_public(&agent.places.config.join("config.json"), &json)?;
    if let Some(routes) = &configure.routes {
        drives::write_public(&agent.places.config.join(crate::routes::FILE), routes.as_bytes())?;
    }
    if let Some(id) = &configure.machine_id {
        check_machine_id(id)?;
        set_machine_id(id)?;
    }
    become_instance(agent, config.clone())?;
    for drive in &configure.drives {
        drives::attach_alone(agent, drive)?;
    }
    integrations::prepare(agent);
    drop(change);
    workload::start(agent);
    Ok(())
}

/// Whether the host holds this guest at its start gate.
fn is_held(agent: &Agent) -> bool {
    // Another init starts what it likes: there nothing can be held.
    agent.is_init && says_hold(&fs::read_to_string("/proc/cmdline").unwrap_or_default())
}

fn says_hold(cmdline: &str) -> bool {
    cmdline.split_ascii_whitespace().any(|word| word == mvm_proto::HOLD)
}

fn become_instance(agent: &Agent, config: GuestConfig) -> Outcome<()> {
    let hostname = config.effective_hostname().to_owned();
    let network = config.network();
    let keys: String = config.ssh_authorized_keys.iter().map(|key| format!("{key}\n")).collect();
    agent.set_config(config);
    if !keys.is_empty() {
        drives::write_public(&agent.places.image.join("ssh_authorized_keys"), keys.as_bytes())?;
    }
    match network {
        Some(network) => agent.take_on(&network),
        None => net::set_hostname(&hostname, None),
    }
}

fn check_machine_id(id: &str) -> Outcome<()> {
    if id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(());
    }
    failure(FailureKind::Invalid, "a machine id is 32 hex digits")
}

/// `uninitialized` is the one of a machine that has none yet: machine-id(5).
fn set_machine_id(id: &str) -> Outcome<()> {
    fs::write("/etc/machine-id", format!("{id}\n")).because("cannot write the machine id")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_word_holds_a_guest() {
        assert!(says_hold("console=ttyS0 mvm.hold\n"));
        assert!(!says_hold("console=ttyS0 mvm.holder=1 x=mvm.hold"));
    }
}
