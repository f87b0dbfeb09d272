//! Admission arithmetic: what a tenant may hold and what the node has.
//!
//! Running and Warm instances cost vCPUs and memory at their own size; what is on its way there
//! counts as there. Sleeping instances cost disk only (SPEC §7).

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, ErrorKind},
    instance::{Instance, Want},
    state::State,
    units::{Gib, Mib, Vcpus},
};

/// A tenant's limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quotas {
    /// vCPUs of Running and Warm instances together.
    pub max_vcpus: Vcpus,
    /// Memory of Running and Warm instances together.
    pub max_mem_mib: Mib,
    /// Running instances.
    pub max_running: u32,
    /// Warm instances.
    pub max_warm: u32,
    /// Pools.
    pub max_pools: u32,
    /// Instances of one pool, whatever their state.
    pub max_instances_per_pool: u32,
    /// Data volumes and snapshots together.
    pub max_disk_gib: Gib,
}

impl Default for Quotas {
    /// The limits of `tenant create` (SPEC §1.3).
    fn default() -> Self {
        Self {
            max_vcpus: Vcpus(16),
            max_mem_mib: Mib(32768),
            max_running: 8,
            max_warm: 4,
            max_pools: 4,
            max_instances_per_pool: 16,
            max_disk_gib: Gib(100),
        }
    }
}

/// What a set of instances costs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// vCPUs of Running and Warm.
    pub vcpus: u32,
    /// Memory of Running and Warm in MiB.
    pub mem_mib: u64,
    /// Running instances.
    pub running: u32,
    /// Warm instances.
    pub warm: u32,
    /// Disk at worst in MiB: volumes, and memory of what sleeps.
    pub disk_mib: u64,
}

impl Usage {
    /// The cost of all `instances`.
    pub fn of<'a>(instances: impl IntoIterator<Item = &'a Instance>) -> Self {
        let mut usage = Self::default();
        for instance in instances {
            usage.add(instance);
        }
        usage
    }

    /// Adds the cost of one: of the greater of what it is and what it is wanted to be.
    pub fn add(&mut self, instance: &Instance) {
        let size = instance.resources;
        self.disk_mib += u64::from(size.data_disk_mib.0);
        let (state, want) = (instance.state, instance.want);
        if state == State::Running || want == Want::Running {
            self.running += 1;
        } else if state == State::Warm || want == Want::Warm {
            self.warm += 1;
        } else if state == State::Sleeping || want == Want::Sleeping {
            self.disk_mib += u64::from(size.mem_mib.0);
            return;
        } else {
            return;
        }
        self.vcpus += size.vcpus.0;
        self.mem_mib += u64::from(size.mem_mib.0);
    }
}

/// What the node offers to guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// Memory for guests in MiB.
    pub mem_mib: u64,
}

impl Quotas {
    /// Checks that a tenant may hold `usage`.
    ///
    /// # Errors
    /// `Refused`, naming every limit that it breaks, with the figures.
    pub fn admit(&self, usage: &Usage) -> Result<(), Error> {
        let limits = [
            ("vCPUs", u64::from(usage.vcpus), u64::from(self.max_vcpus.0), "--max-vcpus"),
            ("MiB of memory", usage.mem_mib, u64::from(self.max_mem_mib.0), "--max-mem"),
            (
                "running instances",
                u64::from(usage.running),
                u64::from(self.max_running),
                "--max-running",
            ),
            ("warm instances", u64::from(usage.warm), u64::from(self.max_warm), "--max-warm"),
            ("MiB of disk", usage.disk_mib, u64::from(self.max_disk_gib.0) * 1024, "--max-disk"),
        ];
        let broken: Vec<_> = limits.iter().filter(|(_, used, limit, _)| used > limit).collect();
        if broken.is_empty() {
            return Ok(());
        }
        let list: Vec<String> = broken
            .iter()
            .map(|(what, used, limit, _)| format!("{used} {what} (limit {limit})"))
            .collect();
        let mut error = Error::new(
            ErrorKind::Refused,
            format!("the tenant's quota does not allow it: it would hold {}", list.join(", ")),
        );
        for (_, _, _, flag) in broken {
            error = error.hint(format!("stop or sleep something, or raise {flag}"));
        }
        Err(error)
    }
}

impl Capacity {
    /// Checks that the node can hold `usage`, all tenants together.
    ///
    /// # Errors
    /// `Refused` with the figures.
    pub fn admit(&self, usage: &Usage) -> Result<(), Error> {
        if usage.mem_mib > self.mem_mib {
            return Err(Error::new(
                ErrorKind::Refused,
                format!(
                    "the node has {} MiB for guests and {} MiB would be in use",
                    self.mem_mib, usage.mem_mib
                ),
            )
            .hint("stop or sleep an instance first: mvm instance list"));
        }
        Ok(())
    }
}
