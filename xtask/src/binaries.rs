//! The programs that are shipped or go into a test host, and how each is built.
//!
//! Adding a program is one line in `PROGRAMS`. A program whose package has no such target yet is
//! left out with a note.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::Result;
use crate::tool;
use crate::workspace::{self, Metadata};

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// How a program is linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Linking {
    /// For the host, with its C library.
    Dynamic,
    /// Needs nothing beside itself; profile `small`.
    Static,
}

/// Whom a program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Audience {
    /// Everybody: it is shipped.
    Users,
    /// The tests, which get those that are shipped as well.
    Tests,
}

/// A program by the package it comes from, its file name in the host, its linking, and whom it is for.
struct Program {
    package: &'static str,
    name: &'static str,
    linking: Linking,
    audience: Audience,
}

use Audience::{Tests, Users};
use Linking::{Dynamic, Static};

const PROGRAMS: &[Program] = &[
    Program { package: "mvm-cli", name: "mvm", linking: Dynamic, audience: Users },
    Program { package: "mvm-cli", name: "mvm-hostd", linking: Dynamic, audience: Users },
    Program { package: "mvm-shim", name: "mvm-shim", linking: Static, audience: Users },
    Program { package: "mvm-pager", name: "mvm-pager", linking: Static, audience: Users },
    Program { package: "mvm-bench", name: "mvm-conformance", linking: Dynamic, audience: Tests },
    Program { package: "mvm-bench", name: "mvm-bench", linking: Dynamic, audience: Tests },
    Program { package: "mvm-guest", name: "mvm-guest", linking: Static, audience: Users },
];

/// Whether the host's programs are built for checking or for measuring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Assertions on.
    Dev,
    /// As shipped.
    Release,
}

/// A built program: its file here and its name there.
pub(crate) struct Built {
    /// The file.
    pub(crate) path: PathBuf,
    /// The name in the host's `/usr/local/bin`.
    pub(crate) name: &'static str,
}

/// The packages that the programs for somebody come from.
pub(crate) fn packages(audience: Audience) -> impl Iterator<Item = &'static str> {
    PROGRAMS
        .iter()
        .filter(move |program| program.audience <= audience)
        .map(|program| program.package)
}

/// Builds every program for somebody that exists.
pub(crate) fn build(profile: Profile, audience: Audience) -> Result<Vec<Built>> {
    let metadata = workspace::metadata()?;
    let mut built = Vec::new();
    for linking in [Linking::Dynamic, Linking::Static] {
        let found: Vec<(&Program, String)> = PROGRAMS
            .iter()
            .filter(|program| program.linking == linking && program.audience <= audience)
            .filter_map(|program| target(&metadata, program).map(|target| (program, target)))
            .collect();
        if found.is_empty() {
            continue;
        }
        let (mut cargo, dir) = command(linking, profile, &metadata.target_directory);
        for (program, target) in &found {
            cargo.args(["--package", program.package, "--bin", target]);
        }
        tool::show(&mut cargo)?;
        built.extend(
            found
                .into_iter()
                .map(|(program, target)| Built { path: dir.join(target), name: program.name }),
        );
    }
    Ok(built)
}

/// The cargo call for one kind of linking, and where its programs land.
fn command(linking: Linking, profile: Profile, target_dir: &Path) -> (Command, PathBuf) {
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--locked"]);
    match linking {
        Linking::Dynamic => {
            let (name, dir) = match profile {
                Profile::Dev => ("dev", "debug"),
                Profile::Release => ("release", "release"),
            };
            cargo.args(["--profile", name]);
            (cargo, target_dir.join(dir))
        }
        Linking::Static => {
            let own = target_dir.join("static");
            cargo.args(["--profile", "small", "--target", TARGET, "--target-dir"]).arg(&own);
            cargo.env("RUSTFLAGS", "-C target-feature=+crt-static");
            (cargo, own.join(TARGET).join("small"))
        }
    }
}

/// The name of the program's cargo target: its own, or that of its package.
fn target(metadata: &Metadata, program: &Program) -> Option<String> {
    let bins: Vec<&str> = metadata
        .member(program.package)?
        .targets
        .iter()
        .filter(|target| target.kind.iter().any(|kind| kind == "bin"))
        .map(|target| target.name.as_str())
        .collect();
    let found = [program.name, program.package].into_iter().find(|name| bins.contains(name));
    if found.is_none() {
        eprintln!("xtask: {} has no program {} yet; left out", program.package, program.name);
        return None;
    }
    found.map(str::to_owned)
}
