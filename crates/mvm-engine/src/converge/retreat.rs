//! The way back: where an instance rests when what it wants cannot be reached.

use mvm_core::{
    error::Error,
    event::{Actor, EventKind},
    instance::{Failure, Want},
    observed::{Phase, SnapshotPhase},
    plan::Transition,
    port::GuestAct,
    state::State,
};

use super::Course;
use crate::{engine::Telling, store::records};

impl Course<'_> {
    /// Sets the wish to a state in which the instance can rest, or returns the error when there is
    /// none or the way there failed too.
    pub(super) fn fall_back(&mut self, error: Error) -> Result<(), Error> {
        if let Some(first) = self.first_error.take() {
            tracing::warn!(%error, "the way back failed as well");
            return Err(first.hint(format!("the way back failed as well: {error}")));
        }
        let to = match (self.record.state, self.record.want) {
            (_, Want::Idle | Want::Stopped | Want::Destroyed) => return Err(error),
            (State::Running, Want::Running) if self.record.secrets.is_due() => {
                self.record.secrets.epoch = self.record.secrets.delivered;
                return self.retreat(error, Want::Running, false);
            }
            (State::Running, Want::Running)
            | (State::Warm, Want::Warm)
            | (State::Sleeping, Want::Sleeping) => return Err(error),
            (State::Created | State::Ready | State::Stopped | State::Destroyed, _) => {
                let rest = Want::rest(self.record.state);
                return self.retreat(error, rest, true);
            }
            (State::Sleeping, _) => return self.leave_wake(error),
            (State::Warm, Want::Running) => Want::Warm,
            (State::Running | State::Warm, _) => match self.origin.state {
                State::Warm if self.origin.want == Want::Sleeping => Want::Running,
                State::Warm => Want::Warm,
                State::Created | State::Ready | State::Stopped => Want::Stopped,
                State::Running | State::Sleeping | State::Destroyed => Want::Running,
            },
        };
        self.thaw();
        self.retreat(error, to, false)
    }

    fn leave_wake(&mut self, error: Error) -> Result<(), Error> {
        let Ok(seen) = self.engine.ports.host.observe_instance(&self.record) else {
            return Err(error);
        };
        if seen.snapshots.get(&self.record.epoch) == Some(&SnapshotPhase::Published) {
            return self.retreat(error, Want::Sleeping, false);
        }
        let lost = Transition::new(State::Stopped, EventKind::InstanceFailed)
            .because(format!("lost while waking: {error}"));
        match self.engine.commit(&Actor::Engine, &self.record, &lost, None) {
            Ok(record) => self.record = record,
            Err(_) => return Err(error),
        }
        self.first_error = Some(error);
        Ok(())
    }

    /// A guest that was drained and frozen but never paused: no later plan would thaw it. This
    /// comes before the change of the wish, so that a crash in between goes on with the sleep.
    fn thaw(&self) {
        let Ok(seen) = self.engine.ports.host.observe_instance(&self.record) else { return };
        if seen.vmm.is_some_and(|vmm| vmm.phase == Phase::Running)
            && let Err(error) = self.engine.ports.guest.ask(&self.record.instance, &GuestAct::Thaw)
        {
            tracing::warn!(%error, "the guest cannot be thawed");
        }
    }

    fn retreat(&mut self, error: Error, to: Want, is_failure: bool) -> Result<(), Error> {
        let now = self.engine.ports.clock.now();
        let mut changed = self.record.clone();
        changed.want = to;
        changed.parked_by = match to {
            Want::Warm | Want::Sleeping => self.origin.parked_by,
            Want::Idle | Want::Running | Want::Stopped | Want::Destroyed => None,
        };
        let mut event = None;
        if is_failure {
            changed.last_failure = Some(Failure { at: now, reason: error.to_string() });
            let id = &changed.instance;
            event = Some(
                self.engine
                    .event(&Actor::Engine, &id.tenant, EventKind::InstanceFailed)
                    .of_pool(&id.pool)
                    .of_instance(&id.instance)
                    .because(error.to_string())
                    .with("from", changed.state),
            );
        }
        let stored = self.engine.within(|tx| {
            let mut changed = changed.clone();
            records::put(tx, &mut changed)?;
            if let Some(event) = &event {
                tx.append(event)?;
            }
            Ok(changed)
        });
        match stored {
            Ok(record) => self.record = record,
            Err(second) => {
                return Err(error.hint(format!("the way back failed as well: {second}")));
            }
        }
        self.first_error = Some(error);
        Ok(())
    }
}
