//! Every operation, with every fault at every port call, then the next command.

use std::sync::Arc;

use crate::harness::{
    Mvm, build_template, create_pool, create_tenant, destroy_all, instances, pool, quotas,
    rotate_live, scale, set_secrets, settle, simulation, step, template, tenant,
};
use mvm_core::{
    id::InstanceRef,
    instance::Drain,
    operation::Operation,
    state::{Move, State},
    units::Mib,
    volume::VolumeFate,
};
use mvm_sim::{
    fault::{Fault, Plan},
    process::Simulation,
};

/// How far things are before the operation under test.
#[derive(Debug, Clone, Copy)]
enum Stage {
    Empty,
    Tenant,
    /// A template that is not built.
    Template,
    Pool,
    Built,
    Instance(State),
    /// One that was asleep before.
    Woken,
    /// One that was destroyed, and whose volume was kept.
    Kept,
    Scaled,
    /// One that runs with secrets, one that is warm, one that sleeps.
    Secret,
    /// One whose tenant's secrets were rotated since it came into this state.
    Rotated(State),
}

impl Stage {
    /// How many of tenant, pool, build and instance there are.
    const fn depth(self) -> usize {
        match self {
            Self::Empty => 0,
            Self::Tenant | Self::Template => 1,
            Self::Pool => 2,
            Self::Built | Self::Scaled | Self::Secret => 3,
            Self::Instance(_) | Self::Woken | Self::Kept | Self::Rotated(_) => 4,
        }
    }
}

fn prepare(sim: &Arc<Simulation>, stage: Stage) -> Option<InstanceRef> {
    let mvm = Mvm::start(sim);
    let run = |operation: &Operation| {
        mvm.operate(operation).unwrap_or_else(|error| panic!("{operation:?}: {error}"))
    };
    let workers = pool("acme", "workers");
    let depth = stage.depth();
    if depth > 0 {
        run(&create_tenant("acme", quotas()));
    }
    if depth > 1 {
        run(&create_pool(workers.clone(), 64));
    }
    if depth > 2 {
        run(&Operation::build(workers.clone()));
    }
    if matches!(stage, Stage::Template) {
        run(&Operation::TemplateCreate(Box::new(template("web"))));
    }
    if matches!(stage, Stage::Scaled) {
        run(&scale(workers.clone(), 2, 1, 1));
    }
    if matches!(stage, Stage::Secret) {
        run(&set_secrets("acme"));
        run(&scale(workers.clone(), 1, 1, 1));
    }
    if depth > 3 {
        run(&Operation::InstanceCreate { pool: workers, publish: Vec::new(), volume: None });
    }
    let id = instances(&*sim.store).first().map(|record| record.instance.clone());
    let moves: &[Move] = match stage {
        Stage::Instance(State::Running) => &[Move::Start],
        Stage::Rotated(State::Warm) => &[Move::Start, Move::Warm],
        Stage::Rotated(_) => &[Move::Start, Move::Sleep],
        Stage::Instance(State::Warm) => &[Move::Start, Move::Warm],
        Stage::Instance(State::Sleeping) => &[Move::Start, Move::Sleep],
        Stage::Instance(State::Stopped) | Stage::Kept => &[Move::Start, Move::Stop],
        Stage::Woken => &[Move::Start, Move::Sleep, Move::Wake],
        Stage::Instance(State::Created | State::Ready | State::Destroyed)
        | Stage::Empty
        | Stage::Tenant
        | Stage::Template
        | Stage::Pool
        | Stage::Built
        | Stage::Scaled
        | Stage::Secret => &[],
    };
    for wish in moves {
        run(&step(id.as_ref().unwrap(), *wish));
    }
    if matches!(stage, Stage::Kept) {
        let instance = id.clone().unwrap();
        run(&Operation::InstanceDestroy { instance, volumes: VolumeFate::Keep });
    }
    if matches!(stage, Stage::Rotated(_)) {
        run(&set_secrets("acme"));
    }
    id
}

/// What is asked after the mishap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Same,
    Other(Move),
    Nothing,
}

type Make = dyn Fn(Option<&InstanceRef>) -> Operation;

struct Scenario {
    stage: Stage,
    make: Box<Make>,
    others: Vec<Move>,
}

