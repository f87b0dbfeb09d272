//! Firecracker's API, typed: the calls that are used, with the field names of version 1.12.
//!
//! A failure carries Firecracker's own `fault_message`. Paths in the bodies are those of the jail.

use std::{collections::BTreeMap, io, os::unix::net::UnixStream, time::Duration};

use mvm_core::{Error, ErrorKind};
use mvm_shim::record::API_SOCKET;
use serde::{Deserialize, Serialize};

use super::{
    http::{self, HttpError, Method},
    place::Place,
    socket::{self, Deadline},
};

/// How long a call may take that only changes a configuration.
pub const CALL: Duration = Duration::from_secs(10);

/// A connection to one VMM's API.
#[derive(Debug)]
pub struct Api {
    stream: UnixStream,
    instance: String,
}

/// `machine-config`.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// 1–32.
    pub vcpu_count: u32,
    /// In MiB.
    pub mem_size_mib: u32,
    /// Whether threads of a core are shown.
    pub smt: bool,
    /// Whether dirty pages are tracked, for diff snapshots.
    pub track_dirty_pages: bool,
}

/// `boot-source`.
#[derive(Debug, Serialize)]
pub struct BootSource<'a> {
    /// An ELF kernel.
    pub kernel_image_path: &'a str,
    /// The kernel's command line.
    pub boot_args: &'a str,
    /// An initramfs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initrd_path: Option<&'a str>,
}

/// `drives/{id}`.
#[derive(Debug, Serialize)]
pub struct Drive<'a> {
    /// Its id, also in the path.
    pub drive_id: &'a str,
    /// A raw image.
    pub path_on_host: &'a str,
    /// Whether the kernel is told to mount it as root; never used, the command line says it.
    pub is_root_device: bool,
    /// Whether the guest may only read.
    pub is_read_only: bool,
    /// `Unsafe` ignores the guest's flushes, `Writeback` honours them.
    pub cache_type: &'a str,
    /// How much of it the guest may have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<RateLimiter>,
}

/// `rate_limiter` of a drive or a network interface.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct RateLimiter {
    /// In bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bucket>,
    /// In operations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ops: Option<Bucket>,
}

/// No request of a Linux guest's block layer is larger: 1,280 KiB (`BLK_DEF_MAX_SECTORS_CAP`), rounded up. Firecracker
/// lets a request pass that is larger than the whole bucket, and the wait for it then fills the bucket once more: with a
/// bucket of 1 MB such requests come through at almost 2 MB/s (seen with 1.12.1).
const LARGEST_REQUEST: u64 = 2_000_000;

/// A bucket that fills within its time.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Bucket {
    /// What it holds.
    pub size: u64,
    /// In milliseconds.
    pub refill_time: u64,
}

impl Bucket {
    /// As much as this in every second, in a bucket of one second's worth, or of `burst` where that is more.
    /// Firecracker fills a bucket when it is found empty, so that after a rest two bucketfuls come at once.
    #[must_use]
    pub const fn per_second(amount: u64, burst: u64) -> Self {
        let seconds = burst.div_ceil(amount);
        let seconds = if seconds == 0 { 1 } else { seconds };
        Self { size: amount * seconds, refill_time: 1000 * seconds }
    }
}

impl RateLimiter {
    /// At most so many MB and operations in every second; none without a limit.
    #[must_use]
    pub fn of(mbps: Option<u32>, iops: Option<u32>) -> Option<Self> {
        let bandwidth =
            mbps.map(|mb| Bucket::per_second(u64::from(mb) * 1_000_000, LARGEST_REQUEST));
        let ops = iops.map(|count| Bucket::per_second(u64::from(count), 1));
        (bandwidth.is_some() || ops.is_some()).then_some(Self { bandwidth, ops })
    }
}

/// `PATCH drives/{id}`: the file is opened again.
#[derive(Debug, Serialize)]
pub struct PatchDrive<'a> {
    /// Its id, also in the path.
    pub drive_id: &'a str,
    /// A raw image.
    pub path_on_host: &'a str,
}

/// `network-interfaces/{id}`.
#[derive(Debug, Serialize)]
pub struct NetworkInterface<'a> {
    /// Its id, also in the path.
    pub iface_id: &'a str,
    /// The tap.
    pub host_dev_name: &'a str,
    /// The guest's MAC.
    pub guest_mac: &'a str,
    /// How much it may receive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rx_rate_limiter: Option<RateLimiter>,
    /// How much it may send.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tx_rate_limiter: Option<RateLimiter>,
}

/// `vsock`.
#[derive(Debug, Serialize)]
pub struct Vsock<'a> {
    /// The guest's context id.
    pub guest_cid: u32,
    /// The socket on the host's side.
    pub uds_path: &'a str,
}

