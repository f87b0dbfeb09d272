//! Making an instance: its id, address and uid, all of them nobody else's.

use mvm_core::{
    alloc,
    error::{Error, ErrorKind},
    event::EventKind,
    id::{InstanceId, InstanceRef, PoolRef, VolumeId},
    instance::{Drain, Instance, Want},
    net::Offset,
    port::Transaction,
    publish::Publish,
    secrets::Grant,
    state::State,
    tenant::Tenant,
    units::{Generation, Timestamp, Uid},
    volume::{VolumeKind, VolumePlan, VolumeStage},
};

use super::{instance::Precedence, living, publish, volume::free};
use crate::{
    admit,
    engine::{Context, Engine, Telling},
    outcome::{Made, Outcome},
    store::records,
};

/// How often a drawn id may be taken before the store is taken for broken.
const DRAWS: u32 = 64;
/// How many instances are made on a node within a minute before counts make no more (SPEC §7, brakes).
const CREATIONS: u32 = 300;

impl Engine {
    pub(crate) fn instance_create(
        &self,
        cx: &Context,
        pool: &PoolRef,
        ports: &[Publish],
        volume: Option<&VolumeId>,
    ) -> Result<Outcome, Error> {
        let (_, kind) = self.within(|tx| living(tx, pool))?;
        if volume.is_none() {
            let size = u64::from(kind.instance_resources.data_disk_mib.0);
            self.admit_volume(&format!("the volume of a new instance of {pool}"), size)?;
        }
        self.refuse_taken(ports)?;
        self.converge_tenant(&pool.tenant)?;
        cx.cancel.check()?;
        let mut record = self.within(|tx| self.instance_allocate(tx, cx, pool, ports, volume))?;
        self.sync_firewall(&record.network)?;
        if volume.is_some() {
            record = self.join(cx, &record.instance)?;
        }
        Ok(Outcome { made: Some(Made::Instance(Box::new(record))), ..Outcome::default() })
    }

    /// Chooses id, address and uid of a new instance and puts its record.
    pub(crate) fn instance_allocate(
        &self,
        tx: &mut dyn Transaction,
        cx: &Context,
        id: &PoolRef,
        ports: &[Publish],
        volume: Option<&VolumeId>,
    ) -> Result<Instance, Error> {
        let (tenant, pool) = living(tx, id)?;
        let held = records::list::<Instance>(tx, &id.to_string())?.len();
        let limit = tenant.quotas.max_instances_per_pool;
        if held >= limit as usize {
            return Err(Error::new(
                ErrorKind::Refused,
                format!("pool {id} has {held} instances (limit {limit})"),
            )
            .hint("destroy one, or raise --max-instances-per-pool"));
        }
        let now = self.ports.clock.now();
        brake(tx, cx, now)?;
        let state = if pool.current().is_some() { State::Ready } else { State::Created };
        let mut record = Instance {
            instance: self.free_id(tx, id)?,
            network: tenant.network.clone(),
            offset: if id.is_of_builders() { Offset::BUILDER } else { free_offset(tx, &tenant)? },
            uid: free_uid(tx)?,
            resources: pool.instance_resources,
            role: pool.role.clone(),
            policy: pool.runtime_policy,
            integrations: pool.integrations.clone(),
            compression: pool.policy.snapshot_compression,
            routing_table: pool.routing_table.clone(),
            image: pool.current().cloned(),
            keyed: tenant.keyed,
            volume: VolumePlan {
                kind: VolumeKind::of_tenant(tenant.keyed),
                ..VolumePlan::default()
            },
            secrets: Grant { scopes: pool.secret_scopes.clone(), ..Grant::default() },
            state,
            want: Want::Idle,
            drain: Drain::Ask,
            epoch: Generation(0),
            parked_by: None,
            manual_override_until: None,
            last_failure: None,
            failures: 0,
            publish: Vec::new(),
            created_at: now,
            state_since: now,
            boot: None,
            generation: Generation(0),
        };
        if let Some(volume) = volume {
            take(tx, volume, &mut record)?;
        }
        admit::check(tx, &tenant, None, &record, None)?;
        claim(tx, &record)?;
        publish::claim(tx, &mut record, ports)?;
        records::put(tx, &mut record)?;
        records::raise_network_generation(tx)?;
        let event = self
            .event(&cx.actor, &id.tenant, EventKind::InstanceCreated)
            .of_pool(&id.pool)
            .of_instance(&record.instance.instance);
        tx.append(&event)?;
        Ok(record)
    }

