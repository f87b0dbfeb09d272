//! `mvm` against the bare Firecracker sequence, in turn, in one run on one host: cold start and
//! wake, each up to the agent's first reply. Prints a page with every raw sample.
//!
//! Both sides: one vCPU, 128 MiB, the same kernel, root, config drive, bridge, limits and jailer;
//! a tenant without a key, so that both wake from plain memory: the bare one from a whole memory file that
//! Firecracker maps, ours from pages that its page server brings. Both wake a guest that was
//! booted, configured and written to disk in the same round: memory that was woken from before is
//! faster, most of all on a software CPU, which keeps what it translated. What a key costs is
//! measured beside it, and so is the command line's own start.

#[path = "../bare.rs"]
mod bare;
#[path = "../collect.rs"]
mod collect;

use std::{
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use bare::{Bare, Parts};
use collect::output_of;
use mvm::{
    Actor, Config, Context, Drain, Error, ErrorKind, InstanceRef, Made, Move, Mvm, NewPool,
    Overrides, PoolRef, Quotas, Resources, Source,
    units::{Mib, Vcpus},
};

const MEMORY: u32 = 128;
/// The number of the bare VM that is snapshotted: its tap is a part of the snapshot.
const FROZEN: u32 = 0;

/// Samples of one kind.
#[derive(Default)]
struct Samples(Vec<Duration>);

impl Samples {
    fn percentile(&self, percent: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort();
        let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
        sorted.get(at).map_or(f64::NAN, |sample| sample.as_secs_f64() * 1000.0)
    }

    fn raw(&self) -> String {
        let each = self.0.iter().map(|sample| format!("{:.0}", sample.as_secs_f64() * 1000.0));
        each.collect::<Vec<_>>().join(" ")
    }
}

struct Run {
    mvm: Mvm,
    cx: Context,
    rounds: u32,
}

fn failed(act: &str, error: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorKind::Failed, format!("{act}: {error}"))
}

