//! The bare Firecracker sequence: what anyone has to do, and nothing else.
//!
//! One tap on the tenant's bridge, one cgroup with the same limits, a jail with hard-linked drives,
//! the jailer, and the API calls up to the agent's first reply. No store, no locks, no observation,
//! no shim, no clean-up in the timed part. It shares no code with `mvm` but the guest protocol.

use std::{
    fs,
    io::{self, Read, Write},
    os::{
        fd::AsRawFd,
        unix::{fs::PermissionsExt, net::UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use mvm_proto::{
    generation::Generations,
    message::{Hello, Reply, Request},
    session::{Event, Session},
};

/// What a bare VM is made from.
pub(crate) struct Parts {
    /// Directory with `firecracker` and `jailer`.
    pub(crate) binaries: PathBuf,
    /// Chroot base, on the file system of the image.
    pub(crate) base: PathBuf,
    /// Kernel.
    pub(crate) kernel: PathBuf,
    /// Initramfs, if it has one.
    pub(crate) initrd: Option<PathBuf>,
    /// Read-only root.
    pub(crate) root: PathBuf,
    /// A config drive, up to where it is zero.
    pub(crate) config: Vec<u8>,
    /// Boot arguments.
    pub(crate) args: String,
    /// Memory in MiB.
    pub(crate) memory: u32,
    /// The bridge.
    pub(crate) bridge: String,
}

/// A running bare VM.
pub(crate) struct Bare {
    id: String,
    tap: String,
    uid: u32,
    jail: PathBuf,
    cgroup: PathBuf,
    child: Child,
}

const DEADLINE: Duration = Duration::from_secs(60);
/// The size of the config drive in the snapshot, in bytes.
const CONFIG_SIZE: u64 = 4 << 20;

fn failed(what: impl Into<String>) -> io::Error {
    io::Error::other(what.into())
}

impl Bare {
    /// Boots one and returns it with the time to the agent's first reply.
    pub(crate) fn boot(parts: &Parts, number: u32) -> io::Result<(Self, Duration)> {
        let started = Instant::now();
        let vm = Self::spawn(parts, number)?;
        fs::hard_link(&parts.kernel, vm.jail.join("vmlinux"))?;
        vm.put(
            "/machine-config",
            &format!(r#"{{"vcpu_count":1,"mem_size_mib":{}}}"#, parts.memory),
        )?;
        let initrd = match &parts.initrd {
            Some(initrd) => {
                fs::hard_link(initrd, vm.jail.join("initrd"))?;
                r#","initrd_path":"initrd""#
            }
            None => "",
        };
        vm.put(
            "/boot-source",
            &format!(r#"{{"kernel_image_path":"vmlinux"{initrd},"boot_args":"{}"}}"#, parts.args),
        )?;
        for (name, file, root) in [("rootfs", "rootfs", true), ("config", "config.ext2", false)] {
            vm.put(
                &format!("/drives/{name}"),
                &format!(
                    r#"{{"drive_id":"{name}","path_on_host":"{file}","is_root_device":{root},"is_read_only":true}}"#
                ),
            )?;
        }
        vm.put(
            "/network-interfaces/eth0",
            &format!(
                r#"{{"iface_id":"eth0","host_dev_name":"{}","guest_mac":"02:fc:00:00:00:09"}}"#,
                vm.tap
            ),
        )?;
        vm.put("/vsock", r#"{"guest_cid":3,"uds_path":"run/v.sock"}"#)?;
        vm.put("/entropy", "{}")?;
        vm.put("/actions", r#"{"action_type":"InstanceStart"}"#)?;
        vm.ping()?;
        Ok((vm, started.elapsed()))
    }

    /// Boots one, writes it to `snapshot` for [`Bare::wake`], and ends it.
    pub(crate) fn freeze(parts: &Parts, number: u32, snapshot: &Path) -> io::Result<()> {
        let (vm, _) = Self::boot(parts, number)?;
        vm.snapshot(snapshot)?;
        vm.end()
    }

    /// Restores one from `snapshot` (files `mem` and `vmstate`), as [`Bare::boot`].
    pub(crate) fn wake(
        parts: &Parts,
        number: u32,
        snapshot: &Path,
    ) -> io::Result<(Self, Duration)> {
        let started = Instant::now();
        let vm = Self::spawn(parts, number)?;
        for file in ["mem", "vmstate"] {
            fs::hard_link(snapshot.join(file), vm.jail.join(file))?;
        }
        vm.put(
            "/snapshot/load",
            r#"{"snapshot_path":"vmstate","mem_backend":{"backend_type":"File","backend_path":"mem"},"resume_vm":true}"#,
        )?;
        vm.ping()?;
        Ok((vm, started.elapsed()))
    }

    /// Waits until the guest is configured, pauses, writes a full snapshot, and moves its files,
    /// synced, to `to`.
    pub(crate) fn snapshot(&self, to: &Path) -> io::Result<()> {
        self.until(
            &Request::Status {},
            |reply| matches!(reply, Reply::Status(status) if status.is_configured),
        )?;
        self.request("PATCH", "/vm", r#"{"state":"Paused"}"#)?;
        self.put(
            "/snapshot/create",
            r#"{"snapshot_type":"Full","snapshot_path":"ram/vmstate","mem_file_path":"ram/mem"}"#,
        )?;
        fs::create_dir_all(to)?;
        for file in ["mem", "vmstate"] {
            fs::rename(self.jail.join("ram").join(file), to.join(file))?;
            fs::set_permissions(to.join(file), fs::Permissions::from_mode(0o444))?;
            fs::File::open(to.join(file))?.sync_all()?;
        }
        Ok(())
    }

    /// The VMM's pid.
    pub(crate) fn pid(&self) -> io::Result<u32> {
        let all = fs::read_to_string(self.cgroup.join("cgroup.procs"))?;
        let pid = all.lines().next().and_then(|line| line.parse().ok());
        pid.ok_or_else(|| failed("there is no VMM"))
    }

    /// Ends it and removes what it left.
    pub(crate) fn end(mut self) -> io::Result<()> {
        fs::write(self.cgroup.join("cgroup.kill"), "1")?;
        self.child.wait()?;
        let until = Instant::now() + DEADLINE;
        while fs::read_to_string(self.cgroup.join("cgroup.events"))?.contains("populated 1") {
            if Instant::now() > until {
                return Err(failed("the VMM does not end"));
            }
            std::thread::yield_now();
        }
        fs::remove_dir(&self.cgroup)?;
        tap::remove(&self.tap)?;
        fs::remove_dir_all(self.jail.parent().unwrap_or(&self.jail))
    }

    fn spawn(parts: &Parts, number: u32) -> io::Result<Self> {
        let (id, tap, uid) = (format!("bare-{number}"), format!("bare{number}"), 400_000 + number);
        tap::create(&tap, uid, &parts.bridge)?;
        let cgroup = PathBuf::from("/sys/fs/cgroup/bare").join(&id);
        fs::create_dir_all(&cgroup)?;
        for parent in ["/sys/fs/cgroup", "/sys/fs/cgroup/bare"] {
            fs::write(Path::new(parent).join("cgroup.subtree_control"), "+memory +cpu +pids")?;
        }
        for (file, value) in [
            ("memory.max", format!("{}M", parts.memory + 64)),
            ("memory.oom.group", "1".to_owned()),
            ("cpu.max", "100000 100000".to_owned()),
            ("pids.max", "17".to_owned()),
        ] {
            fs::write(cgroup.join(file), value)?;
        }
        let jail = parts.base.join("firecracker").join(&id).join("root");
        for dir in ["run", "ram"] {
            fs::create_dir_all(jail.join(dir))?;
            std::os::unix::fs::chown(jail.join(dir), Some(uid), Some(uid))?;
        }
        fs::hard_link(&parts.root, jail.join("rootfs"))?;
        let config = fs::File::create(jail.join("config.ext2"))?;
        (&config).write_all(&parts.config)?;
        config.set_len(CONFIG_SIZE)?;
        std::os::unix::fs::fchown(&config, Some(uid), Some(uid))?;
        let child = Command::new(parts.binaries.join("jailer"))
            .args(["--id", &id, "--uid", &uid.to_string(), "--gid", &uid.to_string()])
            .arg("--exec-file")
            .arg(parts.binaries.join("firecracker"))
            .arg("--chroot-base-dir")
            .arg(&parts.base)
            .args(["--cgroup-version", "2", "--parent-cgroup", &format!("bare/{id}")])
            .args(["--new-pid-ns", "--", "--api-sock", "run/fc.sock"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { id, tap, uid, jail, cgroup, child })
    }

    fn put(&self, path: &str, body: &str) -> io::Result<()> {
        self.request("PUT", path, body)
    }

    fn request(&self, method: &str, path: &str, body: &str) -> io::Result<()> {
        let mut stream = connect(&self.jail.join("run/fc.sock"))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = [0; 1024];
        let length = stream.read(&mut answer)?;
        let text = String::from_utf8_lossy(answer.get(..length).unwrap_or_default()).into_owned();
        if text.starts_with("HTTP/1.1 204") {
            Ok(())
        } else {
            Err(failed(format!("{} of uid {}: {method} {path}: {text}", self.id, self.uid)))
        }
    }

    /// Connects until the agent answers a ping.
    fn ping(&self) -> io::Result<()> {
        self.until(&Request::Ping {}, |reply| matches!(reply, Reply::Pong {}))
    }

    /// Asks until the agent gives this answer.
    fn until(&self, request: &Request, is_it: impl Fn(&Reply) -> bool) -> io::Result<()> {
        let until = Instant::now() + DEADLINE;
        loop {
            match self.ask(request) {
                Ok(reply) if is_it(&reply) => return Ok(()),
                Err(error) if Instant::now() > until => return Err(error),
                Ok(_) if Instant::now() > until => return Err(failed("the guest is not ready")),
                Ok(_) | Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    fn ask(&self, request: &Request) -> io::Result<Reply> {
        let mut stream = UnixStream::connect(self.jail.join("run/v.sock"))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"CONNECT 5252\n")?;
        let mut byte = [0];
        while stream.read(&mut byte)? == 1 && byte != *b"\n" {}
        let mut session = Session::caller(Hello {
            generations: Generations::SUPPORTED,
            version: "bare".to_owned(),
            boot_id: String::new(),
            instance_id: None,
            operation: None,
        });
        session.open(request.clone()).map_err(|error| failed(error.to_string()))?;
        let mut buffer = [0; 4096];
        loop {
            stream.write_all(&session.take_output())?;
            let length = stream.read(&mut buffer)?;
            if length == 0 {
                return Err(failed("the agent hung up"));
            }
            session.receive(buffer.get(..length).unwrap_or_default());
            while let Some(event) =
                session.next_event().map_err(|error| failed(error.to_string()))?
            {
                if let Event::Reply { reply, .. } = event {
                    return Ok(reply);
                }
            }
        }
    }
}

/// Connects as soon as the socket is there.
fn connect(socket: &Path) -> io::Result<UnixStream> {
    let until = Instant::now() + DEADLINE;
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() > until => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

#[expect(unsafe_code, reason = "taps are made by ioctls that no safe crate in use wraps")]
mod tap {
    use super::{AsRawFd, fs, io};

    /// `include/uapi/linux/sockios.h`.
    const SIOCBRADDIF: u64 = 0x89a2;

    fn named(name: &str) -> libc::ifreq {
        // SAFETY: ifreq is plain data for which all zeros is a valid value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (slot, byte) in request.ifr_name.iter_mut().take(15).zip(name.bytes()) {
            *slot = byte.cast_signed();
        }
        request
    }

    fn ioctl(fd: i32, code: u64, request: &mut libc::ifreq) -> io::Result<()> {
        // SAFETY: every code used here takes a pointer to an ifreq, which `request` is.
        if unsafe { libc::ioctl(fd, code, request) } < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    fn number(fd: i32, code: u64, value: u64) -> io::Result<()> {
        // SAFETY: TUNSETOWNER, TUNSETGROUP and TUNSETPERSIST take their argument by value.
        if unsafe { libc::ioctl(fd, code, value) } < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    pub(super) fn create(name: &str, uid: u32, bridge: &str) -> io::Result<()> {
        let tun = fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
        let mut request = named(name);
        request.ifr_ifru.ifru_flags =
            (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
        ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &mut request)?;
        number(tun.as_raw_fd(), libc::TUNSETOWNER, u64::from(uid))?;
        number(tun.as_raw_fd(), libc::TUNSETPERSIST, 1)?;
        let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
        let mut request = named(name);
        ioctl(socket.as_raw_fd(), libc::SIOCGIFINDEX, &mut request)?;
        let mut member = named(bridge);
        // SAFETY: SIOCGIFINDEX filled this member of the union.
        member.ifr_ifru.ifru_ifindex = unsafe { request.ifr_ifru.ifru_ifindex };
        ioctl(socket.as_raw_fd(), SIOCBRADDIF, &mut member)?;
        let mut up = named(name);
        up.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
        ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &mut up)
    }

    pub(super) fn remove(name: &str) -> io::Result<()> {
        let tun = fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
        let mut request = named(name);
        request.ifr_ifru.ifru_flags =
            (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
        ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &mut request)?;
        number(tun.as_raw_fd(), libc::TUNSETPERSIST, 0)
    }
}
