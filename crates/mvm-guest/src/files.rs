//! Files in and out as tar streams; what a stream may do is `mvm_archive`'s.
//!
//! This module refuses to know frames; it reads and writes through `link`.

use std::{
    io::{self, Read, Write},
    path::{Component, Path},
};

use mvm_archive::{ArchiveError, Copied};
use mvm_proto::{Failure, FailureKind, Input, Reply, StreamId};

use crate::failure::{Context, Outcome, failure};
use crate::link::{Inbox, Incoming, Link};

/// Receives a tar stream and unpacks it below `path`.
pub(crate) fn copy_in(link: &Link, stream: StreamId, path: &str, inbox: &Inbox) -> Outcome<()> {
    let target = absolute(path)?;
    let mut reader = StreamReader { link, stream, inbox, piece: Vec::new(), at: 0, ended: false };
    let Copied { entries, bytes } = mvm_archive::unpack(&mut reader, target).map_err(told)?;
    io::copy(&mut reader, &mut io::sink()).because("the tar stream broke off")?;
    link.reply(stream, Reply::Copied { entries, bytes });
    Ok(())
}

/// Sends `path` as a tar stream whose names begin with its last component.
pub(crate) fn copy_out(link: &Link, stream: StreamId, path: &str, inbox: &Inbox) -> Outcome<()> {
    let source = absolute(path)?;
    let writer = StreamWriter { link, stream, inbox };
    let writer = io::BufWriter::with_capacity(mvm_proto::DATA_MAX, writer);
    let Copied { entries, bytes } = mvm_archive::pack(writer, source).map_err(told)?;
    link.reply(stream, Reply::Copied { entries, bytes });
    Ok(())
}

fn told(error: ArchiveError) -> Failure {
    match error {
        ArchiveError::Refused(message) => Failure::new(FailureKind::Denied, message),
        ArchiveError::Io { act, source } => crate::failure::of_io(&act, &source),
    }
}

fn absolute(path: &str) -> Outcome<&Path> {
    let path = Path::new(path);
    let has_parent = path.components().any(|part| part == Component::ParentDir);
    if !path.is_absolute() || has_parent {
        let message = format!("{} is not an absolute path without ..", path.display());
        return failure(FailureKind::Invalid, message);
    }
    Ok(path)
}

/// The data of a stream as a reader.
struct StreamReader<'a> {
    link: &'a Link,
    stream: StreamId,
    inbox: &'a Inbox,
    piece: Vec<u8>,
    at: usize,
    ended: bool,
}

impl Read for StreamReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at >= self.piece.len() && !self.ended {
            self.link.consumed(self.stream, std::mem::take(&mut self.piece).len());
            self.at = 0;
            match self.inbox.wait() {
                Incoming::Data(piece) => self.piece = piece,
                Incoming::Input(Input::InputClosed {}) => self.ended = true,
                Incoming::Input(_) | Incoming::Credit => {}
                Incoming::Cancelled => return Err(gave_up()),
            }
        }
        let mut rest = self.piece.get(self.at..).unwrap_or_default();
        let length = rest.read(buffer)?;
        self.at += length;
        Ok(length)
    }
}

/// The data of a stream as a writer, held up by the caller's credit.
struct StreamWriter<'a> {
    link: &'a Link,
    stream: StreamId,
    inbox: &'a Inbox,
}

impl Write for StreamWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            while let Some(incoming) = self.inbox.take() {
                if incoming == Incoming::Cancelled {
                    return Err(gave_up());
                }
            }
            let sent = self.link.send(self.stream, None, bytes).map_err(io::Error::other)?;
            if sent > 0 || bytes.is_empty() {
                return Ok(sent);
            }
            if self.inbox.wait() == Incoming::Cancelled {
                return Err(gave_up());
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn gave_up() -> io::Error {
    io::Error::other("the caller gave the copy up")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_path_of_the_guest_is_refused() {
        assert!(absolute("etc/passwd").is_err());
        assert!(absolute("/srv/../etc").is_err());
        assert!(absolute("/srv").is_ok());
    }
}
