//! One method per operation, named like its command.

use mvm_core::{
    desired::{self, Addressee, DesiredState},
    error::Error,
    event::LoggedEvent,
    id::{InstanceRef, PoolRef, TenantId},
    instance::Drain,
    net::{NetId, Subnet},
    operation::{NewPool, Operation},
    pool::{PoolChange, RevisionName},
    port::{ExecRequest, ExecStatus, ExecStreams, Finding, GuestStatus, Logs},
    quota::{QuotaChange, Quotas},
    state::Move,
};
use mvm_engine::{
    Context, Outcome, Preview,
    query::{Filter, InstanceView, NodeView, PoolView, TenantView},
};

use crate::Mvm;

/// Changes. Each is [`Mvm::operate`] with the operation of its name.
///
/// # Errors
/// Each returns why it was refused (nothing changed) or failed (the subject rests again).
#[expect(clippy::missing_errors_doc, reason = "the errors are documented once, above")]
impl Mvm {
    /// Does what is asked.
    pub fn operate(&self, cx: &Context, operation: &Operation) -> Result<Outcome, Error> {
        self.engine.operate(cx, operation)
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
        self.operate(cx, &Operation::TenantUpdate { tenant: tenant.clone(), quotas })
    }

    /// Removes a tenant with all it has.
    pub fn tenant_destroy(
        &self,
        cx: &Context,
        tenant: &TenantId,
        force: bool,
    ) -> Result<Outcome, Error> {
        self.operate(cx, &Operation::TenantDestroy { tenant: tenant.clone(), force })
    }

    /// Makes a pool.
    pub fn pool_create(&self, cx: &Context, pool: NewPool) -> Result<Outcome, Error> {
        self.operate(cx, &Operation::PoolCreate(pool))
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
    ) -> Result<Outcome, Error> {
        self.operate(cx, &Operation::PoolDestroy { pool: pool.clone(), force })
    }

    /// Makes an instance.
    pub fn instance_create(&self, cx: &Context, pool: &PoolRef) -> Result<Outcome, Error> {
        self.operate(cx, &Operation::InstanceCreate { pool: pool.clone() })
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

    /// The logs of an instance, the last `lines` of each.
    pub fn instance_logs(&self, instance: &InstanceRef, lines: usize) -> Result<Logs, Error> {
        self.engine.logs(instance, lines)
    }

    /// What the workload of an instance does, by its hooks `/run/mvm/worker-{ready,idle,busy}`.
    pub fn instance_status(&self, instance: &InstanceRef) -> Result<GuestStatus, Error> {
        self.engine.guest_status(instance)
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

    /// The last `last` events of a tenant, oldest first.
    pub fn events(&self, tenant: &TenantId, last: usize) -> Result<Vec<LoggedEvent>, Error> {
        self.engine.events(tenant, 0, last)
    }

    /// What this node is, has and holds.
    pub fn node_info(&self) -> Result<NodeView, Error> {
        self.engine.node()
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

    /// What is wrong with the network; empty when nothing is.
    pub fn net_verify(&self) -> Result<Vec<Finding>, Error> {
        self.engine.net_verify()
    }
}
