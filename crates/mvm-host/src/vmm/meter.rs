//! What is measured of an instance: its cgroup, its tap, its files, its workload's last word.
//!
//! Counters are the kernel's; an instance without a process has none. The file with the workload's
//! word belongs to the instance's user, so it is read with suspicion.

use std::{fs::File, io::Read, path::Path};

use mvm_core::{
    Error,
    instance::Instance,
    layout::{self, data},
    meter::{Meter, Paging, WorkerState},
};
use mvm_shim::record::{OUT, WORKER};
use rustix::fs::{Mode, OFlags, open};

use super::{cgroup, pager, place::Place};
use crate::{
    disk::{snapshot, stock::allocated},
    roots::Roots,
};

/// The longest word of a workload.
const WORD_MAX: u64 = 64;

/// The figures of an instance.
///
/// # Errors
/// When its files cannot be looked at.
pub fn of(roots: &Roots, instance: &Instance) -> Result<Meter, Error> {
    let id = &instance.instance;
    let place = Place::of(roots, &id.instance);
    let tap = Path::new("/sys/class/net").join(layout::tap(instance.network.net, instance.offset));
    // What the host receives from the tap is what the guest sent.
    let count = |name: &str| number(&tap.join("statistics").join(name));
    Ok(Meter {
        cpu_usec: cpu(&place.cgroup.join("cpu.stat")),
        memory_bytes: number(&place.cgroup.join("memory.current")),
        memory_max_bytes: if cgroup::is_there(&place)? {
            cgroup::memory_max(&place)?.unwrap_or(0)
        } else {
            0
        },
        net_rx_bytes: count("tx_bytes"),
        net_tx_bytes: count("rx_bytes"),
        net_rx_packets: count("tx_packets"),
        net_tx_packets: count("rx_packets"),
        volume_bytes: allocated(&roots.data.join(data::volume(id)))?,
        snapshot_bytes: snapshot::allocated(roots, id)?,
        log_bytes: allocated(&roots.data.join(data::logs(id)))?,
        worker: worker(&place.records.join(OUT).join(WORKER)),
        paging: paging(&place),
    })
}

/// None also when the page server does not answer: figures are not worth an error.
fn paging(place: &Place) -> Option<Paging> {
    let answer = pager::stats(place).ok().flatten()?;
    Some(Paging {
        faults: answer.stats.faults,
        snapshot_pages: answer.delta,
        brought_pages: answer.stats.delta_pages,
        prefetched_pages: answer.stats.prefetched,
        base_pages: answer.stats.base_pages,
        zero_pages: answer.stats.zero_pages,
        returned_pages: answer.stats.removed,
    })
}

fn number(path: &Path) -> u64 {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

fn cpu(path: &Path) -> u64 {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut values = text.lines().filter_map(|line| line.strip_prefix("usage_usec "));
    values.next().and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

fn worker(path: &Path) -> Option<WorkerState> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = open(path, flags, Mode::empty()).ok()?;
    let mut word = String::new();
    File::from(file).take(WORD_MAX).read_to_string(&mut word).ok()?;
    serde_json::from_value(serde_json::Value::from(word.trim())).ok()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;

    #[test]
    fn a_workloads_word_is_read_and_nonsense_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(WORKER);
        assert_eq!(worker(&path), None);
        for (word, state) in [
            ("busy", Some(WorkerState::Busy)),
            ("melting", Some(WorkerState::Unknown)),
            ("", Some(WorkerState::Unknown)),
        ] {
            std::fs::write(&path, word).unwrap();
            assert_eq!(worker(&path), state, "{word}");
        }
    }

    #[test]
    fn processor_time_is_one_line_of_many() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cpu.stat");
        std::fs::write(&path, "usage_usec 1234\nuser_usec 1000\n").unwrap();
        assert_eq!((cpu(&path), cpu(Path::new("/nonexistent"))), (1234, 0));
    }
}
