//! A release: how its files are called, what its list of sums says, and where it is found.
//!
//! ```text
//! BASE/releases/latest/download/FILE            the newest one
//! BASE/releases/download/vVERSION/FILE          a certain one
//!   SHA256SUMS                                  one line a file; names the version
//!   SHA256SUMS.sig                              64 bytes: Ed25519 over SHA256SUMS
//!   mvm-VERSION-ARCH-linux.tar.gz               the tree `mvm-VERSION-ARCH-linux/`, see `unpack`
//! ```
//! `install.sh` reads the same layout. This module refuses to know which key is trusted and where
//! programs are installed: it reads lists whose signature was verified, and archives whose hash was.

mod unpack;
mod version;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use unpack::unpack;
pub use version::{InvalidVersion, Version};

use crate::catalogue::Arch;
use crate::hash::ContentHash;

/// The project whose releases these are, on the forge.
pub const PROJECT: &str = "auser/mvm";
/// The file that lists every other one with its hash.
pub const SUMS: &str = "SHA256SUMS";
/// The signature of [`SUMS`]: the 64 bytes of Ed25519.
pub const SIGNATURE: &str = "SHA256SUMS.sig";
/// The programs below `bin/` in an archive.
pub const PROGRAMS: [&str; 5] = ["mvm", "mvm-hostd", "mvm-shim", "mvm-pager", "mvm-guest"];

/// The longest list of sums and the longest name in it, in bytes.
const SUMS_MAX: usize = 64 << 10;
const NAME_MAX: usize = 128;

/// Which release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edition {
    /// The newest.
    Latest,
    /// This one.
    Exactly(Version),
}

impl Edition {
    /// The path of a file below the base.
    #[must_use]
    pub fn path(&self, file: &str) -> String {
        match self {
            Self::Latest => format!("releases/latest/download/{file}"),
            Self::Exactly(version) => format!("releases/download/v{version}/{file}"),
        }
    }
}

/// Why a release is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// The list of sums is none.
    #[error("line {line} of {SUMS} is not a hash, two spaces and a file's name")]
    Line {
        /// Its number, from 1.
        line: usize,
    },
    /// The list is too long or not text.
    #[error("{SUMS} is not a text of at most {SUMS_MAX} bytes")]
    Sums,
    /// A file is listed twice.
    #[error("{SUMS} lists {name} twice")]
    Twice {
        /// The file.
        name: String,
    },
    /// There is not exactly one archive for this architecture.
    #[error("{SUMS} lists {count} archives for {arch}")]
    Archives {
        /// How many there are.
        count: usize,
        /// The architecture.
        arch: &'static str,
    },
    /// An entry of the archive has a name, type or size that no release has.
    #[error("the archive has an entry that no release has: {name:?}: {why}")]
    Entry {
        /// The entry's name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A program is not in the archive.
    #[error("the archive lacks the program {name}")]
    Program {
        /// Its name.
        name: &'static str,
    },
    /// The archive cannot be read.
    #[error("cannot read the archive {path}")]
    Read {
        /// Its file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The tree cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
}

/// The archive of a release for one architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// The version that it holds.
    pub version: Version,
    /// Its file's name in the release.
    pub file: String,
    /// Its hash.
    pub sha256: ContentHash,
}

/// The name of the tree in an archive; with `.tar.gz` that of the archive.
#[must_use]
pub fn tree_name(version: &Version, arch: Arch) -> String {
    format!("mvm-{version}-{}-linux", arch.as_str())
}

/// A list of sums.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sums(BTreeMap<String, ContentHash>);

impl Sums {
    /// Reads the list, as `sha256sum` writes it.
    ///
    /// # Errors
    /// The line that is none, or a file that is listed twice.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReleaseError> {
        let text = std::str::from_utf8(bytes).map_err(|_| ReleaseError::Sums)?;
        if text.len() > SUMS_MAX {
            return Err(ReleaseError::Sums);
        }
        let mut files = BTreeMap::new();
        for (index, line) in text.lines().enumerate() {
            let wrong = || ReleaseError::Line { line: index + 1 };
            let (hash, name) = line.split_once("  ").ok_or_else(wrong)?;
            let hash = hash.parse().map_err(|_| wrong())?;
            if !is_name(name) {
                return Err(wrong());
            }
            if files.insert(name.to_owned(), hash).is_some() {
                return Err(ReleaseError::Twice { name: name.to_owned() });
            }
        }
        Ok(Self(files))
    }

    /// The one archive for an architecture, and by its name the version of the release.
    ///
    /// # Errors
    /// [`ReleaseError::Archives`] when there is none or more than one.
    pub fn archive(&self, arch: Arch) -> Result<Archive, ReleaseError> {
        let suffix = format!("-{}-linux.tar.gz", arch.as_str());
        let mut found = self.0.iter().filter_map(|(file, sha256)| {
            let version = file.strip_prefix("mvm-")?.strip_suffix(&suffix)?.parse().ok()?;
            Some(Archive { version, file: file.clone(), sha256: *sha256 })
        });
        match (found.next(), found.count()) {
            (Some(archive), 0) => Ok(archive),
            (first, more) => {
                let count = usize::from(first.is_some()) + more;
                Err(ReleaseError::Archives { count, arch: arch.as_str() })
            }
        }
    }
}

/// A plain file name, which is no path and no option.
fn is_name(text: &str) -> bool {
    text.len() <= NAME_MAX
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-._~".contains(&b))
}

#[cfg(test)]
mod tests;
