//! Processes by identity: a pid together with its start time, so that a reused pid is never hit.
//!
//! Knows nothing about what the processes are.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

/// One process for ever, even after its pid went to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// The process id.
    pub(crate) pid: i32,
    /// Clock ticks since boot when it started (field 22 of `/proc/<pid>/stat`).
    pub(crate) started: u64,
}

impl Identity {
    /// The process that has this pid at the moment.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let pid = i32::try_from(pid).ok()?;
        let (state, started) = stat(pid)?;
        (state != "Z").then_some(Self { pid, started })
    }

    /// Whether this very process still runs.
    pub(crate) fn is_alive(self) -> bool {
        stat(self.pid).is_some_and(|(state, started)| state != "Z" && started == self.started)
    }

    /// Kills it and waits until it is gone, for 10 s at most.
    pub(crate) fn end(self) {
        let Some(pid) = Pid::from_raw(self.pid) else { return };
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.is_alive() && Instant::now() < deadline {
            let _gone_already = kill_process(pid, Signal::KILL);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn stat(pid: i32) -> Option<(String, u64)> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// State and start time; the command name in parentheses may itself hold spaces and parentheses.
fn parse_stat(text: &str) -> Option<(String, u64)> {
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    Some(((*fields.first()?).to_owned(), fields.get(19)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_with_parentheses_does_not_shift_the_fields() {
        let text = "7 (a) b (c) S 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4242 0";
        assert_eq!(parse_stat(text), Some(("S".to_owned(), 4242)));
    }

    #[test]
    fn a_process_with_another_start_time_is_not_the_same_process() {
        let me = Identity::of(std::process::id());
        assert!(me.is_some_and(Identity::is_alive));
        let other = me.map(|me| Identity { started: me.started + 1, ..me });
        assert!(!other.is_some_and(Identity::is_alive));
    }
}
