//! One method per operation, named like its command.

use std::time::Duration;

use mvm_core::{
    audit::AuditReport,
    desired::{self, Addressee, DesiredState},
    error::Error,
    event::LoggedEvent,
    id::{InstanceRef, PoolRef, TenantId, VolumeId},
    instance::Drain,
    net::{NetId, Subnet},
    operation::{NewPool, Operation},
    pool::{Counts, PoolChange, RevisionName, RollFailure, RollPace},
    port::{Console, ExecRequest, ExecStatus, ExecStreams, LogSource, Logs},
    publish::Publish,
    quota::{QuotaChange, Quotas},
    secrets::SecretsSource,
    state::{Move, State},
    units::Mib,
    volume::{Volume, VolumeFate},
};
use mvm_engine::{
    Context, EventFilter, Follow, Outcome, Preview,
    figures::{InstanceStats, NodeStats},
    netcheck::{Depth, NetReport},
    query::{DiskView, Filter, InstanceView, NodeView, PoolView, SecretsView, TenantView},
};

use mvm_host::kvm;

use crate::Mvm;

/// Whether an operation boots or restores guests.
fn starts_guests(operation: &Operation) -> bool {
    match operation {
        Operation::InstanceMove { wish, .. } => matches!(wish, Move::Start | Move::Wake),
        Operation::PoolScale { no_wait, .. } => !*no_wait,
        Operation::PoolRoll { .. } => true,
        Operation::TenantCreate { .. }
        | Operation::TenantUpdate { .. }
        | Operation::TenantSecretsSet { .. }
        | Operation::TenantSecretsRotate { .. }
        | Operation::TenantDestroy { .. }
        | Operation::PoolCreate(_)
        | Operation::PoolBuild { .. }
        | Operation::PoolDestroy { .. }
        | Operation::PoolUpdate { .. }
        | Operation::PoolRollback { .. }
        | Operation::PoolGc { .. }
        | Operation::NodeGc { .. }
        | Operation::InstanceCreate { .. }
        | Operation::InstancePublish { .. }
        | Operation::InstanceUnpublish { .. }
        | Operation::TenantKeyRotate { .. }
        | Operation::InstanceGrow { .. }
        | Operation::InstanceDestroy { .. }
        | Operation::VolumeRemove { .. }
        | Operation::TemplateCreate(_)
        | Operation::TemplatePull(_)
        | Operation::TemplateBuild { .. }
        | Operation::TemplateDelete { .. } => false,
        Operation::AgentReconcile { desired } => {
            let mut pools = desired.tenants.iter().flat_map(|tenant| &tenant.pools);
            pools.any(|pool| pool.desired_counts != Counts::default())
        }
    }
}

/// Changes. Each is [`Mvm::operate`] with the operation of its name.
///
/// # Errors
/// Each returns why it was refused (nothing changed) or failed (the subject rests again).
#[expect(clippy::missing_errors_doc, reason = "the errors are documented once, above")]
impl Mvm {
    /// Does what is asked.
    pub fn operate(&self, cx: &Context, operation: &Operation) -> Result<Outcome, Error> {
        if starts_guests(operation) && !self.is_guarded {
            kvm::require(&self.roots)?;
        }
        self.engine.operate(cx, operation)
    }

    /// Stops every microVM that has a process, and goes on where one cannot be stopped.
    pub fn rest(&self, cx: &Context) -> Result<(), Error> {
        let mut last = Ok(());
        for instance in self.instance_list(&Filter::All)? {
            let has_process = matches!(instance.record.state, State::Running | State::Warm);
            if has_process {
                let stopped =
                    self.instance_move(cx, &instance.record.instance, Move::Stop, Drain::Skip);
                last = stopped.map(drop).and(last);
            }
        }
        last
    }

    /// What [`Mvm::operate`] would do, found out without a change (`--dry-run`).
    pub fn plan(&self, cx: &Context, operation: &Operation) -> Result<Preview, Error> {
        self.engine.plan_only(cx, operation)
    }

    /// Makes a tenant with its network; absent values are allocated.
    pub fn tenant_create(
        &self,
        cx: &Context,
        tenant: &TenantId,
        network: (Option<NetId>, Option<Subnet>),
        quotas: Quotas,
        keyed: bool,
    ) -> Result<Outcome, Error> {
        let (net, subnet) = network;
        let tenant = tenant.clone();
        self.operate(cx, &Operation::TenantCreate { tenant, net, subnet, quotas, keyed })
    }

