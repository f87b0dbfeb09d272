//! Pools that are built in builders, and what is left of these.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use mvm_core::{
    effect::Jail,
    error::ErrorKind,
    id::{PoolRef, TenantId},
    net::Offset,
    operation::{NewPool, Operation, Rebuild},
    pool::{Resources, Source},
    port::{Clock, ExecStatus, GuestAct, Locks},
    quota::Quotas,
    units::{Mib, Seconds, Vcpus},
    volume::VolumeFate,
};

use crate::{
    fake::*,
    query::Filter,
    run::is_cancelled,
    store::records::{self, within},
};

const FLAKE: &str = "/srv/app";

fn pool_of_flake(reference: &str) -> Operation {
    let source = Source::Flake(reference.to_owned());
    let size = Resources::new(Vcpus(1), Mib(256), Mib(64));
    Operation::PoolCreate(Box::new(NewPool::of_workers(pool("acme/app"), source, size)))
}

fn rig_with(reference: &str, quotas: Quotas) -> Rig {
    let rig = Rig::new();
    rig.operate(&tenant_create("acme", quotas)).unwrap();
    rig.operate(&pool_of_flake(reference)).unwrap();
    rig
}

fn build() -> Operation {
    Operation::build(pool("acme/app"))
}

fn again(timeout: Seconds) -> Operation {
    Operation::PoolBuild { pool: pool("acme/app"), timeout, rebuild: Rebuild::Always }
}

fn runs(rig: &Rig) -> usize {
    rig.world.look().building.ran.len()
}

/// Nothing of a builder is on the host, in the store, or held.
fn assert_clean(rig: &Rig, when: &str) {
    let content = rig.world.look();
    assert!(content.is_bare(), "something is left {when}");
    drop(content);
    let left = within(&rig.store, |tx| {
        let all = records::list::<mvm_core::pool::Pool>(tx, "")?;
        let builders = all.into_iter().filter(|pool| pool.pool.is_of_builders()).count();
        let instances = records::list::<mvm_core::instance::Instance>(tx, "")?.len();
        Ok((builders, instances, tx.claimed("uid")?.len()))
    });
    assert_eq!(left.unwrap(), (0, 0, 0), "{when}");
}

/// What the builder was told of itself.
fn builder(rig: &Rig) -> Box<Jail> {
    let content = rig.world.look();
    let told = content.asked.iter().find_map(|act| {
        let GuestAct::Configure { jail, .. } = act else { return None };
        Some(jail.clone())
    });
    told.unwrap()
}

#[test]
fn a_flake_is_built_in_a_microvm_that_is_gone_afterwards() {
    let rig = rig_with(FLAKE, Quotas::default());
    rig.operate(&build()).unwrap();
    let view = rig.engine.pool(&pool("acme/app")).unwrap();
    assert_eq!(view.record.revisions.len(), 1);
    let content = rig.world.look();
    let program = &content.building.ran[0];
    assert_eq!(program[1..3], ["path:/data/flake", "closed"]);
    assert_eq!(program[3..], ["tenant-worker-minimal", "tenant-minimal", "minimal"]);
    assert_eq!(content.building.copied, [("/data/flake".to_owned(), FLAKE.to_owned())]);
    drop(content);
    let jail = builder(&rig);
    assert_eq!(jail.identity.offset, Offset::BUILDER);
    assert_eq!(jail.instance.pool_ref(), PoolRef::of_builders(&jail.instance.tenant));
    assert_clean(&rig, "after a build");
}

#[test]
fn a_builder_sees_no_secret_of_its_tenant() {
    let rig = rig_with(FLAKE, Quotas::default());
    rig.operate(&build()).unwrap();
    let scopes = builder(&rig).secrets.scopes.clone();
    assert_eq!(scopes.len(), 1, "no scope would be everything");
    assert!(!["api", "db.password", "builder"].iter().any(|key| scopes[0].covers(key)));
}

#[test]
fn a_flake_that_did_not_change_is_not_built_again() {
    let rig = rig_with(FLAKE, Quotas::default());
    rig.operate(&build()).unwrap();
    rig.operate(&build()).unwrap();
    assert_eq!(runs(&rig), 1);
    rig.operate(&again(Seconds(60))).unwrap();
    assert_eq!(runs(&rig), 2, "it was asked for");
    rig.world.look().building.content = 1;
    rig.operate(&build()).unwrap();
    assert_eq!(runs(&rig), 3, "it changed");
    assert_eq!(rig.engine.pool(&pool("acme/app")).unwrap().record.revisions.len(), 2);
}

