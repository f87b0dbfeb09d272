//! A guest to disk and back: Firecracker's own files on the tmpfs, stored from there by
//! [`crate::disk::snapshot`].
//!
//! ```text
//!  write: what lies beneath ─► dump ─► what differs from it stored, synced
//!  load:  fits this host? ─► device state into the jail ─► page server ─► loaded paused ─► names gone
//! ```
//! Firecracker writes only the pages that were touched since the boot, the clone or the wake (a diff);
//! what a woken guest did not touch comes from the snapshot it woke from, and what a clone did not from its
//! base. Writing a diff empties Firecracker's own record of what was touched, so that a second try writes
//! everything.

use std::{collections::BTreeSet, fs, io, sync::OnceLock};

use mvm_core::{
    Error, ErrorKind,
    id::{InstanceRef, VmmVersion},
    layout,
    observed::{Origin, PausedFor, SnapshotPhase},
    pool::Compression,
    units::{Generation, Mib, Timestamp},
};
use mvm_pager::{Codec, PageFile, Woken, index::CHUNK_PAGES};

use super::{
    api::{self, Api, CALL, GuestState, MemoryBackend},
    dump,
    fault::Act,
    jail, observe, pager,
    place::{Place, remove_dir},
    records::Records,
    socket::Deadline,
    touched, version,
};
use crate::{
    disk::{
        self,
        base::{self, Shared},
        key::{self, KeyRing, TenantKey},
        snapshot,
        snapshot::{Header, Pages, Present, Written},
    },
    roots::Roots,
};

/// Writes a paused guest as a partial snapshot.
///
/// # Errors
/// `Refused` when it does not fit (nothing was written), `Conflict` when the guest is not paused
/// for sleep, `Failed` with Firecracker's reason.
pub fn write(
    roots: &Roots,
    instance: &InstanceRef,
    epoch: Generation,
    memory: Mib,
    keyed: bool,
    compression: Compression,
) -> Result<(), Error> {
    let place = Place::of(roots, &instance.instance);
    let records = Records::at(&place);
    if records.paused_for()? != Some(PausedFor::Sleep) {
        let message = format!("{} is not paused for sleep", instance.instance);
        return Err(Error::new(ErrorKind::Conflict, message));
    }
    if snapshot::phases(roots, instance)?.get(&epoch).is_some_and(|p| *p != SnapshotPhase::Partial)
    {
        let message = format!("the snapshot {} of {} is there", epoch.0, instance.instance);
        return Err(Error::new(ErrorKind::Conflict, message));
    }
    sync_volume(roots, instance)?;
    let codec = match compression {
        Compression::None => Codec::None,
        Compression::Lz4 => Codec::Lz4,
        Compression::Zstd => Codec::Zstd,
    };
    let ring = keyed.then(|| key::ring(roots, &instance.tenant)).transpose()?;
    let source = source(roots, instance, records, ring.as_ref())?;
    let header = Header {
        taken_on: present(&version::of(&place)?)?,
        image: jail::image_of(&place)?,
        memory,
        created_at: now(),
    };
    let base = Shared::open(&place.base())?;
    let mut wanted = wanted(&place, records)?;
    if let Some(base) = &base {
        wanted = base.advise(roots, wanted)?;
    }
    let (kind, most) = match source {
        Source::All => (dump::Kind::Full, memory),
        Source::Touched(_) => (dump::Kind::Diff, memory.min(observe::held(&place)?)),
    };
    dump::with(roots, &place, kind, (memory, most), || {
        let woke_from = match &source {
            Source::Touched(Some(pages)) => Some(Woken { file: Some(&**pages) }),
            Source::Touched(None) if base.is_some() => Some(Woken { file: None }),
            Source::All | Source::Touched(None) => None,
        };
        let base = base.as_ref();
        let written = Written { ram: &place.ram, base, woke_from, wanted: &wanted, codec };
        let key = ring.as_ref().map(KeyRing::newest);
        snapshot::store(roots, instance, epoch, &written, key, header)
    })
}

/// The pages that the guest will want first at its next wake: those that were brought at this one and that
/// it used. Where the kernel tells of none, all that were brought.
fn wanted(place: &Place, records: Records<'_>) -> Result<Vec<u32>, Error> {
    let brought = pager::working_set(place)?;
    let (Some(vmm), false) = (records.vmm()?, brought.is_empty()) else { return Ok(brought) };
    let used = touched::of(vmm.pid, &pager::regions(place)?, &brought);
    match used {
        Ok(used) if !used.is_empty() => Ok(used_chunks(&brought, &used)),
        Ok(_) => Ok(brought),
        Err(error) => {
            tracing::debug!(instance = %place.instance, %error, "the kernel does not tell what was used");
            Ok(brought)
        }
    }
}