fn attempt(
    scenario: &Scenario,
    plan: &Plan,
    then: Then,
    is_told: bool,
) -> (Arc<Simulation>, u64, Result<(), String>) {
    let sim = simulation(1);
    if is_told {
        sim.record();
    }
    let id = prepare(&sim, scenario.stage);
    let operation = (scenario.make)(id.as_ref());
    sim.note(|| format!("--- {operation:?}"));
    sim.arm(plan.clone());
    let first = Mvm::start(&sim).operate(&operation);
    let calls = sim.calls();
    if *plan == Plan::none()
        && let Err(error) = first
    {
        return (sim, calls, Err(format!("it fails on a whole machine: {error}")));
    }
    let next = match then {
        Then::Same => Some(operation),
        Then::Other(wish) => id.as_ref().map(|id| step(id, wish)),
        Then::Nothing => None,
    };
    if let Some(next) = next {
        sim.heal();
        sim.note(|| format!("--- then {next:?}"));
        let _ = Mvm::start(&sim).operate(&next);
    }
    let result = settle(&sim).and_then(|()| destroy_all(&sim));
    (sim, calls, result)
}

fn try_everything(scenario: &Scenario) {
    let (sim, calls, clean) = attempt(scenario, &Plan::none(), Then::Nothing, true);
    if let Err(why) = clean {
        panic!("without a fault: {why}\n{}", sim.transcript().join("\n"));
    }
    let thens = [Then::Same, Then::Nothing].into_iter();
    let thens: Vec<Then> =
        thens.chain(scenario.others.iter().map(|wish| Then::Other(*wish))).collect();
    let mut failures = Vec::new();
    for call in 0..calls {
        for fault in Fault::ALL {
            for then in &thens {
                let plan = Plan::at(call, fault);
                if attempt(scenario, &plan, *then, false).2.is_err() {
                    failures.push((call, fault, *then));
                }
            }
        }
    }
    if let Some((call, fault, then)) = failures.first() {
        let (sim, _, result) = attempt(scenario, &Plan::at(*call, *fault), *then, true);
        panic!(
            "{} of {} mishaps are not healed: {failures:?}\nthe first, {fault:?} at call {call}, \
             then {then:?}: {result:?}\n{}",
            failures.len(),
            calls * 16 * thens.len() as u64,
            sim.transcript().join("\n")
        );
    }
}

fn moves(stage: Stage, wish: Move, drain: Drain, others: &[Move]) {
    try_everything(&Scenario {
        stage,
        make: Box::new(move |id| Operation::InstanceMove {
            instance: id.unwrap().clone(),
            wish,
            drain,
        }),
        others: others.to_vec(),
    });
}

fn asks(stage: Stage, operation: Operation) {
    try_everything(&Scenario {
        stage,
        make: Box::new(move |_| operation.clone()),
        others: Vec::new(),
    });
}

#[test]
fn a_tenant_is_created_whatever_happens() {
    asks(Stage::Empty, create_tenant("acme", quotas()));
}

#[test]
fn a_pool_is_created_whatever_happens() {
    asks(Stage::Tenant, create_pool(pool("acme", "workers"), 64));
}

#[test]
fn a_pool_is_built_whatever_happens() {
    asks(Stage::Pool, Operation::build(pool("acme", "workers")));
}

#[test]
fn an_instance_is_created_whatever_happens() {
    asks(
        Stage::Built,
        Operation::InstanceCreate {
            pool: pool("acme", "workers"),
            publish: Vec::new(),
            volume: None,
        },
    );
}

#[test]
fn an_instance_starts_whatever_happens() {
    moves(Stage::Instance(State::Ready), Move::Start, Drain::Ask, &[Move::Stop, Move::Sleep]);
}

#[test]
fn an_instance_is_warmed_whatever_happens() {
    moves(Stage::Instance(State::Running), Move::Warm, Drain::Ask, &[Move::Sleep, Move::Wake]);
}

#[test]
fn a_warm_instance_wakes_whatever_happens() {
    moves(Stage::Instance(State::Warm), Move::Wake, Drain::Ask, &[Move::Sleep, Move::Stop]);
}

#[test]
fn a_running_instance_sleeps_whatever_happens() {
    let others = [Move::Wake, Move::Stop, Move::Warm];
    moves(Stage::Instance(State::Running), Move::Sleep, Drain::Ask, &others);
}

#[test]
fn a_woken_instance_sleeps_by_force_whatever_happens() {
    moves(Stage::Woken, Move::Sleep, Drain::Skip, &[Move::Wake]);
}

#[test]
fn a_warm_instance_sleeps_whatever_happens() {
    moves(Stage::Instance(State::Warm), Move::Sleep, Drain::Ask, &[Move::Wake, Move::Stop]);
}

