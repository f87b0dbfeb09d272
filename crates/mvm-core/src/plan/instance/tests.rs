#![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]

use std::collections::BTreeMap;

use super::*;
use crate::{
    observed::{BootId, Ending, ExitRecord},
    plan::{
        fixture::{instance, seen, vmm},
        truth,
    },
    secrets::Grant,
    units::Mib,
    volume::{VolumeFate, VolumeKind},
};

const FIREWALL: Generation = Generation(5);

fn names(steps: &[Step]) -> Vec<String> {
    steps
        .iter()
        .map(|step| match step {
            Step::Do(effect) => effect.name().to_owned(),
            Step::Ask(act) => serde_json::to_value(act)
                .map(|value| match value.as_str() {
                    Some(name) => name.to_owned(),
                    None => value.as_object().unwrap().keys().next().unwrap().clone(),
                })
                .unwrap(),
            Step::SyncFirewall => "sync_firewall".to_owned(),
            Step::Record(transition) => format!("record {}", transition.state),
            Step::Tell { event, .. } => format!("tell {event}"),
        })
        .collect()
}

fn before(steps: &[String], first: &str, second: &str) {
    let at = |name: &str| steps.iter().position(|step| step == name);
    assert!(at(first).is_some() && at(first) < at(second), "{first} before {second} in {steps:?}");
}

fn wanting(state: State, want: Want) -> Instance {
    Instance { want, ..instance(1, state) }
}

#[test]
fn a_wake_retires_the_snapshot_between_loading_and_resuming() {
    let mut there = seen(None);
    there.snapshots.insert(Generation(7), SnapshotPhase::Published);
    let steps = names(&plan(&wanting(State::Sleeping, Want::Running), &there, FIREWALL));
    before(&steps, "load_snapshot", "retire_snapshot");
    before(&steps, "retire_snapshot", "resume_vmm");
    before(&steps, "resume_vmm", "wake");
    assert_eq!(steps.last().unwrap(), "record Running");
}

#[test]
fn a_vmm_is_told_which_snapshot_it_shall_load_and_a_start_has_none() {
    let mut there = seen(None);
    there.snapshots.insert(Generation(7), SnapshotPhase::Published);
    for (state, told) in [(State::Sleeping, Some(Generation(7))), (State::Stopped, None)] {
        let steps = plan(&wanting(state, Want::Running), &there, FIREWALL);
        let epochs = steps.iter().filter_map(|step| {
            if let Step::Do(Effect::SpawnVmm { epoch, .. }) = step { Some(*epoch) } else { None }
        });
        assert_eq!(epochs.collect::<Vec<_>>(), [told], "{state}");
    }
}

#[test]
fn a_loaded_guest_is_not_resumed_before_its_snapshot_is_retired_after_a_crash_either() {
    let mut there = seen(vmm(Origin::Snapshot(Generation(7)), Phase::Paused(PausedFor::Warm)));
    there.snapshots.insert(Generation(7), SnapshotPhase::Published);
    let steps = names(&plan(&wanting(State::Sleeping, Want::Running), &there, FIREWALL));
    before(&steps, "retire_snapshot", "resume_vmm");
}

#[test]
fn a_vmm_that_does_not_answer_is_ended_when_it_shall_be_and_otherwise_left_alone() {
    let there = seen(vmm(Origin::Boot, Phase::Silent));
    for want in [Want::Running, Want::Warm, Want::Sleeping] {
        let record = wanting(State::Running, want);
        assert!(is_silent(&record, &there), "{want:?}");
        let steps = plan(&record, &there, FIREWALL);
        assert!(!names(&steps).contains(&"remove_vmm".to_owned()), "{want:?}: {steps:?}");
    }
    for want in [Want::Stopped, Want::Destroyed] {
        let record = wanting(State::Running, want);
        assert!(!is_silent(&record, &there), "{want:?}");
        let steps = plan(&record, &there, FIREWALL);
        assert!(names(&steps).contains(&"remove_vmm".to_owned()), "{want:?}: {steps:?}");
        assert!(!steps.iter().any(|step| matches!(step, Step::Ask(_))), "{want:?}: {steps:?}");
    }
}

