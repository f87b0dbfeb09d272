//! The shim's own log: a line for each thing that happens to its VM, with the id of the operation
//! that started the shim.
//!
//! It refuses to know what is worth a line. Lines are short, and the log is bounded as all of them.

use std::{
    os::fd::OwnedFd,
    time::{SystemTime, UNIX_EPOCH},
};

use mvm_core::units::Timestamp;

use crate::{record::SHIM_LOG, ring::RingLog};

/// Where the shim writes.
#[derive(Debug)]
pub struct Journal {
    log: RingLog,
    instance: String,
    operation: Option<String>,
}

impl Journal {
    /// The log in the directory of logs.
    #[must_use]
    pub fn open(directory: OwnedFd, instance: &str, operation: Option<&str>) -> Self {
        Self {
            log: RingLog::open(directory, SHIM_LOG),
            instance: instance.to_owned(),
            operation: operation.map(str::to_owned),
        }
    }

    /// Adds a line.
    pub fn say(&mut self, text: &str) {
        let line = self.line(now(), text);
        self.log.append(line.as_bytes());
    }

    fn line(&self, time: Timestamp, text: &str) -> String {
        let operation = self.operation.iter().map(|id| format!("operation={id} "));
        let operation: String = operation.collect();
        let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        format!("{} {operation}instance={} {text}\n", time.rfc3339(), self.instance)
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;

    #[test]
    fn a_line_has_time_operation_and_instance_and_is_one_line() {
        let directory = tempfile::tempdir().unwrap();
        let open = || OwnedFd::from(std::fs::File::open(directory.path()).unwrap());
        let journal = Journal::open(open(), "i-00000001", Some("0badcafe"));
        assert_eq!(
            journal.line(Timestamp(0), "a\nb"),
            "1970-01-01T00:00:00Z operation=0badcafe instance=i-00000001 a b\n"
        );
        let journal = Journal::open(open(), "i-00000001", None);
        assert_eq!(journal.line(Timestamp(0), "a"), "1970-01-01T00:00:00Z instance=i-00000001 a\n");
    }
}
