//! The far side: `mvm __forwarded`, one process a request, spoken to on its standard streams.
//!
//! When the caller is gone, the command gets a SIGTERM (with a terminal: the terminal goes), and
//! rests as after Ctrl-C. Nothing of a session outlives it.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use mvm_core::error::{Error, ErrorKind};
use rustix::process::{Pid, Signal, kill_process};

use super::{
    carry,
    launch::{self, Launched},
    wire::{Act, CHUNK, Control, Exit, Frame, Hello, Pieces, Published, Request},
};

/// The hidden subcommand that serves a request.
pub const SUBCOMMAND: &str = "__forwarded";
/// The stamps of the programs that were put here, written after them.
pub(crate) const PROGRAMS_FILE: &str = "/usr/local/lib/mvm/programs.json";
/// The variable that tells a forwarded command where its session is.
const SESSION: &str = "MVM_FORWARDED";
/// Where images of the caller lie that records name, on this machine's disk.
const KEPT: &str = "/var/lib/mvm/carried";
/// In a session: where each typed path went.
const MAP: &str = "map.json";
/// How long the output of an ended command may still come from what it left behind.
const LINGER: Duration = Duration::from_secs(2);
/// A clock that is off by more than this is set, in milliseconds.
const SKEW: u64 = 2000;

/// What the far side asks of the `mvm` that it serves for.
pub trait Inside {
    /// Stops all microVMs of this machine.
    ///
    /// # Errors
    /// Why one does not stop.
    fn put_to_rest(&self) -> Result<(), Error>;

    /// The ports of this machine that lead to microVMs.
    fn published(&self) -> Vec<Published>;

    /// All that records say of where images come from, as text.
    ///
    /// # Errors
    /// Why they cannot be read.
    fn sources(&self) -> Result<String, Error>;
}

/// Whether this process serves a forwarded command line.
#[must_use]
pub(crate) fn is_far() -> bool {
    std::env::var_os(SESSION).is_some()
}

/// Where a path of the caller was carried to; none when this process was not forwarded to.
pub(super) fn carried_to(typed: &str) -> Option<PathBuf> {
    let session = PathBuf::from(std::env::var_os(SESSION)?);
    let map: Vec<(String, PathBuf)> =
        serde_json::from_slice(&fs::read(session.join(MAP)).ok()?).ok()?;
    map.into_iter().find(|(from, _)| from == typed).map(|(_, to)| to)
}

/// Serves one request, or with `terminal` becomes the command of one.
pub fn main(words: Vec<OsString>, inside: &dyn Inside) -> ExitCode {
    if words.first().is_some_and(|word| word == launch::TAKE_TERMINAL) {
        let words = words.get(1..).unwrap_or_default();
        let Err(error) = launch::take_terminal(words);
        return ExitCode::from(if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 });
    }
    let own = match std::env::current_exe() {
        Ok(own) => own,
        Err(_) => return ExitCode::FAILURE,
    };
    let base = PathBuf::from("/run/mvm/forwarded");
    let (kept, programs) = (Path::new(KEPT), Path::new(PROGRAMS_FILE));
    let far = Far { own: &own, base: &base, kept, programs };
    let served = serve(Box::new(io::stdin()), Box::new(io::stdout()), far, inside);
    if served.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Where things are at the far side.
#[derive(Clone, Copy)]
pub(super) struct Far<'a> {
    /// The program that commands are run by.
    pub(super) own: &'a Path,
    /// Where sessions lie.
    pub(super) base: &'a Path,
    /// Where images of the caller stay.
    pub(super) kept: &'a Path,
    /// The stamps of the programs that were put here.
    pub(super) programs: &'a Path,
}

/// Speaks on a link: hello, one request, its answer.
pub(super) fn serve(
    mut from: Box<dyn Read + Send>,
    to: Box<dyn Write + Send>,
    Far { own, base, kept, programs }: Far<'_>,
    inside: &dyn Inside,
) -> io::Result<()> {
    let out = Out(Arc::new(Mutex::new(to)));
    let programs: Option<BTreeMap<String, String>> =
        fs::read(programs).ok().and_then(|text| serde_json::from_slice(&text).ok());
    out.send(&Frame::Hello(Hello { programs: programs.unwrap_or_default() }))?;
    let Some(Frame::Request(request)) = Frame::read(&mut from)? else { return Ok(()) };
    set_clock(request.now);
    let session = Session::open(base, kept)?;
    let answer = match &request.act {
        Act::PowerOff => power_off(&mut from, inside),
        Act::Run(words) => session
            .take(&request, inside, &mut from)
            .and_then(|()| run(&request, own, own, words, &session, from, &out)),
        Act::Shell => session
            .take(&request, inside, &mut from)
            .and_then(|()| run(&request, own, &shell(), &["-l".to_owned()], &session, from, &out)),
    };
    // Whoever hears the answer finds nothing of the session any more.
    drop(session);
    match answer {
        Ok(code) => {
            let published = inside.published();
            out.send(&Frame::Exit(Exit { code, published }))
        }
        Err(error) => out.send(&Frame::Failed(error)),
    }
}