#[test]
fn a_sleep_publishes_only_what_was_drained_quiesced_paused_and_written() {
    let there = seen(vmm(Origin::Boot, Phase::Running));
    let steps = names(&plan(&wanting(State::Running, Want::Sleeping), &there, FIREWALL));
    for (first, second) in [
        ("drain", "quiesce"),
        ("quiesce", "pause_vmm"),
        ("pause_vmm", "record Warm"),
        ("record Warm", "write_snapshot"),
        ("write_snapshot", "publish_snapshot"),
        ("publish_snapshot", "remove_vmm"),
    ] {
        before(&steps, first, second);
    }
}

#[test]
fn integrations_are_saved_after_the_drain_and_before_anything_freezes_by_force_too() {
    let there = seen(vmm(Origin::Boot, Phase::Running));
    let mut record = wanting(State::Running, Want::Sleeping);
    record.integrations = integrations();
    let steps = names(&plan(&record, &there, FIREWALL));
    before(&steps, "drain", "checkpoint");
    before(&steps, "checkpoint", "quiesce");
    record.drain = Drain::Skip;
    let steps = names(&plan(&record, &there, FIREWALL));
    before(&steps, "checkpoint", "quiesce");
}

#[test]
fn integrations_are_restored_once_the_guest_knows_that_it_woke_from_disk_and_only_then() {
    let mut there = seen(None);
    there.snapshots.insert(Generation(7), SnapshotPhase::Published);
    let mut record = wanting(State::Sleeping, Want::Running);
    record.integrations = integrations();
    let steps = names(&plan(&record, &there, FIREWALL));
    before(&steps, "wake", "restore");
    before(&steps, "restore", "record Running");
    record.state = State::Warm;
    let there = seen(vmm(Origin::Boot, Phase::Paused(PausedFor::Warm)));
    let steps = names(&plan(&record, &there, FIREWALL));
    assert!(!steps.contains(&"restore".to_owned()), "{steps:?}");
}

#[test]
fn a_start_without_a_base_leaves_one_before_the_guest_knows_who_it_is() {
    let steps = names(&plan(&wanting(State::Ready, Want::Running), &seen(None), FIREWALL));
    for (first, second) in [
        ("boot_vmm", "await"),
        ("await", "pause_vmm"),
        ("pause_vmm", "take_base"),
        ("take_base", "resume_vmm"),
        ("resume_vmm", "configure"),
        ("configure", "record Running"),
    ] {
        before(&steps, first, second);
    }
}

#[test]
fn a_start_with_a_base_that_fits_boots_nothing() {
    let mut there = seen(None);
    there.base = ObservedBase::Fits;
    let steps = plan(&wanting(State::Stopped, Want::Running), &there, FIREWALL);
    let told = names(&steps);
    before(&told, "load_base", "configure");
    for no in ["boot_vmm", "resume_vmm"] {
        assert!(!told.contains(&no.to_owned()), "{told:?}");
    }
    assert!(
        matches!(steps.last(), Some(Step::Record(done)) if done.started == Some(Started::Clone)),
        "{steps:?}"
    );
}

#[test]
fn a_base_that_does_not_fit_is_told_and_another_one_taken() {
    let mut there = seen(None);
    there.base = ObservedBase::Unfit("another CPU".to_owned());
    let steps = plan(&wanting(State::Ready, Want::Running), &there, FIREWALL);
    let told = Step::Tell { event: EventKind::BaseRefused, reason: "another CPU".to_owned() };
    assert!(steps.contains(&told), "{steps:?}");
    before(&names(&steps), "tell BaseRefused", "boot_vmm");
    before(&names(&steps), "boot_vmm", "take_base");
}

#[test]
fn a_wake_takes_its_own_snapshot_and_never_the_base() {
    let mut there = seen(None);
    there.base = ObservedBase::Fits;
    there.snapshots.insert(Generation(7), SnapshotPhase::Published);
    let steps = names(&plan(&wanting(State::Sleeping, Want::Running), &there, FIREWALL));
    assert!(!steps.contains(&"load_base".to_owned()), "{steps:?}");
    before(&steps, "load_snapshot", "wake");
}

