//! The files that a provider keeps about its machine: written whole, and one command at a time.

use std::{
    fs::{self, File},
    os::unix::fs::DirBuilderExt,
    path::Path,
    time::{Duration, Instant},
};

use mvm_core::error::{Error, ErrorKind};
use rustix::fs::{FlockOperation, flock};
use serde::Serialize;

use super::spawn;
use crate::config::Config;

/// How long another command's start or stop is waited for.
const PATIENCE: Duration = Duration::from_secs(900);

/// An error that names the act and the file.
pub(super) fn fault(
    act: &'static str,
    path: &Path,
) -> impl FnOnce(std::io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |error| {
        let message = format!("cannot {act} {}", path.display());
        Error::new(ErrorKind::Failed, message).because(&error)
    }
}

/// Makes a directory for its owner, and those above it.
pub(super) fn make(path: &Path) -> Result<(), Error> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(path).map_err(fault("make", path))
}

/// Writes a record whole or not at all.
pub(super) fn write_whole<T: Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    let text = serde_json::to_vec_pretty(value).unwrap_or_default();
    let part = path.with_extension(format!("part-{}", std::process::id()));
    fs::write(&part, text).map_err(fault("write", &part))?;
    File::open(&part).and_then(|file| file.sync_all()).map_err(fault("sync", &part))?;
    fs::rename(&part, path).map_err(fault("publish", path))
}

/// Removes a file or a directory, if it is there.
pub(super) fn remove(path: &Path) -> Result<(), Error> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(fault("remove", path)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// One command at a time makes, starts, stops or removes the machine of a data directory.
pub(super) fn lock(config: &Config) -> Result<File, Error> {
    make(&config.data_dir)?;
    let path = config.data_dir.join("host.lock");
    let file = File::create(&path).map_err(fault("create", &path))?;
    let deadline = Instant::now() + PATIENCE;
    while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        if Instant::now() > deadline {
            return Err(Error::new(
                ErrorKind::Unavailable,
                "another command has been busy with the machine for 15 minutes",
            ));
        }
        std::thread::sleep(spawn::POLL);
    }
    Ok(file)
}
