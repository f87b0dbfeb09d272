//! Files into and out of a running instance, named as `cp` names them.
//!
//! The destination names the copy; where it is a directory already, or ends with a slash, the copy
//! goes into it under its own name. Mode and owner are kept, but a guest's programs never become
//! set-user-id here. What a stream may ask for is `mvm_archive`'s.

use std::{
    io::{self, PipeReader, Read, Write},
    path::{Component, Path, PathBuf},
    thread,
};

use mvm_archive::{ArchiveError, SetId};
use mvm_core::{
    error::{Error, ErrorKind},
    id::InstanceRef,
    meter::CopyReport,
    port::ProgressStep,
};
use mvm_engine::Context;

use crate::Mvm;

/// Progress is told about every so many bytes.
const TELL: u64 = 1 << 20;

/// What is at a path in a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Directory,
    Other,
    Absent,
}

/// Copies.
///
/// # Errors
/// `NotFound` and `Conflict` as for a command in the instance, `Permission` for a stream that leads
/// outside of its place, `Failed` when a file cannot be read or written. What was copied until then
/// stays.
#[expect(clippy::missing_errors_doc, reason = "the errors are documented once, above")]
impl Mvm {
    /// Copies a file or directory of this host into an instance.
    pub fn instance_copy_in(
        &self,
        cx: &Context,
        instance: &InstanceRef,
        from: &Path,
        to: &str,
    ) -> Result<CopyReport, Error> {
        let source = from.canonicalize().map_err(|error| {
            let is_absent = error.kind() == io::ErrorKind::NotFound;
            let kind = if is_absent { ErrorKind::NotFound } else { ErrorKind::Failed };
            Error::new(kind, format!("cannot copy {}", from.display())).because(&error)
        })?;
        let own = source.file_name().ok_or_else(|| {
            Error::new(ErrorKind::Invalid, format!("{} has no name to copy", source.display()))
        })?;
        let (below, name) = self.place_in(cx, instance, Path::new(own), to)?;
        let (reader, writer) = pipe()?;
        thread::scope(|scope| {
            let packer = scope.spawn(|| {
                let told = Told::new(writer, cx, instance);
                mvm_archive::pack_as(told, &source, &name)
            });
            let mut reader = reader;
            let sent = self.engine.copy_in(cx, instance, &below, &mut reader);
            drop(reader);
            settle(sent, packer.join(), from)
        })
    }

    /// Copies a file or directory of an instance to this host.
    pub fn instance_copy_out(
        &self,
        cx: &Context,
        instance: &InstanceRef,
        from: &str,
        to: &Path,
    ) -> Result<CopyReport, Error> {
        absolute(from)?;
        let into = to.is_dir() || ends_with_slash(to);
        let (below, top) = match (into, to.parent(), to.file_name()) {
            (false, Some(parent), Some(name)) => (parent.to_path_buf(), Some(name)),
            (true, _, _) | (false, _, _) => (to.to_path_buf(), None),
        };
        let below = if below.as_os_str().is_empty() { PathBuf::from(".") } else { below };
        let (reader, writer) = pipe()?;
        thread::scope(|scope| {
            let unpacker = scope.spawn(|| unpack(reader, &below, top));
            let mut told = Told::new(writer, cx, instance);
            let sent = self.engine.copy_out(cx, instance, from, &mut told);
            drop(told);
            settle(sent, unpacker.join(), to)
        })
    }

    /// Unpacks a tar stream in an instance, below a directory that is made when missing.
    pub fn instance_stream_in(
        &self,
        cx: &Context,
        instance: &InstanceRef,
        to: &str,
        stream: &mut dyn Read,
    ) -> Result<CopyReport, Error> {
        absolute(to)?;
        self.engine.copy_in(cx, instance, to, stream)
    }

    /// Writes a file or directory of an instance as a tar stream.
    pub fn instance_stream_out(
        &self,
        cx: &Context,
        instance: &InstanceRef,
        from: &str,
        to: &mut dyn Write,
    ) -> Result<CopyReport, Error> {
        absolute(from)?;
        self.engine.copy_out(cx, instance, from, to)
    }

    /// The directory in the guest to unpack below, and the name of the copy in it.
    fn place_in(
        &self,
        cx: &Context,
        instance: &InstanceRef,
        own: &Path,
        to: &str,
    ) -> Result<(String, PathBuf), Error> {
        let path = absolute(to)?;
        let is_into = to.ends_with('/') || self.kind(cx, instance, to)? == Kind::Directory;
        match (is_into, path.parent(), path.file_name()) {
            (false, Some(parent), Some(name)) => {
                Ok((parent.to_string_lossy().into_owned(), PathBuf::from(name)))
            }
            (true, _, _) | (false, _, _) => Ok((to.to_owned(), own.to_path_buf())),
        }
    }