/// What was brought, without what came together and of which nothing was used: a page that is used now and
/// then often has neighbours that are used each time, and a fault costs as much as a chunk.
fn used_chunks(brought: &[u32], used: &[u32]) -> Vec<u32> {
    let used: BTreeSet<u32> = used.iter().copied().collect();
    let together = brought.chunks(CHUNK_PAGES);
    together.filter(|some| some.iter().any(|page| used.contains(page))).flatten().copied().collect()
}

/// Of what a snapshot is made.
enum Source {
    /// All of the guest's memory, as the VMM has it.
    All,
    /// What was touched, over what the guest woke from, if it did.
    Touched(Option<Box<PageFile>>),
}

fn source(
    roots: &Roots,
    instance: &InstanceRef,
    records: Records<'_>,
    ring: Option<&KeyRing>,
) -> Result<Source, Error> {
    if records.is_diff_spent()? {
        return Ok(Source::All);
    }
    let epoch = match records.origin()? {
        Origin::Boot | Origin::Base => return Ok(Source::Touched(None)),
        Origin::Snapshot(epoch) => epoch,
    };
    let woke_from = with_key(ring, |key| snapshot::retired_pages(roots, instance, epoch, key))
        .and_then(|pages| pages.map(Pages::read).transpose());
    match woke_from {
        Ok(Some(pages)) => Ok(Source::Touched(Some(Box::new(pages)))),
        Ok(None) => Ok(Source::All),
        // Its page server holds it open and has its key.
        Err(error) if error.kind == ErrorKind::Integrity => {
            tracing::warn!(%instance, %error, "what it woke from cannot be read: all of it is written");
            Ok(Source::All)
        }
        Err(error) => Err(error),
    }
}

/// Opens with the newest key, or with the one before it: while the tenant gets another key, that may be
/// what sealed a snapshot.
fn with_key<T>(
    ring: Option<&KeyRing>,
    open: impl Fn(Option<&TenantKey>) -> Result<T, Error>,
) -> Result<T, Error> {
    match (open(ring.map(KeyRing::newest)), ring.and_then(KeyRing::older)) {
        (Err(error), Some(older)) if error.kind == ErrorKind::Integrity => open(Some(older)),
        (opened, _) => opened,
    }
}

/// Memory and disk belong together: what the guest wrote is durable before its snapshot is.
fn sync_volume(roots: &Roots, instance: &InstanceRef) -> Result<(), Error> {
    let file = roots.data.join(layout::data::volume(instance));
    // First the device of an encrypted one: what it holds back is in the file only then.
    for path in [disk::volume::device(&instance.instance), file] {
        let what = format_args!("sync {}", path.display());
        match fs::File::open(&path) {
            Ok(file) => file.sync_all().act(what)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).act(what),
        }
    }
    Ok(())
}

/// Loads a published snapshot; the vCPUs stay paused.
///
/// # Errors
/// `Conflict` when it was taken on something else than this host is now, `Integrity` when it is
/// not what was written, `Refused` when it does not fit; `Failed` with Firecracker's reason, and
/// the VMM is of no use then.
pub fn load(roots: &Roots, instance: &InstanceRef, epoch: Generation) -> Result<(), Error> {
    let place = Place::of(roots, &instance.instance);
    let records = Records::at(&place);
    let deadline = Deadline::after(CALL);
    let mut api = Api::connect(&place, deadline)?;
    if is_loaded(&place, &mut api, Origin::Snapshot(epoch), deadline)? {
        return Ok(());
    }
    check(&place, &snapshot::header(roots, instance, epoch)?)?;
    dump::clear(&place)?;
    let ring = match key::exists(roots, &instance.tenant)? {
        true => Some(key::ring(roots, &instance.tenant)?),
        false => None,
    };
    let into = place.mount();
    let opened = with_key(ring.as_ref(), |key| {
        snapshot::open(roots, instance, epoch, key, &into, &place.root)
    })?;
    match &opened.pages.base {
        Some(base) => base::share(&base.dir, &place.base())?,
        None => remove_dir(&place.base())?,
    }
    records.set_paused_for(Some(PausedFor::Warm))?;
    records.set_origin(Origin::Snapshot(epoch))?;
    let loaded = pager::start(&place, opened.pages).and_then(|()| {
        let request = api::LoadSnapshot {
            snapshot_path: &opened.vmstate.to_string_lossy(),
            mem_backend: MemoryBackend { backend_type: "Uffd", backend_path: pager::MEMORY_SOCKET },
            enable_diff_snapshots: true,
            resume_vm: false,
            network_overrides: &[],
        };
        api.put_within("snapshot/load", &request, Deadline::after(CALL))
    });
    dump::clear(&place)?;
    pager::hide(&place)?;
    // A page that is not what was written ends pager and VMM, which then say less than the file does.
    loaded.map_err(|error| match verify(roots, instance, epoch, ring.as_ref(), &place) {
        Err(damage) if damage.kind == ErrorKind::Integrity => damage,
        Err(_) | Ok(()) => error,
    })
}