    /// Changes limits of a tenant; an absent one stays.
    pub fn tenant_update(
        &self,
        cx: &Context,
        tenant: &TenantId,
        quotas: QuotaChange,
    ) -> Result<Outcome, Error> {
        self.operate(cx, &Operation::TenantUpdate { tenant: tenant.clone(), quotas, policy: None })
    }

    /// Gives a tenant other secrets.
    pub fn tenant_secrets_set(
        &self,
        cx: &Context,
        tenant: &TenantId,
        source: SecretsSource,
    ) -> Result<Outcome, Error> {
        self.operate(cx, &Operation::TenantSecretsSet { tenant: tenant.clone(), source })
    }

    /// Reads a tenant's secrets again and seals them under a fresh key; with `live` running guests
    /// get them at once.
    pub fn tenant_secrets_rotate(
        &self,
        cx: &Context,
        tenant: &TenantId,
        source: Option<SecretsSource>,
        live: bool,
    ) -> Result<Outcome, Error> {
        self.operate(cx, &Operation::TenantSecretsRotate { tenant: tenant.clone(), source, live })
    }

    /// Removes a tenant with all it has.
    pub fn tenant_destroy(
        &self,
        cx: &Context,
        tenant: &TenantId,
        force: bool,
        volumes: VolumeFate,
    ) -> Result<Outcome, Error> {
        self.operate(cx, &Operation::TenantDestroy { tenant: tenant.clone(), force, volumes })
    }

    /// Makes a pool.
    pub fn pool_create(&self, cx: &Context, pool: NewPool) -> Result<Outcome, Error> {
        self.operate(cx, &Operation::PoolCreate(Box::new(pool)))
    }

    /// Makes the pool's image and makes it current.
    pub fn pool_build(&self, cx: &Context, pool: &PoolRef) -> Result<Outcome, Error> {
        self.operate(cx, &Operation::build(pool.clone()))
    }

    /// Changes what a pool's next builds and new instances are.
    pub fn pool_update(
        &self,
        cx: &Context,
        pool: &PoolRef,
        change: PoolChange,
    ) -> Result<Outcome, Error> {
        let change = Box::new(change);
        self.operate(cx, &Operation::PoolUpdate { pool: pool.clone(), change })
    }

    /// Makes an earlier build of a pool current.
    pub fn pool_rollback(
        &self,
        cx: &Context,
        pool: &PoolRef,
        revision: RevisionName,
    ) -> Result<Outcome, Error> {
        self.operate(cx, &Operation::PoolRollback { pool: pool.clone(), revision })
    }

    /// Replaces what runs of a pool by its current build.
    pub fn pool_roll(
        &self,
        cx: &Context,
        pool: &PoolRef,
        pace: RollPace,
        on_failure: RollFailure,
    ) -> Result<Outcome, Error> {
        self.operate(cx, &Operation::PoolRoll { pool: pool.clone(), pace, on_failure })
    }

    /// Removes a pool's builds that nothing uses but the `keep` newest.
    pub fn pool_gc(
        &self,
        cx: &Context,
        pool: &PoolRef,
        keep: Option<u32>,
    ) -> Result<Outcome, Error> {
        self.operate(cx, &Operation::PoolGc { pool: pool.clone(), keep })
    }

    /// Removes everything of ours on the node that nothing uses.
    pub fn node_gc(&self, cx: &Context, keep: Option<u32>) -> Result<Outcome, Error> {
        self.operate(cx, &Operation::NodeGc { keep })
    }

    /// Sets the counts (running, warm, sleeping) and converges to them; an absent one stays.
    pub fn pool_scale(
        &self,
        cx: &Context,
        pool: &PoolRef,
        counts: [Option<u32>; 3],
    ) -> Result<Outcome, Error> {
        let [running, warm, sleeping] = counts;
        let pool = pool.clone();
        self.operate(cx, &Operation::PoolScale { pool, running, warm, sleeping, no_wait: false })
    }

    /// Removes a pool with its instances.
    pub fn pool_destroy(
        &self,
        cx: &Context,
        pool: &PoolRef,
        force: bool,
        volumes: VolumeFate,
    ) -> Result<Outcome, Error> {
        self.operate(cx, &Operation::PoolDestroy { pool: pool.clone(), force, volumes })
    }

