//! Words with the guest, and what each answer means for the plan that asked.

use mvm_core::{
    error::{Error, ErrorKind},
    event::EventKind,
    instance::{Drain, Want},
    port::{GuestAct, GuestAnswer},
};

use super::Course;
use crate::{run::Fault, store::records};

impl Course<'_> {
    pub(super) fn ask(&mut self, act: &GuestAct) -> Result<(), Fault> {
        let id = &self.record.instance;
        tracing::debug!(instance = %id, ?act, "asks the guest");
        let stopping = self.record.want == Want::Stopped;
        let answer = match self.engine.ports.guest.ask(id, act) {
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
            (_, GuestAnswer::Done) | (GuestAct::Shutdown { .. }, _) => Ok(()),
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
            GuestAnswer::Silent | GuestAnswer::Done => "it does not answer",
        };
        Fault::last(
            Error::new(
                ErrorKind::Failed,
                format!("{id} has its larger disk and does not use it: {why}"),
            )
            .hint(format!("ask it again: mvm instance update {id} --data-disk {}", size.0)),
        )
    }
}

/// The name of an act, for progress and errors.
pub(super) const fn word(act: &GuestAct) -> &'static str {
    match act {
        GuestAct::Await { .. } => "await_agent",
        GuestAct::Drain { .. } => "drain",
        GuestAct::Quiesce => "quiesce",
        GuestAct::Wake { .. } => "wake",
        GuestAct::RefreshSecrets { .. } => "refresh_secrets",
        GuestAct::Thaw => "thaw",
        GuestAct::Resize => "resize",
        GuestAct::Shutdown { .. } => "shutdown",
    }
}
