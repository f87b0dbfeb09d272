//! The data volumes of instances: one sparse file each, with an ext4 file system labelled `mvm-data`,
//! raw or in LUKS2.
//!
//! It never looks into a volume to find out what it is (its bytes are the guest's), never repairs
//! one, and never replaces one that is there. Those without an instance are in [`super::shelf`].

use std::{
    ffi::OsStr,
    fs::File,
    os::unix::fs::{MetadataExt, chown},
    path::{Path, PathBuf},
    time::Duration,
};

use mvm_core::{
    id::{InstanceId, InstanceRef},
    layout,
    units::{Mib, Uid},
    volume::VolumeKind,
};

use super::{
    durable,
    error::{Act, Error},
    key::{self, KeyRing},
    luks::{self, Passphrase},
    space,
};
use crate::{roots::Roots, tool};

/// The label by which a guest finds its volume.
pub const LABEL: &str = "mvm-data";
/// How long `mke2fs` may take. It writes a few MiB, whatever the size.
const DEADLINE: Duration = Duration::from_secs(60);

/// Where an instance's volume is.
pub(super) fn path_of(roots: &Roots, instance: &InstanceRef) -> PathBuf {
    roots.data.join(layout::data::volume(instance))
}

/// What opens the encrypted volume of an instance: first what it is made with.
pub(super) fn passphrases(ring: &KeyRing, instance: &InstanceRef) -> Vec<Passphrase> {
    ring.all().map(|key| key.passphrase(instance.instance.as_str())).collect()
}

/// The bytes of a file with room for this much.
const fn length(kind: VolumeKind, size: Mib) -> u64 {
    match kind {
        VolumeKind::Plain => size.bytes(),
        VolumeKind::Luks => size.bytes() + luks::HEADER,
    }
}

/// Makes an instance's volume of this size, owned by the uid, unless one is there; of one that is
/// there it only corrects the owner.
///
/// # Errors
/// `Refused` when the whole size does not fit beside the reserve, `NotFound` when the tenant has no
/// key for an encrypted one, else why it cannot be made.
pub fn ensure(
    roots: &Roots,
    instance: &InstanceRef,
    uid: Uid,
    size: Mib,
    kind: VolumeKind,
) -> Result<(), mvm_core::Error> {
    let path = path_of(roots, instance);
    if durable::exists(&path)? {
        return Ok(own(&path, uid)?);
    }
    let key = match kind {
        VolumeKind::Plain => None,
        VolumeKind::Luks => Some(key::ring(roots, &instance.tenant)?),
    };
    if let Some(dir) = path.parent() {
        durable::create_dirs(dir)?;
        space::admit(roots, dir, length(kind, size))?;
    }
    let partial = durable::partial(&path);
    durable::create_fresh(&partial, 0o600)?
        .set_len(length(kind, size))
        .act("set the size of", &partial)?;
    match key {
        None => make_file_system(&partial)?,
        Some(ring) => make_sealed(&partial, instance, &ring)?,
    }
    own(&partial, uid)?;
    File::open(&partial).and_then(|file| file.sync_all()).act("sync", &partial)?;
    Ok(durable::rename(&partial, &path)?)
}

fn make_sealed(partial: &Path, instance: &InstanceRef, ring: &KeyRing) -> Result<(), Error> {
    let name = layout::mapping(&instance.instance);
    // What a crash left open here is over a file that is gone by now.
    close_if_open(&name)?;
    let passphrases = passphrases(ring, instance);
    if let Some(newest) = passphrases.first() {
        luks::format(partial, newest)?;
    }
    luks::open(partial, &name, &passphrases)?;
    let made = make_file_system(&luks::device(&name));
    luks::close(&name)?;
    made
}

fn make_file_system(on: &Path) -> Result<(), Error> {
    let args = ["-t", "ext4", "-F", "-q", "-L", LABEL, "-E"].map(OsStr::new);
    let lazy = OsStr::new("lazy_itable_init=0,lazy_journal_init=0,nodiscard");
    let args: Vec<&OsStr> = args.into_iter().chain([lazy, on.as_os_str()]).collect();
    tool::run(&tool::find("mke2fs")?, &args, b"", DEADLINE)?;
    Ok(())
}

/// The size of an instance's volume, in whole MiB; none when it has none.
///
/// # Errors
/// When that cannot be found out.
pub fn size(
    roots: &Roots,
    instance: &InstanceRef,
    kind: VolumeKind,
) -> Result<Option<Mib>, mvm_core::Error> {
    let path = path_of(roots, instance);
    if !durable::exists(&path)? {
        return Ok(None);
    }
    let bytes = path.symlink_metadata().act("look at", &path)?.len();
    let bytes = bytes.saturating_sub(length(kind, Mib(0)));
    Ok(Some(Mib(u32::try_from(bytes >> 20).unwrap_or(u32::MAX))))
}