    /// Gives a tenant another key.
    pub fn tenant_key_rotate(&self, cx: &Context, tenant: &TenantId) -> Result<Outcome, Error> {
        self.operate(cx, &Operation::TenantKeyRotate { tenant: tenant.clone() })
    }

    /// Makes an instance; ports of the host lead to it, and it has a kept volume if one is given.
    pub fn instance_create(
        &self,
        cx: &Context,
        pool: &PoolRef,
        publish: &[Publish],
        volume: Option<VolumeId>,
    ) -> Result<Outcome, Error> {
        let publish = publish.to_vec();
        self.operate(cx, &Operation::InstanceCreate { pool: pool.clone(), publish, volume })
    }

    /// Lets ports of the host lead to an instance.
    pub fn instance_publish(
        &self,
        cx: &Context,
        instance: &InstanceRef,
        publish: &[Publish],
    ) -> Result<Outcome, Error> {
        let (instance, publish) = (instance.clone(), publish.to_vec());
        self.operate(cx, &Operation::InstancePublish { instance, publish })
    }

    /// Ends that.
    pub fn instance_unpublish(
        &self,
        cx: &Context,
        instance: &InstanceRef,
        publish: &[Publish],
    ) -> Result<Outcome, Error> {
        let (instance, publish) = (instance.clone(), publish.to_vec());
        self.operate(cx, &Operation::InstanceUnpublish { instance, publish })
    }

    /// Makes an instance's data volume larger.
    pub fn instance_grow(
        &self,
        cx: &Context,
        instance: &InstanceRef,
        data_disk: Mib,
    ) -> Result<Outcome, Error> {
        self.operate(cx, &Operation::InstanceGrow { instance: instance.clone(), data_disk })
    }

    /// Destroys an instance.
    pub fn instance_destroy(
        &self,
        cx: &Context,
        instance: &InstanceRef,
        volumes: VolumeFate,
    ) -> Result<Outcome, Error> {
        self.operate(cx, &Operation::InstanceDestroy { instance: instance.clone(), volumes })
    }

    /// Removes a kept volume.
    pub fn volume_remove(
        &self,
        cx: &Context,
        volume: &VolumeId,
        wipe: bool,
    ) -> Result<Outcome, Error> {
        self.operate(cx, &Operation::VolumeRemove { volume: volume.clone(), wipe })
    }

    /// Brings this node to a desired state.
    pub fn agent_reconcile(&self, cx: &Context, desired: DesiredState) -> Result<Outcome, Error> {
        self.operate(cx, &Operation::AgentReconcile { desired: Box::new(desired) })
    }

    /// Waits, unless it is cancelled.
    pub fn pause(&self, cx: &Context, span: Duration) -> Result<(), Error> {
        self.engine.pause(cx, span)
    }

    /// Moves an instance: start, stop, warm, sleep, wake, destroy.
    pub fn instance_move(
        &self,
        cx: &Context,
        instance: &InstanceRef,
        wish: Move,
        drain: Drain,
    ) -> Result<Outcome, Error> {
        self.operate(cx, &Operation::InstanceMove { instance: instance.clone(), wish, drain })
    }
}

/// Questions.
///
/// # Errors
/// `NotFound` for what does not exist; otherwise why the truth cannot be read.
#[expect(clippy::missing_errors_doc, reason = "the errors are documented once, above")]
impl Mvm {
    /// All tenants.
    pub fn tenant_list(&self) -> Result<Vec<TenantView>, Error> {
        self.engine.tenants()
    }

    /// One tenant.
    pub fn tenant_info(&self, tenant: &TenantId) -> Result<TenantView, Error> {
        self.engine.tenant(tenant)
    }

    /// A tenant's secrets: keys, epoch, source and time, no value.
    pub fn tenant_secrets_list(&self, tenant: &TenantId) -> Result<SecretsView, Error> {
        self.engine.secrets(tenant)
    }

    /// A tenant's pools.
    pub fn pool_list(&self, tenant: &TenantId) -> Result<Vec<PoolView>, Error> {
        self.engine.pools(Some(tenant))
    }

    /// One pool.
    pub fn pool_info(&self, pool: &PoolRef) -> Result<PoolView, Error> {
        self.engine.pool(pool)
    }

