//! The ports of a process: each call passes the gate, then reaches the machine.

use std::{
    io::{Read, Write},
    sync::Arc,
    time::Duration,
};

use mvm_core::{
    Error, ErrorKind,
    audit::{AuditReport, LogEnd},
    disk::{DiskUse, Room},
    effect::{Effect, Firewall},
    event::{Event, LoggedEvent},
    id::{ImageHash, InstanceId, InstanceRef, PoolRef, RequestKey, Subject, TenantId},
    instance::Instance,
    meter::{CopyReport, GuestMetrics, Meter, Pressure},
    net::Network,
    observed::{ObservedInstance, ObservedNode, ObservedPool, ObservedStock, ObservedTenant},
    pool::Role,
    port::{
        BuildOrder, Builder, BuiltRoot, Clock, Console, ExecRequest, ExecStatus, ExecStreams,
        Finding, Flake, FlakeSource, Guest, GuestAct, GuestAnswer, Host, Lock, Locks, Logs,
        PlacedRoot, Prepared, ProbeOutcome, ProbeTarget, Progress, SecretsToSeal, Sources, Store,
        Table, Transaction, Vault, Wanted,
    },
    secrets::SecretsSource,
    units::{Generation, Timestamp},
};

use super::{Call, Process};

/// How much time passes between two looks at a lock that is held.
const LOCK_POLL: Duration = Duration::from_millis(2);

impl Call {
    fn of(name: impl Into<String>, instance: Option<&InstanceId>) -> Self {
        Self { name: name.into(), instance: instance.cloned() }
    }
}

/// The instance whose lock an effect needs.
fn concerned(effect: &Effect) -> Option<&InstanceId> {
    match effect {
        Effect::EnsureCgroup { instance, .. }
        | Effect::PauseVmm { instance, .. }
        | Effect::RemoveCgroup(instance)
        | Effect::RemoveJail(instance)
        | Effect::RemoveVmm(instance)
        | Effect::ResumeVmm(instance) => Some(instance),
        Effect::Volume(effect) => effect.instance(),
        Effect::RekeyInstance { instance, .. }
        | Effect::RemoveInstanceFiles(instance)
        | Effect::SpawnVmm { instance, .. }
        | Effect::SwapSecrets { instance, .. }
        | Effect::EnsureShim { instance, .. }
        | Effect::LoadSnapshot { instance, .. }
        | Effect::WriteSnapshot { instance, .. }
        | Effect::PublishSnapshot { instance, .. }
        | Effect::RetireSnapshot { instance, .. }
        | Effect::RemoveSnapshot { instance, .. } => Some(&instance.instance),
        Effect::EnsureJail(jail) | Effect::BootVmm(jail) | Effect::Base { jail, .. } => {
            Some(&jail.instance.instance)
        }
        Effect::EnsureBridge(_)
        | Effect::RemoveBridge(_)
        | Effect::EnsureRoutes(_)
        | Effect::RemoveRoutes(_)
        | Effect::ReplaceFirewall(_)
        | Effect::EnsureTenantKey(_)
        | Effect::DrawNextKey(_)
        | Effect::PromoteNextKey(_)
        | Effect::PublishSecrets { .. }
        | Effect::RemoveTenantFiles(_)
        | Effect::EnsureRevision { .. }
        | Effect::RemoveRevision { .. }
        | Effect::RemoveImage(_)
        | Effect::RemoveRotatedLogs(_)
        | Effect::RemoveDownloads
        | Effect::RemoveVersion(_)
        | Effect::RemovePoolFiles(_)
        | Effect::EnsureTap { .. }
        | Effect::RemoveTap { .. } => None,
    }
}

impl Process {
    fn check_lock(&self, effect: &Effect) {
        let mut course = self.sim.course();
        let needed = if matches!(effect, Effect::ReplaceFirewall(_)) {
            Some(Subject::Firewall)
        } else {
            concerned(effect).and_then(|id| course.monitor.subject_of(id))
        };
        if let Some(subject) = needed
            && !self.sim.locks.is_held_by(&subject, self.id)
        {
            let what = format!("{} without the lock of {subject}", effect.name());
            course.monitor.violations.push(what);
        }
    }
}

impl Host for Process {
    fn execute(&self, effect: &Effect) -> Result<(), Error> {
        let call = Call::of(format!("execute {}", effect.name()), concerned(effect));
        self.through(&call, || {
            self.check_lock(effect);
            self.host.execute(effect)
        })
    }

