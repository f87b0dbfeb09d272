//! Admission arithmetic: what a tenant may hold and what the node has.
//!
//! Running and Warm instances cost vCPUs and memory at their own size; what is on its way there
//! counts as there. Sleeping instances cost disk only (SPEC §7). What is put back by a failed sleep
//! is not refused: a guest is never lost to a figure.

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, ErrorKind},
    instance::{Instance, Want},
    pool::Resources,
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

impl Quotas {
    /// The limits of a tenant of this host itself: the node's alone, and one VM in each pool.
    #[must_use]
    pub const fn of_own() -> Self {
        Self {
            max_vcpus: Vcpus(1 << 16),
            max_mem_mib: Mib(1 << 26),
            max_running: 1 << 12,
            max_warm: 1 << 12,
            max_pools: 1 << 12,
            max_instances_per_pool: 1,
            max_disk_gib: Gib(1 << 16),
        }
    }
}

/// New limits; an absent one stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QuotaChange {
    /// As [`Quotas::max_vcpus`].
    pub max_vcpus: Option<Vcpus>,
    /// As [`Quotas::max_mem_mib`].
    pub max_mem_mib: Option<Mib>,
    /// As [`Quotas::max_running`].
    pub max_running: Option<u32>,
    /// As [`Quotas::max_warm`].
    pub max_warm: Option<u32>,
    /// As [`Quotas::max_pools`].
    pub max_pools: Option<u32>,
    /// As [`Quotas::max_instances_per_pool`].
    pub max_instances_per_pool: Option<u32>,
    /// As [`Quotas::max_disk_gib`].
    pub max_disk_gib: Option<Gib>,
}

impl QuotaChange {
    /// The limits after this change.
    #[must_use]
    pub fn apply(&self, to: &Quotas) -> Quotas {
        Quotas {
            max_vcpus: self.max_vcpus.unwrap_or(to.max_vcpus),
            max_mem_mib: self.max_mem_mib.unwrap_or(to.max_mem_mib),
            max_running: self.max_running.unwrap_or(to.max_running),
            max_warm: self.max_warm.unwrap_or(to.max_warm),
            max_pools: self.max_pools.unwrap_or(to.max_pools),
            max_instances_per_pool: self
                .max_instances_per_pool
                .unwrap_or(to.max_instances_per_pool),
            max_disk_gib: self.max_disk_gib.unwrap_or(to.max_disk_gib),
        }
    }
}

