//! The files of an exported audit log: `audit.log`, which grows, and `audit.log.<n>`, which do not.
//!
//! The number rises, so that a rotated file keeps its name for as long as it is kept. Each file can
//! be checked by itself: its first entry holds the hash of the one before. This module refuses to
//! know what the database says.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "R3: the documented files are written by the store itself, after its commit"
)]

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use mvm_core::event::LoggedEvent;

use super::export::Owner;

/// The file that grows.
pub(super) const CURRENT: &str = "audit.log";
/// How another process's rotation shows between a look and an opening.
const CHANGED: [io::ErrorKind; 2] = [io::ErrorKind::NotFound, io::ErrorKind::AlreadyExists];
/// How much of a file's end is looked at for its last line; an entry is far smaller.
const TAIL: u64 = 256 * 1024;

/// The name of a rotated file.
pub(super) fn name(number: u64) -> String {
    format!("{CURRENT}.{number}")
}

/// The number in a rotated file's name.
pub(super) fn number(name: &str) -> Option<u64> {
    let rest = name.strip_prefix(CURRENT)?.strip_prefix('.')?;
    rest.parse().ok().filter(|number| self::name(*number) == name)
}

/// Opens the growing file and locks it. One that was rotated while its lock was waited for is not
/// the one any more, and what is no file of its own is none: whoever may write into the directory could
/// have put a link there.
pub(super) fn lock(directory: &Path, owner: Owner) -> io::Result<File> {
    let path = directory.join(CURRENT);
    loop {
        let mut options = OpenOptions::new();
        options.read(true).append(true).mode(0o600);
        let opened = match fs::symlink_metadata(&path) {
            Ok(there) if there.is_file() => options.open(&path),
            Ok(_) => return Err(io::Error::other("the audit log is not a file")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                options.create_new(true).open(&path)
            }
            Err(error) => return Err(error),
        };
        let log = match opened {
            Err(error) if CHANGED.contains(&error.kind()) => continue,
            opened => opened?,
        };
        log.lock()?;
        let own = log.metadata()?;
        if fs::symlink_metadata(&path).is_ok_and(|there| there.ino() == own.ino()) {
            owner.give(&log)?;
            return Ok(log);
        }
    }
}

/// What a file holds.
#[derive(Debug, Default)]
pub(super) struct Segment {
    pub(super) entries: Vec<LoggedEvent>,
    /// The first line that is no entry as it was written, from 1.
    pub(super) damage: Option<usize>,
    /// A last line without its end.
    pub(super) unfinished: Vec<u8>,
}

impl Segment {
    pub(super) fn first_seq(&self) -> u64 {
        self.entries.first().map_or(0, |entry| entry.seq)
    }

    pub(super) fn last_seq(&self) -> u64 {
        self.entries.last().map_or(0, |entry| entry.seq)
    }
}

/// An entry as its line, without the end of it.
pub(super) fn line(entry: &LoggedEvent) -> io::Result<Vec<u8>> {
    Ok(serde_json::to_vec(entry)?)
}

/// Reads a file; none when it is not there. A line counts only when it is, byte for byte, what is
/// written for its entry.
pub(super) fn read(path: &Path) -> io::Result<Option<Segment>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut segment = Segment::default();
    for (at, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let Some(line) = line.strip_suffix(b"\n") else {
            segment.unfinished = line.to_vec();
            break;
        };
        match serde_json::from_slice(line) {
            Ok(entry) if self::line(&entry)? == line => segment.entries.push(entry),
            Ok(_) | Err(_) => {
                segment.damage = Some(at + 1);
                break;
            }
        }
    }
    Ok(Some(segment))
}

/// All files of a log in a directory, the rotated ones by number, the growing one last.
pub(super) fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        match number(name) {
            Some(number) => found.push((number, directory.join(name))),
            None if name == CURRENT => found.push((u64::MAX, directory.join(name))),
            None => {}
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// The number of the first entry of an open file, if it has one.
pub(super) fn first_seq(path: &Path) -> io::Result<Option<u64>> {
    let mut start = Vec::new();
    File::open(path)?.take(TAIL).read_to_end(&mut start)?;
    let line = start.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(serde_json::from_slice::<Line>(line).ok().map(|line| line.seq))
}

#[derive(serde::Deserialize)]
struct Line {
    seq: u64,
}

/// The number of the last whole line and the file's length; a line that a crash cut off is removed.
pub(super) fn last_seq(log: &mut File) -> io::Result<(Option<u64>, u64)> {
    let length = log.seek(SeekFrom::End(0))?;
    let start = length.saturating_sub(TAIL);
    log.seek(SeekFrom::Start(start))?;
    let mut tail = Vec::new();
    log.read_to_end(&mut tail)?;
    let whole = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |place| place + 1);
    if whole < tail.len() {
        log.set_len(start + whole as u64)?;
    }
    let lines = tail.get(..whole).unwrap_or_default();
    let length = start + whole as u64;
    let Some(last) = lines.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty()) else {
        return Ok((None, length));
    };
    Ok((Some(serde_json::from_slice::<Line>(last)?.seq), length))
}

/// Makes the names in a directory durable.
pub(super) fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Removes a file; an absent one is removed.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The boot of this host, as the kernel names it.
pub(super) fn boot() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}