    fn observe_instance(&self, instance: &Instance) -> Result<ObservedInstance, Error> {
        let call = Call::of("observe instance", Some(&instance.instance.instance));
        self.through(&call, || self.host.observe_instance(instance))
    }

    fn observe_tenant(&self, network: &Network) -> Result<ObservedTenant, Error> {
        self.through(&Call::of("observe tenant", None), || self.host.observe_tenant(network))
    }

    fn observe_pool(&self, pool: &PoolRef) -> Result<ObservedPool, Error> {
        self.through(&Call::of("observe pool", None), || self.host.observe_pool(pool))
    }

    fn observe_stock(&self) -> Result<ObservedStock, Error> {
        self.through(&Call::of("observe stock", None), || self.host.observe_stock())
    }

    fn weigh(&self, removals: &[Effect]) -> Result<Vec<u64>, Error> {
        self.through(&Call::of("weigh", None), || self.host.weigh(removals))
    }

    fn observe_node(&self) -> Result<ObservedNode, Error> {
        self.through(&Call::of("observe node", None), || self.host.observe_node())
    }

    fn room(&self) -> Result<Room, Error> {
        self.through(&Call::of("room", None), || self.host.room())
    }

    fn disk_use(&self) -> Result<DiskUse, Error> {
        self.through(&Call::of("disk use", None), || self.host.disk_use())
    }

    fn verify_network(&self, intent: &Firewall) -> Result<Vec<Finding>, Error> {
        self.through(&Call::of("verify network", None), || self.host.verify_network(intent))
    }

    fn meter(&self, instance: &Instance) -> Result<Meter, Error> {
        self.through(&Call::of("meter", None), || self.host.meter(instance))
    }

    fn pressure(&self) -> Result<Pressure, Error> {
        self.through(&Call::of("pressure", None), || self.host.pressure())
    }

    fn wanted(&self) -> Result<Vec<Wanted>, Error> {
        self.through(&Call::of("wanted", None), || self.host.wanted())
    }

    fn console(&self, instance: &InstanceRef) -> Result<Console, Error> {
        self.through(&Call::of("console", None), || self.host.console(instance))
    }

    fn logs(&self, instance: &InstanceRef, lines: usize) -> Result<Logs, Error> {
        self.through(&Call::of("logs", None), || self.host.logs(instance, lines))
    }
}

impl Guest for Process {
    fn probe(
        &self,
        instance: &InstanceRef,
        targets: &[ProbeTarget],
        timeout: Duration,
    ) -> Result<Vec<ProbeOutcome>, Error> {
        let call = Call::of("probe", Some(&instance.instance));
        self.through(&call, || self.guest.probe(instance, targets, timeout))
    }

    fn ask(&self, instance: &InstanceRef, act: &GuestAct) -> Result<GuestAnswer, Error> {
        let word = match act {
            GuestAct::Await { .. } => "await",
            GuestAct::Configure { .. } => "configure",
            GuestAct::Drain { .. } => "drain",
            GuestAct::Checkpoint { .. } => "checkpoint",
            GuestAct::Restore { .. } => "restore",
            GuestAct::Routes(_) => "routes",
            GuestAct::Quiesce => "quiesce",
            GuestAct::Wake { .. } => "wake",
            GuestAct::RefreshSecrets { .. } => "refresh_secrets",
            GuestAct::Ready { .. } => "ready",
            GuestAct::Thaw => "thaw",
            GuestAct::Resize => "resize",
            GuestAct::Shutdown { .. } => "shutdown",
        };
        let call = Call::of(format!("ask {word}"), Some(&instance.instance));
        self.through(&call, || self.guest.ask(instance, act))
    }

    fn metrics(&self, instance: &InstanceRef) -> Result<Option<GuestMetrics>, Error> {
        let call = Call::of("metrics", Some(&instance.instance));
        self.through(&call, || self.guest.metrics(instance))
    }

    fn copy_in(
        &self,
        instance: &InstanceRef,
        path: &str,
        stream: &mut dyn Read,
    ) -> Result<CopyReport, Error> {
        let call = Call::of("copy in", Some(&instance.instance));
        self.through(&call, || self.guest.copy_in(instance, path, stream))
    }

    fn copy_out(
        &self,
        instance: &InstanceRef,
        path: &str,
        to: &mut dyn Write,
    ) -> Result<CopyReport, Error> {
        let call = Call::of("copy out", Some(&instance.instance));
        self.through(&call, || self.guest.copy_out(instance, path, to))
    }

