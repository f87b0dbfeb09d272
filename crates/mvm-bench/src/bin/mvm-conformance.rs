//! The conformance suite over the real host, as root in a test host: one line a case, exit code 1
//! when one fails. Everything goes through the daemon with root, as an agent without root sees the host.

#[path = "../collect.rs"]
mod collect;

use std::{
    fs,
    io::{self, Write},
    os::unix::net::UnixListener,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use collect::output_of;
use mvm_core::{
    Error, ErrorKind,
    id::{ImageHash, InstanceId, InstanceRef, RequestKey},
    layout,
    port::{
        BuildOrder, Builder, BuiltRoot, ExecStatus, Guest, PlacedRoot, Prepared, Progress,
        SecretsToSeal, Vault,
    },
    secrets::SecretsSource,
    units::Generation,
};
use mvm_host::{
    disk::key,
    guest::VsockGuest,
    ipc::{client::HostdClient, home::Keeper, server::Server},
    local::LocalHost,
    roots::Roots,
    secrets::LocalVault,
};
use mvm_sim::conformance::{self, Rig, Subject};
use rustix::process::{Pid, Signal, kill_process};

/// How long a killed process may take to be noticed.
const NOTICE: Duration = Duration::from_secs(20);
/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(20);

struct RealRig {
    roots: Roots,
    guest: Arc<VsockGuest>,
    image: ImageHash,
}

fn failed(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Failed, message)
}

impl RealRig {
    /// Kills everything in one leaf of the instance's cgroup, and waits until it is empty and
    /// `noticed`.
    fn kill(&self, id: &InstanceId, leaf: &str, noticed: impl Fn() -> bool) -> Result<(), Error> {
        let leaf = self.roots.cgroup.join(layout::cgroup(id)).join(leaf);
        let read = |file: &str| fs::read_to_string(leaf.join(file)).unwrap_or_default();
        let procs = read("cgroup.procs");
        let pids: Vec<i32> = procs.lines().filter_map(|line| line.parse().ok()).collect();
        if pids.is_empty() {
            return Err(failed(format!("no process in {}", leaf.display())));
        }
        for pid in pids.into_iter().filter_map(Pid::from_raw) {
            // One that is gone already is as dead as it shall be.
            let _ = kill_process(pid, Signal::KILL);
        }
        let until = Instant::now() + NOTICE;
        while !(read("cgroup.events").contains("populated 0") && noticed()) {
            if Instant::now() > until {
                return Err(failed(format!("nobody noticed the death in {}", leaf.display())));
            }
            std::thread::sleep(INTERVAL);
        }
        Ok(())
    }
}

impl Rig for RealRig {
    fn image(&self) -> ImageHash {
        self.image.clone()
    }

    fn litter(&self, instance: &InstanceRef) -> Result<ImageHash, Error> {
        let spare: ImageHash = "e".repeat(64).parse().map_err(|_| failed("no hash"))?;
        let version = conformance::SPARE.parse().map_err(|_| failed("no version"))?;
        let data = &self.roots.data;
        for (directory, name) in [
            (data.join(layout::data::image(&spare)), "rootfs.squashfs"),
            (data.join(layout::data::logs(instance)), "console.log.1"),
            (data.join(layout::data::DOWNLOADS).join("blobs"), "something.deb"),
            (data.join(layout::data::vmm(&version)), "firecracker"),
        ] {
            fs::create_dir_all(&directory)
                .and_then(|()| fs::write(directory.join(name), "litter"))
                .map_err(|error| failed("cannot make litter").because(&error))?;
        }
        Ok(spare)
    }

    fn kill_vmm(&self, id: &InstanceId) -> Result<(), Error> {
        let run = self.roots.run.join(layout::run::instance(id));
        let has_shim = fs::read_to_string(
            self.roots.cgroup.join(layout::cgroup(id)).join("shim").join("cgroup.procs"),
        )
        .is_ok_and(|pids| !pids.is_empty());
        self.kill(id, "vmm", || !has_shim || run.join("out/exit.json").exists())
    }

    fn kill_shim(&self, id: &InstanceId) -> Result<(), Error> {
        self.kill(id, "shim", || true)
    }

