//! What a test host is made of, and the state it is frozen in.
//!
//! Made once per recipe: root file system, first boot, freeze. Everything that changes the result
//! is part of the key. What changes from build to build comes later, as `payload`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::machine::{self, DISK_GIB, Lifetime, MAC_CONTROL, MAC_PEERS, Machine, Peers};
use super::monitor::{Monitor, ensure_alive};
use super::rundir::RunDir;
use super::session::{Session, Terminal};
use super::test_host::free_port;
use crate::cache::{Cache, Key};
use crate::error::{Act, Result};
use crate::{apt, firecracker, tool};

/// Raised when the way of making the image changes.
const RECIPE: &str = "5";

/// Everything beyond Debian's `apt` variant.
const PACKAGES: &[&str] = &[
    "ca-certificates",
    "cryptsetup-bin",
    "curl",
    "dbus",
    "docker-registry",
    "e2fsprogs",
    "gojq",
    "iproute2",
    "iputils-arping",
    "iputils-ping",
    "kmod",
    "linux-image-cloud-amd64",
    "netcat-openbsd",
    "nftables",
    "openssh-client",
    "openssh-server",
    "procps",
    "prometheus",
    "psmisc",
    "python3",
    "socat",
    "sqlite3",
    "strace",
    "systemd-sysv",
    "tcpdump",
    "udev",
    "util-linux",
    "xfsprogs",
];

/// What is left out of packages: the pages of Prometheus bring 214 MiB of time zones along.
const UNUSED: &str = "/usr/share/javascript/*";

/// Modules loaded at boot, so that no test waits for them.
const MODULES: &[&str] = &[
    "kvm_amd",
    "tun",
    "bridge",
    "veth",
    "dm_mod",
    "dm_crypt",
    "loop",
    "overlay",
    "squashfs",
    "nf_tables",
    "nft_masq",
    "nft_ct",
    "nft_reject_inet",
    "vhost_vsock",
    "xfs",
];

/// What would wake up in the middle of a measurement; Prometheus and the registry run where a script
/// starts them.
const MASKED: &[&str] = &[
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "docker-registry.service",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "prometheus.service",
    "systemd-tmpfiles-clean.timer",
];

/// Small files of the root file system: path and content.
const FILES: &[(&str, &str)] = &[
    ("etc/hostname", "host1\n"),
    ("etc/fstab", "/dev/vda / ext4 rw,noatime 0 1\n"),
    ("etc/resolv.conf", "nameserver 10.0.2.3\n"),
    ("etc/systemd/journald.conf.d/small.conf", "[Journal]\nStorage=volatile\nRuntimeMaxUse=8M\n"),
    ("etc/ssh/ssh_config.d/peers.conf", "Host host*\nStrictHostKeyChecking no\nLogLevel ERROR\n"),
    ("etc/ssh/sshd_config.d/quick.conf", "UseDNS no\nMaxSessions 64\n"),
];

/// Run in the host just before the freeze: everything started, the common programs in memory.
const WARM_UP: &str = "systemctl is-system-running --wait >/dev/null
test -c /dev/kvm
for module in $(cat /etc/modules); do modprobe \"$module\"; done
for program in bash cat cp date ls mkdir mount rm sed sleep tar umount; do $program --version; done
python3 -c 'import json, os, socket, subprocess'
perl -e 1; nft list ruleset; ip link; ip netns; jq -n 1; curl --version; sqlite3 -version
sync
";

/// A frozen host.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    dir: PathBuf,
}

impl Image {
    /// The image of the present recipe, made when it is missing.
    pub(crate) fn ensure(cache: &Cache) -> Result<Self> {
        apt::require(apt::HOST)?;
        let firecracker = firecracker::ensure(cache)?;
        let dir = cache.ensure("host-image", &current_key()?, |work| {
            let root = work.join("root");
            install(&root)?;
            configure(work, &root, &firecracker)?;
            pack(work, &root)?;
            freeze(cache, work)
        })?;
        Ok(Self { dir })
    }

    /// Directory with `vmlinuz` and `initrd.img`.
    pub(crate) fn boot(&self) -> &Path {
        &self.dir
    }

    /// The read-only base of every host's root disk.
    pub(crate) fn disk(&self) -> PathBuf {
        self.dir.join("host.qcow2")
    }

    /// The frozen state.
    pub(crate) fn state(&self) -> PathBuf {
        self.dir.join("booted.state")
    }

    /// The private key that every host accepts.
    pub(crate) fn key(&self) -> PathBuf {
        self.dir.join("key")
    }
}

/// The key of the artefact `host-image`.
pub(crate) fn current_key() -> Result<String> {
    Ok(key(&apt::suite()?, &machine::shape()?))
}

fn key(suite: &str, shape: &str) -> String {
    let mut key = Key::new().with(RECIPE).with(suite).with(shape).with(WARM_UP).with(UNUSED);
    key = key.with(firecracker::VERSION).with(networks().concat());
    for list in [PACKAGES, MODULES, MASKED] {
        key = key.with(list.join(" "));
    }
    FILES.iter().fold(key, |key, (path, text)| key.with(path).with(text)).finish()
}

/// The two interfaces: a fixed address of the emulator's own network; nothing.
fn networks() -> [String; 2] {
    [
        format!(
            "[Match]\nMACAddress={MAC_CONTROL}\n[Network]\nAddress=10.0.2.15/24\n\
             Gateway=10.0.2.2\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n"
        ),
        format!("[Match]\nMACAddress={MAC_PEERS}\n[Link]\nUnmanaged=yes\n"),
    ]
}

