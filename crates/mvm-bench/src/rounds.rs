//! What the benchmarks share: samples, an `mvm` with its instances, and the parts of a bare VM.

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use mvm::{
    Context, Drain, Error, ErrorKind, InstanceRef, Made, Move, Mvm, NewPool, PoolRef, Quotas,
    Resources, Source,
    units::{Mib, Vcpus},
};
use mvm_core::port::{Progress, ProgressStep};
use tracing_subscriber::{Layer, layer};

use crate::{bare::Parts, collect::output_of};

pub(crate) const MEMORY: u32 = 128;
/// The number of the bare VM that is snapshotted: its tap is a part of the snapshot.
pub(crate) const FROZEN: u32 = 0;

/// Samples of one kind.
#[derive(Default)]
pub(crate) struct Samples(pub(crate) Vec<Duration>);

impl Samples {
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort();
        let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
        sorted.get(at).map_or(f64::NAN, |sample| sample.as_secs_f64() * 1000.0)
    }

    pub(crate) fn raw(&self) -> String {
        let each = self.0.iter().map(|sample| format!("{:.0}", sample.as_secs_f64() * 1000.0));
        each.collect::<Vec<_>>().join(" ")
    }

    /// Adds a row of a table `what | P50 | P99 | samples` to a page.
    pub(crate) fn row(&self, what: &str, page: &mut String) {
        let (p50, p99) = (self.percentile(50), self.percentile(99));
        let _ = writeln!(page, "| {what} | {p50:.0} | {p99:.0} | {} |", self.raw());
    }

    /// Its half by that of others.
    pub(crate) fn ratio(&self, others: &Self) -> f64 {
        self.percentile(50) / others.percentile(50)
    }
}

/// When each step of what is done began, by what the engine tells of its progress, and when a guest first
/// answered, by what the host logs.
#[derive(Clone, Default)]
pub(crate) struct Steps(Arc<Mutex<Heard>>);

#[derive(Default)]
struct Heard {
    steps: Vec<(String, Instant)>,
    reply: Option<Instant>,
}

impl Steps {
    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those since the last call.
    fn take(&self) -> Vec<(String, Instant)> {
        std::mem::take(&mut self.lock().steps)
    }

    /// The first answer since the last call.
    fn take_reply(&self) -> Option<Instant> {
        self.lock().reply.take()
    }
}

impl Progress for Steps {
    fn report(&self, step: &ProgressStep) {
        self.lock().steps.push((step.activity.clone(), Instant::now()));
    }
}

/// What `mvm_host::guest` logs of a guest that was loaded.
const ANSWERS: &str = "the guest answers its first word";

impl<S: tracing::Subscriber> Layer<S> for Steps {
    fn on_event(&self, event: &tracing::Event<'_>, _: layer::Context<'_, S>) {
        let mut is_answer = false;
        event.record(&mut |field: &tracing::field::Field, value: &dyn std::fmt::Debug| {
            is_answer |= field.name() == "message" && format!("{value:?}") == ANSWERS;
        });
        if is_answer {
            self.lock().reply.get_or_insert_with(Instant::now);
        }
    }
}

/// What an act took.
pub(crate) struct Took {
    /// All of it.
    pub(crate) whole: Duration,
    /// Up to its guest's first answer; all of it when no guest answered.
    pub(crate) reply: Duration,
    /// What lay before its first step, then each step.
    pub(crate) steps: Vec<(String, Duration)>,
}

pub(crate) struct Run {
    pub(crate) mvm: Mvm,
    pub(crate) cx: Context,
    pub(crate) steps: Steps,
    pub(crate) rounds: u32,
}

pub(crate) fn failed(act: &str, error: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorKind::Failed, format!("{act}: {error}"))
}

/// Nothing here is about limits.
fn quotas() -> Quotas {
    Quotas {
        max_vcpus: Vcpus(1000),
        max_running: 100,
        max_pools: 16,
        max_instances_per_pool: 100,
        ..Quotas::default()
    }
}

impl Run {
    /// A tenant, a pool with the usual image and one instance.
    pub(crate) fn instance(&self, tenant: &str, keyed: bool) -> Result<InstanceRef, Error> {
        self.tenant(tenant, keyed)?;
        self.another(tenant, "bench", "default", MEMORY)
    }

