//! Several engines, random commands and random faults, from a seed.
//!
//! `MVM_SIM_SEEDS=n` tries the seeds 0 to n-1 (200 by default); `MVM_SIM_SEED=n` tries one and
//! prints its transcript.

#![expect(
    clippy::disallowed_methods,
    reason = "R3 is for what is simulated; the test takes its seeds from the environment and times itself"
)]

use std::{
    sync::{Arc, Mutex},
    thread,
    time::Instant,
};

use crate::harness::{
    Mvm, create_pool, create_tenant, destroy_all, instances, pool, pools, quotas, scale, settle,
    simulation, tenant, tenants, volumes,
};
use mvm_core::{
    instance::Drain,
    operation::Operation,
    pool::{PoolChange, RevisionName, RollFailure, RollPace},
    quota::Quotas,
    state::Move,
    units::{Mib, Seconds, Vcpus},
    volume::VolumeFate,
};
use mvm_sim::{
    chance::Chance,
    fault::Plan,
    process::{Process, Simulation},
    turns::Turns,
};

/// Commands of one seed, all processes together.
const COMMANDS: u64 = 300;
const TENANTS: [&str; 2] = ["acme", "bolt"];
const POOLS: [&str; 2] = ["web", "work"];
const MOVES: [Move; 6] =
    [Move::Start, Move::Warm, Move::Sleep, Move::Wake, Move::Stop, Move::Destroy];

fn tight() -> Quotas {
    Quotas {
        max_vcpus: Vcpus(6),
        max_running: 4,
        max_warm: 2,
        max_pools: 2,
        max_instances_per_pool: 4,
        ..quotas()
    }
}

#[expect(clippy::too_many_lines, reason = "one arm for every kind of command")]
fn choose(chance: &mut Chance, sim: &Simulation) -> Operation {
    let name = *chance.pick(&TENANTS).unwrap();
    let workers = pool(name, chance.pick(&POOLS).unwrap());
    let known = instances(&*sim.store);
    let drain = if chance.one_in(4) { Drain::Skip } else { Drain::Ask };
    let shelf = volumes(&*sim.store);
    let fate = *chance.pick(&[VolumeFate::Delete, VolumeFate::Keep, VolumeFate::Wipe]).unwrap();
    match chance.below(47) {
        40 => Operation::TenantKeyRotate { tenant: tenant(name) },
        41 | 42 => match chance.pick(&known) {
            Some(one) => Operation::InstanceGrow {
                instance: one.instance.clone(),
                data_disk: Mib(one.resources.data_disk_mib.0 + 32),
            },
            None => Operation::build(workers),
        },
        43 | 44 => match chance.pick(&known) {
            Some(one) => {
                Operation::InstanceDestroy { instance: one.instance.clone(), volumes: fate }
            }
            None => Operation::build(workers),
        },
        45 => Operation::InstanceCreate {
            pool: workers,
            publish: Vec::new(),
            volume: chance.pick(&shelf).map(|one| one.volume.clone()),
        },
        46 => match chance.pick(&shelf) {
            Some(one) => {
                Operation::VolumeRemove { volume: one.volume.clone(), wipe: chance.one_in(2) }
            }
            None => Operation::PoolDestroy { pool: workers, force: true, volumes: fate },
        },
        0 => Operation::TenantDestroy {
            tenant: tenant(name),
            force: !chance.one_in(3),
            volumes: VolumeFate::Delete,
        },
        1 => Operation::PoolDestroy {
            pool: workers,
            force: !chance.one_in(3),
            volumes: VolumeFate::Delete,
        },
        2..=4 => create_tenant(name, tight()),
        5..=7 => {
            let disk = if chance.one_in(3) { 0 } else { 64 };
            create_pool(workers, disk)
        }
        8..=9 => Operation::build(workers),
        10..=13 => Operation::InstanceCreate { pool: workers, publish: Vec::new(), volume: None },
        14..=17 => {
            let mut count = || u32::try_from(chance.below(3)).unwrap();
            scale(workers, count(), count(), count())
        }
        18 => match chance.below(5) {
            0 => Operation::NodeGc { keep: None },
            1 => Operation::PoolGc { pool: workers, keep: Some(1) },
            2 => Operation::PoolRollback { pool: workers, revision: RevisionName::Ordinal(1) },
            4 => Operation::PoolRoll {
                pool: workers,
                pace: RollPace { batch: 2, timeout: Seconds(3), soak: Seconds(1) },
                on_failure: RollFailure::Return,
            },
            3.. => Operation::PoolUpdate {
                pool: workers,
                change: Box::new(PoolChange { mem_mib: Some(Mib(64)), ..PoolChange::default() }),
            },
        },
        _ => {
            let destroys = chance.one_in(6);
            let moves = if destroys { &MOVES[..] } else { &MOVES[..5] };
            let wish = *chance.pick(moves).unwrap();
            match chance.pick(&known) {
                Some(one) => {
                    Operation::InstanceMove { instance: one.instance.clone(), wish, drain }
                }
                None => Operation::build(workers),
            }
        }
    }
}