/// Opens an instance's encrypted volume.
///
/// # Errors
/// `NotFound` when there is none or its tenant has no key, `Integrity` when that does not open it.
pub fn open(roots: &Roots, instance: &InstanceRef) -> Result<(), mvm_core::Error> {
    let (path, name) = (path_of(roots, instance), layout::mapping(&instance.instance));
    if !durable::exists(&path)? {
        return Err(missing(instance).into());
    }
    if is_open(&instance.instance)? {
        return Ok(());
    }
    let ring = key::ring(roots, &instance.tenant)?;
    Ok(luks::open(&path, &name, &passphrases(&ring, instance))?)
}

/// Closes an instance's encrypted volume; closed already is a success.
///
/// # Errors
/// `Failed` while something has it open.
pub fn close(instance: &InstanceId) -> Result<(), mvm_core::Error> {
    Ok(close_if_open(&layout::mapping(instance))?)
}

fn close_if_open(name: &str) -> Result<(), Error> {
    if durable::exists(&luks::device(name))? { luks::close(name) } else { Ok(()) }
}

/// Whether an instance's encrypted volume is open.
///
/// # Errors
/// When that cannot be found out.
pub fn is_open(instance: &InstanceId) -> Result<bool, mvm_core::Error> {
    Ok(durable::exists(&device(instance))?)
}

/// The device of an instance's open volume.
#[must_use]
pub fn device(instance: &InstanceId) -> PathBuf {
    luks::device(&layout::mapping(instance))
}

/// The instances whose volume is open, sorted.
///
/// # Errors
/// When the devices cannot be listed.
pub fn list_open() -> Result<Vec<InstanceId>, mvm_core::Error> {
    let names = durable::names(&luks::device(""))?;
    Ok(names.iter().filter_map(|name| layout::parse_mapping(name)).collect())
}

/// That nothing has an instance's volume open.
pub(super) fn require_closed(instance: &InstanceId) -> Result<(), Error> {
    if durable::exists(&device(instance))? {
        return Err(Error::Conflict(format!("the volume of {instance} is open")));
    }
    Ok(())
}

/// Makes an instance's volume at least this large, its open device too. The file system in it is its
/// guest's.
///
/// # Errors
/// `NotFound` when there is none, `Refused` when it does not fit beside the reserve.
pub fn grow(
    roots: &Roots,
    instance: &InstanceRef,
    kind: VolumeKind,
    size: Mib,
) -> Result<(), mvm_core::Error> {
    let path = path_of(roots, instance);
    if !durable::exists(&path)? {
        return Err(missing(instance).into());
    }
    let file = File::options().write(true).open(&path).act("open", &path)?;
    let has = file.metadata().act("look at", &path)?.len();
    let wanted = length(kind, size);
    if wanted > has {
        space::admit(roots, &path, wanted - has)?;
        file.set_len(wanted).and_then(|()| file.sync_all()).act("grow", &path)?;
    }
    if kind == VolumeKind::Luks && is_open(&instance.instance)? {
        let ring = key::ring(roots, &instance.tenant)?;
        luks::resize(&layout::mapping(&instance.instance), &passphrases(&ring, instance))?;
    }
    Ok(())
}

/// Makes an instance's volume unreadable for ever and removes it; absent is removed.
///
/// # Errors
/// `Conflict` while it is open, else when it is there and stays.
pub fn wipe(
    roots: &Roots,
    instance: &InstanceRef,
    kind: VolumeKind,
) -> Result<(), mvm_core::Error> {
    require_closed(&instance.instance)?;
    Ok(destroy(&path_of(roots, instance), kind)?)
}

/// Key slots erased and the header overwritten, or all data overwritten; then removed.
pub(super) fn destroy(path: &Path, kind: VolumeKind) -> Result<(), Error> {
    if !durable::exists(path)? {
        return Ok(());
    }
    match kind {
        VolumeKind::Plain => durable::overwrite(path, u64::MAX)?,
        VolumeKind::Luks => {
            // A header that a crash left overwritten is none that cryptsetup knows.
            if let Err(error) = luks::erase(path) {
                tracing::debug!(%error, "the key slots are overwritten with the header");
            }
            durable::overwrite(path, luks::HEADER)?;
        }
    }
    durable::remove_file(path)?;
    durable::sync_parent(path)
}