#[test]
fn a_start_that_was_cut_off_goes_on_where_the_guest_is_told_who_it_is() {
    for (origin, phase) in [
        (Origin::Boot, Phase::Running),
        (Origin::Base, Phase::Running),
        (Origin::Boot, Phase::Paused(PausedFor::Warm)),
        (Origin::Base, Phase::Paused(PausedFor::Warm)),
    ] {
        let there = seen(vmm(origin, phase));
        let steps = names(&plan(&wanting(State::Ready, Want::Running), &there, FIREWALL));
        assert!(steps.ends_with(&["configure".to_owned(), "record Running".to_owned()]));
        let resumed = steps.contains(&"resume_vmm".to_owned());
        assert_eq!(resumed, phase != Phase::Running, "{origin:?} {phase:?}: {steps:?}");
    }
}

#[test]
fn a_guest_that_sleeps_for_the_first_time_needs_no_snapshot_to_stay() {
    let there = seen(vmm(Origin::Base, Phase::Running));
    let steps = names(&plan(&wanting(State::Running, Want::Sleeping), &there, FIREWALL));
    assert!(!steps.contains(&"remove_snapshot".to_owned()), "{steps:?}");
    before(&steps, "write_snapshot", "publish_snapshot");
}

fn integrations() -> Vec<crate::integration::Integration> {
    serde_json::from_str(r#"[{"name": "mail", "critical": true, "restore_cmd": ["load"]}]"#)
        .unwrap()
}

#[test]
fn a_warm_guest_is_resumed_to_drain_before_it_sleeps() {
    let there = seen(vmm(Origin::Boot, Phase::Paused(PausedFor::Warm)));
    let steps = names(&plan(&wanting(State::Warm, Want::Sleeping), &there, FIREWALL));
    before(&steps, "resume_vmm", "drain");
    assert!(!steps.contains(&"record Warm".to_owned()), "it is Warm already: {steps:?}");
}

#[test]
fn a_forced_sleep_does_not_ask_for_a_drain() {
    let there = seen(vmm(Origin::Boot, Phase::Running));
    let record = Instance { drain: Drain::Skip, ..wanting(State::Running, Want::Sleeping) };
    assert!(!names(&plan(&record, &there, FIREWALL)).contains(&"drain".to_owned()));
}

#[test]
fn a_vmm_that_died_after_publishing_is_asleep_and_one_before_is_lost() {
    let record = wanting(State::Warm, Want::Sleeping);
    let mut there = seen(None);
    there.exit = Some(ExitRecord::of(Ending::Signaled(9)));
    there.snapshots.insert(record.epoch, SnapshotPhase::Partial);
    assert_eq!(truth::notice(&record, &there).unwrap().event, EventKind::InstanceFailed);
    there.snapshots.insert(record.epoch, SnapshotPhase::Published);
    let slept = truth::notice(&record, &there).unwrap();
    assert_eq!((slept.state, slept.event), (State::Sleeping, EventKind::InstanceSlept));
    assert_eq!(names(&plan(&record, &there, FIREWALL)).last().unwrap(), "record Sleeping");
}

#[test]
fn an_old_snapshot_does_not_save_a_guest_that_died_while_running() {
    let mut there = seen(None);
    there.snapshots.insert(Generation(6), SnapshotPhase::Published);
    let record = wanting(State::Running, Want::Sleeping);
    assert_eq!(truth::notice(&record, &there).unwrap().state, State::Stopped);
}

#[test]
fn a_guest_lost_after_its_snapshot_was_retired_is_reported_as_lost_while_waking() {
    let mut there = seen(None);
    there.snapshots.insert(Generation(7), SnapshotPhase::Retired);
    let lost = truth::notice(&wanting(State::Sleeping, Want::Running), &there).unwrap();
    assert!(lost.reason.contains("while waking"), "{}", lost.reason);
}

#[test]
fn a_guest_of_a_former_boot_was_lost_to_the_reboot_and_one_of_this_boot_was_not() {
    let mut there = seen(None);
    let reason =
        |state, want, there: &_| truth::notice(&wanting(state, want), there).unwrap().reason;
    let rebooted = "the host rebooted";
    assert_ne!(reason(State::Running, Want::Running, &there), rebooted);
    let stopping = wanting(State::Warm, Want::Stopped);
    let leaving = wanting(State::Running, Want::Destroyed);
    assert_eq!(truth::notice(&stopping, &there), None, "a stop is at work");
    assert_eq!(truth::notice(&leaving, &there), None, "a destroy is at work");
    there.boot = BootId("second".to_owned());
    assert_eq!(reason(State::Running, Want::Running, &there), rebooted);
    assert_eq!(reason(State::Warm, Want::Sleeping, &there), rebooted);
    assert_eq!(reason(State::Warm, Want::Stopped, &there), rebooted);
    assert_eq!(reason(State::Running, Want::Destroyed, &there), rebooted);
    there.snapshots.insert(Generation(7), SnapshotPhase::Retired);
    assert!(reason(State::Sleeping, Want::Running, &there).ends_with(rebooted));
    let exit = ExitRecord::of(Ending::Signaled(9));
    there.exit = Some(exit);
    assert_eq!(
        reason(State::Running, Want::Running, &there),
        "the VMM was killed by signal 9",
        "records are of this boot"
    );
}

#[test]
fn a_wake_that_failed_before_retiring_puts_the_guest_back_to_sleep() {
    let mut there = seen(vmm(Origin::Snapshot(Generation(7)), Phase::Paused(PausedFor::Warm)));
    there.snapshots.insert(Generation(7), SnapshotPhase::Published);
    assert_eq!(names(&plan(&instance(1, State::Sleeping), &there, FIREWALL)), ["remove_vmm"]);
}

#[test]
fn every_state_at_rest_with_nothing_left_over_needs_no_step() {
    let bare =
        ObservedInstance { volume: Some(crate::units::Mib(64)), files: true, ..Default::default() };
    let mut asleep = bare.clone();
    asleep.snapshots.insert(Generation(7), SnapshotPhase::Published);
    for (state, there) in [
        (State::Created, &bare),
        (State::Ready, &bare),
        (State::Stopped, &bare),
        (State::Sleeping, &asleep),
        (State::Running, &seen(vmm(Origin::Boot, Phase::Running))),
        (State::Warm, &seen(vmm(Origin::Boot, Phase::Paused(PausedFor::Warm)))),
    ] {
        assert_eq!(plan(&instance(1, state), there, FIREWALL), vec![], "{state}");
        assert_eq!(truth::notice(&instance(1, state), there), None, "{state}");
    }
}

#[test]
fn a_stop_discards_the_snapshot_before_the_guest_may_write_to_its_disk() {
    let mut there = seen(vmm(Origin::Boot, Phase::Paused(PausedFor::Sleep)));
    there.snapshots.insert(Generation(7), SnapshotPhase::Published);
    let steps = names(&plan(&wanting(State::Warm, Want::Stopped), &there, FIREWALL));
    before(&steps, "remove_snapshot", "resume_vmm");
}

#[test]
fn a_launch_repairs_firewall_bridge_and_routes_first() {
    let there = ObservedInstance { files: true, ..Default::default() };
    let steps = names(&plan(&wanting(State::Ready, Want::Running), &there, FIREWALL));
    before(&steps, "sync_firewall", "ensure_tap");
    before(&steps, "ensure_bridge", "ensure_tap");
    before(&steps, "ensure_routes", "spawn_vmm");
    before(&steps, "ensure_cgroup", "spawn_vmm");
    before(&steps, "ensure_volume", "ensure_jail");
}

#[test]
fn what_a_guest_woke_from_stays_until_its_next_snapshot_is_published() {
    let mut there = seen(vmm(Origin::Snapshot(Generation(6)), Phase::Running));
    there.snapshots.insert(Generation(6), SnapshotPhase::Retired);
    assert_eq!(plan(&instance(1, State::Running), &there, FIREWALL), vec![]);
    let steps = names(&plan(&wanting(State::Running, Want::Sleeping), &there, FIREWALL));
    assert!(!steps.contains(&"remove_snapshot".to_owned()), "{steps:?}");
    let mut slept = seen(None);
    slept.snapshots.insert(Generation(6), SnapshotPhase::Retired);
    slept.snapshots.insert(Generation(7), SnapshotPhase::Published);
    let steps = names(&plan(&wanting(State::Warm, Want::Sleeping), &slept, FIREWALL));
    assert!(
        steps.ends_with(&["remove_snapshot".to_owned(), "record Sleeping".to_owned()]),
        "{steps:?}"
    );
}

#[test]
fn what_a_guest_did_not_wake_from_makes_room_for_its_next_snapshot() {
    let mut there = seen(vmm(Origin::Snapshot(Generation(6)), Phase::Running));
    there.snapshots.insert(Generation(5), SnapshotPhase::Retired);
    let steps = |there: &_| names(&plan(&wanting(State::Running, Want::Sleeping), there, FIREWALL));
    before(&steps(&there), "remove_snapshot", "write_snapshot");
    // A wake that was given up left one of the present epoch.
    there.snapshots = BTreeMap::from([(Generation(7), SnapshotPhase::Retired)]);
    before(&steps(&there), "remove_snapshot", "write_snapshot");
}

#[test]
fn a_shim_that_died_is_reported_and_replaced_before_anything_else_is_done_with_its_guest() {
    let mut there = seen(vmm(Origin::Boot, Phase::Running));
    there.shim = false;
    let steps = |state, want| names(&plan(&wanting(state, want), &there, FIREWALL));
    assert_eq!(steps(State::Running, Want::Running), ["tell ShimLost", "ensure_shim"]);
    before(&steps(State::Running, Want::Sleeping), "ensure_shim", "drain");
    assert!(!steps(State::Running, Want::Stopped).contains(&"ensure_shim".to_owned()));
}

#[test]
fn a_vmm_that_is_removed_at_once_gets_no_new_shim() {
    let mut there = seen(vmm(Origin::Snapshot(Generation(7)), Phase::Paused(PausedFor::Warm)));
    there.snapshots.insert(Generation(7), SnapshotPhase::Published);
    there.shim = false;
    assert_eq!(names(&plan(&instance(1, State::Sleeping), &there, FIREWALL)), ["remove_vmm"]);
}

#[test]
fn a_warm_instance_whose_guest_was_resumed_is_paused_again_without_asking_the_guest() {
    let record = wanting(State::Warm, Want::Warm);
    let there = seen(vmm(Origin::Boot, Phase::Running));
    assert_eq!(names(&plan(&record, &there, FIREWALL)), ["pause_vmm"]);
}

fn sealed(mut record: Instance) -> Instance {
    record.volume.kind = VolumeKind::Luks;
    record
}

#[test]
fn an_encrypted_volume_is_open_before_the_jail_and_closed_after_the_process() {
    let nothing = ObservedInstance { firewall: Some(FIREWALL), ..Default::default() };
    let steps = names(&plan(&sealed(wanting(State::Ready, Want::Running)), &nothing, FIREWALL));
    before(&steps, "ensure_volume", "open_volume");
    before(&steps, "open_volume", "ensure_jail");
    let mut there = seen(vmm(Origin::Boot, Phase::Running));
    there.mapping = true;
    for want in [Want::Stopped, Want::Destroyed] {
        let steps = names(&plan(&sealed(wanting(State::Running, want)), &there, FIREWALL));
        before(&steps, "remove_vmm", "close_volume");
    }
    let plain = names(&plan(&wanting(State::Ready, Want::Running), &nothing, FIREWALL));
    assert!(!plain.contains(&"open_volume".to_owned()));
}

#[test]
fn an_open_volume_without_a_process_is_closed_at_rest() {
    let there = ObservedInstance { mapping: true, files: true, ..Default::default() };
    for state in [State::Created, State::Ready, State::Stopped] {
        assert_eq!(names(&plan(&instance(1, state), &there, FIREWALL)), ["close_volume"]);
    }
}

#[test]
fn a_larger_volume_is_given_to_the_guest_when_it_runs_and_never_under_its_snapshot() {
    let mut record = instance(1, State::Running);
    record.volume.is_growing = true;
    let running = seen(vmm(Origin::Boot, Phase::Running));
    assert_eq!(
        names(&plan(&record, &running, FIREWALL)),
        ["grow_volume", "resize", "record Running"]
    );
    let mut record = wanting(State::Sleeping, Want::Running);
    record.volume.is_growing = true;
    let mut there = ObservedInstance { volume: Some(Mib(32)), ..Default::default() };
    there.snapshots.insert(Generation(7), SnapshotPhase::Published);
    let steps = names(&plan(&record, &there, FIREWALL));
    before(&steps, "load_snapshot", "grow_volume");
    before(&steps, "record Running", "grow_volume");
    record.state = State::Stopped;
    there.snapshots.clear();
    before(&names(&plan(&record, &there, FIREWALL)), "grow_volume", "ensure_jail");
}

#[test]
fn a_kept_volume_joins_before_anything_else_and_leaves_before_the_files_go() {
    let mut record = instance(1, State::Ready);
    record.volume.joining = Some("old".parse().unwrap());
    let nothing = ObservedInstance::default();
    let joined = ["attach_volume", "record Ready"];
    for want in [Want::Idle, Want::Running, Want::Destroyed] {
        record.want = want;
        assert_eq!(names(&plan(&record, &nothing, FIREWALL)), joined);
    }
    let mut record = wanting(State::Stopped, Want::Destroyed);
    record.volume.kept_as = Some("kept".parse().unwrap());
    let there = ObservedInstance { volume: Some(Mib(64)), files: true, ..Default::default() };
    before(&names(&plan(&record, &there, FIREWALL)), "keep_volume", "remove_instance_files");
    record.volume.kept_as = None;
    record.volume.fate = VolumeFate::Wipe;
    before(&names(&plan(&record, &there, FIREWALL)), "wipe_volume", "remove_instance_files");
}

fn granted(state: State, epoch: u64, delivered: u64) -> Instance {
    let secrets =
        Grant { epoch: Generation(epoch), delivered: Generation(delivered), ..Grant::default() };
    Instance { secrets, ..instance(1, state) }
}

fn told(steps: &[Step]) -> Vec<&'static str> {
    let name = |step: &Step| match step {
        Step::Do(effect) => Some(effect.name()),
        Step::Ask(GuestAct::RefreshSecrets { .. }) => Some("refresh"),
        Step::Ask(GuestAct::Wake { secrets, .. }) if secrets.0 > 0 => Some("wake with secrets"),
        Step::Ask(GuestAct::Configure { jail, .. }) if jail.secrets.epoch.0 > 0 => {
            Some("configure with secrets")
        }
        Step::Record(_) => Some("record"),
        Step::Ask(_) | Step::SyncFirewall | Step::Tell { .. } => None,
    };
    steps.iter().filter_map(name).collect()
}

