//! A tenant's secrets: given anew, rotated, and brought to running guests at once.
//!
//! ```text
//! seal, staged beside those in force ─▶ record the next epoch ─▶ publish
//!                                        live: every running guest, under its own lock
//! ```
//! A crash before the record leaves what was in force; after it the staged file is found by whoever
//! needs the recorded epoch. No value passes here: the vault reads and seals, the host makes drives.

use mvm_core::{
    effect::Effect,
    error::{Error, ErrorKind},
    event::EventKind,
    id::{InstanceRef, Subject, TenantId},
    instance::{Instance, Want},
    plan,
    port::{SecretsToSeal, Transaction},
    secrets::{SecretsSource, TenantSecrets},
    state::State,
    tenant::Tenant,
    units::Generation,
};

use super::{instance::Granted, refuse_destroying};
use crate::{
    converge::{FirewallAfter, Rest},
    engine::{Context, Engine, Telling},
    outcome::{Change, Deferral, Failed, Made, Outcome},
    preview::Preview,
    run,
    store::records,
};

impl Engine {
    pub(crate) fn secrets_set(
        &self,
        cx: &Context,
        id: &TenantId,
        source: &SecretsSource,
    ) -> Result<Outcome, Error> {
        let made = self.secrets_replace(cx, id, Some(source), EventKind::SecretsSet)?;
        Ok(Outcome { made: Some(made), ..Outcome::default() })
    }

    pub(crate) fn secrets_rotate(
        &self,
        cx: &Context,
        id: &TenantId,
        source: Option<&SecretsSource>,
        live: bool,
    ) -> Result<Outcome, Error> {
        let made = self.secrets_replace(cx, id, source, EventKind::SecretsRotated)?;
        let mut outcome = Outcome { made: Some(made), ..Outcome::default() };
        if live {
            self.secrets_deliver(cx, id, &mut outcome)?;
        }
        Ok(outcome)
    }

    /// Whether a source is not the remembered one, or has something else than what is in force.
    ///
    /// # Errors
    /// `NotFound` of the tenant; what is wrong with the source.
    pub fn secrets_differ(&self, id: &TenantId, source: &SecretsSource) -> Result<bool, Error> {
        let tenant = self.within(|tx| self.secrets_admit(tx, id))?;
        let Some(there) = tenant.secrets.filter(|there| there.source == *source) else {
            return Ok(true);
        };
        let (epoch, keyed) = (there.epoch, tenant.keyed);
        self.ports.vault.differs(&SecretsToSeal { tenant: id, epoch, keyed, source })
    }

    fn secrets_replace(
        &self,
        cx: &Context,
        id: &TenantId,
        source: Option<&SecretsSource>,
        kind: EventKind,
    ) -> Result<Made, Error> {
        self.within(|tx| self.secrets_admit(tx, id))?;
        let lock = self.lock(&Subject::Tenant(id.clone()))?;
        let tenant = match self.within(|tx| self.secrets_admit(tx, id)) {
            Err(error) if error.kind == ErrorKind::NotFound => {
                lock.retire();
                return Err(error);
            }
            admitted => admitted?,
        };
        let source = source_of(&tenant, source)?;
        cx.cancel.check()?;
        if tenant.keyed && !self.ports.host.observe_tenant(&tenant.network)?.key {
            self.execute(&Effect::EnsureTenantKey(id.clone()))?;
        }
        let epoch = tenant.secrets_epoch().next();
        let ask = SecretsToSeal { tenant: id, epoch, keyed: tenant.keyed, source: &source };
        let count = self.ports.vault.seal(&ask)?;
        let updated_at = self.ports.clock.now();
        let secrets = TenantSecrets { epoch, count, source, updated_at };
        self.within(|tx| self.secrets_record(tx, cx, id, &secrets, kind))?;
        self.execute(&Effect::PublishSecrets { tenant: id.clone(), epoch })?;
        Ok(Made::Secrets { tenant: id.clone(), secrets })
    }

