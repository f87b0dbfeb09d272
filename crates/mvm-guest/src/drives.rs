//! Drives: found by label, mounted where the label says, read and given back.
//!
//! Config and secrets are read and unmounted at once, so that the host can swap them; data stays
//! mounted. This module refuses to know who the guest is and what is written on the drives.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use mvm_proto::config::{CONFIG_LABEL, DATA_LABEL, SECRETS_LABEL};
use mvm_proto::message::AttachDrive;
use mvm_proto::{FailureKind, GuestConfig};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};

use crate::agent::Agent;
use crate::failure::{Context, Outcome, failure};
use crate::{kernel, routes};

/// Where the ext superblock starts on its device, in bytes (ext4 documentation, "Super Block").
const SUPERBLOCK_AT: u64 = 0x400;
/// How much of the superblock is read, in bytes.
const SUPERBLOCK_LENGTH: usize = 0x100;
/// The largest file taken from a config or secrets drive, in bytes: twice what secrets may be.
const FILE_MAX: u64 = 512 * 1024;

/// What the superblock of an ext file system says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Superblock {
    /// The volume's label.
    pub(crate) label: String,
    /// Bytes in a block.
    pub(crate) block_size: u64,
}

/// Reads a superblock from the bytes at [`SUPERBLOCK_AT`], `None` when it is none.
pub(crate) fn parse_superblock(bytes: &[u8]) -> Option<Superblock> {
    let magic = bytes.get(0x38..0x3a)?;
    if magic != [0x53, 0xef] {
        return None;
    }
    let shift = u32::from_le_bytes(bytes.get(0x18..0x1c)?.try_into().ok()?);
    let block_size = 1024u64.checked_shl(shift).filter(|size| (1024..=65536).contains(size))?;
    let label = bytes.get(0x78..0x88)?.split(|byte| *byte == 0).next()?;
    Some(Superblock { label: String::from_utf8_lossy(label).into_owned(), block_size })
}

/// A block device with an ext file system.
#[derive(Debug)]
struct Drive {
    /// Its name in `/dev` and `/sys/class/block`.
    name: String,
    superblock: Superblock,
}

impl Drive {
    fn device(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }
}

/// Finds the drive with a label; the kernel's cached copy of its first blocks is dropped before.
fn find(label: &str) -> Outcome<Drive> {
    let mut names: Vec<String> = fs::read_dir("/sys/class/block")
        .because("cannot list block devices")?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with("vd"))
        .collect();
    names.sort();
    for name in names {
        let Some(superblock) = read_superblock(&name) else { continue };
        if superblock.label == label {
            return Ok(Drive { name, superblock });
        }
    }
    failure(FailureKind::NotFound, format!("no drive with label {label}"))
}

fn read_superblock(name: &str) -> Option<Superblock> {
    let mut device = File::open(Path::new("/dev").join(name)).ok()?;
    // A drive in use cannot have been swapped; its blocks may be refused or costly to drop.
    if mount_point_of(&Path::new("/dev").join(name)).is_none() {
        let _ = kernel::flush_block_device(&device);
    }
    let mut bytes = [0u8; SUPERBLOCK_LENGTH];
    device.seek(SeekFrom::Start(SUPERBLOCK_AT)).ok()?;
    device.read_exact(&mut bytes).ok()?;
    parse_superblock(&bytes)
}

/// Where a device is mounted, by the kernel's table.
fn mount_point_of(device: &Path) -> Option<PathBuf> {
    mounts().into_iter().rev().find(|(source, _)| source == device).map(|(_, place)| place)
}

/// What is mounted at a place.
pub(crate) fn device_at(place: &Path) -> Option<PathBuf> {
    mounts().into_iter().rev().find(|(_, at)| at == place).map(|(source, _)| source)
}

fn mounts() -> Vec<(PathBuf, PathBuf)> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let lines = table.lines().filter_map(|line| {
        let mut words = line.split(' ');
        Some((PathBuf::from(words.next()?), PathBuf::from(words.next()?)))
    });
    lines.collect()
}

/// Mounts or reads a drive; gives where its contents are.
pub(crate) fn attach(agent: &Agent, drive: &AttachDrive) -> Outcome<PathBuf> {
    let _one_at_a_time = agent.change();
    attach_alone(agent, drive)
}

