//! A command in a guest, with its streams.
//!
//! ```text
//!  stdin thread ──┐                              ┌─► stdout thread ─┐
//!  control thread ┼─► channel + eventfd ─► main ─┤                  ├─► "taken" ─► channel
//!                 └──────────────────────────────┴─► stderr thread ─┘
//! ```
//! One thread owns the session. A writer tells it when bytes are out, and only then the guest gets
//! credit for more: a slow reader slows the command, and nothing is held beyond the window. The
//! threads that read wait for as long as their source does; they end with it, or with the process.

use std::{
    io::{Read, Write},
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
    thread,
};

use mvm_core::{
    Error, ErrorKind,
    port::{ExecControl, ExecRequest, ExecStatus, ExecStreams},
};
use mvm_proto::{
    Channel, Event, Exec, Exit, Failure, FailureKind, Input, Reply, Request, StreamId, message::Pty,
};
use rustix::event::{EventfdFlags, eventfd};

use super::link::{Link, Lost};
use crate::vmm::fault::Act;

/// How much of the input is read at once, in bytes.
const PIECE: usize = 32 * 1024;
/// How many pieces of input wait at most until the guest takes them.
const PIECES: usize = 4;

/// What the threads tell the one that owns the session.
enum Word {
    Stdin(Vec<u8>),
    StdinEnded,
    Control(ExecControl),
    /// Payload bytes that are written out.
    Taken(usize),
    /// Nobody reads the output any more.
    Broken(String),
}

/// Tells a word and wakes the owner of the session.
#[derive(Clone)]
struct Teller<S> {
    words: S,
    wake: Arc<OwnedFd>,
}

impl Teller<SyncSender<Word>> {
    fn tell(&self, word: Word) -> bool {
        self.words.send(word).is_ok() && ring(&self.wake)
    }
}

impl Teller<Sender<Word>> {
    fn tell(&self, word: Word) -> bool {
        self.words.send(word).is_ok() && ring(&self.wake)
    }
}

fn ring(wake: &OwnedFd) -> bool {
    rustix::io::write(wake, &1u64.to_ne_bytes()).is_ok()
}

/// Runs a command to its end.
pub(super) fn run(
    mut link: Link,
    instance: &str,
    request: &ExecRequest,
    streams: ExecStreams,
) -> Result<ExecStatus, Error> {
    let lost = |lost: Lost| lost.error(instance, "the command's agent does not answer");
    let stream = link.begin(Request::Exec(exec(request))).map_err(lost)?;
    link.be_patient();
    let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .act("make an event descriptor")?;
    let wake = Arc::new(wake);
    let (input, typed) = sync_channel(PIECES);
    let (words, told) = channel();
    let ExecStreams { stdin, stdout, stderr, control } = streams;
    let teller = Teller { words, wake: Arc::clone(&wake) };
    let input = Teller { words: input, wake: Arc::clone(&wake) };
    thread::spawn(move || read_input(stdin, &input));
    let controls = teller.clone();
    thread::spawn(
        move || while control.recv().is_ok_and(|word| controls.tell(Word::Control(word))) {},
    );
    let (out, out_thread) = writer(stdout, teller.clone());
    let (err, err_thread) = writer(stderr, teller);
    let command =
        Command { link, stream, typed, told, wake, out, err, pending: Vec::new(), ended: false };
    let (status, broken) = command.converse().map_err(lost)?;
    // The writers end when their senders are gone, that is: when all output is out.
    let _ = (out_thread.join(), err_thread.join());
    match (status, broken) {
        (_, Some(why)) => {
            Err(Error::new(ErrorKind::Failed, format!("cannot pass on output: {why}")))
        }
        (Ok(exit), None) => Ok(status_of(exit)),
        (Err(failure), None) => match failure.kind {
            FailureKind::NotFound => Ok(ExecStatus::Absent),
            FailureKind::NotExecutable => Ok(ExecStatus::NotExecutable),
            FailureKind::Denied
            | FailureKind::Invalid
            | FailureKind::Unsupported
            | FailureKind::Busy
            | FailureKind::Timeout
            | FailureKind::Failed
            | FailureKind::Unknown => Err(refused(instance, request, &failure)),
        },
    }
}

struct Command {
    link: Link,
    stream: StreamId,
    typed: Receiver<Word>,
    told: Receiver<Word>,
    wake: Arc<OwnedFd>,
    out: Sender<Vec<u8>>,
    err: Sender<Vec<u8>>,
    /// Input that the guest gives no credit for yet.
    pending: Vec<u8>,
    ended: bool,
}

type Outcome = (Result<Exit, Failure>, Option<String>);

impl Command {
    fn converse(mut self) -> Result<Outcome, Lost> {
        let mut outcome =
            Err(Failure::new(FailureKind::Failed, "the agent did not say how it ended"));
        let mut broken = None;
        loop {
            while let Some(event) = self.link.take_event()? {
                match event {
                    Event::Reply { reply: Reply::Exit(exit), .. } => outcome = Ok(exit),
                    Event::Failed { failure, .. } => outcome = Err(failure),
                    Event::Data { payload, .. } => self.pass_on(payload),
                    Event::Ended { stream } if stream == self.stream => {
                        return Ok((outcome, broken));
                    }
                    Event::Ready { .. }
                    | Event::Opened { .. }
                    | Event::Input { .. }
                    | Event::Cancelled { .. }
                    | Event::Reply { .. }
                    | Event::Ended { .. }
                    | Event::Credit { .. } => {}
                }
            }
            self.hear(&mut broken);
            self.type_in();
            self.link.wait(Some(Arc::clone(&self.wake).as_fd()))?;
            let mut count = [0u8; 8];
            let _ = rustix::io::read(&self.wake, &mut count);
        }
    }

