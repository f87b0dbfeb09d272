//! One function per operation, each with its checks before its first effect.

pub(crate) mod accept;
pub(crate) mod builder;
pub(crate) mod change;
mod commands;
pub(crate) mod create;
mod flake;
pub(crate) mod gc;
mod heard;
pub(crate) mod instance;
mod own;
pub(crate) mod pool;
pub(crate) mod publish;
pub(crate) mod reconcile;
pub(crate) mod roll;
pub(crate) mod rotate;
pub(crate) mod scale;
pub(crate) mod secrets;
pub(crate) mod template;
pub(crate) mod tenant;
pub(crate) mod volume;

use mvm_core::{
    error::{Error, ErrorKind},
    id::PoolRef,
    pool::Pool,
    port::Transaction,
    tenant::Tenant,
};

use crate::store::records;

/// The refusal of a tenant or pool that is going.
pub(crate) fn refuse_destroying(
    what: &str,
    id: &dyn std::fmt::Display,
    is: bool,
) -> Result<(), Error> {
    if !is {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Conflict, format!("{what} {id} is being destroyed"))
        .hint(format!("finish it: mvm {what} destroy {id} --force")))
}

/// The tenant and the pool, neither of them going.
pub(crate) fn living(tx: &mut dyn Transaction, id: &PoolRef) -> Result<(Tenant, Pool), Error> {
    let tenant = records::tenant(tx, &id.tenant)?;
    refuse_destroying("tenant", &id.tenant, tenant.destroying)?;
    let pool = records::pool(tx, id)?;
    refuse_destroying("pool", id, pool.destroying)?;
    Ok((tenant, pool))
}
