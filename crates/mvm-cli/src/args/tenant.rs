//! The arguments of `mvm tenant …`.

use clap::{ArgGroup, Args, Subcommand};
use mvm::{
    NetId, QuotaChange, Quotas, Subnet, TenantId,
    forward::InputPath,
    units::{Gib, Mib, Vcpus},
};

use super::{Volumes, examples};

#[derive(Debug, Subcommand)]
pub(crate) enum TenantCommand {
    /// Create a tenant with its network and quotas
    #[command(after_long_help = examples::TENANT_CREATE)]
    Create(TenantCreateArgs),
    /// List the tenants on this node
    List,
    /// Show a tenant's network, quotas and use
    Info {
        /// The tenant
        tenant: TenantId,
    },
    /// Change a tenant's quotas; those that are not given stay
    Update(TenantUpdateArgs),
    /// Manage a tenant's secrets, which its guests find in /run/secrets
    #[command(subcommand)]
    Secrets(SecretsCommand),
    /// Destroy a tenant with all its pools and instances
    Destroy {
        /// The tenant
        tenant: TenantId,
        /// Destroy its pools and instances too, without asking
        #[arg(long, visible_alias = "yes")]
        force: bool,
        #[command(flatten)]
        volumes: Volumes,
    },
    /// Manage a tenant's key
    #[command(subcommand)]
    Key(KeyCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Give a tenant another key, and seal to it what the old one sealed
    Rotate {
        /// The tenant
        tenant: TenantId,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum SecretsCommand {
    /// Set all secrets of a tenant; guests get them at their next start or wake
    Set {
        /// The tenant
        tenant: TenantId,
        /// A JSON object of keys and string values, or a TOML file whose `[secrets]` say where each is;
        /// `-` reads standard input
        #[arg(long, value_name = "FILE")]
        from_file: InputPath,
    },
    /// Read the secrets again from where they came and seal them under a fresh key
    Rotate {
        /// The tenant
        tenant: TenantId,
        /// Read this file instead, now and from now on
        #[arg(long, value_name = "FILE")]
        from_file: Option<InputPath>,
        /// Give them to running guests at once
        #[arg(long)]
        live: bool,
    },
    /// Show keys, epoch, source and time; never a value
    List {
        /// The tenant
        tenant: TenantId,
    },
}

#[derive(Debug, Args)]
pub(crate) struct TenantCreateArgs {
    /// The new tenant's id
    pub(crate) tenant: String,
    /// Its network id, 1 to 4095 [default: the lowest free one]
    #[arg(long, value_name = "N", value_parser = net_id)]
    pub(crate) net_id: Option<NetId>,
    /// Its subnet within 10.240.0.0/12 [default: 10.(240+N/256).(N mod 256).0/24]
    #[arg(long, value_name = "CIDR")]
    pub(crate) subnet: Option<Subnet>,
    /// Greatest sum of vCPUs of running and warm instances
    #[arg(long, value_name = "N", default_value_t = Quotas::default().max_vcpus.0)]
    pub(crate) max_vcpus: u32,
    /// Greatest sum of memory of running and warm instances
    #[arg(long, value_name = "MIB", default_value_t = Quotas::default().max_mem_mib.0)]
    pub(crate) max_mem: u32,
    /// Most running instances
    #[arg(long, value_name = "N", default_value_t = Quotas::default().max_running)]
    pub(crate) max_running: u32,
    /// Most warm instances
    #[arg(long, value_name = "N", default_value_t = Quotas::default().max_warm)]
    pub(crate) max_warm: u32,
    /// Most pools
    #[arg(long, value_name = "N", default_value_t = Quotas::default().max_pools)]
    pub(crate) max_pools: u32,
    /// Most instances of one pool
    #[arg(long, value_name = "N", default_value_t = Quotas::default().max_instances_per_pool)]
    pub(crate) max_instances_per_pool: u32,
    /// Most disk of volumes and snapshots
    #[arg(long, value_name = "GIB", default_value_t = Quotas::default().max_disk_gib.0)]
    pub(crate) max_disk: u32,
    /// Keep no key: snapshots are stored in the clear (development only)
    #[arg(long)]
    pub(crate) no_key: bool,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("quota").required(true).multiple(true))]
pub(crate) struct TenantUpdateArgs {
    /// The tenant
    pub(crate) tenant: TenantId,
    /// Greatest sum of vCPUs of running and warm instances
    #[arg(long, value_name = "N", group = "quota")]
    pub(crate) max_vcpus: Option<u32>,
    /// Greatest sum of memory of running and warm instances
    #[arg(long, value_name = "MIB", group = "quota")]
    pub(crate) max_mem: Option<u32>,
    /// Most running instances
    #[arg(long, value_name = "N", group = "quota")]
    pub(crate) max_running: Option<u32>,
    /// Most warm instances
    #[arg(long, value_name = "N", group = "quota")]
    pub(crate) max_warm: Option<u32>,
    /// Most pools
    #[arg(long, value_name = "N", group = "quota")]
    pub(crate) max_pools: Option<u32>,
    /// Most instances of one pool
    #[arg(long, value_name = "N", group = "quota")]
    pub(crate) max_instances_per_pool: Option<u32>,
    /// Most disk of volumes and snapshots
    #[arg(long, value_name = "GIB", group = "quota")]
    pub(crate) max_disk: Option<u32>,
}

impl TenantUpdateArgs {
    /// The limits that the flags change.
    pub(crate) fn change(&self) -> QuotaChange {
        QuotaChange {
            max_vcpus: self.max_vcpus.map(Vcpus),
            max_mem_mib: self.max_mem.map(Mib),
            max_running: self.max_running,
            max_warm: self.max_warm,
            max_pools: self.max_pools,
            max_instances_per_pool: self.max_instances_per_pool,
            max_disk_gib: self.max_disk.map(Gib),
        }
    }
}

impl TenantCreateArgs {
    /// The quotas that the flags ask for.
    pub(crate) const fn quotas(&self) -> Quotas {
        Quotas {
            max_vcpus: Vcpus(self.max_vcpus),
            max_mem_mib: Mib(self.max_mem),
            max_running: self.max_running,
            max_warm: self.max_warm,
            max_pools: self.max_pools,
            max_instances_per_pool: self.max_instances_per_pool,
            max_disk_gib: Gib(self.max_disk),
        }
    }
}

pub(super) fn net_id(text: &str) -> Result<NetId, String> {
    match text.parse() {
        Ok(id @ 1..=4095) => Ok(NetId(id)),
        Ok(_) | Err(_) => Err("a network id is a number from 1 to 4095".to_owned()),
    }
}
