//! The caller's side: hands over the request and the files, moves bytes, brings back what came.

use std::{
    io::{self, Read, Write},
    path::Path,
    process::Child,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use mvm_core::{
    error::{Error, ErrorKind},
    port::{ExecControl, ExecStreams},
};

use super::{
    carry,
    wire::{CHUNK, Control, Frame, Hello, Pieces, Published, Request, WINDOW},
};

/// A connection to a waiting `mvm __forwarded`; when it is dropped, the far side hangs up.
pub struct Link {
    /// What the far side says.
    pub reader: Box<dyn Read + Send>,
    /// What the far side hears.
    pub writer: Box<dyn Write + Send>,
    /// The process that carries the bytes, if it is one.
    pub carrier: Option<Child>,
    /// Where the carrier's own words are.
    pub log: Option<std::path::PathBuf>,
}

/// How a far command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// As a shell would say it.
    pub code: u8,
    /// All ports that are published there now.
    pub published: Vec<Published>,
}

/// Hears which programs the far side has.
///
/// # Errors
/// `Unavailable` when it does not speak.
pub fn hello(link: &mut Link) -> Result<Hello, Error> {
    match Frame::read(&mut link.reader) {
        Ok(Some(Frame::Hello(hello))) => Ok(hello),
        Ok(_) => Err(lost(link, None)),
        Err(error) => Err(lost(link, Some(&error))),
    }
}

fn lost(link: &mut Link, error: Option<&io::Error>) -> Error {
    let message = "the connection to the machine is lost";
    let mut out = Error::new(ErrorKind::Unavailable, message);
    if let Some(error) = error {
        out = out.because(error);
    }
    if let Some(carrier) = &mut link.carrier {
        // Its words are complete when it has ended.
        let _ = carrier.wait();
    }
    let said = link.log.as_deref().and_then(|log: &Path| std::fs::read_to_string(log).ok());
    if let Some(words) = said.as_deref().map(str::trim).filter(|words| !words.is_empty()) {
        out.causes.push(words.lines().last().unwrap_or_default().to_owned());
    }
    out.hint("`mvm status` shows the machine; what was acknowledged is on its disk")
}

/// Serves a request over a link whose hello was heard.
///
/// # Errors
/// What the far side could not do, `Unavailable` when it is lost, `Failed` for the caller's files.
pub fn run(mut link: Link, request: &Request, streams: ExecStreams) -> Result<Ended, Error> {
    let ExecStreams { stdin, mut stdout, mut stderr, control } = streams;
    let writer = std::mem::replace(&mut link.writer, Box::new(io::sink()));
    let shared = Arc::new(Shared {
        writer: Mutex::new(writer),
        room: Mutex::new(WINDOW),
        more: Condvar::new(),
    });
    if let Err(error) = shared.send(&Frame::Request(request.clone())) {
        return Err(lost(&mut link, Some(&error)));
    }
    upload(&shared, request)?;
    let input = Arc::clone(&shared);
    if request.takes_input {
        thread::spawn(move || input.feed(stdin));
    }
    let signals = Arc::clone(&shared);
    thread::spawn(move || {
        for control in control {
            let control = match control {
                ExecControl::Signal(signal) => Control::Signal(signal),
                ExecControl::Resize { rows, cols } => Control::Resize(rows, cols),
            };
            if signals.send(&Frame::Control(control)).is_err() {
                return;
            }
        }
    });
    loop {
        let frame = match Frame::read(&mut link.reader) {
            Ok(Some(frame)) => frame,
            Ok(None) => return Err(lost(&mut link, None)),
            Err(error) => return Err(lost(&mut link, Some(&error))),
        };
        match frame {
            Frame::Output(bytes) => shared.say(1, &mut stdout, &bytes),
            Frame::Errors(bytes) => shared.say(2, &mut stderr, &bytes),
            Frame::Taken(count) => shared.give(count as usize),
            Frame::Download(first) => download(&mut link, request, first)?,
            Frame::Failed(error) => return Err(error),
            Frame::Exit(exit) => {
                return Ok(Ended { code: exit.code, published: exit.published });
            }
            Frame::Hello(_)
            | Frame::Request(_)
            | Frame::Upload(_)
            | Frame::Input(_)
            | Frame::Control(_) => {
                return Err(Error::new(ErrorKind::Failed, "the machine does not make sense"));
            }
        }
    }
}

fn upload(shared: &Shared, request: &Request) -> Result<(), Error> {
    let fault = |error: io::Error| {
        Error::new(ErrorKind::Failed, "cannot carry the files into the machine").because(&error)
    };
    let mut to = io::BufWriter::with_capacity(CHUNK, Sender { shared });
    carry::pack_in(&request.carried, &mut to).map_err(fault)?;
    to.flush().map_err(fault)?;
    shared.send(&Frame::Upload(Vec::new())).map_err(fault)
}

fn download(link: &mut Link, request: &Request, first: Vec<u8>) -> Result<(), Error> {
    let fault = |error: io::Error| {
        Error::new(ErrorKind::Failed, "cannot bring the files back from the machine")
            .because(&error)
    };
    if first.is_empty() {
        return Ok(());
    }
    let mut whole = io::Cursor::new(first).chain(Pieces::new(&mut link.reader));
    carry::unpack_out(&request.carried, &mut whole).map_err(fault)?;
    whole.into_inner().1.finish().map_err(fault)
}

/// What the caller's threads share.
struct Shared {
    writer: Mutex<Box<dyn Write + Send>>,
    /// How much standard input may still be sent.
    room: Mutex<usize>,
    more: Condvar,
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn send(&self, frame: &Frame) -> io::Result<()> {
        frame.write(&mut *held(&self.writer))
    }

    /// Output for the caller; when nobody reads it, the far side is told.
    fn say(&self, which: u8, to: &mut Box<dyn Write + Send>, bytes: &[u8]) {
        if to.write_all(bytes).and_then(|()| to.flush()).is_err() {
            *to = Box::new(io::sink());
            // A far side that is gone is noticed by the reader.
            let _ = self.send(&Frame::Control(Control::Closed(which)));
        }
    }

    fn give(&self, count: usize) {
        *held(&self.room) += count;
        self.more.notify_all();
    }

    /// Sends standard input, never more than the far side has room for.
    fn feed(&self, mut stdin: Box<dyn Read + Send>) {
        let mut buffer = vec![0; CHUNK];
        loop {
            let count = match stdin.read(&mut buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => 0,
            };
            let piece = buffer.get(..count).unwrap_or_default().to_vec();
            let mut room = held(&self.room);
            while *room < count {
                room = self.more.wait(room).unwrap_or_else(PoisonError::into_inner);
            }
            *room -= count;
            drop(room);
            if self.send(&Frame::Input(piece)).is_err() || count == 0 {
                return;
            }
        }
    }
}

/// Bytes of an archive as frames.
struct Sender<'a> {
    shared: &'a Shared,
}

impl Write for Sender<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for piece in bytes.chunks(CHUNK) {
            self.shared.send(&Frame::Upload(piece.to_vec()))?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
