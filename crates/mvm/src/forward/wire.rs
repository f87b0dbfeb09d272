//! The frames between the caller's `mvm` and the far one: a kind, a length, bytes.
//!
//! Both ends are the same build, except in the first frame: that one says which build the far side
//! is, and its form never changes. A frame is at most 1 MiB.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
};

use mvm_core::{error::Error, publish::Protocol};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::carry::Carried;

/// The largest frame, in bytes.
const MAX: usize = 1 << 20;
/// How much of a stream goes into one frame, in bytes.
pub(super) const CHUNK: usize = 32 << 10;
/// How much standard input may be under way, in bytes.
pub(super) const WINDOW: usize = 256 << 10;

/// The far side's first word.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The stamp of each program that was put there.
    pub programs: BTreeMap<String, String>,
}

/// What the far side is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// To run `mvm` with these words.
    Run(Vec<String>),
    /// To open the user's shell.
    Shell,
    /// To stop all its microVMs and to switch itself off.
    PowerOff,
}

/// One request; a link serves one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// What to do.
    pub act: Act,
    /// Variables to set; nothing else of the caller's environment is there.
    pub env: BTreeMap<String, String>,
    /// Which of the three standard streams are a terminal.
    pub terminals: [bool; 3],
    /// The terminal's lines and columns.
    pub size: (u16, u16),
    /// Whether standard input will come.
    pub takes_input: bool,
    /// Files of the caller that the words name.
    pub carried: Vec<Carried>,
    /// The caller's wall clock, in milliseconds since 1970.
    pub now: u64,
}

impl Request {
    /// A request without words, streams and files, of now.
    #[must_use]
    pub fn plain() -> Self {
        let now =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self {
            act: Act::Run(Vec::new()),
            env: BTreeMap::new(),
            terminals: [false; 3],
            size: (24, 80),
            takes_input: false,
            carried: Vec::new(),
            now: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// A port of the far side that shall answer on the caller's loopback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Published {
    /// The port, the same on both sides.
    pub port: u16,
    /// What is spoken there.
    pub protocol: Protocol,
}

/// How the far command ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Exit {
    /// As a shell would say it.
    pub(super) code: u8,
    /// All ports that are published there now.
    pub(super) published: Vec<Published>,
}

/// Signals and the like on their way to the far command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Control {
    /// A signal by its number.
    Signal(i32),
    /// The terminal has this many lines and columns.
    Resize(u16, u16),
    /// Nobody reads this output (1 or 2) any more.
    Closed(u8),
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    Hello(Hello),
    Request(Request),
    /// A piece of the archive with the caller's files; empty at its end.
    Upload(Vec<u8>),
    /// Standard input; empty at its end.
    Input(Vec<u8>),
    Control(Control),
    /// So many bytes of standard input were taken.
    Taken(u32),
    Output(Vec<u8>),
    Errors(Vec<u8>),
    /// A piece of the archive with files for the caller; empty at its end.
    Download(Vec<u8>),
    Exit(Exit),
    /// The request could not be served.
    Failed(Error),
}

impl Frame {
    fn parts(&self) -> io::Result<(u8, Vec<u8>)> {
        Ok(match self {
            Self::Hello(hello) => (1, json(hello)?),
            Self::Request(request) => (2, json(request)?),
            Self::Upload(bytes) => (3, bytes.clone()),
            Self::Input(bytes) => (4, bytes.clone()),
            Self::Control(control) => (5, json(control)?),
            Self::Taken(count) => (6, json(count)?),
            Self::Output(bytes) => (7, bytes.clone()),
            Self::Errors(bytes) => (8, bytes.clone()),
            Self::Download(bytes) => (9, bytes.clone()),
            Self::Exit(exit) => (10, json(exit)?),
            Self::Failed(error) => (11, json(error)?),
        })
    }

    /// Writes the frame and flushes.
    pub(super) fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        let (kind, payload) = self.parts()?;
        let length = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= MAX);
        let length = length.ok_or_else(|| invalid("a frame over 1 MiB"))?;
        let mut bytes = vec![kind];
        bytes.extend(length.to_be_bytes());
        bytes.extend(payload);
        to.write_all(&bytes)?;
        to.flush()
    }

    /// Reads the next frame; none at the end of the stream.
    pub(super) fn read(from: &mut dyn Read) -> io::Result<Option<Self>> {
        let mut head = [0; 5];
        if !fill(from, &mut head)? {
            return Ok(None);
        }
        let [kind, length @ ..] = head;
        let length = u32::from_be_bytes(length) as usize;
        if length > MAX {
            return Err(invalid("a frame over 1 MiB"));
        }
        let mut payload = vec![0; length];
        from.read_exact(&mut payload)?;
        Ok(Some(match kind {
            1 => Self::Hello(parse(&payload)?),
            2 => Self::Request(parse(&payload)?),
            3 => Self::Upload(payload),
            4 => Self::Input(payload),
            5 => Self::Control(parse(&payload)?),
            6 => Self::Taken(parse(&payload)?),
            7 => Self::Output(payload),
            8 => Self::Errors(payload),
            9 => Self::Download(payload),
            10 => Self::Exit(parse(&payload)?),
            11 => Self::Failed(parse(&payload)?),
            other => return Err(invalid(&format!("a frame of unknown kind {other}"))),
        }))
    }
}

/// Fills the buffer; false when the stream had already ended.
fn fill(from: &mut dyn Read, buffer: &mut [u8]) -> io::Result<bool> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match from.read(rest) {
            Ok(0) if filled == 0 => return Ok(false),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

fn json<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(io::Error::other)
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    serde_json::from_slice(bytes).map_err(io::Error::other)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Reads an archive out of the frames that carry it, up to the empty one.
pub(super) struct Pieces<'a> {
    from: &'a mut dyn Read,
    piece: io::Cursor<Vec<u8>>,
    is_over: bool,
}

impl<'a> Pieces<'a> {
    pub(super) fn new(from: &'a mut dyn Read) -> Self {
        Self { from, piece: io::Cursor::default(), is_over: false }
    }

    /// Reads on to the empty frame, whatever was left unread.
    pub(super) fn finish(mut self) -> io::Result<()> {
        io::copy(&mut self, &mut io::sink()).map(drop)
    }
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.piece.read(buffer)?;
            if count > 0 || self.is_over || buffer.is_empty() {
                return Ok(count);
            }
            match Frame::read(self.from)? {
                Some(Frame::Upload(bytes) | Frame::Download(bytes)) => {
                    self.is_over = bytes.is_empty();
                    self.piece = io::Cursor::new(bytes);
                }
                Some(Frame::Failed(error)) => return Err(io::Error::other(error)),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
                Some(
                    Frame::Hello(_)
                    | Frame::Request(_)
                    | Frame::Input(_)
                    | Frame::Control(_)
                    | Frame::Taken(_)
                    | Frame::Output(_)
                    | Frame::Errors(_)
                    | Frame::Exit(_),
                ) => return Err(invalid("another frame in the middle of an archive")),
            }
        }
    }
}
