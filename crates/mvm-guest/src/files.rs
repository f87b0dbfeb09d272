//! Files in and out as tar streams, with mode and owner, and no way out of the place asked for.
//!
//! Names are walked by the kernel below the target directory (`openat2`): a name with `..`, an
//! absolute name, or a link that leads outside is refused, also when the archive itself brought
//! the link. This module refuses to know frames; it reads and writes through `link`.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use mvm_proto::{FailureKind, Input, Reply, StreamId};
use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, chownat, fchmod,
    fchown, futimens, linkat, mkdirat, openat, openat2, symlinkat, unlinkat,
};
use tar::{Archive, Builder, EntryType, Header};

use crate::failure::{Context, Outcome, failure};
use crate::link::{Inbox, Incoming, Link};

/// What was copied: (entries, bytes of contents).
type Copied = (u64, u64);

/// Receives a tar stream and unpacks it below `path`.
pub(crate) fn copy_in(link: &Link, stream: StreamId, path: &str, inbox: &Inbox) -> Outcome<()> {
    let target = absolute(path)?;
    let mut reader = StreamReader { link, stream, inbox, piece: Vec::new(), at: 0, ended: false };
    let (entries, bytes) = unpack(&mut reader, target)?;
    io::copy(&mut reader, &mut io::sink()).because("the tar stream broke off")?;
    link.reply(stream, Reply::Copied { entries, bytes });
    Ok(())
}

