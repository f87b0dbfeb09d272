//! Worker hooks: the workload touches `/run/mvm/worker-{ready,idle,busy}`, the agent watches.
//!
//! The hook touched last is the state. This module refuses to know who asks for it.

use std::fs;
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use mvm_proto::WorkerState;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

#[derive(Debug)]
struct Seen {
    state: WorkerState,
    is_ready: bool,
    reports_idleness: bool,
    last_busy_at: Option<u64>,
}

/// What the hooks said so far.
#[derive(Debug)]
pub(crate) struct Hooks {
    directory: PathBuf,
    seen: Mutex<Seen>,
    changed: Condvar,
}

/// A view of the hooks at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HookView {
    pub(crate) state: WorkerState,
    pub(crate) is_ready: bool,
    /// Whether idle or busy was ever said.
    pub(crate) reports_idleness: bool,
    /// Milliseconds since 1970-01-01 UTC.
    pub(crate) last_busy_at: Option<u64>,
}

impl Hooks {
    /// Hooks in this directory, none touched yet.
    pub(crate) fn new(directory: PathBuf) -> Self {
        let seen = Seen {
            state: WorkerState::Starting,
            is_ready: false,
            reports_idleness: false,
            last_busy_at: None,
        };
        Self { directory, seen: Mutex::new(seen), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the hooks say.
    pub(crate) fn view(&self) -> HookView {
        let seen = self.lock();
        let is_busy = seen.state == WorkerState::Busy;
        HookView {
            state: seen.state,
            is_ready: seen.is_ready,
            reports_idleness: seen.reports_idleness,
            last_busy_at: if is_busy { Some(now_ms()) } else { seen.last_busy_at },
        }
    }

    /// Notes a touched hook; true when the state changed.
    pub(crate) fn note(&self, touched: WorkerState) -> bool {
        let mut seen = self.lock();
        let is_new = seen.state != touched;
        if seen.state == WorkerState::Busy || touched == WorkerState::Busy {
            seen.last_busy_at = Some(now_ms());
        }
        seen.is_ready |= touched != WorkerState::Starting;
        seen.reports_idleness |= matches!(touched, WorkerState::Idle | WorkerState::Busy);
        seen.state = touched;
        self.changed.notify_all();
        is_new
    }

    /// Waits until the workload is not busy; false when the deadline comes first.
    pub(crate) fn wait_until_idle(&self, deadline: Instant) -> bool {
        let mut seen = self.lock();
        while seen.state == WorkerState::Busy {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.changed.wait_timeout(seen, left);
            seen = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Watches the directory for ever and calls `on_change` at every change of state.
    pub(crate) fn watch(&self, mut on_change: impl FnMut(WorkerState)) -> std::io::Result<()> {
        let watcher = inotify::init(CreateFlags::CLOEXEC)?;
        let touched = WatchFlags::CREATE
            | WatchFlags::ATTRIB
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO;
        inotify::add_watch(&watcher, &self.directory, touched)?;
        for state in touched_before(&self.directory) {
            if self.note(state) {
                on_change(state);
            }
        }
        let mut buffer = [const { MaybeUninit::uninit() }; 4096];
        let mut events = inotify::Reader::new(&watcher, &mut buffer);
        loop {
            let event = events.next()?;
            let name = event.file_name().and_then(|name| name.to_str().ok());
            let Some(state) = name.and_then(hook_state) else { continue };
            if self.note(state) {
                on_change(state);
            }
        }
    }
}

/// The hooks already there, in the order they were touched.
fn touched_before(directory: &Path) -> Vec<WorkerState> {
    let mut found: Vec<(SystemTime, WorkerState)> = ["ready", "idle", "busy"]
        .iter()
        .filter_map(|word| {
            let name = format!("worker-{word}");
            let modified = fs::symlink_metadata(directory.join(&name)).ok()?.modified().ok()?;
            Some((modified, hook_state(&name)?))
        })
        .collect();
    found.sort_by_key(|(modified, _)| *modified);
    found.into_iter().map(|(_, state)| state).collect()
}

fn hook_state(name: &str) -> Option<WorkerState> {
    match name {
        "worker-ready" => Some(WorkerState::Ready),
        "worker-idle" => Some(WorkerState::Idle),
        "worker-busy" => Some(WorkerState::Busy),
        _ => None,
    }
}

/// The wall clock in milliseconds since 1970-01-01 UTC.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;
    use std::sync::{Arc, mpsc};
    use std::time::Duration;

    #[test]
    fn a_touched_hook_is_the_state_and_busy_leaves_its_time() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("worker-ready"), "").unwrap();
        let hooks = Arc::new(Hooks::new(directory.path().to_owned()));
        let (sender, changes) = mpsc::channel();
        let watched = Arc::clone(&hooks);
        std::thread::spawn(move || {
            let _ = watched.watch(|state| sender.send(state).unwrap_or_default());
        });
        let patience = Duration::from_secs(10);
        assert_eq!(changes.recv_timeout(patience), Ok(WorkerState::Ready));
        assert_eq!(hooks.view().last_busy_at, None);
        fs::write(directory.path().join("worker-busy"), "").unwrap();
        assert_eq!(changes.recv_timeout(patience), Ok(WorkerState::Busy));
        assert!(!hooks.wait_until_idle(Instant::now() + Duration::from_millis(5)));
        fs::write(directory.path().join("worker-idle"), "").unwrap();
        assert!(hooks.wait_until_idle(Instant::now() + patience));
        let view = hooks.view();
        assert_eq!(
            (view.state, view.is_ready, view.reports_idleness),
            (WorkerState::Idle, true, true)
        );
        assert!(view.last_busy_at.is_some());
    }
}