/// A tenant with a built pool each, so that the commands have something to work on.
fn furnish(sim: &Arc<Simulation>) {
    let mvm = Mvm::start(sim);
    for name in TENANTS {
        let web = pool(name, "web");
        mvm.operate(&create_tenant(name, tight())).unwrap();
        mvm.operate(&create_pool(web.clone(), 64)).unwrap();
        mvm.operate(&Operation::build(web.clone())).unwrap();
        mvm.operate(&scale(web, 1, 1, 1)).unwrap();
    }
}

/// One command after the other; a process that dies is followed by another.
fn command_line(sim: &Arc<Simulation>, commands: u64, seed: u64, seat: Option<(u64, Arc<Turns>)>) {
    let mut chance = Chance::new(seed);
    let fresh = || match &seat {
        Some((number, turns)) => Mvm::over(Process::start(sim).seated(*number, Arc::clone(turns))),
        None => Mvm::start(sim),
    };
    if let Some((number, turns)) = &seat {
        turns.join(*number);
    }
    let mut mvm = fresh();
    for _ in 0..commands {
        if mvm.process.is_dead() || chance.one_in(8) {
            mvm = fresh();
        }
        let operation = choose(&mut chance, sim);
        sim.note(|| format!("[{}] {operation:?}", mvm.process.id()));
        let answer = mvm.operate(&operation);
        if let Err(error) = answer {
            sim.note(|| format!("[{}] = {error}", mvm.process.id()));
        }
        if chance.one_in(20) {
            sim.heal_lasting();
        }
        if !sim.violations().is_empty() {
            break;
        }
    }
    if let Some((number, turns)) = &seat {
        turns.leave(*number);
    }
}

fn play(seed: u64, is_told: bool) -> (Arc<Simulation>, Result<(), String>) {
    let sim = simulation(seed);
    furnish(&sim);
    if is_told {
        sim.record();
    }
    let mut chance = Chance::new(seed);
    // Every fourth seed is whole, so that quotas and contention are tested for themselves.
    if !seed.is_multiple_of(4) {
        let every = 20 + chance.below(300);
        sim.arm(Plan::random(&mut chance, COMMANDS * 60, every));
    }
    let processes = *chance.pick(&[1, 2, 3, 8]).unwrap();
    if processes == 1 {
        command_line(&sim, COMMANDS, chance.next(), None);
    } else {
        let turns = Arc::new(Turns::new(usize::try_from(processes).unwrap(), chance.next()));
        let seeds: Vec<u64> = (0..processes).map(|_| chance.next()).collect();
        thread::scope(|scope| {
            for (seat, own) in (0..processes).zip(seeds) {
                let (sim, turns) = (&sim, Arc::clone(&turns));
                scope.spawn(move || {
                    command_line(sim, COMMANDS / processes, own, Some((seat, turns)));
                });
            }
        });
    }
    let violations = sim.violations();
    if !violations.is_empty() {
        return (sim, Err(violations.join("\n")));
    }
    let settled = settle(&sim).and_then(|()| destroy_all(&sim));
    let is_empty = tenants(&*sim.store).is_empty() && pools(&*sim.store).is_empty();
    let result =
        settled.and_then(|()| if is_empty { Ok(()) } else { Err("records are left".to_owned()) });
    (sim, result)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn tell(seed: u64) -> ! {
    let (sim, result) = play(seed, true);
    let lines = sim.transcript();
    let start =
        lines.len().saturating_sub(if number("MVM_SIM_SEED").is_some() { 1 << 20 } else { 200 });
    panic!(
        "seed {seed} (replay: MVM_SIM_SEED={seed}):\n{}\n=> {result:?}",
        lines[start..].join("\n")
    );
}

#[test]
fn random_commands_under_random_faults_break_no_law_and_come_to_rest() {
    if let Some(seed) = number("MVM_SIM_SEED") {
        tell(seed);
    }
    let count = number("MVM_SIM_SEEDS").unwrap_or(200);
    let begin = Instant::now();
    let failed: Mutex<Vec<(u64, String)>> = Mutex::default();
    let next = std::sync::atomic::AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    if seed >= count {
                        return;
                    }
                    if let Err(why) = play(seed, false).1 {
                        failed.lock().unwrap().push((seed, why));
                    }
                }
            });
        }
    });
    eprintln!("{count} seeds of {COMMANDS} commands in {:?}", begin.elapsed());
    let mut failed = failed.into_inner().unwrap();
    failed.sort();
    if let Some((seed, _)) = failed.first() {
        for (seed, why) in &failed {
            eprintln!("seed {seed}: {}", why.lines().next().unwrap_or(""));
        }
        tell(*seed);
    }
}
