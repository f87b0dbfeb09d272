//! The caller's files on their way: into a session directory on the far side, and back.
//!
//! Each named path has a number and a directory of that name, which holds the file under its own
//! name. What comes back is unpacked below the caller's path only. It refuses to know what the
//! files are for.

use std::{
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use mvm_core::error::{Error, ErrorKind};
use serde::{Deserialize, Serialize};

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
}

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
        Ok(Self { typed: typed.to_owned(), way, there, name })
    }

    /// Where the file of number `index` is in a session; a trailing slash means what it meant.
    pub(super) fn place(&self, session: &Path, index: usize) -> PathBuf {
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

/// Unpacks what travels in, and lays out what will be written.
pub(super) fn unpack_in(carried: &[Carried], session: &Path, from: impl Read) -> io::Result<()> {
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
    archive.unpack(session)
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
        let mut parts = path.components();
        let index = parts.next().and_then(|part| part.as_os_str().to_str()?.parse().ok());
        let Some(file) = index.and_then(|index: usize| carried.get(index)) else {
            return Err(strange(&path));
        };
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
