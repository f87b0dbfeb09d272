//! The caller's files on their way: into a session directory on the far side, and back.
//!
//! Each named path has a number and a directory of that name, which holds the file under its own
//! name. What comes back is unpacked below the caller's path only. What records will name stays behind, in a
//! place that is the same for the same path of the caller. It refuses to know what the files are for.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use mvm_build::ContentHash;
use mvm_core::error::{Error, ErrorKind};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::path::ImagePath;
use crate::image::is_path;

/// Which way a file travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// The command reads it.
    In,
    /// The command writes it.
    Out,
}

/// What is at the caller's path before the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum There {
    /// Nothing.
    Nothing,
    /// A file.
    File,
    /// A directory.
    Directory,
}

/// One path of the caller that an argument names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// The words of the argument.
    pub typed: String,
    /// Which way.
    pub way: Way,
    /// What is there.
    pub there: There,
    /// The name of the file in the session.
    name: String,
    /// The name of its lasting place, if later commands will read it, too.
    stays: Option<String>,
}

/// Where what stays is unpacked before it takes its place.
const NEW: &str = "new";

impl Carried {
    /// Looks at a path of the caller.
    ///
    /// # Errors
    /// `Invalid` when a path to be written has no name.
    pub fn look(typed: &str, way: Way) -> Result<Self, Error> {
        let path = Path::new(typed);
        let there = match fs::metadata(path) {
            Ok(data) if data.is_dir() => There::Directory,
            Ok(_) => There::File,
            Err(_) => There::Nothing,
        };
        let name = path.file_name().map(ToOwned::to_owned).or_else(|| {
            let real = fs::canonicalize(path).ok()?;
            Some(real.file_name().unwrap_or("root".as_ref()).to_owned())
        });
        let name = name.and_then(|name| name.into_string().ok()).ok_or_else(|| {
            Error::new(ErrorKind::Invalid, format!("{typed} does not name a file"))
        })?;
        Ok(Self { typed: typed.to_owned(), way, there, name, stays: None })
    }

    /// Looks at an image of the caller; none when it is a name, or nothing is there.
    ///
    /// # Errors
    /// As [`Carried::look`].
    pub fn look_at_image(image: &ImagePath) -> Result<Option<Self>, Error> {
        let typed = image.typed();
        let Some(real) = is_path(typed).then(|| fs::canonicalize(typed).ok()).flatten() else {
            return Ok(None);
        };
        let real = real.into_os_string().into_string().map_err(|_| {
            Error::new(ErrorKind::Invalid, format!("the path {typed} is not UTF-8"))
        })?;
        let place = ContentHash::of(real.as_bytes()).to_string().chars().take(16).collect();
        let look = Self::look(&real, Way::In)?;
        Ok(Some(Self { typed: typed.to_owned(), stays: Some(place), ..look }))
    }

    /// Where the file of number `index` is for the command; a trailing slash means what it meant.
    pub(super) fn place(&self, session: &Path, kept: &Path, index: usize) -> PathBuf {
        if let Some(stays) = &self.stays {
            return kept.join(stays).join(&self.name);
        }
        let place = session.join(index.to_string()).join(&self.name);
        if self.typed.ends_with('/') { place.join("") } else { place }
    }
}

/// Writes an archive of the files that travel in. A missing one is left out: the command itself
/// says so.
pub(super) fn pack_in(carried: &[Carried], to: impl Write) -> io::Result<()> {
    let mut archive = tar::Builder::new(to);
    archive.follow_symlinks(false);
    for (index, file) in carried.iter().enumerate().filter(|(_, file)| file.way == Way::In) {
        let name = format!("{index}/{}", file.name);
        match file.there {
            There::Nothing => {}
            There::Directory => archive.append_dir_all(name, &file.typed)?,
            There::File => append_file(&mut archive, &name, Path::new(&file.typed))?,
        }
    }
    archive.into_inner().map(drop)
}

/// A regular file as it is; a pipe or device as a file with all that it gives.
fn append_file<W: Write>(archive: &mut tar::Builder<W>, name: &str, path: &Path) -> io::Result<()> {
    let mut file = fs::File::open(path)?;
    if file.metadata()?.is_file() {
        return archive.append_file(name, &mut file);
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o600);
    archive.append_data(&mut header, name, bytes.as_slice())
}