    /// Hands output to its writer; what has no writer any more counts as taken.
    fn pass_on(&mut self, payload: Vec<u8>) {
        let length = payload.len();
        let sent = match Channel::split(&payload) {
            Some((Channel::Stdout, _)) => self.out.send(payload).is_ok(),
            Some((Channel::Stderr, _)) => self.err.send(payload).is_ok(),
            Some((Channel::Stdin, _)) | None => false,
        };
        if !sent {
            self.link.session().consumed(self.stream, length);
        }
    }

    fn hear(&mut self, broken: &mut Option<String>) {
        while let Ok(word) = self.told.try_recv() {
            match word {
                Word::Taken(bytes) => self.link.session().consumed(self.stream, bytes),
                Word::Control(control) => {
                    let _ = self.link.session().input(self.stream, input(control));
                }
                Word::Broken(why) => {
                    self.link.session().cancel(self.stream);
                    broken.get_or_insert(why);
                }
                Word::Stdin(_) | Word::StdinEnded => {}
            }
        }
    }

    /// Sends input as far as the guest's credit goes. More is fetched only when all before is out,
    /// so the channel fills and the reader waits.
    fn type_in(&mut self) {
        loop {
            if self.pending.is_empty() {
                match self.typed.try_recv() {
                    Ok(Word::Stdin(bytes)) => self.pending = bytes,
                    Ok(_) => self.end_input(),
                    Err(_) => return,
                }
            }
            let session = self.link.session();
            match session.send_channel(self.stream, Channel::Stdin, &self.pending) {
                Ok(0) if !self.pending.is_empty() => return,
                Ok(count) => drop(self.pending.drain(..count)),
                Err(_) => self.pending.clear(),
            }
            if self.link.flush().is_err() || self.link.backlog() > 0 {
                return;
            }
        }
    }

    fn end_input(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            let _ = self.link.session().input(self.stream, Input::InputClosed {});
        }
    }
}

fn read_input(mut stdin: Box<dyn Read + Send>, teller: &Teller<SyncSender<Word>>) {
    let mut buffer = vec![0u8; PIECE];
    loop {
        match stdin.read(&mut buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => {
                teller.tell(Word::StdinEnded);
                return;
            }
            Ok(count) => {
                let piece = buffer.get(..count).unwrap_or_default().to_vec();
                if !teller.tell(Word::Stdin(piece)) {
                    return;
                }
            }
        }
    }
}

/// A thread that writes payloads, without their channel byte.
fn writer(
    mut to: Box<dyn Write + Send>,
    teller: Teller<Sender<Word>>,
) -> (Sender<Vec<u8>>, thread::JoinHandle<()>) {
    let (sender, payloads) = channel::<Vec<u8>>();
    let thread = thread::spawn(move || {
        for payload in payloads {
            let bytes = payload.get(1..).unwrap_or_default();
            if let Err(error) = to.write_all(bytes).and_then(|()| to.flush()) {
                teller.tell(Word::Broken(error.to_string()));
                return;
            }
            teller.tell(Word::Taken(payload.len()));
        }
    });
    (sender, thread)
}

fn exec(request: &ExecRequest) -> Exec {
    Exec {
        argv: request.argv.clone(),
        env: request.env.iter().cloned().collect(),
        cwd: request.cwd.clone(),
        user: request.user.clone(),
        pty: request.terminal.as_ref().map(|terminal| Pty {
            rows: terminal.rows,
            cols: terminal.cols,
            term: terminal.term.clone(),
        }),
        stdin: true,
    }
}

fn input(control: ExecControl) -> Input {
    match control {
        ExecControl::Signal(signal) => Input::Signal { signal },
        ExecControl::Resize { rows, cols } => Input::Resize { rows, cols },
    }
}

fn status_of(exit: Exit) -> ExecStatus {
    match exit {
        Exit::Code(code) => ExecStatus::Code(u8::try_from(code & 0xff).unwrap_or(u8::MAX)),
        Exit::Signal(signal) => ExecStatus::Signal(u8::try_from(signal & 0x7f).unwrap_or(u8::MAX)),
    }
}

fn refused(instance: &str, request: &ExecRequest, failure: &Failure) -> Error {
    let kind = match failure.kind {
        FailureKind::NotFound => ErrorKind::NotFound,
        FailureKind::NotExecutable | FailureKind::Denied => ErrorKind::Permission,
        FailureKind::Invalid | FailureKind::Unsupported => ErrorKind::Invalid,
        FailureKind::Busy | FailureKind::Timeout => ErrorKind::Unavailable,
        FailureKind::Failed | FailureKind::Unknown => ErrorKind::Failed,
    };
    let program = request.argv.first().map_or("", String::as_str);
    Error::new(kind, format!("cannot run {program:?} in {instance}: {}", failure.message))
}
