//! Clones and pages against the bare sequence, in one run on one host.
//!
//! - A start as a clone of the pool's base, against a bare jailed load and resume of a whole memory file,
//!   and against a boot; up to the agent's first reply.
//! - A wake at the first and the second time, and what of it depends on the memory's size.
//! - What a key costs: bytes that were opened, by the rate of the cipher in this run.
//! - Fifty clones at once, and what an idle one has for itself.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use mvm::{Error, InstanceRef, Move};
use mvm_core::{
    id::InstanceId,
    layout::{self, data},
    meter::Paging,
};
use mvm_host::vmm::{pager, place::Place, touched};
use mvm_pager::{
    CHUNK, Cipher,
    seal::{Binding, Piece, TAG},
};

use crate::{
    bare::{Bare, Parts},
    rounds::{FROZEN, MEMORY, Run, Samples, failed, made, parts},
};

/// How many clones start at once.
const BURST: usize = 50;
/// Their memory in MiB: all of them fit into a test host by what they may have at most.
const SMALL: u32 = 64;
/// How long a guest has nothing to do before its memory is looked at.
const IDLE: Duration = Duration::from_secs(5);
/// Memories that are compared, in MiB.
const SIZES: [u32; 3] = [128, 1024, 4096];

/// All that was measured.
#[derive(Default)]
struct Results {
    bare_boot: Samples,
    boot: Samples,
    bare_load: Samples,
    clone: Samples,
    /// A clone's start up to its agent's first reply, then step by step.
    reply: Samples,
    steps: Vec<(String, Samples)>,
    sleep: Samples,
    first_wake: Samples,
    second_wake: Samples,
    /// Of the first wake when nobody knew what is wanted, of one that another guest's told, and of the second.
    faults: [Vec<u64>; 3],
    sizes: BTreeMap<u32, Samples>,
    sealed_wake: Samples,
    opened: Vec<u64>,
    brought: Vec<u64>,
    used: Vec<u64>,
    cipher: f64,
    burst: Samples,
    burst_failed: usize,
    bare_private: Vec<u64>,
    private: Vec<u64>,
}

/// What a wake knows of the pages that are wanted.
#[derive(Clone, Copy)]
enum Told {
    Nothing,
    ByAnother,
    ByItself,
}

/// Everything, and a page of it.
pub(crate) fn run(run: &Run, progress: &mut dyn io::Write) -> Result<String, Error> {
    let mut results = Results { cipher: cipher_rate(), ..Results::default() };
    let plain = run.instance("plain", false)?;
    run.timed(&plain, Move::Start)?;
    let parts = parts(run, &plain)?;
    run.timed(&plain, Move::Stop)?;
    let snapshot = parts.base.join("snapshot");
    Bare::freeze(&parts, FROZEN, &snapshot).map_err(bare_failed)?;
    for round in 0..run.rounds {
        let _ = writeln!(progress, "round {} of {}", round + 1, run.rounds);
        let is_new = round % 3 == 0;
        if is_new {
            boots(run, &plain, &parts, &mut results)?;
        }
        let first = if is_new { Told::Nothing } else { Told::ByAnother };
        clones(run, &plain, &parts, (&snapshot, first), &mut results)?;
    }
    sizes(run, &mut results, progress)?;
    sealed(run, &mut results, progress)?;
    burst(run, &mut results, progress)?;
    Ok(page(&results, run.rounds))
}

fn bare_failed(error: io::Error) -> Error {
    failed("the bare sequence", &error)
}

/// A boot on both sides; ours leaves another base.
fn boots(run: &Run, of: &InstanceRef, parts: &Parts, results: &mut Results) -> Result<(), Error> {
    let (vm, took) = Bare::boot(parts, FROZEN).map_err(bare_failed)?;
    results.bare_boot.0.push(took);
    vm.end().map_err(bare_failed)?;
    forget_bases(Path::new("/var/lib/mvm/tenants").join(of.tenant.as_str()).as_path())?;
    results.boot.0.push(run.timed(of, Move::Start)?);
    run.timed(of, Move::Stop).map(drop)
}

