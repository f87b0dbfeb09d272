//! Figures, and the streams of a guest that are no commands: files and the console.
//!
//! Like all questions they change nothing; what an instance is, is looked at first.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    time::Duration,
};

use mvm_core::{
    error::{Error, ErrorKind},
    id::{InstanceRef, TenantId},
    instance::Want,
    meter::{CopyReport, GuestMetrics, Meter, WorkerState},
    observed::SnapshotPhase,
    port::Console,
    state::State,
    tenant::Tenant,
};
use serde::{Deserialize, Serialize};

use crate::{
    engine::{Context, Engine},
    query::{Filter, InstanceView, not_running},
    store::records,
};

/// Between the two looks that make a rate.
const SAMPLE: Duration = Duration::from_millis(250);

/// What one instance does and takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceStats {
    /// The instance as it is.
    pub view: InstanceView,
    /// What the host measures.
    pub meter: Meter,
    /// What its agent measures; none when there is no answer.
    pub guest: Option<GuestMetrics>,
    /// Processor time of the moment, in thousandths of one CPU.
    pub cpu_milli: u64,
    /// For how long it had nothing to do, in milliseconds; none while that is not known.
    pub idle_ms: Option<u64>,
}

/// What a group of instances holds and takes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupStats {
    /// Pools.
    pub pools: u32,
    /// Instances by state.
    pub states: BTreeMap<State, u32>,
    /// vCPUs of running and warm instances.
    pub vcpus: u64,
    /// Memory promised to running and warm instances, in MiB.
    pub mem_mib: u64,
    /// Resident memory of their VMMs, in KiB.
    pub resident_kib: u64,
    /// Disk that data volumes take, in bytes.
    pub volume_bytes: u64,
    /// Snapshots that can be woken.
    pub snapshots: u32,
    /// Disk that snapshots take, in bytes.
    pub snapshot_bytes: u64,
    /// Disk that logs take, in bytes.
    pub log_bytes: u64,
    /// Running instances whose workload says that it has nothing to do.
    pub idle: u32,
}

/// The node's figures.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStats {
    /// All tenants together.
    pub total: GroupStats,
    /// Each tenant.
    pub tenants: BTreeMap<TenantId, GroupStats>,
}

impl Engine {
    /// What one instance does and takes.
    ///
    /// # Errors
    /// `NotFound`; why store or host failed. A guest that does not answer is no error.
    pub fn stats(&self, id: &InstanceRef) -> Result<InstanceStats, Error> {
        let host = &self.ports.host;
        let view = self.one(id)?;
        let (start, first) = (self.ports.clock.elapsed(), host.meter(&view.record)?);
        let runs = view.record.state == State::Running;
        let guest = if runs { self.ports.guest.metrics(id)? } else { None };
        if runs {
            let passed = self.ports.clock.elapsed().saturating_sub(start);
            self.ports.clock.pause(SAMPLE.saturating_sub(passed));
        }
        let meter = host.meter(&view.record)?;
        let micros = u64::try_from(self.ports.clock.elapsed().saturating_sub(start).as_micros());
        let used = meter.cpu_usec.saturating_sub(first.cpu_usec);
        let cpu_milli = (used * 1000).checked_div(micros.unwrap_or(0)).unwrap_or(0);
        let idle_ms = self.idle(&view, guest.as_ref());
        Ok(InstanceStats { view, meter, guest, cpu_milli, idle_ms })
    }

    /// A parked guest is idle since it was parked; a running one since it was last busy, if its
    /// workload says so at all.
    fn idle(&self, view: &InstanceView, guest: Option<&GuestMetrics>) -> Option<u64> {
        let now = self.ports.clock.now().0;
        match view.record.state {
            State::Warm | State::Sleeping => Some(now.saturating_sub(view.record.state_since.0)),
            State::Running => {
                let guest = guest?;
                let is_idle = guest.has_hooks && guest.worker != WorkerState::Busy;
                let since = guest.last_busy_at_ms.unwrap_or(view.record.state_since.0);
                is_idle.then(|| now.saturating_sub(since))
            }
            State::Created | State::Ready | State::Stopped | State::Destroyed => None,
        }
    }

