//! VMMs of the small world: phases and origins.

use mvm_core::{
    effect::{BaseAct, Effect},
    error::Error,
    observed::{ObservedVmm, Origin, PausedFor, Phase, SnapshotPhase},
};

use super::{Content, base_of, refuse};

impl Content {
    pub(super) fn vmm(&mut self, effect: &Effect) -> Result<(), Error> {
        let empty =
            ObservedVmm { origin: Origin::Boot, phase: Phase::Empty, pid: 7, resident_kib: 1 };
        let (id, origin, phase) = match effect {
            Effect::SpawnVmm { instance, .. } => {
                if !self.jails.contains(&instance.instance) {
                    return refuse("spawned without a jail");
                }
                self.exits.remove(&instance.instance);
                self.vmms.insert(instance.instance.clone(), empty);
                return Ok(());
            }
            Effect::RemoveVmm(id) => {
                self.vmms.remove(id);
                self.exits.remove(id);
                return Ok(());
            }
            Effect::BootVmm(jail) => (&jail.instance.instance, Some(Origin::Boot), Phase::Running),
            Effect::Base { act: BaseAct::Remove, jail } => {
                self.bases.remove(&base_of(jail));
                return Ok(());
            }
            Effect::Base { act: BaseAct::Take, jail } => {
                let id = &jail.instance.instance;
                if !self.vmms.get(id).is_some_and(|vmm| matches!(vmm.phase, Phase::Paused(_))) {
                    return refuse("took a base of a guest that is not paused");
                }
                let origin = self.bases.insert(base_of(jail)).then_some(Origin::Base);
                (id, origin, Phase::Paused(PausedFor::Warm))
            }
            Effect::Base { act: BaseAct::Load, jail } => {
                if !self.bases.contains(&base_of(jail)) {
                    return refuse("loaded a base that is not there");
                }
                (&jail.instance.instance, Some(Origin::Base), Phase::Running)
            }
            Effect::LoadSnapshot { instance, epoch } => {
                let all = self.snapshots.get(&instance.instance);
                if all.and_then(|s| s.get(epoch)) != Some(&SnapshotPhase::Published) {
                    return refuse("loaded a snapshot that is not published");
                }
                let origin = Some(Origin::Snapshot(*epoch));
                (&instance.instance, origin, Phase::Paused(PausedFor::Warm))
            }
            Effect::PauseVmm { instance, purpose } => (instance, None, Phase::Paused(*purpose)),
            Effect::ResumeVmm(id) => (id, None, Phase::Running),
            _ => return refuse(effect.name()),
        };
        let Some(vmm) = self.vmms.get_mut(id) else { return refuse("there is no VMM") };
        vmm.origin = origin.unwrap_or(vmm.origin);
        vmm.phase = phase;
        Ok(())
    }
}
