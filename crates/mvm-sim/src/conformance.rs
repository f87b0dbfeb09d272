//! One suite for every implementation of the host port.
//!
//! For every effect: doing it twice is doing it once, the observation shows it, its inverse
//! removes it, and in the wrong order it fails. Then lives of whole instances: boot, pause, write,
//! publish, remove, load, retire, resume; and deaths. [`run`] takes whatever implements the ports;
//! what a test must know besides is [`Rig`]. The suite makes and removes its own tenant
//! `conformance` with network 4001; it replaces the firewall, so it needs a host without tenants.
//!
//! `bench` keeps the fixtures, `parts` tries effects one by one, `volumes` those on disks and keys,
//! `life` in sequences.

mod bench;
mod life;
mod parts;
mod volumes;

use std::collections::BTreeSet;

use mvm_core::{
    Error,
    effect::{BaseAct, Effect},
    id::{ImageHash, InstanceId, InstanceRef},
    port::{Guest, Host},
    units::Generation,
    volume::VolumeEffect,
};

use bench::Bench;

/// What a test needs from a machine besides its ports.
pub trait Rig {
    /// An image that is there and whose guest boots and answers.
    fn image(&self) -> ImageHash;
    /// Makes an image that no guest needs, an older log file of the instance and something that
    /// was fetched, installs [`SPARE`], and names the image.
    ///
    /// # Errors
    /// When that cannot be made.
    fn litter(&self, instance: &InstanceRef) -> Result<ImageHash, Error>;
    /// Kills the VMM process, and returns once the host had time to notice.
    ///
    /// # Errors
    /// When there is none or it does not die.
    fn kill_vmm(&self, instance: &InstanceId) -> Result<(), Error>;
    /// Kills the shim process.
    ///
    /// # Errors
    /// When there is none or it does not die.
    fn kill_shim(&self, instance: &InstanceId) -> Result<(), Error>;
    /// Seals secrets of the instance's tenant, with its key if it has one, staged as this epoch, and
    /// returns what stands for their content.
    ///
    /// # Errors
    /// When they cannot be sealed.
    fn seal(&self, instance: &InstanceRef, epoch: Generation) -> Result<u64, Error>;
    /// What stands for the secrets that the guest sees; 0 for none.
    ///
    /// # Errors
    /// When the guest does not answer.
    fn secrets(&self, instance: &InstanceRef) -> Result<u64, Error>;
    /// Adds one to a counter that the guest holds only in memory, and returns it.
    ///
    /// # Errors
    /// When the guest does not answer.
    fn count(&self, instance: &InstanceRef) -> Result<u64, Error>;
}

/// A version of Firecracker that nothing runs.
pub const SPARE: &str = "0.0.1";

/// An implementation under test.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// The host.
    pub host: &'a dyn Host,
    /// Its guests.
    pub guest: &'a dyn Guest,
    /// The rest.
    pub rig: &'a dyn Rig,
}

type Case = fn(&mut Bench<'_>) -> Result<(), String>;

/// All cases, in the order in which they run.
const CASES: [(&str, Case); 25] = [
    ("a_bridge_is_made_once_seen_and_removed", parts::bridge),
    ("routes_are_made_once_seen_and_removed", parts::routes),
    ("the_firewall_is_replaced_whole_and_never_by_an_older_intent", parts::firewall),
    ("a_tenant_key_is_made_once_and_goes_with_the_tenants_files", parts::tenant),
    ("a_revision_is_linked_made_current_and_goes_with_the_pools_files", parts::pool),
    ("what_nothing_uses_goes_and_what_is_current_stays", parts::litter),
    ("a_volume_is_made_once_and_goes_with_the_instances_files", parts::volume),
    ("an_encrypted_volume_needs_the_tenants_key_and_is_opened_and_closed", volumes::sealed),
    ("a_volume_grows_and_never_shrinks", volumes::grown),
    ("a_kept_volume_leaves_its_instance_and_joins_another", volumes::kept),
    ("a_tap_needs_its_bridge", parts::tap),
    ("a_cgroup_is_made_once_seen_and_removed", parts::cgroup),
    ("a_jail_needs_image_and_volume", parts::jail),
    ("a_vmm_needs_jail_and_cgroup_and_holds_both", parts::spawn),
    ("acts_on_a_vmm_that_is_not_there_fail", parts::no_vmm),
    ("removing_what_is_not_there_succeeds", parts::absent),
    ("secrets_are_published_once_and_never_older_ones", parts::secrets),
    ("a_guest_has_the_secrets_of_its_drive_and_new_ones_when_told", life::secrets),
    ("a_guest_boots_pauses_and_resumes", life::boot),
    ("a_clone_starts_where_its_base_was_taken_and_sleeps_without_it", life::clone),
    ("a_guest_sleeps_and_wakes_with_its_memory", life::sleep_and_wake),
    ("a_snapshot_is_resumable_only_while_published", life::phases),
    ("a_sealed_snapshot_needs_the_tenants_key", life::sealed),
    ("a_new_key_opens_what_the_old_one_sealed", volumes::rekeyed),
    ("a_death_is_seen_and_cleared_away", life::deaths),
];

/// The name of the last case: that the others tried every effect there is.
const COVERAGE: &str = "every_effect_was_tried_twice_and_seen";

/// The names of all cases.
pub fn names() -> impl Iterator<Item = &'static str> {
    CASES.iter().map(|(name, _)| *name).chain([COVERAGE])
}

