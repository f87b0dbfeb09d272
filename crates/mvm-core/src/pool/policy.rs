//! What is decided for a pool without being asked: when its instances sleep, how they are confined
//! and packed, when they count as ready, what becomes of them with their node (SPEC §5).
//!
//! All of it has a default. It refuses to know how anything of it is done.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, ErrorKind},
    units::Seconds,
};

/// The standing decisions of a pool.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PoolPolicy {
    /// When idle instances sleep.
    pub sleep_policy: SleepPolicy,
    /// How the VMM is confined.
    pub seccomp_policy: SeccompPolicy,
    /// How snapshots are packed.
    pub snapshot_compression: Compression,
    /// Names and texts for people and programs; `mvm` gives them no meaning.
    pub metadata: BTreeMap<String, String>,
    /// When an instance is ready to serve; as soon as its agent answers if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readiness: Option<Readiness>,
    /// What becomes of its instances when their node is lost.
    pub on_node_loss: OnNodeLoss,
    /// Never stopped or put to sleep by policy.
    pub pinned: bool,
    /// Never touched by policy.
    pub critical: bool,
}

/// When an idle instance is paused and put to disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SleepPolicy {
    /// How long it must have been idle to become Warm.
    pub warm_after_seconds: Seconds,
    /// How long it must have been idle to go to sleep.
    pub sleep_after_seconds: Seconds,
    /// Below this load of its vCPUs it is idle.
    pub cpu_percent: u32,
    /// Below this many bytes in the interval it is idle.
    pub net_bytes: u64,
}

impl Default for SleepPolicy {
    fn default() -> Self {
        Self {
            warm_after_seconds: Seconds(300),
            sleep_after_seconds: Seconds(900),
            cpu_percent: 5,
            net_bytes: 1024,
        }
    }
}

/// Which system calls a VMM may make.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeccompPolicy {
    /// Those of the binary's own filter.
    #[default]
    Baseline,
    /// Those of one more filter, stacked by the shim.
    Strict,
}

/// How a snapshot's chunks are packed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// Fast.
    Lz4,
    /// Small.
    Zstd,
}

/// What an instance must show to be ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Readiness {
    /// The workload touched `/run/mvm/worker-ready`.
    WorkerReady,
    /// A port takes connections.
    Tcp {
        /// Which.
        port: u16,
    },
    /// A request is answered with a status from 200 to 399.
    Http {
        /// At which port.
        port: u16,
        /// For which path.
        path: String,
    },
}

/// As people write it: `worker-ready`, `tcp:PORT` or `http:PORT/PATH`.
impl FromStr for Readiness {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
        let is_graphic = |path: &str| path.bytes().all(|byte| byte.is_ascii_graphic());
        let read = match text.split_once(':') {
            None if text == "worker-ready" => Some(Self::WorkerReady),
            Some(("tcp", rest)) => port(rest).map(|port| Self::Tcp { port }),
            Some(("http", rest)) => rest
                .find('/')
                .and_then(|place| rest.split_at_checked(place))
                .and_then(|(at, path)| {
                    let path = Some(path).filter(|path| is_graphic(path))?.to_owned();
                    Some(Self::Http { port: port(at)?, path })
                }),
            Some(_) | None => None,
        };
        read.ok_or_else(|| {
            Error::new(ErrorKind::Invalid, format!("{text:?} is not a readiness"))
                .hint("write worker-ready, tcp:80 or http:80/health")
        })
    }
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WorkerReady => f.write_str("worker-ready"),
            Self::Tcp { port } => write!(f, "tcp:{port}"),
            Self::Http { port, path } => write!(f, "http:{port}{path}"),
        }
    }
}

/// What the readiness of a pool is changed to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadinessChange {
    /// Its instances must show nothing more than that their agent answers.
    Nothing,
    /// They must show this.
    Show(Readiness),
}

impl ReadinessChange {
    /// The readiness of the pool after it.
    #[must_use]
    pub fn asked(&self) -> Option<Readiness> {
        match self {
            Self::Nothing => None,
            Self::Show(readiness) => Some(readiness.clone()),
        }
    }
}

/// As people write it: `none`, or a [`Readiness`].
impl FromStr for ReadinessChange {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        if text == "none" {
            return Ok(Self::Nothing);
        }
        let read = text.parse().map(Self::Show);
        read.map_err(|error: Error| error.hint("write none for no readiness"))
    }
}

/// What becomes of instances when their node is lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnNodeLoss {
    /// They run on, or come back with it.
    #[default]
    Keep,
    /// Fresh ones are started elsewhere.
    Replace,
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn a_readiness_is_read_as_people_write_it_and_nothing_else_is() {
        let read = |text: &str| text.parse::<Readiness>();
        assert_eq!(read("worker-ready").unwrap(), Readiness::WorkerReady);
        assert_eq!(read("tcp:80").unwrap(), Readiness::Tcp { port: 80 });
        let http = Readiness::Http { port: 8080, path: "/up?a=b:c".to_owned() };
        assert_eq!(read("http:8080/up?a=b:c").unwrap(), http);
        for text in ["worker-ready", "tcp:80", "http:8080/up?a=b:c"] {
            assert_eq!(read(text).unwrap().to_string(), text);
            let change: ReadinessChange = text.parse().unwrap();
            assert_eq!(change.asked(), Some(read(text).unwrap()));
        }
        assert_eq!("none".parse(), Ok(ReadinessChange::Nothing));
        assert_eq!(ReadinessChange::Nothing.asked(), None);
        for bad in [
            "",
            "none",
            "tcp",
            "tcp:0",
            "tcp:70000",
            "http:80",
            "http:/up",
            "http:80/a b",
            "udp:53",
        ] {
            assert_eq!(read(bad).unwrap_err().kind, ErrorKind::Invalid, "{bad}");
        }
    }
}
