//! Admission: a wish is recorded only when the tenant's quota and the node's memory allow it.
//!
//! The check and the record share one transaction, so that two wishes never share one place.

use std::collections::BTreeMap;

use mvm_core::{
    error::Error,
    event::EventKind,
    id::InstanceRef,
    instance::{Instance, Want},
    pool::Resources,
    port::{Table, Transaction},
    quota::{Capacity, Usage},
    state::State,
    tenant::Tenant,
};
use serde::Deserialize;

use crate::{
    engine::{Context, Engine, Telling},
    store::records,
};

/// What admission needs of an instance's record.
#[derive(Deserialize)]
struct Footprint {
    resources: Resources,
    state: State,
    want: Want,
}

/// Checks that `record` may want `want`, given everything else that is recorded.
pub(crate) fn check(
    tx: &mut dyn Transaction,
    tenant: &Tenant,
    record: &Instance,
    want: Want,
    capacity: Option<Capacity>,
) -> Result<(), Error> {
    let id = tenant.tenant_id.as_str();
    let scope = if capacity.is_some() { "" } else { id };
    let key = record.instance.to_string();
    let mut others: BTreeMap<bool, Usage> = BTreeMap::new();
    for (other, held) in records::list_as::<Footprint>(tx, Table::Instances, scope)? {
        if other != key {
            let is_own = other.split('/').next() == Some(id);
            others.entry(is_own).or_default().hold(held.resources, held.state, held.want);
        }
    }
    let own = others.get(&true).copied().unwrap_or_default();
    let (mut before, mut after) = (own, own);
    before.add(record);
    after.hold(record.resources, record.state, want);
    tenant.quotas.admit(&after.growth(before))?;
    if let Some(capacity) = capacity {
        let foreign = others.get(&false).map_or(0, |usage| usage.mem_mib);
        before.mem_mib += foreign;
        after.mem_mib += foreign;
        capacity.admit(&after.growth(before))?;
    }
    Ok(())
}

/// What a tenant's instances cost together.
pub(crate) fn of_tenant(tx: &mut dyn Transaction, tenant: &Tenant) -> Result<Usage, Error> {
    let mut usage = Usage::default();
    for (_, held) in records::list_as::<Footprint>(tx, Table::Instances, tenant.tenant_id.as_str())?
    {
        usage.hold(held.resources, held.state, held.want);
    }
    Ok(usage)
}

impl Engine {
    /// Puts a refusal into the tenant's audit log.
    pub(crate) fn tell_refusal(&self, cx: &Context, instance: &InstanceRef, error: &Error) {
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
