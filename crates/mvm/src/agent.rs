//! The agent: it keeps the node at its desired state and lets rest what nobody needs, until it is told to
//! stop.
//!
//! ```text
//! the document changed, or the interval is over ─▶ reconcile
//! a tick is over                                ─▶ policy
//! somebody tries to reach what rests            ─▶ demand, at any time
//! ```
//!
//! What fails is logged, and tried again when its time comes: nothing but a second agent and a signal ends
//! it. Instances are the shims' children, so they do not notice when it goes. This module refuses to know
//! how anything is done.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
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

use crate::{
    Mvm,
    fleet::{Listen, api::Api},
    metrics::{Figures, Listener},
    supervisor::Supervisor,
};

/// How long a signal and a changed document may wait.
pub(crate) const GLANCE: Duration = Duration::from_millis(250);
/// How often it is looked whether somebody who is asked for all the time rests by now.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// What an agent follows, and how often.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// The desired state; none to follow the one that was accepted last, if any.
    pub desired: Option<PathBuf>,
    /// Where the API listens; none for nowhere.
    pub listen: Option<Listen>,
    /// Where Prometheus reads figures; none for nowhere.
    pub metrics: Option<SocketAddr>,
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
            self.refuse_unsigned()?;
            self.read_desired(file)?;
        }
        let start = |listen: &Listen| Api::start(self, listen, options.desired.is_some());
        let api = options.listen.as_ref().map(start).transpose()?;
        let metrics = options.metrics.map(Listener::bind).transpose()?;
        Supervisor::of_this_process().tell_ready();
        let figures = Figures::default();
        thread::scope(|scope| {
            if let Some(listener) = &metrics {
                scope.spawn(|| figures.serve(self, cx, listener));
            }
            scope.spawn(|| self.answer(cx));
            self.serve(cx, options, api.as_ref(), &figures);
        });
        Ok(())
    }

    fn serve(&self, cx: &Context, options: &AgentOptions, api: Option<&Api>, figures: &Figures) {
        tracing::info!(desired = ?options.desired, "the agent serves");
        // Each pass is an operation of its own.
        let cx = &Context { operation: None, ..cx.clone() };
        let mut watch = Watch::default();
        let (mut seen, mut reconciled, mut ticked) = (None, None::<Instant>, Instant::now());
        while cx.cancel.check().is_ok() {
            let is_due = reconciled.is_none_or(|at| at.elapsed() >= options.interval);
            if let Some(file) = &options.desired {
                let version = version(file);
                if is_due || version != seen {
                    (seen, reconciled) = (version, Some(Instant::now()));
                    note(figures, || Some(self.follow(cx, file)));
                }
            } else if api.is_some_and(Api::take_changed) || is_due {
                reconciled = Some(Instant::now());
                note(figures, || self.follow_accepted(cx, api));
            }
            if let Some(api) = api {
                api.tend();
            }
            if ticked.elapsed() >= options.tick {
                ticked = Instant::now();
                let done = self.engine.policy_tick(cx, &mut watch);
                figures.note_policy(ticked.elapsed(), &done);
                log("policy", done);
            }
            thread::sleep(GLANCE);
        }
        tracing::info!("the agent was told to stop");
    }

    /// Brings back what rests and is asked for, besides whatever else is done: a pass may take long, and
    /// who asks waits.
    fn answer(&self, cx: &Context) {
        let cx = &Context { operation: None, ..cx.clone() };
        let (mut asked, mut looked) = (BTreeSet::new(), Instant::now());
        while cx.cancel.check().is_ok() {
            let again = looked.elapsed() >= ASK_AGAIN;
            if again {
                looked = Instant::now();
            }
            log("demand", self.engine.answer_demand(cx, &mut asked, again));
            thread::sleep(GLANCE);
        }
    }

    fn follow(&self, cx: &Context, file: &Path) -> Result<Outcome, Error> {
        let desired = Box::new(self.read_desired(file)?);
        self.operate(cx, &Operation::AgentReconcile { desired })
    }

    /// Brings the node to the state that was accepted last, if there is one.
    fn follow_accepted(&self, cx: &Context, api: Option<&Api>) -> Option<Result<Outcome, Error>> {
        let done = match self.engine.accepted() {
            Ok(None) => return None,
            Ok(Some(state)) => self.desired_check(state.document.as_bytes()).and_then(|desired| {
                self.operate(cx, &Operation::AgentReconcile { desired: Box::new(desired) })
            }),
            Err(error) => Err(error),
        };
        if let Some(api) = api {
            api.note(&done);
        }
        Some(done)
    }

    /// # Errors
    /// `Permission` in production, where a file is followed by nobody.
    fn refuse_unsigned(&self) -> Result<(), Error> {
        if !self.production {
            return Ok(());
        }
        let message = "in production an agent follows nothing unsigned, and a file is not signed";
        Err(Error::new(ErrorKind::Permission, message)
            .hint("push the state: mvm coordinator push --desired FILE --node HOST:PORT")
            .hint("or bring it about once: mvm agent reconcile --desired FILE"))
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

/// Logs and counts a pass, if there is one.
fn note(figures: &Figures, pass: impl FnOnce() -> Option<Result<Outcome, Error>>) {
    let began = Instant::now();
    let Some(done) = pass() else { return };
    figures.note_reconcile(began.elapsed(), &done);
    log("reconcile", done);
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
