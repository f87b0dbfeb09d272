//! Questions. They change nothing, but for a record that is not true any more: an instance whose
//! VMM is gone is recorded as failed when nobody works on it.

use std::time::Duration;

use mvm_core::{
    disk::{DiskUse, Room},
    effect::Effect,
    error::{Error, ErrorKind},
    event::LoggedEvent,
    id::{InstanceRef, PoolRef, Subject, TemplateId, TemplateRef, TenantId, VolumeId},
    instance::Instance,
    observed::{ObservedInstance, ObservedNode},
    plan,
    pool::Pool,
    port::{ExecRequest, ExecStatus, ExecStreams, Logs, Transaction},
    quota::Usage,
    route::Surroundings,
    secrets::TenantSecrets,
    state::State,
    template::Template,
    tenant::Tenant,
    volume::Volume,
};
use serde::{Deserialize, Serialize};

use crate::{
    engine::{Context, Engine},
    operate::{pool::surroundings, template::users},
    run,
    store::{records, tally},
};

/// Which instances are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// All of the node.
    All,
    /// Those of one tenant.
    Tenant(TenantId),
    /// Those of one pool.
    Pool(PoolRef),
    /// One.
    Instance(InstanceRef),
}

/// An instance as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceView {
    /// Its record; its state is the true one unless something is under way.
    pub record: Instance,
    /// Whether it is on its way to what its record wants.
    pub in_flight: bool,
    /// What the host shows of it.
    pub observed: ObservedInstance,
}

/// A tenant with what it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantView {
    /// Its record.
    pub record: Tenant,
    /// How many pools it has.
    pub pools: usize,
    /// How many instances it has.
    pub instances: usize,
    /// What they cost.
    pub usage: Usage,
}

/// A template with the pools that use it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateView {
    /// Its record.
    pub record: Template,
    /// The pools that are built from it.
    pub used_by: Vec<TemplateUse>,
}

/// A pool that is built from a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateUse {
    /// The pool.
    pub pool: PoolRef,
    /// What its source names.
    pub of: TemplateRef,
}

/// What may be told of a tenant's secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretsView {
    /// Whose they are.
    pub tenant: TenantId,
    /// What the record says; none before the first were set.
    pub record: Option<TenantSecrets>,
    /// Their keys, sorted.
    pub keys: Vec<String>,
    /// Whether the tenant's key seals them.
    pub sealed: bool,
}

/// A pool with what it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolView {
    /// Its record.
    pub record: Pool,
    /// Its instances' last known states.
    pub states: std::collections::BTreeMap<State, usize>,
}

/// The node with what is ours on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// Its id, made on first use.
    pub node_id: String,
    /// Everything of ours on the host.
    pub observed: ObservedNode,
    /// What all recorded instances cost.
    pub usage: Usage,
}

/// The disk of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskView {
    /// How much there is and how much of it may be taken.
    pub room: Room,
    /// What lies there.
    pub used: DiskUse,
}

impl Engine {
    /// All tenants, by id.
    ///
    /// # Errors
    /// Why the store failed.
    pub fn tenants(&self) -> Result<Vec<TenantView>, Error> {
        let all = self.within(|tx| records::list::<Tenant>(tx, ""))?;
        all.into_iter().map(|record| self.tenant_view(record)).collect()
    }

    /// One tenant.
    ///
    /// # Errors
    /// `NotFound`; why the store failed.
    pub fn tenant(&self, id: &TenantId) -> Result<TenantView, Error> {
        let record = self.within(|tx| records::tenant(tx, id))?;
        self.tenant_view(record)
    }

    /// A tenant's secrets: keys, epoch, source and time, no value.
    ///
    /// # Errors
    /// `NotFound`; `Integrity` when they cannot be opened; why the store failed.
    pub fn secrets(&self, id: &TenantId) -> Result<SecretsView, Error> {
        let tenant = self.within(|tx| records::tenant(tx, id))?;
        let keys = match &tenant.secrets {
            Some(secrets) => self.ports.vault.keys(id, secrets.epoch)?,
            None => Vec::new(),
        };
        Ok(SecretsView { tenant: id.clone(), record: tenant.secrets, keys, sealed: tenant.keyed })
    }

