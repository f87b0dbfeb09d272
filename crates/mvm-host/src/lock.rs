//! Locks on subjects: `flock` on a file below `<run>/locks`, released by the kernel at death.
//!
//! The file says who holds it, for people; that text is never believed by a program.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use mvm_core::{
    Error, ErrorKind,
    id::Subject,
    layout::run,
    port::{Lock, Locks},
};
use rustix::fs::{FlockOperation, OFlags, flock};
use serde::{Deserialize, Serialize};

use crate::vmm::{
    fault::{Act, absent},
    place::ensure_dir,
    socket::Deadline,
};

/// A lock that somebody holds is tried again at this interval.
const INTERVAL: Duration = Duration::from_millis(10);
/// Lock files are the group's too; who may reach them, the directory says.
const SHARED: u32 = 0o660;

/// The locks of this host.
#[derive(Debug, Clone)]
pub struct FileLocks {
    run: PathBuf,
}

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Holder {
    pid: u32,
    program: String,
    since: u64,
}

struct Held {
    file: File,
    path: PathBuf,
}

impl FileLocks {
    /// Locks below this runtime directory.
    pub fn new(run: impl Into<PathBuf>) -> Self {
        Self { run: run.into() }
    }

    /// A lock file below the runtime directory, whose own directory is made.
    fn file(&self, below: PathBuf) -> Result<PathBuf, Error> {
        let path = self.run.join(below);
        let directory = path.parent().unwrap_or(&self.run);
        if !directory.is_dir() {
            ensure_dir(directory, 0o700)?;
        }
        Ok(path)
    }
}

impl Locks for FileLocks {
    fn lock(&self, subject: &Subject, wait: Duration) -> Result<Box<dyn Lock>, Error> {
        let path = self.file(run::lock(subject))?;
        let deadline = Deadline::after(wait);
        loop {
            if let Some(held) = take(&path)? {
                return Ok(Box::new(held));
            }
            let Ok(left) = deadline.left() else { return Err(busy(subject, &path, wait)) };
            std::thread::sleep(INTERVAL.min(left));
        }
    }

    fn place(&self, place: u32) -> Result<Option<Box<dyn Lock>>, Error> {
        hold(&self.file(run::place(place))?)
    }
}

impl Lock for Held {
    fn retire(self: Box<Self>) {
        // Whoever waits for this file finds that it has no name any more, and makes the next.
        let _ = fs::remove_file(&self.path);
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let (true, Some(directory)) = (name.starts_with("tenant."), self.path.parent()) {
            sweep(directory);
        }
        drop(self.file);
    }
}

/// Removes the files of locks that nobody holds: a command that was killed between the end of its
/// subject and the end of its lock leaves one, and nobody asks for that subject again.
fn sweep(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if let Ok(Some(free)) = take(&entry.path()) {
            let _ = fs::remove_file(&free.path);
        }
    }
}

/// Whether somebody holds a lock on this file; an absent one is free.
///
/// # Errors
/// I/O errors.
pub fn is_held(path: &Path) -> Result<bool, Error> {
    let what = || format!("look at {}", path.display());
    let Some(file) = absent(File::open(path)).act(what())? else { return Ok(false) };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
        Err(error) => Err(error).act(what()),
    }
}

/// Takes a lock of the node for as long as what is returned lives; `None` while somebody else has it.
///
/// # Errors
/// When the file cannot be made or locked.
pub fn hold(path: &Path) -> Result<Option<Box<dyn Lock>>, Error> {
    if let Some(directory) = path.parent().filter(|directory| !directory.is_dir()) {
        ensure_dir(directory, 0o700)?;
    }
    Ok(take(path)?.map(|held| Box::new(held) as Box<dyn Lock>))
}

/// Takes the lock, `None` while somebody else has it.
fn take(path: &Path) -> Result<Option<Held>, Error> {
    let what = || format!("lock {}", path.display());
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(SHARED)
        // The agent may write into the directory too: no link of its making is followed.
        .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
        .open(path)
        .act(what())?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
        Err(error) => return Err(error).act(what()),
    }
    let own = file.metadata().act(what())?;
    if own.mode() & 0o7777 != SHARED && own.uid() == rustix::process::geteuid().as_raw() {
        // Whatever the mask of this process: who shares the directory shares the locks in it.
        file.set_permissions(fs::Permissions::from_mode(SHARED)).act(what())?;
    }
    let named = fs::symlink_metadata(path).ok();
    if named.is_none_or(|named| (named.dev(), named.ino()) != (own.dev(), own.ino())) {
        return Ok(None);
    }
    let text = serde_json::to_vec(&holder()).unwrap_or_default();
    file.set_len(0).and_then(|()| file.write_all(&text)).act(what())?;
    Ok(Some(Held { file, path: path.to_owned() }))
}

