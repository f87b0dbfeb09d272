//! The engine: its ports and settings, and the door through which operations come.
//!
//! An `Engine` holds no state of its own but what it read once about the machine; any number of
//! them, in any number of processes, may work over the same store and host.

use std::{
    sync::{Arc, OnceLock},
    thread,
    time::Duration,
};

use mvm_core::{
    effect::Effect,
    error::Error,
    event::{Actor, Event, EventKind},
    id::{InstanceId, OperationId, PoolId, Subject, TenantId},
    operation::Operation,
    plan::policy::PressureLimits,
    pool::Resources,
    port::{
        Builder, Clock, Guest, Host, Lock, Locks, Progress, ProgressStep, Sources, Store,
        Transaction, Vault,
    },
    quota::Capacity,
    units::{Mib, Seconds, Vcpus},
};

use crate::{
    operate::{publish::Publishing, template::TemplateWork},
    outcome::Outcome,
    preview::Preview,
    run::{self, Cancel},
    store::records,
};

pub use crate::operate::accept::Trust;

/// The target of the span that carries an operation's id; a log filter must let it through.
pub const SPAN: &str = "mvm::operation";

/// What the engine works over.
#[derive(Clone)]
pub struct Ports {
    /// The machine.
    pub host: Arc<dyn Host>,
    /// The agents in the guests.
    pub guest: Arc<dyn Guest>,
    /// The records.
    pub store: Arc<dyn Store>,
    /// The images.
    pub builder: Arc<dyn Builder>,
    /// What images are made from, with the rights of this process.
    pub sources: Arc<dyn Sources>,
    /// Time and randomness.
    pub clock: Arc<dyn Clock>,
    /// Tenants' secrets.
    pub vault: Arc<dyn Vault>,
    /// Exclusion between threads and processes.
    pub locks: Arc<dyn Locks>,
}

/// Settings of the engine.
#[derive(Debug, Clone)]
pub struct Config {
    /// How long a subject's lock is waited for.
    pub lock_wait: Duration,
    /// How long policy and counts leave an instance alone after a person's command (SPEC §3).
    pub manual_override: Seconds,
    /// How long a destroyed tenant's net-id stays taken (SPEC §2).
    pub net_id_rest: Seconds,
    /// How many instances are worked on at once; 1 keeps all work on the calling thread.
    pub parallel: usize,
    /// How many guests of the node may be on their way to life at once, by whatever process: each of
    /// them wants a processor, and an agent that waits for one too long is taken for dead.
    pub places: u32,
    /// How long a place is waited for.
    pub place_wait: Duration,
    /// How many of a pool's newest builds garbage collection keeps.
    pub keep_builds: u32,
    /// How much of the disk images that no pool uses and downloads may take; a build removes what is
    /// beyond, the oldest first.
    pub cache_budget: Mib,
    /// The size of the microVMs that build flakes.
    pub builder: Resources,
    /// When the host counts as short of memory.
    pub pressure: PressureLimits,
    /// Whether everything that weakens isolation is refused.
    pub production: bool,
    /// Memory for guests; nine tenths of the node's if absent.
    pub guest_memory: Option<Mib>,
    /// vCPUs of guests together; [`VCPU_OVERCOMMIT`] times the node's processors if absent.
    pub guest_vcpus: Option<u32>,
}

/// How many vCPUs of guests one processor of the node may have, unless configured otherwise.
pub const VCPU_OVERCOMMIT: u32 = 32;

/// A start waits for files and for other programs half of its time, so two keep a processor at work.
const PLACES_PER_PROCESSOR: usize = 2;

