//! What a [`crate::Session`] tells its owner: events, breaches, and what cannot be sent.
//!
//! This module refuses to know when any of it happens; `session` does.

use crate::frame::{FrameError, JSON_MAX};
use crate::generation::GenerationError;
use crate::message::{Failure, Hello, Input, Reply, Request};

/// The number of a stream.
pub type StreamId = u32;

/// What happened on a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Both hellos are exchanged; always the first event.
    Ready {
        /// The generation that holds for this session.
        generation: u16,
        /// What the other side said about itself.
        peer: Hello,
    },
    /// Callee: a stream was opened.
    Opened {
        /// The new stream.
        stream: StreamId,
        /// What it asks for.
        request: Request,
    },
    /// Callee: more on an open stream.
    Input {
        /// The stream.
        stream: StreamId,
        /// What came.
        input: Input,
    },
    /// Callee: the caller is no longer interested; stop and [`crate::Session::finish`] the stream.
    Cancelled {
        /// The stream.
        stream: StreamId,
    },
    /// Caller: an answer.
    Reply {
        /// The stream.
        stream: StreamId,
        /// The answer.
        reply: Reply,
    },
    /// Caller: the request failed.
    Failed {
        /// The stream.
        stream: StreamId,
        /// Why.
        failure: Failure,
    },
    /// Caller: the stream is over.
    Ended {
        /// The stream.
        stream: StreamId,
    },
    /// Bytes; call [`crate::Session::consumed`] once they are dealt with.
    Data {
        /// The stream.
        stream: StreamId,
        /// The payload, with its channel byte on an exec's stream.
        payload: Vec<u8>,
    },
    /// More may be sent on a stream.
    Credit {
        /// The stream.
        stream: StreamId,
    },
}

/// A breach of the protocol by the other side; the session is over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A frame is malformed.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The two sides speak different protocols.
    #[error(transparent)]
    Generation(#[from] GenerationError),
    /// A json frame holds no JSON.
    #[error("a json frame on stream {stream} holds no JSON")]
    NotJson {
        /// The stream of the frame.
        stream: StreamId,
    },
    /// The first frame was not a hello.
    #[error("the other side did not begin with a hello")]
    NoHello,
    /// A message or frame that has no place where it came.
    #[error("{what} on stream {stream} is out of place")]
    OutOfPlace {
        /// The stream of the frame.
        stream: StreamId,
        /// What came.
        what: &'static str,
    },
    /// More data than the credit allows.
    #[error("the other side sent more on stream {stream} than it may")]
    CreditExceeded {
        /// The stream of the frame.
        stream: StreamId,
    },
    /// Credit beyond [`crate::session::WINDOW_MAX`].
    #[error("the other side gave more credit on stream {stream} than a stream may have")]
    CreditOverflow {
        /// The stream of the frame.
        stream: StreamId,
    },
}

/// Something cannot be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The stream is over or never was.
    #[error("stream {0} is not open")]
    NotOpen(StreamId),
    /// The message does not fit a frame.
    #[error("the message of {0} bytes does not fit a frame of {JSON_MAX}")]
    TooLarge(usize),
    /// This side answers requests, it does not make them.
    #[error("only the side that made the connection opens streams")]
    NotCaller,
    /// No more streams at once, or ever, on this session.
    #[error("the session has no room for another stream")]
    NoRoom,
}
