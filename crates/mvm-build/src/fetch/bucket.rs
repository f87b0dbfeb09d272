//! A bucket of an S3-compatible storage: objects by key, read and written whole.
//!
//! Requests are path style (`ENDPOINT/BUCKET/PREFIX/KEY`) and signed in their headers, so that no address that
//! an error shows has anything of a credential. An object is one PUT, of at most 5 GiB as the storage has it;
//! whatever broke off is asked for again as a whole by the next call, or, on the way here, from where it
//! broke off. It refuses to know what objects mean.

mod sign;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use mvm_core::units::Timestamp;

pub use sign::AccessKey;

use super::http::{Client, HttpError, Pinned};
use super::{FetchError, Fetched, Fetcher, Limits};
use crate::hash::ContentHash;
use crate::progress::{OnProgress, Progress, Step};

/// Largest object of one PUT, in bytes ("Amazon S3 multipart upload limits").
pub const OBJECT_MAX: u64 = 5 << 30;

/// Where a bucket is and who asks.
#[derive(Clone)]
pub struct BucketConfig {
    /// `s3://BUCKET` or `s3://BUCKET/PREFIX`.
    pub url: String,
    /// `https://HOST[:PORT]`, or `http://` where the network is trusted.
    pub endpoint: String,
    /// The region that requests are signed for.
    pub region: String,
    /// Who asks.
    pub key: AccessKey,
    /// Certificates to trust instead of the built-in ones, in PEM.
    pub certificates: Option<PathBuf>,
}

/// Why a bucket did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// The address names no bucket.
    #[error(
        "{0:?} is not the address of a bucket: write s3://BUCKET or s3://BUCKET/PREFIX, in letters, digits, dots, hyphens and underscores"
    )]
    Address(String),
    /// The endpoint is none.
    #[error("{0:?} is not the endpoint of a storage: write https://HOST or https://HOST:PORT")]
    Endpoint(String),
    /// The transfer failed.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// There is no such object.
    #[error("the storage has no object {key}")]
    Missing {
        /// Its key in the bucket.
        key: String,
    },
    /// The storage does not believe who asks, or does not let them.
    #[error("the storage refuses {act} {key} with status {status}")]
    Denied {
        /// What was asked.
        act: &'static str,
        /// The object.
        key: String,
        /// The HTTP status, 401 or 403.
        status: u16,
    },
    /// Another answer that is none.
    #[error("the storage answered to {act} {key} with status {status}")]
    Status {
        /// What was asked.
        act: &'static str,
        /// The object.
        key: String,
        /// The HTTP status.
        status: u16,
    },
    /// A file is too large for one object.
    #[error("{path} has {size} bytes, and an object has at most {OBJECT_MAX}")]
    Oversize {
        /// The file.
        path: PathBuf,
        /// Its length.
        size: u64,
    },
    /// A local file operation failed.
    #[error("cannot use {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The cache cannot be used.
    #[error(transparent)]
    Cache(Box<FetchError>),
}

/// A bucket.
pub struct Bucket {
    client: Client,
    /// Without a slash at the end.
    endpoint: String,
    host: String,
    /// `/BUCKET/PREFIX`, without a slash at the end.
    base: String,
    region: String,
    key: AccessKey,
}

impl Bucket {
    /// Prepares to ask; nothing is asked yet.
    ///
    /// # Errors
    /// When the address or the endpoint makes no sense, or the certificates cannot be read.
    pub fn open(config: BucketConfig) -> Result<Self, BucketError> {
        let (endpoint, host) = endpoint(&config.endpoint)?;
        Ok(Self {
            client: Client::new(&Limits::default(), config.certificates.as_deref())?,
            endpoint,
            host,
            base: base(&config.url)?,
            region: config.region,
            key: config.key,
        })
    }

    /// An object of at most `limit` bytes, as it is in the storage: nobody has verified it.
    ///
    /// # Errors
    /// [`BucketError::Missing`]; why it cannot be had.
    pub fn document(&self, key: &str, limit: u64) -> Result<Vec<u8>, BucketError> {
        let asked = self.ask("GET", key, &ContentHash::of(&[]));
        let found = self.client.document(&asked.url, &asked.headers(), limit)?;
        settle("to read", key, found.status)?;
        Ok(found.body)
    }