/// Removes all bases below a directory.
fn forget_bases(dir: &Path) -> Result<(), Error> {
    let failed = |error: io::Error| failed("cannot remove a base", &error);
    for entry in fs::read_dir(dir).map_err(failed)?.flatten() {
        let path = entry.path();
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if entry.file_name().to_string_lossy().starts_with("base-") {
            fs::remove_dir_all(&path).map_err(failed)?;
        } else {
            forget_bases(&path)?;
        }
    }
    Ok(())
}

fn clones(
    run: &Run,
    of: &InstanceRef,
    parts: &Parts,
    (snapshot, first): (&Path, Told),
    results: &mut Results,
) -> Result<(), Error> {
    let (vm, took) = Bare::wake(parts, FROZEN, snapshot).map_err(bare_failed)?;
    results.bare_load.0.push(took);
    if results.bare_private.len() < 5 {
        std::thread::sleep(IDLE);
        results.bare_private.push(private_kib(vm.pid().map_err(bare_failed)?));
    }
    vm.end().map_err(bare_failed)?;
    let took = run.stepped(of, Move::Start)?;
    results.clone.0.push(took.whole);
    results.reply.0.push(took.reply);
    for (place, (name, took)) in took.steps.into_iter().enumerate() {
        match results.steps.get_mut(place) {
            Some((_, samples)) => samples.0.push(took),
            None => results.steps.push((name, Samples(vec![took]))),
        }
    }
    for told in [first, Told::ByItself] {
        results.sleep.0.push(run.timed(of, Move::Sleep)?);
        let took = run.timed(of, Move::Wake)?;
        let faults = paging(run, of)?.faults;
        let [nothing, another, itself] = &mut results.faults;
        let (samples, all) = match told {
            Told::Nothing => (&mut results.first_wake, nothing),
            Told::ByAnother => (&mut results.first_wake, another),
            Told::ByItself => (&mut results.second_wake, itself),
        };
        samples.0.push(took);
        all.push(faults);
    }
    run.timed(of, Move::Stop).map(drop)
}

fn paging(run: &Run, of: &InstanceRef) -> Result<Paging, Error> {
    Ok(run.mvm.instance_stats(of)?.meter.paging.unwrap_or_default())
}

/// One instance for each size, woken in turn from their second snapshots.
fn sizes(run: &Run, results: &mut Results, progress: &mut dyn io::Write) -> Result<(), Error> {
    let _ = writeln!(progress, "sizes");
    let mut all = Vec::new();
    for mib in SIZES {
        let of = run.another("plain", &format!("m{mib}"), "default", mib)?;
        run.timed(&of, Move::Start)?;
        run.timed(&of, Move::Sleep)?;
        run.timed(&of, Move::Wake)?;
        run.timed(&of, Move::Sleep)?;
        all.push((mib, of));
    }
    for _ in 0..run.rounds {
        for (mib, of) in &all {
            let took = run.timed(of, Move::Wake)?;
            results.sizes.entry(*mib).or_default().0.push(took);
            run.timed(of, Move::Sleep)?;
        }
    }
    all.iter().try_for_each(|(_, of)| run.timed(of, Move::Stop).map(drop))
}

fn sealed(run: &Run, results: &mut Results, progress: &mut dyn io::Write) -> Result<(), Error> {
    let _ = writeln!(progress, "sealed");
    let of = run.instance("sealed", true)?;
    run.timed(&of, Move::Start)?;
    for _ in 0..run.rounds {
        run.timed(&of, Move::Sleep)?;
        results.sealed_wake.0.push(run.timed(&of, Move::Wake)?);
        let did = paging(run, &of)?;
        results.opened.push(did.brought_pages * 4096);
        let (brought, used) = touched(run, &of)?;
        results.brought.push(brought * 4096);
        results.used.push(used * 4096);
    }
    run.timed(&of, Move::Stop).map(drop)
}

