//! Frames: 4 bytes of length, big-endian, and as many bytes of JSON.
//!
//! The length is judged before anything is kept. It refuses to know what is said.

use mvm_core::api::FRAME_MAX;
use quinn::{ReadExactError, RecvStream, SendStream};
use serde::{Serialize, de::DeserializeOwned};

/// Why there is no frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WireError {
    /// The frame is larger than any may be.
    TooLarge(usize),
    /// The bytes are no message.
    Malformed(String),
    /// The peer ended before a whole frame was there.
    Ended,
    /// The connection is lost.
    Lost(String),
}

impl std::fmt::Display for WireError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooLarge(size) => write!(f, "a frame has {size} bytes, which is too many"),
            Self::Malformed(what) => write!(f, "a frame makes no sense: {what}"),
            Self::Ended => f.write_str("a frame is cut short"),
            Self::Lost(what) => write!(f, "the connection is lost: {what}"),
        }
    }
}

impl std::error::Error for WireError {}

/// The bytes of a frame.
///
/// # Errors
/// [`WireError::TooLarge`].
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, WireError> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message)
        .map_err(|error| WireError::Malformed(error.to_string()))?;
    let size = frame.len() - 4;
    if size > FRAME_MAX {
        return Err(WireError::TooLarge(size));
    }
    let length = u32::try_from(size).unwrap_or(u32::MAX).to_be_bytes();
    for (to, from) in frame.iter_mut().zip(length) {
        *to = from;
    }
    Ok(frame)
}

/// How many bytes follow, of at most so many.
///
/// # Errors
/// [`WireError::TooLarge`].
pub const fn length(header: [u8; 4], most: usize) -> Result<usize, WireError> {
    let size = u32::from_be_bytes(header) as usize;
    if size > most { Err(WireError::TooLarge(size)) } else { Ok(size) }
}

/// The message in a frame's bytes.
///
/// # Errors
/// [`WireError::Malformed`].
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, WireError> {
    serde_json::from_slice(body).map_err(|error| WireError::Malformed(error.to_string()))
}

pub(super) async fn read<T: DeserializeOwned>(stream: &mut RecvStream) -> Result<T, WireError> {
    read_at_most(stream, FRAME_MAX).await
}

pub(super) async fn read_at_most<T: DeserializeOwned>(
    stream: &mut RecvStream,
    most: usize,
) -> Result<T, WireError> {
    let mut header = [0; 4];
    fill(stream, &mut header).await?;
    let mut body = vec![0; length(header, most)?];
    fill(stream, &mut body).await?;
    decode(&body)
}

async fn fill(stream: &mut RecvStream, bytes: &mut [u8]) -> Result<(), WireError> {
    stream.read_exact(bytes).await.map_err(|error| match error {
        ReadExactError::FinishedEarly(_) => WireError::Ended,
        ReadExactError::ReadError(error) => WireError::Lost(error.to_string()),
    })
}

pub(super) async fn write<T: Serialize>(
    stream: &mut SendStream,
    message: &T,
) -> Result<(), WireError> {
    let frame = encode(message)?;
    stream.write_all(&frame).await.map_err(|error| WireError::Lost(error.to_string()))
}