#[test]
fn granted_secrets_reach_a_running_guest_by_swap_then_word_then_record() {
    let mut view = seen(vmm(Origin::Boot, Phase::Running));
    let record = granted(State::Running, 2, 1);
    let steps = plan(&record, &view, Generation(5));
    assert_eq!(told(&steps), ["swap_secrets", "refresh", "record"]);
    view.secrets = Some(Generation(3));
    assert_eq!(told(&plan(&record, &view, Generation(5))), ["refresh", "record"]);
    assert_eq!(plan(&granted(State::Running, 2, 2), &view, Generation(5)), []);
}

#[test]
fn a_warm_guest_gets_a_new_drive_before_it_runs() {
    let view = seen(vmm(Origin::Boot, Phase::Paused(PausedFor::Warm)));
    let record = Instance { want: Want::Running, ..granted(State::Warm, 2, 1) };
    let steps = plan(&record, &view, Generation(5));
    assert_eq!(told(&steps), ["swap_secrets", "resume_vmm", "wake with secrets", "record"]);
}

#[test]
fn a_guest_that_was_left_running_with_an_old_drive_is_not_told_of_new_secrets_before_the_swap() {
    let view = seen(vmm(Origin::Boot, Phase::Running));
    let record = Instance { want: Want::Running, ..granted(State::Ready, 2, 0) };
    let steps = plan(&record, &view, Generation(5));
    assert_eq!(told(&steps), ["swap_secrets", "configure with secrets", "record"]);
}