/// Runs every case, each on a machine cleared of what the others left, and reports each.
pub fn run(under_test: &Subject<'_>, report: &mut dyn FnMut(&str, Result<(), String>)) {
    let mut covered = BTreeSet::new();
    for (name, case) in CASES {
        let mut bench = Bench::new(*under_test);
        let result = bench.scrub().and_then(|()| case(&mut bench));
        let cleared = bench.scrub().and_then(|()| bench.nothing_is_left());
        covered.append(&mut bench.covered);
        report(name, result.and(cleared));
    }
    let forgotten = (0..EFFECTS).filter(|position| !covered.contains(position)).count();
    report(
        COVERAGE,
        if forgotten == 0 { Ok(()) } else { Err(format!("{forgotten} effects were not tried")) },
    );
}

/// How many variants [`Effect`] has.
const EFFECTS: usize = 48;

/// The place of a variant in [`Effect`]; a new one does not compile until it has its own, and
/// [`EFFECTS`] must follow.
const fn position(effect: &Effect) -> usize {
    match effect {
        Effect::EnsureBridge(_) => 0,
        Effect::RemoveBridge(_) => 1,
        Effect::EnsureRoutes(_) => 2,
        Effect::RemoveRoutes(_) => 3,
        Effect::ReplaceFirewall(_) => 4,
        Effect::EnsureTenantKey(_) => 5,
        Effect::RemoveTenantFiles(_) => 6,
        Effect::EnsureRevision { .. } => 7,
        Effect::RemovePoolFiles(_) => 8,
        Effect::Volume(effect) => match effect {
            VolumeEffect::Ensure { .. } => 9,
            VolumeEffect::Open(_) => 28,
            VolumeEffect::Close(_) => 29,
            VolumeEffect::Grow { .. } => 30,
            VolumeEffect::Keep { .. } => 31,
            VolumeEffect::Attach { .. } => 32,
            VolumeEffect::Wipe { .. } => 33,
            VolumeEffect::Remove { .. } => 34,
        },
        Effect::DrawNextKey(_) => 35,
        Effect::RekeyInstance { .. } => 36,
        Effect::PromoteNextKey(_) => 37,
        Effect::RemoveInstanceFiles(_) => 10,
        Effect::EnsureTap { .. } => 11,
        Effect::RemoveTap { .. } => 12,
        Effect::EnsureCgroup { .. } => 13,
        Effect::RemoveCgroup(_) => 14,
        Effect::EnsureJail(_) => 15,
        Effect::RemoveJail(_) => 16,
        Effect::SpawnVmm { .. } => 17,
        Effect::RemoveVmm(_) => 18,
        Effect::BootVmm(_) => 19,
        Effect::LoadSnapshot { .. } => 20,
        Effect::PauseVmm { .. } => 21,
        Effect::ResumeVmm(_) => 22,
        Effect::WriteSnapshot { .. } => 23,
        Effect::PublishSnapshot { .. } => 24,
        Effect::RetireSnapshot { .. } => 25,
        Effect::RemoveSnapshot { .. } => 26,
        Effect::EnsureShim { .. } => 27,
        Effect::RemoveRevision { .. } => 38,
        Effect::RemoveImage(_) => 39,
        Effect::RemoveRotatedLogs(_) => 40,
        Effect::RemoveDownloads => 41,
        Effect::RemoveVersion(_) => 47,
        Effect::PublishSecrets { .. } => 42,
        Effect::SwapSecrets { .. } => 43,
        Effect::Base { act, .. } => match act {
            BaseAct::Take => 44,
            BaseAct::Load => 45,
            BaseAct::Remove => 46,
        },
    }
}
