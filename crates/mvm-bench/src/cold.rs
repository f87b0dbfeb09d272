//! A clone against a cold boot with the default image and its kernel, Debian's, in turn on one host: what
//! a pool gains by its base. Each side up to the agent's first reply.

use std::{fmt::Write as _, io};

use mvm::{Error, Move};

use crate::{
    bare::Bare,
    rounds::{FROZEN, Run, Samples, failed, parts},
};

/// The image, as test hosts bring it.
const IMAGE: &str = "debian";
/// The guests' memory in MiB: what Debian's kernel with its initramfs needs to unpack itself.
const MEMORY: u32 = 256;

/// Everything, and a page of it.
pub(crate) fn run(run: &Run, progress: &mut dyn io::Write) -> Result<String, Error> {
    let bare_failed = |error: io::Error| failed("the bare sequence", &error);
    let (mut bare_boot, mut boot) = (Samples::default(), Samples::default());
    let (mut bare_load, mut reply, mut clone) = <(Samples, Samples, Samples)>::default();
    run.tenant("cold", false)?;
    let of = run.another("cold", "bench", IMAGE, MEMORY)?;
    boot.0.push(run.timed(&of, Move::Start)?);
    let parts = parts(run, &of)?;
    run.timed(&of, Move::Stop)?;
    let snapshot = parts.base.join("snapshot");
    Bare::freeze(&parts, FROZEN, &snapshot).map_err(bare_failed)?;
    for round in 0..run.rounds {
        let _ = writeln!(progress, "round {} of {}", round + 1, run.rounds);
        let (vm, took) = Bare::boot(&parts, FROZEN).map_err(bare_failed)?;
        bare_boot.0.push(took);
        vm.end().map_err(bare_failed)?;
        let (vm, took) = Bare::wake(&parts, FROZEN, &snapshot).map_err(bare_failed)?;
        bare_load.0.push(took);
        vm.end().map_err(bare_failed)?;
        let took = run.stepped(&of, Move::Start)?;
        reply.0.push(took.reply);
        clone.0.push(took.whole);
        run.timed(&of, Move::Stop)?;
    }
    let mut page = format!(
        "# Clones against cold boots of the default image\n\n\
         {} rounds in turn, Debian's kernel and initramfs, one vCPU, {MEMORY} MiB; milliseconds up to the agent's first\n\
         reply, or what the row says.\n\n\
         | what | P50 | P99 | samples |\n|---|---|---|---|\n",
        run.rounds
    );
    bare_boot.row("bare boot", &mut page);
    boot.row("mvm start by a boot that leaves a base, once", &mut page);
    bare_load.row("bare load and resume", &mut page);
    reply.row("mvm start as a clone", &mut page);
    clone.row("mvm start as a clone, all of the command", &mut page);
    let (by_boot, all) = (bare_boot.ratio(&reply), bare_boot.ratio(&clone));
    let by_load = reply.ratio(&bare_load);
    let _ = writeln!(page, "\n- bare boot by clone: {by_boot:.1}; by all of its command: {all:.1}");
    let _ = writeln!(page, "- clone by bare load and resume: {by_load:.2}");
    Ok(page)
}