fn processors() -> usize {
    thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

impl Default for Config {
    fn default() -> Self {
        Self {
            lock_wait: Duration::from_secs(120),
            manual_override: Seconds(600),
            net_id_rest: Seconds(30 * 24 * 3600),
            parallel: processors().min(4),
            places: u32::try_from(processors() * PLACES_PER_PROCESSOR).unwrap_or(u32::MAX),
            place_wait: Duration::from_secs(600),
            keep_builds: 3,
            cache_budget: Mib(10 << 10),
            builder: Resources::new(Vcpus(2), Mib(2048), Mib(8 << 10)),
            pressure: PressureLimits::default(),
            production: false,
            guest_memory: None,
            guest_vcpus: None,
        }
    }
}

/// Who asks, how they stop it, and where they hear of it.
#[derive(Clone)]
pub struct Context {
    /// Who asks.
    pub actor: Actor,
    /// The id of what is asked, when whoever asks has told it already; else the engine draws one.
    pub operation: Option<OperationId>,
    /// Stops the work between two steps.
    pub cancel: Cancel,
    /// Hears of every step.
    pub progress: Arc<dyn Progress>,
}

impl Context {
    /// A context of `actor` that nobody listens to.
    #[must_use]
    pub fn silent(actor: Actor) -> Self {
        struct Silence;
        impl Progress for Silence {
            fn report(&self, _: &ProgressStep) {}
        }
        Self { actor, operation: None, cancel: Cancel::new(), progress: Arc::new(Silence) }
    }

    pub(crate) fn tell(&self, subject: &dyn std::fmt::Display, activity: &str, at: (usize, usize)) {
        self.progress.report(&ProgressStep {
            subject: subject.to_string(),
            activity: activity.to_owned(),
            done: at.0 as u64,
            total: at.1 as u64,
        });
    }
}

/// Operations and questions over the ports.
pub struct Engine {
    pub(crate) ports: Ports,
    pub(crate) config: Config,
    capacity: Arc<OnceLock<Option<Capacity>>>,
    /// What is being done, in an engine that does one thing.
    operation: Option<OperationId>,
    /// What was asked, in words: the reason of events that have no other.
    asked: String,
}

impl Engine {
    /// An engine over these ports.
    #[must_use]
    pub fn new(ports: Ports, config: Config) -> Self {
        Self { ports, config, capacity: Arc::default(), operation: None, asked: String::new() }
    }

    /// This engine for one operation: its host and guests know the id, and so does every event.
    #[must_use]
    pub fn bound(&self, operation: OperationId) -> Self {
        let mut ports = self.ports.clone();
        if let Some(host) = ports.host.for_operation(&operation) {
            ports.host = host;
        }
        if let Some(guest) = ports.guest.for_operation(&operation) {
            ports.guest = guest;
        }
        let (config, capacity) = (self.config.clone(), Arc::clone(&self.capacity));
        Self { ports, config, capacity, operation: Some(operation), asked: self.asked.clone() }
    }

    /// This engine with another bound of what it does at once.
    pub(crate) fn with_width(&self, parallel: usize) -> Self {
        Self {
            ports: self.ports.clone(),
            config: Config { parallel, ..self.config.clone() },
            capacity: Arc::clone(&self.capacity),
            operation: self.operation.clone(),
            asked: self.asked.clone(),
        }
    }

    /// This engine with a reason for its events.
    pub(crate) fn because(self, reason: String) -> Self {
        Self { asked: reason, ..self }
    }

    /// The id of what is asked with this context.
    pub(crate) fn operation_of(&self, cx: &Context) -> OperationId {
        let drawn = || OperationId::from_random(self.ports.clock.draw());
        cx.operation.clone().unwrap_or_else(drawn)
    }

    /// Does what is asked, to its end.
    ///
    /// Changes of several instances go on when one fails; then [`Outcome::error`] speaks for the
    /// failures. The audit log has every change.
    ///
    /// # Errors
    /// `NotFound`, `Conflict`, `Invalid` and `Refused` before anything is changed; other kinds when
    /// a step failed and the subject was brought back to where it can rest.
    pub fn operate(&self, cx: &Context, operation: &Operation) -> Result<Outcome, Error> {
        let id = self.operation_of(cx);
        // Who brings an id has a span of its own, around more than this.
        let span = match &cx.operation {
            Some(_) => tracing::Span::none(),
            None => tracing::info_span!(target: SPAN, "asked", operation = %id, actor = %cx.actor),
        };
        let _entered = span.enter();
        tracing::debug!(?operation, "begins");
        let start = self.ports.clock.elapsed();
        let bound = Self { asked: words(operation), ..self.bound(id.clone()) };
        let done = bound.dispatch(cx, operation);
        let duration_ms = self.milliseconds_since(start);
        match done {
            Ok(outcome) => {
                let failures = outcome.failures.len();
                tracing::info!(duration_ms, changes = outcome.changes.len(), failures, "done");
                Ok(Outcome { operation: Some(id), duration_ms, ..outcome })
            }
            Err(error) => {
                tracing::info!(duration_ms, kind = ?error.kind, %error, "refused or failed");
                Err(error)
            }
        }
    }

    /// Does what is asked as a part of what this engine is bound to.
    #[expect(clippy::too_many_lines, reason = "one arm for every operation")]
    pub(crate) fn dispatch(&self, cx: &Context, operation: &Operation) -> Result<Outcome, Error> {
        match operation.clone() {
            Operation::TenantCreate { tenant, net, subnet, quotas, keyed } => {
                let ask = crate::operate::tenant::NewTenant { tenant, net, subnet, quotas, keyed };
                self.tenant_create(cx, &ask)
            }
            Operation::TenantUpdate { tenant, quotas, policy } => {
                self.tenant_update(cx, &tenant, &quotas, policy.as_ref())
            }
            Operation::TenantDestroy { tenant, force, volumes } => {
                self.tenant_destroy(cx, &tenant, force, volumes)
            }
            Operation::TenantKeyRotate { tenant } => self.tenant_key_rotate(cx, &tenant),
            Operation::TenantSecretsSet { tenant, source } => {
                self.secrets_set(cx, &tenant, &source)
            }
            Operation::TenantSecretsRotate { tenant, source, live } => {
                self.secrets_rotate(cx, &tenant, source.as_ref(), live)
            }
            Operation::PoolCreate(ask) => self.pool_create(cx, &ask),
            Operation::PoolUpdate { pool, change } => self.pool_update(cx, &pool, &change),
            Operation::PoolBuild { pool, timeout, rebuild } => {
                self.pool_build(cx, &pool, timeout, rebuild)
            }
            Operation::PoolRollback { pool, revision } => self.pool_rollback(cx, &pool, &revision),
            Operation::PoolRoll { pool, pace, on_failure } => {
                self.pool_roll(cx, &pool, pace, on_failure)
            }
            Operation::PoolGc { pool, keep } => self.pool_gc(cx, &pool, keep),
            Operation::NodeGc { keep } => self.node_gc(cx, keep),
            Operation::PoolScale { pool, running, warm, sleeping, no_wait } => {
                let ask = crate::operate::scale::Scale { pool, running, warm, sleeping };
                self.pool_scale(cx, &ask, no_wait)
            }
            Operation::PoolDestroy { pool, force, volumes } => {
                self.pool_destroy(cx, &pool, force, volumes)
            }
            Operation::InstanceCreate { pool, publish, volume } => {
                self.instance_create(cx, &pool, &publish, volume.as_ref())
            }
            Operation::InstancePublish { instance, publish } => {
                self.instance_publish(cx, &instance, &publish, Publishing::Begin)
            }
            Operation::InstanceUnpublish { instance, publish } => {
                self.instance_publish(cx, &instance, &publish, Publishing::End)
            }
            Operation::InstanceGrow { instance, data_disk } => {
                self.instance_grow(cx, &instance, data_disk)
            }
            Operation::InstanceDestroy { instance, volumes } => {
                self.instance_destroy(cx, &instance, volumes)
            }
            Operation::VolumeRemove { volume, wipe } => self.volume_remove(cx, &volume, wipe),
            Operation::TemplateCreate(spec) => self.template_create(cx, &spec),
            Operation::TemplateBuild { template, variant, tenant, timeout, rebuild } => {
                let ask = TemplateWork { template, variant, tenant, timeout, rebuild };
                self.template_build(cx, &ask)
            }
            Operation::TemplatePull(pulled) => self.template_pull(cx, &pulled),
            Operation::TemplateDelete { template } => self.template_delete(cx, &template),
            Operation::AgentReconcile { desired } => self.agent_reconcile(cx, &desired),
            Operation::InstanceMove { instance, wish, drain } => {
                self.instance_move(cx, &instance, wish, drain)
            }
        }
    }

    /// What [`Engine::operate`] would do first, found out by the same checks and without a change.
    ///
    /// # Errors
    /// As [`Engine::operate`] before it changes anything.
    pub fn plan_only(&self, cx: &Context, operation: &Operation) -> Result<Preview, Error> {
        self.preview(cx, operation)
    }

    /// Waits for the next pass of something that goes on and on.
    ///
    /// # Errors
    /// When it is cancelled meanwhile.
    pub fn pause(&self, cx: &Context, span: Duration) -> Result<(), Error> {
        run::pause(&*self.ports.clock, &cx.cancel, span)
    }

    pub(crate) fn within<T>(
        &self,
        work: impl FnMut(&mut dyn Transaction) -> Result<T, Error>,
    ) -> Result<T, Error> {
        records::within(&*self.ports.store, work)
    }

    pub(crate) fn execute(&self, effect: &Effect) -> Result<(), Error> {
        tracing::debug!(effect = effect.name(), "effect");
        run::patiently(&*self.ports.clock, || self.ports.host.execute(effect))
            .map_err(|e| e.context(format!("cannot {}", effect.name().replace('_', " "))))
    }

    pub(crate) fn lock(&self, subject: &Subject) -> Result<Box<dyn Lock>, Error> {
        self.ports.locks.lock(subject, self.config.lock_wait)
    }

    pub(crate) fn milliseconds_since(&self, start: Duration) -> u64 {
        let span = self.ports.clock.elapsed().saturating_sub(start);
        u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
    }

    /// What the node can hold; none when the host does not know its memory. With both figures
    /// configured the node is not looked at: that look grows with its load.
    pub(crate) fn capacity(&self) -> Result<Option<Capacity>, Error> {
        if let (Some(memory), Some(vcpus)) = (self.config.guest_memory, self.config.guest_vcpus) {
            let (mem_mib, vcpus) = (u64::from(memory.0), u64::from(vcpus));
            return Ok(Some(Capacity { mem_mib, vcpus }));
        }
        if let Some(known) = self.capacity.get() {
            return Ok(*known);
        }
        let facts = self.ports.host.observe_node()?.facts;
        let memory = self.config.guest_memory.map(|memory| u64::from(memory.0));
        let mem_mib = memory.unwrap_or(facts.mem_mib - facts.mem_mib / 10);
        let vcpus = self.config.guest_vcpus.unwrap_or(facts.vcpus * VCPU_OVERCOMMIT);
        let capacity = (mem_mib > 0).then_some(Capacity { mem_mib, vcpus: u64::from(vcpus) });
        Ok(*self.capacity.get_or_init(|| capacity))
    }

    pub(crate) fn event(&self, actor: &Actor, tenant: &TenantId, kind: EventKind) -> Event {
        let event = Event {
            time: self.ports.clock.now(),
            tenant: tenant.clone(),
            pool: None,
            instance: None,
            event: kind,
            actor: actor.clone(),
            reason: self.asked.clone(),
            detail: std::collections::BTreeMap::new(),
        };
        self.operation.iter().fold(event, |event, id| event.with("operation", id))
    }
}

/// An operation as people say it: `pool scale`, `instance sleep`.
fn words(operation: &Operation) -> String {
    if let Operation::InstanceMove { wish, .. } = operation {
        return format!("instance {wish}");
    }
    operation.name().replace('_', " ")
}

/// Fills in an event, field by field.
pub(crate) trait Telling: Sized {
    fn of_pool(self, pool: &PoolId) -> Self;
    fn of_instance(self, instance: &InstanceId) -> Self;
    /// An empty reason changes nothing.
    fn because(self, reason: impl Into<String>) -> Self;
    fn with(self, name: &str, value: impl std::fmt::Display) -> Self;
}

impl Telling for Event {
    fn of_pool(mut self, pool: &PoolId) -> Self {
        self.pool = Some(pool.clone());
        self
    }
    fn of_instance(mut self, instance: &InstanceId) -> Self {
        self.instance = Some(instance.clone());
        self
    }
    fn because(mut self, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        if !reason.is_empty() {
            self.reason = reason;
        }
        self
    }
    fn with(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.detail.insert(name.to_owned(), value.to_string());
        self
    }
}