    pub(crate) fn tenant(&self, tenant: &str, keyed: bool) -> Result<(), Error> {
        let id = tenant.parse().map_err(|error: mvm::InvalidId| failed("a name", &error))?;
        self.mvm.tenant_create(&self.cx, &id, (None, None), quotas(), keyed)?;
        Ok(())
    }

    /// A pool of a tenant with one instance of this image and memory in MiB.
    pub(crate) fn another(
        &self,
        tenant: &str,
        pool: &str,
        image: &str,
        mib: u32,
    ) -> Result<InstanceRef, Error> {
        let pool: PoolRef = format!("{tenant}/{pool}")
            .parse()
            .map_err(|error: mvm::InvalidId| failed("a name", &error))?;
        let resources = Resources::new(Vcpus(1), Mib(mib), Mib(0));
        let image = Source::Image(image.to_owned());
        self.mvm.pool_create(&self.cx, NewPool::of_workers(pool.clone(), image, resources))?;
        self.mvm.pool_build(&self.cx, &pool)?;
        made(self.mvm.instance_create(&self.cx, &pool, &[], None)?.made)
    }

    pub(crate) fn timed(&self, instance: &InstanceRef, wish: Move) -> Result<Duration, Error> {
        let began = Instant::now();
        self.mvm.instance_move(&self.cx, instance, wish, Drain::Ask)?;
        Ok(began.elapsed())
    }

    /// As [`Run::timed`], step by step; nothing else may be done meanwhile.
    pub(crate) fn stepped(&self, instance: &InstanceRef, wish: Move) -> Result<Took, Error> {
        drop((self.steps.take(), self.steps.take_reply()));
        let began = Instant::now();
        self.mvm.instance_move(&self.cx, instance, wish, Drain::Ask)?;
        let ended = Instant::now();
        let mut marks = vec![("look".to_owned(), began)];
        marks.extend(self.steps.take());
        let next = marks.iter().skip(1).map(|(_, at)| *at).chain([ended]);
        let steps = marks.iter().zip(next).map(|((name, at), next)| (name.clone(), next - *at));
        let reply = self.steps.take_reply().unwrap_or(ended) - began;
        Ok(Took { whole: ended - began, reply, steps: steps.collect() })
    }

    /// The guest's command line, without what Firecracker adds itself.
    fn boot_args(&self, instance: &InstanceRef) -> Result<String, Error> {
        let exec =
            |request: &_, streams| self.mvm.instance_exec(&self.cx, instance, request, streams);
        let (_, line) = output_of(&["/bin/cat", "/proc/cmdline"], exec)?;
        // The bare guest reads who it is from its drive.
        let is_ours = |word: &&str| !word.starts_with("virtio_mmio.") && *word != mvm_proto::HOLD;
        let ours = line.split_whitespace().filter(is_ours);
        Ok(ours.collect::<Vec<_>>().join(" "))
    }
}

pub(crate) fn made(made: Option<Made>) -> Result<InstanceRef, Error> {
    match made {
        Some(Made::Instance(made)) => Ok(made.instance),
        other => Err(failed("no instance was made", &format!("{other:?}"))),
    }
}

/// What a bare VM needs to be this instance, which runs.
pub(crate) fn parts(run: &Run, instance: &InstanceRef) -> Result<Parts, Error> {
    let data = Path::new("/var/lib/mvm");
    let pool = run.mvm.pool_info(&instance.pool_ref())?;
    let hash = pool.record.current().map(ToString::to_string).unwrap_or_default();
    let image = data.join("images").join(hash);
    let base = data.join("bare");
    let drive = Path::new("/run/mvm/ram").join(instance.instance.as_str()).join("config.ext2");
    let mut config = fs::create_dir_all(&base)
        .and_then(|()| fs::read(drive))
        .map_err(|error| failed("cannot take the config drive", &error))?;
    let used = config.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    config.truncate(used);
    let view = run.mvm.tenant_info(&instance.tenant)?;
    Ok(Parts {
        binaries: data.join("binaries/firecracker-1.12.1"),
        kernel: image.join("vmlinux"),
        initrd: Some(image.join("initrd.img")).filter(|path| path.exists()),
        root: image.join("rootfs.squashfs"),
        config,
        args: run.boot_args(instance)?,
        memory: run.mvm.instance_info(instance)?.record.resources.mem_mib.0,
        bridge: format!("br-tenant-{}", view.record.network.net),
        base,
    })
}
