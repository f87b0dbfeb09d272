//! From nothing to a VMM whose API answers, and back to nothing.
//!
//! The shim is the only program besides the helpers of [`crate::tool`] that is started here. Who
//! starts it is never its parent: it leaves at once. The lock on its spec, which it inherits as
//! its standard input, is held without a gap from before it starts until it ends.

use std::{
    fs::File,
    io::{Read, Seek, Write},
    os::fd::{AsFd, OwnedFd},
    process::{Command, Stdio},
    time::Duration,
};

use mvm_core::{
    Error, ErrorKind,
    id::{InstanceId, InstanceRef, OperationId, VmmVersion},
    layout::{self, data},
    units::{Generation, Uid},
};
use mvm_shim::{
    Report, Spec,
    record::{OUT, RECORD_MAX, SPEC},
    watch::START_TIMEOUT,
};
use rustix::{
    event::PollFlags,
    fs::{FlockOperation, flock},
};

use super::{
    advice,
    api::{Api, GuestState},
    cgroup,
    fault::Act,
    jail, pager,
    place::{Place, ensure_dir, give, remove_dir},
    records::Records,
    socket::Deadline,
    version,
};
use crate::roots::Roots;

/// How long a shim may take to write down how its VMM ended.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long the kernel may take to take a killed process away.
const GONE_TIMEOUT: Duration = Duration::from_secs(10);
/// What starting may take besides what the shim itself allows.
const MARGIN: Duration = Duration::from_secs(5);
/// A lock that is held for a moment by somebody who looks at it is tried again at this interval.
const LOCK_INTERVAL: Duration = Duration::from_millis(5);

/// Makes shim, jailer and a VMM without a guest, of the version that shall load the snapshot of this
/// epoch, if one shall be loaded. One that is there already is a success.
///
/// # Errors
/// `Conflict` when the VMM has a guest, `NotFound` when Firecracker is not installed, `Failed`
/// with the jailer's or Firecracker's own words.
pub fn ensure(
    roots: &Roots,
    instance: &InstanceRef,
    uid: Uid,
    epoch: Option<Generation>,
    operation: Option<&OperationId>,
) -> Result<(), Error> {
    let place = Place::of(roots, &instance.instance);
    let records = Records::at(&place);
    let version = version::wanted(roots, instance, epoch)?;
    if is_alive(records)? && records.is_shim_alive()? {
        let deadline = Deadline::after(super::api::CALL);
        match Api::connect(&place, deadline)?.state(deadline)? {
            GuestState::NotStarted if version::of(&place)? == version => return Ok(()),
            // Nothing is lost with it.
            GuestState::NotStarted => {}
            GuestState::Running | GuestState::Paused => {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!("{} has a VMM with a guest already", instance.instance),
                ));
            }
        }
    }
    for (what, there) in [("jail", &place.root), ("cgroup", &place.cgroup)] {
        if !there.is_dir() {
            let message = format!("{} has no {what} to start a VMM in", instance.instance);
            return Err(Error::new(ErrorKind::Conflict, message));
        }
    }
    remove(roots, &instance.instance)?;
    version::bind(roots, &place, &version)?;
    let operation = operation.map(ToString::to_string);
    let spec = Spec { operation, ..prepare(roots, instance, &place, uid, &version)? };
    let started =
        launch(roots, &place, &spec).map_err(|error| advice::explained(roots, instance, error));
    if started.is_err() {
        // The records stay: they tell how it ended.
        cgroup::kill(&place)?;
    }
    started
}

