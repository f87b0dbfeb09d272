//! What the benchmarks share: samples, an `mvm` with its instances, and the parts of a bare VM.

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use mvm::{
    Context, Drain, Error, ErrorKind, InstanceRef, Made, Move, Mvm, NewPool, PoolRef, Quotas,
    Resources, Source,
    units::{Mib, Vcpus},
};

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

pub(crate) struct Run {
    pub(crate) mvm: Mvm,
    pub(crate) cx: Context,
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
    pub(crate) fn instance(&self, tenant: &str, keyed: bool) -> Result<InstanceRef, Error> {
        let invalid = |error: mvm::InvalidId| failed("a name", &error);
        let id = tenant.parse().map_err(invalid)?;
        self.mvm.tenant_create(&self.cx, &id, (None, None), quotas(), keyed)?;
        let pool: PoolRef = format!("{tenant}/bench").parse().map_err(invalid)?;
        let resources = Resources::new(Vcpus(1), Mib(MEMORY), Mib(0));
        let image = Source::Image("default".to_owned());
        self.mvm.pool_create(&self.cx, NewPool::of_workers(pool.clone(), image, resources))?;
        self.mvm.pool_build(&self.cx, &pool)?;
        match self.mvm.instance_create(&self.cx, &pool, &[], None)?.made {
            Some(Made::Instance(made)) => Ok(made.instance),
            other => Err(failed("no instance was made", &format!("{other:?}"))),
        }
    }

    pub(crate) fn timed(&self, instance: &InstanceRef, wish: Move) -> Result<Duration, Error> {
        let began = Instant::now();
        self.mvm.instance_move(&self.cx, instance, wish, Drain::Ask)?;
        Ok(began.elapsed())
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
        root: image.join("rootfs.squashfs"),
        config,
        args: run.boot_args(instance)?,
        memory: MEMORY,
        bridge: format!("br-tenant-{}", view.record.network.net),
        base,
    })
}
