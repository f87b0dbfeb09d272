//! Data volumes: one sparse file per instance with an empty ext4 file system labelled `mvm-data`.
//!
//! It never looks into a volume, never grows or repairs one, and never replaces one that is there.

use std::{
    ffi::OsStr,
    fs::File,
    os::unix::fs::{MetadataExt, chown},
    path::Path,
    time::Duration,
};

use mvm_core::{
    id::InstanceRef,
    layout,
    units::{Mib, Uid},
};

use super::{
    durable,
    error::{Act, Error},
    space,
};
use crate::{roots::Roots, tool};

/// The label by which a guest finds its volume.
pub const LABEL: &str = "mvm-data";
/// How long `mke2fs` may take. It writes a few MiB, whatever the size.
const DEADLINE: Duration = Duration::from_secs(60);

/// Makes an instance's volume of this size, owned by the uid, unless one is there; of one that is
/// there it only corrects the owner.
///
/// # Errors
/// `Refused` when the whole size does not fit beside the reserve, else why it cannot be made.
pub fn ensure(
    roots: &Roots,
    instance: &InstanceRef,
    uid: Uid,
    size: Mib,
) -> Result<(), mvm_core::Error> {
    let path = roots.data.join(layout::data::volume(instance));
    if let Some(dir) = path.parent() {
        durable::create_dirs(dir)?;
        if !durable::exists(&path)? {
            space::admit(dir, size.bytes())?;
            make(&path, uid, size)?;
        }
    }
    Ok(own(&path, uid)?)
}

/// The size of an instance's volume, in whole MiB; none when it has none.
///
/// # Errors
/// When that cannot be found out.
pub fn size(roots: &Roots, instance: &InstanceRef) -> Result<Option<Mib>, mvm_core::Error> {
    let path = roots.data.join(layout::data::volume(instance));
    if !durable::exists(&path)? {
        return Ok(None);
    }
    let bytes = path.symlink_metadata().act("look at", &path)?.len();
    Ok(Some(Mib(u32::try_from(bytes >> 20).unwrap_or(u32::MAX))))
}

fn make(path: &Path, uid: Uid, size: Mib) -> Result<(), Error> {
    let partial = durable::partial(path);
    durable::create_fresh(&partial, 0o600)?
        .set_len(size.bytes())
        .act("set the size of", &partial)?;
    let args = ["-t", "ext4", "-F", "-q", "-L", LABEL, "-E"].map(OsStr::new);
    let lazy = OsStr::new("lazy_itable_init=0,lazy_journal_init=0,nodiscard");
    let args: Vec<&OsStr> = args.into_iter().chain([lazy, partial.as_os_str()]).collect();
    tool::run(&tool::find("mke2fs")?, &args, b"", DEADLINE)?;
    own(&partial, uid)?;
    File::open(&partial).and_then(|file| file.sync_all()).act("sync", &partial)?;
    durable::rename(&partial, path)
}

fn own(path: &Path, uid: Uid) -> Result<(), Error> {
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

    fn me() -> Uid {
        Uid(rustix::process::getuid().as_raw())
    }

    #[test]
    fn a_volume_is_a_sparse_file_system_found_by_label_and_never_made_twice() {
        let dir = tempfile::tempdir().unwrap();
        let roots = ground::roots(dir.path());
        let instance: InstanceRef = "acme/workers/i-00000001".parse().unwrap();
        assert_eq!(size(&roots, &instance).unwrap(), None);
        ensure(&roots, &instance, me(), Mib(256)).unwrap();
        assert_eq!(size(&roots, &instance).unwrap(), Some(Mib(256)));

        let path = roots.data.join(layout::data::volume(&instance));
        let found = path.metadata().unwrap();
        assert_eq!(found.permissions().mode() & 0o7777, 0o600);
        assert!(found.blocks() * 512 < 64 << 20, "{} blocks", found.blocks());
        let args = ["-h".as_ref(), path.as_os_str()];
        let told = tool::run(&tool::find("dumpe2fs").unwrap(), &args, b"", DEADLINE).unwrap();
        let told = String::from_utf8(told.stdout).unwrap();
        assert!(told.contains("mvm-data") && told.contains("clean"), "{told}");

        fs::write(&path, b"content of the guest").unwrap();
        ensure(&roots, &instance, me(), Mib(256)).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"content of the guest");
    }

    #[test]
    fn a_volume_larger_than_the_disk_is_refused_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let roots = ground::roots(dir.path());
        let instance: InstanceRef = "acme/workers/i-00000001".parse().unwrap();
        let error = ensure(&roots, &instance, me(), Mib(u32::MAX)).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Refused);
        assert_eq!(size(&roots, &instance).unwrap(), None);
    }
}
