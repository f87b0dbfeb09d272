//! Ports of the host belong to one instance; resolvers are followed; a passed wall is told.

use mvm_core::{
    error::ErrorKind,
    event::EventKind,
    id::{InstanceRef, TenantId},
    observed::Listening,
    operation::Operation,
    port::{ProbeOutcome, Store},
    publish::{Protocol, Publish},
    quota::Quotas,
    state::Move,
};

use crate::{
    fake::*,
    netcheck::{CrossTenant, Depth},
    outcome::Made,
};

fn ports(all: &[&str]) -> Vec<Publish> {
    all.iter().map(|text| text.parse().unwrap()).collect()
}

fn create(rig: &Rig, publish: &[&str]) -> Result<InstanceRef, ErrorKind> {
    let operation =
        Operation::InstanceCreate { pool: pool("acme/web"), publish: ports(publish), volume: None };
    match rig.operate(&operation).map_err(|error| error.kind)?.made {
        Some(Made::Instance(record)) => Ok(record.instance),
        _ => unreachable!("no instance was made"),
    }
}

/// Two tenants with a running guest each; the first guest's tenant has two.
fn two_tenants() -> (Rig, [InstanceRef; 3]) {
    let rig = Rig::with_pool(Quotas::default());
    rig.operate(&tenant_create("beta", Quotas::default())).unwrap();
    rig.operate(&pool_create("beta/web")).unwrap();
    rig.operate(&Operation::build(pool("beta/web"))).unwrap();
    let made = |name: &str| {
        let operation =
            Operation::InstanceCreate { pool: pool(name), publish: Vec::new(), volume: None };
        let Some(Made::Instance(record)) = rig.operate(&operation).unwrap().made else {
            unreachable!("no instance was made")
        };
        rig.go(&record.instance, Move::Start).unwrap();
        record.instance
    };
    let all = [made("acme/web"), made("acme/web"), made("beta/web")];
    (rig, all)
}

#[test]
fn a_port_of_the_host_belongs_to_one_instance_until_it_is_given_up_or_gone() {
    let rig = Rig::with_pool(Quotas::default());
    let one = create(&rig, &["8080:80", "53:53/udp"]).unwrap();
    assert_eq!(create(&rig, &["127.0.0.1:8080:81"]), Err(ErrorKind::Conflict));
    assert_eq!(create(&rig, &["7000:1", "7000:2"]), Err(ErrorKind::Conflict));
    let other = create(&rig, &["7000:1", "8080:80/udp"]).unwrap();
    assert_eq!(rig.world.look().firewall.as_ref().unwrap().published.len(), 4);
    let change = |instance: &InstanceRef, publish: &str, begin: bool| {
        let (instance, publish) = (instance.clone(), ports(&[publish]));
        let operation = match begin {
            true => Operation::InstancePublish { instance, publish },
            false => Operation::InstanceUnpublish { instance, publish },
        };
        rig.operate(&operation).map(drop).map_err(|error| error.kind)
    };
    assert_eq!(change(&other, "8080:80", true), Err(ErrorKind::Conflict));
    assert_eq!(change(&other, "8080:80", false), Err(ErrorKind::NotFound));
    change(&one, "8080:80", false).unwrap();
    change(&other, "8080:80", true).unwrap();
    change(&other, "8080:80", true).unwrap();
    rig.go(&other, Move::Destroy).unwrap();
    assert_eq!(rig.world.look().firewall.as_ref().unwrap().published.len(), 1);
    change(&one, "8080:80", true).unwrap();
    assert_eq!(rig.record(&one).publish, ports(&["53:53/udp", "8080:80"]));
}

#[test]
fn a_port_that_a_program_of_the_host_listens_on_is_refused_and_nothing_is_made() {
    let rig = Rig::with_pool(Quotas::default());
    let address = Some("192.0.2.1".parse().unwrap());
    rig.world.look().listening = vec![
        Listening { protocol: Protocol::Tcp, port: 22, address: None },
        Listening { protocol: Protocol::Tcp, port: 80, address },
    ];
    for taken in ["22:22", "127.0.0.1:22:22", "80:80", "192.0.2.1:80:80"] {
        assert_eq!(create(&rig, &[taken]), Err(ErrorKind::Conflict), "{taken}");
    }
    assert!(rig.engine.instances(&crate::query::Filter::All).unwrap().is_empty());
    create(&rig, &["22:22/udp", "127.0.0.1:80:80"]).unwrap();
}

#[test]
fn the_next_wake_hands_names_to_the_resolvers_that_the_host_has_by_then() {
    let rig = Rig::with_pool(Quotas::default());
    let id = rig.create();
    rig.go(&id, Move::Start).unwrap();
    rig.go(&id, Move::Sleep).unwrap();
    let resolver = "192.0.2.53".parse().unwrap();
    rig.world.look().resolvers = vec![resolver];
    rig.go(&id, Move::Wake).unwrap();
    assert_eq!(rig.world.look().firewall.as_ref().unwrap().resolvers, [resolver]);
    assert!(!rig.kinds().contains(&EventKind::FirewallRepaired), "nobody altered it");
}

#[test]
fn what_a_guest_reaches_and_should_not_is_named_and_told_to_both_tenants() {
    let (rig, [one, neighbour, stranger]) = two_tenants();
    let address = |id: &InstanceRef| rig.record(id).address().unwrap();
    let gateway = rig.record(&one).network.subnet.gateway();
    let ours: [TenantId; 2] = ["acme".parse().unwrap(), "beta".parse().unwrap()];
    let violations = |tenant: &TenantId| {
        let log = rig.store.events(tenant, 0, usize::MAX).unwrap();
        log.iter().filter(|entry| entry.event.event == EventKind::IsolationViolation).count()
    };
    let open = [(address(&one), 9), (address(&neighbour), 9)];
    rig.world.look().reached = open.into();
    let report = rig.engine.net_verify(Some(&ours[0]), Depth::Packets).unwrap();
    assert_eq!(report.findings, [], "{:?}", report.probes);
    assert_eq!(report.tenants[0].cross_tenant_probe, CrossTenant::ClosedByPackets);
    assert_eq!((report.tenants.len(), violations(&ours[0])), (1, 0));

    let leaks = [(address(&stranger), 9), (gateway, 22)];
    rig.world.look().reached.extend(leaks);
    let report = rig.engine.net_verify(Some(&ours[0]), Depth::Packets).unwrap();
    let problems: Vec<&str> = report.findings.iter().map(|one| one.problem.as_str()).collect();
    assert!(problems.iter().any(|text| text.contains(&format!("reached {stranger}"))));
    assert!(problems.iter().any(|text| text.contains("reached the host")), "{problems:?}");
    assert_eq!(report.tenants[0].cross_tenant_probe, CrossTenant::Open);
    assert_eq!((violations(&ours[0]), violations(&ours[1])), (4, 2), "two guests, two targets");

    rig.world.look().reached.clear();
    let report = rig.engine.net_verify(None, Depth::Packets).unwrap();
    assert!(report.findings[0].problem.contains("does not reach"), "{:?}", report.findings);
    assert!(report.probes.iter().all(|probe| probe.outcome == ProbeOutcome::Silent));
}