/// What an instance's encrypted volume opens with is sealed to the newest key alone.
///
/// # Errors
/// `Integrity` when neither key opens it.
pub(super) fn rekey(roots: &Roots, instance: &InstanceRef, ring: &KeyRing) -> Result<(), Error> {
    let path = path_of(roots, instance);
    if !durable::exists(&path)? {
        return Ok(());
    }
    match passphrases(ring, instance).split_first() {
        Some((newest, older)) => luks::swap(&path, older, newest),
        None => Ok(()),
    }
}

pub(super) fn missing(instance: &InstanceRef) -> Error {
    Error::Missing { what: format!("the volume of {instance}"), hint: None }
}

pub(super) fn own(path: &Path, uid: Uid) -> Result<(), Error> {
    let found = path.symlink_metadata().act("look at", path)?;
    if (found.uid(), found.gid()) == (uid.0, uid.0) {
        return Ok(());
    }
    chown(path, Some(uid.0), Some(uid.0)).act("give away", path)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use mvm_core::ErrorKind;

    use super::*;
    use crate::disk::ground;

    const PLAIN: VolumeKind = VolumeKind::Plain;

    fn me() -> Uid {
        Uid(rustix::process::getuid().as_raw())
    }

    fn place() -> (tempfile::TempDir, Roots, InstanceRef) {
        let dir = tempfile::tempdir().unwrap();
        let roots = ground::roots(dir.path());
        (dir, roots, "acme/workers/i-00000001".parse().unwrap())
    }

    #[test]
    fn a_volume_is_a_sparse_file_system_found_by_label_and_never_made_twice() {
        let (_dir, roots, instance) = place();
        assert_eq!(size(&roots, &instance, PLAIN).unwrap(), None);
        ensure(&roots, &instance, me(), Mib(256), PLAIN).unwrap();
        assert_eq!(size(&roots, &instance, PLAIN).unwrap(), Some(Mib(256)));

        let path = roots.data.join(layout::data::volume(&instance));
        let found = path.metadata().unwrap();
        assert_eq!(found.permissions().mode() & 0o7777, 0o600);
        assert!(found.blocks() * 512 < 64 << 20, "{} blocks", found.blocks());
        let args = ["-h".as_ref(), path.as_os_str()];
        let told = tool::run(&tool::find("dumpe2fs").unwrap(), &args, b"", DEADLINE).unwrap();
        let told = String::from_utf8(told.stdout).unwrap();
        assert!(told.contains("mvm-data") && told.contains("clean"), "{told}");

        fs::write(&path, b"content of the guest").unwrap();
        ensure(&roots, &instance, me(), Mib(256), PLAIN).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"content of the guest");
    }

    #[test]
    fn a_volume_larger_than_the_disk_is_refused_and_leaves_nothing() {
        let (_dir, roots, instance) = place();
        let error = ensure(&roots, &instance, me(), Mib(u32::MAX), PLAIN).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Refused);
        assert_eq!(size(&roots, &instance, PLAIN).unwrap(), None);
    }

    #[test]
    fn a_volume_grows_and_never_shrinks() {
        let (_dir, roots, instance) = place();
        let missing = grow(&roots, &instance, PLAIN, Mib(32)).unwrap_err();
        assert_eq!(missing.kind, ErrorKind::NotFound);
        ensure(&roots, &instance, me(), Mib(16), PLAIN).unwrap();
        for (asked, has) in [(Mib(32), Mib(32)), (Mib(16), Mib(32)), (Mib(32), Mib(32))] {
            grow(&roots, &instance, PLAIN, asked).unwrap();
            assert_eq!(size(&roots, &instance, PLAIN).unwrap(), Some(has));
        }
        let error = grow(&roots, &instance, PLAIN, Mib(u32::MAX)).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Refused);
        assert_eq!(size(&roots, &instance, PLAIN).unwrap(), Some(Mib(32)));
    }

    #[test]
    fn the_bytes_of_a_wiped_plain_volume_were_overwritten() {
        let (dir, roots, instance) = place();
        ensure(&roots, &instance, me(), Mib(16), PLAIN).unwrap();
        let path = path_of(&roots, &instance);
        let other_name = dir.path().join("same inode");
        fs::hard_link(&path, &other_name).unwrap();
        wipe(&roots, &instance, PLAIN).unwrap();
        wipe(&roots, &instance, PLAIN).unwrap();
        assert!(!path.exists());
        let left = fs::read(&other_name).unwrap();
        assert!(left.len() == 16 << 20 && left.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn an_encrypted_volume_needs_a_key() {
        let (_dir, roots, instance) = place();
        let error = ensure(&roots, &instance, me(), Mib(16), VolumeKind::Luks).unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound);
        assert_eq!(open(&roots, &instance).unwrap_err().kind, ErrorKind::NotFound);
    }
}
