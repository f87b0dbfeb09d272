//! This host's own tenants: made when something is to be made in them for the first time.
//!
//! They are tenants like all others, but for their networks, which are the same everywhere, and their limits,
//! which are the node's. It refuses to know what they are for.

use mvm_core::{
    error::{Error, ErrorKind},
    id::{PoolRef, TenantId},
    quota::Quotas,
    tenant::Tenant,
    volume::VolumeFate,
};

use super::tenant::NewTenant;
use crate::{
    engine::{Context, Engine},
    store::records,
};

impl Engine {
    /// Makes one of this host's own tenants unless it is there, and ends its removal if that was cut off; of
    /// others nothing is made.
    pub(crate) fn ensure_own(&self, cx: &Context, id: &TenantId) -> Result<(), Error> {
        if !id.is_own() {
            return Ok(());
        }
        match self.within(|tx| records::find::<Tenant>(tx, id.as_str()))? {
            Some(tenant) if tenant.destroying => {
                let outcome = self.tenant_destroy(cx, id, true, VolumeFate::Delete)?;
                outcome.error().map_or(Ok(()), Err)?;
            }
            Some(_) => return Ok(()),
            None => {}
        }
        let (tenant, quotas) = (id.clone(), Quotas::of_own());
        let ask = NewTenant { tenant, net: None, subnet: None, quotas, keyed: true };
        match self.tenant_make(cx, &ask) {
            // Somebody else needed it at the same time.
            Err(error) if error.kind == ErrorKind::Conflict => {
                self.within(|tx| records::tenant(tx, id)).map(drop)
            }
            made => made.map(drop),
        }
    }
}

/// Refuses a pool of `local` but the dev VM's.
pub(super) fn kept_for_the_dev_vm(id: &PoolRef) -> Result<(), Error> {
    if id.tenant != TenantId::local() || *id == PoolRef::of_dev() {
        return Ok(());
    }
    let message = "the tenant local is this host's own, and has the dev VM alone";
    Err(Error::new(ErrorKind::Invalid, message).hint("make a tenant: mvm tenant create NAME"))
}
