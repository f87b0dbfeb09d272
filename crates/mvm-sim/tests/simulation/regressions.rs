//! Histories that once broke a law, told by hand.

use crate::harness::{
    Mvm, create_pool, create_tenant, destroy_all, instances, pool, quotas, running, settle, step,
};
use mvm_core::{
    event::EventKind,
    instance::{Drain, Want},
    observed::Ending,
    operation::Operation,
    state::{Move, State},
};
use mvm_engine::netcheck::Depth;
use mvm_sim::fault::{Fault, Plan};

#[test]
fn a_guest_put_to_sleep_by_force_finds_its_disk_as_it_was_after_a_power_cut() {
    let (sim, id) = running();
    let _ = Mvm::start(&sim).engine.instances(&mvm_engine::query::Filter::All);
    let dumb = |answers: bool| {
        if let Some(vmm) = sim.machine.world().vmms.get_mut(&id.instance) {
            vmm.guest.as_mut().unwrap().agent_answers = answers;
        }
    };
    dumb(false);
    let sleep =
        Operation::InstanceMove { instance: id.clone(), wish: Move::Sleep, drain: Drain::Skip };
    Mvm::start(&sim).operate(&sleep).unwrap();
    sim.machine.world().power_cut(None);
    let _ = Mvm::start(&sim).operate(&step(&id, Move::Wake));
    assert_eq!(sim.violations(), [""; 0]);
}

#[test]
fn a_wake_that_cannot_resume_never_lets_the_untold_guest_run() {
    let (sim, id) = running();
    Mvm::start(&sim).operate(&step(&id, Move::Sleep)).unwrap();
    for call in 0..40 {
        sim.arm(Plan::at(call, Fault::FailForever));
        let _ = Mvm::start(&sim).operate(&step(&id, Move::Wake));
        settle(&sim).unwrap();
        for wish in [Move::Start, Move::Sleep] {
            let _ = Mvm::start(&sim).operate(&step(&id, wish));
        }
        assert_eq!(instances(&*sim.store).first().unwrap().state, State::Sleeping);
    }
    destroy_all(&sim).unwrap();
}

#[test]
fn nothing_is_left_of_an_instance_whose_vmm_died_together_with_its_shim() {
    let (sim, id) = running();
    {
        let mut world = sim.machine.world();
        world.end_shim(&id.instance);
        world.end_vmm(&id.instance, Ending::Signaled(9));
    }
    Mvm::start(&sim).operate(&step(&id, Move::Destroy)).unwrap();
    assert!(sim.machine.world().runs.is_empty());
    destroy_all(&sim).unwrap();
}

#[test]
fn a_guest_whose_sleep_and_wake_both_failed_can_sleep_again() {
    let (sim, id) = running();
    let ask = |wish| Mvm::start(&sim).operate(&step(&id, wish));
    ask(Move::Warm).unwrap();
    sim.break_act("execute remove_vmm");
    sim.break_act("ask wake");
    ask(Move::Sleep).unwrap_err();
    ask(Move::Sleep).unwrap_err();
    sim.heal();
    ask(Move::Sleep).unwrap();
    ask(Move::Wake).unwrap();
    settle(&sim).unwrap();
    destroy_all(&sim).unwrap();
}

#[test]
fn after_a_reboot_what_ran_is_stopped_because_of_it_and_starts_as_the_first_command() {
    let (sim, id) = running();
    sim.machine.world().reboot();
    Mvm::start(&sim).operate(&step(&id, Move::Start)).unwrap();
    let log = sim.store.events(&id.tenant, 0, usize::MAX).unwrap();
    let failed: Vec<_> =
        log.iter().filter(|one| one.event.event == EventKind::InstanceFailed).collect();
    let [one] = failed.as_slice() else { panic!("{failed:?}") };
    assert_eq!(one.event.reason, "the host rebooted");
    assert_eq!(one.event.detail.get("boot").map(String::as_str), Some("boot-0"));
    destroy_all(&sim).unwrap();
}

#[test]
fn a_destroy_cut_off_by_a_reboot_before_its_first_act_shows_no_guest_and_goes_on() {
    let (sim, id) = running();
    for act in ["ask shutdown", "execute stop_vmm", "execute kill_vmm", "execute remove_vmm"] {
        sim.break_act(act);
    }
    Mvm::start(&sim).operate(&step(&id, Move::Destroy)).unwrap_err();
    sim.heal();
    sim.machine.world().reboot();
    Mvm::start(&sim).engine.instances(&mvm_engine::query::Filter::All).unwrap();
    let stored = instances(&*sim.store);
    let one = stored.first().unwrap();
    assert_eq!((one.state, one.want), (State::Stopped, Want::Destroyed));
    Mvm::start(&sim).operate(&step(&id, Move::Destroy)).unwrap();
    assert_eq!(instances(&*sim.store), []);
}

#[test]
fn after_a_reboot_a_sleeper_sleeps_on_and_wakes_as_the_first_command() {
    let (sim, id) = running();
    Mvm::start(&sim).operate(&step(&id, Move::Sleep)).unwrap();
    sim.machine.world().power_cut(None);
    Mvm::start(&sim).operate(&step(&id, Move::Wake)).unwrap();
    assert_eq!(instances(&*sim.store).first().unwrap().state, State::Running);
    assert_eq!(sim.violations(), [""; 0]);
    destroy_all(&sim).unwrap();
}

#[test]
fn a_network_of_which_nothing_is_there_after_a_reboot_is_no_finding() {
    let (sim, id) = running();
    let other = pool("beta", "workers");
    for operation in [create_tenant("beta", quotas()), create_pool(other, 64)] {
        Mvm::start(&sim).operate(&operation).unwrap();
    }
    sim.machine.world().reboot();
    let findings = || Mvm::start(&sim).engine.net_verify(None, Depth::Host).unwrap().findings;
    assert_eq!(findings(), []);
    Mvm::start(&sim).operate(&step(&id, Move::Start)).unwrap();
    assert_eq!(findings(), [], "beta is not there, and nobody needs it");
    Mvm::start(&sim).operate(&step(&id, Move::Stop)).unwrap();
    let net = instances(&*sim.store).first().unwrap().network.net;
    let kept = sim.machine.world().routes.remove(&net).unwrap();
    assert_eq!(findings().len(), 1, "a part that is missing of what is there is one");
    sim.machine.world().routes.insert(net, kept);
    destroy_all(&sim).unwrap();
}
