//! Committing a transition: the record and its events in one transaction.

use std::time::Duration;

use mvm_core::{
    error::Error,
    event::{Actor, Event, EventKind},
    instance::{Failure, Instance, Want},
    plan::{self, Transition},
    state::State,
    units::Timestamp,
    volume::{Volume, VolumeFate},
};

use super::Course;
use crate::{
    engine::{Engine, Telling},
    store::records,
};

impl Course<'_> {
    /// Adds what happened on the way, and changed no state, to the audit log.
    pub(super) fn tell(&mut self, kind: EventKind, reason: String) -> Result<(), Error> {
        let id = &self.record.instance;
        let event = self
            .engine
            .event(&self.cx.actor, &id.tenant, kind)
            .of_pool(&id.pool)
            .of_instance(&id.instance)
            .because(reason);
        self.engine.within(|tx| tx.append(&event))?;
        self.events.push(kind);
        Ok(())
    }

    /// Adds what became of the integrations: the event, the name and the reason of each.
    pub(super) fn tell_integrations(
        &mut self,
        told: &[(EventKind, &str, &str)],
        act: &str,
    ) -> Result<(), Error> {
        let id = &self.record.instance;
        let events: Vec<Event> = told
            .iter()
            .map(|(kind, name, reason)| {
                self.engine
                    .event(&self.cx.actor, &id.tenant, *kind)
                    .of_pool(&id.pool)
                    .of_instance(&id.instance)
                    .because(*reason)
                    .with("integration", name)
                    .with("act", act)
            })
            .collect();
        self.engine.within(|tx| events.iter().try_for_each(|event| tx.append(event)))?;
        self.events.extend(told.iter().map(|(kind, _, _)| *kind));
        Ok(())
    }
}

impl Engine {
    /// Commits a transition with its events, which say how long it `took`; none is left of a destroyed
    /// instance.
    pub(crate) fn commit(
        &self,
        actor: &Actor,
        record: &Instance,
        to: &Transition,
        took: Option<Duration>,
    ) -> Result<Instance, Error> {
        let mut changed = record.clone();
        apply(&mut changed, to, self.ports.clock.now());
        self.within(|tx| {
            let mut changed = changed.clone();
            for event in self.events_of(actor, record, to, took) {
                tx.append(&event)?;
            }
            if to.event == EventKind::VolumeAttached
                && let Some(volume) = &record.volume.joining
            {
                records::remove::<Volume>(tx, volume.as_str())?;
            }
            if to.state == State::Destroyed {
                self.shelve(tx, actor, record)?;
                records::remove::<Instance>(tx, &record.instance.to_string())?;
                records::raise_network_generation(tx)?;
            } else {
                records::put(tx, &mut changed)?;
            }
            Ok(changed)
        })
    }

    fn events_of(
        &self,
        actor: &Actor,
        record: &Instance,
        to: &Transition,
        took: Option<Duration>,
    ) -> Vec<Event> {
        let event = |kind| {
            self.event(actor, &record.instance.tenant, kind)
                .of_pool(&record.instance.pool)
                .of_instance(&record.instance.instance)
        };
        let mut events = Vec::new();
        match (record.state, to.event) {
            (_, EventKind::InstanceSlept) => {
                let published = event(EventKind::SnapshotPublished);
                events.push(published.with("epoch", record.epoch.0));
            }
            (State::Sleeping, EventKind::InstanceStopped | EventKind::InstanceDestroyed) => {
                let discarded = event(EventKind::SnapshotDiscarded);
                events.push(discarded.with("epoch", record.epoch.0));
            }
            (State::Sleeping, EventKind::InstanceWoken) => {
                events.push(event(EventKind::SnapshotRetired).with("epoch", record.epoch.0));
            }
            (_, _) => {}
        }
        if to.state == State::Running && is_untold(record) {
            let created = event(EventKind::VolumeCreated);
            events.push(created.with("size", record.resources.data_disk_mib));
        }
        if to.event == EventKind::InstanceDestroyed && is_wiped(record) {
            events.push(event(EventKind::VolumeWiped));
        }
        let mut told = event(to.event).because(to.reason.clone()).with("from", record.state);
        if let Some(took) = took.filter(|_| to.state != record.state) {
            told = told.with("duration_ms", took.as_millis());
        }
        if let Some(started) = to.started {
            told = told.with("by", started);
        }
        events.push(match &record.boot {
            Some(boot) if to.event == EventKind::InstanceFailed => told.with("boot", boot),
            Some(_) | None if to.event == EventKind::SecretsDelivered => {
                told.with("secrets_epoch", record.secrets.epoch.0)
            }
            Some(_) | None => told,
        });
        events
    }
}

fn is_untold(record: &Instance) -> bool {
    record.resources.data_disk_mib.0 > 0 && !record.volume.is_told
}

fn is_wiped(record: &Instance) -> bool {
    record.resources.data_disk_mib.0 > 0
        && record.volume.fate == VolumeFate::Wipe
        && record.volume.kept_as.is_none()
}

fn apply(record: &mut Instance, to: &Transition, now: Timestamp) {
    if to.event == EventKind::VolumeGrown {
        record.volume.is_growing = false;
        return;
    }
    if to.event == EventKind::VolumeAttached {
        record.volume.joining = None;
        return;
    }
    // A boot of the host is no fault of what ran.
    let is_fault =
        to.event == EventKind::InstanceFailed && !to.reason.ends_with(plan::truth::REBOOTED);
    if is_fault {
        record.failures = plan::brake::count(record, now);
    }
    if record.state != to.state {
        record.state_since = now;
    }
    record.state = to.state;
    match to.state {
        State::Running if to.event == EventKind::SecretsDelivered => {
            record.secrets.delivered = record.secrets.epoch;
        }
        State::Running => {
            record.secrets.delivered = record.secrets.epoch;
            record.epoch = record.epoch.next();
            record.last_failure = None;
            record.volume.is_told = true;
            if record.want == Want::Running {
                record.parked_by = None;
            }
        }
        State::Created | State::Ready | State::Stopped => {
            record.parked_by = None;
            if to.event == EventKind::InstanceStopped {
                record.failures = 0;
            }
        }
        State::Warm | State::Sleeping | State::Destroyed => {}
    }
    if to.event == EventKind::InstanceFailed {
        // What is being destroyed may have lost its disk already.
        if record.want != Want::Destroyed {
            record.want = Want::rest(to.state);
        }
        record.last_failure = Some(Failure { at: now, reason: to.reason.clone() });
    }
}
