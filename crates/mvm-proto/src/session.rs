//! A session: hello, streams and flow control over one connection, for either side.
//!
//! ```text
//!  caller                                callee
//!  Hello (stream 0) ───────────────────► ◄─────────────────── Hello (stream 0)
//!  Request (stream 1) ─────────────────►
//!  Data, Input … within the credit ────► ◄──── Reply, Data … within the credit
//!  End = "never mind" (optional) ──────► ◄──── Error?  End = "that was all"
//! ```
//!
//! The caller numbers its streams 1, 3, 5 … and never uses one twice; even numbers are reserved.
//! A stream lives until the callee ends it. Each direction of a stream starts with a credit of
//! [`INITIAL_WINDOW`] bytes of data payload; the receiver gives more as it takes the bytes, so a
//! slow stream neither blocks another one nor fills anybody's memory.
//!
//! A breach of these rules is a [`ProtocolError`] and ends the session. A request that the callee
//! does not understand is answered by the session itself with [`FailureKind::Unsupported`].
//! This module refuses to know sockets, threads and time: feed it with [`Session::receive`],
//! ask [`Session::next_event`] until `None`, send what [`Session::take_output`] gives.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;

pub use crate::event::{Event, ProtocolError, SendError, StreamId};
use crate::frame::{self, DATA_MAX, Decoder, Frame, Kind};
use crate::generation::Generations;
use crate::message::{Channel, Failure, FailureKind, Hello, Input, Message, Reply, Request};

/// Data payload bytes that may be sent on a fresh stream before any credit came: four data
/// frames, enough to keep a vsock busy while a credit travels.
pub const INITIAL_WINDOW: u32 = 256 * 1024;

/// The most credit a stream may have at once, in bytes.
pub const WINDOW_MAX: u32 = 16 * 1024 * 1024;

/// The most streams open at once in a session; with the window it bounds what a session holds to
/// 16 MiB in each direction. Further requests are answered with [`FailureKind::Busy`].
pub const STREAMS_MAX: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Caller,
    Callee,
}

#[derive(Debug)]
struct Stream {
    may_send: u32,
    may_receive: u32,
    taken: u32,
    is_cancelled: bool,
}

/// One side of a connection.
#[derive(Debug)]
pub struct Session {
    side: Side,
    ours: Generations,
    generation: Option<u16>,
    decoder: Decoder,
    output: Vec<u8>,
    streams: BTreeMap<StreamId, Stream>,
    last_opened: StreamId,
}

impl Session {
    /// The side that made the connection; its hello is the first output.
    #[must_use]
    pub fn caller(hello: Hello) -> Self {
        Self::new(Side::Caller, hello)
    }

    /// The side that accepted the connection; its hello is the first output.
    #[must_use]
    pub fn callee(hello: Hello) -> Self {
        Self::new(Side::Callee, hello)
    }

    fn new(side: Side, hello: Hello) -> Self {
        let mut session = Self {
            side,
            ours: hello.generations,
            generation: None,
            decoder: Decoder::new(),
            output: Vec::new(),
            streams: BTreeMap::new(),
            last_opened: 0,
        };
        // A hello that does not fit a frame leaves no output, and the other side hangs up.
        let _ = session.push_json(0, &Message::Hello(hello));
        session
    }

    /// The session's generation, `None` before [`Event::Ready`].
    #[must_use]
    pub fn generation(&self) -> Option<u16> {
        self.generation
    }

    /// Takes the bytes to send.
    #[must_use]
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// How many bytes wait to be sent.
    #[must_use]
    pub fn output_len(&self) -> usize {
        self.output.len()
    }

