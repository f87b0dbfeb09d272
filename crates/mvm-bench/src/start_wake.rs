//! `mvm` against the bare Firecracker sequence, in turn, in one run on one host: cold start and
//! wake, each up to the agent's first reply. Prints a page with every raw sample.
//!
//! Both sides: one vCPU, 128 MiB, the same kernel, root, config drive, bridge, limits and jailer;
//! a tenant without a key, so that both wake from plain memory: the bare one from a whole memory file that
//! Firecracker maps, ours from pages that its page server brings. Both wake a guest that was
//! booted, configured and written to disk in the same round: memory that was woken from before is
//! faster, most of all on a software CPU, which keeps what it translated. What a key costs is
//! measured beside it, and so is the command line's own start.

use std::{
    fmt::Write as _,
    io,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use mvm::{Error, Move};

use crate::{
    bare::Bare,
    rounds::{FROZEN, MEMORY, Run, Samples, failed, parts},
};

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

/// Everything, and a page of it.
pub(crate) fn run(run: &Run, progress: &mut dyn io::Write) -> Result<String, Error> {
    Ok(page(&measure(run, progress)?, run.rounds))
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

/// How long a command takes that asks for nothing but a list.
fn command_start() -> io::Result<Duration> {
    let began = Instant::now();
    Command::new("/usr/local/bin/mvm").args(["tenant", "list"]).stdout(Stdio::null()).status()?;
    Ok(began.elapsed())
}

fn page(results: &Results, rounds: u32) -> String {
    let mut page = String::new();
    let _ = writeln!(
        page,
        "# Start and wake against the bare sequence\n\n\
         {rounds} rounds in turn, one vCPU, {MEMORY} MiB, milliseconds up to the agent's first reply.\n\n\
         | what | P50 | P99 | samples |\n|---|---|---|---|"
    );
    results.bare_start.row("bare start", &mut page);
    results.start.row("mvm start", &mut page);
    results.bare_wake.row("bare wake (plain)", &mut page);
    results.wake.row("mvm wake (plain)", &mut page);
    results.sleep.row("mvm sleep (plain)", &mut page);
    results.sealed_wake.row("mvm wake (sealed)", &mut page);
    results.sealed_sleep.row("mvm sleep (sealed)", &mut page);
    results.command.row("command line, `mvm tenant list`", &mut page);
    let _ = writeln!(
        page,
        "\nP50 ratio: start {:.2}, wake {:.2}.",
        results.start.ratio(&results.bare_start),
        results.wake.ratio(&results.bare_wake)
    );
    page
}
