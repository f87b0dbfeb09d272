//! Dev mode: one microVM for a person, an ordinary instance under a fixed address.
//!
//! ```text
//! start ─▶ pool local/dev as asked ─▶ its build ─▶ its one instance ─▶ start or wake ─▶ volumes
//! run   ─▶ pool mvm-run/r-… ─▶ its build ─▶ its one instance ─▶ start ─▶ command ─▶ pool destroyed
//! ```
//!
//! Every act is an operation that a person could ask for, and each looks at what there is first: repeated
//! after a success it finds nothing to do, after a crash it goes on. It refuses to know how an instance
//! comes to life, and where microVMs run.

mod image;
mod inside;
mod runtime;
mod ssh;
mod steps;
mod throwaway;
mod volumes;

use std::net::Ipv4Addr;

use mvm_core::{
    error::{Error, ErrorKind},
    id::{PoolRef, TenantId},
    instance::{Drain, Instance, Want},
    layout::data,
    operation::{NewPool, Operation},
    pool::{Pool, PoolChange, PoolPolicy, Resources, Source},
    port::{ExecRequest, ProgressStep},
    state::{Move, State},
    units::{Mib, Vcpus},
    volume::{Volume, VolumeFate, VolumeStage},
};
use mvm_engine::{
    Context,
    query::{Filter, InstanceView},
};

pub use runtime::{DevAsk, VolumeAsk};
pub use steps::{Answer, Ground, Step, Vm, enter, prepare};
pub use throwaway::RunAsk;

use crate::{Config, Mvm};

/// The address of the dev VM.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 2);
/// vCPUs of a VM that nobody said more about.
const VCPUS: Vcpus = Vcpus(2);
/// Memory of a VM that nobody said more about.
const MEMORY: Mib = Mib(1024);

/// Dev mode.
///
/// # Errors
/// As the operations that each is made of.
#[expect(clippy::missing_errors_doc, reason = "the errors are documented once, above")]
impl Mvm {
    /// The dev VM in its true state, if there is one.
    pub fn dev(&self) -> Result<Option<InstanceView>, Error> {
        match self.instance_list(&Filter::Pool(PoolRef::of_dev())) {
            Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
            found => Ok(found?.into_iter().find(|one| one.record.want != Want::Destroyed)),
        }
    }

    /// What the dev VM is, with a word to its agent if it runs.
    pub fn dev_state(&self, cx: &Context) -> Result<Vm, Error> {
        let vm = self.dev()?;
        let state = vm.as_ref().map(|vm| vm.record.state);
        let answer = match &vm {
            Some(vm) if vm.record.state == State::Running => self.answers(cx, &vm.record)?,
            Some(_) | None => Answer::None,
        };
        Ok(Vm::of(state, answer))
    }

    /// Makes, starts or wakes the dev VM, as asked. What was done is returned; nothing when it runs.
    pub fn dev_start(&self, cx: &Context, ask: &DevAsk) -> Result<Vec<Step>, Error> {
        let source = ask.image.as_deref().map(image::source).transpose()?;
        let steps = enter(self.dev_state(cx)?);
        let wanted = self.wanted(ask, source)?;
        let mut done = Vec::new();
        for step in steps.iter().filter(|step| **step != Step::Enter) {
            say(cx, *step);
            match step {
                Step::Stop => self.dev_move(cx, Move::Stop)?,
                Step::Wake => {
                    self.keep(cx, ask, &wanted)?;
                    self.dev_move(cx, Move::Wake)?;
                }
                Step::Make => self.make(cx, ask, &wanted)?,
                Step::Start => {
                    if !done.contains(&Step::Make) {
                        self.make(cx, ask, &wanted)?;
                    }
                    self.dev_move(cx, Move::Start)?;
                }
                Step::Bootstrap | Step::SetUp | Step::StartMachine | Step::Enter => {}
            }
            done.push(*step);
        }
        if done.is_empty() {
            self.keep(cx, ask, &wanted)?;
        }
        self.mount_volumes(cx, &wanted.policy)?;
        Ok(done)
    }

    /// Stops the dev VM; nothing when it rests.
    pub fn dev_stop(&self, cx: &Context) -> Result<Vec<Step>, Error> {
        let Some(vm) = self.dev()? else { return Ok(Vec::new()) };
        if matches!(vm.record.state, State::Created | State::Ready | State::Stopped) {
            return Ok(Vec::new());
        }
        self.dev_move(cx, Move::Stop)?;
        Ok(vec![Step::Stop])
    }

