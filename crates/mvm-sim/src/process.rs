//! One simulated `mvm`: its ports, each with a gate where it may die.
//!
//! A dead process gets [`died`] from every port and holds no lock; a new one over the same
//! [`Simulation`] finds what it left. After every call the guests work a little and every invariant
//! is checked. What went wrong where is in the transcript when one is kept.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use mvm_core::{
    Error, ErrorKind,
    id::{ImageHash, InstanceId},
    observed::{Ending, SnapshotPhase},
    port::Store,
};

use crate::{
    chance::Chance,
    clock::SimClock,
    disk::{Content, Path},
    fault::{Fault, Plan},
    guest::SimGuest,
    host::SimHost,
    invariant::Monitor,
    locks::SimLocks,
    turns::Turns,
    world::{Machine, World},
};

mod ports;

/// What all processes of one simulation share.
pub struct Simulation {
    /// The machine.
    pub machine: Machine,
    /// Its time.
    pub clock: SimClock,
    /// Its locks.
    pub locks: SimLocks,
    /// The store, behind no gate.
    pub store: Arc<dyn Store>,
    /// The one image that its builder makes.
    pub image: ImageHash,
    course: Mutex<Course>,
    boots: AtomicU64,
    processes: AtomicU64,
}

struct Course {
    calls: u64,
    plan: Plan,
    broken: Vec<String>,
    chance: Chance,
    monitor: Monitor,
    transcript: Option<Vec<String>>,
}

/// One call through a gate.
struct Call {
    name: String,
    instance: Option<InstanceId>,
}

/// What every port of a dead process answers.
#[must_use]
pub fn died() -> Error {
    Error::new(ErrorKind::Failed, "the simulated process is dead")
}

impl Simulation {
    /// A machine with nothing on it but `image`, over an empty `store`.
    #[must_use]
    pub fn new(seed: u64, store: Arc<dyn Store>, image: ImageHash) -> Arc<Self> {
        Arc::new(Self {
            machine: Machine::with_image(image.clone()),
            clock: SimClock::new(seed),
            locks: SimLocks::default(),
            store,
            image,
            course: Mutex::new(Course {
                calls: 0,
                plan: Plan::none(),
                broken: Vec::new(),
                chance: Chance::new(seed ^ 0x5eed),
                monitor: Monitor::default(),
                transcript: None,
            }),
            boots: AtomicU64::new(0),
            processes: AtomicU64::new(0),
        })
    }

    fn course(&self) -> MutexGuard<'_, Course> {
        self.course.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts calls from 0 again, under another plan.
    pub fn arm(&self, plan: Plan) {
        let mut course = self.course();
        course.calls = 0;
        course.plan = plan;
    }

    /// Nothing goes wrong any more, and what lasts is put right: room on the disk, answers.
    pub fn heal(&self) {
        self.course().plan = Plan::none();
        self.heal_lasting();
    }

    /// What lasts is put right, and more may go wrong.
    pub fn heal_lasting(&self) {
        let mut course = self.course();
        course.broken.clear();
        let mut world = self.machine.world();
        world.disk.full = false;
        for vmm in world.vmms.values_mut() {
            if let Some(guest) = &mut vmm.guest {
                guest.agent_answers = true;
                guest.refuses_drain = None;
            }
        }
    }

    /// Every act of this name, as in the transcript (`ask wake`), fails until it is healed.
    pub fn break_act(&self, name: &str) {
        self.course().broken.push(name.to_owned());
    }

    /// How many calls passed since the plan was armed.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.course().calls
    }

    /// Keeps a transcript from here on.
    pub fn record(&self) {
        self.course().transcript.get_or_insert_with(Vec::new);
    }

    /// Adds a line to the transcript, if one is kept.
    pub fn note(&self, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.course().transcript {
            lines.push(line());
        }
    }

    /// The transcript so far.
    #[must_use]
    pub fn transcript(&self) -> Vec<String> {
        self.course().transcript.clone().unwrap_or_default()
    }

    /// Every law that was broken so far.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.course().monitor.violations.clone()
    }

    /// Checks what must hold when nothing is under way; violations are kept with the others.
    pub fn check_rest(&self) {
        let mut course = self.course();
        course.monitor.refresh(&*self.store);
        let held = self.locks.held();
        course.monitor.check_rest(&self.machine.world(), &held);
    }
}

