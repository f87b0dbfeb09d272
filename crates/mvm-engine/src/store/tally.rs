//! What instances cost together: one figure a tenant and one for the node, changed in the same
//! transaction as the record that costs, so that admission reads two rows and not every record.
//!
//! It refuses to know limits. A store of an earlier version has no figures; they are summed up once,
//! before the first change.

use std::collections::BTreeMap;

use mvm_core::{
    error::{Error, ErrorKind},
    id::{InstanceRef, TenantId},
    instance::Instance,
    port::{Table, Transaction},
    quota::Usage,
};

use super::records;

const NODE: &str = "usage";

fn key(tenant: &TenantId) -> String {
    format!("{NODE}/{tenant}")
}

fn read(tx: &mut dyn Transaction, key: &str) -> Result<Option<Usage>, Error> {
    let Some(text) = tx.get(Table::Meta, key)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|e| {
        Error::new(ErrorKind::Integrity, format!("the figure {key} is damaged")).because(&e)
    })
}

fn write(tx: &mut dyn Transaction, key: &str, usage: Usage) -> Result<(), Error> {
    let text = serde_json::to_string(&usage)
        .map_err(|e| Error::new(ErrorKind::Failed, format!("cannot write {key}")).because(&e))?;
    tx.put(Table::Meta, key, &text)
}

/// What all instances of a tenant cost.
///
/// # Errors
/// `Integrity` when a figure is damaged; why the store failed.
pub fn of_tenant(tx: &mut dyn Transaction, tenant: &TenantId) -> Result<Usage, Error> {
    of_node(tx)?;
    Ok(read(tx, &key(tenant))?.unwrap_or_default())
}

/// What all instances of the node cost.
///
/// # Errors
/// As [`of_tenant`].
pub fn of_node(tx: &mut dyn Transaction) -> Result<Usage, Error> {
    match read(tx, NODE)? {
        Some(usage) => Ok(usage),
        None => rebuild(tx),
    }
}

/// A record of the tenant costs `after` instead of `before`; called before it is written.
///
/// # Errors
/// As [`of_tenant`].
pub(super) fn shift(
    tx: &mut dyn Transaction,
    tenant: &TenantId,
    before: Usage,
    after: Usage,
) -> Result<(), Error> {
    let node = of_node(tx)?;
    if before == after {
        return Ok(());
    }
    let own = of_tenant(tx, tenant)?.minus(before).plus(after);
    write(tx, NODE, node.minus(before).plus(after))?;
    if own == Usage::default() {
        return tx.delete(Table::Meta, &key(tenant));
    }
    write(tx, &key(tenant), own)
}

/// Sums up what is recorded.
fn rebuild(tx: &mut dyn Transaction) -> Result<Usage, Error> {
    let mut tenants: BTreeMap<TenantId, Usage> = BTreeMap::new();
    let mut node = Usage::default();
    for instance in records::list::<Instance>(tx, "")? {
        let InstanceRef { tenant, .. } = &instance.instance;
        tenants.entry(tenant.clone()).or_default().add(&instance);
        node.add(&instance);
    }
    for (tenant, usage) in tenants {
        write(tx, &key(&tenant), usage)?;
    }
    write(tx, NODE, node)?;
    Ok(node)
}
