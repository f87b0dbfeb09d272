//! What is decided for a tenant without being asked (SPEC §5, §9).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};

/// The standing decisions of a tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TenantPolicy {
    /// Never stopped or put to sleep by policy.
    pub pinned: bool,
    /// Where its guests may send to; anywhere outside if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
}

/// Where guests may send to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Egress {
    /// Which way it is decided.
    pub policy: EgressPolicy,
    /// Where to, if that is a list.
    #[serde(default)]
    pub destinations: Vec<Destination>,
    /// Whether other sites at a listed name's address are refused.
    #[serde(default)]
    pub enforce_sni: bool,
}

/// Which way it is decided where guests may send to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EgressPolicy {
    /// Anywhere outside.
    #[default]
    Allow,
    /// Nowhere.
    Deny,
    /// To what is listed.
    List,
}

/// A network as `a.b.c.d/p`, an address, or a domain name; `*.` before it stands for one name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Destination(String);

impl Destination {
    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Destination {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let (address, prefix) = text.split_once('/').unwrap_or((text, "32"));
        let is_network = address.parse::<std::net::Ipv4Addr>().is_ok()
            && prefix.parse::<u8>().is_ok_and(|prefix| prefix <= 32);
        let name = text.strip_prefix("*.").unwrap_or(text);
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        let is_name = name.len() <= 253
            && name.contains('.')
            && name.split('.').all(is_label)
            && name.ends_with(|last: char| last.is_ascii_lowercase());
        if is_network || is_name {
            return Ok(Self(text.to_owned()));
        }
        Err(Error::new(
            ErrorKind::Invalid,
            format!("{text:?} is neither a network nor a domain name"),
        )
        .hint("for example 192.0.2.0/24, example.com or *.example.com"))
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Destination {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Destination> for String {
    fn from(destination: Destination) -> Self {
        destination.0
    }
}