    fn tenant_view(&self, record: Tenant) -> Result<TenantView, Error> {
        let id = record.tenant_id.as_str();
        let (pools, instances, usage) = self.within(|tx| {
            let pools = records::pools(tx, id)?.len();
            let instances = records::instances(tx, id)?.len();
            Ok((pools, instances, tally::of_tenant(tx, &record.tenant_id)?))
        })?;
        Ok(TenantView { record, pools, instances, usage })
    }

    /// The pools of one tenant, or all.
    ///
    /// # Errors
    /// `NotFound` of the tenant; why the store failed.
    pub fn pools(&self, tenant: Option<&TenantId>) -> Result<Vec<PoolView>, Error> {
        let pools = self.within(|tx| match tenant {
            Some(id) => {
                records::tenant(tx, id)?;
                records::pools(tx, id.as_str())
            }
            None => records::pools(tx, ""),
        })?;
        pools.into_iter().map(|record| self.pool_view(record)).collect()
    }

    /// One pool.
    ///
    /// # Errors
    /// `NotFound`; why the store failed.
    pub fn pool(&self, id: &PoolRef) -> Result<PoolView, Error> {
        let record = self.within(|tx| records::pool(tx, id))?;
        self.pool_view(record)
    }

    fn pool_view(&self, record: Pool) -> Result<PoolView, Error> {
        let instances =
            self.within(|tx| records::list::<Instance>(tx, &record.pool.to_string()))?;
        let mut states = std::collections::BTreeMap::new();
        for instance in instances {
            *states.entry(instance.state).or_default() += 1;
        }
        Ok(PoolView { record, states })
    }

    /// What a routing table of this pool is checked against, whether the pool is there or not.
    ///
    /// # Errors
    /// `NotFound` of the tenant; why the store failed.
    pub fn surroundings(&self, pool: &PoolRef) -> Result<Surroundings, Error> {
        self.within(|tx| {
            let tenant = records::tenant(tx, &pool.tenant)?;
            let pools = records::pools(tx, pool.tenant.as_str())?;
            Ok(surroundings(&tenant, &pools, &pool.pool))
        })
    }

    /// Instances as they are: each is looked at, with a bound. Builders are named by who asks for their
    /// pool.
    ///
    /// # Errors
    /// `NotFound` of what the filter names; why store or host failed.
    pub fn instances(&self, filter: &Filter) -> Result<Vec<InstanceView>, Error> {
        let all = self.within(|tx| match filter {
            Filter::All => records::instances(tx, ""),
            Filter::Tenant(id) => {
                records::tenant(tx, id)?;
                records::instances(tx, id.as_str())
            }
            Filter::Pool(id) => {
                records::pool(tx, id)?;
                records::list(tx, &id.to_string())
            }
            Filter::Instance(id) => Ok(vec![records::instance(tx, id)?]),
        })?;
        let views = run::each(self.config.parallel, &all, |record| self.view(record));
        views.into_iter().filter_map(Result::transpose).collect()
    }