/// Whether the VMM has its guest from `origin` already.
///
/// # Errors
/// `Conflict` when it has another one.
pub(super) fn is_loaded(
    place: &Place,
    api: &mut Api,
    origin: Origin,
    deadline: Deadline,
) -> Result<bool, Error> {
    if api.state(deadline)? == GuestState::NotStarted {
        return Ok(false);
    }
    if Records::at(place).origin()? == origin {
        return Ok(true);
    }
    Err(Error::new(ErrorKind::Conflict, format!("{} has a guest already", place.instance)))
}

fn verify(
    roots: &Roots,
    instance: &InstanceRef,
    epoch: Generation,
    ring: Option<&KeyRing>,
    place: &Place,
) -> Result<(), Error> {
    let into = place.mount();
    let open =
        |key: Option<&TenantKey>| snapshot::open(roots, instance, epoch, key, &into, &place.root);
    let verified = with_key(ring, open).and_then(|opened| opened.pages.verify());
    dump::clear(place)?;
    verified
}

fn check(place: &Place, header: &Header) -> Result<(), Error> {
    header.compatible(&present(&version::of(place)?)?).map_err(|mismatch| {
        Error::new(ErrorKind::Conflict, mismatch.to_string())
            .hint("stop the instance, which discards the snapshot, and start it again")
    })?;
    let image = jail::image_of(place)?;
    if image == header.image {
        return Ok(());
    }
    let message = format!(
        "the snapshot was taken with image {} and the jail has {}",
        header.image.short(),
        image.short()
    );
    Err(Error::new(ErrorKind::Conflict, message))
}

/// What snapshots depend on that are written, or loaded, by this version of Firecracker here.
///
/// # Errors
/// When `/proc/cpuinfo` cannot be read.
pub fn present(firecracker: &VmmVersion) -> Result<Present, Error> {
    // It does not change while a program runs, and is long on a large machine.
    static CPU: OnceLock<String> = OnceLock::new();
    let cpu = match CPU.get() {
        Some(cpu) => cpu.clone(),
        None => {
            let text = fs::read_to_string("/proc/cpuinfo").act("read /proc/cpuinfo")?;
            CPU.get_or_init(|| cpu_of(&text)).clone()
        }
    };
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    Ok(Present {
        firecracker: firecracker.to_string(),
        cpu,
        kernel: release.split('.').take(2).collect::<Vec<_>>().join("."),
    })
}

/// Vendor, model and stepping of the first processor, as `/proc/cpuinfo` has them.
fn cpu_of(text: &str) -> String {
    let field = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned())
    };
    let words: Vec<String> = ["vendor_id", "cpu family", "model", "stepping", "model name"]
        .into_iter()
        .filter_map(field)
        .collect();
    words.join(" ")
}

/// The time of day.
pub(super) fn now() -> Timestamp {
    use crate::clock::SystemClock;
    mvm_core::port::Clock::now(&SystemClock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_together_and_of_which_nothing_was_used_is_not_wanted_again() {
        let brought: Vec<u32> = (0..40).rev().collect();
        assert_eq!(used_chunks(&brought, &[30]), (24..40).rev().collect::<Vec<u32>>());
        assert_eq!(used_chunks(&brought, &[7, 0]), (0..8).rev().collect::<Vec<u32>>());
        assert_eq!(used_chunks(&brought, &brought), brought);
    }

    #[test]
    fn a_cpu_is_named_by_more_than_its_marketing_name() {
        let text = "processor\t: 0\nvendor_id\t: V\ncpu family\t: 23\nmodel\t\t: 1\nmodel name\t: N\nstepping\t: 2\n\nprocessor\t: 1\nvendor_id\t: W\n";
        assert_eq!(cpu_of(text), "V 23 1 2 N");
    }
}
