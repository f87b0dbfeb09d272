//! What a guest is told by its config drive (SPEC §5): `config.json`, and `routes.json` for a
//! gateway, from a jail's identity.

use mvm_core::{
    Error, ErrorKind,
    effect::Jail,
    integration::Integration,
    net::{Mac, Network, Offset},
    pool::Readiness,
    route::{Routes, Selector},
    units::Generation,
};
use mvm_proto::{GuestConfig, MacAddress, MinRuntimePolicy, NetworkIdentity, message};

use crate::net;

/// The config drive's file for every guest.
pub const FILE: &str = "config.json";
/// The config drive's file for gateways.
pub const ROUTES_FILE: &str = "routes.json";
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
        integrations: integrations(&identity.integrations),
        ssh_authorized_keys: Vec::new(),
    })
}

/// What makes a workload ready, in the guest's words.
#[must_use]
pub fn readiness(asked: &Readiness) -> message::Readiness {
    match asked {
        Readiness::WorkerReady => message::Readiness::WorkerReady {},
        Readiness::Tcp { port } => message::Readiness::Tcp { port: *port },
        Readiness::Http { port, path } => {
            message::Readiness::Http { port: *port, path: path.clone() }
        }
    }
}

/// The integrations in the guest's words.
#[must_use]
pub fn integrations(all: &[Integration]) -> Vec<mvm_proto::Integration> {
    let one = |one: &Integration| mvm_proto::Integration {
        name: one.name.clone(),
        checkpoint_cmd: one.checkpoint_cmd.clone(),
        restore_cmd: one.restore_cmd.clone(),
        critical: one.critical,
    };
    all.iter().map(one).collect()
}

/// The routes in the guest's words.
#[must_use]
pub fn routes(routes: &Routes) -> mvm_proto::Routes {
    let route = |route: &mvm_core::route::Route| mvm_proto::Route {
        name: route.name.to_string(),
        match_rule: mvm_proto::MatchRule {
            port: route.match_rule.port,
            path_prefix: route.match_rule.path_prefix.clone(),
            source_cidr: route.match_rule.source_cidr.map(|range| range.to_string()),
        },
        target: mvm_proto::RouteTarget {
            pool_id: route.target.pool_id.to_string(),
            instance_selector: match route.target.instance_selector {
                Selector::Any => mvm_proto::InstanceSelector::Any,
                Selector::ByIp(ip) => mvm_proto::InstanceSelector::ByIp(ip),
                Selector::LeastConnections => mvm_proto::InstanceSelector::LeastConnections,
            },
            target_port: route.target.target_port,
        },
    };
    let backend = |one: &mvm_core::route::Backend| mvm_proto::Backend {
        instance_id: one.instance_id.to_string(),
        ip: one.ip,
    };
    let pools = routes.backends.iter();
    mvm_proto::Routes {
        generation: routes.generation,
        routes: routes.routes.iter().map(route).collect(),
        backends: pools
            .map(|(pool, all)| (pool.to_string(), all.iter().map(backend).collect()))
            .collect(),
    }
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