fn holder() -> Holder {
    let program = std::env::current_exe().ok();
    let program = program.as_deref().and_then(Path::file_name).unwrap_or_default();
    let since = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Holder {
        pid: std::process::id(),
        program: program.to_string_lossy().into_owned(),
        since: since.as_secs(),
    }
}

fn busy(subject: &Subject, path: &Path, wait: Duration) -> Error {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(4096).read_to_string(&mut text));
    let holder = read.ok().and_then(|_| serde_json::from_str::<Holder>(&text).ok());
    let now = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let who = holder.map_or_else(
        || "another process".to_owned(),
        |Holder { pid, program, since }| {
            format!("{program} with pid {pid} since {} s", now.as_secs().saturating_sub(since))
        },
    );
    let message =
        format!("{subject} is being worked on by {who}; waited {:.1} s", wait.as_secs_f64());
    Error::new(ErrorKind::Unavailable, message).hint("wait for it to finish, then try again")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    #![expect(clippy::disallowed_methods, reason = "a test needs another process")]
    use std::process::{Command, Stdio};

    use super::*;

    fn subject() -> Subject {
        Subject::Tenant("acme".parse().unwrap())
    }

    #[test]
    fn a_held_lock_is_refused_with_its_holder_and_free_after_its_release() {
        let base = tempfile::tempdir().unwrap();
        let locks = FileLocks::new(base.path());
        let held = locks.lock(&subject(), Duration::ZERO).unwrap();
        let error = locks.lock(&subject(), Duration::from_millis(30)).err().unwrap();
        assert_eq!(error.kind, ErrorKind::Unavailable);
        let pid = format!("with pid {} since", std::process::id());
        assert!(error.message.contains(&pid), "{error}");
        assert!(locks.lock(&Subject::Firewall, Duration::ZERO).is_ok());
        drop(held);
        assert!(locks.lock(&subject(), Duration::ZERO).is_ok());
    }

    #[test]
    fn a_place_is_one_holders_and_says_so_at_once() {
        let base = tempfile::tempdir().unwrap();
        let locks = FileLocks::new(base.path());
        let held = locks.place(0).unwrap().unwrap();
        assert!(locks.place(0).unwrap().is_none());
        assert!(locks.place(1).unwrap().is_some());
        drop(held);
        assert!(locks.place(0).unwrap().is_some());
    }

    #[test]
    fn a_retired_lock_leaves_no_file_and_can_be_taken_again() {
        let base = tempfile::tempdir().unwrap();
        let locks = FileLocks::new(base.path());
        locks.lock(&subject(), Duration::ZERO).unwrap().retire();
        assert_eq!(fs::read_dir(base.path().join(run::LOCKS)).unwrap().count(), 0);
        drop(locks.lock(&subject(), Duration::ZERO).unwrap());
    }

    #[test]
    fn the_death_of_another_process_releases_its_lock() {
        let base = tempfile::tempdir().unwrap();
        let locks = FileLocks::new(base.path());
        drop(locks.lock(&subject(), Duration::ZERO).unwrap());
        let path = base.path().join(run::lock(&subject()));
        assert!(!is_held(&path).unwrap() && !is_held(&base.path().join("absent")).unwrap());
        let file = File::open(&path).unwrap();
        flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
        let mut child =
            Command::new("/bin/sleep").arg("60").stdin(Stdio::from(file)).spawn().unwrap();
        assert!(locks.lock(&subject(), Duration::ZERO).is_err() && is_held(&path).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(locks.lock(&subject(), Duration::from_secs(10)).is_ok());
    }

    #[test]
    fn the_end_of_a_tenant_takes_along_locks_that_nobody_holds_and_no_other() {
        let base = tempfile::tempdir().unwrap();
        let locks = FileLocks::new(base.path());
        let tenant = Subject::Tenant("acme".parse().unwrap());
        let lock = locks.lock(&tenant, Duration::ZERO).unwrap();
        let held = locks.lock(&Subject::Firewall, Duration::ZERO).unwrap();
        let directory = base.path().join(run::LOCKS);
        fs::write(directory.join("instance.i-00000001"), "").unwrap();
        lock.retire();
        let left: Vec<_> =
            fs::read_dir(&directory).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["firewall"]);
        drop(held);
    }
}