    /// The figures of the node, in all and of each tenant.
    ///
    /// # Errors
    /// Why store or host failed.
    pub fn node_stats(&self) -> Result<NodeStats, Error> {
        let (tenants, pools) =
            self.within(|tx| Ok((records::list::<Tenant>(tx, "")?, records::pools(tx, "")?)))?;
        let mut stats = NodeStats::default();
        for tenant in tenants {
            stats.tenants.entry(tenant.tenant_id).or_default();
        }
        for pool in &pools {
            let group = stats.tenants.entry(pool.pool.tenant.clone()).or_default();
            group.pools += 1;
            stats.total.pools += 1;
        }
        for view in self.instances(&Filter::All)? {
            let meter = self.ports.host.meter(&view.record)?;
            let tenant = view.record.instance.tenant.clone();
            stats.tenants.entry(tenant).or_default().add(&view, &meter);
            stats.total.add(&view, &meter);
        }
        Ok(stats)
    }

    /// Attaches to the serial console of an instance that has a VMM.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when it has no VMM or somebody is attached; `Unavailable` when its
    /// console was lost with its shim.
    pub fn console(&self, cx: &Context, id: &InstanceRef) -> Result<Console, Error> {
        cx.cancel.check()?;
        let view = self.one(id)?;
        if view.observed.vmm.is_none() {
            return Err(not_running(&view.record));
        }
        tracing::info!(instance = %id, actor = %cx.actor, "console");
        self.ports.host.console(id)
    }

    /// Unpacks a tar stream in a running guest, below a directory that is made when missing.
    ///
    /// # Errors
    /// As [`Engine::exec`]; `Permission` for a stream that leads outside.
    pub fn copy_in(
        &self,
        cx: &Context,
        id: &InstanceRef,
        path: &str,
        stream: &mut dyn Read,
    ) -> Result<CopyReport, Error> {
        self.running(cx, id)?;
        tracing::info!(instance = %id, actor = %cx.actor, path, "copy in");
        self.ports.guest.copy_in(id, path, stream)
    }

    /// Sends a file or directory of a running guest as a tar stream.
    ///
    /// # Errors
    /// As [`Engine::exec`]; `NotFound` for a path that is not there.
    pub fn copy_out(
        &self,
        cx: &Context,
        id: &InstanceRef,
        path: &str,
        to: &mut dyn Write,
    ) -> Result<CopyReport, Error> {
        self.running(cx, id)?;
        tracing::info!(instance = %id, actor = %cx.actor, path, "copy out");
        self.ports.guest.copy_out(id, path, to)
    }

    /// The instance, which must be running, or be parked by policy: then it is brought back.
    pub(crate) fn running(&self, cx: &Context, id: &InstanceRef) -> Result<InstanceView, Error> {
        cx.cancel.check()?;
        let mut view = self.one(id)?;
        if view.record.state != State::Running {
            self.demand(cx, &view.record)?;
            view = self.one(id)?;
        }
        if view.record.state == State::Running { Ok(view) } else { Err(not_running(&view.record)) }
    }

    /// One instance as it is.
    ///
    /// # Errors
    /// `NotFound`; why store or host failed.
    pub fn one(&self, id: &InstanceRef) -> Result<InstanceView, Error> {
        let found = self.instances(&Filter::Instance(id.clone()))?;
        let gone = || Error::new(ErrorKind::NotFound, format!("{id} is gone"));
        found.into_iter().next().ok_or_else(gone)
    }
}

impl GroupStats {
    fn add(&mut self, view: &InstanceView, meter: &Meter) {
        let record = &view.record;
        *self.states.entry(record.state).or_default() += 1;
        if matches!(record.state, State::Running | State::Warm)
            || matches!(record.want, Want::Running | Want::Warm)
        {
            self.vcpus += u64::from(record.resources.vcpus.0);
            self.mem_mib += u64::from(record.resources.mem_mib.0);
        }
        self.resident_kib += view.observed.vmm.map_or(0, |vmm| vmm.resident_kib);
        self.volume_bytes += meter.volume_bytes;
        let published =
            view.observed.snapshots.values().filter(|phase| **phase == SnapshotPhase::Published);
        self.snapshots += u32::try_from(published.count()).unwrap_or(u32::MAX);
        self.snapshot_bytes += meter.snapshot_bytes;
        self.log_bytes += meter.log_bytes;
        let is_idle = record.state == State::Running && meter.worker == Some(WorkerState::Idle);
        self.idle += u32::from(is_idle);
    }
}
