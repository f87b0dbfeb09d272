//! One directory per running host, with the identities of what must not outlive it.
//!
//! `owner` is the task that started it, `emulator` the machine; both as JSON identities. A
//! directory whose owner is gone is swept by the next task.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::cache::Cache;
use crate::error::{Act, Error, Result};
use crate::process::Identity;

/// The directories of this task's hosts, for the signal thread.
static RUNNING: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A host's directory; ends the machine and disappears when dropped, unless it is released.
pub(crate) struct RunDir {
    path: PathBuf,
    is_released: bool,
}

impl RunDir {
    /// A new directory of this task.
    pub(crate) fn create(cache: &Cache) -> Result<Self> {
        let path = tempfile::Builder::new()
            .prefix("h")
            .tempdir_in(cache.root().join("run"))
            .act(|| "create a run directory".into())?
            .keep();
        let dir = Self { path, is_released: false };
        if let Ok(mut running) = RUNNING.lock() {
            running.push(dir.path.clone());
        }
        dir.record("owner", std::process::id())?;
        Ok(dir)
    }

    /// Adopts the directory of a host that another task left running.
    pub(crate) fn adopt(path: PathBuf) -> Self {
        Self { path, is_released: true }
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes down who a process is.
    pub(crate) fn record(&self, name: &str, pid: u32) -> Result<()> {
        let identity = Identity::of(pid)
            .ok_or_else(|| Error::refused(format!("the {name} process {pid} is gone")))?;
        let text = serde_json::to_string(&identity)
            .map_err(|source| Error::Json { what: "a process identity".into(), source })?;
        fs::write(self.path.join(name), text).act(|| format!("record the {name}"))
    }

    /// Lets the host live on after this task.
    pub(crate) fn release(&mut self) -> Result<()> {
        fs::remove_file(self.path.join("owner")).act(|| "release the host".into())?;
        self.is_released = true;
        forget(&self.path);
        Ok(())
    }

    /// Ends the host that lives in a directory and removes the directory.
    pub(crate) fn end(path: &Path) {
        for name in ["ssh", "emulator"] {
            if let Some(identity) = read(path, name) {
                identity.end();
            }
        }
        let _gone_already = fs::remove_dir_all(path);
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if !self.is_released {
            Self::end(&self.path);
            forget(&self.path);
        }
    }
}

/// Ends every host of this task; for the signal thread, just before it exits.
pub(crate) fn end_all() {
    let paths = RUNNING.lock().map(|running| running.clone()).unwrap_or_default();
    for path in paths {
        RunDir::end(&path);
    }
}

/// Ends what killed tasks left behind. The directory of a released host has no owner and stays.
pub(crate) fn sweep(cache: &Cache) -> Result<()> {
    let dir = cache.root().join("run");
    for entry in fs::read_dir(&dir).act(|| format!("read {}", dir.display()))? {
        let path = entry.act(|| "read the run directory".into())?.path();
        let is_stale = read(&path, "owner").is_some_and(|owner| !owner.is_alive());
        if is_stale {
            eprintln!("xtask: ending a test host that a killed task left ({})", path.display());
            RunDir::end(&path);
        }
    }
    Ok(())
}

fn forget(path: &Path) {
    if let Ok(mut running) = RUNNING.lock() {
        running.retain(|other| other != path);
    }
}

fn read(dir: &Path, name: &str) -> Option<Identity> {
    serde_json::from_str(&fs::read_to_string(dir.join(name)).ok()?).ok()
}
