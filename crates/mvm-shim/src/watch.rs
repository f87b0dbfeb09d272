//! The life of a shim: start, become nobody, serve, and write down how the VMM ended.
//!
//! ```text
//!  launch ─► jailer gone, VMM known ─► privileges dropped ─► API accepts ─► report
//!         ─► console, log, guest's calls … ─► VMM gone ─► exit record ─► end
//! ```
//! One thread, one `poll`; nothing in here waits for anything else.
//!
//! A VMM that stops may stand still before its end: Firecracker 1.12 joins the thread of its API, which
//! waits for the answer to a request that came when nobody answers any more. Its log says that it stops,
//! so it is given a moment from then on.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

use mvm_core::observed::{Ending, ExitRecord};
use mvm_proto::WorkerState;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags, openat, renameat},
    io::Errno,
    process::{Pid, PidfdFlags, WaitOptions, WaitStatus, pidfd_open, waitpid},
};

use crate::{
    identity::{Process, ProcessId},
    journal::Journal,
    listener::{self, CONNECTIONS_MAX, Connection, Served},
    pager::Pager,
    record::{self, API_SOCKET, EXIT, Report, Spec, WORKER},
    relay::Relay,
    ring::RingLog,
    start::{self, Ground, Launched, StartError},
};

/// How long jailer and VMM may take until the API accepts a connection.
pub const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Between bind and listen of the API socket a connection is refused; tried again at this interval.
const CONNECT_INTERVAL: Duration = Duration::from_millis(2);
/// What Firecracker's log says when its guest has ended, whatever the reason (`Vmm::stop`, 1.12).
const STOPPING: &str = "Vmm is stopping.";
/// How long it may take from there to its end.
const STOPPING_TIMEOUT: Duration = Duration::from_secs(3);
/// How many reads in a row one stream gets before the others have their turn.
const READS_PER_TURN: usize = 16;

/// Runs the shim to its end.
///
/// # Errors
/// Why there is no VMM; it was told to the launcher as well.
pub fn run(spec: &Spec, mut report: File) -> Result<(), StartError> {
    let result = bring_up(spec);
    let word = match &result {
        Ok(shim) => Report::Ready { shim: shim.id, vmm: shim.vmm },
        Err(error) => Report::Failed(chain(error)),
    };
    let mut line = serde_json::to_vec(&word).unwrap_or_default();
    line.push(b'\n');
    // A launcher that died meanwhile changes nothing: whoever comes next finds the VMM.
    let _ = report.write_all(&line);
    drop(report);
    result?.serve();
    Ok(())
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

#[derive(Debug)]
struct Streams {
    console: Option<OwnedFd>,
    console_log: RingLog,
    fifo: OwnedFd,
    vmm_log: RingLog,
    /// Since when the VMM is stopping.
    stopping: Option<Instant>,
    relay: Relay,
}

struct Shim {
    id: ProcessId,
    vmm: ProcessId,
    process: Process,
    streams: Streams,
    listener: std::os::unix::net::UnixListener,
    connections: Vec<Connection>,
    pager: Pager,
    /// Why the VMM had to end, if its page server was the reason.
    unpaged: Option<String>,
    /// Whether the VMM had to be ended after its guest.
    stuck: Stuck,
    out: OwnedFd,
    memory_events: File,
    instance: String,
    log: Journal,
}

/// Whether a VMM outlived its guest and had to be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stuck {
    No,
    Yes,
}

fn bring_up(spec: &Spec) -> Result<Shim, StartError> {
    let ground = start::prepare(spec)?;
    match spec.watch {
        Some(vmm) => take_over(spec, ground, vmm),
        None => begin(spec, ground),
    }
}

/// Goes on where a shim died. The console went with its terminal.
fn take_over(spec: &Spec, ground: Ground, vmm: ProcessId) -> Result<Shim, StartError> {
    let Ground { id, console_log, vmm_log, mut journal, run, out, memory_events } = ground;
    start::enter(spec, "shim")?;
    let process = vmm.open().map_err(own("hold the VMM"))?;
    let process = process.ok_or(StartError::Gone)?;
    start::drop_privileges(spec.uid)?;
    let fifo = start::open_fifo(&run)?;
    let listener = start::listen(&run)?;
    let relay = Relay::listen(&out);
    let mut pager = listen_for_pagers(spec, &out)?;
    let mut unpaged = None;
    if let Some(id) = spec.paged_by
        && !pager.adopt(id).map_err(own("hold the page server"))?
    {
        unpaged = Some("its page server ended unseen".to_owned());
        process.kill().map_err(own("end the VMM"))?;
    }
    let streams = Streams { console: None, console_log, fifo, vmm_log, stopping: None, relay };
    let (instance, connections) = (spec.instance.clone(), Vec::new());
    journal.say(&format!("shim {} watches VMM {}, whose shim died", id.pid, vmm.pid));
    let log = journal;
    Ok(Shim {
        id,
        vmm,
        process,
        streams,
        listener,
        connections,
        pager,
        unpaged,
        stuck: Stuck::No,
        out,
        memory_events,
        instance,
        log,
    })
}