/// Where the host keeps things of this instance.
fn place_of(instance: &InstanceId) -> Place {
    let jail = Path::new("/var/lib/mvm").join(data::jail(instance));
    Place {
        instance: instance.clone(),
        records: Path::new("/run/mvm").join(layout::run::instance(instance)),
        ram: Path::new("/run/mvm").join(layout::run::ram(instance)),
        root: jail.join("root"),
        jail,
        cgroup: Path::new("/sys/fs/cgroup").join(layout::cgroup(instance)),
    }
}

/// How many pages were brought, and how many of them the guest used.
fn touched(run: &Run, of: &InstanceRef) -> Result<(u64, u64), Error> {
    let place = place_of(&of.instance);
    let Some(vmm) = run.mvm.instance_info(of)?.observed.vmm else { return Ok((0, 0)) };
    let (regions, pages) = (pager::regions(&place)?, pager::working_set(&place)?);
    let used = touched::of(vmm.pid, &regions, &pages);
    let used = used.map_err(|error| failed("what the guest used", &error))?;
    Ok((pages.len() as u64, used.len() as u64))
}

/// Fifty at once; then what each has for itself.
fn burst(run: &Run, results: &mut Results, progress: &mut dyn io::Write) -> Result<(), Error> {
    let _ = writeln!(progress, "burst");
    let first = run.another("plain", "burst", "default", SMALL)?;
    run.timed(&first, Move::Start)?;
    run.timed(&first, Move::Stop)?;
    let mut all = vec![first.clone()];
    for _ in 1..BURST {
        all.push(made(run.mvm.instance_create(&run.cx, &first.pool_ref(), &[], None)?.made)?);
    }
    let took: Vec<_> = std::thread::scope(|scope| {
        let start = |of| scope.spawn(move || run.timed(of, Move::Start));
        let threads: Vec<_> = all.iter().map(start).collect();
        threads.into_iter().map(|thread| thread.join().ok()).collect()
    });
    for one in took {
        match one {
            Some(Ok(took)) => results.burst.0.push(took),
            Some(Err(error)) => {
                let _ = writeln!(progress, "{error}");
                results.burst_failed += 1;
            }
            None => results.burst_failed += 1,
        }
    }
    std::thread::sleep(IDLE);
    for of in &all {
        if let Some(vmm) = run.mvm.instance_info(of)?.observed.vmm {
            results.private.push(private_kib(vmm.pid));
        }
    }
    for of in &all {
        // One that did not start has nothing to stop.
        drop(run.timed(of, Move::Stop));
    }
    Ok(())
}

/// What a process has that no other one shares, in KiB.
fn private_kib(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let values = text.lines().filter(|line| line.starts_with("Private_"));
    values.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum()
}