#[test]
fn what_only_a_builder_can_fetch_is_always_built() {
    let rig = rig_with("github:org/app", Quotas::default());
    rig.operate(&build()).unwrap();
    rig.operate(&build()).unwrap();
    assert_eq!(runs(&rig), 2);
    assert_eq!(rig.world.look().building.ran[0][1..3], ["github:org/app", "open"]);
    assert_clean(&rig, "after two builds");
}

#[test]
fn a_flake_that_fails_leaves_the_current_build_and_nothing_else() {
    let rig = rig_with(FLAKE, Quotas::default());
    rig.operate(&build()).unwrap();
    let before = rig.engine.pool(&pool("acme/app")).unwrap().record;
    for (code, kind) in [(1, ErrorKind::Failed), (65, ErrorKind::Invalid)] {
        rig.world.look().building.ends = Some(ExecStatus::Code(code));
        let error = rig.operate(&again(Seconds(60))).unwrap_err();
        assert_eq!(error.kind, kind);
        assert!(error.causes.iter().any(|cause| cause == "the last words"), "{error:?}");
        assert!(error.hints.iter().any(|hint| hint.contains("acme/app/build.log")), "{error:?}");
        assert_eq!(rig.engine.pool(&pool("acme/app")).unwrap().record, before);
        assert_clean(&rig, "after a failure");
    }
}

#[test]
fn the_commands_of_a_directory_run_in_a_builder_that_has_the_root_of_its_image() {
    let rig = Rig::new();
    rig.operate(&tenant_create("acme", Quotas::default())).unwrap();
    let source = Source::Image("/srv/web".to_owned());
    let size = Resources::new(Vcpus(1), Mib(256), Mib(64));
    let new = NewPool::of_workers(pool("acme/app"), source, size);
    rig.operate(&Operation::PoolCreate(Box::new(new))).unwrap();
    rig.operate(&build()).unwrap();
    assert_eq!(runs(&rig), 0, "there was nothing to run");
    let plain = rig.engine.pool(&pool("acme/app")).unwrap().record.current().cloned().unwrap();
    rig.world.look().building.commands = vec!["make".to_owned(), "make install".to_owned()];
    rig.operate(&build()).unwrap();
    let content = rig.world.look();
    assert_eq!(content.building.copied, [("/data/root".to_owned(), plain.to_string())]);
    assert_eq!(content.building.ran[0][1..], ["/data/root", "make", "make install"]);
    drop(content);
    assert_ne!(rig.engine.pool(&pool("acme/app")).unwrap().record.current(), Some(&plain));
    assert_clean(&rig, "after a build");
    rig.operate(&build()).unwrap();
    assert_eq!(runs(&rig), 1, "nothing changed");
    let before = rig.engine.pool(&pool("acme/app")).unwrap().record;
    rig.world.look().building.ends = Some(ExecStatus::Code(3));
    let error = rig.operate(&again(Seconds(60))).unwrap_err();
    assert!(error.causes.iter().any(|cause| cause == "the last words"), "{error:?}");
    assert_eq!(rig.engine.pool(&pool("acme/app")).unwrap().record, before);
    assert_clean(&rig, "after a failure");
}

/// A build whose program in the builder does not end, and what is done to it meanwhile.
fn endless<T: Send>(
    rig: &Rig,
    build: impl FnOnce(&Rig) -> T + Send,
    meanwhile: impl FnOnce(&Rig),
) -> T {
    rig.world.look().building.is_endless = true;
    std::thread::scope(|scope| {
        let build = scope.spawn(|| build(rig));
        while runs(rig) == 0 {
            assert!(!build.is_finished(), "no program ran");
            std::thread::yield_now();
        }
        meanwhile(rig);
        build.join().unwrap()
    })
}

#[test]
fn a_build_without_end_is_ended_with_its_time() {
    let rig = rig_with(FLAKE, Quotas::default());
    let late = |rig: &Rig| rig.clock.pause(Duration::from_secs(61));
    let error = endless(&rig, |rig| rig.operate(&again(Seconds(60))), late).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.causes.iter().any(|cause| cause.contains("took too long")), "{error:?}");
    assert_clean(&rig, "after its time");
}

