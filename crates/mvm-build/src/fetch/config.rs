//! How and where a `Fetcher` works.
//!
//! Settings only; nothing is touched here but the environment, once, by [`FetchConfig::new`].

use std::path::PathBuf;
use std::str::FromStr;

use super::{Limits, Tools};

/// How and where a `Fetcher` works.
#[derive(Debug, Clone)]
pub struct FetchConfig {
    /// The directory for downloads; made when missing.
    pub cache: PathBuf,
    /// Replaces every source when set.
    pub mirror: Option<Mirror>,
    /// What `github:` stands for, without a slash at the end.
    pub github: String,
    /// Certificates to trust instead of the built-in ones, in PEM.
    pub certificates: Option<PathBuf>,
    /// The programs for `pypi:` and `deb:`.
    pub tools: Tools,
    /// Bounds on each transfer.
    pub limits: Limits,
}

impl FetchConfig {
    /// The usual settings: no mirror, programs from the search path, and the certificates that
    /// `SSL_CERT_FILE` names, if it does.
    #[must_use]
    pub fn new(cache: PathBuf) -> Self {
        Self {
            cache,
            mirror: None,
            github: format!("https://{}.com", "github"),
            certificates: std::env::var_os("SSL_CERT_FILE").map(PathBuf::from),
            tools: Tools::discover(),
            limits: Limits::default(),
        }
    }
}

/// A place that has every file under its hash, asked instead of all other sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mirror {
    /// `URL/HASH`.
    Url(String),
    /// A file in a directory.
    Directory(PathBuf),
}

/// A text that is neither an address nor an absolute path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither an http(s) address nor an absolute path")]
pub struct InvalidMirror(String);

impl FromStr for Mirror {
    type Err = InvalidMirror;

    fn from_str(text: &str) -> Result<Self, InvalidMirror> {
        if text.starts_with("https://") || text.starts_with("http://") {
            return Ok(Self::Url(text.trim_end_matches('/').to_owned()));
        }
        let path = text.strip_prefix("file://").unwrap_or(text);
        if path.starts_with('/') {
            return Ok(Self::Directory(PathBuf::from(path)));
        }
        Err(InvalidMirror(text.to_owned()))
    }
}