/// Bytes a second that the cipher of page files opens, in pieces of 64 KiB, in this process.
fn cipher_rate() -> f64 {
    let Ok(cipher) = Cipher::new(&[7; 32], Binding { header: [1; 32], name: [2; 8] }) else {
        return f64::NAN;
    };
    let mut sealed = vec![0; CHUNK + TAG];
    if cipher.seal(Piece::Chunk(0), 1, &mut sealed, CHUNK).is_err() {
        return f64::NAN;
    }
    let (began, mut opened) = (Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(2) {
        let mut copy = sealed.clone();
        opened += cipher.open(Piece::Chunk(0), 1, &mut copy).map_or(0, |plain| plain.len());
    }
    opened as f64 / began.elapsed().as_secs_f64()
}

fn middle(figures: &[u64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len().div_ceil(2).saturating_sub(1)).map_or(f64::NAN, |middle| *middle as f64)
}

fn raw(figures: &[u64]) -> String {
    figures.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn page(results: &Results, rounds: u32) -> String {
    let mut page = format!(
        "# Clones and pages against the bare sequence\n\n\
         {rounds} rounds in turn (boots every third), one vCPU, {MEMORY} MiB unless said otherwise; milliseconds up to\n\
         the agent's first reply, or what the row says.\n\n\
         | what | P50 | P99 | samples |\n|---|---|---|---|\n"
    );
    results.bare_boot.row("bare boot", &mut page);
    results.boot.row("mvm start by a boot that leaves a base", &mut page);
    results.bare_load.row("bare load and resume", &mut page);
    results.reply.row("mvm start as a clone, to the agent's reply", &mut page);
    results.clone.row("mvm start as a clone, all of it", &mut page);
    for (name, samples) in &results.steps {
        samples.row(&format!("of it {name}"), &mut page);
    }
    results.sleep.row("mvm sleep", &mut page);
    results.first_wake.row("mvm wake, the first", &mut page);
    results.second_wake.row("mvm wake, the second", &mut page);
    results.sealed_wake.row("mvm wake, sealed", &mut page);
    for (mib, samples) in &results.sizes {
        samples.row(&format!("mvm wake, {mib} MiB"), &mut page);
    }
    results.burst.row(&format!("start, {BURST} clones of {SMALL} MiB at once"), &mut page);
    let figures = |page: &mut String, what: &str, figures: &[u64]| {
        let most = figures.iter().max().copied().unwrap_or_default();
        let _ = writeln!(page, "| {what} | {:.0} | {most} | {} |", middle(figures), raw(figures));
    };
    let [nothing, another, itself] = &results.faults;
    figures(&mut page, "faults of a first wake of which nobody knew anything (P50, most)", nothing);
    figures(&mut page, "faults of a first wake after another guest's", another);
    figures(&mut page, "faults of the second wake", itself);
    figures(&mut page, "bytes opened at a sealed wake", &results.opened);
    figures(&mut page, "bytes brought, opened and of the base", &results.brought);
    figures(&mut page, "bytes of them that the guest used", &results.used);
    figures(&mut page, "private memory of a bare clone, KiB", &results.bare_private);
    figures(&mut page, "private memory of an idle clone, KiB", &results.private);
    verdicts(results, &mut page);
    page
}

fn verdicts(results: &Results, page: &mut String) {
    let [first, _, second] = &results.faults;
    let sealing = middle(&results.opened) / results.cipher * 1000.0;
    let bound = results.second_wake.percentile(50) + sealing;
    let sizes: Vec<f64> = results.sizes.values().map(|one| one.percentile(50)).collect();
    let spread = sizes.iter().copied().fold(f64::NAN, f64::max)
        / sizes.iter().copied().fold(f64::NAN, f64::min);
    let burst = &results.burst;
    let lines = [
        format!(
            "clone by bare load and resume, each to the agent's first reply: {:.2}; all of the command: {:.2}",
            results.reply.ratio(&results.bare_load),
            results.clone.ratio(&results.bare_load)
        ),
        format!(
            "bare boot by clone: {:.1}; our boot by clone: {:.1}",
            results.bare_boot.ratio(&results.clone),
            results.boot.ratio(&results.clone)
        ),
        format!(
            "bytes brought by bytes used: {:.2}",
            middle(&results.brought) / middle(&results.used)
        ),
        format!("the slowest size's wake by the fastest's: {spread:.2}"),
        format!("faults, first wake by second: {:.0}", middle(first) / middle(second)),
        format!(
            "sealed wake by (plain wake + bytes opened ÷ cipher's rate of {:.1} MB/s = {sealing:.0} ms): {:.2}",
            results.cipher / 1e6,
            results.sealed_wake.percentile(50) / bound
        ),
        format!(
            "{BURST} at once: {} started, {} failed; P99 by P50: {:.2}",
            burst.0.len(),
            results.burst_failed,
            burst.percentile(99) / burst.percentile(50)
        ),
        format!(
            "private memory, ours by bare: {:.2}",
            middle(&results.private) / middle(&results.bare_private)
        ),
    ];
    let _ = writeln!(page);
    for line in lines {
        let _ = writeln!(page, "- {line}");
    }
}
