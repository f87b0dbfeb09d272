//! One file out of a downloaded archive.
//!
//! Looks for exactly one named member and reads no more of it than it may be long; names of other
//! members are never used for anything.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

/// Why a member could not be taken out.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// The archive can't be read.
    #[error("cannot read the archive {archive}")]
    Archive {
        /// The archive.
        archive: PathBuf,
        /// The reason.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It has no such member.
    #[error("the archive {archive} has no file {member}")]
    Missing {
        /// The archive.
        archive: PathBuf,
        /// The path looked for.
        member: String,
    },
    /// The member is longer than the wanted file.
    #[error("{member} in {archive} is longer than {limit} bytes")]
    Oversize {
        /// The archive.
        archive: PathBuf,
        /// The path looked for.
        member: String,
        /// The bound in bytes.
        limit: u64,
    },
}

fn unreadable(
    archive: &Path,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> MemberError {
    MemberError::Archive { archive: archive.to_owned(), source: source.into() }
}

/// Copies one member of a wheel (a zip archive) to `to`.
pub(crate) fn from_zip(
    archive: &Path,
    member: &str,
    limit: u64,
    to: &Path,
) -> Result<(), MemberError> {
    let file = File::open(archive).map_err(|error| unreadable(archive, error))?;
    let mut zip =
        zip::ZipArchive::new(BufReader::new(file)).map_err(|error| unreadable(archive, error))?;
    let entry = match zip.by_name(member) {
        Ok(entry) if entry.is_file() => entry,
        Ok(_) | Err(zip::result::ZipError::FileNotFound) => {
            return Err(MemberError::Missing {
                archive: archive.to_owned(),
                member: member.to_owned(),
            });
        }
        Err(error) => return Err(unreadable(archive, error)),
    };
    write_member(entry, archive, member, limit, to)
}

/// Copies one member of a tar.gz to `to`; at most `archive_limit` bytes are decompressed.
pub(crate) fn from_tar_gz(
    archive: &Path,
    member: &str,
    limit: u64,
    archive_limit: u64,
    to: &Path,
) -> Result<(), MemberError> {
    let file = File::open(archive).map_err(|error| unreadable(archive, error))?;
    let bytes = GzDecoder::new(BufReader::new(file)).take(archive_limit);
    let mut tar = tar::Archive::new(bytes);
    for entry in tar.entries().map_err(|error| unreadable(archive, error))? {
        let entry = entry.map_err(|error| unreadable(archive, error))?;
        let is_wanted = {
            let path = entry.path_bytes();
            path.strip_prefix(b"./").unwrap_or(&path) == member.as_bytes()
        };
        if is_wanted && entry.header().entry_type().is_file() {
            return write_member(entry, archive, member, limit, to);
        }
    }
    Err(MemberError::Missing { archive: archive.to_owned(), member: member.to_owned() })
}

fn write_member(
    entry: impl Read,
    archive: &Path,
    member: &str,
    limit: u64,
    to: &Path,
) -> Result<(), MemberError> {
    let wrap = |error: io::Error| unreadable(archive, error);
    let mut out = File::create(to).map_err(wrap)?;
    let copied = io::copy(&mut entry.take(limit.saturating_add(1)), &mut out).map_err(wrap)?;
    if copied > limit {
        return Err(MemberError::Oversize {
            archive: archive.to_owned(),
            member: member.to_owned(),
            limit,
        });
    }
    out.flush().and_then(|()| out.sync_all()).map_err(wrap)
}
