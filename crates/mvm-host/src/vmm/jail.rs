//! The jail: what a VMM sees as its root, before it runs and after it is gone.
//!
//! ```text
//!  <data>/jails/firecracker/<i>/image     which image was linked in
//!                              /secrets_epoch   of which epoch its secrets drive is
//!                              /version  which version of Firecracker its VMM runs
//!                              /base     the base that its guest stands on, if it does
//!                              /root/     the VMM's /, made the instance's by the jailer
//!                                   /rootfs, vmlinux, initrd   hard links, 0444, root's
//!                                   /data.img                  hard link to the volume, or a node of
//!                                                              the device of an encrypted one
//!                                   /ram   ◄── bind mount ──   <run>/ram/<i> (tmpfs)
//!                                              config.ext2, secrets.ext2, mem, vmstate
//!                                   /run   sockets and the log FIFO
//! ```
//! Everything is a link, so that a jail costs no copy but the jailer's own of Firecracker. It
//! refuses to know what runs in it.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use mvm_core::{
    Error, ErrorKind,
    effect::Jail,
    id::{ImageHash, InstanceId},
    layout::{self, data},
    pool::Role,
    route::Routes,
    units::{Generation, Mib, Uid},
    volume::VolumeKind,
};
use mvm_proto::config::CONFIG_LABEL;
use mvm_shim::record::LOG_FIFO;
use rustix::{
    fs::{CWD, FileType, Mode, mkfifoat, mknodat},
    mount::mount_bind,
};

use super::{
    cgroup, config,
    fault::{Act, absent},
    image, mounts,
    place::{Place, ensure_dir, give, remove_dir, remove_file},
    ram, secrets,
};
use crate::{
    disk::{durable, ext, volume},
    roots::Roots,
};

/// The root file system, in the jail.
pub const ROOT_DRIVE: &str = "rootfs";
/// The kernel, in the jail.
pub const KERNEL: &str = "vmlinux";
/// The initramfs, in the jail.
pub const INITRD: &str = "initrd";
/// The data drive, in the jail.
pub const DATA_DRIVE: &str = "data.img";
/// The config drive, in the jail.
pub const CONFIG_DRIVE: &str = "ram/config.ext2";
/// The secrets drive, in the jail; attached where it is there.
pub const SECRETS_DRIVE: &str = "ram/secrets.ext2";

const IMAGE: &str = "image";

/// Makes the jail, or completes a half one.
///
/// # Errors
/// `NotFound` when the image or the volume is not there, else what the kernel refuses.
pub fn ensure(roots: &Roots, jail: &Jail) -> Result<(), Error> {
    let place = Place::of(roots, &jail.instance.instance);
    let image = image::files(roots, &jail.image)?;
    let uid = jail.uid.0;
    ram::ensure(roots, &place, uid)?;
    ensure_dir(&place.jail, 0o700)?;
    ensure_dir(&place.root, 0o700)?;
    for directory in ["run", "ram"] {
        let path = place.root.join(directory);
        ensure_dir(&path, 0o700)?;
        give(&path, uid)?;
    }
    if !mounts::below(&place.mount())?.contains(&place.mount()) {
        mount_bind(&place.ram, place.mount()).act(format_args!(
            "mount {} at {}",
            place.ram.display(),
            place.mount().display()
        ))?;
    }
    link(&image.root, &place.root.join(ROOT_DRIVE))?;
    link(&image.kernel, &place.root.join(KERNEL))?;
    match &image.initrd {
        Some(initrd) => link(initrd, &place.root.join(INITRD))?,
        None => remove_file(&place.root.join(INITRD))?,
    }
    let drive = place.root.join(DATA_DRIVE);
    match (jail.resources.data_disk_mib, jail.volume) {
        (Mib(0), _) => remove_file(&drive)?,
        (Mib(_), VolumeKind::Plain) => {
            link(&roots.data.join(data::volume(&jail.instance)), &drive)?;
        }
        (Mib(_), VolumeKind::Luks) => {
            node(&volume::device(&jail.instance.instance), &drive, uid)?;
        }
    }
    let epoch = secrets::ensure(roots, &place, &jail.instance, jail.uid, &jail.secrets)?;
    config_drive(&place, jail, epoch)?;
    let path = place.jail.join(IMAGE);
    fs::write(&path, jail.image.as_str()).act(format_args!("write {}", path.display()))
}

/// The image that was linked into a jail.
///
/// # Errors
/// `NotFound` when there is no whole jail.
pub fn image_of(place: &Place) -> Result<ImageHash, Error> {
    let path = place.jail.join(IMAGE);
    let text = absent(fs::read_to_string(&path)).act(format_args!("read {}", path.display()))?;
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("{} has no jail", place.instance)))
}

/// Clears away what an earlier VMM left in the jail and what the jailer refuses to find there,
/// and makes the log's FIFO.
///
/// # Errors
/// What the kernel refuses.
pub fn refresh(place: &Place, uid: Uid) -> Result<(), Error> {
    for file in
        ["firecracker", "firecracker.pid", "ram/mem", "ram/vmstate", "mem", "vmstate", "base.mem"]
    {
        remove_file(&place.root.join(file))?;
    }
    for directory in ["dev", "run"] {
        remove_dir(&place.root.join(directory))?;
    }
    // A jailer that died between making it and pivoting leaves it, empty; what is in it is not
    // touched, for it would be the host's root.
    let old_root = place.root.join("old_root");
    absent(fs::remove_dir(&old_root)).act(format_args!("remove {}", old_root.display()))?;
    let path = place.root.join("run");
    ensure_dir(&path, 0o700)?;
    give(&path, uid.0)?;
    let path = place.root.join(LOG_FIFO);
    mkfifoat(CWD, &path, Mode::from_raw_mode(0o600))
        .act(format_args!("make the FIFO {}", path.display()))?;
    give(&path, uid.0)
}

