//! The guest kernel: Debian's kernel source, our configuration, one stripped `vmlinux`.
//!
//! Refuses to hand out a kernel in which a configured line did not come out as written.
//! Publishes into the cache; how the kernel gets into a test host is in `host::payload`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::cache::{Cache, Key};
use crate::error::{Act, Error, Result};
use crate::{apt, tool, workspace};

const PACKAGE: &str = "linux-source-6.1";

/// Raised when the way of building changes.
const RECIPE: &str = "1";

/// A built guest kernel.
pub(crate) struct Kernel {
    /// The file.
    pub(crate) path: PathBuf,
}

/// The guest kernel of the present configuration and source package, built when it is missing.
pub(crate) fn ensure(cache: &Cache) -> Result<Kernel> {
    let (config, version) = (config()?, version()?);
    let dir = cache.ensure("guest-kernel", &key(&config, &version), |work| {
        apt::require(apt::KERNEL)?;
        let source = fetch(work)?;
        compile(&source, &config)?;
        publish(&source, work)
    })?;
    Ok(Kernel { path: dir.join("vmlinux") })
}

/// The key of the artefact `guest-kernel`.
pub(crate) fn current_key() -> Result<String> {
    Ok(key(&config()?, &version()?))
}

fn key(config: &str, version: &str) -> String {
    Key::new().with(RECIPE).with(PACKAGE).with(version).with(config).finish()
}

/// The version of the source package that apt would fetch.
fn version() -> Result<String> {
    if let Some(version) = candidate()? {
        return Ok(version);
    }
    tool::silent(&mut tool::command(&["apt-get", "update", "-q"]))?;
    candidate()?.ok_or_else(|| Error::refused(format!("apt knows no package {PACKAGE}")))
}

fn candidate() -> Result<Option<String>> {
    let text = tool::capture(&mut tool::command(&["apt-cache", "policy", PACKAGE]))?;
    let version = text.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
    Ok(version.filter(|version| *version != "(none)").map(str::to_owned))
}

fn config() -> Result<String> {
    let path = workspace::root().join("guest/kernel-6.1.config");
    fs::read_to_string(&path).act(|| format!("read {}", path.display()))
}

/// Fetches and unpacks the source package; returns the source tree.
fn fetch(work: &Path) -> Result<PathBuf> {
    let scratch = work.join("build");
    fs::create_dir(&scratch).act(|| "create the build directory".into())?;
    tool::silent(tool::command(&["apt-get", "download", "-q", PACKAGE]).current_dir(&scratch))?;
    let package = only_file(&scratch, ".deb")?;
    tool::silent(tool::command(&["dpkg-deb", "-x"]).arg(&package).arg(scratch.join("deb")))?;
    let archive = scratch.join("deb/usr/src").join(format!("{PACKAGE}.tar.xz"));
    tool::silent(tool::command(&["tar", "-xJf"]).arg(archive).arg("-C").arg(&scratch))?;
    Ok(scratch.join(PACKAGE))
}

fn compile(source: &Path, config: &str) -> Result<()> {
    let target = source.join(".config");
    fs::write(&target, config).act(|| "write .config".into())?;
    tool::silent(tool::command(&["make", "-s", "olddefconfig"]).current_dir(source))?;
    let resolved = fs::read_to_string(&target).act(|| "read .config".into())?;
    let wrong = differences(config, &resolved);
    if !wrong.is_empty() {
        return Err(Error::refused(format!(
            "the kernel's configuration did not come out as written:\n{}",
            wrong.join("\n")
        )));
    }
    let jobs = std::thread::available_parallelism().map_or(2, usize::from);
    let mut make = tool::command(&["nice", "-n", "5", "make", "-s"]);
    make.arg(format!("-j{jobs}")).arg("vmlinux").current_dir(source);
    make.env("KBUILD_BUILD_TIMESTAMP", "1970-01-01").env("KBUILD_BUILD_USER", "mvm");
    tool::silent(make.env("KBUILD_BUILD_HOST", "mvm"))
}

fn publish(source: &Path, work: &Path) -> Result<()> {
    let kernel = work.join("vmlinux");
    let mut strip = tool::command(&["strip", "-s", "-o"]);
    tool::silent(strip.arg(&kernel).arg(source.join("vmlinux")))?;
    let config = work.join("config");
    fs::copy(source.join(".config"), config).act(|| "keep the resolved configuration".into())?;
    let bytes = fs::read(&kernel).act(|| "read the built kernel".into())?;
    fs::write(work.join("sha256"), hex::encode(Sha256::digest(bytes)))
        .act(|| "write the kernel's digest".into())?;
    fs::remove_dir_all(work.join("build")).act(|| "remove the build directory".into())
}

fn only_file(dir: &Path, suffix: &str) -> Result<PathBuf> {
    fs::read_dir(dir)
        .act(|| format!("read {}", dir.display()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.to_string_lossy().ends_with(suffix))
        .ok_or_else(|| Error::refused(format!("no {suffix} file in {}", dir.display())))
}

/// The wanted lines that the resolved configuration contradicts; a missing option counts as off.
fn differences(wanted: &str, resolved: &str) -> Vec<String> {
    let resolved = options(resolved);
    options(wanted)
        .into_iter()
        .filter_map(|(name, value)| {
            let got = resolved.get(&name).map_or("n", String::as_str);
            (got != value).then(|| format!("{name}: wanted {value}, got {got}"))
        })
        .collect()
}

fn options(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| {
            if let Some(rest) = line.strip_prefix("# CONFIG_") {
                return rest.strip_suffix(" is not set").map(|name| (name.into(), "n".into()));
            }
            let (name, value) = line.strip_prefix("CONFIG_")?.split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_that_was_dropped_or_changed_is_reported_and_a_missing_off_is_not() {
        let wanted = "# a note\nCONFIG_A=y\nCONFIG_B=\"x\"\n# CONFIG_C is not set\nCONFIG_D=y\n";
        let resolved = "CONFIG_A=y\nCONFIG_B=\"z\"\n# CONFIG_D is not set\n";
        assert_eq!(
            differences(wanted, resolved),
            vec!["B: wanted \"x\", got \"z\"".to_owned(), "D: wanted y, got n".to_owned()]
        );
    }
}