/// As the instance's user, as everything that it starts.
fn listen_for_pagers(spec: &Spec, out: &OwnedFd) -> Result<Pager, StartError> {
    Pager::listen(out, spec.pager.clone()).map_err(own("listen for who wants a page server"))
}

fn own(act: &'static str) -> impl FnOnce(io::Error) -> StartError {
    move |source| StartError::Own { act, source }
}

fn begin(spec: &Spec, ground: Ground) -> Result<Shim, StartError> {
    let deadline = Instant::now() + START_TIMEOUT;
    let Ground { id, console_log, vmm_log, mut journal, run, out, memory_events } = ground;
    journal.say(&format!("shim {} starts the jailer", id.pid));
    let Launched { mut jailer, console, fifo, listener, inotify } = start::launch(spec, &run)?;
    let relay = Relay::listen(&out);
    let console = Some(console);
    let mut streams = Streams { console, console_log, fifo, vmm_log, stopping: None, relay };
    let vmm = await_jailer(spec, &mut jailer, &mut streams, deadline)
        .inspect_err(|error| journal.say(&chain(error)))?;
    let at = spec.records.join(record::VMM);
    let written = record::write(&at, &vmm);
    let path = at.display().to_string();
    written.map_err(|source| StartError::File { act: "write", path, source })?;
    let process = vmm.open().map_err(own("hold the VMM"))?;
    start::drop_privileges(spec.uid)?;
    let process = process.ok_or_else(|| StartError::Ended(streams.last_words()))?;
    let pager = listen_for_pagers(spec, &out)?;
    let instance = spec.instance.clone();
    let connections = Vec::new();
    journal.say(&format!("VMM {} is there", vmm.pid));
    let log = journal;
    let mut shim = Shim {
        id,
        vmm,
        process,
        streams,
        listener,
        connections,
        pager,
        unpaged: None,
        stuck: Stuck::No,
        out,
        memory_events,
        instance,
        log,
    };
    match await_api(&mut shim, &inotify, &run, deadline) {
        Ok(()) => {
            shim.log.say("its API answers");
            Ok(shim)
        }
        Err(error) => {
            shim.log.say(&chain(&error));
            let _ = shim.process.kill();
            shim.bury();
            Err(error)
        }
    }
}

/// Waits for the jailer's end, which is when the VMM is this process's child.
fn await_jailer(
    spec: &Spec,
    jailer: &mut std::process::Child,
    streams: &mut Streams,
    deadline: Instant,
) -> Result<ProcessId, StartError> {
    let pid = Pid::from_child(jailer);
    let handle = pidfd_open(pid, PidfdFlags::empty())
        .map_err(|errno| own("hold the jailer")(errno.into()))?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let _ = jailer.kill();
            let _ = jailer.wait();
            return Err(StartError::Silent(START_TIMEOUT.as_secs()));
        }
        if streams.wait(&[(handle.as_fd(), PollFlags::IN)], Some(left)).first() == Some(&true) {
            break;
        }
    }
    let status = jailer.wait().map_err(own("wait for the jailer"))?;
    streams.drain();
    if !status.success() {
        return Err(StartError::Jailer {
            status: status.to_string(),
            output: streams.last_words(),
        });
    }
    find_vmm(spec).ok_or_else(|| StartError::Ended(streams.last_words()))
}

/// The process in the VMM's leaf whose parent is this one.
fn find_vmm(spec: &Spec) -> Option<ProcessId> {
    let text = std::fs::read_to_string(spec.cgroup.join("vmm/cgroup.procs")).ok()?;
    text.lines().filter_map(|line| ProcessId::of(line.parse().ok()?).ok()?).find(|id| {
        id.is_child_of(std::process::id()).unwrap_or(false) && id.is_alive().unwrap_or(false)
    })
}