/// Removes the jail, its mount and its part of the tmpfs, whatever of them is there.
///
/// # Errors
/// What the kernel refuses.
pub fn remove(roots: &Roots, instance: &InstanceId) -> Result<(), Error> {
    let place = Place::of(roots, instance);
    // First the mount: what is below it must not be taken for a part of the jail.
    mounts::clear(&place.jail)?;
    remove_dir(&place.jail)?;
    // A jail that came back after a power cut would keep hard links to a destroyed volume.
    match place.jail.parent() {
        Some(parent) if parent.is_dir() => durable::sync_dir(parent)?,
        Some(_) | None => {}
    }
    ram::remove(roots, &place)
}

/// Whether the jail or a part of it is there.
///
/// # Errors
/// I/O errors.
pub fn is_there(place: &Place) -> Result<bool, Error> {
    for path in [&place.jail, &place.ram] {
        let found =
            absent(fs::symlink_metadata(path)).act(format_args!("look at {}", path.display()));
        if found?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The instances that have a jail, a part of one, or a directory on the tmpfs.
///
/// # Errors
/// I/O errors.
pub fn list(roots: &Roots) -> Result<Vec<InstanceId>, Error> {
    let mut found = cgroup::instances_in(&roots.data.join(data::JAILS).join("firecracker"))?;
    found.extend(cgroup::instances_in(&roots.run.join(layout::run::RAM))?);
    found.sort();
    found.dedup();
    Ok(found)
}

fn config_drive(place: &Place, jail: &Jail, secrets: Generation) -> Result<(), Error> {
    let mut files = vec![config_file(config::FILE, &config::of(jail, secrets)?)?];
    if jail.identity.role == Role::Gateway {
        let table = jail.identity.routing_table.as_ref();
        let routes = table.map_or_else(Routes::default, Routes::alone);
        files.push(config_file(config::ROUTES_FILE, &config::routes(&routes))?);
    }
    let drive =
        ext::Image { label: CONFIG_LABEL.to_owned(), size: ext::Image::DEFAULT_SIZE, files };
    let path = place.root.join(CONFIG_DRIVE);
    remove_file(&path)?;
    let file = fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o400)
        .open(&path)
        .act(format_args!("write {}", path.display()))?;
    drive.write_to(&file)?;
    give(&path, jail.uid.0)
}

/// Makes `to` a node of the block device `from` that only this user opens.
fn node(from: &Path, to: &Path, uid: u32) -> Result<(), Error> {
    use std::os::unix::fs::FileTypeExt;
    let what = format_args!("make {} a node of {}", to.display(), from.display());
    let device = absent(fs::metadata(from)).act(what)?;
    let Some(device) = device.filter(|found| found.file_type().is_block_device()) else {
        let message = format!("{} is not there", from.display());
        return Err(Error::new(ErrorKind::NotFound, message));
    };
    let is_same = |target: fs::Metadata| {
        target.file_type().is_block_device()
            && target.rdev() == device.rdev()
            && target.uid() == uid
    };
    if absent(fs::symlink_metadata(to)).act(what)?.is_some_and(is_same) {
        return Ok(());
    }
    remove_file(to)?;
    let mode = Mode::from_raw_mode(0o600);
    mknodat(CWD, to, FileType::BlockDevice, mode, device.rdev()).act(what)?;
    give(to, uid)
}

fn config_file(name: &str, value: &impl serde::Serialize) -> Result<ext::File, Error> {
    let data = serde_json::to_vec_pretty(value).map_err(|error| {
        Error::new(ErrorKind::Failed, "cannot encode the guest's configuration").because(&error)
    })?;
    Ok(ext::File {
        path: name.to_owned(),
        mode: 0o444,
        uid: Uid(0),
        gid: Uid(0),
        data: data.into(),
    })
}

/// Makes `to` the same file as `from`.
///
/// # Errors
/// `NotFound` when there is no such file, else what the kernel refuses.
pub(super) fn link(from: &Path, to: &Path) -> Result<(), Error> {
    let what = format_args!("link {} to {}", from.display(), to.display());
    let source = absent(fs::symlink_metadata(from)).act(what)?;
    let Some(source) = source.filter(fs::Metadata::is_file) else {
        let message = format!("{} is not there", from.display());
        return Err(Error::new(ErrorKind::NotFound, message));
    };
    let is_same =
        |target: fs::Metadata| (target.dev(), target.ino()) == (source.dev(), source.ino());
    if absent(fs::symlink_metadata(to)).act(what)?.is_some_and(is_same) {
        return Ok(());
    }
    remove_file(to)?;
    match fs::hard_link(from, to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => Err(Error::new(
            ErrorKind::Failed,
            format!("{} and the jails are on different file systems", from.display()),
        )
        .hint("put images, volumes and jails below one data directory on one file system")),
        linked => linked.act(what),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;

    #[test]
    fn a_link_is_replaced_when_it_is_another_file() {
        let base = tempfile::tempdir().unwrap();
        let path = |name: &str| base.path().join(name);
        fs::write(path("one"), "1").unwrap();
        fs::write(path("two"), "2").unwrap();
        link(&path("one"), &path("drive")).unwrap();
        link(&path("one"), &path("drive")).unwrap();
        link(&path("two"), &path("drive")).unwrap();
        assert_eq!(fs::read(path("drive")).unwrap(), b"2");
        assert_eq!(fs::metadata(path("two")).unwrap().nlink(), 2);
        assert_eq!(link(&path("three"), &path("drive")).unwrap_err().kind, ErrorKind::NotFound);
    }
}
