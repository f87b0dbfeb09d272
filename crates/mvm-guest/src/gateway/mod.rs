//! The gateway: takes connections and passes them on to instances, by `routes.json`.
//!
//! ```text
//!  routes.json ──► Table ──► which pool?  ──► Rotation ──► which instance?
//!  client ──► listener ──► carry ─┬─ a port without paths:  bytes, both ways   (relay)
//!                                 └─ a port with paths:     one request (head, lane, relay)
//! ```
//!
//! It runs as a program of the workload (`mvm-guest gateway`), without rights, and holds what it is
//! bound by in constants: connections, sizes, times. New routes take effect for the next
//! connection; those that are carried go on. It refuses to know hosts, vsock and the agent.

mod body;
mod carry;
mod head;
mod lane;
mod path;
mod relay;
mod rotation;
mod table;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mvm_proto::Routes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use self::rotation::Rotation;
use self::table::Table;
use crate::console::say;
use crate::routes::FILE;

/// The argument that makes this program a gateway.
pub(crate) const COMMAND: &str = "gateway";

/// Connections at once; what comes above it is refused.
const CONNECTIONS_MAX: usize = 512;
/// A port that could not be listened on is tried again after this many seconds.
const RETRY_SECS: i64 = 2;
/// Stack of a connection's thread; what it carries is on the heap.
const STACK: usize = 256 * 1024;
/// The largest `routes.json`, in bytes.
const FILE_MAX: u64 = 1024 * 1024;
/// How long a connection above the bound may take to hear of it.
const REFUSAL: Duration = Duration::from_millis(100);

/// Carries traffic for ever by the `routes.json` of this directory.
pub(crate) fn run(directory: &Path) -> io::Result<()> {
    let watcher = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    inotify::add_watch(&watcher, directory, WatchFlags::MOVED_TO | WatchFlags::CLOSE_WRITE)?;
    let mut gateway = Gateway::new(directory.join(FILE), Ipv4Addr::UNSPECIFIED);
    gateway.reload();
    loop {
        gateway.turn(&watcher)?;
    }
}

/// The listeners, and what connections are carried by.
struct Gateway {
    file: PathBuf,
    address: Ipv4Addr,
    table: Arc<Table>,
    rotation: Arc<Rotation>,
    listeners: BTreeMap<u16, TcpListener>,
    carried: Arc<AtomicUsize>,
}

impl Gateway {
    fn new(file: PathBuf, address: Ipv4Addr) -> Self {
        Self {
            file,
            address,
            table: Arc::default(),
            rotation: Arc::default(),
            listeners: BTreeMap::new(),
            carried: Arc::default(),
        }
    }

    /// Takes on the routes of the file; what cannot be read leaves those there are.
    fn reload(&mut self) {
        match read(&self.file) {
            Ok(routes) => {
                self.table = Arc::new(Table::of(&routes));
                self.listen();
            }
            Err(error) => say(&format!("gateway: cannot read {}: {error}", self.file.display())),
        }
    }

    /// Listens on the ports of the table and on no others.
    fn listen(&mut self) {
        let table = Arc::clone(&self.table);
        self.listeners.retain(|port, _| table.ports().contains(port));
        for port in table.ports() {
            if self.listeners.contains_key(&port) {
                continue;
            }
            let bound = TcpListener::bind(SocketAddrV4::new(self.address, port));
            match bound.and_then(|listener| listener.set_nonblocking(true).map(|()| listener)) {
                Ok(listener) => drop(self.listeners.insert(port, listener)),
                Err(error) => say(&format!("gateway: cannot listen on port {port}: {error}")),
            }
        }
    }

    /// Waits for connections or new routes, and sees to them.
    fn turn(&mut self, watcher: &impl AsFd) -> io::Result<()> {
        let is_whole = self.listeners.len() == self.table.ports().len();
        let retry = Timespec { tv_sec: RETRY_SECS, tv_nsec: 0 };
        let mut waiting = vec![PollFd::new(watcher, PollFlags::IN)];
        waiting.extend(self.listeners.values().map(|one| PollFd::new(one, PollFlags::IN)));
        match poll(&mut waiting, (!is_whole).then_some(&retry)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut ready = waiting.iter().map(|one| !one.revents().is_empty());
        let is_news = ready.next().unwrap_or(false);
        let ready: Vec<bool> = ready.collect();
        for ((port, listener), _) in self.listeners.iter().zip(ready).filter(|(_, is)| *is) {
            self.accept(*port, listener);
        }
        if is_news && drain(watcher) {
            self.reload();
        } else if !is_whole {
            self.listen();
        }
        Ok(())
    }

    fn accept(&self, port: u16, listener: &TcpListener) {
        let Ok((client, peer)) = listener.accept() else { return };
        let std::net::IpAddr::V4(source) = peer.ip() else { return };
        if self.carried.fetch_add(1, Ordering::SeqCst) >= CONNECTIONS_MAX {
            self.carried.fetch_sub(1, Ordering::SeqCst);
            self.refuse(port, &client);
            return;
        }
        let (table, rotation) = (Arc::clone(&self.table), Arc::clone(&self.rotation));
        let place = Place(Arc::clone(&self.carried));
        let carrying = std::thread::Builder::new().name("carry".to_owned()).stack_size(STACK);
        let spawned = carrying.spawn(move || {
            let _place = place;
            carry::carry(&client, port, source, &table, &rotation);
        });
        if let Err(error) = spawned {
            say(&format!("gateway: cannot carry a connection: {error}"));
        }
    }

    fn refuse(&self, port: u16, client: &TcpStream) {
        if self.table.is_http(port) {
            let _ = client.set_write_timeout(Some(REFUSAL));
            let refusal = head::Refusal::new(503, "the gateway carries too many connections");
            let _ = io::Write::write_all(&mut { client }, &refusal.bytes(true));
        }
    }
}

/// A connection's place among those that are carried.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn read(file: &Path) -> io::Result<Routes> {
    if fs::metadata(file)?.len() > FILE_MAX {
        return Err(io::Error::other("it is too large"));
    }
    serde_json::from_slice(&fs::read(file)?).map_err(io::Error::other)
}

/// Takes the notices there are; true when one of them is about the routes.
fn drain(watcher: &impl AsFd) -> bool {
    let mut buffer = [const { MaybeUninit::uninit() }; 4096];
    let mut notices = inotify::Reader::new(watcher, &mut buffer);
    let mut is_ours = false;
    while let Ok(notice) = notices.next() {
        // An overflow has no name and may have swallowed ours.
        is_ours |= notice.file_name().is_none_or(|name| name.to_bytes() == FILE.as_bytes());
    }
    is_ours
}
