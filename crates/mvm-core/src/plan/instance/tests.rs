//! Plans of single situations; the whole walks are the simulation's.
#![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]

use super::*;
use crate::{
    net::{NetId, Network, Offset, Subnet},
    pool::{Resources, Role, RuntimePolicy},
    units::{Mib, Timestamp, Uid, Vcpus},
};

fn record(state: State, want: Want) -> Instance {
    Instance {
        instance: "acme/web/i-00000001".parse().unwrap(),
        network: Network {
            tenant: "acme".parse().unwrap(),
            net: NetId(3),
            subnet: Subnet::automatic(NetId(3)).unwrap(),
        },
        offset: Offset(3),
        uid: Uid(458_752),
        resources: Resources { vcpus: Vcpus(1), mem_mib: Mib(256), data_disk_mib: Mib(0) },
        role: Role::Worker,
        policy: RuntimePolicy::default(),
        image: Some("ab".repeat(32).parse().unwrap()),
        keyed: true,
        state,
        want,
        drain: Drain::Ask,
        epoch: Generation(4),
        parked_by: None,
        manual_override_until: None,
        last_failure: None,
        created_at: Timestamp(0),
        state_since: Timestamp(0),
        generation: Generation(9),
    }
}

fn with_vmm(phase: Phase) -> ObservedInstance {
    let vmm = ObservedVmm { origin: Origin::Boot, phase, pid: 7, resident_kib: 1 };
    ObservedInstance { vmm: Some(vmm), shim: true, ..ObservedInstance::default() }
}

#[test]
fn a_warm_instance_whose_guest_was_resumed_is_paused_again_without_asking_the_guest() {
    let record = record(State::Warm, Want::Warm);
    let pause = Step::Do(Effect::PauseVmm {
        instance: record.instance.instance.clone(),
        purpose: PausedFor::Warm,
    });
    assert_eq!(plan(&record, &with_vmm(Phase::Running), Generation(1)), [pause]);
    assert_eq!(plan(&record, &with_vmm(Phase::Paused(PausedFor::Warm)), Generation(1)), []);
}
