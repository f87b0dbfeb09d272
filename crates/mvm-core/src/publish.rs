//! Ports of the host that lead to a guest: `[ADDRESS:]HOST:GUEST[/tcp|udp]`.
//!
//! A published port belongs to the instance's record and, through the firewall's intent, to the
//! tables. It refuses to know how a packet gets there.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What a port speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// Why a published port is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidPublish {
    /// Not the syntax.
    #[error("{0:?} is no published port: write [ADDRESS:]HOST:GUEST[/tcp|udp]")]
    Syntax(String),
    /// A port outside 1–65535.
    #[error("{0:?} has a port outside 1 to 65535")]
    Port(String),
    /// An address that can never be one of this host's.
    #[error("{0:?} has an address that no host can have")]
    Address(String),
}

/// A port of the host that leads to a port of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Publish {
    /// The only address of the host at which it is open; all of them if absent.
    pub address: Option<Ipv4Addr>,
    /// The port of the host.
    pub host: u16,
    /// The port of the guest.
    pub guest: u16,
    /// What both speak.
    pub protocol: Protocol,
}

impl Publish {
    /// The name under which the store holds it for one instance: one port of one protocol leads to
    /// one guest, at whatever address.
    #[must_use]
    pub fn claim(&self) -> String {
        format!("publish/{}/{}", self.protocol, self.host)
    }
}

impl FromStr for Publish {
    type Err = InvalidPublish;
    fn from_str(text: &str) -> Result<Self, InvalidPublish> {
        let syntax = || InvalidPublish::Syntax(text.to_owned());
        let (ports, protocol) = match text.split_once('/') {
            None | Some((_, "tcp")) => (text.trim_end_matches("/tcp"), Protocol::Tcp),
            Some((ports, "udp")) => (ports, Protocol::Udp),
            Some(_) => return Err(syntax()),
        };
        let (rest, guest) = ports.rsplit_once(':').ok_or_else(syntax)?;
        let (address, host) = match rest.rsplit_once(':') {
            None => (None, rest),
            Some((address, host)) => (Some(address.parse().map_err(|_| syntax())?), host),
        };
        if address.is_some_and(|one: Ipv4Addr| {
            one.is_unspecified() || one.is_multicast() || one.is_broadcast()
        }) {
            return Err(InvalidPublish::Address(text.to_owned()));
        }
        let port = |digits: &str| -> Result<u16, InvalidPublish> {
            if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(syntax());
            }
            let wrong = || InvalidPublish::Port(text.to_owned());
            digits.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)
        };
        Ok(Self { address, host: port(host)?, guest: port(guest)?, protocol })
    }
}

impl TryFrom<String> for Publish {
    type Error = InvalidPublish;
    fn try_from(text: String) -> Result<Self, InvalidPublish> {
        text.parse()
    }
}

impl From<Publish> for String {
    fn from(publish: Publish) -> Self {
        publish.to_string()
    }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(address) = self.address {
            write!(f, "{address}:")?;
        }
        write!(f, "{}:{}/{}", self.host, self.guest, self.protocol)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for (text, canonical) in [
            ("8080:80", "8080:80/tcp"),
            ("8080:80/tcp", "8080:80/tcp"),
            ("53:5353/udp", "53:5353/udp"),
            ("127.0.0.1:8080:80", "127.0.0.1:8080:80/tcp"),
        ] {
            let publish: Publish = text.parse().unwrap();
            assert_eq!(publish.to_string(), canonical);
            assert_eq!(canonical.parse::<Publish>().unwrap(), publish);
        }
    }

    #[test]
    fn wrong_ports_say_what_is_wrong() {
        for bad in [
            "",
            "80",
            ":80",
            "80:",
            "0:80",
            "80:0",
            "65536:1",
            "1:65536",
            "a:1",
            "1:b",
            "+1:1",
            "1:1/sctp",
            "1:1/tcp/udp",
            "1:1/",
            "host:1:1",
            "::1:1:1",
            "0.0.0.0:1:1",
            "1:2:3:4",
            "224.0.0.1:1:1",
            " 1:1",
        ] {
            assert!(bad.parse::<Publish>().is_err(), "{bad:?} was accepted");
        }
    }
}
