//! Another key for a tenant: what its instances have sealed opens with the next key, and then that
//! takes the place of the present one.
//!
//! Every act may be repeated after a crash anywhere in it. It does not know which instances there
//! are.

use mvm_core::{
    id::{InstanceRef, TenantId},
    volume::VolumeKind,
};

use super::{key, secrets, snapshot, volume};
use crate::roots::Roots;

/// Draws the next key of a tenant, unless there is one.
///
/// # Errors
/// As [`key::ensure`].
pub fn draw(roots: &Roots, tenant: &TenantId) -> Result<(), mvm_core::Error> {
    key::ensure_next(roots, tenant)
}

/// Seals snapshots and volume of an instance to the newest key alone.
///
/// # Errors
/// `Integrity` when no key of the tenant opens one of them.
pub fn instance(
    roots: &Roots,
    instance: &InstanceRef,
    kind: Option<VolumeKind>,
) -> Result<(), mvm_core::Error> {
    let ring = key::ring(roots, &instance.tenant)?;
    snapshot::rekey(roots, instance, &ring)?;
    match kind {
        Some(VolumeKind::Luks) => Ok(volume::rekey(roots, instance, &ring)?),
        Some(VolumeKind::Plain) | None => Ok(()),
    }
}

/// Seals a tenant's secrets to its next key and puts that in the place of the present one, whose bytes
/// are overwritten.
///
/// # Errors
/// `Integrity` when neither key opens the secrets, else when the key cannot be moved; then both stay.
pub fn promote(roots: &Roots, tenant: &TenantId) -> Result<(), mvm_core::Error> {
    if !key::next_exists(roots, tenant)? {
        return Ok(());
    }
    secrets::rekey(roots, tenant, &key::ring(roots, tenant)?)?;
    key::promote_next(roots, tenant)
}
