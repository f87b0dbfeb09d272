//! The directory of things that take long to make, each named by the content of its recipe.
//!
//! ```text
//! <cache>/<name>-<key>/   one complete artefact; appears by rename, never changes
//! <cache>/<name>.lock     held while that artefact is being made
//! <cache>/tmp/            unfinished work
//! <cache>/run/            running test hosts
//! ```
//! Knows nothing about what is kept in it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};

use crate::error::{Act, Error, Result};

/// Collects the inputs of a recipe into a key.
pub(crate) struct Key(Sha256);

impl Key {
    /// The key of an empty recipe.
    pub(crate) fn new() -> Self {
        Self(Sha256::new())
    }

    /// Adds one input; its length is part of it, so neighbours cannot run together.
    pub(crate) fn with(mut self, input: impl AsRef<[u8]>) -> Self {
        let bytes = input.as_ref();
        self.0.update(bytes.len().to_le_bytes());
        self.0.update(bytes);
        self
    }

    /// The first 16 hexadecimal digits.
    pub(crate) fn finish(self) -> String {
        let mut text = hex::encode(self.0.finalize());
        text.truncate(16);
        text
    }
}

/// The cache directory.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    root: PathBuf,
}

impl Cache {
    /// `MVM_XTASK_CACHE`, or `mvm-xtask` in the user's cache directory.
    pub(crate) fn open() -> Result<Self> {
        let root = match std::env::var_os("MVM_XTASK_CACHE") {
            Some(path) => PathBuf::from(path),
            None => std::env::var_os("XDG_CACHE_HOME")
                .map(PathBuf::from)
                .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
                .ok_or_else(|| Error::refused("neither MVM_XTASK_CACHE nor HOME is set"))?
                .join("mvm-xtask"),
        };
        Self::at(root)
    }

    /// A cache in the given directory, made when missing.
    pub(crate) fn at(root: PathBuf) -> Result<Self> {
        for dir in ["tmp", "run", "images"] {
            let dir = root.join(dir);
            fs::create_dir_all(&dir).act(|| format!("create {}", dir.display()))?;
        }
        Ok(Self { root })
    }

    /// The directory itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where an artefact is or would be.
    pub(crate) fn path(&self, name: &str, key: &str) -> PathBuf {
        self.root.join(format!("{name}-{key}"))
    }

    /// The directory of an artefact; makes it first when it is missing.
    ///
    /// `make` fills the directory it is given. Only one process makes an artefact at a time; the
    /// others wait and find it complete.
    pub(crate) fn ensure(
        &self,
        name: &str,
        key: &str,
        make: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let finished = self.path(name, key);
        if finished.exists() {
            return Ok(finished);
        }
        let lock_path = self.root.join(format!("{name}.lock"));
        let lock = File::create(&lock_path).act(|| format!("create {}", lock_path.display()))?;
        flock(&lock, FlockOperation::LockExclusive).act(|| format!("lock {name}"))?;
        if finished.exists() {
            return Ok(finished);
        }
        eprintln!("xtask: making {name} ({})", finished.display());
        let started = std::time::Instant::now();
        let work = tempfile::Builder::new()
            .prefix(name)
            .tempdir_in(self.root.join("tmp"))
            .act(|| "create a working directory".into())?;
        make(work.path())?;
        let done = work.keep();
        fs::rename(&done, &finished).act(|| format!("publish {}", finished.display()))?;
        eprintln!("xtask: made {name} in {:.0} s", started.elapsed().as_secs_f64());
        Ok(finished)
    }

    /// Removes every artefact; `keep` names the directories to leave. Returns what was removed.
    pub(crate) fn clean(&self, keep: &[PathBuf]) -> Result<Vec<PathBuf>> {
        let mut removed = Vec::new();
        for entry in fs::read_dir(&self.root).act(|| format!("read {}", self.root.display()))? {
            let path = entry.act(|| "read the cache directory".into())?.path();
            if is_artefact(&path) && !keep.contains(&path) {
                fs::remove_dir_all(&path).act(|| format!("remove {}", path.display()))?;
                removed.push(path);
            }
        }
        Ok(removed)
    }
}

/// Whether a path ends in `-` and a key.
fn is_artefact(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    name.as_deref().and_then(|name| name.rsplit_once('-')).is_some_and(|(_, key)| {
        key.len() == 16 && key.bytes().all(|byte| byte.is_ascii_hexdigit()) && path.is_dir()
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step fails the test")]
    use super::*;

    #[test]
    fn a_key_changes_when_text_moves_from_one_input_to_the_next() {
        let one = Key::new().with("ab").with("c").finish();
        let two = Key::new().with("a").with("bc").finish();
        assert_ne!(one, two);
        assert_eq!(one, Key::new().with("ab").with("c").finish());
        assert_eq!(one.len(), 16);
    }

    #[test]
    fn a_failed_recipe_leaves_no_artefact_and_the_next_one_succeeds() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().to_path_buf()).unwrap();
        let failed = cache.ensure("thing", "0123456789abcdef", |_| Err(Error::refused("no")));
        assert!(failed.is_err());
        let made = cache
            .ensure("thing", "0123456789abcdef", |work| {
                fs::write(work.join("file"), "x").act(|| "write".into())
            })
            .unwrap();
        assert_eq!(fs::read_to_string(made.join("file")).unwrap(), "x");
        let again =
            cache.ensure("thing", "0123456789abcdef", |_| Err(Error::refused("made twice")));
        assert_eq!(again.unwrap(), made);
    }

    #[test]
    fn cleaning_keeps_current_keys_and_things_that_are_no_artefacts() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().to_path_buf()).unwrap();
        let new = cache.ensure("thing", "0000000000000001", |_| Ok(())).unwrap();
        let old = cache.ensure("thing", "0000000000000002", |_| Ok(())).unwrap();
        assert_eq!(cache.clean(std::slice::from_ref(&new)).unwrap(), vec![old]);
        assert!(new.exists() && dir.path().join("run").exists());
    }
}