#[test]
fn a_build_that_is_interrupted_clears_up() {
    let rig = rig_with(FLAKE, Quotas::default());
    let error = endless(&rig, |rig| rig.operate(&build()), |rig| rig.cx.cancel.raise());
    assert!(is_cancelled(&error.unwrap_err()));
    assert_clean(&rig, "after an interruption");
}

#[test]
fn a_build_that_its_tenant_has_no_room_for_is_refused() {
    let rig = rig_with(FLAKE, Quotas { max_vcpus: Vcpus(1), ..Quotas::default() });
    let error = rig.operate(&build()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused);
    assert!(error.to_string().contains("builder"), "{error}");
    assert_eq!(runs(&rig), 0);
    assert_clean(&rig, "after a refusal");
}

#[test]
fn nobody_makes_a_pool_of_the_builders_name() {
    let rig = rig_with(FLAKE, Quotas::default());
    let error = rig.operate(&pool_create("acme/mvm-builder")).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
}

/// A rig whose command was killed while its builder worked.
fn killed() -> Rig {
    let rig = rig_with(FLAKE, Quotas { max_pools: 2, ..Quotas::default() });
    let died = |rig: &Rig| catch_unwind(AssertUnwindSafe(|| rig.operate(&build()))).is_err();
    let was_killed = endless(&rig, died, |rig| {
        let mut content = rig.world.look();
        content.crash_after = Some(0);
        content.building.is_endless = false;
    });
    assert!(was_killed, "it came through");
    rig.again()
}

#[test]
fn a_builder_that_a_killed_command_left_is_in_no_list_and_costs_no_place_of_a_pool() {
    let rig = killed();
    assert_eq!(rig.world.look().vmms.len(), 1, "nothing was left behind");
    let tenant: TenantId = "acme".parse().unwrap();
    assert_eq!(rig.engine.pools(None).unwrap().len(), 1);
    assert!(rig.engine.instances(&Filter::All).unwrap().is_empty());
    assert!(rig.engine.instances(&Filter::Tenant(tenant.clone())).unwrap().is_empty());
    assert_eq!(
        rig.engine.instances(&Filter::Pool(PoolRef::of_builders(&tenant))).unwrap().len(),
        1
    );
    let desired = rig.engine.desired(None).unwrap();
    assert_eq!(desired.tenants[0].pools.len(), 1);
    let view = rig.engine.tenant(&tenant).unwrap();
    assert_eq!((view.pools, view.instances), (1, 0));
    rig.operate(&pool_create("acme/web")).unwrap();
}

#[test]
fn a_builder_that_a_killed_command_left_goes_with_the_next_build() {
    let rig = killed();
    rig.operate(&build()).unwrap();
    assert_eq!(runs(&rig), 1, "what the killed one made is the answer");
    assert_clean(&rig, "after the next build");
}

#[test]
fn a_builder_that_a_killed_command_left_goes_with_the_litter() {
    let rig = killed();
    rig.operate(&Operation::NodeGc { keep: None }).unwrap();
    assert_clean(&rig, "after a collection");
}

#[test]
fn a_collection_does_not_disturb_a_build_at_work() {
    let rig = killed();
    let subject = mvm_core::id::Subject::Pool(PoolRef::of_builders(&"acme".parse().unwrap()));
    let held = rig.world.lock(&subject, Duration::ZERO).unwrap();
    rig.operate(&Operation::NodeGc { keep: None }).unwrap();
    assert_eq!(rig.world.look().vmms.len(), 1);
    drop(held);
}

#[test]
fn a_builder_that_a_killed_command_left_goes_with_its_tenant() {
    let rig = killed();
    let tenant = "acme".parse().unwrap();
    let volumes = VolumeFate::Delete;
    rig.operate(&Operation::TenantDestroy { tenant, force: true, volumes }).unwrap();
    assert_clean(&rig, "after its tenant");
}

#[test]
fn a_build_that_died_anywhere_is_whole_after_the_next() {
    let mut points = 0;
    for deaths in 0..1000 {
        let rig = rig_with(FLAKE, Quotas::default());
        rig.world.look().crash_after = Some(deaths);
        let died = catch_unwind(AssertUnwindSafe(|| drop(rig.operate(&build())))).is_err();
        rig.world.look().crash_after = None;
        let rig = rig.again();
        rig.operate(&build()).unwrap();
        rig.operate(&Operation::NodeGc { keep: None }).unwrap();
        assert_clean(&rig, &format!("after {deaths}"));
        points = deaths;
        if !died {
            break;
        }
    }
    assert!(points > 10, "only {points} points were tried");
}
