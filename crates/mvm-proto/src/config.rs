//! What a guest is told about itself: `config.json` of the `mvm-config` drive, and the network
//! identity that a wake or a clone brings.
//!
//! Host and guest share these types. This module refuses to know where they are stored and how
//! they are applied. Unknown fields are ignored, absent ones have the documented defaults.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The label of the drive that holds [`GuestConfig`] (SPEC §5).
pub const CONFIG_LABEL: &str = "mvm-config";
/// The label of the drive that holds the secrets (SPEC §5).
pub const SECRETS_LABEL: &str = "mvm-secrets";
/// The label of the data drive (SPEC §5).
pub const DATA_LABEL: &str = "mvm-data";

/// MTU used when none is given, in bytes: that of Ethernet.
pub const DEFAULT_MTU: u16 = 1500;

/// `config.json`: the identity of one instance (SPEC §5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestConfig {
    /// The instance's id, `i-` and eight hex digits, or the name of a named VM.
    pub instance_id: String,
    /// The pool's id; absent for a named VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool_id: Option<String>,
    /// The tenant's id.
    pub tenant_id: String,
    /// `gateway`, `builder`, `worker` or `capability-<name>`.
    #[serde(default = "default_role")]
    pub role: String,
    /// The guest's IPv4 address; absent for a guest without a network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_ip: Option<Ipv4Addr>,
    /// The length of the subnet's prefix, 0–32.
    #[serde(default = "default_prefix")]
    pub prefix: u8,
    /// The default gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Ipv4Addr>,
    /// The MAC address to set; absent leaves the device's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddress>,
    /// The MTU of the network device in bytes, 68–65535.
    #[serde(default = "default_mtu")]
    pub mtu: u16,
    /// The host name; empty means the instance id.
    #[serde(default)]
    pub hostname: String,
    /// The resolvers, in order; empty means the gateway.
    #[serde(default)]
    pub dns: Vec<Ipv4Addr>,
    /// Virtual CPUs of the VM.
    #[serde(default)]
    pub vcpus: u32,
    /// Memory of the VM in MiB.
    #[serde(default)]
    pub mem_mib: u32,
    /// The pool's runtime policy, for workloads that plan by it.
    #[serde(default)]
    pub min_runtime_policy: MinRuntimePolicy,
    /// The epoch of the secrets on the secrets drive, 0 when there are none.
    #[serde(default)]
    pub secrets_epoch: u64,
    /// The integrations whose state is kept under `/data/integrations`.
    #[serde(default)]
    pub integrations: Vec<Integration>,
    /// Public keys that may log in where the image has an SSH server, one line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ssh_authorized_keys: Vec<String>,
}

impl GuestConfig {
    /// The network part of this configuration, `None` for a guest without a network.
    #[must_use]
    pub fn network(&self) -> Option<NetworkIdentity> {
        Some(NetworkIdentity {
            address: self.guest_ip?,
            prefix: self.prefix,
            gateway: self.gateway,
            mac: self.mac,
            mtu: self.mtu,
            hostname: self.effective_hostname().to_owned(),
            dns: self.dns.clone(),
        })
    }

    /// The host name to use: the one given, else the instance id.
    #[must_use]
    pub fn effective_hostname(&self) -> &str {
        if self.hostname.is_empty() { &self.instance_id } else { &self.hostname }
    }
}

/// The pool's `runtime_policy`, all in seconds (defaults of SPEC §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MinRuntimePolicy {
    /// Shortest time Running before policy may park or stop the instance.
    pub min_running_seconds: u32,
    /// Shortest time Warm before policy may put the instance to sleep.
    pub min_warm_seconds: u32,
    /// How long a drain before sleep may take.
    pub drain_timeout_seconds: u32,
    /// How long a stop waits before it kills.
    pub graceful_shutdown_seconds: u32,
}

impl Default for MinRuntimePolicy {
    fn default() -> Self {
        Self {
            min_running_seconds: 60,
            min_warm_seconds: 30,
            drain_timeout_seconds: 30,
            graceful_shutdown_seconds: 15,
        }
    }
}

/// One integration of the image's manifest (SPEC §5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Integration {
    /// Its name, which is also the directory under `/data/integrations`.
    pub name: String,
    /// The program and arguments that write its checkpoint; absent means nothing to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_cmd: Option<Vec<String>>,
    /// The program and arguments that restore it after a wake; absent means nothing to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_cmd: Option<Vec<String>>,
    /// Whether a failed checkpoint blocks the sleep.
    #[serde(default)]
    pub critical: bool,
}

/// What a guest's network device shall be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkIdentity {
    /// The IPv4 address.
    pub address: Ipv4Addr,
    /// The length of the subnet's prefix, 0–32.
    pub prefix: u8,
    /// The default gateway; absent means no default route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Ipv4Addr>,
    /// The MAC address to set; absent leaves the device's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddress>,
    /// The MTU in bytes, 68–65535.
    #[serde(default = "default_mtu")]
    pub mtu: u16,
    /// The host name; empty leaves it as it is.
    #[serde(default)]
    pub hostname: String,
    /// The resolvers, in order; empty means the gateway.
    #[serde(default)]
    pub dns: Vec<Ipv4Addr>,
}

fn default_role() -> String {
    "worker".to_owned()
}

fn default_prefix() -> u8 {
    24
}

fn default_mtu() -> u16 {
    DEFAULT_MTU
}

/// An Ethernet address, written `02:fc:00:01:00:03`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress(pub [u8; 6]);

/// A text is not an Ethernet address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a MAC address of the form 02:fc:00:01:00:03")]
pub struct MacAddressError(String);

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddress {
    type Err = MacAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let mut bytes = [0u8; 6];
            let mut parts = text.split(':');
            for byte in &mut bytes {
                let part = parts.next().filter(|part| part.len() == 2)?;
                let is_hex = part.bytes().all(|digit| digit.is_ascii_hexdigit());
                *byte = u8::from_str_radix(part, 16).ok().filter(|_| is_hex)?;
            }
            parts.next().is_none().then_some(Self(bytes))
        };
        parse().ok_or_else(|| MacAddressError(text.to_owned()))
    }
}

impl TryFrom<String> for MacAddress {
    type Error = MacAddressError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<MacAddress> for String {
    fn from(mac: MacAddress) -> Self {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;

    #[test]
    fn a_minimal_config_has_the_documented_defaults() {
        let config: GuestConfig = serde_json::from_str(
            r#"{"instance_id":"i-00000001","tenant_id":"acme","guest_ip":"10.240.1.3","new_key":1}"#,
        )
        .unwrap();
        assert_eq!(config.role, "worker");
        assert_eq!(config.min_runtime_policy, MinRuntimePolicy::default());
        let network = config.network().unwrap();
        assert_eq!((network.prefix, network.mtu), (24, 1500));
        assert_eq!(network.hostname, "i-00000001");
    }

    #[test]
    fn a_mac_address_survives_text_and_nothing_else_parses() {
        let mac = MacAddress([2, 0xfc, 0, 1, 0, 3]);
        assert_eq!(mac.to_string().parse(), Ok(mac));
        for wrong in
            ["", "02:fc:00:01:00", "02:fc:00:01:00:03:04", "2:fc:0:1:0:3", "+2:fc:00:01:00:03"]
        {
            assert!(wrong.parse::<MacAddress>().is_err(), "{wrong}");
        }
    }
}
