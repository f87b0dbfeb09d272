//! The emulated machine: one fixed shape, because a frozen state resumes only in the shape that
//! it was frozen in.
//!
//! Knows nothing about what runs inside.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::error::{Act, Result};
use crate::tool;

/// Virtual processors; part of the frozen shape. With two, now and then both spin with interrupts off; two
/// hosts side by side with one each get as much done (ARCHITECTURE.md).
pub(crate) const CPUS: u32 = 1;
/// Memory in MiB; part of the frozen shape.
pub(crate) const MEMORY_MIB: u32 = 4096;
/// Size of the root disk in GiB.
pub(crate) const DISK_GIB: u32 = 8;
/// Size in bytes of the read-only disk that carries the payload; part of the frozen shape.
pub(crate) const PAYLOAD_BYTES: u64 = 4 << 30;
/// MAC address of the interface that ssh comes through.
pub(crate) const MAC_CONTROL: &str = "52:54:00:6d:76:01";
/// MAC address that the interface between hosts is frozen with.
pub(crate) const MAC_PEERS: &str = "52:54:00:6d:76:02";

/// `norandmaps`: the emulator keeps translated code by its address, so a program that lies elsewhere at
/// each start is translated anew each time; without, `mvm tenant list` takes 53 ms instead of 343 ms.
const KERNEL_ARGUMENTS: &str =
    "console=ttyS0 root=/dev/vda rw quiet mitigations=off norandmaps tsc=reliable panic=1";

/// How the second interface is connected.
#[derive(Clone, Debug)]
pub(crate) enum Peers {
    /// To nothing.
    None,
    /// To a tap device in a network namespace; the machine runs in it.
    Tap {
        /// The namespace's name.
        namespace: String,
        /// The device's name.
        tap: String,
    },
}

/// One machine to start.
pub(crate) struct Machine<'a> {
    /// Directory for sockets and logs.
    pub(crate) dir: &'a Path,
    /// Directory with `vmlinuz` and `initrd.img`.
    pub(crate) boot: &'a Path,
    /// The root disk, qcow2.
    pub(crate) disk: PathBuf,
    /// The payload disk, raw.
    pub(crate) payload: PathBuf,
    /// The port on 127.0.0.1 that leads to the host's port 22.
    pub(crate) port: u16,
    /// The second interface.
    pub(crate) peers: Peers,
    /// A state to resume from; boots without.
    pub(crate) resume: Option<PathBuf>,
    /// Whether the machine survives the task that starts it.
    pub(crate) lifetime: Lifetime,
}

/// How long a machine lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// It dies with the task, even when that is killed.
    Task,
    /// Until it is ended.
    Ended,
}

/// What identifies the frozen shape, for the image's key.
pub(crate) fn shape() -> Result<String> {
    let version = tool::capture(&mut tool::command(&["qemu-system-x86_64", "--version"]))?;
    let version = version.lines().next().unwrap_or_default().to_owned();
    Ok(format!("{version} {CPUS} {MEMORY_MIB} {DISK_GIB} {PAYLOAD_BYTES} {KERNEL_ARGUMENTS}"))
}

impl Machine<'_> {
    /// Starts the emulator; its output goes to `qemu.log`, the console to `console.log`.
    pub(crate) fn start(&self) -> Result<Child> {
        let log_path = self.dir.join("qemu.log");
        let log = File::create(&log_path).act(|| format!("create {}", log_path.display()))?;
        let errors = log.try_clone().act(|| "duplicate a descriptor".into())?;
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.spawn().act(|| "start qemu-system-x86_64".into())
    }

    fn command(&self) -> Command {
        let mut words: Vec<&str> = Vec::new();
        if let Peers::Tap { namespace, .. } = &self.peers {
            words.extend(["ip", "netns", "exec", namespace]);
        }
        if self.lifetime == Lifetime::Task {
            words.extend(["setpriv", "--pdeathsig", "KILL"]);
        }
        words.push("qemu-system-x86_64");
        let mut command = tool::command(&words);
        command.current_dir(self.dir);
        command.args(["-accel", "tcg,thread=multi,tb-size=1024"]);
        command.args(["-cpu", "EPYC,+svm,+npt,check=off"]);
        command.args(["-smp", &CPUS.to_string(), "-m", &MEMORY_MIB.to_string()]);
        command.arg("-kernel").arg(self.boot.join("vmlinuz"));
        command.arg("-initrd").arg(self.boot.join("initrd.img"));
        command.args(["-append", KERNEL_ARGUMENTS]);
        command.arg("-drive").arg(drive(&self.disk, "qcow2", "cache=unsafe"));
        command.arg("-drive").arg(drive(&self.payload, "raw", "readonly=on"));
        let forward = format!("user,id=n0,hostfwd=tcp:127.0.0.1:{}-:22", self.port);
        command.args(["-netdev", &forward]);
        command.args(["-device", &format!("virtio-net-pci,netdev=n0,mac={MAC_CONTROL}")]);
        let peers = match &self.peers {
            Peers::None => "user,id=n1,restrict=on,net=10.0.3.0/24".to_owned(),
            Peers::Tap { tap, .. } => format!("tap,id=n1,ifname={tap},script=no,downscript=no"),
        };
        command.args(["-netdev", &peers]);
        command.args(["-device", &format!("virtio-net-pci,netdev=n1,mac={MAC_PEERS}")]);
        command.args(["-device", "virtio-rng-pci", "-display", "none"]);
        command.args(["-qmp", "unix:qmp.sock,server=on,wait=off", "-serial", "file:console.log"]);
        if let Some(state) = &self.resume {
            command.arg("-incoming").arg(format!("exec:cat '{}'", state.display()));
        }
        command
    }
}

/// Commas in an emulator's option are doubled.
fn drive(path: &Path, format: &str, rest: &str) -> String {
    let file = path.display().to_string().replace(',', ",,");
    format!("file={file},if=virtio,format={format},{rest}")
}