/// Starts a shim for a VMM that lost its own. One that is there already is a success.
///
/// # Errors
/// `Conflict` when there is no VMM, `Failed` with the shim's own words; the VMM lives on.
pub fn ensure_shim(
    roots: &Roots,
    instance: &InstanceRef,
    uid: Uid,
    operation: Option<&OperationId>,
) -> Result<(), Error> {
    let place = Place::of(roots, &instance.instance);
    let records = Records::at(&place);
    if records.is_shim_alive()? {
        return Ok(());
    }
    let Some(vmm) = records.vmm()? else {
        let message = format!("{} has no VMM to watch", instance.instance);
        return Err(Error::new(ErrorKind::Conflict, message));
    };
    let operation = operation.map(ToString::to_string);
    let paged_by = pager::process(&place)?;
    let spec = spec(roots, instance, &place, uid, &version::of(&place)?);
    let spec = Spec { watch: Some(vmm), paged_by, operation, ..spec };
    launch(roots, &place, &spec)
}

fn prepare(
    roots: &Roots,
    instance: &InstanceRef,
    place: &Place,
    uid: Uid,
    version: &VmmVersion,
) -> Result<Spec, Error> {
    let out = place.records.join(OUT);
    ensure_dir(&place.records, 0o700)?;
    ensure_dir(&out, 0o700)?;
    give(&out, uid.0)?;
    let logs = roots.data.join(data::logs(instance));
    ensure_dir(&logs, 0o700)?;
    give(&logs, uid.0)?;
    jail::refresh(place, uid)?;
    Ok(spec(roots, instance, place, uid, version))
}

fn spec(
    roots: &Roots,
    instance: &InstanceRef,
    place: &Place,
    uid: Uid,
    version: &VmmVersion,
) -> Spec {
    Spec {
        instance: instance.instance.to_string(),
        uid: uid.0,
        pager: roots.pager.clone(),
        jailer: version::jailer(roots, version),
        firecracker: version::firecracker(roots, version),
        chroot_base: roots.data.join(data::JAILS),
        jail: place.root.clone(),
        records: place.records.clone(),
        logs: roots.data.join(data::logs(instance)),
        cgroup: roots.cgroup.join(layout::cgroup(&instance.instance)),
        watch: None,
        paged_by: None,
        operation: None,
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the shim outlives its launcher: no tool's deadline fits it"
)]
fn launch(roots: &Roots, place: &Place, spec: &Spec) -> Result<(), Error> {
    let stdin = locked_spec(place, spec)?;
    let what = format_args!("start {}", roots.shim.display());
    let (reading, writing) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).act(what)?;
    let mut child = Command::new(&roots.shim)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(stdin))
        .stdout(Stdio::from(writing))
        .stderr(Stdio::null())
        .spawn()
        .act(what)?;
    // The process that was started only leaves another one behind.
    child.wait().act(what)?;
    match report(reading, Deadline::after(START_TIMEOUT + MARGIN))? {
        Some(Report::Ready { .. }) => Ok(()),
        Some(Report::Failed(reason)) => Err(Error::new(
            ErrorKind::Failed,
            format!("cannot start a VMM for {}: {reason}", place.instance),
        )),
        None => Err(Error::new(
            ErrorKind::Failed,
            format!("cannot start a VMM for {}: its shim ended", place.instance),
        )),
    }
}

/// Locks the file of the spec, then writes it: whoever holds the lock owns the contents.
fn locked_spec(place: &Place, spec: &Spec) -> Result<File, Error> {
    let path = place.records.join(SPEC);
    let what = || format!("write {}", path.display());
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .act(what())?;
    let deadline = Deadline::after(GONE_TIMEOUT);
    while let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if error != rustix::io::Errno::WOULDBLOCK {
            return Err(error).act(what());
        }
        std::thread::sleep(LOCK_INTERVAL.min(deadline.left().act(what())?));
    }
    let text = serde_json::to_vec(spec).map_err(std::io::Error::from).act(what())?;
    file.set_len(0).act(what())?;
    file.write_all(&text).act(what())?;
    file.rewind().act(what())?;
    Ok(file)
}

