//! What Firecracker writes of a paused guest, plain and on the tmpfs, for as long as somebody stores it.
//!
//! The memory file's pages are charged to the VMM's own cgroup, which has room for one copy of its guest
//! only: hence the raised limit, for the time of the write. Plain memory never stays: not after it was
//! stored, and not after a failure. It refuses to know what is made of it.

use std::time::Duration;

use mvm_core::{Error, units::Mib};

use super::{
    api::{Api, CALL, CreateSnapshot},
    cgroup,
    place::{Place, remove_file},
    ram,
    records::Records,
    socket::Deadline,
};
use crate::{disk, roots::Roots};

/// The device state, in a private directory of the tmpfs.
pub const VMSTATE: &str = "vmstate";
/// The memory, there.
const MEM: &str = "mem";
/// How long Firecracker may take per MiB of memory, besides [`CALL`]: 1 s for 64 MiB was measured
/// on a software CPU.
const PER_MIB: Duration = Duration::from_millis(100);
/// Device state and tables that are stored besides the memory, in bytes.
const STATE_MAX: u64 = 4 << 20;

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// All of the memory.
    Full,
    /// What was touched since the last boot, load or diff.
    Diff,
}

/// Lets the VMM write its guest of `memory`, at `most` so much of it, to its directory on the tmpfs,
/// and hands that to `store`.
///
/// # Errors
/// `Refused` when it does not fit (nothing was written), `Failed` with Firecracker's reason, else what
/// `store` returned.
pub fn with<T>(
    roots: &Roots,
    place: &Place,
    kind: Kind,
    (memory, most): (Mib, Mib),
    store: impl FnOnce() -> Result<T, Error>,
) -> Result<T, Error> {
    let records = Records::at(place);
    clear(place)?;
    ram::admit(roots, most)?;
    disk::space::admit(roots, &roots.data, most.bytes() + STATE_MAX)?;
    raise_limit(place, records, most)?;
    let stored = create(place, records, kind, memory).and_then(|()| store());
    clear(place)?;
    lower_limit(place, records)?;
    stored
}

/// Removes plain memory and device state, whatever of them is there.
///
/// # Errors
/// I/O errors.
pub fn clear(place: &Place) -> Result<(), Error> {
    for directory in [&place.ram, &place.root] {
        for name in [MEM, VMSTATE] {
            remove_file(&directory.join(name))?;
        }
    }
    Ok(())
}

fn create(place: &Place, records: Records<'_>, kind: Kind, memory: Mib) -> Result<(), Error> {
    let mut api = Api::connect(place, Deadline::after(CALL))?;
    let snapshot_type = match kind {
        Kind::Full => "Full",
        Kind::Diff => "Diff",
    };
    let request =
        CreateSnapshot { snapshot_type, snapshot_path: "ram/vmstate", mem_file_path: "ram/mem" };
    records.set_diff_spent(true)?;
    api.put_within("snapshot/create", &request, Deadline::after(CALL + PER_MIB * memory.0))
}

fn raise_limit(place: &Place, records: Records<'_>, memory: Mib) -> Result<(), Error> {
    let Some(limit) = cgroup::memory_max(place)? else { return Ok(()) };
    if records.memory_max()?.is_none() {
        records.set_memory_max(Some(limit))?;
        cgroup::set_memory_max(place, limit + memory.bytes() + STATE_MAX)?;
    }
    Ok(())
}

fn lower_limit(place: &Place, records: Records<'_>) -> Result<(), Error> {
    if let Some(limit) = records.memory_max()? {
        cgroup::set_memory_max(place, limit)?;
        records.set_memory_max(None)?;
    }
    Ok(())
}