/// Unpacks what travels in, and lays out what will be written; what stays takes the place of what was carried
/// from there before, and what no text of `naming` names any more goes. Without these texts, nothing goes.
pub(super) fn unpack_in(
    carried: &[Carried],
    session: &Path,
    kept: &Path,
    naming: impl FnOnce() -> Option<Vec<String>>,
    from: impl Read,
) -> io::Result<()> {
    let new = kept.join(NEW);
    // Whoever has the lock finds what one that was killed left behind.
    let _lock = if carried.iter().any(|file| file.stays.is_some()) {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(kept)?;
        let lock = fs::File::open(kept)?;
        flock(&lock, FlockOperation::LockExclusive)?;
        clear(&new)?;
        if let Some(texts) = naming() {
            // What does not go is tried again with the next command.
            let _ = prune(kept, &texts);
        }
        fs::create_dir(&new)?;
        Some(lock)
    } else {
        None
    };
    for (index, file) in carried.iter().enumerate() {
        let directory = session.join(index.to_string());
        fs::create_dir_all(&directory)?;
        if file.way == Way::Out {
            let place = directory.join(&file.name);
            match file.there {
                There::Nothing => {}
                There::File => fs::write(place, b"")?,
                There::Directory => fs::create_dir(place)?,
            }
        }
    }
    let mut archive = tar::Archive::new(from);
    archive.set_preserve_permissions(true);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let file = numbered(carried, &path).ok_or_else(|| strange(&path))?;
        entry.unpack_in(if file.stays.is_some() { &new } else { session })?;
    }
    for (index, file) in carried.iter().enumerate() {
        if let Some(stays) = &file.stays {
            settle(&new, index, &kept.join(stays))?;
        }
    }
    clear(&new)
}

/// Removes every lasting place that no text names.
fn prune(kept: &Path, texts: &[String]) -> io::Result<()> {
    for entry in fs::read_dir(kept)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if !texts.iter().any(|text| text.contains(&name)) {
            clear(&entry.path())?;
        }
    }
    Ok(())
}

/// Puts what was unpacked under a number into its lasting place.
fn settle(new: &Path, index: usize, place: &Path) -> io::Result<()> {
    let (from, old) = (new.join(index.to_string()), new.join(format!("old-{index}")));
    if !from.exists() {
        return Ok(());
    }
    match fs::rename(place, old) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    fs::rename(from, place)
}

fn clear(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// The file that a path in an archive is of: its first part is the number.
fn numbered<'c>(carried: &'c [Carried], path: &Path) -> Option<&'c Carried> {
    let index: usize = path.components().next()?.as_os_str().to_str()?.parse().ok()?;
    carried.get(index)
}

/// Writes an archive of what the command left for the caller.
pub(super) fn pack_out(carried: &[Carried], session: &Path, to: impl Write) -> io::Result<()> {
    let mut archive = tar::Builder::new(to);
    archive.follow_symlinks(false);
    for (index, _) in carried.iter().enumerate().filter(|(_, file)| file.way == Way::Out) {
        let directory = session.join(index.to_string());
        archive.append_dir_all(index.to_string(), directory)?;
    }
    archive.into_inner().map(drop)
}

/// Unpacks what the command left: into the caller's directory, or to the caller's path.
pub(super) fn unpack_out(carried: &[Carried], from: impl Read) -> io::Result<()> {
    let mut archive = tar::Archive::new(from);
    archive.set_preserve_permissions(true);
    archive.set_overwrite(true);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let file = numbered(carried, &path).ok_or_else(|| strange(&path))?;
        let mut parts = path.components();
        let _number = parts.next();
        let Some(name) = parts.next() else { continue };
        if file.way != Way::Out || name.as_os_str() != file.name.as_str() {
            return Err(strange(&path));
        }
        let inner = parts.as_path();
        let is_safe =
            inner.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        if !is_safe {
            return Err(strange(&path));
        }
        let target = if inner.as_os_str().is_empty() {
            if file.there == There::Directory {
                continue;
            }
            PathBuf::from(&file.typed)
        } else {
            Path::new(&file.typed).join(inner)
        };
        refuse_links(Path::new(&file.typed), inner)?;
        entry.unpack(&target)?;
    }
    Ok(())
}

/// A link on the way to a file would lead out of the caller's path.
fn refuse_links(base: &Path, inner: &Path) -> io::Result<()> {
    let mut path = base.to_owned();
    for part in inner.parent().into_iter().flat_map(Path::components) {
        path.push(part);
        if fs::symlink_metadata(&path).is_ok_and(|data| data.is_symlink()) {
            return Err(strange(&path));
        }
    }
    Ok(())
}

fn strange(path: &Path) -> io::Error {
    let what = format!("{} was not asked for", path.display());
    io::Error::new(io::ErrorKind::InvalidData, what)
}
