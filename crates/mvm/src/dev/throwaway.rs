//! `mvm run`: a VM that is made for one command and is gone after it, whatever comes of it.
//!
//! Who runs one holds a lock for as long; a pool of the tenant whose lock is free was left behind by somebody
//! who died, and the next run removes it.

use mvm_core::{
    error::{Error, ErrorKind},
    id::{PoolId, PoolRef, TenantId},
    instance::Drain,
    layout,
    operation::NewPool,
    pool::{PoolPolicy, Resources, RuntimePolicy, Source},
    port::{ExecRequest, ExecStatus, ExecStreams, Lock},
    state::Move,
    units::{Mib, Seconds, Vcpus},
    volume::VolumeFate,
};
use mvm_engine::{Cancel, Context, Made, query::Filter};
use mvm_host::lock;

use super::{MEMORY, VCPUS, image};
use crate::{Mvm, new_operation};

/// What is run in a VM of its own.
#[derive(Debug, Clone)]
pub struct RunAsk {
    /// A flake, built by Nix.
    pub flake: Option<String>,
    /// An image; `default` without a flake.
    pub image: Option<String>,
    /// Its vCPUs.
    pub cpus: Option<Vcpus>,
    /// Its memory.
    pub memory: Option<Mib>,
    /// The command.
    pub request: ExecRequest,
}

impl RunAsk {
    /// Where the image comes from, and how large the VM is.
    ///
    /// # Errors
    /// `Invalid`, `NotFound` or `Unavailable` for what is none.
    pub fn checked(&self) -> Result<(Source, Resources), Error> {
        let source = match &self.flake {
            Some(flake) => Source::Flake(flake.clone()),
            None => image::source(self.image.as_deref().unwrap_or(image::DEFAULT))?,
        };
        source.validate()?;
        let (cpus, memory) = (self.cpus.unwrap_or(VCPUS), self.memory.unwrap_or(MEMORY));
        let resources = Resources::new(cpus, memory, Mib(0));
        resources.validate().map(|()| (source, resources))
    }
}

impl Mvm {
    /// Runs a command in a VM that is made for it. Raising the cancellation of `cx` ends both.
    ///
    /// # Errors
    /// Why there is no such VM or it did not run. It is gone in any case, or the error says why not.
    pub fn run(
        &self,
        cx: &Context,
        ask: &RunAsk,
        streams: ExecStreams,
    ) -> Result<ExecStatus, Error> {
        let (source, resources) = ask.checked()?;
        let last = Context { cancel: Cancel::new(), ..cx.clone() };
        self.remove_runs(&last)?;
        let pool = drawn()?;
        let held = self.run_lock(&pool)?.ok_or_else(|| {
            Error::new(ErrorKind::Failed, format!("somebody holds the lock of {pool}"))
        })?;
        let ran = self.run_in(cx, &pool, (source, resources), &ask.request, streams);
        let removed = self.remove_run(&last, &pool);
        held.retire();
        ran.and_then(|status| removed.map(|()| status))
    }

    /// Removes what runs that died left behind.
    ///
    /// # Errors
    /// Why something of it stays.
    pub fn remove_runs(&self, cx: &Context) -> Result<(), Error> {
        let pools = match self.pool_list(&TenantId::runs()) {
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(()),
            pools => pools?,
        };
        for pool in pools.into_iter().map(|view| view.record.pool) {
            if let Some(free) = self.run_lock(&pool)? {
                self.remove_run(cx, &pool)?;
                free.retire();
            }
        }
        Ok(())
    }

    fn run_in(
        &self,
        cx: &Context,
        pool: &PoolRef,
        (source, resources): (Source, Resources),
        request: &ExecRequest,
        streams: ExecStreams,
    ) -> Result<ExecStatus, Error> {
        let new = NewPool {
            policy: PoolPolicy { pinned: true, critical: true, ..PoolPolicy::default() },
            // Nothing in it is worth a word before it ends.
            runtime_policy: RuntimePolicy {
                graceful_shutdown_seconds: Seconds(0),
                ..RuntimePolicy::default()
            },
            ..NewPool::of_workers(pool.clone(), source, resources)
        };
        self.pool_create(cx, new)?;
        self.pool_build(cx, pool)?;
        let made = self.instance_create(cx, pool, &[], None)?.made;
        let Some(Made::Instance(record)) = made else {
            let found = self.instance_list(&Filter::Pool(pool.clone()))?.len();
            return Err(Error::new(ErrorKind::Failed, format!("{pool} has {found} instances")));
        };
        self.instance_move(cx, &record.instance, Move::Start, Drain::Skip)?;
        self.engine.exec_alone(cx, &record.instance, request, streams)
    }

    fn remove_run(&self, cx: &Context, pool: &PoolRef) -> Result<(), Error> {
        match self.pool_destroy(cx, pool, true, VolumeFate::Delete) {
            Err(error) if error.kind == ErrorKind::NotFound => Ok(()),
            done => done?.error().map_or(Ok(()), Err),
        }
    }

    fn run_lock(&self, pool: &PoolRef) -> Result<Option<Box<dyn Lock>>, Error> {
        lock::hold(&self.roots.run.join(layout::run::of_run(&pool.pool)))
    }
}

/// A pool of a name that nobody has.
fn drawn() -> Result<PoolRef, Error> {
    let name = format!("r-{}", new_operation());
    let pool: PoolId = name.parse().map_err(|error| {
        Error::new(ErrorKind::Failed, "cannot name a pool for the VM").because(&error)
    })?;
    Ok(PoolRef { tenant: TenantId::runs(), pool })
}