    fn exec(
        &self,
        instance: &InstanceRef,
        request: &ExecRequest,
        streams: ExecStreams,
    ) -> Result<ExecStatus, Error> {
        let call = Call::of("exec", Some(&instance.instance));
        self.through(&call, || self.guest.exec(instance, request, streams))
    }
}

/// A transaction that knows whether it changed anything.
struct Watched<'a> {
    inner: &'a mut dyn Transaction,
    is_changed: bool,
}

impl Transaction for Watched<'_> {
    fn get(&mut self, table: Table, key: &str) -> Result<Option<String>, Error> {
        self.inner.get(table, key)
    }
    fn list(&mut self, table: Table, prefix: &str) -> Result<Vec<(String, String)>, Error> {
        self.inner.list(table, prefix)
    }
    fn put(&mut self, table: Table, key: &str, value: &str) -> Result<(), Error> {
        self.is_changed = true;
        self.inner.put(table, key, value)
    }
    fn delete(&mut self, table: Table, key: &str) -> Result<(), Error> {
        self.is_changed = true;
        self.inner.delete(table, key)
    }
    fn claim(&mut self, name: &str, owner: &str) -> Result<(), Error> {
        self.inner.claim(name, owner)
    }
    fn release(&mut self, name: &str, owner: &str) -> Result<(), Error> {
        self.inner.release(name, owner)
    }
    fn claimed(&mut self, prefix: &str) -> Result<Vec<u32>, Error> {
        self.inner.claimed(prefix)
    }
    fn append(&mut self, event: &Event) -> Result<(), Error> {
        self.is_changed = true;
        self.inner.append(event)
    }
}

impl Store for Process {
    fn transact(
        &self,
        work: &mut dyn FnMut(&mut dyn Transaction) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.through(&Call::of("transact", None), || {
            let mut is_changed = false;
            let done = self.sim.store.transact(&mut |inner| {
                let mut watched = Watched { inner, is_changed: false };
                let done = work(&mut watched);
                is_changed = watched.is_changed;
                done
            });
            if is_changed && done.is_ok() {
                self.sim.course().monitor.refresh(&*self.sim.store);
            }
            done
        })
    }

    fn events(
        &self,
        tenant: &TenantId,
        after_seq: u64,
        limit: usize,
    ) -> Result<Vec<LoggedEvent>, Error> {
        let call = Call::of("events", None);
        self.through(&call, || self.sim.store.events(tenant, after_seq, limit))
    }

    fn first_events(
        &self,
        tenant: &TenantId,
        after_seq: u64,
        limit: usize,
    ) -> Result<Vec<LoggedEvent>, Error> {
        let call = Call::of("events", None);
        self.through(&call, || self.sim.store.first_events(tenant, after_seq, limit))
    }

    fn archived_ends(&self) -> Result<Vec<LogEnd>, Error> {
        self.through(&Call::of("audit", None), || self.sim.store.archived_ends())
    }

    fn audit(&self, tenant: &TenantId) -> Result<AuditReport, Error> {
        self.through(&Call::of("audit", None), || self.sim.store.audit(tenant))
    }

    fn audit_archives(&self, tenant: Option<&TenantId>) -> Result<Vec<AuditReport>, Error> {
        self.through(&Call::of("audit", None), || self.sim.store.audit_archives(tenant))
    }

    fn archived_events(&self, tenant: &TenantId) -> Result<Vec<LoggedEvent>, Error> {
        self.through(&Call::of("events", None), || self.sim.store.archived_events(tenant))
    }
}

impl Builder for Process {
    fn ensure_image(&self, _: &BuildOrder, _: &Arc<dyn Progress>) -> Result<Prepared, Error> {
        self.through(&Call::of("ensure image", None), || {
            let image = self.sim.image.clone();
            self.sim.machine.world().images.insert(image.clone());
            Ok(image.into())
        })
    }

    fn find_image(&self, _: &RequestKey) -> Result<Option<ImageHash>, Error> {
        self.through(&Call::of("find image", None), || Ok(None))
    }

    fn place_root(&self, root: &PlacedRoot) -> Result<(), Error> {
        self.through(&Call::of("place root", Some(&root.instance.instance)), || Ok(()))
    }