/// What a tenant holds, counted as its limits count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holdings {
    /// What its instances cost.
    pub usage: Usage,
    /// Its pools.
    pub pools: u64,
    /// The instances of its largest pool.
    pub instances_of_a_pool: u64,
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

    /// Adds the cost of one instance.
    pub fn add(&mut self, instance: &Instance) {
        self.hold(instance.resources, instance.state, instance.want);
    }

    /// Adds the cost of an instance of `size` in `state` on its way to `want`.
    ///
    /// Every figure is counted by itself, so that two admissions at once cannot both take the last
    /// of something: memory and vCPUs for what has a process or passes through one, disk for what
    /// is or shall be written, and the place that is asked for (together with the one that is left,
    /// except on the way through Running to Warm or Sleeping, which takes no place of its own).
    pub fn hold(&mut self, size: Resources, state: State, want: Want) {
        let leaves = matches!(want, Want::Stopped | Want::Destroyed);
        self.disk_mib += u64::from(size.data_disk_mib.0);
        if want == Want::Running || (state == State::Running && leaves) {
            self.running += 1;
        }
        if want == Want::Warm || (state == State::Warm && (leaves || want == Want::Running)) {
            self.warm += 1;
        }
        if state == State::Sleeping || want == Want::Sleeping {
            self.disk_mib += u64::from(size.mem_mib.0);
        }
        let asks = matches!(want, Want::Running | Want::Warm)
            || (want == Want::Sleeping && state != State::Sleeping);
        if state.has_process() || asks {
            self.vcpus += size.vcpus.0;
            self.mem_mib += u64::from(size.mem_mib.0);
        }
    }

    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            vcpus: self.vcpus.saturating_add(other.vcpus),
            mem_mib: self.mem_mib.saturating_add(other.mem_mib),
            running: self.running.saturating_add(other.running),
            warm: self.warm.saturating_add(other.warm),
            disk_mib: self.disk_mib.saturating_add(other.disk_mib),
        }
    }

    /// What is left without `other`, which is a part of it.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self {
            vcpus: self.vcpus.saturating_sub(other.vcpus),
            mem_mib: self.mem_mib.saturating_sub(other.mem_mib),
            running: self.running.saturating_sub(other.running),
            warm: self.warm.saturating_sub(other.warm),
            disk_mib: self.disk_mib.saturating_sub(other.disk_mib),
        }
    }

    /// The figures that are greater than in `before`, and 0 where nothing grew: a quota refuses
    /// what a change adds, never what was there.
    #[must_use]
    pub const fn growth(self, before: Self) -> Self {
        const fn small(now: u32, then: u32) -> u32 {
            if now > then { now } else { 0 }
        }
        const fn large(now: u64, then: u64) -> u64 {
            if now > then { now } else { 0 }
        }
        Self {
            vcpus: small(self.vcpus, before.vcpus),
            mem_mib: large(self.mem_mib, before.mem_mib),
            running: small(self.running, before.running),
            warm: small(self.warm, before.warm),
            disk_mib: large(self.disk_mib, before.disk_mib),
        }
    }
}

/// What the node offers to guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// Memory for guests in MiB.
    pub mem_mib: u64,
    /// vCPUs of guests together: the processors times the overcommit factor. A vCPU is a thread that
    /// mostly waits, so more of them than processors are the rule.
    pub vcpus: u64,
}

impl Quotas {
    /// Each limit with its name, as in [`Quotas`].
    #[must_use]
    pub fn figures(&self) -> [(&'static str, u64); 7] {
        [
            ("max_vcpus", u64::from(self.max_vcpus.0)),
            ("max_mem_mib", u64::from(self.max_mem_mib.0)),
            ("max_running", u64::from(self.max_running)),
            ("max_warm", u64::from(self.max_warm)),
            ("max_pools", u64::from(self.max_pools)),
            ("max_instances_per_pool", u64::from(self.max_instances_per_pool)),
            ("max_disk_gib", u64::from(self.max_disk_gib.0)),
        ]
    }

    /// Checks that a tenant which holds `held` may get the limits `after`: none is lowered below
    /// what is in use. A limit that was exceeded before may be raised, or left alone.
    ///
    /// # Errors
    /// `Refused`, naming every limit that would be broken, with the figures.
    pub fn admit_change(&self, after: &Self, held: &Holdings) -> Result<(), Error> {
        let disk_gib = held.usage.disk_mib.div_ceil(1024);
        let in_use = [
            ("vCPUs", u64::from(held.usage.vcpus)),
            ("MiB of memory", held.usage.mem_mib),
            ("running instances", u64::from(held.usage.running)),
            ("warm instances", u64::from(held.usage.warm)),
            ("pools", held.pools),
            ("instances of one pool", held.instances_of_a_pool),
            ("GiB of disk", disk_gib),
        ];
        let limits = self.figures().into_iter().zip(after.figures()).zip(in_use);
        let broken: Vec<String> = limits
            .filter(|(((_, old), (_, new)), (_, used))| new < old && new < used)
            .map(|(((name, old), (_, new)), (what, used))| {
                format!("{name} {old} to {new} with {used} {what} in use")
            })
            .collect();
        if broken.is_empty() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Refused,
            format!("a limit cannot be lowered below what is in use: {}", broken.join(", ")),
        )
        .hint("stop, sleep or destroy something first: mvm instance list"))
    }

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
            .hint(
                "stop or sleep an instance first, or raise guest_memory_percent: mvm instance list",
            ));
        }
        if u64::from(usage.vcpus) > self.vcpus {
            return Err(Error::new(
                ErrorKind::Refused,
                format!(
                    "the node has {} vCPUs for guests and {} would be in use",
                    self.vcpus, usage.vcpus
                ),
            )
            .hint("stop or sleep an instance first, or raise vcpu_overcommit: mvm instance list"));
        }
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
mod tests {
    use super::*;

