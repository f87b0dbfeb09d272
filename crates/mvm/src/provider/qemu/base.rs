//! The base of every machine: Debian as a read-only disk, made once per recipe.
//!
//! It holds nothing of this caller: keys and programs come with the seed. A base is a directory
//! named by its recipe's key, published by rename; what an interrupted making left is swept.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use mvm_build::ContentHash;
use mvm_core::{
    error::{Error, ErrorKind},
    port::{Progress, ProgressStep},
};
use mvm_host::tool;

use crate::provider::files::fault;

/// Raised when the way of making it changes.
const RECIPE: &str = "2";
/// The size of the base's file system in GiB; a machine's own disk grows it.
pub(in crate::provider) const DISK_GIB: u32 = 8;
/// How long installing Debian may take.
const INSTALL: Duration = Duration::from_secs(1800);
/// How long everything else may take.
const WORK: Duration = Duration::from_secs(600);

/// Everything beyond Debian's `apt` variant.
const PACKAGES: &[&str] = &[
    "ca-certificates",
    "cryptsetup-bin",
    "dbus",
    "e2fsprogs",
    "iproute2",
    "iputils-ping",
    "kmod",
    "linux-image-cloud-amd64",
    "lz4",
    "nftables",
    "openssh-server",
    "procps",
    "systemd-sysv",
    "udev",
];

/// Units that only cost time in a machine like this.
const MASKED: &[&str] = &[
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "getty@tty1.service",
    "serial-getty@ttyS0.service",
    "systemd-firstboot.service",
    "systemd-networkd-wait-online.service",
    "systemd-pstore.service",
];

/// Units that are started with the machine, by the target that wants them.
const ENABLED: &[(&str, &str)] = &[
    ("multi-user.target", "/lib/systemd/system/ssh.service"),
    ("multi-user.target", "/lib/systemd/system/systemd-networkd.service"),
    ("multi-user.target", "/etc/systemd/system/mvm-seed.service"),
    ("multi-user.target", "/etc/systemd/system/mvm-ready.service"),
];

/// Laid into the tree before packages are configured, so that the first file system of the boot is
/// small from the start.
const EARLY: &[(&str, &str)] = &[
    ("etc/initramfs-tools/conf.d/mvm", "MODULES=list\nCOMPRESS=lz4\n"),
    ("usr/share/initramfs-tools/modules.d/mvm", "virtio_pci\nvirtio_blk\next4\ncrc32c_generic\n"),
];

/// What the machine says on its console when it answers.
pub(super) const READY: &str = "mvm-machine: ready";

/// Small files of the tree: path and content.
const FILES: &[(&str, &str)] = &[
    ("etc/hostname", "mvm\n"),
    ("etc/hosts", "127.0.0.1 localhost\n127.0.1.1 mvm\n"),
    ("etc/fstab", "/dev/vda / ext4 rw,noatime,x-systemd.growfs 0 1\n"),
    ("etc/resolv.conf", "nameserver 10.0.2.3\n"),
    // Before the machine says that it answers; left to udev it may come later.
    ("etc/modules", "kvm_amd\ntun\n"),
    ("etc/systemd/journald.conf.d/mvm.conf", "[Journal]\nSystemMaxUse=64M\n"),
    (
        "etc/ssh/sshd_config.d/mvm.conf",
        "UseDNS no\nMaxSessions 64\nPasswordAuthentication no\nHostKey /etc/ssh/mvm_host_key\n",
    ),
    (
        "etc/systemd/network/10-uplink.network",
        "[Match]\nType=ether\nName=en*\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\n\
         LinkLocalAddressing=no\nIPv6AcceptRA=no\n",
    ),
    (
        "etc/systemd/system/mvm-seed.service",
        "[Unit]\nDescription=Take what the caller put on the second disk\n\
         ConditionPathExists=/dev/vdb\nDefaultDependencies=no\nAfter=local-fs.target\n\
         Before=sysinit.target shutdown.target\nConflicts=shutdown.target\n\
         [Service]\nType=oneshot\nRemainAfterExit=yes\n\
         ExecStart=/usr/bin/tar --extract --file=/dev/vdb --directory=/ --no-same-owner \
         --preserve-permissions --keep-directory-symlink\nExecStart=/usr/bin/sync\n\
         [Install]\nWantedBy=multi-user.target\n",
    ),
    (
        "etc/systemd/system/mvm-ready.service",
        "[Unit]\nDescription=Tell the caller that the machine answers\n\
         After=ssh.service mvm-seed.service systemd-networkd.service\n\
         [Service]\nType=oneshot\nExecStart=/bin/echo mvm-machine: ready\nStandardOutput=tty\n\
         TTYPath=/dev/ttyS0\n[Install]\nWantedBy=multi-user.target\n",
    ),
];