    fn import_root(&self, root: &BuiltRoot, _: &Arc<dyn Progress>) -> Result<ImageHash, Error> {
        self.through(&Call::of("import root", Some(&root.instance.instance)), || {
            let image = self.sim.image.clone();
            self.sim.machine.world().images.insert(image.clone());
            Ok(image)
        })
    }
}

impl Sources for Process {
    fn flake(&self, reference: &str, _: &str, _: &Role, _: &ImageHash) -> Result<Flake, Error> {
        self.through(&Call::of("read a flake", None), || {
            Ok(Flake { source: FlakeSource::Reference(reference.to_owned()), key: None })
        })
    }

    fn build_log(&self, pool: &PoolRef) -> Result<(Box<dyn Write + Send>, String), Error> {
        Ok((Box::new(std::io::sink()), format!("{pool}/build.log")))
    }
}

impl Vault for Process {
    fn check(&self, source: &SecretsSource) -> Result<u32, Error> {
        self.through(&Call::of("check secrets", None), || self.host.check(source))
    }

    fn seal(&self, ask: &SecretsToSeal<'_>) -> Result<u32, Error> {
        self.through(&Call::of("seal secrets", None), || {
            let subject = Subject::Tenant(ask.tenant.clone());
            if !self.sim.locks.is_held_by(&subject, self.id) {
                let what = format!("secrets are sealed without the lock of {subject}");
                self.sim.course().monitor.violations.push(what);
            }
            self.host.seal(ask)
        })
    }

    fn differs(&self, ask: &SecretsToSeal<'_>) -> Result<bool, Error> {
        self.through(&Call::of("compare secrets", None), || self.host.differs(ask))
    }

    fn keys(&self, tenant: &TenantId, epoch: Generation) -> Result<Vec<String>, Error> {
        self.through(&Call::of("secrets' keys", None), || self.host.keys(tenant, epoch))
    }
}

impl Clock for Process {
    fn now(&self) -> Timestamp {
        self.sim.clock.now()
    }
    fn elapsed(&self) -> Duration {
        self.sim.clock.elapsed()
    }
    fn pause(&self, span: Duration) {
        self.sim.clock.pause(span);
        self.pass();
    }
    fn draw(&self) -> u32 {
        self.sim.clock.draw()
    }
}

/// What a process calls before its next look at a lock.
const WAITING: ErrorKind = ErrorKind::Unavailable;

/// Locks are taken downwards only (see [`Subject`]), else two processes may wait for each other.
fn rank(subject: &Subject) -> u8 {
    match subject {
        Subject::Tenant(_) => 0,
        Subject::Pool(pool) if pool.is_of_builders() => 1,
        Subject::Pool(_) => 2,
        Subject::Instance(_) => 3,
        Subject::Firewall => 4,
    }
}

impl Process {
    fn check_order(&self, subject: &Subject) {
        for held in self.sim.locks.held_by(self.id) {
            if rank(&held) >= rank(subject) {
                let what = format!("waits for {subject} while it holds {held}");
                self.sim.course().monitor.violations.push(what);
            }
        }
    }
}

impl Locks for Process {
    fn lock(&self, subject: &Subject, wait: Duration) -> Result<Box<dyn Lock>, Error> {
        if !wait.is_zero() {
            self.check_order(subject);
        }
        let call = Call::of(format!("lock {subject}"), None);
        let deadline = self.sim.clock.elapsed() + wait;
        let mut taken = self.through(&call, || self.sim.locks.take(self.id, subject));
        while let Err(error) = &taken {
            if error.kind != WAITING || self.is_dead() {
                break;
            }
            if wait.is_zero() {
                break;
            }
            if self.seat.is_none() || self.sim.clock.elapsed() >= deadline {
                let what = format!("waited in vain: {error}");
                self.sim.course().monitor.violations.push(what);
                break;
            }
            self.sim.clock.advance(LOCK_POLL);
            self.pass();
            if self.is_dead() {
                return Err(super::died());
            }
            taken = self.sim.locks.take(self.id, subject);
        }
        taken
    }

    fn place(&self, place: u32) -> Result<Option<Box<dyn Lock>>, Error> {
        if self.is_dead() {
            return Err(super::died());
        }
        Ok(self.sim.locks.take_place(self.id, place))
    }
}

impl Process {
    /// The process as the host port; the other ports likewise.
    #[must_use]
    pub fn shared(&self) -> Arc<Self> {
        Arc::new(self.clone())
    }
}