    /// What is at a path of the guest, by the first header of its tar stream.
    fn kind(&self, cx: &Context, instance: &InstanceRef, path: &str) -> Result<Kind, Error> {
        match self.peek(cx, instance, path)? {
            // A link counts as what it leads to.
            Some(b'2') => match self.peek(cx, instance, &format!("{path}/.")) {
                Ok(Some(b'5')) => Ok(Kind::Directory),
                Ok(_) | Err(_) => Ok(Kind::Other),
            },
            Some(b'5') => Ok(Kind::Directory),
            Some(_) => Ok(Kind::Other),
            None => Ok(Kind::Absent),
        }
    }

    fn peek(&self, cx: &Context, instance: &InstanceRef, path: &str) -> Result<Option<u8>, Error> {
        let mut peek = Peek::default();
        let seen = self.engine.copy_out(cx, instance, path, &mut peek);
        match (peek.kind(), seen) {
            (Some(kind), _) => Ok(Some(kind)),
            (None, Err(error)) if error.kind == ErrorKind::NotFound => {
                // The instance itself was found, or its own error says otherwise.
                self.engine.one(instance).map(|_| None)
            }
            (None, Err(error)) => Err(error),
            (None, Ok(_)) => Ok(None),
        }
    }
}

/// Takes the first header of a tar stream and then no more.
#[derive(Default)]
struct Peek(Vec<u8>);

impl Peek {
    /// Where a header says what its entry is.
    const TYPE: usize = 156;

    fn kind(&self) -> Option<u8> {
        self.0.get(Self::TYPE).copied()
    }
}

impl Write for Peek {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.kind().is_some() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.0.extend_from_slice(bytes);
        // What was sent with the first header is enough, too.
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A writer that tells how far a copy is.
struct Told<'a, W> {
    to: W,
    cx: &'a Context,
    instance: &'a InstanceRef,
    done: u64,
    told: u64,
}

impl<'a, W> Told<'a, W> {
    fn new(to: W, cx: &'a Context, instance: &'a InstanceRef) -> Self {
        Self { to, cx, instance, done: 0, told: 0 }
    }
}

impl<W: Write> Write for Told<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.to.write(bytes)?;
        self.done += u64::try_from(count).unwrap_or(0);
        if self.done - self.told >= TELL {
            self.told = self.done;
            self.cx.progress.report(&ProgressStep {
                subject: self.instance.to_string(),
                activity: format!("copied {} MiB", self.done >> 20),
                done: self.done,
                total: 0,
            });
        }
        Ok(count)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

fn unpack(
    mut reader: PipeReader,
    below: &Path,
    top: Option<&std::ffi::OsStr>,
) -> Result<mvm_archive::Copied, ArchiveError> {
    let copied = mvm_archive::unpack_as(&mut reader, below, top, SetId::Strip)?;
    // The end of the stream comes after the end of the archive.
    let _ = io::copy(&mut reader, &mut io::sink());
    Ok(copied)
}

/// Of two ends of a pipe that both failed, the one that did not merely see the other go.
fn settle(
    sent: Result<CopyReport, Error>,
    local: thread::Result<Result<mvm_archive::Copied, ArchiveError>>,
    path: &Path,
) -> Result<CopyReport, Error> {
    let local = local
        .unwrap_or_else(|_| Err(ArchiveError::Refused("the copy ended without a word".to_owned())));
    match (sent, local) {
        (sent, Ok(_)) => sent,
        (Err(error), Err(ArchiveError::Io { source, .. }))
            if source.kind() == io::ErrorKind::BrokenPipe =>
        {
            Err(error)
        }
        (_, Err(error)) => {
            let kind = match &error {
                ArchiveError::Refused(_) => ErrorKind::Permission,
                ArchiveError::Io { .. } => ErrorKind::Failed,
            };
            Err(Error::new(kind, format!("cannot copy {}", path.display())).because(&error))
        }
    }
}

fn pipe() -> Result<(PipeReader, io::PipeWriter), Error> {
    io::pipe().map_err(|error| Error::new(ErrorKind::Failed, "cannot make a pipe").because(&error))
}

fn ends_with_slash(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().ends_with(b"/")
}

/// A path of a guest: absolute, without `..`.
fn absolute(text: &str) -> Result<&Path, Error> {
    let path = Path::new(text);
    let has_parent = path.components().any(|part| part == Component::ParentDir);
    if path.is_absolute() && !has_parent {
        return Ok(path);
    }
    Err(Error::new(ErrorKind::Invalid, format!("{text:?} is no path in an instance"))
        .hint("write an absolute path without ..: <tenant>/<pool>/<instance>:/path"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_a_guest_is_absolute_and_goes_nowhere_else() {
        assert!(absolute("/srv/app").is_ok());
        for bad in ["", "srv", "./srv", "/srv/../etc"] {
            assert!(absolute(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_peek_ends_after_the_first_header() {
        let mut peek = Peek::default();
        assert_eq!(peek.kind(), None);
        let mut header = [0u8; 512];
        if let Some(kind) = header.get_mut(Peek::TYPE) {
            *kind = b'5';
        }
        assert!(peek.write_all(&header).is_ok() && peek.write_all(b"x").is_err());
        assert_eq!(peek.kind(), Some(b'5'));
    }
}
