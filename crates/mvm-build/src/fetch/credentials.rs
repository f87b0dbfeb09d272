//! As whom a registry is asked, and how: what the configuration and a file of `docker login` say.
//!
//! Passwords are in a request's header and nowhere else: neither shown nor part of an error. No other
//! program is asked for them.

use std::fmt;
use std::fs;
use std::path::PathBuf;

use mvm_core::base64;
use serde::Deserialize;

use super::RegistryError;

/// Largest file with credentials, in bytes.
const AUTH_FILE_MAX: u64 = 1 << 20;

/// What the configuration says about registries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistryRules {
    /// A file with credentials, as `docker login` writes it; none for anonymous access. A file that
    /// is not there has none.
    pub auth_file: Option<PathBuf>,
    /// Registries, `HOST` or `HOST:PORT`, that are spoken to without TLS.
    pub insecure: Vec<String>,
}

/// As whom a registry is asked.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// As nobody.
    Anonymous,
    /// With a name and a password.
    Basic {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({self})")
    }
}

impl fmt::Display for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("an anonymous caller"),
            Self::Basic { user, .. } => write!(f, "the user {user:?}"),
        }
    }
}

impl Credentials {
    pub(super) fn header(&self) -> Option<String> {
        match self {
            Self::Anonymous => None,
            Self::Basic { user, password } => {
                Some(format!("Basic {}", base64::encode(format!("{user}:{password}").as_bytes())))
            }
        }
    }
}

#[derive(Deserialize)]
struct AuthFile {
    #[serde(default)]
    auths: std::collections::BTreeMap<String, AuthEntry>,
}

#[derive(Deserialize)]
struct AuthEntry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

impl RegistryRules {
    /// The credentials for a registry.
    ///
    /// # Errors
    /// When the file is there and makes no sense.
    pub fn credentials(&self, registry: &str) -> Result<Credentials, RegistryError> {
        let Some(path) = &self.auth_file else { return Ok(Credentials::Anonymous) };
        let wrong = |reason: &str| RegistryError::AuthFile {
            path: path.clone(),
            reason: reason.to_owned(),
        };
        let bytes = match fs::metadata(path) {
            Ok(file) if file.len() > AUTH_FILE_MAX => return Err(wrong("it is too large")),
            Ok(_) => fs::read(path).map_err(|error| wrong(&error.to_string()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Credentials::Anonymous);
            }
            Err(error) => return Err(wrong(&error.to_string())),
        };
        let file: AuthFile = serde_json::from_slice(&bytes)
            .map_err(|error| wrong(&format!("line {} is not as it should be", error.line())))?;
        let entry = file.auths.into_iter().find(|(name, _)| host_of(name) == registry);
        let Some((_, entry)) = entry else { return Ok(Credentials::Anonymous) };
        if let (Some(user), Some(password)) = (entry.username, entry.password) {
            return Ok(Credentials::Basic { user, password });
        }
        let pair = entry
            .auth
            .and_then(|text| String::from_utf8(base64::decode(text.trim())?).ok())
            .and_then(|pair| pair.split_once(':').map(|(a, b)| (a.to_owned(), b.to_owned())));
        match pair {
            Some((user, password)) => Ok(Credentials::Basic { user, password }),
            None => Err(wrong(&format!("it has no name and password for {registry}"))),
        }
    }

    pub(super) fn is_plain(&self, registry: &str) -> bool {
        let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
        let is_loopback = host == "localhost"
            || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        is_loopback || self.insecure.iter().any(|name| name == registry)
    }
}

/// The registry of an entry of the file: some tools write it as an address with a path.
fn host_of(entry: &str) -> &str {
    let rest = entry.strip_prefix("https://").or(entry.strip_prefix("http://")).unwrap_or(entry);
    rest.split('/').next().unwrap_or(rest)
}
