//! What is recorded of a tenant's secrets and what of them an instance may see: numbers, names of
//! scopes and where they come from. It refuses to know a value, or even a key.

use std::{collections::BTreeMap, fmt, path::PathBuf, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    document::{Findings, below, present},
    error::{Error, ErrorKind},
    units::{Generation, Timestamp},
};

/// The longest key, and the longest scope, in bytes.
pub const MAX_KEY: usize = 128;
/// All keys and values of a tenant together, in bytes.
pub const MAX_TOTAL: usize = 256 << 10;
/// The most scopes of a pool.
pub const MAX_SCOPES: usize = 32;

/// A part of a tenant's secrets that one integration of a pool may see.
///
/// The scope `mail` gives the key `mail` and those that begin with `mail.` or `mail_`. Guests of
/// the pool find them in `/run/secrets/mail/secrets.json`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Scope(String);

impl Scope {
    /// The scope as written, which is also the name of its directory.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the scope gives `key`.
    #[must_use]
    pub fn covers(&self, key: &str) -> bool {
        key.strip_prefix(self.0.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '_']))
    }

    /// Checks the scopes of one pool.
    ///
    /// # Errors
    /// `Invalid` when there are too many or one is there twice.
    pub fn validate(scopes: &[Self]) -> Result<(), Error> {
        if scopes.len() > MAX_SCOPES {
            let message =
                format!("{} secret scopes: a pool has at most {MAX_SCOPES}", scopes.len());
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let mut sorted: Vec<&Self> = scopes.iter().collect();
        sorted.sort();
        match sorted.windows(2).find(|pair| pair.first() == pair.last()) {
            Some(pair) => Err(Error::new(
                ErrorKind::Invalid,
                format!("the secret scope {} is given twice", pair.first().map_or("", |s| &s.0)),
            )),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Scope {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        if is_key(text) && text.starts_with(|first: char| first.is_ascii_alphanumeric()) {
            return Ok(Self(text.to_owned()));
        }
        Err(Error::new(ErrorKind::Invalid, format!("{text:?} is not a secret scope")).hint(
            "a scope is named like the keys that it gives: 1 to 128 letters, digits, '_', '.' or \
             '-', the first a letter or digit",
        ))
    }
}

impl TryFrom<String> for Scope {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> Self {
        scope.0
    }
}

/// Whether `text` may be the key of a secret: 1–128 of `A-Z a-z 0-9 _ . -`.
#[must_use]
pub fn is_key(text: &str) -> bool {
    (1..=MAX_KEY).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// Where secrets come from; remembered, so that a rotation can read them again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretsSource {
    /// A file with a flat JSON object, by absolute path.
    File(PathBuf),
    /// Standard input of the command; it cannot be read again.
    Stdin,
    /// Each key's value in a place of its own.
    Each(BTreeMap<String, ValueSource>),
}

/// Where one value is that is itself written down in no record and no configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueSource {
    /// In a file, by absolute path.
    File(PathBuf),
    /// In a variable of the environment of every command that needs it.
    Env(String),
}

/// Reads where each value is: `{ KEY: { file: PATH } | { env: NAME } }`. No finding quotes what stands in a place.
pub fn places(value: &Value, at: &str, findings: &mut Findings) -> BTreeMap<String, ValueSource> {
    let Value::Object(map) = value else {
        findings.add(at, "must be a table: KEY = { file = \"PATH\" } or { env = \"NAME\" }");
        return BTreeMap::new();
    };
    let mut places = BTreeMap::new();
    for (key, value) in map {
        let at = below(at, key);
        if !is_key(key) {
            findings.add(&*at, format!("is not 1 to {MAX_KEY} letters, digits, '_', '.' and '-'"));
        }
        let Some(place) = findings.object(value, &at, &["file", "env"]) else { continue };
        let place = match (present(place, "file"), present(place, "env")) {
            (Some(file), None) => {
                findings.text(file, &below(&at, "file")).map(|path| ValueSource::File(path.into()))
            }
            (None, Some(name)) => findings
                .text(name, &below(&at, "env"))
                .map(|name| ValueSource::Env(name.to_owned())),
            (Some(_), Some(_)) | (None, None) => {
                findings.add(at, "needs exactly one of file and env");
                None
            }
        };
        places.extend(place.map(|place| (key.clone(), place)));
    }
    places
}

impl SecretsSource {
    /// Whether the source can be read again later.
    #[must_use]
    pub const fn is_lasting(&self) -> bool {
        match self {
            Self::File(_) | Self::Each(_) => true,
            Self::Stdin => false,
        }
    }
}

impl fmt::Display for SecretsSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Stdin => f.write_str("standard input"),
            Self::Each(places) => write!(f, "{} places, one a key", places.len()),
        }
    }
}

/// What a tenant's record says of its secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantSecrets {
    /// Rises with every set and rotation, from 1.
    pub epoch: Generation,
    /// How many there are.
    pub count: u32,
    /// Where they came from.
    pub source: SecretsSource,
    /// When.
    pub updated_at: Timestamp,
}

/// What an instance's record says of its secrets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// The oldest epoch that the instance may be left with; 0 when its tenant had none.
    pub epoch: Generation,
    /// The oldest epoch that its guest can have, while it runs.
    pub delivered: Generation,
    /// What it sees of them; everything when empty. Fixed while a guest has memory.
    pub scopes: Vec<Scope>,
}

impl Grant {
    /// Whether a running guest still has to get what it was granted.
    #[must_use]
    pub const fn is_due(&self) -> bool {
        self.epoch.0 > self.delivered.0
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn a_scope_gives_its_own_key_and_those_below_it() {
        let scope: Scope = "mail".parse().unwrap();
        for key in ["mail", "mail.token", "mail_password"] {
            assert!(scope.covers(key), "{key}");
        }
        for key in ["mailbox", "mai", "mail-token", "Mail", "x.mail"] {
            assert!(!scope.covers(key), "{key}");
        }
    }

    #[test]
    fn a_scope_is_a_name_that_leads_out_of_no_directory() {
        for wrong in ["", ".", "..", ".mail", "a/b", "mail ", "_x", "ä", &"a".repeat(129)] {
            assert_eq!(wrong.parse::<Scope>().unwrap_err().kind, ErrorKind::Invalid, "{wrong}");
        }
        let twice: Vec<Scope> = ["a", "b", "a"].iter().map(|s| s.parse().unwrap()).collect();
        assert!(Scope::validate(&twice).unwrap_err().to_string().contains("scope a"));
        assert!(Scope::validate(twice.get(..2).unwrap()).is_ok());
    }
}