    /// Whether there is an object of this length under a key.
    ///
    /// # Errors
    /// Why that cannot be told.
    pub fn has(&self, key: &str, size: u64) -> Result<bool, BucketError> {
        let asked = self.ask("HEAD", key, &ContentHash::of(&[]));
        let (status, length) = self.client.head(&asked.url, &asked.headers())?;
        match settle("to look at", key, status) {
            Ok(()) => Ok(length == Some(size)),
            Err(BucketError::Missing { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Puts bytes under a key, in place of what is there.
    ///
    /// # Errors
    /// Why the storage does not take them.
    pub fn put(&self, key: &str, bytes: &[u8]) -> Result<(), BucketError> {
        let asked = self.ask("PUT", key, &ContentHash::of(bytes));
        let status = self.client.put(&asked.url, &asked.headers(), bytes)?;
        settle("to write", key, status)
    }

    /// Puts a file under a key, in place of what is there; the storage checks its digest.
    ///
    /// # Errors
    /// [`BucketError::Oversize`]; why the storage does not take it.
    pub fn put_file(&self, key: &str, path: &Path, pinned: Pinned) -> Result<(), BucketError> {
        if pinned.size > OBJECT_MAX {
            return Err(BucketError::Oversize { path: path.to_owned(), size: pinned.size });
        }
        let asked = self.ask("PUT", key, &pinned.sha256);
        let file = File::open(path)
            .map_err(|source| BucketError::File { path: path.to_owned(), source })?;
        let status = self.client.put(&asked.url, &asked.headers(), &file)?;
        settle("to write", key, status)
    }

    fn ask(&self, method: &str, key: &str, body: &ContentHash) -> Asked {
        let path = format!("{}/{key}", self.base);
        let request = sign::Request {
            method,
            host: &self.host,
            path: &path,
            body: &body.to_string(),
            time: &basic(now()),
            region: &self.region,
        };
        let headers = sign::headers(&request, &self.key);
        Asked { url: format!("{}{path}", self.endpoint), headers }
    }
}

impl Fetcher {
    /// An object of a bucket whose length and digest are known, in the cache.
    ///
    /// # Errors
    /// [`BucketError::Missing`]; [`HttpError::WrongHash`] and [`HttpError::Oversize`] when it is not what it should
    /// be, and then nothing of it is left.
    pub fn object(
        &self,
        bucket: &Bucket,
        key: &str,
        pinned: Pinned,
        on: OnProgress<'_>,
    ) -> Result<Fetched, BucketError> {
        let cache = |error| BucketError::Cache(Box::new(error));
        let _lock = self.lock().map_err(cache)?;
        let path = self.blob(pinned.sha256);
        if self.cached(pinned.sha256) {
            return Ok(Fetched { path, source: None });
        }
        let part = self.part(pinned.sha256);
        let asked = bucket.ask("GET", key, &ContentHash::of(&[]));
        let name = key.rsplit('/').next().unwrap_or(key);
        let tick = |done| {
            let done = pinned.size.min(done);
            on(Progress { step: Step::Fetch, name, done, total: Some(pinned.size) });
        };
        let got = bucket.client.resume(&asked.url, &asked.headers(), pinned, &part, &tick);
        if let Err(HttpError::Status { status, .. }) = got {
            settle("to read", key, status)?;
        }
        if matches!(got, Err(HttpError::Cut { source: None, .. })) {
            // The object itself is shorter: there is nothing that one could go on with.
            super::http::remove(&part);
        }
        got?;
        fs::rename(&part, &path)
            .map_err(|source| cache(FetchError::Cache { path: path.clone(), source }))?;
        Ok(Fetched { path, source: Some(key.to_owned()) })
    }
}

/// A signed request.
struct Asked {
    url: String,
    headers: Vec<(&'static str, String)>,
}

impl Asked {
    fn headers(&self) -> Vec<(&str, &str)> {
        self.headers.iter().map(|(name, value)| (*name, value.as_str())).collect()
    }
}

fn settle(act: &'static str, key: &str, status: u16) -> Result<(), BucketError> {
    let key = key.to_owned();
    match status {
        200..=299 => Ok(()),
        404 => Err(BucketError::Missing { key }),
        401 | 403 => Err(BucketError::Denied { act, key, status }),
        _ => Err(BucketError::Status { act, key, status }),
    }
}

/// An endpoint without a slash at its end, and the `Host` of requests to it.
fn endpoint(text: &str) -> Result<(String, String), BucketError> {
    let wrong = || BucketError::Endpoint(text.to_owned());
    let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
    let usual = match scheme {
        "https" => ":443",
        "http" => ":80",
        _ => return Err(wrong()),
    };
    let rest = rest.trim_end_matches('/');
    let host = rest.strip_suffix(usual).unwrap_or(rest);
    let is_clean = |b: u8| b.is_ascii_alphanumeric() || b".-:[]".contains(&b);
    if host.is_empty() || !host.bytes().all(is_clean) {
        return Err(wrong());
    }
    Ok((format!("{scheme}://{host}"), host.to_owned()))
}

/// `/BUCKET/PREFIX` of an address.
fn base(url: &str) -> Result<String, BucketError> {
    let wrong = || BucketError::Address(url.to_owned());
    let path = url.strip_prefix("s3://").ok_or_else(wrong)?.trim_end_matches('/');
    let is_clean = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    let is_part =
        |part: &str| !part.is_empty() && part != "." && part != ".." && part.bytes().all(is_clean);
    if path.split('/').all(is_part) { Ok(format!("/{path}")) } else { Err(wrong()) }
}

/// A moment as `YYYYMMDDTHHMMSSZ`.
fn basic(moment: Timestamp) -> String {
    let text = moment.rfc3339();
    text.chars().filter(|c| !matches!(c, '-' | ':')).collect()
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let milliseconds = since.unwrap_or_default().as_millis();
    Timestamp(u64::try_from(milliseconds).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
