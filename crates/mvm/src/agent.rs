//! The agent: it keeps the node at its desired state and lets rest what nobody needs, until it is told to
//! stop.
//!
//! ```text
//! the document changed, or the interval is over ─▶ reconcile
//! a tick is over                                ─▶ policy
//! ```
//!
//! What fails is logged, and tried again when its time comes: nothing but a second agent and a signal ends
//! it. Instances are the shims' children, so they do not notice when it goes. This module refuses to know
//! how anything is done.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant, SystemTime},
};

use mvm_core::{
    error::{Error, ErrorKind},
    layout,
    operation::Operation,
};
use mvm_engine::{Context, Outcome, Watch};
use mvm_host::lock;

use crate::Mvm;

/// How long a signal and a changed document may wait.
const GLANCE: Duration = Duration::from_millis(250);

/// What an agent follows, and how often.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// The desired state; none to leave records as they are.
    pub desired: Option<PathBuf>,
    /// How often the node is brought to it when nothing changes.
    pub interval: Duration,
    /// How often policy looks.
    pub tick: Duration,
}

/// Which version of the document was seen.
type Version = Option<(SystemTime, u64)>;

impl Mvm {
    /// Serves until `cx` is cancelled.
    ///
    /// # Errors
    /// `Conflict` when another agent serves this node; `Invalid` when the document makes no sense at the
    /// start. Later it is logged, and the node stays as it is.
    pub fn agent_serve(&self, cx: &Context, options: &AgentOptions) -> Result<(), Error> {
        let path = self.roots.run.join(layout::run::AGENT);
        let _alone = lock::hold(&path)?.ok_or_else(|| {
            Error::new(ErrorKind::Conflict, "another agent serves this node")
                .hint("see it: mvm node info; stop it before you start another one")
        })?;
        if let Some(file) = &options.desired {
            self.read_desired(file)?;
        }
        tracing::info!(desired = ?options.desired, "the agent serves");
        // Each pass is an operation of its own.
        let cx = &Context { operation: None, ..cx.clone() };
        let mut watch = Watch::default();
        let (mut seen, mut reconciled, mut ticked) = (None, None::<Instant>, Instant::now());
        while cx.cancel.check().is_ok() {
            if let Some(file) = &options.desired {
                let version = version(file);
                let is_due = reconciled.is_none_or(|at| at.elapsed() >= options.interval);
                if is_due || version != seen {
                    (seen, reconciled) = (version, Some(Instant::now()));
                    log("reconcile", self.follow(cx, file));
                }
            }
            if ticked.elapsed() >= options.tick {
                ticked = Instant::now();
                log("policy", self.engine.policy_tick(cx, &mut watch));
            }
            thread::sleep(GLANCE);
        }
        tracing::info!("the agent was told to stop");
        Ok(())
    }

    fn follow(&self, cx: &Context, file: &Path) -> Result<Outcome, Error> {
        let desired = Box::new(self.read_desired(file)?);
        self.operate(cx, &Operation::AgentReconcile { desired })
    }

    fn read_desired(&self, file: &Path) -> Result<crate::DesiredState, Error> {
        let bytes = fs::read(file).map_err(|error| {
            Error::new(ErrorKind::Invalid, format!("cannot read {}", file.display()))
                .because(&error)
        })?;
        let checked = self.desired_check(&bytes);
        checked.map_err(|error| error.context(format!("{} is refused", file.display())))
    }
}

fn version(file: &Path) -> Version {
    let metadata = fs::metadata(file).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

fn log(what: &str, done: Result<Outcome, Error>) {
    match done {
        Ok(outcome) => {
            for change in &outcome.changes {
                let (instance, to) = (&change.instance, change.to);
                tracing::info!(%instance, %to, from = ?change.from, "{what}");
            }
            for deferral in &outcome.deferrals {
                tracing::info!(instance = %deferral.instance, reason = deferral.reason, "{what}: put off");
            }
            for failed in &outcome.failures {
                tracing::warn!(subject = failed.subject, error = %failed.error, "{what} failed");
            }
        }
        Err(error) if mvm_engine::is_cancelled(&error) => {}
        Err(error) => tracing::warn!(%error, "{what} failed"),
    }
}