    fn seal(&self, instance: &InstanceRef, epoch: Generation) -> Result<u64, Error> {
        let number = epoch.0 * 7919 + 13;
        let path = self.roots.run.join("conformance-secrets.json");
        let written = fs::write(&path, format!("{{\"number\": \"{number}\"}}"));
        written.map_err(|error| failed("cannot write secrets").because(&error))?;
        let source = SecretsSource::File(path.clone());
        let tenant = &instance.tenant;
        let keyed = key::exists(&self.roots, tenant)?;
        let ask = SecretsToSeal { tenant, epoch, keyed, source: &source };
        let sealed = LocalVault::new(self.roots.clone(), |_| None).seal(&ask);
        let _ = fs::remove_file(path);
        sealed.map(|_| number)
    }

    fn secrets(&self, instance: &InstanceRef) -> Result<u64, Error> {
        let script = "cat /run/secrets/secrets.json 2>/dev/null || echo 0";
        let exec = |request: &_, streams| self.guest.exec(instance, request, streams);
        let (_, text) = output_of(&["/bin/busybox", "sh", "-c", script], exec)?;
        let digits: String = text.chars().filter(char::is_ascii_digit).collect();
        digits.parse().map_err(|_| failed("the guest's secrets are no number"))
    }

    fn count(&self, instance: &InstanceRef) -> Result<u64, Error> {
        let script = "n=$(($(cat /run/count 2>/dev/null || echo 0) + 1)); echo $n | tee /run/count";
        let exec = |request: &_, streams| self.guest.exec(instance, request, streams);
        let (status, text) = output_of(&["/bin/busybox", "sh", "-ec", script], exec)?;
        if status != ExecStatus::Code(0) {
            return Err(failed(format!("the counter ended with {status:?}")));
        }
        text.trim().parse().map_err(|_| failed(format!("{text:?} is no number")))
    }
}

/// The daemon that touches this machine, in a thread of its own: each act and each look crosses its
/// socket, its admission and its ledger.
fn daemon(roots: &Roots) -> io::Result<HostdClient> {
    let socket = roots.run.join(layout::run::HOSTD);
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket)?;
    let keeper = Keeper { uid: 65_534, gid: 65_534 };
    let host = LocalHost::new(roots.clone());
    let server = Server::new(host, keeper, "/nonexistent".into(), Box::new(NoBuilder));
    std::thread::spawn(move || Arc::new(server).serve(&listener, || false));
    Ok(HostdClient::at(socket))
}

/// No case builds.
struct NoBuilder;

impl Builder for NoBuilder {
    fn ensure_image(&self, _: &BuildOrder, _: &Arc<dyn Progress>) -> Result<Prepared, Error> {
        Err(failed("nothing is built here"))
    }

    fn find_image(&self, _: &RequestKey) -> Result<Option<ImageHash>, Error> {
        Ok(None)
    }

    fn place_root(&self, _: &PlacedRoot) -> Result<(), Error> {
        Err(failed("nothing is built here"))
    }

    fn import_root(&self, _: &BuiltRoot, _: &Arc<dyn Progress>) -> Result<ImageHash, Error> {
        Err(failed("nothing is built here"))
    }
}

fn main() -> ExitCode {
    let roots = Roots {
        data: PathBuf::from("/var/lib/mvm"),
        run: PathBuf::from("/run/mvm"),
        cgroup: PathBuf::from("/sys/fs/cgroup"),
        reserve_percent: 10,
        firecracker: mvm_core::id::VmmVersion::built_in(),
        shim: PathBuf::from("/usr/local/bin/mvm-shim"),
        pager: PathBuf::from("/usr/local/bin/mvm-pager"),
        resolv_conf: "/etc/resolv.conf".into(),
        given: Arc::default(),
    };
    let mut out = io::stdout();
    let named = fs::read_to_string(roots.data.join("images/refs/default"));
    let Some(image) = named.ok().and_then(|hash| hash.trim().parse().ok()) else {
        let _ = writeln!(out, "there is no default image");
        return ExitCode::from(2);
    };
    let daemon = match daemon(&roots) {
        Ok(daemon) => daemon,
        Err(error) => {
            let _ = writeln!(out, "no daemon serves: {error}");
            return ExitCode::from(2);
        }
    };
    let host = daemon.clone();
    let guest = Arc::new(VsockGuest::through(daemon));
    let rig = RealRig { roots, guest: guest.clone(), image };
    let (mut passed, mut broken) = (0, 0);
    let subject = Subject { host: &host, guest: &*guest, rig: &rig };
    conformance::run(&subject, &mut |name, result| {
        let line = match result {
            Ok(()) => {
                passed += 1;
                format!("ok: {name}")
            }
            Err(why) => {
                broken += 1;
                format!("FAILED: {name}: {why}")
            }
        };
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    });
    let _ = writeln!(io::stdout(), "{passed} cases passed, {broken} failed");
    if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
