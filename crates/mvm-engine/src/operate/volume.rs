//! Volumes: growing an instance's, keeping it beyond its instance, giving it to another, removing it.
//!
//! A kept volume's record says who may have it, and is changed in the transaction that changes the
//! instance: no two instances ever have one volume. It refuses to know how a volume is encrypted.

use mvm_core::{
    effect::Effect,
    error::{Error, ErrorKind},
    event::{Actor, EventKind},
    id::{InstanceRef, Subject, TenantId, VolumeId},
    instance::{Instance, Want},
    port::Transaction,
    state::State,
    units::{Generation, Mib, Timestamp},
    volume::{Volume, VolumeEffect, VolumeFate, VolumeStage},
};

use super::living;
use crate::{
    admit,
    converge::{FirewallAfter, Rest},
    engine::{Context, Engine, Telling},
    outcome::{Deferral, Made, Outcome},
    store::records,
};

impl Engine {
    /// Makes an instance's volume larger: now when it runs, else when it runs next.
    pub(crate) fn instance_grow(
        &self,
        cx: &Context,
        id: &InstanceRef,
        size: Mib,
    ) -> Result<Outcome, Error> {
        let before = self.within(|tx| records::instance(tx, id))?;
        let lock = self.lock(&Subject::Instance(id.clone()))?;
        let (record, seen) = match self.truth(id) {
            Ok(truth) => truth,
            Err(error) => {
                if error.kind == ErrorKind::NotFound {
                    lock.retire();
                }
                return Err(error);
            }
        };
        let more = size.0.saturating_sub(before.resources.data_disk_mib.0);
        let admitted = self
            .admit_volume(&format!("the larger volume of {id}"), u64::from(more))
            .and_then(|()| {
                self.within(|tx| {
                    let grown = self.admit_growth(tx, id, size)?;
                    if grown.resources.data_disk_mib != record.resources.data_disk_mib {
                        let event = self
                            .event(&cx.actor, &id.tenant, EventKind::VolumeGrowing)
                            .of_pool(&id.pool)
                            .of_instance(&id.instance)
                            .with("size", size);
                        tx.append(&event)?;
                    }
                    Ok(grown)
                })
            });
        let grown = match admitted {
            Ok(grown) => grown,
            Err(error) => {
                self.tell_refusal(cx, id, &error);
                return Err(error);
            }
        };
        let mut outcome = Outcome::default();
        let mut made = grown.clone();
        if record.state == State::Running && record.want == Want::Running {
            let firewall = FirewallAfter::Each;
            match self.converge(cx, grown.clone(), grown, Some(seen), firewall)? {
                Rest::There(record, _) => made = *record,
                Rest::Gone(_) => {
                    lock.retire();
                    return Err(Error::new(ErrorKind::NotFound, format!("{id} is gone")));
                }
            }
        }
        if made.volume.is_growing {
            let reason = "its guest gets the larger disk when it runs next".to_owned();
            outcome.deferrals.push(Deferral { instance: id.clone(), reason });
        }
        outcome.made = Some(Made::Instance(Box::new(made)));
        Ok(outcome)
    }

