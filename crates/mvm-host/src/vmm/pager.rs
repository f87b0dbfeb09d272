//! The page server of a woken VM: asked for at its shim, given its files, and asked what it did.
//!
//! ```text
//!  run/pager.sock in the jail   where the VMM hands over its memory
//!  <run>/vm/<i>/pager.sock      where it is asked what it did; root's
//!  <run>/vm/<i>/out/pager.sock  where the shim starts one
//! ```
//! The sockets are made here, since a pager opens nothing. It refuses to know what pages hold.

use std::{
    fs,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{
            fs::PermissionsExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::Path,
    time::Duration,
};

use mvm_core::{Error, ErrorKind};
use mvm_pager::{
    handshake::Region,
    spec::{self, Answer, Ask, BaseFiles, Files, Word},
};
use mvm_shim::{
    ProcessId,
    record::{OUT, PAGER, PAGER_SOCKET},
    start::last_part,
};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, chownat, fstat, openat};

use super::{
    fault::Act,
    place::{Place, remove_file},
    socket::{self, Deadline},
};
use crate::disk::snapshot::Pages;

/// Where the VMM finds its pager, in the jail.
pub const MEMORY_SOCKET: &str = "run/pager.sock";
/// Where a pager is asked, in the records' directory.
const CONTROL: &str = "pager.sock";
/// How long a pager may take to open its files: a process has to start, and an index to be read.
const START: Duration = Duration::from_secs(20);
/// How long it may take to answer; it answers between two faults.
const ANSWER: Duration = Duration::from_secs(5);
/// The longest answer in bytes: a working set.
const ANSWER_MAX: u64 = 1 << 20;

/// Starts a pager that serves these pages to the VMM that will connect to [`MEMORY_SOCKET`].
///
/// # Errors
/// `Integrity` when the page file is not what was written, `Failed` with the pager's own words.
pub fn start(place: &Place, pages: Pages) -> Result<(), Error> {
    let (spec, delta, base) = pages.into_spec();
    let listener = listen(&place.root.join("run"), MEMORY_SOCKET)?;
    let control = listen(&place.records, CONTROL)?;
    let files = Files {
        listener: listener.as_fd(),
        control: control.as_fd(),
        delta: Some(delta.as_fd()),
        base: base
            .as_ref()
            .map(|base| BaseFiles { mem: base.mem.as_fd(), sums: base.sums.as_fd() }),
    };
    let word = connect(&place.records.join(OUT), PAGER_SOCKET, START)
        .and_then(|mut stream| spec::hand_over(&mut stream, &spec, &files))
        .act(format_args!("start a page server for {}", place.instance))?;
    let told = |kind, why: &str| {
        Err(Error::new(kind, format!("cannot serve the memory of {}: {why}", place.instance)))
    };
    match word {
        Word::Ready => Ok(()),
        Word::Damaged(why) => told(ErrorKind::Integrity, &why),
        Word::Failed(why) => told(ErrorKind::Failed, &why),
    }
}

/// Once the VMM holds its pager, nobody else shall find it.
///
/// # Errors
/// I/O errors.
pub fn hide(place: &Place) -> Result<(), Error> {
    remove_file(&place.root.join(MEMORY_SOCKET))
}

/// The pages that a guest touched since it woke, the first ones first; none without a pager.
///
/// # Errors
/// `Unavailable` when a pager does not answer.
pub fn working_set(place: &Place) -> Result<Vec<u32>, Error> {
    let bytes = ask(place, Ask::WorkingSet)?.unwrap_or_default();
    let (pages, _) = bytes.as_chunks::<4>();
    Ok(pages.iter().map(|page| u32::from_le_bytes(*page)).collect())
}

/// Where the memory of a woken guest lies in its VMM; nowhere without a pager, or with one of an older
/// release.
///
/// # Errors
/// `Unavailable` when a pager does not answer.
pub fn regions(place: &Place) -> Result<Vec<Region>, Error> {
    match ask(place, Ask::Regions)? {
        Some(bytes) if !bytes.is_empty() => serde_json::from_slice(&bytes)
            .map_err(io::Error::from)
            .act("understand the page server"),
        Some(_) | None => Ok(Vec::new()),
    }
}