    /// The instance as it is; none when it is gone meanwhile.
    fn view(&self, record: &Instance) -> Result<Option<InstanceView>, Error> {
        let seen = self.ports.host.observe_instance(record)?;
        let of = |record: Instance, observed, is_unsure: bool| {
            let in_flight = is_unsure || record.in_flight();
            Some(InstanceView { record, in_flight, observed })
        };
        if plan::truth::notice(record, &seen).is_none() {
            return Ok(of(record.clone(), seen, false));
        }
        let subject = Subject::Instance(record.instance.clone());
        let Ok(lock) = self.ports.locks.lock(&subject, Duration::ZERO) else {
            return Ok(of(record.clone(), seen, true));
        };
        match self.truth(&record.instance) {
            Ok((record, seen)) => Ok(of(record, seen, false)),
            Err(error) if error.kind == ErrorKind::NotFound => {
                lock.retire();
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The records of a pool's instances after a look at each.
    pub(crate) fn look(&self, pool: &PoolRef) -> Result<Vec<Instance>, Error> {
        let views = self.instances(&Filter::Pool(pool.clone()))?;
        Ok(views.into_iter().map(|view| view.record).collect())
    }

    /// The last `last` entries of a tenant's audit log after `after_seq`, oldest first.
    ///
    /// # Errors
    /// `NotFound`; why the store failed.
    pub fn events(
        &self,
        tenant: &TenantId,
        after_seq: u64,
        last: usize,
    ) -> Result<Vec<LoggedEvent>, Error> {
        if !tenant.is_built_in() {
            self.within(|tx| records::tenant(tx, tenant))?;
        }
        self.ports.store.events(tenant, after_seq, last)
    }

    /// The node.
    ///
    /// # Errors
    /// Why store or host failed.
    pub fn node(&self) -> Result<NodeView, Error> {
        let observed = self.ports.host.observe_node()?;
        let draw = self.ports.clock.draw();
        let (node_id, usage) = self.within(|tx| {
            let node_id = records::node_id(tx, draw)?;
            Ok((node_id, tally::of_node(tx)?))
        })?;
        Ok(NodeView { node_id, observed, usage })
    }

    /// The kept volumes, by name.
    ///
    /// # Errors
    /// Why the store failed.
    pub fn volumes(&self) -> Result<Vec<Volume>, Error> {
        self.within(|tx| records::list::<Volume>(tx, ""))
    }

    /// One kept volume.
    ///
    /// # Errors
    /// `NotFound`; why the store failed.
    pub fn volume(&self, id: &VolumeId) -> Result<Volume, Error> {
        self.within(|tx| records::volume(tx, id))
    }

    /// The templates, by id.
    ///
    /// # Errors
    /// Why the store failed.
    pub fn templates(&self) -> Result<Vec<TemplateView>, Error> {
        self.within(|tx| {
            let all = records::list::<Template>(tx, "")?;
            all.into_iter().map(|record| template_view(tx, record)).collect()
        })
    }

    /// One template.
    ///
    /// # Errors
    /// `NotFound`; why the store failed.
    pub fn template(&self, id: &TemplateId) -> Result<TemplateView, Error> {
        self.within(|tx| {
            let record = records::template(tx, id)?;
            template_view(tx, record)
        })
    }

    /// The room on the data file system, and what lies there.
    ///
    /// # Errors
    /// Why the host failed.
    pub fn disk(&self) -> Result<DiskView, Error> {
        let host = &self.ports.host;
        Ok(DiskView { room: host.room()?, used: host.disk_use()? })
    }

    /// The last lines of an instance's logs.
    ///
    /// # Errors
    /// `NotFound` when there is no such instance or it never ran.
    pub fn logs(&self, id: &InstanceRef, lines: usize) -> Result<Logs, Error> {
        self.within(|tx| records::instance(tx, id))?;
        self.ports.host.logs(id, lines)
    }

    /// Runs a command in a running guest, to its end.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when it does not run; `Unavailable` when its agent does not answer.
    pub fn exec(
        &self,
        cx: &Context,
        id: &InstanceRef,
        request: &ExecRequest,
        streams: ExecStreams,
    ) -> Result<ExecStatus, Error> {
        self.running(cx, id)?;
        tracing::info!(instance = %id, actor = %cx.actor, program = ?request.argv.first(), "exec");
        self.ports.guest.exec(id, request, streams)
    }

    /// Runs a command in a guest that is there for it alone: when `cx` is cancelled, the guest ends and the
    /// command with it.
    ///
    /// # Errors
    /// As [`Engine::exec`]; that it was cancelled.
    pub fn exec_alone(
        &self,
        cx: &Context,
        id: &InstanceRef,
        request: &ExecRequest,
        streams: ExecStreams,
    ) -> Result<ExecStatus, Error> {
        let end = || self.execute(&Effect::RemoveVmm(id.instance.clone()));
        run::watched(|| cx.cancel.check(), end, || self.exec(cx, id, request, streams))
    }
}

fn template_view(tx: &mut dyn Transaction, record: Template) -> Result<TemplateView, Error> {
    let users = users(tx, &record.template_id)?.into_iter();
    let used_by = users.map(|(pool, of)| TemplateUse { pool, of }).collect();
    Ok(TemplateView { record, used_by })
}

/// Why nothing can be done inside this instance, and what would help.
pub(crate) fn not_running(record: &Instance) -> Error {
    let (id, state) = (&record.instance, record.state);
    let error = Error::new(ErrorKind::Conflict, format!("{id} is {state}, not Running"));
    let error = match &record.last_failure {
        Some(failure) => error.hint(format!("it died: {}", failure.reason)),
        None => error,
    };
    match state {
        State::Warm | State::Sleeping => error.hint(format!("wake it: mvm instance wake {id}")),
        State::Ready | State::Stopped => error.hint(format!("start it: mvm instance start {id}")),
        State::Created => error.hint(format!("build its pool: mvm pool build {}", id.pool_ref())),
        State::Running | State::Destroyed => error,
    }
}