    const SIZE: Resources = Resources::new(Vcpus(2), Mib(512), Mib(64));

    fn usage(held: &[(State, Want)]) -> Usage {
        let mut usage = Usage::default();
        for (state, want) in held {
            usage.hold(SIZE, *state, *want);
        }
        usage
    }

    #[test]
    fn an_instance_on_its_way_to_warm_already_holds_its_place_there() {
        assert_eq!(usage(&[(State::Running, Want::Warm)]).warm, 1);
    }

    #[test]
    fn an_instance_that_sleeps_through_running_costs_memory_until_it_sleeps() {
        assert_eq!(usage(&[(State::Ready, Want::Sleeping)]).mem_mib, 512);
        assert_eq!(usage(&[(State::Warm, Want::Sleeping)]).mem_mib, 512);
        assert_eq!(usage(&[(State::Sleeping, Want::Sleeping)]).mem_mib, 0);
    }

    #[test]
    fn a_running_instance_holds_its_place_until_it_is_stopped() {
        assert_eq!(usage(&[(State::Running, Want::Stopped)]).running, 1);
        assert_eq!(
            usage(&[(State::Stopped, Want::Stopped)]),
            Usage { disk_mib: 64, ..Usage::default() }
        );
    }

    #[test]
    fn a_limit_is_never_lowered_below_what_is_in_use_and_every_figure_is_named() {
        let before = Quotas::default();
        let held = Holdings {
            usage: usage(&[(State::Running, Want::Running), (State::Warm, Want::Warm)]),
            pools: 2,
            instances_of_a_pool: 3,
        };
        let lower = QuotaChange {
            max_vcpus: Some(Vcpus(3)),
            max_mem_mib: Some(Mib(1023)),
            max_running: Some(0),
            max_warm: Some(0),
            max_pools: Some(1),
            max_instances_per_pool: Some(2),
            max_disk_gib: Some(Gib(0)),
        };
        let error = before.admit_change(&lower.apply(&before), &held).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Refused);
        for figure in [
            "max_vcpus 16 to 3 with 4 vCPUs",
            "max_mem_mib 32768 to 1023 with 1024 MiB of memory",
            "max_running 8 to 0 with 1 running",
            "max_warm 4 to 0 with 1 warm",
            "max_pools 4 to 1 with 2 pools",
            "max_instances_per_pool 16 to 2 with 3 instances",
            "max_disk_gib 100 to 0 with 1 GiB of disk",
        ] {
            assert!(error.to_string().contains(figure), "{figure} in {error}");
        }
        let exact = Quotas { max_running: 1, max_pools: 2, ..before };
        before.admit_change(&exact, &held).unwrap();
        let exceeded = Quotas { max_pools: 0, ..before };
        exceeded.admit_change(&Quotas { max_pools: 1, ..before }, &held).unwrap();
    }

    #[test]
    fn only_what_grows_is_refused() {
        let quotas = Quotas { max_running: 1, ..Quotas::default() };
        let over = usage(&[(State::Running, Want::Running); 2]);
        let sleeping = usage(&[(State::Running, Want::Running), (State::Running, Want::Sleeping)]);
        quotas.admit(&sleeping.growth(over)).unwrap();
        assert_eq!(quotas.admit(&over.growth(sleeping)).unwrap_err().kind, ErrorKind::Refused);
    }
}