/// As [`attach`], for who holds the agent's change lock.
pub(crate) fn attach_alone(agent: &Agent, drive: &AttachDrive) -> Outcome<PathBuf> {
    match drive.label.as_str() {
        CONFIG_LABEL => {
            read_config(agent)?;
            return Ok(agent.places.config.clone());
        }
        SECRETS_LABEL => {
            read_secrets(agent, None)?;
            return Ok(agent.places.secrets.clone());
        }
        _ => {}
    }
    let place = match (&drive.path, drive.label.as_str()) {
        (Some(path), _) if Path::new(path).is_absolute() => PathBuf::from(path),
        (None, DATA_LABEL) => agent.places.data.clone(),
        _ => {
            let message = format!("label {} needs an absolute path", drive.label);
            return failure(FailureKind::Invalid, message);
        }
    };
    let found = find(&drive.label)?;
    if let Some(mounted) = mount_point_of(&found.device()) {
        return Ok(mounted);
    }
    let device = found.device();
    let act = format!("cannot mount {} at {}", drive.label, place.display());
    fs::create_dir_all(&place).because(&act)?;
    let mut flags = MountFlags::NOATIME | MountFlags::NODEV | MountFlags::NOSUID;
    if drive.read_only {
        flags |= MountFlags::RDONLY;
    }
    mount(&device, &place, c"ext4", flags, None).because(act)?;
    Ok(place)
}

/// Syncs and unmounts a drive; one that is not mounted is a success.
pub(crate) fn detach(agent: &Agent, label: &str) -> Outcome<()> {
    let _one_at_a_time = agent.change();
    let drive = match find(label) {
        Ok(drive) => drive,
        Err(missing) if missing.kind == FailureKind::NotFound => return Ok(()),
        Err(other) => return Err(other),
    };
    let Some(place) = mount_point_of(&drive.device()) else { return Ok(()) };
    match unmount(&place, UnmountFlags::NOFOLLOW) {
        Err(rustix::io::Errno::BUSY) => {
            failure(FailureKind::Busy, format!("{} is in use", place.display()))
        }
        other => other.because(format!("cannot unmount {}", place.display())),
    }
}

/// Grows the file system of a mounted drive to the size of its device.
pub(crate) fn resize(label: &str) -> Outcome<String> {
    let drive = find(label)?;
    let Some(place) = mount_point_of(&drive.device()) else {
        return failure(FailureKind::Invalid, format!("{label} is not mounted"));
    };
    let sectors = fs::read_to_string(format!("/sys/class/block/{}/size", drive.name))
        .because("cannot read the size of the drive")?;
    let sectors: u64 = sectors.trim().parse().unwrap_or(0);
    let blocks = sectors * 512 / drive.superblock.block_size;
    let directory = File::open(&place).because(format!("cannot open {}", place.display()))?;
    rustix::fs::ext4_ioc_resize_fs(&directory, blocks)
        .because(format!("cannot grow {label} to {blocks} blocks"))?;
    Ok(format!("{} bytes", blocks * drive.superblock.block_size))
}

/// Does something with a drive mounted read-only, and unmounts it.
fn with_mounted<T>(label: &str, act: impl FnOnce(&Path) -> Outcome<T>) -> Outcome<T> {
    let device = find(label)?.device();
    let place = PathBuf::from("/run/mvm-mount");
    fs::create_dir_all(&place).because("cannot make a mount point")?;
    let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
    mount(&device, &place, c"ext4", flags, None).because(format!("cannot mount {label}"))?;
    let result = act(&place);
    unmount(&place, UnmountFlags::NOFOLLOW).because(format!("cannot unmount {label}"))?;
    result
}

/// Reads the config drive: its files go to `/etc/mvm-config`, the configuration is the result.
pub(crate) fn read_config(agent: &Agent) -> Outcome<GuestConfig> {
    let target = &agent.places.config;
    with_mounted(CONFIG_LABEL, |drive| {
        let json = read_small(&drive.join("config.json"))?;
        let config = parse_config(&json)?;
        write_public(&target.join("config.json"), &json)?;
        if let Ok(routes) = read_small(&drive.join(routes::FILE)) {
            write_public(&target.join(routes::FILE), &routes)?;
        }
        Ok(config)
    })
}

/// Reads `config.json`.
pub(crate) fn parse_config(json: &[u8]) -> Outcome<GuestConfig> {
    serde_json::from_slice(json).or_else(|error| {
        failure(FailureKind::Invalid, format!("config.json is malformed: {error}"))
    })
}

/// Writes a file that everybody may read and nobody write, in one step.
pub(crate) fn write_public(path: &Path, contents: &[u8]) -> Outcome<()> {
    let act = format!("cannot write {}", path.display());
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).because(&act)?;
    }
    place(path, contents, 0o444, None).because(act)
}

