//! Secrets of the small world: epochs, staged, in force and on drives. It knows no values.

use mvm_core::{
    effect::Effect,
    error::Error,
    id::{InstanceRef, TenantId},
    port::{SecretsToSeal, Vault},
    secrets::SecretsSource,
    units::Generation,
};

use super::{Content, World, refuse};

impl Content {
    pub(super) fn secret(&mut self, effect: &Effect) -> Result<(), Error> {
        match effect {
            Effect::EnsureJail(jail) => {
                self.jails.insert(jail.instance.instance.clone());
                self.drive(&jail.instance, jail.secrets.epoch)
            }
            Effect::SwapSecrets { instance, secrets, .. } => self.drive(instance, secrets.epoch),
            Effect::PublishSecrets { tenant, epoch } => {
                let (staged, there) = self.secrets.entry(tenant.clone()).or_default();
                if *there != Some(*epoch) && !staged.contains(epoch) && epoch.0 > 0 {
                    return refuse("published secrets that are not there");
                }
                *there = (epoch.0 > 0).then_some(*epoch);
                staged.clear();
                Ok(())
            }
            _ => refuse(effect.name()),
        }
    }

    fn drive(&mut self, id: &InstanceRef, wanted: Generation) -> Result<(), Error> {
        let there = self.secrets.get(&id.tenant).cloned().unwrap_or_default();
        let in_force = there.1.filter(|epoch| *epoch >= wanted);
        let staged = there.0.contains(&wanted).then_some(wanted);
        match in_force.or(staged).or((wanted.0 == 0).then_some(wanted)) {
            Some(epoch) => drop(self.drives.insert(id.instance.clone(), epoch)),
            None => return refuse("there are no such secrets"),
        }
        Ok(())
    }
}

impl Vault for World {
    fn check(&self, _: &SecretsSource) -> Result<u32, Error> {
        Ok(2)
    }

    fn seal(&self, ask: &SecretsToSeal<'_>) -> Result<u32, Error> {
        let mut content = self.look();
        content.secrets.entry(ask.tenant.clone()).or_default().0.insert(ask.epoch);
        drop(content);
        self.tick();
        Ok(2)
    }

    fn differs(&self, _: &SecretsToSeal<'_>) -> Result<bool, Error> {
        Ok(false)
    }

    fn keys(&self, _: &TenantId, _: Generation) -> Result<Vec<String>, Error> {
        Ok(vec!["a".to_owned(), "b".to_owned()])
    }
}