/// A process; cloning shares it.
#[derive(Clone)]
pub struct Process {
    sim: Arc<Simulation>,
    host: SimHost,
    guest: SimGuest,
    id: u64,
    boot: u64,
    is_dead: Arc<AtomicBool>,
    seat: Option<(u64, Arc<Turns>)>,
}

impl Process {
    /// A new process.
    #[must_use]
    pub fn start(sim: &Arc<Simulation>) -> Self {
        Self {
            sim: Arc::clone(sim),
            host: SimHost::new(sim.machine.clone()),
            guest: SimGuest::new(sim.machine.clone()),
            id: sim.processes.fetch_add(1, Ordering::SeqCst),
            boot: sim.boots.load(Ordering::SeqCst),
            is_dead: Arc::default(),
            seat: None,
        }
    }

    /// The process takes turns with others.
    #[must_use]
    pub fn seated(mut self, seat: u64, turns: Arc<Turns>) -> Self {
        self.seat = Some((seat, turns));
        self
    }

    /// Its number, from 0.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// Whether it died.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.is_dead.load(Ordering::SeqCst) || self.boot != self.sim.boots.load(Ordering::SeqCst)
    }

    fn die(&self) {
        self.is_dead.store(true, Ordering::SeqCst);
        self.sim.locks.release_all(self.id);
    }

    fn pass(&self) {
        if let Some((seat, turns)) = &self.seat {
            turns.pass(*seat);
        }
    }

    /// Takes one call through the gate.
    fn through<T>(&self, call: &Call, act: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        self.pass();
        if self.is_dead() {
            return Err(died());
        }
        let fault = self.begin(call);
        if let Some(fault) = fault {
            self.before(call, fault)?;
        }
        let result = if self.is_broken(call) {
            Err(Error::new(ErrorKind::Failed, format!("simulated failure: {}", call.name)))
        } else {
            act()
        };
        if fault == Some(Fault::DieDuring) {
            self.tear(call);
        }
        self.end(call, &result);
        match fault {
            Some(Fault::DieAfter | Fault::DieDuring) => {
                self.die();
                Err(died())
            }
            Some(Fault::LoseReply) => result.and_then(|_| {
                Err(Error::new(ErrorKind::Failed, format!("simulated lost reply: {}", call.name)))
            }),
            Some(_) | None => result,
        }
    }

    fn begin(&self, call: &Call) -> Option<Fault> {
        let mut course = self.sim.course();
        let number = course.calls;
        course.calls += 1;
        let mut fault = course.plan.get(number);
        // Only a snapshot can be left half-done; for all else dying in the act is dying before it.
        if fault == Some(Fault::DieDuring) && !call.name.ends_with("write_snapshot") {
            fault = Some(Fault::DieBefore);
        }
        if fault.is_some() {
            course.monitor.is_troubled = true;
        }
        if let (Some(lines), Some(fault)) = (&mut course.transcript, fault) {
            lines.push(format!("      !! {fault:?}"));
        }
        fault
    }

    fn is_broken(&self, call: &Call) -> bool {
        self.sim.course().broken.contains(&call.name)
    }

    /// What the fault does before the act; an error ends the call.
    fn before(&self, call: &Call, fault: Fault) -> Result<(), Error> {
        match fault {
            Fault::DieBefore => {
                self.die();
                Err(died())
            }
            Fault::DieAfter | Fault::DieDuring | Fault::LoseReply => Ok(()),
            Fault::FailOnce => {
                Err(Error::new(ErrorKind::Failed, format!("simulated failure: {}", call.name)))
            }
            Fault::FailForever => {
                self.sim.course().broken.push(call.name.clone());
                Ok(())
            }
            Fault::Reboot | Fault::PowerCut => {
                self.restart(fault);
                Err(died())
            }
            Fault::ClockJump(seconds) => {
                self.sim.clock.jump(i64::from(seconds) * 1000);
                Ok(())
            }
            Fault::KillVmm
            | Fault::KillShim
            | Fault::KillBoth
            | Fault::DiskFull
            | Fault::GuestSilent
            | Fault::GuestRefuses
            | Fault::AlterFirewall => {
                hurt(&mut self.sim.machine.world(), call.instance.as_ref(), fault);
                Ok(())
            }
        }
    }

    /// Everything volatile is gone, and every process with it.
    fn restart(&self, fault: Fault) {
        self.sim.boots.fetch_add(1, Ordering::SeqCst);
        for process in 0..=self.id.max(self.sim.processes.load(Ordering::SeqCst)) {
            self.sim.locks.release_all(process);
        }
        let mut course = self.sim.course();
        let mut world = self.sim.machine.world();
        if fault == Fault::Reboot {
            world.reboot();
        } else if course.chance.one_in(2) {
            world.power_cut(None);
        } else {
            world.power_cut(Some(&mut course.chance));
        }
    }

    /// The process died while it wrote: no partial snapshot of that instance is whole; those that others
    /// write meanwhile are.
    fn tear(&self, call: &Call) {
        let mut world = self.sim.machine.world();
        let partial: Vec<(Path, Content)> = world
            .disk
            .iter()
            .filter_map(|(path, content)| {
                let (Path::Snapshot(of, _), Content::Snapshot(snapshot)) = (path, content) else {
                    return None;
                };
                let mut torn = snapshot.clone();
                torn.complete = false;
                let is_partial = torn.phase == SnapshotPhase::Partial
                    && call.instance.as_ref() == Some(&of.instance);
                is_partial.then(|| (path.clone(), Content::Snapshot(torn)))
            })
            .collect();
        for (path, content) in partial {
            world.disk.put(path, content);
        }
    }

    fn end<T>(&self, call: &Call, result: &Result<T, Error>) {
        self.sim.clock.advance(Duration::from_millis(1));
        let mut course = self.sim.course();
        let mut world = self.sim.machine.world();
        world.tick();
        let before = course.monitor.violations.len();
        course.monitor.check(&mut world);
        if let Some(lines) = &mut course.transcript {
            let said = result.as_ref().err().map_or_else(String::new, |error| format!(": {error}"));
            lines.push(format!("    [{}] {}{said}", self.id, call.name));
        }
        let news: Vec<String> = course.monitor.violations.iter().skip(before).cloned().collect();
        if let Some(lines) = &mut course.transcript {
            lines.extend(news.into_iter().map(|what| format!("      VIOLATION {what}")));
        }
    }
}

/// A fault of the machine, to the instance concerned or to the first there is.
fn hurt(world: &mut World, concerned: Option<&InstanceId>, fault: Fault) {
    let id = concerned
        .filter(|id| world.vmms.contains_key(*id))
        .or_else(|| world.vmms.keys().next())
        .cloned();
    match (fault, id) {
        (Fault::DiskFull, _) => world.disk.full = true,
        (Fault::AlterFirewall, _) => world.firewall_altered = world.firewall.is_some(),
        (Fault::KillVmm, Some(id)) => world.end_vmm(&id, Ending::Signaled(9)),
        (Fault::KillShim, Some(id)) => world.end_shim(&id),
        (Fault::KillBoth, Some(id)) => {
            world.end_shim(&id);
            world.end_vmm(&id, Ending::Signaled(9));
        }
        (Fault::GuestSilent | Fault::GuestRefuses, Some(id)) => {
            if let Some(guest) = world.vmms.get_mut(&id).and_then(|vmm| vmm.guest.as_mut()) {
                if fault == Fault::GuestSilent {
                    guest.agent_answers = false;
                } else {
                    guest.refuses_drain = Some("busy".to_owned());
                }
            }
        }
        (_, _) => {}
    }
}