/// Writes beside the target and renames, so that a reader sees the old or the new file.
fn place(
    path: &Path,
    contents: &[u8],
    mode: u32,
    owner: Option<(u32, u32)>,
) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".mvm-new");
    let beside = path.with_file_name(name);
    let _ = fs::remove_file(&beside);
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(contents)?;
    if let Some((uid, gid)) = owner {
        chown(&beside, Some(uid), Some(gid))?;
    }
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    fs::rename(&beside, path)
}

fn read_small(path: &Path) -> Outcome<Vec<u8>> {
    let act = format!("cannot read {}", path.display());
    let mut contents = Vec::new();
    let file = File::open(path).because(&act)?;
    file.take(FILE_MAX + 1).read_to_end(&mut contents).because(&act)?;
    if u64::try_from(contents.len()).unwrap_or(u64::MAX) > FILE_MAX {
        return failure(FailureKind::Invalid, format!("{} is too large", path.display()));
    }
    Ok(contents)
}

/// Reads the secrets drive again and tells the worker through `/run/mvm/secrets-epoch`.
pub(crate) fn refresh_secrets(agent: &Agent, epoch: u64) -> Outcome<()> {
    let _one_at_a_time = agent.change();
    read_secrets(agent, Some(epoch))
}

/// Fills `/run/secrets` from the secrets drive.
pub(crate) fn read_secrets(agent: &Agent, epoch: Option<u64>) -> Outcome<()> {
    let target = &agent.places.secrets;
    with_mounted(SECRETS_LABEL, |drive| fill_secrets(target, || mirror(drive, target)))?;
    match epoch.or_else(|| agent.config().map(|config| config.secrets_epoch)) {
        Some(epoch) => note_secrets(agent, epoch),
        None => Ok(()),
    }
}

/// Makes `/run/secrets` without any, for a guest that does not know yet whether it has some.
pub(crate) fn without_secrets(agent: &Agent) -> Outcome<()> {
    fill_secrets(&agent.places.secrets, || Ok(()))?;
    note_secrets(agent, 0)
}

/// Fills the secrets' tmpfs, which can be written only meanwhile.
fn fill_secrets(target: &Path, fill: impl FnOnce() -> Outcome<()>) -> Outcome<()> {
    let flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
    fs::create_dir_all(target).because("cannot make the secrets' place")?;
    if device_at(target).is_none() {
        mount("tmpfs", target, c"tmpfs", flags, c"mode=0755,size=16m")
            .because("cannot make the secrets' tmpfs")?;
    } else {
        mount_remount(target, flags, c"").because("cannot open the secrets' tmpfs")?;
    }
    let filled = fill();
    mount_remount(target, flags | MountFlags::RDONLY, c"")
        .because("cannot close the secrets' tmpfs")?;
    filled
}

fn note_secrets(agent: &Agent, epoch: u64) -> Outcome<()> {
    agent.set_secrets_epoch(epoch);
    let note = agent.places.run.join("secrets-epoch");
    place(&note, format!("{epoch}\n").as_bytes(), 0o444, None)
        .because("cannot tell the worker about the secrets")
}

/// Makes `target` hold the regular files of `source`, each replaced in one step, and no others.
pub(crate) fn mirror(source: &Path, target: &Path) -> Outcome<()> {
    let act = format!("cannot copy to {}", target.display());
    let mut kept = vec![std::ffi::OsString::from("lost+found")];
    for entry in fs::read_dir(source).because(&act)? {
        let entry = entry.because(&act)?;
        let name = entry.file_name();
        let metadata = fs::symlink_metadata(entry.path()).because(&act)?;
        let to = target.join(&name);
        if name == "lost+found" {
            continue;
        }
        if metadata.is_dir() {
            if !to.is_dir() {
                let _ = fs::remove_file(&to);
                fs::create_dir(&to).because(&act)?;
            }
            mirror(&entry.path(), &to)?;
        } else if metadata.is_file() {
            if to.is_dir() {
                fs::remove_dir_all(&to).because(&act)?;
            }
            let owner = rustix::process::geteuid().is_root();
            let owner = owner.then(|| (metadata.uid(), metadata.gid()));
            place(&to, &read_small(&entry.path())?, 0o400, owner).because(&act)?;
        } else {
            continue;
        }
        kept.push(name);
    }
    for entry in fs::read_dir(target).because(&act)?.flatten() {
        if kept.contains(&entry.file_name()) {
            continue;
        }
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let removed = if is_directory {
            fs::remove_dir_all(entry.path())
        } else {
            fs::remove_file(entry.path())
        };
        removed.because(&act)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