    /// Checks a larger volume and puts it into the record. The same size again only asks the guest
    /// again to use it.
    pub(crate) fn admit_growth(
        &self,
        tx: &mut dyn Transaction,
        id: &InstanceRef,
        size: Mib,
    ) -> Result<Instance, Error> {
        let (tenant, _) = living(tx, &id.pool_ref())?;
        let stored = records::instance(tx, id)?;
        if stored.want == Want::Destroyed {
            return Err(Error::new(ErrorKind::Conflict, format!("{id} is being destroyed")));
        }
        let has = stored.resources.data_disk_mib;
        if size < has {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("the data disk of {id} has {has}: it cannot shrink to {size}"),
            )
            .hint("make an instance with a smaller disk and copy the data"));
        }
        let rests = matches!(stored.state, State::Created | State::Ready | State::Stopped);
        if has.0 == 0 && (!rests || stored.in_flight()) {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("{id} is {} without a data disk and cannot get one now", stored.state),
            )
            .hint(format!("stop it first: mvm instance stop {id}")));
        }
        let mut record = stored.clone();
        record.resources.data_disk_mib = size;
        record.resources.validate()?;
        record.volume.is_growing = has.0 > 0;
        admit::check(tx, &tenant, Some(&stored), &record, None)?;
        if record != stored {
            records::put(tx, &mut record)?;
        }
        Ok(record)
    }

    /// Gives a new instance the kept volume that it shall have.
    pub(crate) fn join(&self, cx: &Context, id: &InstanceRef) -> Result<Instance, Error> {
        let lock = self.lock(&Subject::Instance(id.clone()))?;
        let (record, seen) = self.truth(id)?;
        match self.converge(cx, record.clone(), record, Some(seen), FirewallAfter::Each)? {
            Rest::There(record, _) => Ok(*record),
            Rest::Gone(_) => {
                lock.retire();
                Err(Error::new(ErrorKind::NotFound, format!("{id} is gone")))
            }
        }
    }

    /// The volume of a destroyed instance waits for another one, in the transaction in which the
    /// instance goes.
    pub(crate) fn shelve(
        &self,
        tx: &mut dyn Transaction,
        actor: &Actor,
        record: &Instance,
    ) -> Result<(), Error> {
        let Some(id) = &record.volume.kept_as else { return Ok(()) };
        let mut volume = records::volume(tx, id)?;
        volume.stage = VolumeStage::Kept;
        records::put(tx, &mut volume)?;
        let event = self
            .event(actor, &record.instance.tenant, EventKind::VolumeKept)
            .of_pool(&record.instance.pool)
            .of_instance(&record.instance.instance)
            .with("volume", id)
            .with("size", volume.size);
        tx.append(&event)
    }

    pub(crate) fn volume_remove(
        &self,
        cx: &Context,
        id: &VolumeId,
        wipe: bool,
    ) -> Result<Outcome, Error> {
        let effect = self.within(|tx| removal(tx, id, wipe))?;
        cx.cancel.check()?;
        self.execute(&effect)?;
        self.within(|tx| {
            if records::find::<Volume>(tx, id.as_str())?.is_none() {
                return Ok(());
            }
            records::remove::<Volume>(tx, id.as_str())?;
            let kind = if wipe { EventKind::VolumeWiped } else { EventKind::VolumeRemoved };
            // Kept volumes belong to the built-in tenant.
            tx.append(&self.event(&cx.actor, &TenantId::local(), kind).with("volume", id))
        })?;
        Ok(Outcome { made: Some(Made::Removed(format!("volume {id}"))), ..Outcome::default() })
    }
}

/// The act that removes a kept volume; nobody can have it from here on.
pub(crate) fn removal(
    tx: &mut dyn Transaction,
    id: &VolumeId,
    wipe: bool,
) -> Result<Effect, Error> {
    let mut volume = records::volume(tx, id)?;
    if volume.stage != VolumeStage::Removing {
        free(&volume)?;
        volume.stage = VolumeStage::Removing;
        records::put(tx, &mut volume)?;
    }
    let fate = if wipe { VolumeFate::Wipe } else { VolumeFate::Delete };
    Ok(Effect::Volume(VolumeEffect::Remove { volume: id.clone(), kind: volume.kind, fate }))
}

/// Whether a kept volume waits for whoever wants it.
pub(crate) fn free(volume: &Volume) -> Result<(), Error> {
    let id = &volume.volume;
    let conflict = |why: String| Error::new(ErrorKind::Conflict, format!("volume {id} {why}"));
    match &volume.stage {
        VolumeStage::Kept => Ok(()),
        VolumeStage::Leaving(instance) => {
            Err(conflict(format!("is still with {instance}, which is being destroyed"))
                .hint(format!("finish it: mvm instance destroy {instance} --keep-volumes")))
        }
        VolumeStage::Joining(instance) => Err(conflict(format!("is given to {instance}"))
            .hint(format!("see it: mvm instance list {instance}"))),
        VolumeStage::Removing => Err(conflict("is being removed".to_owned())
            .hint(format!("finish it: mvm volume remove {id}"))),
    }
}

/// Puts what becomes of its volume into the record of an instance that goes. What is being kept
/// stays kept, whatever a later command says.
pub(crate) fn leave(
    tx: &mut dyn Transaction,
    record: &mut Instance,
    fate: VolumeFate,
    has_volume: bool,
    now: Timestamp,
) -> Result<(), Error> {
    if record.volume.kept_as.is_some() {
        return Ok(());
    }
    record.volume.fate = fate;
    let size = record.resources.data_disk_mib;
    if fate != VolumeFate::Keep || !has_volume || size.0 == 0 {
        return Ok(());
    }
    let name = record.instance.instance.as_str();
    let id: VolumeId = name
        .parse()
        .map_err(|e| Error::new(ErrorKind::Failed, "cannot name the volume").because(&e))?;
    if records::find::<Volume>(tx, name)?.is_some() {
        return Err(Error::new(
            ErrorKind::Conflict,
            format!("there is a kept volume {id} already"),
        )
        .hint(format!("remove it first: mvm volume remove {id}")));
    }
    let mut volume = Volume {
        volume: id.clone(),
        origin: record.instance.clone(),
        size,
        kind: record.volume.kind,
        is_growing: record.volume.is_growing,
        stage: VolumeStage::Leaving(record.instance.clone()),
        created_at: now,
        generation: Generation(0),
    };
    record.volume.kept_as = Some(id);
    records::put(tx, &mut volume)
}