    /// Destroys the dev VM with its volumes, what runs of `mvm run` are there, and both networks.
    pub fn dev_destroy(&self, cx: &Context) -> Result<(), Error> {
        for tenant in [TenantId::local(), TenantId::runs()] {
            let operation =
                Operation::TenantDestroy { tenant, force: true, volumes: VolumeFate::Delete };
            match self.operate(cx, &operation) {
                Err(error) if error.kind == ErrorKind::NotFound => {}
                done => done?.error().map_or(Ok(()), Err)?,
            }
        }
        for volume in self.dev_volumes()? {
            self.volume_remove(cx, &volume.volume, false)?;
        }
        Ok(())
    }

    /// The dev VM, for what needs it to run.
    pub fn dev_running(&self) -> Result<Instance, Error> {
        let Some(vm) = self.dev()? else {
            return Err(
                Error::new(ErrorKind::NotFound, "there is no dev VM").hint("make one: mvm start")
            );
        };
        if vm.record.state == State::Running {
            return Ok(vm.record);
        }
        let message = format!("the dev VM is {}, not Running", vm.record.state);
        let error = Error::new(ErrorKind::Conflict, message);
        let error = match vm.record.last_failure {
            Some(failure) => error.hint(format!("it died: {}", failure.reason)),
            None => error,
        };
        Err(error.hint("start or wake it: mvm start"))
    }

    fn answers(&self, cx: &Context, record: &Instance) -> Result<Answer, Error> {
        let argv = vec!["/bin/true".to_owned()];
        let request = ExecRequest { argv, env: Vec::new(), cwd: None, user: None, terminal: None };
        match self.instance_exec(cx, &record.instance, &request, inside::Said::default().streams())
        {
            Ok(_) => Ok(Answer::Given),
            Err(error) if error.kind == ErrorKind::Unavailable => Ok(Answer::None),
            Err(error) => Err(error),
        }
    }

    fn dev_move(&self, cx: &Context, wish: Move) -> Result<(), Error> {
        let Some(vm) = self.dev()? else { return Ok(()) };
        self.instance_move(cx, &vm.record.instance, wish, Drain::Ask).map(drop)
    }