/// The suite to install: the caller's, so that its programs find their C library; Debian 12 where
/// the caller is no Debian.
fn suite() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let field = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name))?;
        Some(value.trim_matches('"').to_owned())
    };
    match (field("ID=").as_deref(), field("VERSION_CODENAME=")) {
        (Some("debian"), Some(name)) => name,
        (_, _) => "bookworm".to_owned(),
    }
}

/// The key of the present recipe: 16 hexadecimal digits.
#[must_use]
pub fn base_key() -> String {
    let mut recipe = format!("{RECIPE}\n{}\n{DISK_GIB}\n", suite());
    for list in [PACKAGES, MASKED] {
        recipe.push_str(&list.join(" "));
        recipe.push('\n');
    }
    for (path, text) in EARLY.iter().chain(FILES).chain(ENABLED) {
        recipe.push_str(&format!("{path}\n{text}\n"));
    }
    ContentHash::of(recipe.as_bytes()).to_string().chars().take(16).collect()
}

/// Where a base is, below the machine's directory.
pub(super) fn directory(host: &Path, key: &str) -> PathBuf {
    host.join(format!("base-{key}"))
}

/// Makes the base of the present recipe unless it is there; returns its key.
pub(super) fn ensure(host: &Path, progress: &dyn Progress) -> Result<String, Error> {
    let key = base_key();
    let finished = directory(host, &key);
    if finished.is_dir() {
        return Ok(key);
    }
    if !rustix::process::geteuid().is_root() {
        return Err(Error::new(ErrorKind::Permission, "making the machine's disk needs root")
            .hint("run it with sudo"));
    }
    let say = |activity: &str| {
        progress.report(&ProgressStep {
            subject: "machine".to_owned(),
            activity: activity.to_owned(),
            done: 0,
            total: 0,
        });
    };
    let work = host.join(format!("base-{key}.partial"));
    if work.exists() {
        fs::remove_dir_all(&work).map_err(fault("sweep", &work))?;
    }
    fs::create_dir_all(&work).map_err(fault("make", &work))?;
    let root = work.join("root");
    say("installing Debian (a few minutes)");
    install(&work, &root)?;
    configure(&root)?;
    say("packing the disk");
    pack(&work, &root)?;
    sync(&work)?;
    fs::rename(&work, &finished).map_err(fault("publish", &finished))?;
    Ok(key)
}

fn install(work: &Path, root: &Path) -> Result<(), Error> {
    let early = work.join("early");
    for (path, text) in EARLY {
        write(&early.join(path), text)?;
    }
    let include = format!("--include={}", PACKAGES.join(","));
    // Two words to the program that unpacks it: it splits at blanks, so the path must have none.
    let early =
        early.to_str().filter(|path| !path.contains(char::is_whitespace)).ok_or_else(|| {
            Error::new(ErrorKind::Invalid, "the data directory's path must not have blanks")
        })?;
    let hook = format!("--essential-hook=sync-in {early} /");
    let mut words = vec!["--pdeathsig", "KILL", "mmdebstrap", "--quiet", "--variant=apt"];
    let suite = suite();
    words.extend([include.as_str(), hook.as_str(), suite.as_str()]);
    let mut args: Vec<&OsStr> = words.into_iter().map(OsStr::new).collect();
    args.push(root.as_os_str());
    tool::run(&tool::find("setpriv")?, &args, b"", INSTALL)?;
    Ok(())
}