#[test]
fn a_sleeping_instance_wakes_whatever_happens() {
    let others = [Move::Sleep, Move::Stop, Move::Warm];
    moves(Stage::Instance(State::Sleeping), Move::Wake, Drain::Ask, &others);
}

#[test]
fn a_running_instance_stops_whatever_happens() {
    moves(Stage::Woken, Move::Stop, Drain::Ask, &[Move::Start]);
}

#[test]
fn a_warm_instance_stops_whatever_happens() {
    moves(Stage::Instance(State::Warm), Move::Stop, Drain::Ask, &[Move::Start]);
}

#[test]
fn a_sleeping_instance_stops_whatever_happens() {
    moves(Stage::Instance(State::Sleeping), Move::Stop, Drain::Ask, &[Move::Start]);
}

#[test]
fn an_instance_is_destroyed_whatever_happens() {
    for state in [State::Ready, State::Running, State::Warm, State::Sleeping, State::Stopped] {
        moves(Stage::Instance(state), Move::Destroy, Drain::Ask, &[]);
    }
}

#[test]
fn a_pool_is_scaled_whatever_happens() {
    asks(Stage::Built, scale(pool("acme", "workers"), 1, 1, 1));
    asks(Stage::Scaled, scale(pool("acme", "workers"), 1, 0, 2));
}

#[test]
fn secrets_are_set_whatever_happens() {
    asks(Stage::Scaled, set_secrets("acme"));
}

#[test]
fn secrets_are_rotated_under_running_guests_whatever_happens() {
    asks(Stage::Secret, rotate_live("acme"));
}

#[test]
fn guests_wake_with_new_secrets_whatever_happens() {
    let sleepy = |id: Option<&InstanceRef>| step(id.unwrap(), Move::Wake);
    for state in [State::Warm, State::Sleeping] {
        try_everything(&Scenario {
            stage: Stage::Rotated(state),
            make: Box::new(sleepy),
            others: vec![Move::Stop, Move::Sleep],
        });
    }
}

#[test]
fn a_tenant_is_destroyed_whatever_happens() {
    asks(
        Stage::Scaled,
        Operation::TenantDestroy {
            tenant: tenant("acme"),
            force: true,
            volumes: VolumeFate::Delete,
        },
    );
}

#[test]
fn a_volume_is_kept_or_wiped_whatever_happens() {
    for volumes in [VolumeFate::Keep, VolumeFate::Wipe] {
        for state in [State::Ready, State::Running, State::Sleeping, State::Stopped] {
            try_everything(&Scenario {
                stage: Stage::Instance(state),
                make: Box::new(move |id| Operation::InstanceDestroy {
                    instance: id.unwrap().clone(),
                    volumes,
                }),
                others: Vec::new(),
            });
        }
    }
}

#[test]
fn a_kept_volume_is_given_away_or_removed_whatever_happens() {
    let name = |id: Option<&InstanceRef>| id.unwrap().instance.as_str().parse().unwrap();
    try_everything(&Scenario {
        stage: Stage::Kept,
        make: Box::new(move |id| Operation::InstanceCreate {
            pool: pool("acme", "workers"),
            publish: Vec::new(),
            volume: Some(name(id)),
        }),
        others: Vec::new(),
    });
    for wipe in [false, true] {
        try_everything(&Scenario {
            stage: Stage::Kept,
            make: Box::new(move |id| Operation::VolumeRemove { volume: name(id), wipe }),
            others: Vec::new(),
        });
    }
}

#[test]
fn a_volume_grows_whatever_happens() {
    for state in [State::Running, State::Sleeping, State::Stopped] {
        try_everything(&Scenario {
            stage: Stage::Instance(state),
            make: Box::new(|id| Operation::InstanceGrow {
                instance: id.unwrap().clone(),
                data_disk: Mib(128),
            }),
            others: vec![Move::Sleep, Move::Wake, Move::Stop, Move::Start],
        });
    }
}

#[test]
fn a_template_is_made_built_and_deleted_whatever_happens() {
    asks(Stage::Tenant, Operation::TemplateCreate(Box::new(template("web"))));
    asks(Stage::Template, build_template("web"));
    asks(Stage::Template, Operation::TemplateDelete { template: "web".parse().unwrap() });
}

#[test]
fn a_key_is_rotated_whatever_happens() {
    asks(Stage::Scaled, Operation::TenantKeyRotate { tenant: tenant("acme") });
}

#[test]
fn a_key_that_sealed_secrets_is_rotated_whatever_happens() {
    asks(Stage::Secret, Operation::TenantKeyRotate { tenant: tenant("acme") });
}
