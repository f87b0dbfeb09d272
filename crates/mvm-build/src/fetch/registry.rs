//! A registry of images, as the OCI distribution specification 1.1 has it: manifests and blobs.
//!
//! One `Registry` is one session with one repository: who asks is settled when it begins, anonymously,
//! with a name and a password, or with a token that those buy. Blobs go into the cache of the
//! `Fetcher` under their digest; what is in them is `oci`'s. Secrets are neither logged nor part of
//! an error. Plain HTTP is spoken to this machine and to registries that the configuration names.

use std::fs;
use std::path::{Path, PathBuf};

use mvm_core::pool::image::OciRef;
use serde::Deserialize;

use super::credentials::{Credentials, RegistryRules};
use super::http::Document;
use super::{FetchError, Fetcher, HttpError, Pinned};
use crate::hash::ContentHash;
use crate::progress::{OnProgress, Progress, Step};

/// Largest manifest or token, in bytes (the specification asks registries to take 4 MiB).
const DOCUMENT_MAX: u64 = 4 << 20;

const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json";

/// Why a registry did not deliver.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// It could not be reached, or broke the protocol.
    #[error("cannot ask the registry {registry}")]
    Http {
        /// The registry.
        registry: String,
        /// The reason.
        #[source]
        source: HttpError,
    },
    /// It wants to know who asks, or does not let this one have it.
    #[error("the registry {registry} does not let {who} have {what}")]
    Denied {
        /// The registry.
        registry: String,
        /// As whom it was asked.
        who: Credentials,
        /// What was asked for.
        what: String,
    },
    /// It has no such thing.
    #[error("the registry {registry} has no {what}")]
    NotFound {
        /// The registry.
        registry: String,
        /// What was asked for.
        what: String,
    },
    /// Another answer than expected.
    #[error("the registry {registry} answered with status {status} about {what}")]
    Status {
        /// The registry.
        registry: String,
        /// The HTTP status.
        status: u16,
        /// What was asked for.
        what: String,
    },
    /// It asks for credentials in a way that is not known.
    #[error("the registry {0} asks for credentials in an unknown way")]
    Challenge(String),
    /// A manifest that is not the one that was asked for.
    #[error("the registry {registry} delivered the manifest {found} instead of {want}")]
    WrongDigest {
        /// The registry.
        registry: String,
        /// What was wanted.
        want: ContentHash,
        /// What came.
        found: ContentHash,
    },
    /// The file with credentials can't be used.
    #[error("cannot read the credentials in {path}: {reason}")]
    AuthFile {
        /// The file.
        path: PathBuf,
        /// Why; without a word of what is in it.
        reason: String,
    },
    /// The cache can't be used.
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