fn configure(root: &Path) -> Result<(), Error> {
    for (path, text) in FILES {
        write(&root.join(path), text)?;
    }
    let units = root.join("etc/systemd/system");
    for unit in MASKED {
        link("/dev/null", &units.join(unit))?;
    }
    for (target, unit) in ENABLED {
        let name = Path::new(unit).file_name().unwrap_or_default();
        link(unit, &units.join(format!("{target}.wants")).join(name))?;
    }
    // Each machine draws its own identity and host key.
    for path in ["etc/machine-id", "var/lib/dbus/machine-id"] {
        let _may_be_missing = fs::remove_file(root.join(path));
    }
    // Empty, not absent: a missing one makes the first boot ask questions.
    write(&root.join("etc/machine-id"), "")?;
    for entry in fs::read_dir(root.join("etc/ssh")).map_err(fault("list", root))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with("ssh_host_") {
            fs::remove_file(entry.path()).map_err(fault("remove", &entry.path()))?;
        }
    }
    Ok(())
}

/// Turns the tree into a disk and takes the kernel out of it.
fn pack(work: &Path, root: &Path) -> Result<(), Error> {
    for (prefix, name) in [("vmlinuz-", "vmlinuz"), ("initrd.img-", "initrd.img")] {
        let boot = root.join("boot");
        let found = fs::read_dir(&boot)
            .map_err(fault("list", &boot))?
            .flatten()
            .find(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
        let found = found.ok_or_else(|| {
            Error::new(ErrorKind::Failed, format!("the machine's Debian has no {prefix}*"))
        })?;
        fs::copy(found.path(), work.join(name)).map_err(fault("copy", &found.path()))?;
    }
    let raw = work.join("root.raw");
    let size = format!("{DISK_GIB}G");
    let words = ["-q", "-t", "ext4", "-i", "32768", "-E", "lazy_itable_init=0,lazy_journal_init=0"];
    let mut args: Vec<&OsStr> = words.into_iter().map(OsStr::new).collect();
    args.extend(["-d".as_ref(), root.as_os_str(), raw.as_os_str(), size.as_ref()]);
    tool::run(&tool::find("mke2fs")?, &args, b"", WORK)?;
    let disk = work.join("root.qcow2");
    let mut args = ["convert", "-O", "qcow2"].map(OsStr::new).to_vec();
    args.extend([raw.as_os_str(), disk.as_os_str()]);
    tool::run(&tool::find("qemu-img")?, &args, b"", WORK)?;
    fs::remove_file(&raw).map_err(fault("remove", &raw))?;
    for path in [root.to_owned(), work.join("early")] {
        fs::remove_dir_all(&path).map_err(fault("remove", &path))?;
    }
    fs::set_permissions(&disk, fs::Permissions::from_mode(0o600)).map_err(fault("protect", &disk))
}

/// Makes what was written durable before it gets its name.
fn sync(work: &Path) -> Result<(), Error> {
    for name in ["vmlinuz", "initrd.img", "root.qcow2", "."] {
        let path = work.join(name);
        fs::File::open(&path).and_then(|file| file.sync_all()).map_err(fault("sync", &path))?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).map_err(fault("make", parent))?;
    // A link such as /etc/resolv.conf must be replaced, not followed out of the tree.
    let _may_be_missing = fs::remove_file(path);
    fs::write(path, text).map_err(fault("write", path))
}

fn link(target: &str, path: &Path) -> Result<(), Error> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).map_err(fault("make", parent))?;
    let _may_be_missing = fs::remove_file(path);
    symlink(target, path).map_err(fault("link", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_is_named_by_its_recipe() {
        let key = base_key();
        assert!(key.len() == 16 && key.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_eq!(key, base_key());
    }

    #[test]
    fn the_unit_says_what_the_caller_waits_for() {
        assert!(FILES.iter().any(|(_, text)| text.contains(&format!("echo {READY}\n"))));
    }
}
