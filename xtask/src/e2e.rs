//! `cargo xtask e2e [NAME…]`, `bench` and `quickstart`: which scripts run, and where results go.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::binaries::Profile;
use crate::cache::Cache;
use crate::error::{Act, Error, Result};
use crate::host::{HostFiles, Payload, Put, TestHost};
use crate::script::{self, Load, Script, Tier};
use crate::suite::{Outcome, Suite};
use crate::{evidence, native, workspace};

/// How many scripts run side by side: one waits for its guests most of the time, and two keep two
/// cores at work.
const AT_ONCE: usize = 2;

/// Runs the end-to-end scripts of a tier, or those with the given names.
pub(crate) fn run(names: &[String], tier: Tier) -> Result<Vec<Outcome>> {
    let scripts = choose(script::list(&workspace::root().join("tests/e2e"))?, names, tier)?;
    Suite::prepare("e2e", Profile::Dev, &scripts)?.run(&scripts, AT_ONCE)
}

/// The error of a run in which something failed.
pub(crate) fn verdict(outcomes: &[Outcome]) -> Result<()> {
    let failed: Vec<&str> = outcomes
        .iter()
        .filter(|outcome| outcome.failure.is_some())
        .map(|outcome| outcome.name.as_str())
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    Err(Error::refused(format!("failed end-to-end scripts: {}", failed.join(", "))))
}

/// Runs `tests/bench/*.sh` with the programs as shipped, and what is measured on this machine (`agent`);
/// what each prints is kept below `docs/benchmarks/`.
pub(crate) fn bench(names: &[String]) -> Result<()> {
    let dir = workspace::root().join("docs/benchmarks");
    fs::create_dir_all(&dir).act(|| format!("create {}", dir.display()))?;
    let is_asked = |name: &str| names.is_empty() || names.iter().any(|asked| asked == name);
    for (name, make) in native::PAGES.iter().filter(|(name, _)| is_asked(name)) {
        let to = dir.join(format!("{}-{name}.md", evidence::today()?));
        fs::write(&to, make()?).act(|| format!("write {}", to.display()))?;
        println!("{}", to.display());
    }
    let scripts = script::list(&workspace::root().join("tests/bench"))?;
    let is_native = |asked: &&String| native::PAGES.iter().any(|(name, _)| name == asked);
    let others: Vec<String> = names.iter().filter(|name| !is_native(name)).cloned().collect();
    if others.is_empty() && !names.is_empty() {
        return Ok(());
    }
    let scripts = choose(scripts, &others, Tier::Full)?;
    let outcomes = Suite::prepare("bench", Profile::Release, &scripts)?.run(&scripts, 1)?;
    for outcome in outcomes.iter().filter(|outcome| outcome.failure.is_none()) {
        let to = dir.join(format!("{}-{}.md", evidence::today()?, outcome.name));
        fs::copy(&outcome.log, &to).act(|| format!("write {}", to.display()))?;
        println!("{}", to.display());
    }
    verdict(&outcomes)
}

/// Runs `tests/quickstart.sh` in a pristine host, for a person to watch; `clean` makes everything
/// anew first.
pub(crate) fn quickstart(clean: bool) -> Result<ExitCode> {
    let cache = Cache::open()?;
    if clean {
        crate::host::sweep(&cache)?;
        cache.clean(&[])?;
    }
    let files = HostFiles::ensure(&cache)?;
    let from = workspace::root().join("tests/quickstart.sh");
    let put = Put { from, to: "/root/quickstart.sh".into() };
    let payload = Payload::build(&cache, Profile::Dev, &Load::new(), &[put])?;
    let host = TestHost::resume(&files, &payload)?;
    let mut ssh = host.ssh(&["bash", "/root/quickstart.sh"].map(str::to_owned));
    let status = ssh.status().act(|| "start ssh".into())?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(255).into())
}

/// By name when names are given (an unknown one is an error), else by tier: the full one is
/// everything, each in its long form where there is one.
fn choose(scripts: Vec<Script>, names: &[String], tier: Tier) -> Result<Vec<Script>> {
    for name in names {
        if !scripts.iter().any(|script| script.name == *name) {
            let known: Vec<&str> = scripts.iter().map(|script| script.name.as_str()).collect();
            return Err(Error::refused(format!("no script {name}; known: {}", known.join(" "))));
        }
    }
    let all: Vec<String> = scripts.iter().map(|script| script.name.clone()).collect();
    let is_wanted = |script: &Script| {
        if names.is_empty() {
            match tier {
                Tier::Ci => script.header.tier == Tier::Ci,
                // The long form of a script does all that the short one does.
                Tier::Full => !all.contains(&format!("{}-long", script.name)),
            }
        } else {
            names.contains(&script.name)
        }
    };
    Ok(scripts.into_iter().filter(is_wanted).collect())
}

/// Where evidence goes.
pub(crate) fn evidence_dir() -> PathBuf {
    workspace::root().join("docs/evidence")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step fails the test")]
    use super::*;
    use crate::script::Header;
    use std::time::Duration;

    fn scripts() -> Vec<Script> {
        [("quick", Tier::Ci), ("other", Tier::Ci), ("quick-long", Tier::Full)]
            .map(|(name, tier)| Script {
                name: name.into(),
                path: name.into(),
                header: Header {
                    tier,
                    deadline: Duration::from_secs(60),
                    hosts: 1,
                    load: Load::new(),
                    resets: 0,
                },
            })
            .to_vec()
    }

    fn names(chosen: Result<Vec<Script>>) -> Vec<String> {
        chosen.unwrap().into_iter().map(|script| script.name).collect()
    }

    #[test]
    fn the_full_tier_is_everything_and_ci_is_not() {
        assert_eq!(names(choose(scripts(), &[], Tier::Ci)), ["quick", "other"]);
        assert_eq!(names(choose(scripts(), &[], Tier::Full)), ["other", "quick-long"]);
    }

    #[test]
    fn a_name_beats_the_tier_and_an_unknown_one_is_refused() {
        assert_eq!(names(choose(scripts(), &["quick-long".into()], Tier::Ci)), ["quick-long"]);
        assert!(choose(scripts(), &["lnog".into()], Tier::Ci).is_err());
    }
}
