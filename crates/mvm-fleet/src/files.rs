//! Small files that hold keys and certificates: read whole, written whole or not at all.
//!
//! It refuses to know what is in them.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown, lchown},
    path::Path,
};

use mvm_core::error::{Error, ErrorKind};

/// No key, certificate or authority is larger.
const SIZE_MAX: u64 = 256 << 10;

/// Who may read a file that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readers {
    /// Its owner.
    Owner,
    /// Everybody.
    All,
}

/// What is in a file; none when it is not there.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let mut bytes = Vec::new();
    let read =
        fs::File::open(path).and_then(|file| file.take(SIZE_MAX + 1).read_to_end(&mut bytes));
    match read {
        Ok(_) if bytes.len() as u64 > SIZE_MAX => {
            let message = format!("{} is too large (limit {SIZE_MAX} bytes)", path.display());
            Err(Error::new(ErrorKind::Invalid, message))
        }
        Ok(_) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::new(ErrorKind::Failed, format!("cannot read {}", path.display()))
            .because(&error)),
    }
}

/// The text in a file; none when it is not there.
pub(crate) fn read_text(path: &Path) -> Result<Option<String>, Error> {
    let Some(bytes) = read(path)? else { return Ok(None) };
    let text = String::from_utf8(bytes);
    text.map(Some)
        .map_err(|_| Error::new(ErrorKind::Invalid, format!("{} is not text", path.display())))
}

/// Puts a file in place, durably; directories above it are made, for their owner only.
pub(crate) fn write(path: &Path, text: &str, readers: Readers) -> Result<(), Error> {
    let mode = match readers {
        Readers::Owner => 0o600,
        Readers::All => 0o644,
    };
    let put = || {
        let directory = directory_of(path);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let mut name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?.to_owned();
        name.push(format!(".{}.part", std::process::id()));
        let part = path.with_file_name(name);
        let written = (|| {
            let mut options = fs::OpenOptions::new();
            // Never a file that is there: somebody else may have put it, or a link, in its place.
            match fs::remove_file(&part) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            let mut file = options.write(true).create_new(true).mode(mode).open(&part)?;
            // Root writes for an agent without root, whose the directory is.
            let owner = fs::metadata(directory)?;
            if owner.uid() != 0 && file.metadata()?.uid() == 0 {
                fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
            }
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&part, path)?;
            fs::File::open(directory)?.sync_all()
        })();
        if written.is_err() {
            // What was begun is of no use; the error to be told is the first one.
            let _ = fs::remove_file(&part);
        }
        written
    };
    put().map_err(|error| {
        Error::new(ErrorKind::Failed, format!("cannot write {}", path.display())).because(&error)
    })
}

/// The directory that a file lies in; a bare name is one in the present directory.
pub(crate) fn directory_of(path: &Path) -> &Path {
    let directory = path.parent().unwrap_or(Path::new(""));
    if directory.as_os_str().is_empty() { Path::new(".") } else { directory }
}

/// Removes a file, if it is there.
pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            let message = format!("cannot remove {}", path.display());
            Err(Error::new(ErrorKind::Failed, message).because(&error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Waits until nobody else changes what belongs to this place, and keeps others waiting until dropped. It is
/// an empty directory, which nobody can have made a link to something that root then would write.
pub(crate) fn hold(path: &Path) -> Result<fs::File, Error> {
    let take = || {
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {
                let owner = fs::metadata(directory_of(path))?;
                if owner.uid() != fs::symlink_metadata(path)?.uid() {
                    lchown(path, Some(owner.uid()), Some(owner.gid()))?;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let held = fs::File::open(path)?;
        held.lock()?;
        Ok(held)
    };
    take().map_err(|error: io::Error| {
        Error::new(ErrorKind::Failed, format!("cannot hold {}", path.display())).because(&error)
    })
}

/// Makes a directory for its owner, and waits until nobody else changes what is in it; held until dropped.
pub(crate) fn turn(directory: &Path) -> Result<fs::File, Error> {
    let take = || {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let held = fs::File::open(directory)?;
        held.lock()?;
        Ok(held)
    };
    take().map_err(|error: io::Error| {
        Error::new(ErrorKind::Failed, format!("cannot use {}", directory.display())).because(&error)
    })
}

/// Refuses a secret that others may read, and what others than its owner and root may write.
pub(crate) fn guard(path: &Path, readers: Readers) -> Result<(), Error> {
    let (forbidden, act, advice) = match readers {
        Readers::Owner => (0o077, "read", "600"),
        Readers::All => (0o022, "written", "go-w"),
    };
    let metadata = fs::metadata(path).map_err(|error| {
        Error::new(ErrorKind::Failed, format!("cannot look at {}", path.display())).because(&error)
    })?;
    if metadata.mode() & forbidden == 0 {
        return Ok(());
    }
    let message = format!("{} can be {act} by others than its owner", path.display());
    Err(Error::new(ErrorKind::Permission, message)
        .hint(format!("close it: chmod {advice} {}", path.display())))
}