/// A session with one repository of a registry.
pub struct Registry<'a> {
    fetcher: &'a Fetcher,
    registry: String,
    repository: String,
    base: String,
    who: Credentials,
    authorization: Option<String>,
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl<'a> Registry<'a> {
    /// Begins a session: finds out what the registry wants to know, and tells it.
    ///
    /// # Errors
    /// When it can't be reached, or the credentials are of no use.
    pub fn open(
        fetcher: &'a Fetcher,
        rules: &RegistryRules,
        image: &OciRef,
    ) -> Result<Self, RegistryError> {
        let registry = image.registry.clone();
        let scheme = if rules.is_plain(&registry) { "http" } else { "https" };
        let base = format!("{scheme}://{registry}/v2/");
        let who = rules.credentials(&registry)?;
        let repository = image.repository.clone();
        let mut session = Self { fetcher, registry, repository, base, who, authorization: None };
        let answer = session.get(&session.base, &[])?;
        if answer.status == 401 {
            let challenge = answer.challenge.unwrap_or_default();
            session.authorization = session.answer(&challenge)?;
        }
        Ok(session)
    }

    /// What to say to a challenge (RFC 9110 §11.6.1; tokens as registries sell them).
    fn answer(&self, challenge: &str) -> Result<Option<String>, RegistryError> {
        let unknown = || RegistryError::Challenge(self.registry.clone());
        let (scheme, rest) = challenge.split_once(' ').ok_or_else(unknown)?;
        if scheme.eq_ignore_ascii_case("basic") {
            return Ok(self.who.header());
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(unknown());
        }
        let realm = parameter(rest, "realm").ok_or_else(unknown)?;
        let is_plain_allowed = self.base.starts_with("http://");
        if !(realm.starts_with("https://") || is_plain_allowed && realm.starts_with("http://")) {
            return Err(unknown());
        }
        let separator = if realm.contains('?') { '&' } else { '?' };
        let service = parameter(rest, "service").unwrap_or_default();
        let url = format!(
            "{realm}{separator}service={}&scope={}",
            escaped(&service),
            escaped(&format!("repository:{}:pull", self.repository))
        );
        let own = self.who.header();
        let headers: Vec<(&str, &str)> =
            own.iter().map(|value| ("Authorization", value.as_str())).collect();
        let answer = self.get(&url, &headers)?;
        let what = || format!("a token for {}", self.repository);
        if answer.status != 200 {
            return Err(self.refusal(answer.status, what()));
        }
        let token: Token = serde_json::from_slice(&answer.body).map_err(|_| unknown())?;
        let token = token.token.or(token.access_token).ok_or_else(unknown)?;
        Ok(Some(format!("Bearer {token}")))
    }

    fn get(&self, url: &str, headers: &[(&str, &str)]) -> Result<Document, RegistryError> {
        self.fetcher
            .client
            .document(url, headers, DOCUMENT_MAX)
            .map_err(|source| RegistryError::Http { registry: self.registry.clone(), source })
    }

    fn refusal(&self, status: u16, what: String) -> RegistryError {
        let registry = self.registry.clone();
        match status {
            401 | 403 => RegistryError::Denied { registry, who: self.who.clone(), what },
            404 => RegistryError::NotFound { registry, what },
            status => RegistryError::Status { registry, status, what },
        }
    }

    /// The manifest under a tag or `sha256:HEX`, and its digest.
    ///
    /// # Errors
    /// When there is none, it may not be had, or it has another digest than the one asked for.
    pub fn manifest(&self, version: &str) -> Result<(Vec<u8>, ContentHash), RegistryError> {
        let url = format!("{}{}/manifests/{version}", self.base, self.repository);
        let mut headers = vec![("Accept", ACCEPT)];
        headers.extend(self.authorization.iter().map(|value| ("Authorization", value.as_str())));
        let answer = self.get(&url, &headers)?;
        if answer.status != 200 {
            let separator = if version.starts_with("sha256:") { '@' } else { ':' };
            let what = format!("image {}{separator}{version}", self.repository);
            return Err(self.refusal(answer.status, what));
        }
        let found = ContentHash::of(&answer.body);
        match version.strip_prefix("sha256:").map(str::parse::<ContentHash>) {
            Some(Ok(want)) if want != found => {
                Err(RegistryError::WrongDigest { registry: self.registry.clone(), want, found })
            }
            Some(Ok(_) | Err(_)) | None => Ok((answer.body, found)),
        }
    }

    /// A blob, in the cache: verified, and fetched only when it is not there.
    ///
    /// # Errors
    /// When the registry does not deliver these very bytes.
    pub fn blob(
        &self,
        name: &str,
        pinned: Pinned,
        on: OnProgress<'_>,
    ) -> Result<PathBuf, RegistryError> {
        let url = format!("{}{}/blobs/sha256:{}", self.base, self.repository, pinned.sha256);
        let authorization = &self.authorization;
        let headers: Vec<(&str, &str)> =
            authorization.iter().map(|value| ("Authorization", value.as_str())).collect();
        self.fetcher.kept(name, pinned, on, &|part, tick| {
            self.fetcher.client.resume(&url, &headers, pinned, part, tick).map_err(|error| {
                if let HttpError::Status { status, .. } = &error {
                    return self.refusal(*status, format!("blob sha256:{}", pinned.sha256));
                }
                RegistryError::Http { registry: self.registry.clone(), source: error }
            })
        })
    }
}

/// Brings a part file to the wanted bytes.
type Bring<'a> = &'a dyn Fn(&Path, &dyn Fn(u64)) -> Result<(), RegistryError>;

impl Fetcher {
    /// A file of the cache, which `bring` brings when it is not there.
    fn kept(
        &self,
        name: &str,
        pinned: Pinned,
        on: OnProgress<'_>,
        bring: Bring<'_>,
    ) -> Result<PathBuf, RegistryError> {
        let _lock = self.lock()?;
        let path = self.blob(pinned.sha256);
        if self.cached(pinned.sha256) {
            return Ok(path);
        }
        let part = self.part(pinned.sha256);
        bring(&part, &|done| {
            let done = pinned.size.min(done);
            on(Progress { step: Step::Fetch, name, done, total: Some(pinned.size) });
        })?;
        fs::rename(&part, &path)
            .map_err(|source| FetchError::Cache { path: path.clone(), source })?;
        Ok(path)
    }
}

/// The value of a parameter of a challenge: `name="value"` or `name=value`, between commas.
fn parameter(text: &str, name: &str) -> Option<String> {
    let mut rest = text;
    loop {
        let (key, after) = rest.split_once('=')?;
        let key = key.trim_matches([' ', ',']);
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        if key.eq_ignore_ascii_case(name) {
            return Some(value.to_owned());
        }
        rest = next;
    }
}

/// A text as a value in the query of an address (RFC 3986 §2.3 says what needs no escape).
fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b if b.is_ascii_alphanumeric() || b"-._~:/".contains(&b) => char::from(b).to_string(),
            b => format!("%{b:02X}"),
        })
        .collect()
}

#[cfg(test)]
pub(crate) mod tests;
