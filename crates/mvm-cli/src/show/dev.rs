//! How the dev VM looks.

use mvm::{Config, Error, ErrorKind, Failure, InstanceView, State, dev::Step};
use serde::{Deserialize, Serialize};

use crate::render::table;

/// The dev VM.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Dev {
    /// None when there is none.
    pub(crate) state: Option<State>,
    pub(crate) instance: Option<String>,
    pub(crate) address: Option<String>,
    pub(crate) image: Option<String>,
    pub(crate) vcpus: Option<u32>,
    pub(crate) mem_mib: Option<u32>,
    pub(crate) data_disk_mib: Option<u32>,
    pub(crate) last_failure: Option<Failure>,
    /// What was done.
    pub(crate) steps: Vec<Step>,
}

impl Dev {
    /// The dev VM as it is.
    pub(crate) fn of(view: Option<&InstanceView>) -> Self {
        let record = view.map(|view| &view.record);
        Self {
            state: record.map(|record| record.state),
            instance: record.map(|record| record.instance.to_string()),
            address: record.and_then(|record| record.address()).map(|to| to.to_string()),
            image: record.and_then(|record| record.image.as_ref()).map(ToString::to_string),
            vcpus: record.map(|record| record.resources.vcpus.0),
            mem_mib: record.map(|record| record.resources.mem_mib.0),
            data_disk_mib: record.map(|record| record.resources.data_disk_mib.0),
            last_failure: record.and_then(|record| record.last_failure.clone()),
            steps: Vec::new(),
        }
    }

    /// Its lines, for a table of facts.
    pub(super) fn rows(&self) -> Vec<(&'static str, String)> {
        let state = self.state.map_or_else(|| "none".to_owned(), |state| state.to_string());
        let mut rows = vec![("Dev VM", state)];
        rows.extend(self.address.clone().map(|address| ("Address", address)));
        rows.extend(self.instance.clone().map(|instance| ("Instance", instance)));
        if let (Some(vcpus), Some(memory)) = (self.vcpus, self.mem_mib) {
            rows.push(("Size", format!("{vcpus} vCPU, {memory} MiB")));
        }
        rows.extend(self.last_failure.clone().map(|failure| ("Last failure", failure.reason)));
        rows
    }
}

/// The lines of the dev VM, and what was done.
pub(crate) fn dev(vm: &Dev) -> String {
    let mut rows = vm.rows();
    let done: Vec<String> = vm.steps.iter().map(ToString::to_string).collect();
    rows.push(("Done", if done.is_empty() { "nothing".to_owned() } else { done.join(", ") }));
    table::facts(rows)
}

/// What OpenSSH needs to know.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct SshConfig {
    pub(crate) host: String,
    pub(crate) host_name: String,
    pub(crate) user: &'static str,
    pub(crate) proxy_command: String,
    pub(crate) known_hosts: &'static str,
}

impl SshConfig {
    /// The block of this name.
    ///
    /// # Errors
    /// `Invalid` for a name that is more than one word.
    pub(crate) fn of(config: &Config, host: &str) -> Result<Self, Error> {
        let is_plain = |one: char| one.is_ascii_alphanumeric() || matches!(one, '-' | '_' | '.');
        if host.is_empty() || !host.chars().all(is_plain) {
            let message = format!("{host:?} is no name for a host");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let program = std::env::current_exe()
            .map_err(|error| Error::new(ErrorKind::Failed, "cannot find myself").because(&error))?;
        let words = [program.as_path(), config.data_dir.as_path()]
            .map(|path| quoted(&path.display().to_string()));
        let [program, data] = words;
        Ok(Self {
            host: host.to_owned(),
            host_name: mvm::dev::ADDRESS.to_string(),
            user: "root",
            proxy_command: format!("{program} --quiet --data-dir {data} ssh --stdio"),
            known_hosts: "/dev/null",
        })
    }
}

/// A word as a shell reads it back; `%` is OpenSSH's.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''").replace('%', "%%"))
}

/// The block, as `ssh_config(5)` has it.
pub(crate) fn ssh_config(block: &SshConfig) -> String {
    // The host key is another one after each start, and the way there leads through no network.
    format!(
        "Host {}\n    HostName {}\n    User {}\n    ProxyCommand {}\n    StrictHostKeyChecking no\n    UserKnownHostsFile {}\n    LogLevel ERROR",
        block.host, block.host_name, block.user, block.proxy_command, block.known_hosts
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_each_word_of_the_proxy_command_as_it_was() {
        assert_eq!(quoted("/a b/it's 100%"), "'/a b/it'\\''s 100%%'");
    }

    #[test]
    fn no_dev_vm_is_shown_as_none() {
        assert_eq!(dev(&Dev::of(None)), "Dev VM: none\nDone:   nothing");
    }
}
