//! Words with the guest, and what each answer means for the plan that asked.

use mvm_core::{
    error::{Error, ErrorKind},
    event::EventKind,
    instance::{Drain, Want},
    integration::Integration,
    port::{GuestAct, GuestAnswer, IntegrationFailure},
};

use super::Course;
use crate::{run::Fault, store::records};

impl Course<'_> {
    pub(super) fn ask(&mut self, act: &GuestAct) -> Result<(), Fault> {
        if let GuestAct::Checkpoint { integrations, .. } = act
            && self.is_drain_silent
        {
            return self.settle(act, integrations, &GuestAnswer::Silent);
        }
        let id = &self.record.instance;
        tracing::debug!(instance = %id, act = word(act), "asks the guest");
        let stopping = self.record.want == Want::Stopped;
        let answer = self.engine.ports.guest.ask(id, act);
        if self.is_deaf_clone(act, &answer)? {
            return Ok(());
        }
        let id = &self.record.instance;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) if stopping => {
                tracing::warn!(instance = %id, %error, "the guest cannot be asked; it is stopped");
                return Ok(());
            }
            Err(error) => {
                return Err(error.context(format!("cannot ask the guest of {id}")).into());
            }
        };
        let is_forced = self.is_drain_silent || self.record.drain == Drain::Skip;
        match (act, answer) {
            (
                GuestAct::Checkpoint { integrations, .. } | GuestAct::Restore { integrations, .. },
                answer,
            ) => self.settle(act, integrations, &answer),
            (_, GuestAnswer::Done | GuestAnswer::Partly(_)) | (GuestAct::Shutdown { .. }, _) => {
                Ok(())
            }
            (GuestAct::Thaw, _) if stopping => Ok(()),
            (GuestAct::Quiesce, _) if is_forced => Ok(()),
            (GuestAct::Drain { timeout }, GuestAnswer::Silent) => {
                let reason = format!("no answer within {timeout}");
                self.is_drain_silent = true;
                Ok(self.tell(EventKind::DrainForced, reason)?)
            }
            (GuestAct::Drain { .. }, GuestAnswer::Refused(why)) => Err(Fault::last(
                Error::new(
                    ErrorKind::Conflict,
                    format!("the guest of {id} refuses to sleep: {why}"),
                )
                .hint("wait until it is done, or sleep it all the same with --force"),
            )),
            (GuestAct::Resize, answer) => Err(self.leave_small(&answer)),
            (_, GuestAnswer::Silent) => Err(Fault::last(
                Error::new(
                    ErrorKind::Unavailable,
                    format!("the guest of {id} does not answer ({})", word(act)),
                )
                .hint(format!("see what it does: mvm instance logs {id}")),
            )),
            (_, GuestAnswer::Refused(why)) => Err(Fault::last(Error::new(
                ErrorKind::Failed,
                format!("the guest of {id} refuses ({}): {why}", word(act)),
            ))),
        }
    }
}

impl Course<'_> {
    /// The guest does not use its larger disk. That must not stand in the way of anything else that
    /// is asked of the instance.
    fn leave_small(&mut self, answer: &GuestAnswer) -> Fault {
        let id = self.record.instance.clone();
        let size = self.record.resources.data_disk_mib;
        self.record.volume.is_growing = false;
        let stored = self.engine.within(|tx| {
            let mut record = self.record.clone();
            records::put(tx, &mut record)?;
            Ok(record)
        });
        match stored {
            Ok(record) => self.record = record,
            Err(error) => return error.into(),
        }
        let why = match answer {
            GuestAnswer::Refused(why) => why.as_str(),
            GuestAnswer::Silent | GuestAnswer::Done | GuestAnswer::Partly(_) => {
                "it does not answer"
            }
        };
        Fault::last(
            Error::new(
                ErrorKind::Failed,
                format!("{id} has its larger disk and does not use it: {why}"),
            )
            .hint(format!("ask it again: mvm instance update {id} --data-disk {}", size.0)),
        )
    }

    /// Puts into the audit log what became of each integration. Only a critical one that says that
    /// it cannot be saved stands in the way, and not in that of `--force`.
    fn settle(
        &mut self,
        act: &GuestAct,
        integrations: &[Integration],
        answer: &GuestAnswer,
    ) -> Result<(), Fault> {
        let is_restore = matches!(act, GuestAct::Restore { .. });
        let done = if is_restore {
            EventKind::IntegrationRestored
        } else {
            EventKind::IntegrationCheckpointed
        };
        let all = |why: &str| {
            let failure = |one: &Integration| IntegrationFailure {
                name: one.name.clone(),
                detail: why.to_owned(),
            };
            integrations.iter().map(failure).collect()
        };
        let failed: Vec<IntegrationFailure> = match answer {
            GuestAnswer::Done => Vec::new(),
            GuestAnswer::Partly(failed) => failed.clone(),
            GuestAnswer::Refused(why) => all(why),
            GuestAnswer::Silent => all("the guest does not answer"),
        };
        let mut told = Vec::new();
        let mut blocking = Vec::new();
        for one in integrations {
            let failure = failed.iter().find(|failure| failure.name == one.name);
            let kind = if failure.is_some() { EventKind::IntegrationFailed } else { done };
            let reason = failure.map_or("", |failure| failure.detail.as_str());
            told.push((kind, one.name.as_str(), reason));
            if failure.is_some() && one.critical {
                blocking.push(format!("{}: {reason}", one.name));
            }
        }
        let act = if is_restore { "restore" } else { "checkpoint" };
        self.tell_integrations(&told, act)?;
        if *answer == GuestAnswer::Silent && !is_restore && !self.is_drain_silent {
            self.is_drain_silent = true;
            self.tell(EventKind::DrainForced, "no answer to the checkpoint".to_owned())?;
        }
        if blocking.is_empty()
            || is_restore
            || self.record.drain == Drain::Skip
            || *answer == GuestAnswer::Silent
        {
            return Ok(());
        }
        let id = &self.record.instance;
        Err(Fault::last(
            Error {
                causes: blocking,
                ..Error::new(
                    ErrorKind::Conflict,
                    format!("{id} stays awake: a critical integration cannot be saved"),
                )
            }
            .hint("see to it and try again, or sleep it all the same with --force"),
        ))
    }
}

/// The name of an act, for progress and errors.
pub(super) const fn word(act: &GuestAct) -> &'static str {
    match act {
        GuestAct::Await { .. } => "await_agent",
        GuestAct::Configure { .. } => "configure",
        GuestAct::Drain { .. } => "drain",
        GuestAct::Checkpoint { .. } => "checkpoint",
        GuestAct::Restore { .. } => "restore",
        GuestAct::Routes(_) => "routes",
        GuestAct::Quiesce => "quiesce",
        GuestAct::Wake { .. } => "wake",
        GuestAct::RefreshSecrets { .. } => "refresh_secrets",
        GuestAct::Ready { .. } => "ready",
        GuestAct::Thaw => "thaw",
        GuestAct::Resize => "resize",
        GuestAct::Shutdown { .. } => "shutdown",
    }
}
