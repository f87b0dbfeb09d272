//! Frames: how bytes on the wire are cut into pieces.
//!
//! ```text
//!  0        4      5           9
//!  | length | kind | stream id | payload …     all numbers big-endian
//!  length = 1 + 4 + payload bytes
//! ```
//!
//! This module refuses to know what a payload means. A malformed byte is an error, never a
//! panic, and after an error the decoder stays dead: there is no way to find the next frame.

/// Largest payload of a json frame, in bytes: room for an exec's arguments and environment at
/// Linux's own limit of 128 KiB for one string (`MAX_ARG_STRLEN`), twice.
pub const JSON_MAX: usize = 256 * 1024;

/// Largest payload of a data frame, in bytes: one full pipe buffer of Linux (pipe(7)).
pub const DATA_MAX: usize = 64 * 1024;

/// Bytes that `length` counts besides the payload: kind and stream id.
const HEAD: usize = 5;

/// Bytes before the payload on the wire.
const PREFIX: usize = 4 + HEAD;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// One [`crate::Message`] as JSON, at most [`JSON_MAX`] bytes.
    Json = 1,
    /// Raw bytes of a stream, at most [`DATA_MAX`].
    Data = 2,
    /// The stream is over for the sender; no payload.
    End = 3,
}

impl Kind {
    /// The largest payload of this kind in bytes.
    #[must_use]
    pub const fn payload_max(self) -> usize {
        match self {
            Kind::Json => JSON_MAX,
            Kind::Data => DATA_MAX,
            Kind::End => 0,
        }
    }

    const fn from_byte(byte: u8) -> Option<Kind> {
        match byte {
            1 => Some(Kind::Json),
            2 => Some(Kind::Data),
            3 => Some(Kind::End),
            _ => None,
        }
    }
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What the payload is.
    pub kind: Kind,
    /// The stream it belongs to; 0 is the session itself.
    pub stream: u32,
    /// The payload, within [`Kind::payload_max`].
    pub payload: Vec<u8>,
}

/// What is wrong with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length does not even cover kind and stream id.
    #[error("frame length {0} is below the minimum of 5")]
    TooShort(u32),
    /// The payload is larger than its kind allows.
    #[error("frame payload of {length} bytes is above the cap of {max} for {kind:?}")]
    TooLong {
        /// The kind announced.
        kind: Kind,
        /// The payload length announced, in bytes.
        length: usize,
        /// What the kind allows, in bytes.
        max: usize,
    },
    /// The kind byte is none of 1, 2, 3.
    #[error("unknown frame kind {0}")]
    UnknownKind(u8),
    /// An earlier frame was malformed; nothing after it can be read.
    #[error("the byte stream was malformed before this point")]
    Poisoned,
}

impl Frame {
    /// Appends the frame's bytes to `out`.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] when the payload exceeds the cap of its kind; `out` is untouched.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), FrameError> {
        encode(self.kind, self.stream, &[&self.payload], out)
    }
}

/// Appends a frame whose payload is the concatenation of `parts` to `out`.
///
/// # Errors
/// [`FrameError::TooLong`] when the payload exceeds the cap of its kind; `out` is untouched.
pub fn encode(
    kind: Kind,
    stream: u32,
    parts: &[&[u8]],
    out: &mut Vec<u8>,
) -> Result<(), FrameError> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let too_long = FrameError::TooLong { kind, length, max: kind.payload_max() };
    if length > kind.payload_max() {
        return Err(too_long);
    }
    let total = u32::try_from(length + HEAD).map_err(|_| too_long)?;
    out.reserve(PREFIX + length);
    out.extend_from_slice(&total.to_be_bytes());
    out.push(kind as u8);
    out.extend_from_slice(&stream.to_be_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
    Ok(())
}

/// Cuts a byte stream into frames, however the bytes arrive.
///
/// It holds what was fed and not yet taken; feed at most a read buffer at a time and take all
/// frames before the next feed, and it never holds more than one frame plus that buffer.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    taken: usize,
    is_poisoned: bool,
}

impl Decoder {
    /// An empty decoder.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds received bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.is_poisoned {
            return;
        }
        self.buffer.drain(..self.taken);
        self.taken = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// Takes the next whole frame, `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`FrameError`] at the first malformed frame, as soon as its head is there, and
    /// [`FrameError::Poisoned`] ever after.
    #[expect(clippy::should_implement_trait, reason = "an iterator's None would mean the end")]
    pub fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        if self.is_poisoned {
            return Err(FrameError::Poisoned);
        }
        let result = self.cut();
        if result.is_err() {
            self.is_poisoned = true;
            self.buffer = Vec::new();
            self.taken = 0;
        }
        result
    }

    fn cut(&mut self) -> Result<Option<Frame>, FrameError> {
        let rest = self.buffer.get(self.taken..).unwrap_or_default();
        let Some((length_bytes, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length_bytes);
        let payload_length = usize::try_from(length)
            .ok()
            .and_then(|length| length.checked_sub(HEAD))
            .ok_or(FrameError::TooShort(length))?;
        // The widest cap is checked first, so that a hostile length never waits for its kind.
        if payload_length > JSON_MAX {
            let kind = rest.first().and_then(|byte| Kind::from_byte(*byte)).unwrap_or(Kind::Json);
            let max = kind.payload_max();
            return Err(FrameError::TooLong { kind, length: payload_length, max });
        }
        let Some((kind_byte, rest)) = rest.split_first() else { return Ok(None) };
        let kind = Kind::from_byte(*kind_byte).ok_or(FrameError::UnknownKind(*kind_byte))?;
        if payload_length > kind.payload_max() {
            let max = kind.payload_max();
            return Err(FrameError::TooLong { kind, length: payload_length, max });
        }
        let Some((stream_bytes, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let Some(payload) = rest.get(..payload_length) else { return Ok(None) };
        let frame =
            Frame { kind, stream: u32::from_be_bytes(*stream_bytes), payload: payload.to_vec() };
        self.taken += PREFIX + payload_length;
        Ok(Some(frame))
    }
}
