//! The archive of a release into a directory.
//!
//! ```text
//! mvm-VERSION-ARCH-linux/bin/{mvm,mvm-hostd,…}     programs, mode 0755
//!                       /share/… /lib/… /LICENSE …  files, mode 0644
//! ```
//! Nothing but directories and plain files, each once, below the one tree: a link, a device, `..` or
//! an absolute name is refused, although whoever signed the release answers for it. Owners and times
//! of the archive are not taken over.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use flate2::read::GzDecoder;
use tar::EntryType;

use super::{PROGRAMS, ReleaseError};

/// The most that an archive may hold: bytes in all, and entries.
const BYTES_MAX: u64 = 1 << 30;
const ENTRIES_MAX: usize = 10_000;

/// Unpacks what is below `tree` in the archive into a directory that is made, durably.
///
/// # Errors
/// What is wrong with an entry, a missing program, or what the disk says; what came before it is there.
pub fn unpack(archive: &Path, tree: &str, into: &Path) -> Result<(), ReleaseError> {
    let read = |source| ReleaseError::Read { path: archive.to_owned(), source };
    let stream = GzDecoder::new(BufReader::new(File::open(archive).map_err(read)?));
    // One byte more than may be is enough to notice.
    let mut stream = tar::Archive::new(stream.take(BYTES_MAX + 1));
    let mut seen = BTreeSet::new();
    let mut total = 0_u64;
    make(into)?;
    for entry in stream.entries().map_err(read)? {
        let mut entry = entry.map_err(read)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let refused = |why| ReleaseError::Entry { name: name.clone(), why };
        let path = below(&name, tree).ok_or_else(|| refused("it is not below the tree"))?;
        if seen.len() >= ENTRIES_MAX || !seen.insert(path.clone()) {
            return Err(refused("it is there twice, or one too many"));
        }
        let to = into.join(&path);
        if entry.header().entry_type() == EntryType::Directory {
            make(&to)?;
            continue;
        }
        if entry.header().entry_type() != EntryType::Regular || path.as_os_str().is_empty() {
            return Err(refused("it is no plain file"));
        }
        total = total.saturating_add(entry.header().size().map_err(read)?);
        if total > BYTES_MAX {
            return Err(refused("the archive is too large"));
        }
        let is_program = entry.header().mode().map_err(read)? & 0o100 != 0;
        if let Some(parent) = to.parent() {
            make(parent)?;
        }
        write(&mut entry, &to, if is_program { 0o755 } else { 0o644 })?;
    }
    for name in PROGRAMS {
        let data = fs::symlink_metadata(into.join("bin").join(name));
        if !data.is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0) {
            return Err(ReleaseError::Program { name });
        }
    }
    seen.iter().chain([&PathBuf::new()]).try_for_each(|path| sync(&into.join(path)))
}

/// The path below the tree; none when the name leads anywhere else.
fn below(name: &str, tree: &str) -> Option<PathBuf> {
    let mut parts = Path::new(name).components();
    if parts.next()? != Component::Normal(tree.as_ref()) || name.contains('\0') {
        return None;
    }
    parts.map(|part| matches!(part, Component::Normal(_)).then_some(part)).collect()
}

/// Makes a directory that others may enter, whatever the caller's mask is, and those above it.
fn make(directory: &Path) -> Result<(), ReleaseError> {
    if directory.is_dir() {
        return Ok(());
    }
    if let Some(parent) = directory.parent() {
        make(parent)?;
    }
    fs::create_dir(directory)
        .and_then(|()| fs::set_permissions(directory, fs::Permissions::from_mode(0o755)))
        .map_err(|source| ReleaseError::Write { path: directory.to_owned(), source })
}

fn write(from: &mut impl Read, to: &Path, mode: u32) -> Result<(), ReleaseError> {
    let mut put = || {
        let mut file = File::options().write(true).create_new(true).mode(mode).open(to)?;
        io::copy(from, &mut file)?;
        // Whatever the caller's mask is: others run these programs too.
        file.set_permissions(fs::Permissions::from_mode(mode))
    };
    put().map_err(|source| ReleaseError::Write { path: to.to_owned(), source })
}

fn sync(path: &Path) -> Result<(), ReleaseError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|source| ReleaseError::Write { path: path.to_owned(), source })
}