impl Run {
    fn instance(&self, tenant: &str, keyed: bool) -> Result<InstanceRef, Error> {
        let invalid = |error: mvm::InvalidId| failed("a name", &error);
        let id = tenant.parse().map_err(invalid)?;
        self.mvm.tenant_create(&self.cx, &id, (None, None), Quotas::default(), keyed)?;
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

    fn timed(&self, instance: &InstanceRef, wish: Move) -> Result<Duration, Error> {
        let began = Instant::now();
        self.mvm.instance_move(&self.cx, instance, wish, Drain::Ask)?;
        Ok(began.elapsed())
    }

    /// The guest's command line, without what Firecracker adds itself.
    fn boot_args(&self, instance: &InstanceRef) -> Result<String, Error> {
        let exec =
            |request: &_, streams| self.mvm.instance_exec(&self.cx, instance, request, streams);
        let (_, line) = output_of(&["/bin/cat", "/proc/cmdline"], exec)?;
        let ours = line.split_whitespace().filter(|word| !word.starts_with("virtio_mmio."));
        Ok(ours.collect::<Vec<_>>().join(" "))
    }
}

/// All that was measured.
#[derive(Default)]
struct Results {
    bare_start: Samples,
    start: Samples,
    bare_wake: Samples,
    wake: Samples,
    sleep: Samples,
    sealed_wake: Samples,
    sealed_sleep: Samples,
    command: Samples,
}

fn measure(run: &Run, progress: &mut dyn io::Write) -> Result<Results, Error> {
    let bare_failed = |error: io::Error| failed("the bare sequence", &error);
    let mut results = Results::default();
    let plain = run.instance("plain", false)?;
    run.timed(&plain, Move::Start)?;
    let parts = parts(run, &plain)?;
    run.timed(&plain, Move::Stop)?;
    let snapshot = parts.base.join("snapshot");
    for round in 1..=run.rounds {
        let _ = writeln!(progress, "round {round} of {}", run.rounds);
        let (vm, took) = Bare::boot(&parts, FROZEN).map_err(bare_failed)?;
        results.bare_start.0.push(took);
        vm.snapshot(&snapshot).map_err(bare_failed)?;
        vm.end().map_err(bare_failed)?;
        results.start.0.push(run.timed(&plain, Move::Start)?);
        results.sleep.0.push(run.timed(&plain, Move::Sleep)?);
        let (vm, took) = Bare::wake(&parts, FROZEN, &snapshot).map_err(bare_failed)?;
        results.bare_wake.0.push(took);
        vm.end().map_err(bare_failed)?;
        results.wake.0.push(run.timed(&plain, Move::Wake)?);
        run.timed(&plain, Move::Stop)?;
        results.command.0.push(command_start().map_err(bare_failed)?);
    }
    let sealed = run.instance("sealed", true)?;
    run.timed(&sealed, Move::Start)?;
    for _ in 0..run.rounds.min(5) {
        results.sealed_sleep.0.push(run.timed(&sealed, Move::Sleep)?);
        results.sealed_wake.0.push(run.timed(&sealed, Move::Wake)?);
    }
    Ok(results)
}

fn parts(run: &Run, instance: &InstanceRef) -> Result<Parts, Error> {
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

/// How long a command takes that asks for nothing but a list.
fn command_start() -> io::Result<Duration> {
    let began = Instant::now();
    Command::new("/usr/local/bin/mvm").args(["tenant", "list"]).stdout(Stdio::null()).status()?;
    Ok(began.elapsed())
}

fn page(results: &Results, rounds: u32) -> String {
    let mut page = String::new();
    let row = |page: &mut String, what: &str, samples: &Samples| {
        let (p50, p99) = (samples.percentile(50), samples.percentile(99));
        let _ = writeln!(page, "| {what} | {p50:.0} | {p99:.0} | {} |", samples.raw());
    };
    let _ = writeln!(
        page,
        "# Start and wake against the bare sequence\n\n\
         {rounds} rounds in turn, one vCPU, {MEMORY} MiB, milliseconds up to the agent's first reply.\n\n\
         | what | P50 | P99 | samples |\n|---|---|---|---|"
    );
    row(&mut page, "bare start", &results.bare_start);
    row(&mut page, "mvm start", &results.start);
    row(&mut page, "bare wake (plain)", &results.bare_wake);
    row(&mut page, "mvm wake (plain)", &results.wake);
    row(&mut page, "mvm sleep (plain)", &results.sleep);
    row(&mut page, "mvm wake (sealed)", &results.sealed_wake);
    row(&mut page, "mvm sleep (sealed)", &results.sealed_sleep);
    row(&mut page, "command line, `mvm tenant list`", &results.command);
    let ratio = |ours: &Samples, bare: &Samples| ours.percentile(50) / bare.percentile(50);
    let _ = writeln!(
        page,
        "\nP50 ratio: start {:.2}, wake {:.2}.",
        ratio(&results.start, &results.bare_start),
        ratio(&results.wake, &results.bare_wake)
    );
    page
}

/// What MVM_LOG asks for goes to standard error, to see where time goes.
fn log() {
    use tracing_subscriber::{
        Layer as _, filter::Targets, fmt, layer::SubscriberExt as _, registry,
        util::SubscriberInitExt as _,
    };
    if let Some(filter) = std::env::var("MVM_LOG").ok().and_then(|text| text.parse().ok()) {
        let filter: Targets = filter;
        let _ =
            registry().with(fmt::layer().with_writer(io::stderr).with_filter(filter)).try_init();
    }
}

fn main() -> ExitCode {
    log();
    let rounds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(15);
    let done = Config::read(&Overrides::default())
        .and_then(|config| Mvm::open(&config))
        .map(|mvm| Run { mvm, cx: Context::silent(Actor::Uid(0)), rounds })
        .and_then(|run| measure(&run, &mut io::stderr()));
    match done {
        Ok(results) => {
            let _ = io::stdout().write_all(page(&results, rounds).as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "mvm-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