    /// Instances in their true state.
    pub fn instance_list(&self, filter: &Filter) -> Result<Vec<InstanceView>, Error> {
        self.engine.instances(filter)
    }

    /// One instance in its true state.
    pub fn instance_info(&self, instance: &InstanceRef) -> Result<InstanceView, Error> {
        self.engine.one(instance)
    }

    /// What an instance does and takes.
    pub fn instance_stats(&self, instance: &InstanceRef) -> Result<InstanceStats, Error> {
        self.engine.stats(instance)
    }

    /// Attaches to an instance's serial console.
    pub fn instance_console(&self, cx: &Context, instance: &InstanceRef) -> Result<Console, Error> {
        self.engine.console(cx, instance)
    }

    /// The logs of an instance, the last `lines` of each.
    pub fn instance_logs(&self, instance: &InstanceRef, lines: usize) -> Result<Logs, Error> {
        self.engine.logs(instance, lines)
    }

    /// Each line that is added to these logs from now on, until `cx` is cancelled or `sink` has enough.
    pub fn instance_logs_follow(
        &self,
        cx: &Context,
        instance: &InstanceRef,
        sources: &[LogSource],
        sink: &mut dyn FnMut(LogSource, &str) -> Follow,
    ) -> Result<(), Error> {
        self.engine.follow_logs(cx, instance, sources, sink)
    }

    /// Runs a command in an instance.
    pub fn instance_exec(
        &self,
        cx: &Context,
        instance: &InstanceRef,
        request: &ExecRequest,
        streams: ExecStreams,
    ) -> Result<ExecStatus, Error> {
        self.engine.exec(cx, instance, request, streams)
    }

    /// Events of a tenant, oldest first; of the destroyed tenants of this name if `archived`.
    pub fn events(
        &self,
        tenant: &TenantId,
        filter: &EventFilter,
        archived: bool,
    ) -> Result<Vec<LoggedEvent>, Error> {
        if archived {
            self.engine.archived_events(tenant, filter)
        } else {
            self.engine.history(tenant, filter)
        }
    }

    /// Events of a tenant and then new ones as they come, until `cx` is cancelled, `sink` has enough,
    /// or the tenant is gone.
    pub fn events_follow(
        &self,
        cx: &Context,
        tenant: &TenantId,
        filter: &EventFilter,
        sink: &mut dyn FnMut(&LoggedEvent) -> Follow,
    ) -> Result<(), Error> {
        self.engine.follow(cx, tenant, filter, sink)
    }

    /// Whether audit logs are whole: of one tenant or all, living or `archived`.
    pub fn events_verify(
        &self,
        tenant: Option<&TenantId>,
        archived: bool,
    ) -> Result<Vec<AuditReport>, Error> {
        self.engine.audit(tenant, archived)
    }

    /// What this node is, has and holds.
    pub fn node_info(&self) -> Result<NodeView, Error> {
        self.engine.node()
    }

    /// What all instances hold and take, in all and by tenant.
    pub fn node_stats(&self) -> Result<NodeStats, Error> {
        self.engine.node_stats()
    }

    /// The kept volumes.
    pub fn volume_list(&self) -> Result<Vec<Volume>, Error> {
        self.engine.volumes()
    }

    /// One kept volume.
    pub fn volume_info(&self, volume: &VolumeId) -> Result<Volume, Error> {
        self.engine.volume(volume)
    }

    /// The room on the disk, and what takes it.
    pub fn node_disk(&self) -> Result<DiskView, Error> {
        self.engine.disk()
    }

    /// What the network of one tenant or of all is, and what is wrong with it.
    pub fn net_verify(&self, tenant: Option<&TenantId>, depth: Depth) -> Result<NetReport, Error> {
        self.engine.net_verify(tenant, depth)
    }

    /// The desired state of all tenants of this node, or of one.
    pub fn agent_desired(&self, tenant: Option<&TenantId>) -> Result<DesiredState, Error> {
        self.engine.desired(tenant)
    }

    /// Reads and checks a desired state of this node, or in development of any.
    pub fn desired_check(&self, document: &[u8]) -> Result<DesiredState, Error> {
        let node_id = self.engine.desired(None)?.node_id;
        let addressee = Addressee::Node { id: &node_id, production: self.production };
        desired::parse(document, addressee)
    }
}