/// `balloon`.
#[derive(Debug, Serialize)]
pub struct Balloon {
    /// How much of its memory the guest shall give back, in MiB.
    pub amount_mib: u32,
    /// Whether a guest that has no more memory takes it back by itself.
    pub deflate_on_oom: bool,
    /// How often the guest tells figures, in seconds; 0 for never.
    pub stats_polling_interval_s: u32,
}

/// `snapshot/create`.
#[derive(Debug, Serialize)]
pub struct CreateSnapshot<'a> {
    /// `Full` or `Diff`.
    pub snapshot_type: &'a str,
    /// Where the state of the devices goes.
    pub snapshot_path: &'a str,
    /// Where the memory goes.
    pub mem_file_path: &'a str,
}

/// `snapshot/load`.
#[derive(Debug, Serialize)]
pub struct LoadSnapshot<'a> {
    /// The state of the devices.
    pub snapshot_path: &'a str,
    /// Where the memory comes from.
    pub mem_backend: MemoryBackend<'a>,
    /// Whether dirty pages are tracked from now on.
    pub enable_diff_snapshots: bool,
    /// Whether the vCPUs run at once.
    pub resume_vm: bool,
    /// Other taps than those of the snapshot.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub network_overrides: &'a [NetworkOverride<'a>],
}

/// `mem_backend` of `snapshot/load`.
#[derive(Debug, Serialize)]
pub struct MemoryBackend<'a> {
    /// `File` or `Uffd`.
    pub backend_type: &'a str,
    /// The file, or the socket of the page server.
    pub backend_path: &'a str,
}

/// One of `network_overrides` of `snapshot/load`.
#[derive(Debug, Serialize)]
pub struct NetworkOverride<'a> {
    /// The interface.
    pub iface_id: &'a str,
    /// Its tap.
    pub host_dev_name: &'a str,
}

/// What Firecracker says of its guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum GuestState {
    /// No guest yet.
    #[serde(rename = "Not started")]
    NotStarted,
    /// The vCPUs run.
    Running,
    /// They are paused.
    Paused,
}

#[derive(Debug, Deserialize)]
struct Information {
    state: GuestState,
}

#[derive(Debug, Deserialize)]
struct Fault {
    fault_message: String,
}

impl Api {
    /// Connects.
    ///
    /// # Errors
    /// `Unavailable` when nobody listens or not in time.
    pub fn connect(place: &Place, deadline: Deadline) -> Result<Self, Error> {
        let name = API_SOCKET.rsplit('/').next().unwrap_or(API_SOCKET);
        let stream = place.sockets().and_then(|directory| {
            socket::connect(directory, name, deadline).map_err(|error| unreachable(place, &error))
        })?;
        Ok(Self { stream, instance: place.instance.to_string() })
    }

    /// What the guest does.
    ///
    /// # Errors
    /// `Unavailable` when there is no answer in time.
    pub fn state(&mut self, deadline: Deadline) -> Result<GuestState, Error> {
        let body = self.call(Method::Get, "/", &[], deadline)?;
        let information: Information = serde_json::from_slice(&body).map_err(|error| {
            Error::new(ErrorKind::Failed, "Firecracker describes its guest in an unknown way")
                .because(&error)
        })?;
        Ok(information.state)
    }

    /// Sets one part of the configuration: `machine-config`, `drives/x` ….
    ///
    /// # Errors
    /// `Failed` with Firecracker's reason, `Unavailable` without an answer.
    pub fn put(&mut self, path: &str, body: &impl Serialize) -> Result<(), Error> {
        self.put_within(path, body, Deadline::after(CALL))
    }

    /// As [`Api::put`], with a deadline of its own.
    ///
    /// # Errors
    /// As [`Api::put`].
    pub fn put_within(
        &mut self,
        path: &str,
        body: &impl Serialize,
        deadline: Deadline,
    ) -> Result<(), Error> {
        let body = encode(body)?;
        self.call(Method::Put, &format!("/{path}"), &body, deadline).map(drop)
    }

    /// Opens a drive's file again, so that the guest sees its new size.
    ///
    /// # Errors
    /// As [`Api::put`].
    pub fn refresh_drive(&mut self, drive_id: &str, path_on_host: &str) -> Result<(), Error> {
        let names = BTreeMap::from([("drive_id", drive_id), ("path_on_host", path_on_host)]);
        let path = format!("/drives/{drive_id}");
        self.call(Method::Patch, &path, &encode(&names)?, Deadline::after(CALL)).map(drop)
    }

    /// Changes one part of a guest that was started: `drives/x`.
    ///
    /// # Errors
    /// As [`Api::put`].
    pub fn patch(&mut self, path: &str, body: &impl Serialize) -> Result<(), Error> {
        let body = encode(body)?;
        self.call(Method::Patch, &format!("/{path}"), &body, Deadline::after(CALL)).map(drop)
    }

