//! `cargo xtask ci` and `full`: check, then tests here, then tests in test hosts.
//!
//! A phase that fails ends the run, except that `full` always writes its page.

use std::time::Instant;

use crate::error::{Error, Result};
use crate::evidence::{self, Phase};
use crate::script::Tier;
use crate::suite::Outcome;
use crate::{apt, check, e2e, provider, tool, workspace};

/// Everything a change must pass.
pub(crate) fn run() -> Result<()> {
    phases(Tier::Ci).verdict()
}

/// Everything there is, and the page about it.
pub(crate) fn full() -> Result<()> {
    let report = phases(Tier::Full);
    let path =
        evidence::write("cargo xtask full", &report.phases, &report.outcomes, &report.figures)?;
    println!("{}", path.display());
    report.verdict()
}

/// How many seeds of random commands the full run tries; CI tries the test's own default.
const SEEDS: u32 = 5_000;

/// How many malformed messages the full run tries; CI tries the test's own default.
const HOSTILE: u32 = 5_000_000;

/// What happened so far.
#[derive(Default)]
struct Report {
    phases: Vec<Phase>,
    outcomes: Vec<Outcome>,
    figures: Vec<String>,
}

impl Report {
    /// Runs one phase unless an earlier one failed.
    fn phase(&mut self, name: &'static str, work: impl FnOnce(&mut Self) -> Result<()>) {
        if self.phases.iter().any(|phase| phase.failure.is_some()) {
            return;
        }
        eprintln!("xtask: phase {name}");
        let started = Instant::now();
        let failure = work(self).err().map(|error| error.to_string());
        let elapsed = started.elapsed();
        let word = if failure.is_some() { "failed" } else { "passed" };
        eprintln!("xtask: phase {name} {word} in {:.0} s", elapsed.as_secs_f64());
        self.phases.push(Phase { name, elapsed, failure });
    }

    fn verdict(self) -> Result<()> {
        let failed = self
            .phases
            .into_iter()
            .find_map(|phase| phase.failure.map(|why| format!("{}: {why}", phase.name)));
        failed.map_or(Ok(()), |why| Err(Error::refused(why)))
    }
}

fn phases(tier: Tier) -> Report {
    let mut report = Report::default();
    report.phase("check", |_| check::run());
    report.phase("installer", |_| installer());
    report.phase("tests", |_| native_tests());
    report.phase("walls", |_| walls());
    if tier == Tier::Full {
        report.phase("provider", |_| provider::run(tier));
        report.phase("simulation", simulation);
        report.phase("hostile bytes", hostile);
        report.phase("planner", planner);
    }
    report.phase("end-to-end", |report| {
        report.outcomes = e2e::run(&[], tier)?;
        e2e::verdict(&report.outcomes)
    });
    report
}

/// The scripts that run on other people's machines; what they do is among the tests.
fn installer() -> Result<()> {
    apt::require(apt::RELEASE)?;
    let scripts = [
        "install.sh",
        "packaging/debian/postinst",
        "packaging/debian/prerm",
        "packaging/debian/postrm",
    ];
    let mut check = tool::command(&["shellcheck"]);
    tool::show(check.args(scripts).current_dir(workspace::root()))
}

/// The network on this machine's kernel, in namespaces: needs root, and fails without.
fn walls() -> Result<()> {
    apt::require(apt::NETWORK)?;
    let mut tests = workspace::cargo();
    // Of the whole workspace, since what was built for the other tests then serves here too.
    tests.args(["test", "--quiet", "--locked", "--workspace", "--test", "net_namespace"]);
    tool::show(tests.args(["--", "--ignored"]))
}

/// The long list of seeds.
fn simulation(report: &mut Report) -> Result<()> {
    let mut tests = workspace::cargo();
    tests.args(["test", "--locked", "--release", "--package", "mvm-sim", "--test", "simulation"]);
    tests.args(["random_commands", "--", "--nocapture"]).env("MVM_SIM_SEEDS", SEEDS.to_string());
    tool::show(&mut tests)?;
    report
        .figures
        .push(format!("simulation: {SEEDS} seeds of random commands under random faults"));
    Ok(())
}

/// The long list of malformed messages.
fn hostile(report: &mut Report) -> Result<()> {
    let mut tests = workspace::cargo();
    tests.args(["test", "--quiet", "--locked", "--release", "--package", "mvm-fleet", "--lib"]);
    tests.arg("hostile_bytes").env("MVM_HOSTILE_CASES", HOSTILE.to_string());
    tool::show(&mut tests)?;
    report
        .figures
        .push(format!("API: {HOSTILE} malformed messages, one in fifty over the network"));
    Ok(())
}

/// How long it takes to plan nothing, natively and as shipped.
fn planner(report: &mut Report) -> Result<()> {
    let mut tests = workspace::cargo();
    tests.args(["test", "--quiet", "--locked", "--release", "--package", "mvm-engine", "--lib"]);
    tests.args(["planning_nothing", "--", "--ignored", "--nocapture"]);
    let said = tool::capture(&mut tests)?;
    let figure = said.lines().find(|line| line.starts_with("planning "));
    let figure = figure.ok_or_else(|| Error::refused("the planner's measurement said nothing"))?;
    report.figures.push(figure.to_owned());
    Ok(())
}

/// Unit, property and simulation tests; documentation's examples besides, which nextest leaves out.
fn native_tests() -> Result<()> {
    let mut tests = workspace::cargo();
    if tool::exists("cargo-nextest") {
        tests.args(["nextest", "run", "--workspace", "--locked", "--no-tests=pass"]);
        tool::show(&mut tests)?;
        let mut docs = workspace::cargo();
        return tool::show(docs.args(["test", "--quiet", "--workspace", "--locked", "--doc"]));
    }
    tool::show(tests.args(["test", "--quiet", "--workspace", "--locked"]))
}
