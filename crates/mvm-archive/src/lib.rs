//! Tar streams into and out of directories, with mode and owner, and no way out of the place asked
//! for.
//!
//! The agent in a guest and the library on the host use the same code: each is handed streams by the
//! other, and neither trusts it. Names are walked by the kernel below the target directory
//! (`openat2`): a name with `..`, an absolute name, or a link that leads outside is refused, also
//! when the archive itself brought the link. It refuses to know who sends, and where a stream goes.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::OwnedFd,
        unix::{
            ffi::OsStrExt,
            fs::{MetadataExt, OpenOptionsExt},
        },
    },
    path::{Component, Path, PathBuf},
};

use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, chownat, fchmod,
    fchown, futimens, linkat, mkdirat, openat, openat2, symlinkat, unlinkat,
};
use tar::{Archive, Builder, EntryType, Header};

/// What was copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Copied {
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of file contents.
    pub bytes: u64,
}

/// Why a stream was not copied to its end.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The stream asks for something that is never done.
    #[error("{0}")]
    Refused(String),
    /// A file or the stream failed.
    #[error("{act}: {source}")]
    Io {
        /// What was tried.
        act: String,
        /// The system's reason.
        source: io::Error,
    },
}

type Outcome<T> = Result<T, ArchiveError>;

/// Puts the act before an error's own words.
trait Context<T> {
    fn because(self, act: impl std::fmt::Display) -> Outcome<T>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn because(self, act: impl std::fmt::Display) -> Outcome<T> {
        self.map_err(|error| ArchiveError::Io { act: act.to_string(), source: error.into() })
    }
}

fn refused<T>(message: impl Into<String>) -> Outcome<T> {
    Err(ArchiveError::Refused(message.into()))
}

/// Unpacks a tar stream below a directory, which is made when missing.
///
/// # Errors
/// [`ArchiveError::Refused`] for what the stream may not ask for; what came before it is there.
pub fn unpack(reader: impl Read, target: &Path) -> Result<Copied, ArchiveError> {
    unpack_as(reader, target, None, SetId::Keep)
}

/// What becomes of set-user-id and set-group-id bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetId {
    /// They are kept.
    Keep,
    /// They are taken away: a stream from a guest must not make programs that run as root here.
    Strip,
}

/// As [`unpack`]; the first part of every name becomes `top` if there is one.
///
/// # Errors
/// As [`unpack`].
pub fn unpack_as(
    reader: impl Read,
    target: &Path,
    top: Option<&OsStr>,
    set_id: SetId,
) -> Result<Copied, ArchiveError> {
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
    let top = top.map(OsStr::to_owned);
    let modes = if set_id == SetId::Keep { 0o7777 } else { 0o1777 };
    let unpacker =
        Unpacker { root, resolve, top, modes, keeps_owner: rustix::process::geteuid().is_root() };
    let mut archive = Archive::new(reader);
    let mut copied = Copied::default();
    for entry in archive.entries().because("cannot read the tar stream")? {
        let mut entry = entry.because("cannot read the tar stream")?;
        let name = entry.path().because("a name in the tar stream is malformed")?.into_owned();
        copied.bytes += unpacker.place(&mut entry, &name)?;
        copied.entries += 1;
    }
    Ok(copied)
}

struct Unpacker {
    root: OwnedFd,
    resolve: ResolveFlags,
    top: Option<OsString>,
    modes: u32,
    keeps_owner: bool,
}

impl Unpacker {
    #[expect(clippy::wildcard_enum_match_arm, reason = "what is not known is refused")]
    /// Makes one entry and gives the bytes of its contents.
    fn place(&self, entry: &mut tar::Entry<'_, impl Read>, name: &Path) -> Outcome<u64> {
        let relative = self.named(relative(name)?);
        let header = entry.header().clone();
        let owner = self.owner(&header);
        let mode = Mode::from_raw_mode(header.mode().unwrap_or(0o644) & self.modes);
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
                let to = self.named(self::relative(&to)?);
                let (Some(to_parent), Some(to_last)) = (to.parent(), to.file_name()) else {
                    return refused(format!("{context}: a link to nothing"));
                };
                let to_parent = self.directory(to_parent).because(&context)?;
                remove_file(parent_fd, last).because(&context)?;
                linkat(&to_parent, to_last, parent_fd, last, AtFlags::empty()).because(&context)?;
                Ok(0)
            }
            other => refused(format!("{context}: entries of type {other:?} are not taken")),
        }
    }

    /// The name below the root, with the first part replaced where that was asked for.
    fn named(&self, path: PathBuf) -> PathBuf {
        let Some(top) = &self.top else { return path };
        let rest: PathBuf = path.components().skip(1).collect();
        if path.as_os_str().is_empty() || rest.as_os_str().is_empty() {
            PathBuf::from(top)
        } else {
            Path::new(top).join(rest)
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
                return refused(message);
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

/// Writes a file or directory as a tar stream whose names begin with its last component.
///
/// # Errors
/// [`ArchiveError::Io`] for what cannot be read or written.
pub fn pack(writer: impl Write, source: &Path) -> Result<Copied, ArchiveError> {
    let name = source.file_name().map_or_else(|| PathBuf::from("."), PathBuf::from);
    pack_as(writer, source, &name)
}

/// As [`pack`], and names begin with `name`.
///
/// # Errors
/// As [`pack`].
pub fn pack_as(writer: impl Write, source: &Path, name: &Path) -> Result<Copied, ArchiveError> {
    let mut builder = Builder::new(writer);
    let mut copied = Copied::default();
    add(&mut builder, source, name, &mut copied)
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
        copied.bytes += size;
    } else {
        return Ok(());
    }
    copied.entries += 1;
    Ok(())
}

#[cfg(test)]
mod tests;
