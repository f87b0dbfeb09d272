//! A range of IPv4 addresses.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a text is not a range.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidCidr {
    /// Not `a.b.c.d/p`.
    #[error("{0:?} is not a range of IPv4 addresses: write a.b.c.d/prefix")]
    Syntax(String),
    /// Address bits below the prefix are set.
    #[error("{given:?} has host bits set: the range is {range}")]
    HostBits {
        /// What was given.
        given: String,
        /// What was probably meant.
        range: Cidr,
    },
}

/// A range of IPv4 addresses, /0 to /32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    base: u32,
    prefix: u8,
}

impl Cidr {
    /// Whether all of the other's addresses are in this range.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self.prefix <= other.prefix && other.base & mask(self.prefix) == self.base
    }

    /// Whether the address is in this range.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.prefix) == self.base
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl FromStr for Cidr {
    type Err = InvalidCidr;
    fn from_str(text: &str) -> Result<Self, InvalidCidr> {
        let read = || {
            let (address, prefix) = text.split_once('/')?;
            let address: Ipv4Addr = address.parse().ok()?;
            let is_plain = prefix.bytes().all(|byte| byte.is_ascii_digit());
            let prefix: u8 = prefix.parse().ok().filter(|prefix| is_plain && *prefix <= 32)?;
            Some((u32::from(address), prefix))
        };
        let (address, prefix) = read().ok_or_else(|| InvalidCidr::Syntax(text.to_owned()))?;
        let range = Self { base: address & mask(prefix), prefix };
        if range.base != address {
            return Err(InvalidCidr::HostBits { given: text.to_owned(), range });
        }
        Ok(range)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.prefix)
    }
}

impl TryFrom<String> for Cidr {
    type Error = InvalidCidr;
    fn try_from(text: String) -> Result<Self, InvalidCidr> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(range: Cidr) -> Self {
        range.to_string()
    }
}
