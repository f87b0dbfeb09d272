//! Records and observations for the planner's tests.

use std::collections::BTreeMap;

use crate::{
    id::InstanceId,
    instance::{Drain, Instance, Want},
    net::{NetId, Network, Offset},
    observed::{BootId, ObservedBase, ObservedInstance, ObservedVmm, Origin, Phase},
    pool::{Compression, Resources, Role, RuntimePolicy},
    secrets::Grant,
    state::State,
    units::{Generation, Mib, Timestamp, Uid, Vcpus},
    volume::VolumePlan,
};

/// An instance at rest in `state`, number `n`, created at `n` seconds.
pub(super) fn instance(n: u32, state: State) -> Instance {
    let address = format!("acme/workers/{}", InstanceId::from_random(n));
    Instance {
        instance: address.parse().unwrap(),
        network: Network {
            tenant: "acme".parse().unwrap(),
            net: NetId(3),
            subnet: "10.240.3.0/24".parse().unwrap(),
        },
        offset: Offset(3),
        uid: Uid(458_752),
        resources: Resources::new(Vcpus(1), Mib(128), Mib(64)),
        role: Role::Worker,
        policy: RuntimePolicy::default(),
        integrations: Vec::new(),
        compression: Compression::default(),
        routing_table: None,
        image: Some("a".repeat(64).parse().unwrap()),
        keyed: true,
        volume: VolumePlan::default(),
        secrets: Grant::default(),
        state,
        want: Want::rest(state),
        drain: Drain::Ask,
        epoch: Generation(7),
        parked_by: None,
        manual_override_until: None,
        last_failure: None,
        failures: 0,
        publish: Vec::new(),
        created_at: Timestamp(u64::from(n) * 1000),
        state_since: Timestamp(0),
        boot: Some(BootId("first".to_owned())),
        generation: Generation(1),
    }
}

/// A VMM in `phase`.
pub(super) fn vmm(origin: Origin, phase: Phase) -> Option<ObservedVmm> {
    Some(ObservedVmm { origin, phase, pid: 42, resident_kib: 0 })
}

/// Everything in place around `vmm`, no snapshot.
pub(super) fn seen(vmm: Option<ObservedVmm>) -> ObservedInstance {
    ObservedInstance {
        shim: vmm.is_some(),
        vmm,
        exit: None,
        bridge: true,
        routes: true,
        tap: true,
        cgroup: true,
        jail: true,
        secrets: vmm.map(|_| Generation(0)),
        base: ObservedBase::Absent,
        snapshots: BTreeMap::new(),
        volume: Some(Mib(64)),
        mapping: false,
        files: true,
        firewall: Some(Generation(5)),
        boot: BootId("first".to_owned()),
    }
}
