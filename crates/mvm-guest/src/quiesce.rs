//! Quiet: the workload frozen, everything synced, the data file system frozen where asked.
//!
//! The agent itself is outside the workload's cgroup and keeps answering. Whoever asks for quiet pauses
//! the VM next; one that was cut off in between never does, so a guest that goes on running thaws by
//! itself. This module refuses to know why it shall be quiet.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mvm_proto::FailureKind;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::agent::Agent;
use crate::console::say;
use crate::failure::{Context, Outcome, failure};
use crate::serve::spawn;
use crate::{drives, kernel, workload};

/// For how many moments a guest stays quiet that nobody pauses. From freeze to pause and from resume to
/// the wake word it is a moment each; a guest that thaws before its wake word would run with the random
/// pool of its snapshot.
const PATIENCE: u32 = 30;
/// Moments are counted, since the clock may jump over a pause (Firecracker before 1.16): a jump is one.
const MOMENT: Duration = Duration::from_secs(1);

/// Freezes what is asked; on failure nothing is frozen.
pub(crate) fn quiesce(
    agent: &Arc<Agent>,
    workload: bool,
    filesystems: bool,
    timeout_ms: u32,
) -> Outcome<()> {
    let _one_at_a_time = agent.change();
    let _watch = watch(agent, PATIENCE, MOMENT);
    let deadline = Instant::now() + Duration::from_millis(u64::from(timeout_ms));
    if workload && !agent.is_frozen() {
        agent.set_frozen(true);
        if let Err(error) = freeze_cgroup(&agent.places.workload, deadline) {
            agent.set_frozen(false);
            let _ = set_freeze(&agent.places.workload, false);
            return Err(error);
        }
    }
    rustix::fs::sync();
    if filesystems && !agent.is_data_frozen() && drives::device_at(&agent.places.data).is_some() {
        let frozen =
            File::open(&agent.places.data).and_then(|data| kernel::freeze_filesystem(&data));
        if let Err(error) = frozen {
            thaw_alone(agent)?;
            return Err(error).because("cannot freeze the data file system");
        }
        agent.set_data_frozen(true);
    }
    Ok(())
}

/// Undoes [`quiesce`].
pub(crate) fn thaw(agent: &Agent) -> Outcome<()> {
    let _one_at_a_time = agent.change();
    thaw_alone(agent)?;
    workload::end_drain(agent);
    Ok(())
}

/// Undoes the freeze of a sleep that was not finished, so that another one may begin; the workload
/// is not told that it may go on.
pub(crate) fn unfreeze(agent: &Agent) -> Outcome<()> {
    let _one_at_a_time = agent.change();
    thaw_alone(agent)
}

/// As [`thaw`], for who holds the agent's change lock: file systems first, then the workload.
pub(crate) fn thaw_alone(agent: &Agent) -> Outcome<()> {
    if agent.is_data_frozen() {
        File::open(&agent.places.data)
            .and_then(|data| kernel::thaw_filesystem(&data))
            .because("cannot thaw the data file system")?;
        agent.set_data_frozen(false);
    }
    if agent.is_frozen() {
        set_freeze(&agent.places.workload, false).because("cannot thaw the workload")?;
        agent.set_frozen(false);
    }
    agent.next_quiet();
    Ok(())
}

/// Thaws everything after `patience` moments, unless the guest is thawed or made quiet anew before.
fn watch(agent: &Arc<Agent>, patience: u32, moment: Duration) -> Option<JoinHandle<()>> {
    let agent = Arc::clone(agent);
    let quiet = agent.next_quiet();
    spawn("quiet", move || {
        for _ in 0..patience {
            thread::sleep(moment);
            if agent.quiet() != quiet {
                return;
            }
        }
        let _one_at_a_time = agent.change();
        if agent.quiet() != quiet {
            return;
        }
        say("nobody paused this guest: it goes on");
        match thaw_alone(&agent) {
            Ok(()) => workload::end_drain(&agent),
            Err(error) => say(&format!("it cannot: {}", error.message)),
        }
    })
}

fn set_freeze(cgroup: &Path, is_frozen: bool) -> std::io::Result<()> {
    fs::write(cgroup.join("cgroup.freeze"), if is_frozen { "1" } else { "0" })
}

fn freeze_cgroup(cgroup: &Path, deadline: Instant) -> Outcome<()> {
    if !cgroup.join("cgroup.freeze").exists() {
        return failure(FailureKind::Unsupported, "this guest has no freezer for its workload");
    }
    set_freeze(cgroup, true).because("cannot freeze the workload")?;
    wait_for_event(cgroup, "frozen 1", deadline)
}

/// Waits for a line of `cgroup.events`; the kernel reports changes as urgent data.
pub(crate) fn wait_for_event(cgroup: &Path, line: &str, deadline: Instant) -> Outcome<()> {
    let path = cgroup.join("cgroup.events");
    let events = File::open(&path).because("cannot watch the workload")?;
    loop {
        let mut text = String::new();
        let mut from_start = &events;
        std::io::Seek::rewind(&mut from_start)
            .and_then(|()| std::io::Read::read_to_string(&mut from_start, &mut text))
            .because("cannot watch the workload")?;
        if text.lines().any(|found| found == line) {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let message = format!("the workload did not become `{line}` in time");
            return failure(FailureKind::Timeout, message);
        }
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let _ = poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&timeout));
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;
    use crate::agent::Places;

    /// A guest whose workload is frozen, and the file that says so.
    fn frozen() -> (tempfile::TempDir, Arc<Agent>) {
        let cgroup = tempfile::tempdir().unwrap();
        let places = Places { workload: cgroup.path().to_owned(), ..Places::of_a_guest() };
        let agent = Arc::new(Agent::new(places, false));
        set_freeze(cgroup.path(), true).unwrap();
        agent.set_frozen(true);
        (cgroup, agent)
    }

    fn freezer(cgroup: &tempfile::TempDir) -> String {
        fs::read_to_string(cgroup.path().join("cgroup.freeze")).unwrap()
    }

    #[test]
    fn a_guest_that_nobody_pauses_goes_on_by_itself() {
        let (cgroup, agent) = frozen();
        watch(&agent, 3, Duration::from_millis(1)).unwrap().join().unwrap();
        assert_eq!((freezer(&cgroup).as_str(), agent.is_frozen()), ("0", false));
    }

    #[test]
    fn patience_with_an_earlier_quiet_does_not_end_a_later_one() {
        let (cgroup, agent) = frozen();
        let earlier = watch(&agent, 1, Duration::from_millis(50)).unwrap();
        agent.next_quiet();
        earlier.join().unwrap();
        assert_eq!((freezer(&cgroup).as_str(), agent.is_frozen()), ("1", true));
    }
}
