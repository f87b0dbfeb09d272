//! Changes of directories that survive a power cut: made under another name, synced, renamed, and
//! the directory synced.
//!
//! It knows paths and bytes, not what they mean.

use std::{
    fs::{DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, RenameFlags};

use super::error::{Act, Error};

/// Makes a directory and its missing parents, each 0700 and synced into its parent.
///
/// # Errors
/// When one cannot be made, or is something else than a directory.
pub fn create_dirs(path: &Path) -> Result<(), Error> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        create_dirs(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        made => made.act("make the directory", path)?,
    }
    sync_parent(path)
}

/// Makes what happened to the names in a directory durable.
///
/// # Errors
/// When it cannot be opened or synced.
pub fn sync_dir(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|dir| dir.sync_all()).act("sync the directory", path)
}

/// As [`sync_dir`], of the directory that holds `path`.
///
/// # Errors
/// As [`sync_dir`].
pub fn sync_parent(path: &Path) -> Result<(), Error> {
    path.parent().map_or(Ok(()), sync_dir)
}

/// The name under which `path` is made before it is complete: `<path>.partial`.
#[must_use]
pub fn partial(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    PathBuf::from(name)
}

/// Creates a file that nothing else has, to be written, with exactly these permission bits, whatever
/// the process's umask; a leftover of the same name goes first.
///
/// # Errors
/// When it cannot be created.
pub fn create_fresh(path: &Path, mode: u32) -> Result<File, Error> {
    remove_file(path)?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .act("create", path)?;
    file.set_permissions(Permissions::from_mode(mode)).act("set the mode of", path)?;
    Ok(file)
}

/// Puts `content` at `path` with these permission bits, whole or not at all, and durably. What was
/// there is replaced.
///
/// # Errors
/// When any step fails; then what was there stays.
pub fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), Error> {
    let partial = partial(path);
    fill(&partial, content, mode)?;
    std::fs::rename(&partial, path).act("replace", path)?;
    sync_parent(path)
}

/// As [`write()`], but leaves what is there; tells whether it wrote.
///
/// # Errors
/// As [`write()`].
pub fn write_unless_there(path: &Path, content: &[u8], mode: u32) -> Result<bool, Error> {
    let partial = partial(path);
    fill(&partial, content, mode)?;
    let wrote = rename_if_free(&partial, path)?;
    if !wrote {
        remove_file(&partial)?;
    }
    sync_parent(path)?;
    Ok(wrote)
}

fn fill(path: &Path, content: &[u8], mode: u32) -> Result<(), Error> {
    let mut file = create_fresh(path, mode)?;
    file.write_all(content).and_then(|()| file.sync_all()).act("write", path)
}

/// Renames unless the target exists; tells whether it did.
///
/// # Errors
/// When the rename fails for another reason.
pub fn rename_if_free(from: &Path, to: &Path) -> Result<bool, Error> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::EXIST) => Ok(false),
        Err(error) => Err(error).act("rename", from),
    }
}

/// Renames, then syncs the directory of both.
///
/// # Errors
/// When either fails.
pub fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    std::fs::rename(from, to).act("rename", from)?;
    sync_parent(to)
}

/// Removes a file or symbolic link; absent is removed.
///
/// # Errors
/// When it is there and stays.
pub fn remove_file(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.act("remove", path),
    }
}

/// Removes a directory with all it holds, never following a symbolic link, durably; absent is
/// removed.
///
/// # Errors
/// When something of it stays.
pub fn remove_dir(path: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => {
            removed.act("remove", path)?;
            sync_parent(path)
        }
    }
}

/// Overwrites a file's bytes with zeros, durably, then removes it; absent is removed. Of a symbolic
/// link only the link goes.
///
/// On a file system or device that writes elsewhere (a copy-on-write file system, flash) the old
/// bytes may survive below; there only encryption of the device helps.
///
/// # Errors
/// When it is there and cannot be overwritten or removed.
pub fn shred(path: &Path) -> Result<(), Error> {
    let file = OpenOptions::new()
        .write(true)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path);
    let mut file = match file {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            return remove_file(path);
        }
        opened => opened.act("open", path)?,
    };
    let length = file.metadata().act("look at", path)?.len();
    io::copy(&mut io::Read::take(io::repeat(0), length), &mut file)
        .and_then(|_| file.sync_all())
        .act("overwrite", path)?;
    remove_file(path)?;
    sync_parent(path)
}

/// Renames over a file whose bytes are overwritten then; durable when this returns.
///
/// # Errors
/// When the rename fails; then both stay.
pub fn rename_shredding(from: &Path, to: &Path) -> Result<(), Error> {
    let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let old = match OpenOptions::new().write(true).custom_flags(flags).open(to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => None,
        opened => Some(opened.act("open", to)?),
    };
    rename(from, to)?;
    let Some(mut old) = old else { return Ok(()) };
    let length = old.metadata().act("look at", to)?.len();
    io::copy(&mut io::Read::take(io::repeat(0), length), &mut old)
        .and_then(|_| old.sync_all())
        .act("overwrite the one before", to)
}

/// As [`write()`], and the bytes of what was there are overwritten.
///
/// # Errors
/// As [`write()`].
pub fn write_shredding(path: &Path, content: &[u8], mode: u32) -> Result<(), Error> {
    let partial = partial(path);
    fill(&partial, content, mode)?;
    rename_shredding(&partial, path)
}

/// Overwrites the first `length` bytes of a file with zeros, durably, but for its holes.
///
/// # Errors
/// When it cannot be opened or written.
pub fn overwrite(path: &Path, length: u64) -> Result<(), Error> {
    use rustix::fs::{SeekFrom, seek};
    use std::os::unix::fs::FileExt;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
        .act("open", path)?;
    let end = file.metadata().act("look at", path)?.len().min(length);
    let zeros = vec![0; 1 << 20];
    let mut at = 0;
    while at < end {
        at = match seek(&file, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error).act("look for data in", path),
        };
        let hole = seek(&file, SeekFrom::Hole(at)).act("look for holes in", path)?.min(end);
        while at < hole {
            let step = usize::try_from(hole - at).unwrap_or(usize::MAX).min(zeros.len());
            file.write_all_at(zeros.get(..step).unwrap_or_default(), at).act("overwrite", path)?;
            at += step as u64;
        }
    }
    file.sync_all().act("overwrite", path)
}

/// The names in a directory, sorted; none when it is absent. Names that are not UTF-8 are not ours
/// and left out.
///
/// # Errors
/// When it cannot be read.
pub fn names(path: &Path) -> Result<Vec<String>, Error> {
    let entries = match std::fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.act("list", path)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        if let Ok(name) = entry.act("list", path)?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Whether anything has this name, a dangling link included.
///
/// # Errors
/// When that cannot be found out.
pub fn exists(path: &Path) -> Result<bool, Error> {
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).act("look at", path),
    }
}
