//! Admission: a wish is recorded only when the tenant's quota, the node's processors and memory, and
//! the disk allow it.
//!
//! Quota and node are checked in the transaction that records the wish, so that two wishes never
//! share one place; the figures are two rows, however many instances there are. The disk is asked
//! before that: what is free there is nobody's record. The host asks again at the act itself.

use mvm_core::{
    error::{Error, ErrorKind},
    event::EventKind,
    id::InstanceRef,
    instance::{Instance, Want},
    observed::ObservedInstance,
    port::Transaction,
    quota::{Capacity, Usage},
    state::State,
    tenant::Tenant,
};

use crate::{
    engine::{Context, Engine, Telling},
    store::{records, tally},
};

/// What a snapshot takes besides the guest's memory at worst, in MiB: device state, and 20 bytes for
/// each chunk of 256 KiB.
const SNAPSHOT_EXTRA_MIB: u64 = 5;
/// What an encrypted volume takes before anything is in it, in MiB.
const VOLUME_EXTRA_MIB: u64 = 4;

/// Checks that a record of the tenant may become one that costs `after`; `stored` is what is
/// recorded now, none for a new one.
pub(crate) fn check(
    tx: &mut dyn Transaction,
    tenant: &Tenant,
    stored: Option<&Instance>,
    after: &Instance,
    capacity: Option<Capacity>,
) -> Result<(), Error> {
    let (old, new) = (Usage::of(stored), Usage::of([after]));
    let own = tally::of_tenant(tx, &tenant.tenant_id)?;
    tenant.quotas.admit(&own.minus(old).plus(new).growth(own))?;
    if let Some(capacity) = capacity {
        let node = tally::of_node(tx)?;
        capacity.admit(&node.minus(old).plus(new).growth(node))?;
    }
    Ok(())
}

impl Engine {
    /// Checks that the disk has room for what a wish may write at worst, before anything is touched.
    pub(crate) fn admit_disk(
        &self,
        record: &Instance,
        seen: Option<&ObservedInstance>,
        want: Want,
    ) -> Result<(), Error> {
        let size = u64::from(record.resources.data_disk_mib.0);
        let is_new = size > 0
            && record.volume.joining.is_none()
            && seen.is_some_and(|seen| seen.volume.is_none());
        let sleeps = want == Want::Sleeping && record.state != State::Sleeping;
        let memory = u64::from(record.resources.mem_mib.0) + SNAPSHOT_EXTRA_MIB;
        match want {
            Want::Idle | Want::Stopped | Want::Destroyed => Ok(()),
            Want::Running | Want::Warm | Want::Sleeping if is_new || sleeps => {
                let volume = if is_new { size + VOLUME_EXTRA_MIB } else { 0 };
                let snapshot = if sleeps { memory } else { 0 };
                let what = match (is_new, sleeps) {
                    (true, true) => "the volume and the snapshot of",
                    (true, false) => "the volume of",
                    (false, _) => "the snapshot of",
                };
                let what = format!("{what} {}", record.instance);
                self.ports.host.room()?.admit(&what, volume + snapshot)
            }
            Want::Running | Want::Warm | Want::Sleeping => Ok(()),
        }
    }

    /// Checks that the disk has room for a volume of this many MiB.
    pub(crate) fn admit_volume(&self, what: &str, mib: u64) -> Result<(), Error> {
        if mib == 0 {
            return Ok(());
        }
        self.ports.host.room()?.admit(what, mib + VOLUME_EXTRA_MIB)
    }

    /// Puts a refusal into the tenant's audit log.
    pub(crate) fn tell_refusal(&self, cx: &Context, instance: &InstanceRef, error: &Error) {
        if error.kind != ErrorKind::Refused {
            return;
        }
        let told = self.within(|tx| {
            if records::find::<Tenant>(tx, instance.tenant.as_str())?.is_none() {
                return Ok(());
            }
            let event = self
                .event(&cx.actor, &instance.tenant, EventKind::QuotaExceeded)
                .of_pool(&instance.pool)
                .of_instance(&instance.instance)
                .because(error.to_string());
            tx.append(&event)
        });
        if let Err(error) = told {
            tracing::warn!(%error, "cannot put a refusal into the audit log");
        }
    }
}
