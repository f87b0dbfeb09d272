//! `cargo xtask provider`: the QEMU provider of the product, on this machine, by a script.
//!
//! Not in a test host: an emulator in an emulator takes for ever. The script gets a directory that
//! is swept like a test host's. What the product makes from packages once (the machine's base) is
//! kept between runs under the product's own key; the full tier makes it anew.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::binaries::{self, Audience, Profile};
use crate::cache::Cache;
use crate::error::{Act, Error, Result};
use crate::host::{self, RunDir};
use crate::script::Tier;
use crate::{apt, firecracker, tool, workspace};

/// How long the script may take, with and without a base.
const DEADLINE: Duration = Duration::from_secs(900);

/// What the script finds beside `mvm`.
const PROGRAMS: &[&str] = &["mvm", "mvm-shim", "mvm-pager", "mvm-guest"];

/// How many machines the script may lose before it counts as failed.
const MACHINES: usize = 3;
/// What `mvm` says of a machine that stopped answering (`unavailable`).
const LOST: i32 = 8;

/// Runs the script. When the machine itself stops answering (a software processor's nested guests
/// hang it now and then), that is said aloud, and the script runs again from the start.
pub(crate) fn run(tier: Tier) -> Result<()> {
    for _ in 1..MACHINES {
        if attempt(tier)? == Verdict::Passed {
            return Ok(());
        }
        println!("HUNG machine: it stopped answering; once more");
    }
    match attempt(tier)? {
        Verdict::Passed => Ok(()),
        Verdict::MachineLost => Err(Error::refused(format!("{MACHINES} machines hung"))),
    }
}

/// How one attempt ended, if the script did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Passed,
    MachineLost,
}

fn attempt(tier: Tier) -> Result<Verdict> {
    apt::require(apt::HOST)?;
    apt::require(apt::PROVIDER)?;
    let cache = Cache::open()?;
    host::sweep(&cache)?;
    let programs = binaries::build(Profile::Dev, Audience::Tests)?;
    let image = host::default_image(&cache, &programs)?;
    let dir = RunDir::create(&cache)?;
    let bin = dir.path().join("bin");
    make(&bin)?;
    for built in programs.iter().filter(|built| PROGRAMS.contains(&built.name)) {
        let to = bin.join(built.name);
        fs::copy(&built.path, &to).act(|| format!("copy {}", built.name))?;
    }
    let mirror = dir.path().join("mirror");
    lay_out_mirror(&mirror, &firecracker::ensure(&cache)?)?;
    let bases = match tier {
        Tier::Ci => cache.root().join("machine-bases"),
        Tier::Full => dir.path().join("bases"),
    };
    make(&bases)?;
    let place = |name: &str| dir.path().join(name);
    let path = std::env::var("PATH").unwrap_or_default();
    let root = workspace::root();
    let mut script = tool::command(&["bash"]);
    script.arg(root.join("tests/provider/machine.sh")).current_dir(dir.path());
    script.env("PATH", format!("{}:{path}", bin.display()));
    script.env("MVM_TEST_TIER", if tier == Tier::Full { "full" } else { "ci" });
    script.env("MVM_TEST_LIB", root.join("tests/e2e/lib"));
    script.env("MVM_TEST_PROVIDER", root.join("tests/provider"));
    script.env("MVM_TEST_DIR", dir.path()).env("MVM_TEST_BASES", &bases);
    script.env("MVM_TEST_IMAGES", image).env("MVM_ASSET_MIRROR", &mirror);
    script.env("MVM_DATA_DIR", place("data")).env("MVM_RUN_DIR", place("run"));
    script.env("MVM_CONFIG_DIR", place("config")).env_remove("MVM_HOST");
    script.stdin(Stdio::null());
    std::os::unix::process::CommandExt::process_group(&mut script, 0);
    follow(&mut script)
}

fn follow(script: &mut std::process::Command) -> Result<Verdict> {
    let started = Instant::now();
    let mut child = script.spawn().act(|| "start the script".into())?;
    loop {
        if let Some(status) = child.try_wait().act(|| "wait for the script".into())? {
            if status.success() {
                println!("1 passed, 0 failed");
                return Ok(Verdict::Passed);
            }
            if status.code() == Some(LOST) {
                return Ok(Verdict::MachineLost);
            }
            return Err(Error::refused(format!("tests/provider/machine.sh ended with {status}")));
        }
        if started.elapsed() > DEADLINE {
            let _gone_already = child.kill();
            let _status = child.wait();
            return Err(Error::refused("tests/provider/machine.sh took longer than 15 minutes"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A mirror as the product wants it: every file under its hash.
fn lay_out_mirror(mirror: &Path, from: &Path) -> Result<()> {
    make(mirror)?;
    for name in ["firecracker", "jailer"] {
        let file = from.join(name);
        let sum = tool::capture(tool::command(&["sha256sum"]).arg(&file))?;
        let hash = sum.split_ascii_whitespace().next().unwrap_or_default();
        symlink(&file, mirror.join(hash)).act(|| format!("link {name}"))?;
    }
    Ok(())
}

fn make(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).act(|| format!("create {}", dir.display()))
}
