//! Secrets: sealed, published, put into drives.

use mvm_core::{
    Error,
    effect::DriveSecrets,
    id::{InstanceRef, TenantId},
    observed::Phase,
    port::{SecretsToSeal, Vault},
    secrets::SecretsSource,
    units::Generation,
};

use super::{SimHost, conflict, missing, volumes::locked};
use crate::{
    disk::{Content, Path, Secrets},
    world::World,
};

/// How many secrets every simulated source has.
const COUNT: u32 = 2;

impl World {
    /// Stages fresh secrets of an epoch, durably.
    fn stage_secrets(&mut self, ask: &SecretsToSeal<'_>) -> Result<(), Error> {
        let tenant = ask.tenant;
        let sealed_with = match (ask.keyed, self.ring(tenant).first().copied()) {
            (false, _) => None,
            (true, Some(newest)) => Some(newest),
            (true, None) => {
                return Err(missing(format!("tenant {tenant} has no key to seal with")));
            }
        };
        self.admit_write("secrets")?;
        self.disk.put(Path::Tenant(tenant.clone()), Content::Bare);
        let secrets = Secrets { epoch: ask.epoch, content: self.entropy(), sealed_with };
        let path = Path::StagedSecrets(tenant.clone(), ask.epoch);
        self.disk.put(path.clone(), Content::Secrets(secrets));
        self.disk.sync(&Path::Tenant(tenant.clone()));
        Ok(())
    }

    /// The epochs that are staged.
    pub(super) fn staged_secrets(&self, of: &TenantId) -> Vec<Generation> {
        let mut staged = Vec::new();
        for (path, _) in self.disk.iter() {
            if let Path::StagedSecrets(tenant, epoch) = path
                && tenant == of
            {
                staged.push(*epoch);
            }
        }
        staged
    }

    /// The epoch in force.
    pub(super) fn published_secrets(&self, of: &TenantId) -> Option<Generation> {
        match self.disk.get(&Path::Secrets(of.clone())) {
            Some(Content::Secrets(secrets)) => Some(secrets.epoch),
            _ => None,
        }
    }

    pub(super) fn publish_secrets(
        &mut self,
        tenant: &TenantId,
        epoch: Generation,
    ) -> Result<(), Error> {
        let path = Path::Secrets(tenant.clone());
        let in_force = self.published_secrets(tenant);
        if epoch.0 == 0 {
            self.disk.remove(&path);
        } else if in_force.is_some_and(|there| there > epoch) {
            return Err(conflict(format!("later secrets of {tenant} are in force")));
        } else if in_force != Some(epoch) {
            let staged = self.disk.get(&Path::StagedSecrets(tenant.clone(), epoch)).cloned();
            let staged = staged
                .ok_or_else(|| missing(format!("{tenant} has no secrets of epoch {epoch}")))?;
            self.disk.put(path.clone(), staged);
        }
        for other in self.staged_secrets(tenant) {
            self.disk.remove(&Path::StagedSecrets(tenant.clone(), other));
        }
        self.disk.sync(&Path::Tenant(tenant.clone()));
        Ok(())
    }

    /// Seals all secrets of a tenant to its next key.
    pub(super) fn rekey_secrets(&mut self, tenant: &TenantId, next: u64) -> Result<(), Error> {
        let ring = self.ring(tenant);
        let mut paths: Vec<Path> = self
            .staged_secrets(tenant)
            .into_iter()
            .map(|epoch| Path::StagedSecrets(tenant.clone(), epoch))
            .collect();
        paths.push(Path::Secrets(tenant.clone()));
        for path in paths {
            let Some(Content::Secrets(secrets)) = self.disk.get(&path).cloned() else { continue };
            let Some(key) = secrets.sealed_with else { continue };
            if !ring.contains(&key) {
                return Err(locked(&format!("the secrets of {tenant}")));
            }
            self.admit_write("secrets")?;
            let sealed_with = Some(next);
            self.disk.put(path.clone(), Content::Secrets(Secrets { sealed_with, ..secrets }));
            self.disk.sync(&path);
        }
        Ok(())
    }

    /// What a drive holds that must be of at least this epoch.
    pub(super) fn drive_secrets(
        &self,
        tenant: &TenantId,
        wanted: &DriveSecrets,
    ) -> Result<Secrets, Error> {
        if wanted.epoch.0 == 0 {
            return Ok(Secrets::default());
        }
        let found = self.disk.secrets(tenant, wanted.epoch);
        let secrets = found
            .ok_or_else(|| missing(format!("{tenant} has no secrets of epoch {}", wanted.epoch)))?;
        match secrets.sealed_with {
            Some(key) if !self.ring(tenant).contains(&key) => {
                Err(locked(&format!("the secrets of {tenant}")))
            }
            Some(_) | None => Ok(secrets),
        }
    }

    pub(super) fn swap_secrets(
        &mut self,
        instance: &InstanceRef,
        wanted: &DriveSecrets,
    ) -> Result<(), Error> {
        let id = &instance.instance;
        match self.vmms.get(id).map(|vmm| vmm.phase) {
            None => return Err(missing(format!("{id} has no VMM"))),
            Some(Phase::Empty | Phase::Silent) => {
                return Err(conflict(format!("{id} has no guest")));
            }
            Some(Phase::Running | Phase::Paused(_)) => {}
        }
        let secrets = self.drive_secrets(&instance.tenant, wanted)?;
        match self.mounts.get_mut(id) {
            Some(mount) if mount.secrets.epoch < wanted.epoch => mount.secrets = secrets,
            Some(_) => {}
            None => return Err(missing(format!("{id} has no jail"))),
        }
        Ok(())
    }

    /// A guest reads its drive, because it was told that this epoch is on it.
    pub(crate) fn read_secrets(&mut self, instance: &InstanceRef, epoch: Generation) {
        let id = &instance.instance;
        let Some(drive) = self.mounts.get(id).map(|mount| mount.secrets) else { return };
        if drive.epoch < epoch {
            self.violations.push(format!(
                "{id} was told of secrets {epoch} and its drive holds {}",
                drive.epoch
            ));
        }
        if let Some(guest) = self.vmms.get_mut(id).and_then(|vmm| vmm.guest.as_mut()) {
            guest.secrets = drive;
        }
    }
}

impl Vault for SimHost {
    fn check(&self, _: &SecretsSource) -> Result<u32, Error> {
        Ok(COUNT)
    }

    fn seal(&self, ask: &SecretsToSeal<'_>) -> Result<u32, Error> {
        self.machine.world().stage_secrets(ask)?;
        Ok(COUNT)
    }

    fn differs(&self, ask: &SecretsToSeal<'_>) -> Result<bool, Error> {
        Ok(self.machine.world().disk.secrets(ask.tenant, ask.epoch).is_none())
    }

    fn keys(&self, tenant: &TenantId, epoch: Generation) -> Result<Vec<String>, Error> {
        let found = self.machine.world().disk.secrets(tenant, epoch);
        found.ok_or_else(|| missing(format!("{tenant} has no secrets of epoch {epoch}")))?;
        Ok(vec!["one".to_owned(), "two".to_owned()])
    }
}