    /// Starts the configured guest.
    ///
    /// # Errors
    /// As [`Api::put`].
    pub fn start(&mut self) -> Result<(), Error> {
        let action = BTreeMap::from([("action_type", "InstanceStart")]);
        self.put_within("actions", &action, Deadline::after(3 * CALL))
    }

    /// Pauses or resumes the vCPUs; `state` is `Paused` or `Resumed`.
    ///
    /// # Errors
    /// As [`Api::put`].
    pub fn set_state(&mut self, state: &'static str) -> Result<(), Error> {
        let body = encode(&BTreeMap::from([("state", state)]))?;
        self.call(Method::Patch, "/vm", &body, Deadline::after(CALL)).map(drop)
    }

    fn call(
        &mut self,
        method: Method,
        path: &str,
        body: &[u8],
        deadline: Deadline,
    ) -> Result<Vec<u8>, Error> {
        let answer = http::request(&mut self.stream, method, path, body, deadline)
            .map_err(|error| lost(&self.instance, path, &error))?;
        if (200..300).contains(&answer.status) {
            return Ok(answer.body);
        }
        let reason = serde_json::from_slice(&answer.body).map_or_else(
            |_| format!("status {}", answer.status),
            |fault: Fault| fault.fault_message,
        );
        let message = format!("Firecracker of {} refuses {path}: {reason}", self.instance);
        Err(Error::new(ErrorKind::Failed, message))
    }
}

fn encode(body: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(body).map_err(|error| {
        Error::new(ErrorKind::Failed, "cannot encode a request to Firecracker").because(&error)
    })
}

fn unreachable(place: &Place, error: &io::Error) -> Error {
    let message = format!("Firecracker's API of {} cannot be reached", place.instance);
    Error::new(ErrorKind::Unavailable, message).because(error)
}

fn lost(instance: &str, path: &str, error: &HttpError) -> Error {
    let message = format!("Firecracker of {instance} does not answer {path}");
    Error::new(ErrorKind::Unavailable, message).because(error)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use std::{
        fs,
        io::{Read, Write},
        os::unix::net::UnixListener,
        path::PathBuf,
        thread,
    };

    use super::*;

    /// Serves one connection with these answers, and returns the requests.
    fn serve(
        answers: &'static [&'static str],
    ) -> (tempfile::TempDir, Place, thread::JoinHandle<Vec<String>>) {
        let base = tempfile::tempdir().unwrap();
        let root = base.path().join("x".repeat(120)).join("root");
        fs::create_dir_all(root.join("run")).unwrap();
        let place = Place {
            instance: "i-00000001".parse().unwrap(),
            records: PathBuf::new(),
            ram: PathBuf::new(),
            jail: PathBuf::new(),
            cgroup: PathBuf::new(),
            root,
        };
        // The path is too long for a socket's address on purpose.
        let listener = {
            use std::os::fd::AsRawFd;
            let directory = place.sockets().unwrap();
            UnixListener::bind(format!("/proc/self/fd/{}/fc.sock", directory.as_raw_fd())).unwrap()
        };
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            answers
                .iter()
                .map(|answer| {
                    let mut buffer = [0u8; 4096];
                    let count = stream.read(&mut buffer).unwrap();
                    stream.write_all(answer.as_bytes()).unwrap();
                    String::from_utf8(buffer.get(..count).unwrap().to_vec()).unwrap()
                })
                .collect()
        });
        (base, place, server)
    }

    #[test]
    fn calls_share_one_connection_and_a_refusal_says_why() {
        let (_base, place, server) = serve(&[
            "HTTP/1.1 204 \r\n\r\n",
            "HTTP/1.1 400 \r\nContent-Length: 27\r\n\r\n{\"fault_message\":\"no disk\"} ",
            "HTTP/1.1 200 \r\nContent-Length: 47\r\n\r\n{\"id\":\"x\",\"state\":\"Not started\",\"app_name\":\"F\"} ",
        ]);
        let deadline = Deadline::after(CALL);
        let mut api = Api::connect(&place, deadline).unwrap();
        api.put("vsock", &Vsock { guest_cid: 3, uds_path: "run/v.sock" }).unwrap();
        let error = api.start().unwrap_err();
        assert!(error.to_string().contains("no disk"), "{error}");
        assert_eq!(api.state(deadline).unwrap(), GuestState::NotStarted);
        let requests = server.join().unwrap();
        assert!(
            requests.first().unwrap().ends_with("{\"guest_cid\":3,\"uds_path\":\"run/v.sock\"}")
        );
        assert!(requests.get(1).unwrap().ends_with("{\"action_type\":\"InstanceStart\"}"));
    }

    #[test]
    fn nobody_listening_is_unavailable() {
        let (_base, place, _server) = serve(&[]);
        fs::remove_file(place.root.join("run/fc.sock")).unwrap();
        let error = Api::connect(&place, Deadline::after(CALL)).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unavailable);
    }
}