    fn free_id(&self, tx: &mut dyn Transaction, pool: &PoolRef) -> Result<InstanceRef, Error> {
        for _ in 0..DRAWS {
            let instance = InstanceRef {
                tenant: pool.tenant.clone(),
                pool: pool.pool.clone(),
                instance: InstanceId::from_random(self.ports.clock.draw()),
            };
            if tx.claim(&format!("instance/{}", instance.instance), &instance.to_string()).is_ok()
                && records::find::<Instance>(tx, &instance.to_string())?.is_none()
            {
                return Ok(instance);
            }
        }
        Err(Error::new(ErrorKind::Failed, format!("no free instance id in {DRAWS} draws")))
    }
}

/// Counts a creation, and refuses what nobody asked for when there are too many of them.
fn brake(tx: &mut dyn Transaction, cx: &Context, now: Timestamp) -> Result<(), Error> {
    let made = records::count_creation(tx, now)?;
    if made <= CREATIONS || Precedence::of(&cx.actor) != Precedence::Background {
        return Ok(());
    }
    let message =
        format!("{CREATIONS} instances were made on this node within a minute: no more by itself");
    Err(Error::new(ErrorKind::Refused, message)
        .hint("something makes and loses them again and again: see mvm events"))
}

/// The kept volume becomes the instance's: nobody else can have it from here on.
fn take(tx: &mut dyn Transaction, id: &VolumeId, record: &mut Instance) -> Result<(), Error> {
    let mut volume = records::volume(tx, id)?;
    free(&volume)?;
    if volume.kind == VolumeKind::Luks && !record.keyed {
        return Err(Error::new(
            ErrorKind::Conflict,
            format!(
                "volume {id} is encrypted and tenant {} has no key for it",
                record.instance.tenant
            ),
        )
        .hint("give it to a tenant with a key"));
    }
    volume.stage = VolumeStage::Joining(record.instance.clone());
    record.resources.data_disk_mib = volume.size;
    record.volume.kind = volume.kind;
    record.volume.is_told = true;
    record.volume.is_growing = volume.is_growing;
    record.volume.joining = Some(id.clone());
    records::put(tx, &mut volume)
}

/// Claims what only one instance can have.
pub(crate) fn claim(tx: &mut dyn Transaction, record: &Instance) -> Result<(), Error> {
    let key = record.instance.to_string();
    tx.claim(&format!("instance/{}", record.instance.instance), &key)?;
    tx.claim(&format!("address/{}/{}", record.network.net, record.offset.0), &key)?;
    tx.claim(&format!("uid/{}", record.uid.0), &key)?;
    record.publish.iter().try_for_each(|port| tx.claim(&port.claim(), &key))
}

fn free_offset(tx: &mut dyn Transaction, tenant: &Tenant) -> Result<Offset, Error> {
    let network = &tenant.network;
    let taken = tx.claimed(&format!("address/{}", network.net))?;
    let taken = taken.into_iter().filter_map(|n| u16::try_from(n).ok().map(Offset)).collect();
    alloc::offset(network.subnet, &taken).ok_or_else(|| {
        Error::new(ErrorKind::Refused, format!("every address of {} is taken", network.subnet))
            .hint("destroy an instance first: mvm instance list")
    })
}

fn free_uid(tx: &mut dyn Transaction) -> Result<Uid, Error> {
    let taken = tx.claimed("uid")?.into_iter().map(Uid).collect();
    alloc::uid(&taken).ok_or_else(|| {
        Error::new(ErrorKind::Refused, "every uid for instances is taken on this node")
    })
}