    /// The tenant, if it may have secrets.
    fn secrets_admit(&self, tx: &mut dyn Transaction, id: &TenantId) -> Result<Tenant, Error> {
        let tenant = records::tenant(tx, id)?;
        refuse_destroying("tenant", id, tenant.destroying)?;
        if self.config.production && !tenant.keyed {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "tenant {id} has no key, and in production secrets are never kept in the clear"
                ),
            )
            .hint("make a tenant with a key: mvm tenant create, without --no-key"));
        }
        Ok(tenant)
    }

    fn secrets_record(
        &self,
        tx: &mut dyn Transaction,
        cx: &Context,
        id: &TenantId,
        secrets: &TenantSecrets,
        kind: EventKind,
    ) -> Result<(), Error> {
        let mut tenant = self.secrets_admit(tx, id)?;
        if tenant.secrets_epoch().next() != secrets.epoch {
            let message = format!("the secrets of tenant {id} were changed meanwhile");
            return Err(Error::new(ErrorKind::Conflict, message).hint("try again"));
        }
        tenant.secrets = Some(secrets.clone());
        records::put(tx, &mut tenant)?;
        let event = self.event(&cx.actor, id, kind);
        tx.append(&event.with("epoch", secrets.epoch.0).with("count", secrets.count))
    }

    /// Brings the recorded secrets to every guest that runs, and says what becomes of the others.
    fn secrets_deliver(
        &self,
        cx: &Context,
        id: &TenantId,
        outcome: &mut Outcome,
    ) -> Result<(), Error> {
        let all = self.within(|tx| records::list::<Instance>(tx, id.as_str()))?;
        let results = run::each(self.config.parallel, &all, |record| {
            cx.cancel.check()?;
            self.deliver_to(cx, &record.instance)
        });
        for (record, result) in all.into_iter().zip(results) {
            let instance = record.instance;
            match result {
                Ok(Granted::Changed(change)) => outcome.changes.push(change),
                Ok(Granted::Deferred(reason)) => {
                    outcome.deferrals.push(Deferral { instance, reason });
                }
                Err(error) if error.kind == ErrorKind::NotFound => {}
                Err(error) => {
                    outcome.failures.push(Failed { subject: instance.to_string(), error });
                }
            }
        }
        Ok(())
    }

    fn deliver_to(&self, cx: &Context, id: &InstanceRef) -> Result<Granted, Error> {
        let start = self.ports.clock.elapsed();
        self.within(|tx| records::instance(tx, id))?;
        let lock = self.lock(&Subject::Instance(id.clone()))?;
        let (record, seen) = match self.truth(id) {
            Err(error) if error.kind == ErrorKind::NotFound => {
                lock.retire();
                return Err(error);
            }
            truth => truth?,
        };
        if record.state != State::Running || record.want != Want::Running {
            return Ok(Granted::Deferred(later(&record)));
        }
        let granted = self.within(|tx| grant(tx, &record))?;
        let rest = self.converge(cx, record, granted, Some(seen), FirewallAfter::Each)?;
        match rest {
            Rest::There(record, events) => Ok(Granted::Changed(Change {
                instance: id.clone(),
                from: Some(State::Running),
                to: record.state,
                events,
                duration_ms: self.milliseconds_since(start),
            })),
            Rest::Gone(_) => Err(Error::new(ErrorKind::NotFound, format!("{id} is gone"))),
        }
    }

    /// What a replacement would do.
    pub(crate) fn preview_secrets(
        &self,
        cx: &Context,
        id: &TenantId,
        source: Option<&SecretsSource>,
        live: bool,
    ) -> Result<Preview, Error> {
        let tenant = self.within(|tx| self.secrets_admit(tx, id))?;
        let source = source_of(&tenant, source)?;
        let count = self.ports.vault.check(&source)?;
        let epoch = tenant.secrets_epoch().next();
        let updated_at = self.ports.clock.now();
        let secrets = TenantSecrets { epoch, count, source, updated_at };
        records::rehearse(&*self.ports.store, |tx| {
            self.secrets_record(tx, cx, id, &secrets, EventKind::SecretsSet)
        })?;
        let mut steps = vec![plan::Step::Do(Effect::PublishSecrets { tenant: id.clone(), epoch })];
        let all = self.within(|tx| records::list::<Instance>(tx, id.as_str()))?;
        let runs = |one: &Instance| one.state == State::Running && one.want == Want::Running;
        for mut record in all.into_iter().filter(|one| live && runs(one)) {
            let seen = self.ports.host.observe_instance(&record)?;
            record.secrets.epoch = epoch;
            steps.extend(plan::instance::plan(&record, &seen, Generation(0)));
        }
        let made = Some(Made::Secrets { tenant: id.clone(), secrets });
        Ok(Preview { made, steps, ..Preview::default() })
    }
}

/// The record with the newest secrets of its tenant granted to it.
pub(crate) fn grant(tx: &mut dyn Transaction, record: &Instance) -> Result<Instance, Error> {
    let epoch = records::tenant(tx, &record.instance.tenant)?.secrets_epoch();
    let mut record = record.clone();
    if record.secrets.epoch != epoch {
        record.secrets.epoch = epoch;
        records::put(tx, &mut record)?;
    }
    Ok(record)
}

/// Whether an instance on its way to `want` gets the newest secrets: one whose guest is started or
/// woken does. A running one gets them when that is asked for.
pub(crate) const fn takes_newest(state: State, want: Want) -> bool {
    match (state, want) {
        (_, Want::Idle | Want::Stopped | Want::Destroyed)
        | (State::Running | State::Destroyed, _)
        | (State::Warm, Want::Warm | Want::Sleeping) => false,
        (State::Created | State::Ready | State::Stopped | State::Sleeping, _)
        | (State::Warm, Want::Running) => true,
    }
}

fn source_of(tenant: &Tenant, given: Option<&SecretsSource>) -> Result<SecretsSource, Error> {
    if let Some(given) = given {
        return Ok(given.clone());
    }
    let id = &tenant.tenant_id;
    let (why, hint) = match &tenant.secrets {
        Some(secrets) if secrets.source.is_lasting() => return Ok(secrets.source.clone()),
        Some(secrets) => (
            format!("they came from {}, which cannot be read again", secrets.source),
            format!("name a file: mvm tenant secrets rotate {id} --from-file FILE"),
        ),
        None => (
            "none were ever set".to_owned(),
            format!("set them first: mvm tenant secrets set {id} --from-file FILE"),
        ),
    };
    let message = format!("the secrets of tenant {id} cannot be rotated: {why}");
    Err(Error::new(ErrorKind::Invalid, message).hint(hint))
}

fn later(record: &Instance) -> String {
    let moment = match record.state {
        State::Warm | State::Sleeping | State::Running => "wake",
        State::Created | State::Ready | State::Stopped | State::Destroyed => "start",
    };
    if record.in_flight() {
        return format!(
            "it is {} on its way elsewhere; it gets them at its next {moment}",
            record.state
        );
    }
    format!("it is {}; it gets them at its next {moment}", record.state)
}
