//! What the records amount to, as a document.

use mvm_core::{
    desired::{Addressee, parse},
    error::ErrorKind,
    operation::Operation,
    quota::Quotas,
};

use crate::fake::*;

#[test]
fn the_desired_state_of_the_records_is_one_that_is_accepted() {
    let rig = Rig::with_pool(Quotas::default());
    rig.operate(&Operation::PoolScale {
        pool: pool("acme/web"),
        running: Some(1),
        warm: None,
        sleeping: None,
        no_wait: false,
    })
    .unwrap();
    let state = rig.engine.desired(None).unwrap();
    let text = serde_json::to_vec(&state).unwrap();
    let node = Addressee::Node { id: &state.node_id, production: true };
    assert_eq!(parse(&text, node).unwrap(), state);
    let pool = state.tenants.first().unwrap().pools.first().unwrap();
    assert_eq!((pool.pool_id.as_str(), pool.desired_counts.running), ("web", 1));
}

#[test]
fn a_tenant_that_is_not_there_has_no_desired_state() {
    let rig = Rig::with_pool(Quotas::default());
    let error = rig.engine.desired(Some(&"nobody".parse().unwrap())).unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    let only = rig.engine.desired(Some(&"acme".parse().unwrap())).unwrap();
    assert_eq!(only.tenants.len(), 1);
}
