//! Transfers over HTTP, resumed by `Range`.
//!
//! Writes into a part file whose final length and digest are known beforehand. A broken transfer
//! leaves the part for the next attempt, wherever that comes from; wrong bytes leave nothing. It
//! does not try twice: whoever called decides about the next source and the next attempt.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use sha2::{Digest, Sha256};
use ureq::AsSendBody;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

use crate::hash::ContentHash;

/// Bounds on a transfer.
#[derive(Debug, Clone)]
pub struct Limits {
    /// To reach the other side: name lookup, connection, TLS.
    pub connect: Duration,
    /// Silence of the other side, before and within the answer.
    pub read: Duration,
    /// A whole transfer, or a whole run of pip or apt.
    pub whole: Duration,
    /// Redirects followed per request.
    pub redirects: u32,
    /// Largest archive, in bytes, whose own length the catalogue doesn't know.
    pub archive_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            read: Duration::from_secs(30),
            whole: Duration::from_secs(1800),
            redirects: 5,
            archive_bytes: 256 << 20,
        }
    }
}

/// Why a transfer did not deliver.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The other side could not be reached, or broke the protocol.
    #[error("cannot get {url}")]
    Request {
        /// The address.
        url: String,
        /// The client's reason.
        #[source]
        source: Box<ureq::Error>,
    },
    /// An answer other than 200 or 206.
    #[error("{url} answered with status {status}")]
    Status {
        /// The address.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// The answer ended early; what came is kept for the next attempt.
    #[error("{url} broke off after {have} of {want} bytes")]
    Cut {
        /// The address.
        url: String,
        /// Bytes on disk.
        have: u64,
        /// Bytes wanted.
        want: u64,
        /// The client's reason, if there was one.
        #[source]
        source: Option<io::Error>,
    },
    /// The answer is longer than it may be.
    #[error("{url} is longer than {limit} bytes")]
    Oversize {
        /// The address.
        url: String,
        /// The bound in bytes.
        limit: u64,
    },
    /// The right length, but other bytes.
    #[error("{url} delivered {found} instead of {want}")]
    WrongHash {
        /// The address.
        url: String,
        /// What was wanted.
        want: ContentHash,
        /// What came.
        found: ContentHash,
    },
    /// The local side failed.
    #[error("cannot write {path}")]
    Write {
        /// The part file.
        path: std::path::PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The certificate bundle in use is unreadable.
    #[error("cannot read the certificates in {path}")]
    Certificates {
        /// The bundle.
        path: std::path::PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

/// The length and digest a download must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pinned {
    /// The length in bytes.
    pub size: u64,
    /// The digest.
    pub sha256: ContentHash,
}

/// Names and values of headers. What is secret is in here, never in a URL, since errors show those.
pub(crate) type Headers<'a> = &'a [(&'a str, &'a str)];

/// A short answer.
pub(crate) struct Document {
    /// The HTTP status.
    pub(crate) status: u16,
    /// How the server wants to be told who asks.
    pub(crate) challenge: Option<String>,
    pub(crate) body: Vec<u8>,
}

/// An HTTP client with this crate's bounds.
pub(crate) struct Client {
    agent: ureq::Agent,
}

impl Client {
    pub(crate) fn new(limits: &Limits, bundle: Option<&Path>) -> Result<Self, HttpError> {
        let mut config = ureq::Agent::config_builder()
            .user_agent(concat!("mvm/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .http_status_as_error(false)
            .max_redirects(limits.redirects)
            .timeout_resolve(Some(limits.connect))
            .timeout_connect(Some(limits.connect))
            .timeout_recv_response(Some(limits.read))
            .timeout_per_read(Some(limits.read))
            .timeout_global(Some(limits.whole));
        if let Some(path) = bundle {
            let roots = root_certificates(path)
                .map_err(|source| HttpError::Certificates { path: path.to_owned(), source })?;
            config = config.tls_config(TlsConfig::builder().root_certs(roots).build());
        }
        Ok(Self { agent: config.build().new_agent() })
    }

    fn get(
        &self,
        url: &str,
        from: u64,
        headers: Headers<'_>,
    ) -> Result<ureq::http::Response<ureq::Body>, HttpError> {
        let mut request = self.agent.get(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        let is_secure = url.starts_with("https:");
        request
            .config()
            .https_only(is_secure)
            .build()
            .call()
            .map_err(|source| HttpError::Request { url: url.to_owned(), source: Box::new(source) })
    }

    /// Gets an answer of at most `limit` bytes whatever its status is.
    pub(crate) fn document(
        &self,
        url: &str,
        headers: Headers<'_>,
        limit: u64,
    ) -> Result<Document, HttpError> {
        let response = self.get(url, 0, headers)?;
        let status = response.status().as_u16();
        let challenge = response
            .headers()
            .get("www-authenticate")
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        let mut body = Vec::new();
        let reader = response.into_body().into_with_config().limit(u64::MAX).reader();
        reader.take(limit + 1).read_to_end(&mut body).map_err(|source| HttpError::Cut {
            url: url.to_owned(),
            have: 0,
            want: limit,
            source: Some(source),
        })?;
        if body.len() as u64 > limit {
            return Err(HttpError::Oversize { url: url.to_owned(), limit });
        }
        Ok(Document { status, challenge, body })
    }

    /// Asks for nothing but the head of an answer: its status, and the length that it promises.
    pub(crate) fn head(
        &self,
        url: &str,
        headers: Headers<'_>,
    ) -> Result<(u16, Option<u64>), HttpError> {
        let mut request = self.agent.head(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.config().https_only(url.starts_with("https:")).build().call();
        let response = response.map_err(|source| HttpError::Request {
            url: url.to_owned(),
            source: Box::new(source),
        })?;
        let length = response.headers().get("content-length");
        let length = length.and_then(|value| value.to_str().ok()?.parse().ok());
        Ok((response.status().as_u16(), length))
    }

    /// Sends a body, and returns the status of the answer.
    pub(crate) fn put(
        &self,
        url: &str,
        headers: Headers<'_>,
        body: impl AsSendBody,
    ) -> Result<u16, HttpError> {
        let mut request = self.agent.put(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.config().https_only(url.starts_with("https:")).build();
        let response = request.send(body).map_err(|source| HttpError::Request {
            url: url.to_owned(),
            source: Box::new(source),
        })?;
        Ok(response.status().as_u16())
    }

    /// Brings `part` to exactly the pinned bytes, going on from what it already holds.
    pub(crate) fn resume(
        &self,
        url: &str,
        headers: Headers<'_>,
        pinned: Pinned,
        part: &Path,
        tick: &dyn Fn(u64),
    ) -> Result<(), HttpError> {
        let write = |source| HttpError::Write { path: part.to_owned(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(part)
            .map_err(write)?;
        let mut have = file.metadata().map_err(write)?.len();
        if have > pinned.size {
            have = 0;
        }
        if have < pinned.size {
            let response = self.get(url, have, headers)?;
            have = match response.status().as_u16() {
                206 if range_start(&response) == Some(have) => have,
                200 => 0,
                status => {
                    remove(part);
                    return Err(HttpError::Status { url: url.to_owned(), status });
                }
            };
            file.set_len(have).map_err(write)?;
            file.seek(SeekFrom::Start(have)).map_err(write)?;
            let body = response.into_body().into_with_config().limit(u64::MAX).reader();
            self.receive(url, body, &mut file, have, pinned, part, tick)?;
        }
        file.sync_all().map_err(write)?;
        verify(url, &mut file, pinned, part)
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one transfer, in one private call")]
    fn receive(
        &self,
        url: &str,
        mut body: impl Read,
        file: &mut File,
        start: u64,
        pinned: Pinned,
        part: &Path,
        tick: &dyn Fn(u64),
    ) -> Result<(), HttpError> {
        let copied = copy(&mut body, file, start, pinned.size, tick);
        match copied {
            Ok(have) if have == pinned.size => Ok(()),
            Ok(have) => {
                Err(HttpError::Cut { url: url.to_owned(), have, want: pinned.size, source: None })
            }
            Err(CopyError::Read { have, source }) => Err(HttpError::Cut {
                url: url.to_owned(),
                have,
                want: pinned.size,
                source: Some(source),
            }),
            Err(CopyError::Oversize) => {
                remove(part);
                Err(HttpError::Oversize { url: url.to_owned(), limit: pinned.size })
            }
            Err(CopyError::Write(source)) => {
                Err(HttpError::Write { path: part.to_owned(), source })
            }
        }
    }

    /// Gets a file of unknown length and digest into `to`, up to `limit` bytes.
    pub(crate) fn whole(
        &self,
        url: &str,
        limit: u64,
        to: &Path,
        tick: &dyn Fn(u64),
    ) -> Result<(), HttpError> {
        let write = |source| HttpError::Write { path: to.to_owned(), source };
        let response = self.get(url, 0, &[])?;
        let status = response.status().as_u16();
        if status != 200 {
            return Err(HttpError::Status { url: url.to_owned(), status });
        }
        let mut body = response.into_body().into_with_config().limit(u64::MAX).reader();
        let mut file = File::create(to).map_err(write)?;
        match copy(&mut body, &mut file, 0, limit, tick) {
            Ok(_) => Ok(()),
            Err(CopyError::Read { have, source }) => {
                Err(HttpError::Cut { url: url.to_owned(), have, want: limit, source: Some(source) })
            }
            Err(CopyError::Oversize) => Err(HttpError::Oversize { url: url.to_owned(), limit }),
            Err(CopyError::Write(source)) => Err(write(source)),
        }
    }
}

enum CopyError {
    Read { have: u64, source: io::Error },
    Write(io::Error),
    Oversize,
}

/// Copies until the end; one byte more than `limit` is an error. Returns the length on disk.
fn copy(
    from: &mut impl Read,
    to: &mut File,
    start: u64,
    limit: u64,
    tick: &dyn Fn(u64),
) -> Result<u64, CopyError> {
    let mut buffer = vec![0; 64 << 10];
    let mut have = start;
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok(have),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(CopyError::Read { have, source }),
        };
        let next = have + count as u64;
        if next > limit {
            return Err(CopyError::Oversize);
        }
        let chunk = buffer.get(..count).unwrap_or_default();
        to.write_all(chunk).map_err(CopyError::Write)?;
        have = next;
        tick(have);
    }
}

fn verify(url: &str, file: &mut File, pinned: Pinned, part: &Path) -> Result<(), HttpError> {
    let write = |source| HttpError::Write { path: part.to_owned(), source };
    file.rewind().map_err(write)?;
    let mut hasher = Sha256::new();
    io::copy(&mut BufReader::new(file), &mut hasher).map_err(write)?;
    let found = ContentHash::from_hasher(hasher);
    if found == pinned.sha256 {
        return Ok(());
    }
    remove(part);
    Err(HttpError::WrongHash { url: url.to_owned(), want: pinned.sha256, found })
}

/// The first byte's position in a `Content-Range: bytes 5-9/10` header.
fn range_start(response: &ureq::http::Response<ureq::Body>) -> Option<u64> {
    let text = response.headers().get("content-range")?.to_str().ok()?;
    text.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

fn root_certificates(path: &Path) -> io::Result<RootCerts> {
    let pem = fs::read(path)?;
    let certificates: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            Ok(_) | Err(_) => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "no certificate in this file"));
    }
    Ok(RootCerts::new_with_certs(&certificates))
}

/// Removes what must not be resumed from; a file that stays is caught by its digest later.
pub(crate) fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot remove a useless download");
    }
}