fn install(root: &Path) -> Result<()> {
    eprintln!("xtask:   installing Debian");
    let mut command = tool::command(&["mmdebstrap", "--quiet", "--variant=apt"]);
    command.arg(format!("--include={}", PACKAGES.join(",")));
    command.arg(format!("--dpkgopt=path-exclude={UNUSED}"));
    tool::silent(command.arg(apt::suite()?).arg(root))
}

fn configure(work: &Path, root: &Path, firecracker: &Path) -> Result<()> {
    for (path, text) in FILES {
        write(&root.join(path), text)?;
    }
    for (name, text) in ["10-control", "20-peers"].iter().zip(networks()) {
        write(&root.join(format!("etc/systemd/network/{name}.network")), &text)?;
    }
    write(&root.join("etc/modules"), &MODULES.join("\n"))?;
    let key = work.join("key");
    tool::silent(tool::command(&["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key))?;
    let public = fs::read_to_string(work.join("key.pub")).act(|| "read the public key".into())?;
    write(&root.join("root/.ssh/authorized_keys"), &public)?;
    // Hosts of a group reach each other with the key that reaches them.
    fs::copy(&key, root.join("root/.ssh/id_ed25519")).act(|| "copy the key".into())?;
    fs::set_permissions(root.join("root/.ssh"), fs::Permissions::from_mode(0o700))
        .act(|| "protect /root/.ssh".into())?;
    let binaries = format!("var/lib/mvm/binaries/firecracker-{}", firecracker::VERSION);
    for name in ["firecracker", "jailer"] {
        let target = root.join(&binaries).join(name);
        make_parent(&target)?;
        fs::copy(firecracker.join(name), &target).act(|| format!("copy {name}"))?;
    }
    // Debian's own jq takes 250 ms to start there, this one 34 ms; it speaks the same language.
    symlink("/usr/bin/gojq", root.join("usr/local/bin/jq")).act(|| "link jq".into())?;
    let chroot = |words: &[&str]| tool::silent(tool::command(&["chroot"]).arg(root).args(words));
    chroot(&["systemctl", "enable", "systemd-networkd", "ssh"])?;
    chroot(&[&["systemctl", "mask"], MASKED].concat())
}

/// Turns the tree into a disk and takes the kernel out of it.
fn pack(work: &Path, root: &Path) -> Result<()> {
    eprintln!("xtask:   packing the disk");
    for (prefix, name) in [("vmlinuz-", "vmlinuz"), ("initrd.img-", "initrd.img")] {
        let found = fs::read_dir(root.join("boot"))
            .act(|| "read the image's /boot".into())?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .find(|path| {
                path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
            })
            .ok_or_else(|| crate::error::Error::refused(format!("no {prefix}* in /boot")))?;
        fs::copy(found, work.join(name)).act(|| format!("copy {name}"))?;
    }
    let raw = work.join("host.raw");
    // With a journal, as every host has that may lose its power.
    let mut make = tool::command(&["mke2fs", "-q", "-t", "ext4", "-J", "size=64", "-d"]);
    tool::silent(make.arg(root).arg(&raw).arg(format!("{DISK_GIB}G")))?;
    let mut convert = tool::command(&["qemu-img", "convert", "-O", "qcow2"]);
    tool::silent(convert.arg(&raw).arg(work.join("host.qcow2")))?;
    fs::remove_file(&raw).act(|| "remove the raw disk".into())?;
    fs::remove_dir_all(root).act(|| "remove the tree".into())
}

/// Boots the disk once and writes the stopped machine's state beside it.
fn freeze(cache: &Cache, work: &Path) -> Result<()> {
    eprintln!("xtask:   booting and freezing");
    let run = RunDir::create(cache)?;
    let payload = run.path().join("payload");
    super::payload::blank(&payload)?;
    let port = free_port()?;
    let machine = Machine {
        dir: run.path(),
        boot: work,
        disk: work.join("host.qcow2"),
        payload,
        port,
        peers: Peers::None,
        resume: None,
        lifetime: Lifetime::Task,
    };
    let mut emulator = machine.start()?;
    run.record("emulator", emulator.id())?;
    let mut monitor = Monitor::connect(run.path(), &mut emulator)?;
    let session = Session::new(run.path(), &work.join("key"), port, Vec::new());
    let mut ssh =
        session.connect(Duration::from_secs(400), || ensure_alive(run.path(), &mut emulator))?;
    let warm_up = ["bash", "-c", WARM_UP].map(str::to_owned);
    tool::silent(&mut session.command(&warm_up, Terminal::No))?;
    let _gone_already = ssh.kill();
    let _status = ssh.wait();
    monitor.ask("stop", &json!({}))?;
    let uri = format!("exec:cat > '{}'", work.join("booted.state").display());
    monitor.ask("migrate-set-parameters", &json!({ "max-bandwidth": 4_u64 << 30 }))?;
    monitor.ask("migrate", &json!({ "uri": uri }))?;
    monitor.await_status("query-migrate", "completed", Duration::from_secs(120))?;
    monitor.ask("quit", &json!({}))?;
    emulator.wait().act(|| "wait for the emulator's end".into())?;
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    make_parent(path)?;
    // A link such as /etc/resolv.conf must be replaced, not followed out of the tree.
    let _may_be_missing = fs::remove_file(path);
    fs::write(path, text).act(|| format!("write {}", path.display()))
}

fn make_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).act(|| format!("create {}", parent.display()))
}