/// The one line that the shim writes; `None` when it ended without a word.
fn report(pipe: OwnedFd, deadline: Deadline) -> Result<Option<Report>, Error> {
    let mut pipe = File::from(pipe);
    let mut text = Vec::new();
    let mut buffer = [0u8; 4096];
    loop {
        if let Some(line) =
            text.split(|byte| *byte == b'\n').next().filter(|line| line.len() < text.len())
        {
            return Ok(serde_json::from_slice(line).ok());
        }
        deadline.poll([(pipe.as_fd(), PollFlags::IN)]).act("wait for the shim's report")?;
        match pipe.read(&mut buffer).act("read the shim's report")? {
            0 => return Ok(None),
            count => text.extend_from_slice(buffer.get(..count).unwrap_or_default()),
        }
        if text.len() as u64 > RECORD_MAX {
            return Ok(None);
        }
    }
}

/// Ends VMM and shim and forgets them, whatever of them is there.
///
/// # Errors
/// `Unavailable` when a killed process does not go.
pub fn remove(roots: &Roots, instance: &InstanceId) -> Result<(), Error> {
    let place = Place::of(roots, instance);
    let records = Records::at(&place);
    if !records.is_there()? && !cgroup::is_populated(&place.cgroup)? {
        return Ok(());
    }
    if end_vmm(records)? {
        await_shim(records, LAST_WORDS)?;
    }
    cgroup::kill(&place)?;
    end_shim(&place, records)?;
    remove_dir(&place.records)
}

/// Ends the VMM; `true` when there was one whose end the shim can tell of.
fn end_vmm(records: Records<'_>) -> Result<bool, Error> {
    let Some(id) = records.vmm()? else { return Ok(false) };
    let Some(process) = id.open().act("hold the VMM")? else { return Ok(false) };
    process.kill().act("kill the VMM")?;
    if !process.wait(GONE_TIMEOUT).act("wait for the VMM's end")? {
        let message = format!("the VMM with pid {} does not end", id.pid);
        return Err(Error::new(ErrorKind::Unavailable, message));
    }
    Ok(true)
}

/// Waits for the shim's own end.
fn await_shim(records: Records<'_>, wait: Duration) -> Result<(), Error> {
    let Some(id) = records.shim()? else { return Ok(()) };
    if let Some(process) = id.open().act("hold the shim")? {
        process.wait(wait).act("wait for the shim's end")?;
    }
    Ok(())
}

/// Makes sure that no shim is left, also one that has not come to its cgroup yet.
fn end_shim(place: &Place, records: Records<'_>) -> Result<(), Error> {
    let deadline = Deadline::after(GONE_TIMEOUT);
    while records.is_shim_alive()? {
        if let Some(id) = records.shim()?
            && let Some(process) = id.open().act("hold the shim")?
        {
            process.kill().act("kill the shim")?;
            process.wait(GONE_TIMEOUT).act("wait for the shim's end")?;
        }
        cgroup::kill(place)?;
        let left = deadline.left().act(format_args!("end the shim of {}", place.instance))?;
        std::thread::sleep(LOCK_INTERVAL.min(left));
    }
    cgroup::kill(place)
}

fn is_alive(records: Records<'_>) -> Result<bool, Error> {
    match records.vmm()? {
        Some(id) => id.is_alive().act("look at the VMM"),
        None => Ok(false),
    }
}

/// The instances that have records.
///
/// # Errors
/// I/O errors.
pub fn list(roots: &Roots) -> Result<Vec<InstanceId>, Error> {
    cgroup::instances_in(&roots.run.join("vm"))
}

/// The instances that have a living VMM or shim.
///
/// # Errors
/// I/O errors.
pub fn list_alive(roots: &Roots) -> Result<Vec<InstanceId>, Error> {
    let mut alive = Vec::new();
    let mut known = list(roots)?;
    known.extend(cgroup::list(roots)?);
    known.sort();
    known.dedup();
    for instance in known {
        let place = Place::of(roots, &instance);
        let records = Records::at(&place);
        if is_alive(records)? || records.is_shim_alive()? || cgroup::is_populated(&place.cgroup)? {
            alive.push(instance);
        }
    }
    Ok(alive)
}
