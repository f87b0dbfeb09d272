//! Another key for a tenant.
//!
//! ```text
//! record: rotating ─▶ next key on disk ─▶ each instance, under its lock: sealed to the next key
//!                     ─▶ next key takes the place ─▶ record: done
//! ```
//! From the moment the next key is on disk it seals whatever is written, and both keys open. So a
//! crash anywhere loses nothing, and the same command goes on.

use mvm_core::{
    effect::Effect,
    error::{Error, ErrorKind},
    event::EventKind,
    id::{InstanceRef, Subject, TenantId},
    instance::Instance,
    port::Transaction,
    tenant::Tenant,
};

use super::refuse_destroying;
use crate::{
    engine::{Context, Engine},
    outcome::{Failed, Made, Outcome},
    run,
    store::records,
};

impl Engine {
    pub(crate) fn tenant_key_rotate(&self, cx: &Context, id: &TenantId) -> Result<Outcome, Error> {
        self.within(|tx| records::tenant(tx, id))?;
        let _lock = self.lock(&Subject::Tenant(id.clone()))?;
        cx.cancel.check()?;
        self.refuse_given_key(id)?;
        self.within(|tx| {
            let mut tenant = may_rotate(tx, id)?;
            if !tenant.rotating {
                tenant.rotating = true;
                records::put(tx, &mut tenant)?;
            }
            Ok(())
        })?;
        self.execute(&Effect::DrawNextKey(id.clone()))?;
        let all = self.within(|tx| records::list::<Instance>(tx, id.as_str()))?;
        let results = run::each(self.config.parallel, &all, |one| self.rekey(cx, &one.instance));
        let mut outcome = Outcome::default();
        for (record, result) in all.iter().zip(results) {
            if let Err(error) = result {
                let error = error.hint(format!(
                    "nothing is lost: both keys are kept until `mvm tenant key rotate {id}` is \
                     repeated"
                ));
                outcome.failures.push(Failed { subject: record.instance.to_string(), error });
            }
        }
        if !outcome.failures.is_empty() {
            return Ok(outcome);
        }
        self.execute(&Effect::PromoteNextKey(id.clone()))?;
        self.within(|tx| {
            let mut tenant = records::tenant(tx, id)?;
            tenant.rotating = false;
            records::put(tx, &mut tenant)?;
            tx.append(&self.event(&cx.actor, id, EventKind::KeyRotated))
        })?;
        outcome.made = Some(Made::Key(id.clone()));
        Ok(outcome)
    }

    /// A key that this host does not keep cannot be replaced by it.
    pub(crate) fn refuse_given_key(&self, id: &TenantId) -> Result<(), Error> {
        let tenant = self.within(|tx| may_rotate(tx, id))?;
        if !self.ports.host.observe_tenant(&tenant.network)?.key_given {
            return Ok(());
        }
        let message = format!("the key of tenant {id} is brought along by each command");
        Err(Error::new(ErrorKind::Conflict, message)
            .hint("put it into its file below the data directory first, and bring none along"))
    }

    fn rekey(&self, cx: &Context, id: &InstanceRef) -> Result<(), Error> {
        cx.cancel.check()?;
        let lock = self.lock(&Subject::Instance(id.clone()))?;
        let found = self.within(|tx| records::find::<Instance>(tx, &id.to_string()))?;
        let Some(record) = found else {
            lock.retire();
            return Ok(());
        };
        cx.tell(id, "rekey_instance", (0, 1));
        self.execute(&rekeying(&record))
    }
}

fn rekeying(record: &Instance) -> Effect {
    Effect::RekeyInstance { instance: record.instance.clone(), volume: record.volume_kind() }
}

fn may_rotate(tx: &mut dyn Transaction, id: &TenantId) -> Result<Tenant, Error> {
    let tenant = records::tenant(tx, id)?;
    refuse_destroying("tenant", id, tenant.destroying)?;
    if !tenant.keyed {
        return Err(Error::new(ErrorKind::Conflict, format!("tenant {id} has no key")));
    }
    Ok(tenant)
}

/// The acts of a rotation, in their order.
pub(crate) fn rotation(tx: &mut dyn Transaction, id: &TenantId) -> Result<Vec<Effect>, Error> {
    may_rotate(tx, id)?;
    let all = records::list::<Instance>(tx, id.as_str())?;
    let mut effects = vec![Effect::DrawNextKey(id.clone())];
    effects.extend(all.iter().map(rekeying));
    effects.push(Effect::PromoteNextKey(id.clone()));
    Ok(effects)
}
