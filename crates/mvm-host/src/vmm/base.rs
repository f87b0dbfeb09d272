//! A guest at its start gate becomes a base, and a base becomes guests.
//!
//! ```text
//!  take: paused ─► dump ─► stored and shared ─► origin Base: what it touches from now on differs from it
//!  load: device state into the jail ─► memory mapped from the shared file ─► loaded and resumed ─► drives
//!        as they are here ─► names gone
//! ```
//! A clone maps the file privately: it owns the pages that it writes, and reads all others through the one
//! page cache of its tenant. It refuses to know who a guest is: that is told over vsock.

use mvm_core::{
    Error, ErrorKind,
    effect::Jail,
    layout,
    observed::{ObservedBase, Origin},
    units::Mib,
};

use super::{
    api::{self, Api, CALL, GuestState, MemoryBackend, NetworkOverride},
    boot, dump, jail, observe,
    place::{Place, remove_file},
    records::Records,
    snapshot,
    socket::Deadline,
    version,
};
use crate::{
    disk::{
        base::{self, Which},
        snapshot::{Header, put},
    },
    roots::Roots,
};

/// The memory, in the jail, for the time of a load.
const MEMORY: &str = "base.mem";

/// Keeps a paused guest, which is still held at its start gate, as the base of its build and size.
///
/// # Errors
/// `Conflict` when it is not paused, `Refused` when it does not fit, `Failed` with Firecracker's reason.
pub fn take(roots: &Roots, jail: &Jail) -> Result<(), Error> {
    let place = Place::of(roots, &jail.instance.instance);
    let records = Records::at(&place);
    let deadline = Deadline::after(CALL);
    if Api::connect(&place, deadline)?.state(deadline)? != GuestState::Paused {
        return Err(Error::new(ErrorKind::Conflict, format!("{} is not paused", place.instance)));
    }
    let which = Which::of_jail(roots, jail);
    let present = snapshot::present(&version::of(&place)?)?;
    if records.origin()? == Origin::Base
        || which.look(|| Ok(present.clone()))? == ObservedBase::Fits
    {
        return Ok(());
    }
    let Some(_claim) = which.claim()? else { return Ok(()) };
    let memory = jail.resources.mem_mib;
    let most: Mib = memory.min(observe::held(&place)?);
    let header = Header {
        taken_on: present,
        image: jail.image.clone(),
        memory,
        created_at: snapshot::now(),
    };
    dump::with(roots, &place, dump::Kind::Diff, (memory, most), || {
        which.store(&place.ram, header, &place.base())
    })?;
    records.set_origin(Origin::Base)?;
    records.set_diff_spent(false)
}

/// Loads a clone of the base, which runs, held at its start gate.
///
/// # Errors
/// As [`snapshot::load`]; `NotFound` when there is no base.
pub fn load(roots: &Roots, jail: &Jail) -> Result<(), Error> {
    let place = Place::of(roots, &jail.instance.instance);
    let records = Records::at(&place);
    let deadline = Deadline::after(CALL);
    let mut api = Api::connect(&place, deadline)?;
    if snapshot::is_loaded(&place, &mut api, Origin::Base, deadline)? {
        return Ok(());
    }
    let which = Which::of_jail(roots, jail);
    let vmstate = which.open(&snapshot::present(&version::of(&place)?)?, &place.base())?;
    dump::clear(&place)?;
    put(&place.mount(), dump::VMSTATE, &vmstate)?;
    jail::link(&base::memory(&place.base()), &place.root.join(MEMORY))?;
    records.set_paused_for(None)?;
    records.set_origin(Origin::Base)?;
    let identity = &jail.identity;
    let tap = layout::tap(identity.network.net, identity.offset);
    let request = api::LoadSnapshot {
        snapshot_path: "ram/vmstate",
        mem_backend: MemoryBackend { backend_type: "File", backend_path: MEMORY },
        enable_diff_snapshots: true,
        resume_vm: true,
        network_overrides: &[NetworkOverride { iface_id: boot::INTERFACE, host_dev_name: &tap }],
    };
    let loaded = api.put_within("snapshot/load", &request, Deadline::after(CALL));
    dump::clear(&place)?;
    remove_file(&place.root.join(MEMORY))?;
    loaded?;
    // An encrypted volume is smaller than a plain one of the same size.
    match jail.resources.data_disk_mib {
        Mib(0) => Ok(()),
        Mib(_) => api.refresh_drive(boot::DATA, jail::DATA_DRIVE),
    }
}