/// What a pager did so far; none without one.
///
/// # Errors
/// `Unavailable` when it does not answer.
pub fn stats(place: &Place) -> Result<Option<Answer>, Error> {
    let Some(bytes) = ask(place, Ask::Stats)? else { return Ok(None) };
    let answer = serde_json::from_slice(&bytes).map_err(io::Error::from);
    answer.map(Some).act("understand the page server")
}

/// The pager of an instance, alive or not.
///
/// # Errors
/// Damaged records.
pub fn process(place: &Place) -> Result<Option<ProcessId>, Error> {
    let path = place.records.join(OUT).join(PAGER);
    mvm_shim::record::read(&path).act(format_args!("read {}", path.display()))
}

/// A blocking stream to this socket of a directory; connecting, each read and each write may take so long.
fn connect(parent: &Path, name: &str, patience: Duration) -> io::Result<UnixStream> {
    let stream = socket::connect(&directory(parent)?, name, Deadline::after(patience))?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    Ok(stream)
}

fn ask(place: &Place, ask: Ask) -> Result<Option<Vec<u8>>, Error> {
    let tell = || -> io::Result<Vec<u8>> {
        let mut stream = connect(&place.records, CONTROL, ANSWER)?;
        stream.write_all(&[ask.byte()])?;
        let mut answer = Vec::new();
        stream.take(ANSWER_MAX).read_to_end(&mut answer)?;
        Ok(answer)
    };
    match tell() {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(None),
        Err(error) => {
            let message = format!("the page server of {} does not answer", place.instance);
            Err(Error::new(ErrorKind::Unavailable, message).because(&error))
        }
    }
}

/// A blocking socket in a directory, in place of an earlier one, for the owner of that directory.
fn listen(parent: &Path, name: &str) -> Result<UnixListener, Error> {
    let name = last_part(name);
    let bind = || -> io::Result<UnixListener> {
        let opened = directory(parent)?;
        let listener = mvm_shim::socket::listen(&opened, name)?;
        listener.set_nonblocking(false)?;
        give(&opened, name)?;
        Ok(listener)
    };
    bind().act(format_args!("listen at {}", parent.join(name).display()))
}

/// Makes a socket that of its directory's owner, who may have put something else there since: what is no
/// socket is left alone, and no link is followed.
fn give(parent: &OwnedFd, name: &str) -> io::Result<()> {
    let made =
        openat(parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&made)?.st_mode) != FileType::Socket {
        return Err(io::Error::other("something else is there by now"));
    }
    let path = format!("/proc/self/fd/{}", made.as_raw_fd());
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    let owner = fstat(parent)?.st_uid;
    let (user, group) = (Uid::from_raw(owner), Gid::from_raw(owner));
    chownat(&made, "", Some(user), Some(group), AtFlags::EMPTY_PATH)?;
    Ok(())
}

fn directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_socket_is_its_directorys_owners_alone() {
        let place = tempfile::tempdir().unwrap();
        let _listener = listen(place.path(), "s").unwrap();
        let found = place.path().join("s").symlink_metadata().unwrap();
        assert_eq!(found.permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_was_put_in_the_place_of_a_socket_is_left_alone() {
        let place = tempfile::tempdir().unwrap();
        let other = place.path().join("other");
        fs::write(&other, "x").unwrap();
        fs::set_permissions(&other, fs::Permissions::from_mode(0o644)).unwrap();
        symlink(&other, place.path().join("link")).unwrap();
        fs::hard_link(&other, place.path().join("file")).unwrap();
        let opened = directory(place.path()).unwrap();
        for name in ["link", "file"] {
            give(&opened, name).unwrap_err();
            assert_eq!(other.metadata().unwrap().permissions().mode() & 0o777, 0o644, "{name}");
        }
    }
}
