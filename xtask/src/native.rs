//! Measurements on this machine, of what needs no guest, in release: tests that are ignored otherwise, each
//! of which prints one line that begins with what it does, and an example that prints tables.

use std::fs;

use crate::{
    binaries::{self, Audience, Profile},
    cache::Cache,
    error::{Act, Error, Result},
    evidence, firecracker, host, tool, workspace,
};

/// A page by its name.
type Page = (&'static str, fn() -> Result<String>);

/// The pages that are made here.
pub(crate) const PAGES: [Page; 3] = [("agent", agent), ("images", images), ("pager", pager)];

/// How long it takes to make an image of a large OCI image, against a script.
fn images() -> Result<String> {
    let cache = Cache::open()?;
    let programs = binaries::build(Profile::Release, Audience::Tests)?;
    let image = host::default_image(&cache, &programs)?;
    let vmm = firecracker::ensure(&cache)?;
    // The agent that an image gets is the one beside the program.
    let place = tempfile::tempdir().act(|| "make a directory".into())?;
    for program in programs.iter().filter(|one| ["mvm", "mvm-guest"].contains(&one.name)) {
        let to = place.path().join(program.name);
        fs::copy(&program.path, &to).act(|| format!("copy {}", program.name))?;
    }
    let script = workspace::root().join("tests/bench/native/images.sh");
    let mut run = tool::command(&["bash"]);
    let table = tool::capture(run.arg(script).arg(place.path().join("mvm")).arg(image).arg(vmm))?;
    Ok(format!(
        "# A large OCI image into an image\n\n{}, `cargo xtask bench images`, release, as root on the machine that runs \
         the tests, in turn: an archive with five packed layers, 300 MB in 5,786 files; milliseconds.\n\n{table}",
        evidence::today()?
    ))
}

/// What a page server answers a fault in, by where the page comes from, and what sealing costs.
fn pager() -> Result<String> {
    let arguments = ["run", "--quiet", "--locked", "--release", "--package", "mvm-pager"];
    let mut build = workspace::cargo();
    let tables = tool::capture(build.args(arguments).args(["--example", "rates"]))?;
    Ok(format!(
        "# The page server\n\n{}, `cargo xtask bench pager`, release, on the machine that runs the tests, with a \
         userfaultfd of its own. From the touch to the page, in which two switches between threads are, and the server \
         alone; 64 KiB a chunk.\n\n{tables}\n\
         Wanted at the half, of the server alone: 15 µs for a plain page, 70 µs for a sealed chunk, 180 µs for one with \
         Zstandard; whole files at four fifths of the cipher's own rate. That last one is out of reach for whatever reads a \
         file and writes another: copying alone, without any cipher, takes longer than the cipher.\n",
        evidence::today()?
    ))
}

/// How an agent fares: what a pass over a node at rest costs, and how many requests its API answers.
fn agent() -> Result<String> {
    let pass = line("mvm-engine", "passing_over_four_thousand", "passing ", false)?;
    let rate = line("mvm-fleet", "asking_from_sixteen_sides", "asking ", true)?;
    Ok(format!(
        "# The agent\n\n{}, `cargo xtask bench agent`, release, on the machine that runs the tests.\n\n\
         - {pass}\n  (SQLite as shipped, a simulated machine; wanted: 100 ms and 60 MiB)\n\
         - {rate}\n  (QUIC over loopback, server and callers on one processor; wanted: 2,000 a second)\n",
        evidence::today()?
    ))
}

/// What a measurement said; with `alone` it has one processor, and so has who asks it.
fn line(package: &str, test: &str, begins: &str, alone: bool) -> Result<String> {
    let arguments = ["test", "--quiet", "--locked", "--release", "--package", package, "--lib"];
    let mut build = workspace::cargo();
    tool::show(build.args(arguments).arg("--no-run"))?;
    let mut run = workspace::cargo();
    if alone {
        let cargo = run.get_program().to_owned();
        run = std::process::Command::new("taskset");
        run.args(["--cpu-list", "0"]).arg(cargo).current_dir(workspace::root());
    }
    run.args(arguments).args([test, "--", "--ignored", "--nocapture"]);
    let said = tool::capture(&mut run)?;
    let found = said.lines().find(|line| line.starts_with(begins));
    found.map(str::to_owned).ok_or_else(|| Error::refused(format!("{test} said nothing")))
}
