//! What a guest is told by its config drive (SPEC §5): `config.json` from a jail's identity.

use mvm_core::{
    Error, ErrorKind,
    effect::Jail,
    net::{Mac, Network, Offset},
    units::Generation,
};
use mvm_proto::{GuestConfig, MacAddress, MinRuntimePolicy, NetworkIdentity};

use crate::net;

/// The config drive's only file.
pub const FILE: &str = "config.json";
/// The size of the config drive, in MiB (SPEC §5).
pub const DRIVE_MIB: u32 = 4;

/// The configuration of a guest whose secrets drive is of epoch `secrets`.
///
/// # Errors
/// `Invalid` when its place lies outside of its network.
pub fn of(jail: &Jail, secrets: Generation) -> Result<GuestConfig, Error> {
    let identity = &jail.identity;
    let network = network(&identity.network, identity.offset)?;
    Ok(GuestConfig {
        instance_id: jail.instance.instance.to_string(),
        pool_id: Some(jail.instance.pool.to_string()),
        tenant_id: jail.instance.tenant.to_string(),
        role: identity.role.to_string(),
        guest_ip: Some(network.address),
        prefix: network.prefix,
        gateway: network.gateway,
        mac: network.mac,
        mtu: network.mtu,
        hostname: String::new(),
        dns: Vec::new(),
        vcpus: jail.resources.vcpus.0,
        mem_mib: jail.resources.mem_mib.0,
        min_runtime_policy: MinRuntimePolicy {
            min_running_seconds: identity.policy.min_running_seconds.0,
            min_warm_seconds: identity.policy.min_warm_seconds.0,
            drain_timeout_seconds: identity.policy.drain_timeout_seconds.0,
            graceful_shutdown_seconds: identity.policy.graceful_shutdown_seconds.0,
        },
        secrets_epoch: secrets.0,
        integrations: Vec::new(),
        ssh_authorized_keys: Vec::new(),
    })
}

/// What a guest's network device shall be.
///
/// # Errors
/// As [`of`].
pub fn network(network: &Network, offset: Offset) -> Result<NetworkIdentity, Error> {
    let subnet = network.subnet;
    let address = subnet.address(offset).ok_or_else(|| {
        let message = format!("the place {} lies outside of the subnet {subnet}", offset.0);
        Error::new(ErrorKind::Invalid, message)
    })?;
    Ok(NetworkIdentity {
        address,
        prefix: subnet.prefix(),
        gateway: Some(subnet.gateway()),
        mac: Some(MacAddress(Mac::of(network.net, offset).0)),
        mtu: net::network_mtu(network.net),
        hostname: String::new(),
        dns: Vec::new(),
    })
}
