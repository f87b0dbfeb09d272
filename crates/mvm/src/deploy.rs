//! Deployments: a manifest, and the desired state of its tenant that it amounts to.
//!
//! What a manifest does not say is taken from the tenant as it is; one that is not there yet gets the
//! network that `tenant create` would give it. Nothing is changed here: the operation that comes out is
//! the one that brings a node to any desired state.

use mvm_core::{
    desired::{DesiredNetwork, DesiredState, DesiredTenant, manifest::Manifest},
    error::{Error, ErrorKind},
    id::TenantId,
    operation::Operation,
    quota::Quotas,
    tenant::TenantPolicy,
};
use mvm_engine::{Context, Made, Outcome};

use crate::{Mvm, forward::CallerPath, manifest};

impl Mvm {
    /// Brings one tenant to what a manifest in a file asks for.
    ///
    /// # Errors
    /// As [`Mvm::deployment`] and [`Mvm::operate`].
    pub fn deploy(&self, cx: &Context, file: &CallerPath) -> Result<Outcome, Error> {
        self.operate(cx, &self.deployment(cx, file)?)
    }

    /// The operation that a manifest in a file asks for.
    ///
    /// # Errors
    /// `Invalid` with one cause for each finding; why the store failed.
    pub fn deployment(&self, cx: &Context, file: &CallerPath) -> Result<Operation, Error> {
        let value = manifest::read(file)?;
        let manifest = Manifest::read(&value).map_err(|error| error.context(file.typed()))?;
        let all = self.engine.desired(None)?;
        let there = all.tenants.into_iter().find(|one| one.tenant_id == manifest.tenant);
        let present = match there {
            Some(tenant) => tenant,
            None => self.newcomer(cx, &manifest.tenant)?,
        };
        let tenant = manifest.onto(present).map_err(|error| error.context(file.typed()))?;
        let desired = DesiredState { tenants: vec![tenant], ..DesiredState::of(&all.node_id) };
        Ok(Operation::AgentReconcile { desired: Box::new(desired) })
    }

    /// A tenant without pools, in the network that it would get.
    fn newcomer(&self, cx: &Context, tenant: &TenantId) -> Result<DesiredTenant, Error> {
        let (id, quotas) = (tenant.clone(), Quotas::default());
        let create =
            Operation::TenantCreate { tenant: id, net: None, subnet: None, quotas, keyed: true };
        let Some(Made::Tenant(record)) = self.plan(cx, &create)?.made else {
            let message = format!("cannot find a network for tenant {tenant}");
            return Err(Error::new(ErrorKind::Failed, message));
        };
        Ok(DesiredTenant {
            tenant_id: record.tenant_id,
            network: DesiredNetwork {
                tenant_net_id: record.network.net,
                ipv4_subnet: record.network.subnet,
            },
            quotas,
            pools: Vec::new(),
            secrets_hash: None,
            policy: TenantPolicy::default(),
        })
    }
}