/// Sends `path` as a tar stream whose names begin with its last component.
pub(crate) fn copy_out(link: &Link, stream: StreamId, path: &str, inbox: &Inbox) -> Outcome<()> {
    let source = absolute(path)?;
    let writer = StreamWriter { link, stream, inbox };
    let (entries, bytes) = pack(io::BufWriter::with_capacity(mvm_proto::DATA_MAX, writer), source)?;
    link.reply(stream, Reply::Copied { entries, bytes });
    Ok(())
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

/// Unpacks a tar stream below a directory, which is made when missing.
pub(crate) fn unpack(reader: impl Read, target: &Path) -> Outcome<Copied> {
    fs::create_dir_all(target).because(format!("cannot make {}", target.display()))?;
    let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
    let root = openat(CWD, target, flags, Mode::empty())
        .because(format!("cannot open {}", target.display()))?;
    // Below the root of everything an absolute link leads nowhere but inside.
    let resolve = if target == Path::new("/") {
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS
    } else {
        ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS
    };
    let unpacker = Unpacker { root, resolve, keeps_owner: rustix::process::geteuid().is_root() };
    let mut archive = Archive::new(reader);
    let (mut count, mut bytes) = (0, 0);
    for entry in archive.entries().because("cannot read the tar stream")? {
        let mut entry = entry.because("cannot read the tar stream")?;
        let name = entry.path().because("a name in the tar stream is malformed")?.into_owned();
        bytes += unpacker.place(&mut entry, &name)?;
        count += 1;
    }
    Ok((count, bytes))
}

struct Unpacker {
    root: OwnedFd,
    resolve: ResolveFlags,
    keeps_owner: bool,
}

impl Unpacker {
    #[expect(clippy::wildcard_enum_match_arm, reason = "what is not known is refused")]
    /// Makes one entry and gives the bytes of its contents.
    fn place(&self, entry: &mut tar::Entry<'_, impl Read>, name: &Path) -> Outcome<u64> {
        let relative = relative(name)?;
        let header = entry.header().clone();
        let owner = self.owner(&header);
        let mode = Mode::from_raw_mode(header.mode().unwrap_or(0o644) & 0o7777);
        let context = format!("cannot unpack {}", name.display());
        let (parent, last) = match (relative.parent(), relative.file_name()) {
            (Some(parent), Some(last)) => (self.directory(parent).because(&context)?, last),
            // The directory itself, `./`.
            _ => return Ok(0),
        };
        let parent_fd = &parent;
        match header.entry_type() {
            EntryType::Directory => {
                let made = mkdirat(parent_fd, last, Mode::from_raw_mode(0o700));
                if !matches!(made, Ok(()) | Err(rustix::io::Errno::EXIST)) {
                    made.because(&context)?;
                }
                let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let fd = openat(parent_fd, last, flags, Mode::empty()).because(&context)?;
                self.finish(&fd, owner, mode, &header).because(&context)?;
                Ok(0)
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                remove_file(parent_fd, last).because(&context)?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let fd =
                    openat(parent_fd, last, flags, Mode::from_raw_mode(0o600)).because(&context)?;
                let mut file = File::from(fd);
                let bytes = io::copy(entry, &mut file).because(&context)?;
                self.finish(&file, owner, mode, &header).because(&context)?;
                Ok(bytes)
            }
            EntryType::Symlink => {
                let to = link_name(entry).because(&context)?;
                remove_file(parent_fd, last).because(&context)?;
                symlinkat(to.as_os_str().as_bytes(), parent_fd, last).because(&context)?;
                if let Some((uid, gid)) = owner {
                    let flags = AtFlags::SYMLINK_NOFOLLOW;
                    chownat(parent_fd, last, Some(uid), Some(gid), flags).because(&context)?;
                }
                Ok(0)
            }
            EntryType::Link => {
                let to = link_name(entry).because(&context)?;
                let to = self::relative(&to)?;
                let (Some(to_parent), Some(to_last)) = (to.parent(), to.file_name()) else {
                    return failure(FailureKind::Denied, format!("{context}: a link to nothing"));
                };
                let to_parent = self.directory(to_parent).because(&context)?;
                remove_file(parent_fd, last).because(&context)?;
                linkat(&to_parent, to_last, parent_fd, last, AtFlags::empty()).because(&context)?;
                Ok(0)
            }
            other => failure(
                FailureKind::Denied,
                format!("{context}: entries of type {other:?} are not taken"),
            ),
        }
    }

    fn owner(&self, header: &Header) -> Option<(Uid, Gid)> {
        let uid = u32::try_from(header.uid().ok()?).ok()?;
        let gid = u32::try_from(header.gid().ok()?).ok()?;
        self.keeps_owner.then(|| (Uid::from_raw(uid), Gid::from_raw(gid)))
    }

    /// Opens a directory below the root, making what is missing.
    fn directory(&self, path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        match openat2(&self.root, path, flags, Mode::empty(), self.resolve) {
            Ok(fd) => return Ok(fd),
            Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let (Some(parent), Some(last)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        };
        let parent = self.directory(parent)?;
        match mkdirat(&parent, last, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(openat2(&self.root, path, flags, Mode::empty(), self.resolve)?)
    }

    /// Owner first: a change of owner takes the set-user-id bit away.
    fn finish(
        &self,
        fd: impl std::os::fd::AsFd,
        owner: Option<(Uid, Gid)>,
        mode: Mode,
        header: &Header,
    ) -> io::Result<()> {
        if let Some((uid, gid)) = owner {
            fchown(&fd, Some(uid), Some(gid))?;
        }
        fchmod(&fd, mode)?;
        let seconds = header.mtime().ok().and_then(|time| i64::try_from(time).ok()).unwrap_or(0);
        let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
        futimens(&fd, &Timestamps { last_access: time, last_modification: time })?;
        Ok(())
    }
}

fn link_name(entry: &tar::Entry<'_, impl Read>) -> io::Result<PathBuf> {
    let name = entry.link_name()?;
    name.map(std::borrow::Cow::into_owned)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a link without a target"))
}

/// A name of the archive as a path below the root.
fn relative(name: &Path) -> Outcome<PathBuf> {
    let mut path = PathBuf::new();
    for part in name.components() {
        match part {
            Component::Normal(part) => path.push(part),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                let message = format!("the name {} leads outside", name.display());
                return failure(FailureKind::Denied, message);
            }
        }
    }
    Ok(path)
}

fn remove_file(parent: &OwnedFd, last: &std::ffi::OsStr) -> io::Result<()> {
    match unlinkat(parent, last, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Writes a file or directory as a tar stream.
pub(crate) fn pack(writer: impl Write, source: &Path) -> Outcome<Copied> {
    let mut builder = Builder::new(writer);
    let name = source.file_name().map_or_else(|| PathBuf::from("."), PathBuf::from);
    let mut copied = (0, 0);
    add(&mut builder, source, &name, &mut copied)
        .because(format!("cannot copy {}", source.display()))?;
    let mut writer = builder.into_inner().because("cannot end the tar stream")?;
    writer.flush().because("cannot send the tar stream")?;
    Ok(copied)
}

/// Adds one file or tree; sockets, pipes and devices are left out.
fn add(
    builder: &mut Builder<impl Write>,
    source: &Path,
    name: &Path,
    copied: &mut Copied,
) -> io::Result<()> {
    let metadata = fs::symlink_metadata(source)?;
    let mut header = Header::new_gnu();
    header.set_metadata(&metadata);
    if metadata.is_symlink() {
        header.set_size(0);
        builder.append_link(&mut header, name, fs::read_link(source)?)?;
    } else if metadata.is_dir() {
        builder.append_data(&mut header, name, io::empty())?;
        let mut children: Vec<_> = fs::read_dir(source)?.collect::<Result<_, _>>()?;
        children.sort_by_key(fs::DirEntry::file_name);
        for child in children {
            match add(builder, &child.path(), &name.join(child.file_name()), copied) {
                // A file that went away while its directory was walked.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
    } else if metadata.is_file() {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = File::options().read(true).custom_flags(flags).open(source)?;
        let size = file.metadata()?.size();
        header.set_size(size);
        // The header has promised this length, even if the file shrinks or grows meanwhile.
        let exact = file.take(size).chain(io::repeat(0)).take(size);
        builder.append_data(&mut header, name, exact)?;
        copied.1 += size;
    } else {
        return Ok(());
    }
    copied.0 += 1;
    Ok(())
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
mod tests;