fn shell() -> PathBuf {
    let bash = Path::new("/bin/bash");
    if bash.exists() { bash.to_owned() } else { PathBuf::from("/bin/sh") }
}

/// The caller's clock is the better one: an emulated machine stands still with its host.
fn set_clock(now: u64) {
    let ours = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let off = u64::try_from(ours.as_millis()).unwrap_or(u64::MAX).abs_diff(now);
    let Ok(seconds) = i64::try_from(now / 1000) else { return };
    // Only the machine that was made for this is set, never the host of a test.
    if off > SKEW && Path::new(PROGRAMS_FILE).exists() {
        let nanos = i64::try_from(now % 1000).unwrap_or(0) * 1_000_000;
        let time = rustix::time::Timespec { tv_sec: seconds, tv_nsec: nanos };
        let _ = rustix::time::clock_settime(rustix::time::ClockId::Realtime, time);
    }
}

fn power_off(from: &mut Box<dyn Read + Send>, inside: &dyn Inside) -> Result<u8, Error> {
    Pieces::new(from).finish().map_err(|error| failed("hear the request to its end", &error))?;
    inside.put_to_rest()?;
    rustix::fs::sync();
    let systemctl = mvm_host::tool::find("systemctl")?;
    let words = ["--no-block".as_ref(), "poweroff".as_ref()];
    mvm_host::tool::run(&systemctl, &words, b"", Duration::from_secs(60))?;
    Ok(0)
}

fn failed(act: &str, error: &io::Error) -> Error {
    Error::new(ErrorKind::Failed, format!("the machine cannot {act}")).because(error)
}

fn run(
    request: &Request,
    own: &Path,
    program: &Path,
    words: &[String],
    session: &Session,
    from: Box<dyn Read + Send>,
    out: &Out,
) -> Result<u8, Error> {
    let env = [(SESSION, session.place.clone().into_os_string())];
    let launched = launch::start(own, program, words, request, &env)
        .map_err(|error| failed("start the command", &error))?;
    let Launched { mut child, stdin, outputs, terminal } = launched;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let closed = Closed::default();
    let pumps = pump_all(outputs, out, &closed);
    let ears = Ears { pid, terminal, out: out.clone(), closed };
    thread::spawn(move || ears.listen(from, stdin));
    let status = child.wait().map_err(|error| failed("wait for the command", &error))?;
    // Ends when every pump has dropped its sender, or when what is left behind lingers.
    let _ = pumps.recv_timeout(LINGER);
    if request.carried.iter().any(|file| file.way == carry::Way::Out) {
        let mut to = io::BufWriter::with_capacity(CHUNK, out.clone());
        carry::pack_out(&request.carried, &session.place, &mut to)
            .and_then(|()| to.flush())
            .and_then(|()| out.send(&Frame::Download(Vec::new())))
            .map_err(|error| failed("send files back", &error))?;
    }
    Ok(launch::code(status))
}

/// Sends what the command says; the returned receiver ends with the last stream.
fn pump_all(outputs: Vec<(u8, File)>, out: &Out, closed: &Closed) -> mpsc::Receiver<()> {
    let (sender, receiver) = mpsc::channel();
    for (which, mut pipe) in outputs {
        let (sender, out, closed) = (sender.clone(), out.clone(), closed.clone());
        thread::spawn(move || {
            let _held = sender;
            let mut buffer = vec![0; CHUNK];
            // A terminal whose last holder went away answers with an error: its end as well.
            while let Ok(count) = pipe.read(&mut buffer) {
                let piece = buffer.get(..count).unwrap_or_default().to_vec();
                if count == 0 || closed.has(which) {
                    return;
                }
                let frame = if which == 1 { Frame::Output(piece) } else { Frame::Errors(piece) };
                if out.send(&frame).is_err() {
                    return;
                }
            }
        });
    }
    receiver
}

/// Which outputs nobody reads any more.
#[derive(Clone, Default)]
struct Closed(Arc<Mutex<Vec<u8>>>);

impl Closed {
    fn has(&self, which: u8) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&which)
    }
}

