//! The truth about one VM: a few small files and one question to Firecracker.

use std::{fs, time::Duration};

use mvm_core::{
    Error, ErrorKind,
    observed::{Ending, ExitRecord, ObservedVmm, PausedFor, Phase},
    units::Mib,
};
use mvm_shim::ProcessId;

use super::{
    api::{Api, GuestState},
    cgroup,
    fault::Act,
    place::Place,
    records::Records,
    socket::Deadline,
};

/// How long Firecracker may take to say what its guest does: microseconds when it is idle, more than
/// a second on a software CPU while eight others boot.
const ANSWER: Duration = Duration::from_secs(10);
/// How long the end of a process may take whose sockets are closed already.
const DYING: Duration = Duration::from_millis(500);

/// The live VMM of an instance; `None` when there is none.
///
/// A VMM whose API is silent is Empty only while no guest was started in it; afterwards silence
/// says nothing about the guest, and is an error.
///
/// # Errors
/// `Unavailable` when a VMM with a guest does not answer.
pub fn vmm(place: &Place) -> Result<Option<ObservedVmm>, Error> {
    let records = Records::at(place);
    let Some(id) = records.vmm()? else { return Ok(None) };
    let Some(process) = id.open().act("look at the VMM")? else { return Ok(None) };
    let phase = match phase(place, records) {
        Ok(phase) => phase,
        // What dies while it is asked did not fall silent. Its sockets close before it is gone.
        Err(_) if process.wait(DYING).act("look at the VMM")? => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Some(ObservedVmm {
        origin: records.origin()?,
        phase,
        pid: id.pid,
        resident_kib: resident_kib(id),
    }))
}

/// Checks that there is a VMM to act on.
///
/// # Errors
/// `Conflict` when there is none: trying again cannot help.
pub fn require(place: &Place) -> Result<(), Error> {
    let id = Records::at(place).vmm()?;
    let process = id.map(|id| id.open().act("look at the VMM")).transpose()?.flatten();
    match process {
        Some(_) => Ok(()),
        None => Err(Error::new(ErrorKind::Conflict, format!("{} has no VMM", place.instance))),
    }
}

/// How the last VMM ended: as the shim recorded, or unseen when records are all that is left.
///
/// # Errors
/// I/O errors.
pub fn exit(place: &Place, is_anything_alive: bool) -> Result<Option<ExitRecord>, Error> {
    let records = Records::at(place);
    let recorded = records.exit()?;
    if recorded.is_some() || is_anything_alive || !records.is_there()? {
        return Ok(recorded);
    }
    Ok(Some(ExitRecord::of(Ending::Unseen)))
}

fn phase(place: &Place, records: Records<'_>) -> Result<Phase, Error> {
    let deadline = Deadline::after(ANSWER);
    match Api::connect(place, deadline).and_then(|mut api| api.state(deadline)) {
        Ok(GuestState::NotStarted) => Ok(Phase::Empty),
        Ok(GuestState::Running) => Ok(Phase::Running),
        Ok(GuestState::Paused) => {
            Ok(Phase::Paused(records.paused_for()?.unwrap_or(PausedFor::Warm)))
        }
        Err(error) if error.kind == ErrorKind::Unavailable => {
            Ok(if records.started()? { Phase::Silent } else { Phase::Empty })
        }
        Err(error) => Err(error),
    }
}

/// Whether something of a VM lives that is no known VMM: a shim, or a process in its cgroup.
///
/// # Errors
/// I/O errors.
pub fn shim(place: &Place, vmm: Option<&ObservedVmm>) -> Result<bool, Error> {
    let records = Records::at(place);
    Ok(records.is_shim_alive()? || vmm.is_none() && cgroup::is_populated(&place.cgroup)?)
}

/// What the VMM has in memory and in swap, guest included: an upper bound of what its guest touched.
///
/// # Errors
/// `Conflict` when there is none.
pub fn held(place: &Place) -> Result<Mib, Error> {
    let id = Records::at(place).vmm()?;
    let status = id.map(|id| fs::read_to_string(format!("/proc/{}/status", id.pid)));
    held_in(&status.and_then(Result::ok).unwrap_or_default())
        .ok_or_else(|| Error::new(ErrorKind::Conflict, format!("{} has no VMM", place.instance)))
}

/// `VmRSS` and `VmSwap` of a process's status; none when it has no memory any more.
fn held_in(status: &str) -> Option<Mib> {
    let field = |name: &str| {
        let mut values = status.lines().filter_map(|line| line.strip_prefix(name));
        values.next()?.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    };
    let kib = field("VmRSS:")? + field("VmSwap:").unwrap_or(0);
    Some(Mib(u32::try_from(kib.div_ceil(1024)).unwrap_or(u32::MAX)))
}

/// 0 when it cannot be read: the process may just have ended.
fn resident_kib(id: ProcessId) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/statm", id.pid)).unwrap_or_default();
    let pages: u64 =
        text.split_ascii_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * (rustix::param::page_size() as u64 / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_was_swapped_out_is_held_too() {
        let status = "Name:\tfc\nVmPeak:\t  99 kB\nVmRSS:\t    2048 kB\nVmSwap:\t    1025 kB\n";
        assert_eq!(held_in(status), Some(Mib(4)));
        assert_eq!(held_in("Name:\tfc\nState:\tZ (zombie)\n"), None);
    }
}