fn await_api(
    shim: &mut Shim,
    inotify: &OwnedFd,
    run: &OwnedFd,
    deadline: Instant,
) -> Result<(), StartError> {
    let name = start::last_part(API_SOCKET);
    let path = format!("/proc/self/fd/{}/{name}", run.as_raw_fd());
    loop {
        let refused = match UnixStream::connect(&path) {
            Ok(_) => return Ok(()),
            Err(error) => error.kind() == io::ErrorKind::ConnectionRefused,
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(StartError::Silent(START_TIMEOUT.as_secs()));
        }
        let wait = if refused { CONNECT_INTERVAL.min(left) } else { left };
        let extra = [(shim.process.fd().as_fd(), PollFlags::IN), (inotify.as_fd(), PollFlags::IN)];
        if shim.streams.wait(&extra, Some(wait)).first() == Some(&true) {
            shim.streams.drain();
            return Err(StartError::Ended(shim.streams.last_words()));
        }
        let mut discard = [0u8; 1024];
        while rustix::io::read(inotify, &mut discard).is_ok_and(|count| count > 0) {}
    }
}

impl Streams {
    /// Waits for any of its own streams, which are served at once, or the `extra` ones, for which
    /// it says whether they are ready.
    fn wait(
        &mut self,
        extra: &[(BorrowedFd<'_>, PollFlags)],
        timeout: Option<Duration>,
    ) -> Vec<bool> {
        let mut fds: Vec<PollFd<'_>> =
            extra.iter().map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        fds.push(PollFd::new(&self.fifo, PollFlags::IN));
        if let Some(console) = &self.console {
            let mut flags = PollFlags::IN;
            flags.set(PollFlags::OUT, self.relay.is_typing());
            fds.push(PollFd::new(console, flags));
        }
        self.relay.watch(&mut fds);
        let timeout = timeout.and_then(|span| Timespec::try_from(span).ok());
        if poll(&mut fds, timeout.as_ref()).is_err() {
            return vec![false; extra.len()];
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        self.pump();
        ready.into_iter().take(extra.len()).collect()
    }

    fn pump(&mut self) {
        let mut buffer = [0u8; 16 * 1024];
        for _ in 0..READS_PER_TURN {
            match rustix::io::read(&self.fifo, &mut buffer) {
                Ok(count) if count > 0 => {
                    self.vmm_log.append(buffer.get(..count).unwrap_or_default());
                }
                Ok(_) | Err(_) => break,
            }
        }
        if self.stopping.is_none() && self.vmm_log.says(STOPPING) {
            self.stopping = Some(Instant::now());
        }
        self.pump_console(&mut buffer);
        self.relay.pump(self.console.as_ref(), &|| self.console_log.tail());
    }

    fn pump_console(&mut self, buffer: &mut [u8]) {
        let Some(console) = &self.console else { return };
        for _ in 0..READS_PER_TURN {
            match rustix::io::read(console, &mut *buffer) {
                Ok(count) if count > 0 => {
                    let bytes = buffer.get(..count).unwrap_or_default();
                    self.console_log.append(bytes);
                    self.relay.show(bytes);
                }
                Err(Errno::AGAIN | Errno::INTR) => break,
                // The inner end is closed; waiting on it would return at once for ever.
                Ok(_) | Err(_) => {
                    self.console = None;
                    break;
                }
            }
        }
    }

    /// Takes what is still in the pipes; a VMM that is gone writes nothing more.
    fn drain(&mut self) {
        for _ in 0..READS_PER_TURN {
            self.pump();
        }
    }

    fn last_words(&self) -> String {
        let mut lines = self.vmm_log.tail();
        lines.extend(self.console_log.tail());
        lines.retain(|line| !line.trim().is_empty());
        let from = lines.len().saturating_sub(5);
        lines.split_off(from).join(" | ")
    }
}

impl Shim {
    fn serve(mut self) {
        loop {
            let mut extra = vec![
                (self.process.fd().as_fd(), PollFlags::IN),
                (self.listener.as_fd(), PollFlags::IN),
                (self.pager.listener().as_fd(), PollFlags::IN),
            ];
            let before = extra.len();
            extra.extend(self.pager.end().map(|end| (end, PollFlags::IN)));
            let others = extra.len();
            extra.extend(self.connections.iter().map(|connection| {
                let sending =
                    if connection.is_sending() { PollFlags::OUT } else { PollFlags::empty() };
                (connection.stream().as_fd(), PollFlags::IN | sending)
            }));
            let left =
                self.streams.stopping.map(|since| STOPPING_TIMEOUT.saturating_sub(since.elapsed()));
            let ready = self.streams.wait(&extra, left);
            if ready.first() == Some(&true) {
                break;
            }
            if left == Some(Duration::ZERO) {
                self.log.say(&format!(
                    "VMM {} stopped and does not end, so it is killed",
                    self.vmm.pid
                ));
                self.stuck = Stuck::Yes;
                let _ = self.process.kill();
                break;
            }
            if others > before && ready.get(before) == Some(&true) && self.is_unpaged() {
                break;
            }
            if ready.get(2) == Some(&true) {
                self.start_pager();
            }
            self.serve_guest(ready.get(others..).unwrap_or_default());
            if ready.get(1) == Some(&true)
                && let Some(connection) = listener::accept(&self.listener, &self.instance)
                && self.connections.len() < CONNECTIONS_MAX
            {
                self.connections.push(connection);
                self.serve_guest(&[]);
            }
        }
        self.bury();
    }

    fn start_pager(&mut self) {
        match self.pager.start(&self.out) {
            Ok(Some(id)) => self.log.say(&format!("page server {} is there", id.pid)),
            Ok(None) => {}
            // Who asked sees its connection end.
            Err(error) => self.log.say(&format!("cannot start a page server: {error}")),
        }
    }

    /// Whether the page server ended before its VMM, which has to follow it.
    fn is_unpaged(&mut self) -> bool {
        self.unpaged = self.pager.bury(&self.process, &self.out);
        if let Some(why) = &self.unpaged {
            self.log.say(&format!("VMM {} cannot go on: {why}", self.vmm.pid));
            let _ = self.process.kill();
        }
        self.unpaged.is_some()
    }

    fn serve_guest(&mut self, ready: &[bool]) {
        let mut told = None;
        let mut index = 0;
        self.connections.retain_mut(|connection| {
            let is_ready = ready.get(index).copied().unwrap_or(ready.is_empty());
            index += 1;
            !is_ready || connection.serve(&mut |worker| told = Some(worker)) == Served::Open
        });
        if let Some(worker) = told {
            self.note_worker(worker);
        }
    }

    fn note_worker(&self, worker: WorkerState) {
        if let Ok(word) = serde_json::to_string(&worker) {
            let _ = put(&self.out, WORKER, word.trim_matches('"').as_bytes());
        }
    }

    /// Writes down how the VMM ended.
    fn bury(&mut self) {
        let pid = i32::try_from(self.vmm.pid).ok().and_then(Pid::from_raw);
        let status = waitpid(pid, WaitOptions::empty()).ok().flatten();
        self.streams.drain();
        let ending = match self.stuck {
            Stuck::No => status.map_or(Ending::Unseen, |(_, status)| ending(status)),
            // What it would have ended with, had it ended.
            Stuck::Yes => Ending::Exited(0),
        };
        let record = ExitRecord {
            ending,
            oom_kills: self.oom_kills(),
            unpaged: self.unpaged.take(),
            console_tail: self.streams.console_log.tail(),
        };
        self.log.say(&format!("VMM {} ended: {}", self.vmm.pid, record.reason()));
        if let Ok(text) = serde_json::to_vec(&record) {
            let _ = put(&self.out, EXIT, &text);
        }
    }

    fn oom_kills(&mut self) -> u64 {
        let mut text = String::new();
        let read = self
            .memory_events
            .seek(SeekFrom::Start(0))
            .and_then(|_| self.memory_events.read_to_string(&mut text));
        read.map_or(0, |_| oom_kills(&text))
    }
}

fn ending(status: WaitStatus) -> Ending {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Ending::Exited(code),
        (None, Some(signal)) => Ending::Signaled(signal),
        (None, None) => Ending::Unseen,
    }
}

/// `oom_kill` of a cgroup's `memory.events`.
fn oom_kills(text: &str) -> u64 {
    let mut values = text.lines().filter_map(|line| line.strip_prefix("oom_kill "));
    values.next().and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

pub(crate) fn put(directory: &OwnedFd, name: &str, bytes: &[u8]) -> io::Result<()> {
    let partial = format!("{name}.partial");
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(directory, &partial, flags, Mode::from_raw_mode(0o640))?;
    File::from(file).write_all(bytes)?;
    renameat(directory, &partial, directory, name)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;

    #[test]
    fn oom_kills_are_counted_apart_from_group_kills() {
        let text = "low 0\nhigh 0\nmax 31\noom 1\noom_kill 2\noom_group_kill 1\n";
        assert_eq!(oom_kills(text), 2);
        assert_eq!(oom_kills(""), 0);
    }

    #[test]
    fn an_exit_record_appears_in_one_piece() {
        let directory = tempfile::tempdir().unwrap();
        let out = OwnedFd::from(File::open(directory.path()).unwrap());
        let record = ExitRecord {
            ending: Ending::Signaled(9),
            oom_kills: 1,
            unpaged: None,
            console_tail: vec!["last".to_owned()],
        };
        put(&out, EXIT, &serde_json::to_vec(&record).unwrap()).unwrap();
        let path = directory.path().join(EXIT);
        assert_eq!(record::read::<ExitRecord>(&path).unwrap(), Some(record));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
