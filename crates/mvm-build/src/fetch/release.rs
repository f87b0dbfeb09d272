//! Files of a release of this program: from the mirror if there is one, else from the project.
//!
//! Documents come unverified, and whoever asks verifies their signature; an archive comes with the
//! hash that such a document gave it. A mirror has the layout of releases beside its hashed files.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use super::{Attempts, FetchError, Fetched, Fetcher, Mirror, SourceFailure, check, http};
use crate::progress::{OnProgress, Progress, Step};
use crate::release::{Archive, Edition, PROJECT};

/// The longest document of a release, in bytes.
const DOCUMENT_MAX: u64 = 64 << 10;

impl Fetcher {
    /// A small document of a release, as it is at the source: nobody has verified it.
    ///
    /// # Errors
    /// [`FetchError::NoSource`] with the reason.
    pub fn release_document(&self, edition: &Edition, name: &str) -> Result<Vec<u8>, FetchError> {
        let _lock = self.lock()?;
        let part = self.config.cache.join("parts").join(name);
        let read = self.try_release(edition, name, DOCUMENT_MAX, &part, &|_| ()).and_then(|()| {
            let mut bytes = Vec::new();
            File::open(&part)
                .and_then(|file| file.take(DOCUMENT_MAX).read_to_end(&mut bytes))
                .map_err(|source| SourceFailure::File { path: part.clone(), source })?;
            Ok(bytes)
        });
        http::remove(&part);
        read.map_err(|failure| self.no_release(edition, name, failure))
    }

    /// The archive of a release, verified by its hash.
    ///
    /// # Errors
    /// [`FetchError::NoSource`] with the reason; wrong or missing bytes leave nothing.
    pub fn release_archive(
        &self,
        archive: &Archive,
        on: OnProgress<'_>,
    ) -> Result<Fetched, FetchError> {
        let _lock = self.lock()?;
        let path = self.blob(archive.sha256);
        if self.cached(archive.sha256) {
            return Ok(Fetched { path, source: None });
        }
        let edition = Edition::Exactly(archive.version.clone());
        let part = self.config.cache.join("parts").join(archive.sha256.to_string());
        let name = archive.file.as_str();
        let tick = |done| on(Progress { step: Step::Fetch, name, done, total: None });
        let limit = self.config.limits.archive_bytes;
        let got = self
            .try_release(&edition, name, limit, &part, &tick)
            .and_then(|()| check(&part, archive.sha256));
        if let Err(failure) = got {
            http::remove(&part);
            return Err(self.no_release(&edition, name, failure));
        }
        fs::rename(&part, &path)
            .map_err(|source| FetchError::Cache { path: path.clone(), source })?;
        Ok(Fetched { path, source: Some(self.release_url(&edition, name)) })
    }

    fn try_release(
        &self,
        edition: &Edition,
        name: &str,
        limit: u64,
        part: &Path,
        tick: &dyn Fn(u64),
    ) -> Result<(), SourceFailure> {
        if let Some(Mirror::Directory(directory)) = &self.config.mirror {
            let path = directory.join(edition.path(name));
            let from = File::open(&path);
            let copied = from
                .and_then(|from| std::io::copy(&mut from.take(limit), &mut File::create(part)?));
            return match copied {
                Ok(_) => Ok(()),
                Err(source) => Err(SourceFailure::File { path, source }),
            };
        }
        Ok(self.client.whole(&self.release_url(edition, name), limit, part, tick)?)
    }

    fn release_url(&self, edition: &Edition, name: &str) -> String {
        let base = match &self.config.mirror {
            Some(Mirror::Url(base)) => base.clone(),
            Some(Mirror::Directory(directory)) => directory.display().to_string(),
            None => format!("{}/{PROJECT}", self.config.github),
        };
        format!("{base}/{}", edition.path(name))
    }

    fn no_release(&self, edition: &Edition, name: &str, failure: SourceFailure) -> FetchError {
        let attempts = Attempts(vec![(self.release_url(edition, name), failure)]);
        FetchError::NoSource { name: name.to_owned(), attempts }
    }
}