    /// The dev VM's pool as it shall be.
    fn wanted(&self, ask: &DevAsk, source: Option<Source>) -> Result<NewPool, Error> {
        let id = PoolRef::of_dev();
        let present = match self.pool_info(&id) {
            Ok(view) if !view.record.destroying => Some(view.record),
            Ok(_) => None,
            Err(error) if error.kind == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let (old, size, mut policy) = match present {
            Some(Pool { source, instance_resources, policy, .. }) => {
                (source, instance_resources, policy)
            }
            None => (
                Source::Image(image::DEFAULT.to_owned()),
                Resources::new(VCPUS, MEMORY, Mib(0)),
                // It is a person's: nobody else starts, stops or parks it.
                PoolPolicy { pinned: true, critical: true, ..PoolPolicy::default() },
            ),
        };
        volumes::note(&mut policy, &ask.volumes);
        let resources = Resources {
            vcpus: ask.cpus.unwrap_or(size.vcpus),
            mem_mib: ask.memory.unwrap_or(size.mem_mib),
            data_disk_mib: volumes::disk(&policy)?,
            ..size
        };
        resources.validate()?;
        let pool = NewPool::of_workers(id, source.unwrap_or(old), resources);
        Ok(NewPool { policy, ..pool })
    }

    /// Refuses what a VM that lives cannot become, and notes where its volumes shall be.
    fn keep(&self, cx: &Context, ask: &DevAsk, wanted: &NewPool) -> Result<(), Error> {
        let (Some(vm), pool) = (self.dev()?, self.pool_info(&wanted.pool)?.record) else {
            return Ok(());
        };
        let has = vm.record.resources;
        let differs = [
            ("--cpus", ask.cpus.is_some_and(|cpus| cpus != has.vcpus)),
            ("--memory", ask.memory.is_some_and(|memory| memory != has.mem_mib)),
            ("--volume", wanted.resources.data_disk_mib > has.data_disk_mib),
            ("image", ask.image.is_some() && wanted.source != pool.source),
        ];
        if let Some((what, _)) = differs.into_iter().find(|(_, differs)| *differs) {
            let message =
                format!("the dev VM is {} and was started with another {what}", vm.record.state);
            return Err(Error::new(ErrorKind::Conflict, message).hint("stop it first: mvm stop"));
        }
        if wanted.policy == pool.policy {
            return Ok(());
        }
        let policy = Some(wanted.policy.clone());
        let change = PoolChange { policy, ..PoolChange::default() };
        self.pool_update(cx, &wanted.pool, change).map(drop)
    }

    /// What of a pool is not as it shall be.
    fn change(wanted: &NewPool, is: &Pool) -> Option<PoolChange> {
        let (to, from) = (wanted.resources, is.instance_resources);
        let change = PoolChange {
            source: (wanted.source != is.source).then(|| wanted.source.clone()),
            vcpus: (to.vcpus != from.vcpus).then_some(to.vcpus),
            mem_mib: (to.mem_mib != from.mem_mib).then_some(to.mem_mib),
            data_disk_mib: (to.data_disk_mib != from.data_disk_mib).then_some(to.data_disk_mib),
            policy: (wanted.policy != is.policy).then(|| wanted.policy.clone()),
            ..PoolChange::default()
        };
        (change != PoolChange::default()).then_some(change)
    }

    /// Makes pool, build and instance what is wanted, while the VM rests or is not there.
    fn make(&self, cx: &Context, ask: &DevAsk, wanted: &NewPool) -> Result<(), Error> {
        let id = &wanted.pool;
        let found = match self.pool_info(id) {
            Err(error) if error.kind == ErrorKind::NotFound => None,
            found => Some(found?.record),
        };
        let found = match found {
            Some(pool) if pool.destroying => {
                self.pool_destroy(cx, id, true, VolumeFate::Delete)?.error().map_or(Ok(()), Err)?;
                None
            }
            found => found,
        };
        match &found {
            None => drop(self.pool_create(cx, wanted.clone())?),
            Some(pool) => {
                if let Some(change) = Self::change(wanted, pool) {
                    self.pool_update(cx, id, change)?;
                }
            }
        }
        if ask.image.is_some() || found.is_none_or(|pool| pool.current().is_none()) {
            self.pool_build(cx, id)?;
        }
        self.make_instance(cx, wanted)
    }

    /// The one instance, of the wanted size; another size is another instance with the same volume.
    fn make_instance(&self, cx: &Context, wanted: &NewPool) -> Result<(), Error> {
        let size = wanted.resources;
        let mut present = None;
        for one in self.instance_list(&Filter::Pool(wanted.pool.clone()))? {
            let record = one.record;
            let has = record.resources;
            let stays = (has.vcpus, has.mem_mib) == (size.vcpus, size.mem_mib);
            if stays && record.want != Want::Destroyed {
                present = Some(record);
                continue;
            }
            let keeps = has.data_disk_mib.0 > 0;
            let fate = if keeps { VolumeFate::Keep } else { VolumeFate::Delete };
            self.instance_destroy(cx, &record.instance, fate)?;
        }
        let record = match present {
            Some(record) => record,
            None => {
                let volume = self.dev_volumes()?.into_iter().next().map(|volume| volume.volume);
                self.instance_create(cx, &wanted.pool, &[], volume)?;
                let made = self.dev()?.map(|vm| vm.record);
                made.ok_or_else(|| Error::new(ErrorKind::Failed, "the dev VM is gone already"))?
            }
        };
        if size.data_disk_mib > record.resources.data_disk_mib {
            self.instance_grow(cx, &record.instance, size.data_disk_mib)?;
        }
        Ok(())
    }

    /// The volumes that a former dev VM left for the next one.
    fn dev_volumes(&self) -> Result<Vec<Volume>, Error> {
        let all = self.volume_list()?.into_iter();
        let is_ours = |volume: &Volume| {
            volume.origin.pool_ref() == PoolRef::of_dev() && volume.stage == VolumeStage::Kept
        };
        Ok(all.filter(is_ours).collect())
    }
}

/// The dev VM of this machine in its true state, if there is one; makes nothing, not even a store.
///
/// # Errors
/// As [`Mvm::open`] and [`Mvm::dev`].
pub fn look(config: &Config) -> Result<Option<InstanceView>, Error> {
    if has_store(config) { Mvm::open(config)?.dev() } else { Ok(None) }
}

/// Whether anything was ever made here.
#[must_use]
pub fn has_store(config: &Config) -> bool {
    config.data_dir.join(data::STATE).exists()
}

/// Says what is being done.
fn say(cx: &Context, step: Step) {
    cx.progress.report(&ProgressStep {
        subject: "dev".to_owned(),
        activity: step.to_string(),
        done: 0,
        total: 0,
    });
}

#[cfg(test)]
mod tests {
    use mvm_core::net::Network;

    use super::*;

    #[test]
    fn the_dev_vm_has_the_address_that_is_told_of_it() {
        let network = Network::built_in(&TenantId::local());
        let guest = network.and_then(|one| one.subnet.address(one.subnet.guest_offsets().next()?));
        assert_eq!(guest, Some(ADDRESS));
    }
}
