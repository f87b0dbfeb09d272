//! This host's own tenants: there when they are needed, with their own networks, and nobody else's.

use mvm_core::{
    id::{InstanceRef, TenantId},
    volume::VolumeFate,
};

use super::*;
use crate::{outcome::Made, query::Filter};

fn destroy(rig: &Rig, id: TenantId) {
    let outcome = rig
        .operate(&Operation::TenantDestroy { tenant: id, force: true, volumes: VolumeFate::Delete })
        .unwrap();
    assert_eq!(outcome.failures, []);
}

fn create_in(rig: &Rig, id: &str) -> Result<InstanceRef, ErrorKind> {
    let ask = Operation::InstanceCreate { pool: pool(id), publish: Vec::new(), volume: None };
    match rig.operate(&ask).map_err(|error| error.kind)?.made {
        Some(Made::Instance(record)) => Ok(record.instance),
        made => unreachable!("no instance was made but {made:?}"),
    }
}

#[test]
fn the_first_pool_makes_the_tenant_and_its_one_vm_has_the_one_address() {
    let rig = Rig::new();
    rig.operate(&pool_create("local/dev")).unwrap();
    rig.operate(&Operation::build(pool("local/dev"))).unwrap();
    let id = create_in(&rig, "local/dev").unwrap();
    let record = rig.record(&id);
    assert_eq!(record.network.subnet.to_string(), "172.16.0.0/30");
    assert_eq!(record.address().unwrap().to_string(), "172.16.0.2");
    assert_eq!(create_in(&rig, "local/dev"), Err(ErrorKind::Refused));
    for wish in [Move::Start, Move::Sleep, Move::Wake, Move::Stop] {
        rig.go(&id, wish).unwrap();
    }
    assert_eq!(rig.operate(&pool_create("local/other")).unwrap_err().kind, ErrorKind::Invalid);
    destroy(&rig, TenantId::local());
    assert!(rig.world.look().is_bare(), "something is left");
}

#[test]
fn its_net_id_does_not_rest_after_it() {
    let rig = Rig::new();
    for _ in 0..2 {
        rig.operate(&pool_create("mvm-run/r-00000001")).unwrap();
        rig.operate(&Operation::build(pool("mvm-run/r-00000001"))).unwrap();
        let id = create_in(&rig, "mvm-run/r-00000001").unwrap();
        assert_eq!(rig.record(&id).address().unwrap().to_string(), "172.16.1.3");
        destroy(&rig, TenantId::runs());
    }
}

#[test]
fn it_is_in_no_desired_state_and_is_not_pruned() {
    let rig = Rig::with_pool(Quotas::default());
    rig.operate(&pool_create("local/dev")).unwrap();
    let mut desired = rig.engine.desired(None).unwrap();
    assert_eq!(desired.tenants.len(), 1);
    desired.prune_unknown_tenants = true;
    desired.prune_unknown_pools = true;
    rig.operate(&Operation::AgentReconcile { desired: Box::new(desired) }).unwrap();
    assert_eq!(rig.engine.instances(&Filter::Pool(pool("local/dev"))).unwrap().len(), 0);
}

#[test]
fn a_tenant_that_a_person_makes_has_no_network_of_that_range() {
    let rig = Rig::new();
    let mut ask = tenant_create("acme", Quotas::default());
    if let Operation::TenantCreate { subnet, .. } = &mut ask {
        *subnet = Some("172.16.1.0/24".parse().unwrap());
    }
    assert_eq!(rig.operate(&ask).unwrap_err().kind, ErrorKind::Invalid);
}