    /// Adds received bytes; ask for events until `None` before the next call.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.decoder.feed(bytes);
    }

    /// The next event, `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`ProtocolError`] when the other side broke the rules; the connection is then of no use.
    pub fn next_event(&mut self) -> Result<Option<Event>, ProtocolError> {
        while let Some(frame) = self.decoder.next()? {
            if let Some(event) = self.apply(frame)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// Caller: opens a stream.
    ///
    /// # Errors
    /// [`SendError`] when the request does not fit a frame or the session has no more streams.
    pub fn open(&mut self, request: Request) -> Result<StreamId, SendError> {
        if self.side == Side::Callee {
            return Err(SendError::NotCaller);
        }
        if self.streams.len() >= STREAMS_MAX {
            return Err(SendError::NoRoom);
        }
        let stream = match self.last_opened {
            0 => 1,
            last => last.checked_add(2).ok_or(SendError::NoRoom)?,
        };
        self.push_json(stream, &Message::Request(request))?;
        self.last_opened = stream;
        self.streams.insert(stream, Stream::new());
        Ok(stream)
    }

    /// Caller: sends more on an open stream.
    ///
    /// # Errors
    /// [`SendError::NotOpen`] when the stream is over.
    pub fn input(&mut self, stream: StreamId, input: Input) -> Result<(), SendError> {
        self.send(stream, &Message::Input(input))
    }

    /// Caller: gives a stream up. Its [`Event::Ended`] still comes, its answers no longer do.
    pub fn cancel(&mut self, stream: StreamId) {
        let is_new = self
            .streams
            .get_mut(&stream)
            .is_some_and(|entry| !std::mem::replace(&mut entry.is_cancelled, true));
        if is_new {
            self.push_end(stream);
        }
    }

    /// Callee: answers.
    ///
    /// # Errors
    /// [`SendError`] when the stream is over or the answer does not fit a frame.
    pub fn reply(&mut self, stream: StreamId, reply: Reply) -> Result<(), SendError> {
        self.send(stream, &Message::Reply(reply))
    }

    /// Callee: answers with a failure and ends the stream. A stream that is over stays so.
    pub fn fail(&mut self, stream: StreamId, failure: Failure) {
        if self.streams.contains_key(&stream) {
            self.push_failure(stream, failure);
            self.finish(stream);
        }
    }

    /// Callee: ends a stream. A stream that is over stays so.
    pub fn finish(&mut self, stream: StreamId) {
        if self.streams.remove(&stream).is_some() {
            self.push_end(stream);
        }
    }

    /// How many data payload bytes may be sent on a stream at present, 0 when it is over.
    #[must_use]
    pub fn credit(&self, stream: StreamId) -> usize {
        let credit = self.streams.get(&stream).map_or(0, |entry| entry.may_send);
        usize::try_from(credit).unwrap_or(usize::MAX)
    }

    /// Whether a stream is open.
    #[must_use]
    pub fn is_open(&self, stream: StreamId) -> bool {
        self.streams.contains_key(&stream)
    }

    /// Sends the beginning of `bytes`, as much as one frame and the credit hold, and says how
    /// many that were.
    ///
    /// # Errors
    /// [`SendError::NotOpen`] when the stream is over.
    pub fn send_data(&mut self, stream: StreamId, bytes: &[u8]) -> Result<usize, SendError> {
        self.push_data(stream, &[], bytes)
    }

    /// As [`Session::send_data`], on one channel of an exec's stream.
    ///
    /// # Errors
    /// [`SendError::NotOpen`] when the stream is over.
    pub fn send_channel(
        &mut self,
        stream: StreamId,
        channel: Channel,
        bytes: &[u8],
    ) -> Result<usize, SendError> {
        self.push_data(stream, &[channel as u8], bytes)
    }

    /// Says that `bytes` payload bytes of [`Event::Data`] are dealt with. The credit goes out in
    /// pieces of half a window; nothing happens when the stream is over.
    pub fn consumed(&mut self, stream: StreamId, bytes: usize) {
        let Some(entry) = self.streams.get_mut(&stream) else { return };
        entry.taken = entry.taken.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        if entry.taken < INITIAL_WINDOW / 2 {
            return;
        }
        // Never more than was really received: what is outstanding stays within the window.
        let bytes = entry.taken.min(INITIAL_WINDOW.saturating_sub(entry.may_receive));
        entry.taken = 0;
        entry.may_receive += bytes;
        let _ = self.push_json(stream, &Message::Credit { bytes });
    }

    fn apply(&mut self, frame: Frame) -> Result<Option<Event>, ProtocolError> {
        let Frame { kind, stream, payload } = frame;
        if self.generation.is_none() {
            return self.apply_hello(kind, stream, &payload).map(Some);
        }
        match kind {
            Kind::Json => self.apply_json(stream, &payload),
            Kind::Data => self.apply_data(stream, payload),
            Kind::End => self.apply_end(stream),
        }
    }

    fn apply_hello(
        &mut self,
        kind: Kind,
        stream: StreamId,
        payload: &[u8],
    ) -> Result<Event, ProtocolError> {
        if kind != Kind::Json || stream != 0 {
            return Err(ProtocolError::NoHello);
        }
        let Ok(Message::Hello(peer)) = serde_json::from_slice(payload) else {
            return Err(ProtocolError::NoHello);
        };
        let generation = self.ours.common(peer.generations)?;
        self.generation = Some(generation);
        Ok(Event::Ready { generation, peer })
    }

    fn apply_json(
        &mut self,
        stream: StreamId,
        payload: &[u8],
    ) -> Result<Option<Event>, ProtocolError> {
        let message = match serde_json::from_slice::<Message>(payload) {
            Ok(message) => message,
            Err(error) => {
                if serde_json::from_slice::<IgnoredAny>(payload).is_err() {
                    return Err(ProtocolError::NotJson { stream });
                }
                return self.apply_unknown(stream, &error.to_string()).map(|()| None);
            }
        };
        match message {
            Message::Request(request) => self.apply_request(stream, request),
            Message::Credit { bytes } => self.apply_credit(stream, bytes),
            Message::Input(input) if self.side == Side::Callee => {
                Ok(self.is_listening(stream, "input")?.then_some(Event::Input { stream, input }))
            }
            Message::Reply(reply) if self.side == Side::Caller => {
                Ok(self.is_listening(stream, "a reply")?.then_some(Event::Reply { stream, reply }))
            }
            Message::Error(failure) if self.side == Side::Caller => Ok(self
                .is_listening(stream, "an error")?
                .then_some(Event::Failed { stream, failure })),
            Message::Hello(_) => Err(ProtocolError::OutOfPlace { stream, what: "a hello" }),
            Message::Input(_) => Err(ProtocolError::OutOfPlace { stream, what: "input" }),
            Message::Reply(_) => Err(ProtocolError::OutOfPlace { stream, what: "a reply" }),
            Message::Error(_) => Err(ProtocolError::OutOfPlace { stream, what: "an error" }),
        }
    }

    /// JSON that is no message of ours: refused where it opens a stream, ignored elsewhere.
    fn apply_unknown(&mut self, stream: StreamId, reason: &str) -> Result<(), ProtocolError> {
        if self.side == Side::Callee && stream > self.last_opened {
            self.note_opened(stream)?;
            let message = format!("this agent does not understand the request: {reason}");
            self.push_failure(stream, Failure::new(FailureKind::Unsupported, message));
            self.push_end(stream);
        }
        Ok(())
    }

    fn apply_request(
        &mut self,
        stream: StreamId,
        request: Request,
    ) -> Result<Option<Event>, ProtocolError> {
        if self.side == Side::Caller {
            return Err(ProtocolError::OutOfPlace { stream, what: "a request" });
        }
        self.note_opened(stream)?;
        if self.streams.len() >= STREAMS_MAX {
            let message = format!("this session has {STREAMS_MAX} streams open already");
            self.push_failure(stream, Failure::new(FailureKind::Busy, message));
            self.push_end(stream);
            return Ok(None);
        }
        self.streams.insert(stream, Stream::new());
        Ok(Some(Event::Opened { stream, request }))
    }

    fn note_opened(&mut self, stream: StreamId) -> Result<(), ProtocolError> {
        if stream.is_multiple_of(2) || stream <= self.last_opened {
            return Err(ProtocolError::OutOfPlace { stream, what: "a request" });
        }
        self.last_opened = stream;
        Ok(())
    }

    fn apply_credit(
        &mut self,
        stream: StreamId,
        bytes: u32,
    ) -> Result<Option<Event>, ProtocolError> {
        self.is_listening(stream, "credit")?;
        let Some(entry) = self.streams.get_mut(&stream) else { return Ok(None) };
        entry.may_send = entry
            .may_send
            .checked_add(bytes)
            .filter(|sum| *sum <= WINDOW_MAX)
            .ok_or(ProtocolError::CreditOverflow { stream })?;
        Ok(Some(Event::Credit { stream }))
    }

    fn apply_data(
        &mut self,
        stream: StreamId,
        payload: Vec<u8>,
    ) -> Result<Option<Event>, ProtocolError> {
        let is_listening = self.is_listening(stream, "data")?;
        let Some(entry) = self.streams.get_mut(&stream) else { return Ok(None) };
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        entry.may_receive = entry
            .may_receive
            .checked_sub(length)
            .ok_or(ProtocolError::CreditExceeded { stream })?;
        Ok(is_listening.then_some(Event::Data { stream, payload }))
    }

    fn apply_end(&mut self, stream: StreamId) -> Result<Option<Event>, ProtocolError> {
        self.is_listening(stream, "an end")?;
        match self.side {
            Side::Caller => {
                let is_new = self.streams.remove(&stream).is_some();
                Ok(is_new.then_some(Event::Ended { stream }))
            }
            Side::Callee => {
                let Some(entry) = self.streams.get_mut(&stream) else { return Ok(None) };
                let is_new = !std::mem::replace(&mut entry.is_cancelled, true);
                Ok(is_new.then_some(Event::Cancelled { stream }))
            }
        }
    }

    /// Whether the stream still wants what came. A stream that was never opened is a breach; one
    /// that is over is not, because both sides may end it while frames are on their way.
    fn is_listening(&self, stream: StreamId, what: &'static str) -> Result<bool, ProtocolError> {
        if stream == 0 || stream.is_multiple_of(2) || stream > self.last_opened {
            return Err(ProtocolError::OutOfPlace { stream, what });
        }
        Ok(self.streams.get(&stream).is_some_and(|entry| !entry.is_cancelled))
    }

    fn send(&mut self, stream: StreamId, message: &Message) -> Result<(), SendError> {
        if !self.streams.contains_key(&stream) {
            return Err(SendError::NotOpen(stream));
        }
        self.push_json(stream, message)
    }

    fn push_data(
        &mut self,
        stream: StreamId,
        head: &[u8],
        bytes: &[u8],
    ) -> Result<usize, SendError> {
        let credit = self.credit(stream);
        let entry = self.streams.get_mut(&stream).ok_or(SendError::NotOpen(stream))?;
        let room = credit.min(DATA_MAX).saturating_sub(head.len()).min(bytes.len());
        let Some(piece) = bytes.get(..room).filter(|piece| !piece.is_empty()) else {
            return Ok(0);
        };
        frame::encode(Kind::Data, stream, &[head, piece], &mut self.output)
            .map_err(|_| SendError::TooLarge(room))?;
        let sent = u32::try_from(head.len() + room).unwrap_or(u32::MAX);
        entry.may_send = entry.may_send.saturating_sub(sent);
        Ok(room)
    }

    fn push_json(&mut self, stream: StreamId, message: &Message) -> Result<(), SendError> {
        // Serialising these types cannot fail: no maps with other keys than text, no own errors.
        let json = serde_json::to_vec(message).map_err(|_| SendError::TooLarge(0))?;
        frame::encode(Kind::Json, stream, &[&json], &mut self.output)
            .map_err(|_| SendError::TooLarge(json.len()))
    }

    fn push_failure(&mut self, stream: StreamId, mut failure: Failure) {
        // A quoted hostile request must not make the answer too large to send.
        let cut = failure.message.char_indices().nth(4096).map(|(at, _)| at);
        if let Some(at) = cut {
            failure.message.truncate(at);
        }
        let _ = self.push_json(stream, &Message::Error(failure));
    }

    fn push_end(&mut self, stream: StreamId) {
        let _ = frame::encode(Kind::End, stream, &[], &mut self.output);
    }
}

impl Stream {
    fn new() -> Self {
        Self {
            may_send: INITIAL_WINDOW,
            may_receive: INITIAL_WINDOW,
            taken: 0,
            is_cancelled: false,
        }
    }
}