/// Hears the caller while the command runs.
struct Ears {
    pid: Option<Pid>,
    terminal: Option<std::os::fd::OwnedFd>,
    out: Out,
    closed: Closed,
}

impl Ears {
    fn listen(self, mut from: Box<dyn Read + Send>, stdin: Option<File>) {
        let (sender, receiver) = mpsc::channel::<Vec<u8>>();
        let out = self.out.clone();
        thread::spawn(move || write_input(stdin, &receiver, &out));
        loop {
            match Frame::read(&mut from) {
                Ok(Some(Frame::Input(bytes))) => {
                    // Where the command takes no input, nothing is missed.
                    let _ = sender.send(bytes);
                }
                Ok(Some(Frame::Control(control))) => self.obey(control),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return self.signal(Signal::TERM.as_raw()),
            }
        }
    }

    fn obey(&self, control: Control) {
        match control {
            Control::Signal(signal) => self.signal(signal),
            Control::Resize(rows, cols) => {
                if let Some(terminal) = &self.terminal {
                    // A terminal that is gone has no size.
                    let _ = launch::resize(terminal, (rows, cols));
                }
            }
            Control::Closed(which) => {
                self.closed.0.lock().unwrap_or_else(PoisonError::into_inner).push(which);
            }
        }
    }

    fn signal(&self, signal: i32) {
        if let (Some(pid), Some(signal)) = (self.pid, Signal::from_named_raw(signal)) {
            // A command that has ended needs none.
            let _ = kill_process(pid, signal);
        }
    }
}

/// Writes standard input, telling the caller what was taken; an empty piece closes it.
fn write_input(mut stdin: Option<File>, pieces: &mpsc::Receiver<Vec<u8>>, out: &Out) {
    for piece in pieces {
        if piece.is_empty() {
            stdin = None;
            continue;
        }
        if let Some(file) = &mut stdin
            && file.write_all(&piece).is_err()
        {
            stdin = None;
        }
        let count = u32::try_from(piece.len()).unwrap_or(u32::MAX);
        if out.send(&Frame::Taken(count)).is_err() {
            return;
        }
    }
}

/// The way to the caller, shared by all that speak.
#[derive(Clone)]
struct Out(Arc<Mutex<Box<dyn Write + Send>>>);

impl Out {
    fn send(&self, frame: &Frame) -> io::Result<()> {
        frame.write(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Bytes of an archive as frames.
impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for piece in bytes.chunks(CHUNK) {
            self.send(&Frame::Download(piece.to_vec()))?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A directory with the caller's files.
struct Session {
    /// Gone when dropped.
    place: PathBuf,
    /// Where files lie that stay.
    kept: PathBuf,
}

impl Session {
    fn open(base: &Path, kept: &Path) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(base)?;
        let unique = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let place = base.join(format!("{}-{unique}", std::process::id()));
        fs::DirBuilder::new().mode(0o700).create(&place)?;
        Ok(Self { place, kept: kept.to_owned() })
    }

    /// Takes the caller's files; those of former commands that nothing names any more go.
    fn take(
        &self,
        request: &Request,
        inside: &dyn Inside,
        from: &mut Box<dyn Read + Send>,
    ) -> Result<(), Error> {
        let mut pieces = Pieces::new(from);
        let (carried, naming) = (&request.carried, || self.naming(inside));
        // Before it has its turn at what stays, everybody can read what it will name.
        let taken = self.map(request).and_then(|()| {
            carry::unpack_in(carried, &self.place, &self.kept, naming, &mut pieces)?;
            pieces.finish()
        });
        taken.map_err(|error| failed("take the caller's files", &error))
    }

    /// All that names what stays: commands that run, and then records, which these leave before they end. None when
    /// one of it cannot be read.
    fn naming(&self, inside: &dyn Inside) -> Option<Vec<String>> {
        let mut texts = Vec::new();
        for session in fs::read_dir(self.place.parent()?).ok()? {
            match fs::read_to_string(session.ok()?.path().join(MAP)) {
                Ok(text) => texts.push(text),
                // It is over, or has not begun and brings what it names.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(_) => return None,
            }
        }
        texts.push(inside.sources().ok()?);
        Some(texts)
    }

    fn map(&self, request: &Request) -> io::Result<()> {
        let place = |(index, file): (usize, &carry::Carried)| {
            (file.typed.clone(), file.place(&self.place, &self.kept, index))
        };
        let map: Vec<(String, PathBuf)> = request.carried.iter().enumerate().map(place).collect();
        fs::write(self.place.join(MAP), serde_json::to_vec(&map)?)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // It lies on a tmpfs, under a name of its own.
        let _ = fs::remove_dir_all(&self.place);
    }
}
