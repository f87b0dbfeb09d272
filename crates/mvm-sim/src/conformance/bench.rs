//! The fixtures of the suite and the four questions that it asks of every effect.

use std::collections::BTreeSet;

use mvm_core::{
    Error, ErrorKind,
    alloc::FIRST_UID,
    effect::{BaseAct, DriveSecrets, Effect, Firewall, Identity, Jail, Limits, Port},
    id::{ImageHash, InstanceId, InstanceRef, InvalidId, PoolRef, VolumeId},
    instance::{Drain, Instance, Want},
    net::{NetId, Network, Offset, Subnet},
    observed::{
        ObservedInstance, ObservedNode, ObservedPool, ObservedStock, ObservedTenant, PausedFor,
        Phase, SnapshotPhase,
    },
    pool::{Compression, Resources, Role, RuntimePolicy},
    port::{GuestAct, GuestAnswer},
    secrets::Grant,
    state::State,
    units::{Generation, Mib, Seconds, Timestamp, Uid, Vcpus},
    volume::{VolumeEffect, VolumeFate, VolumeKind, VolumePlan},
};

use super::{Subject, position};

/// The network of the suite's tenant.
const NET: NetId = NetId(4001);
/// The epoch of the suite's snapshots.
const EPOCH: Generation = Generation(7);
/// How long a guest may take to answer.
const PATIENCE: Seconds = Seconds(180);

/// All that can be seen of the fixtures.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Seen {
    /// Of the snapshot that is talked of.
    pub(super) epoch: Generation,
    pub(super) instance: ObservedInstance,
    pub(super) tenant: ObservedTenant,
    pub(super) pool: ObservedPool,
    pub(super) stock: ObservedStock,
    pub(super) node: ObservedNode,
}

/// The subject with its fixtures.
pub(super) struct Bench<'a> {
    pub(super) subject: Subject<'a>,
    pub(super) record: Instance,
    pub(super) covered: BTreeSet<usize>,
}

fn fixture(image: ImageHash) -> Result<Instance, InvalidId> {
    let tenant = "conformance".parse()?;
    let instance = InstanceRef { tenant, pool: "suite".parse()?, instance: "i-c0f00001".parse()? };
    let subnet = Subnet::automatic(NET)
        .ok_or_else(|| InvalidId::Name("the suite's net-id has no subnet".to_owned()))?;
    Ok(Instance {
        network: Network { tenant: instance.tenant.clone(), net: NET, subnet },
        instance,
        offset: Offset::FIRST_GUEST,
        uid: Uid(FIRST_UID + 60_000),
        resources: Resources::new(Vcpus(1), Mib(128), Mib(16)),
        role: Role::Worker,
        policy: RuntimePolicy::default(),
        integrations: Vec::new(),
        compression: Compression::default(),
        routing_table: None,
        image: Some(image),
        keyed: false,
        volume: VolumePlan::default(),
        secrets: Grant::default(),
        state: State::Ready,
        want: Want::Running,
        drain: Drain::Ask,
        epoch: EPOCH,
        parked_by: None,
        manual_override_until: None,
        last_failure: None,
        failures: 0,
        publish: Vec::new(),
        created_at: Timestamp(0),
        state_since: Timestamp(0),
        boot: None,
        generation: Generation(1),
    })
}

impl<'a> Bench<'a> {
    #[expect(clippy::expect_used, reason = "the fixture's ids are constants that parse")]
    pub(super) fn new(subject: Subject<'a>) -> Self {
        let record = fixture(subject.rig.image()).expect("the fixture's ids are well formed");
        Self { subject, record, covered: BTreeSet::new() }
    }

    pub(super) fn id(&self) -> InstanceId {
        self.record.instance.instance.clone()
    }

    pub(super) fn pool(&self) -> PoolRef {
        self.record.instance.pool_ref()
    }

    /// What the host shows now.
    pub(super) fn see(&self) -> Result<Seen, String> {
        let host = self.subject.host;
        let failed = |error: Error| format!("cannot observe: {error}");
        Ok(Seen {
            epoch: self.record.epoch,
            instance: host.observe_instance(&self.record).map_err(failed)?,
            tenant: host.observe_tenant(&self.record.network).map_err(failed)?,
            pool: host.observe_pool(&self.pool()).map_err(failed)?,
            stock: host.observe_stock().map_err(failed)?,
            node: host.observe_node().map_err(failed)?,
        })
    }

    /// Does an effect once, without questions.
    pub(super) fn do_once(&self, effect: &Effect) -> Result<(), String> {
        let done = self.subject.host.execute(effect);
        done.map_err(|error| format!("{} failed: {error}", effect.name()))
    }

    /// Does an effect twice: it shows after the first time and nothing differs after the second.
    pub(super) fn tries(
        &mut self,
        effect: &Effect,
        shows: impl Fn(&Seen) -> bool,
    ) -> Result<(), String> {
        self.do_once(effect)?;
        let once = stable(self.see()?);
        if !shows(&once) {
            return Err(format!("{} does not show: {once:?}", effect.name()));
        }
        self.do_once(effect).map_err(|error| format!("the second time {error}"))?;
        let twice = stable(self.see()?);
        if once != twice {
            return Err(format!("{} twice is not once: {once:?} became {twice:?}", effect.name()));
        }
        self.covered.insert(position(effect));
        Ok(())
    }

    /// An effect that must fail, change nothing, and say that what it needs is not as it must be.
    pub(super) fn refuses(&self, effect: &Effect, why: &str) -> Result<(), String> {
        let before = stable(self.see()?);
        match self.subject.host.execute(effect) {
            Ok(()) => Err(format!("{} succeeded although {why}", effect.name())),
            Err(error) if !is_sensible(error.kind) => {
                Err(format!("{} failed with {:?} because {why}", effect.name(), error.kind))
            }
            Err(_) => {
                let after = stable(self.see()?);
                if before == after {
                    return Ok(());
                }
                Err(format!(
                    "{} failed because {why} and changed {before:?} to {after:?}",
                    effect.name()
                ))
            }
        }
    }

    /// Asks the guest and needs it done.
    pub(super) fn ask(&self, act: &GuestAct) -> Result<(), String> {
        match self.subject.guest.ask(&self.record.instance, act) {
            Ok(GuestAnswer::Done) => Ok(()),
            Ok(other) => Err(format!("the guest answered {other:?} to {act:?}")),
            Err(error) => Err(format!("cannot ask the guest {act:?}: {error}")),
        }
    }

    /// Adds one to the counter in the guest's memory.
    pub(super) fn count(&self) -> Result<u64, String> {
        let counted = self.subject.rig.count(&self.record.instance);
        counted.map_err(|error| format!("the guest does not count: {error}"))
    }

    pub(super) fn wait_for_guest(&self) -> Result<(), String> {
        self.ask(&GuestAct::Await { timeout: PATIENCE })
    }

    pub(super) fn wake_word(&self, generation: u64) -> GuestAct {
        GuestAct::Wake {
            network: self.record.network.clone(),
            offset: self.record.offset,
            generation,
            secrets: self.record.secrets.epoch,
        }
    }

    /// Everything that a VMM needs, up to the VMM.
    pub(super) fn lay_out(&self) -> Result<(), String> {
        for effect in [
            self.bridge(),
            self.routes(),
            self.firewall(self.next_firewall()?)?,
            self.tap(),
            self.cgroup(),
            self.volume(),
        ] {
            self.do_once(&effect)?;
        }
        if self.record.volume.kind == VolumeKind::Luks {
            self.do_once(&self.open())?;
        }
        self.do_once(&self.jail())?;
        Ok(())
    }

    /// A running guest that knows who it is.
    pub(super) fn boot(&self) -> Result<(), String> {
        self.lay_out()?;
        self.do_once(&self.spawn())?;
        self.do_once(&Effect::BootVmm(self.jail_plan()))?;
        self.ask(&self.configure(1))
    }

    /// Tells a guest who it is.
    pub(super) fn configure(&self, generation: u64) -> GuestAct {
        GuestAct::Configure { jail: self.jail_plan(), generation, timeout: PATIENCE }
    }

    /// Process, tap, jail and cgroup away; disk and network stay.
    pub(super) fn clear(&self) -> Result<(), String> {
        for effect in [
            Effect::RemoveVmm(self.id()),
            Effect::RemoveTap { net: NET, offset: self.record.offset },
            Effect::RemoveJail(self.id()),
            self.close(),
            Effect::RemoveCgroup(self.id()),
        ] {
            self.do_once(&effect)?;
        }
        Ok(())
    }

    /// Everything of the fixtures away.
    pub(super) fn scrub(&self) -> Result<(), String> {
        self.clear()?;
        for effect in [
            Effect::RemoveInstanceFiles(self.record.instance.clone()),
            Effect::Volume(VolumeEffect::Remove {
                volume: self.kept_volume()?,
                kind: VolumeKind::Plain,
                fate: VolumeFate::Delete,
            }),
            Effect::RemovePoolFiles(self.pool()),
            Effect::ReplaceFirewall(Firewall {
                generation: self.next_firewall()?,
                ..Firewall::default()
            }),
            Effect::RemoveRoutes(NET),
            Effect::RemoveBridge(NET),
            Effect::RemoveTenantFiles(self.record.instance.tenant.clone()),
        ] {
            self.do_once(&effect)?;
        }
        Ok(())
    }

    /// That nothing of the fixtures is left after [`Bench::scrub`].
    pub(super) fn nothing_is_left(&self) -> Result<(), String> {
        let seen = self.see()?;
        let (id, node) = (self.id(), &seen.node);
        let in_node = node.bridges.contains(&NET)
            || node.routes.contains(&NET)
            || node.taps.iter().any(|(net, _)| *net == NET)
            || [&node.cgroups, &node.jails, &node.runs, &node.processes, &node.mappings]
                .iter()
                .any(|list| list.contains(&id))
            || node.tenants.contains(&self.record.instance.tenant)
            || node.volumes.contains(&self.kept_volume()?);
        // The host's resolvers are its own, with or without a tenant.
        let resolvers = seen.tenant.resolvers.clone();
        if in_node
            || seen.instance != nothing_of(&seen)
            || seen.tenant != (ObservedTenant { resolvers, ..ObservedTenant::default() })
            || seen.pool != ObservedPool::default()
        {
            return Err(format!("something is left after everything was removed: {seen:?}"));
        }
        Ok(())
    }

    pub(super) fn next_firewall(&self) -> Result<Generation, String> {
        Ok(self.see()?.instance.firewall.map_or(Generation(1), Generation::next))
    }

    pub(super) fn bridge(&self) -> Effect {
        Effect::EnsureBridge(self.record.network.clone())
    }

    pub(super) fn routes(&self) -> Effect {
        Effect::EnsureRoutes(self.record.network.clone())
    }

    pub(super) fn firewall(&self, generation: Generation) -> Result<Effect, String> {
        let record = &self.record;
        let ports = record.address().map(|address| Port {
            net: NET,
            offset: record.offset,
            mac: record.mac(),
            address,
        });
        Ok(Effect::ReplaceFirewall(Firewall {
            generation,
            networks: vec![record.network.clone()],
            ports: ports.into_iter().collect(),
            resolvers: self.see()?.tenant.resolvers,
            published: Vec::new(),
        }))
    }

    pub(super) fn tap(&self) -> Effect {
        Effect::EnsureTap { net: NET, offset: self.record.offset, uid: self.record.uid }
    }

    pub(super) fn cgroup(&self) -> Effect {
        Effect::EnsureCgroup { instance: self.id(), limits: Limits::of(self.record.resources) }
    }

    pub(super) fn volume(&self) -> Effect {
        Effect::Volume(VolumeEffect::Ensure {
            instance: self.record.instance.clone(),
            uid: self.record.uid,
            size: self.record.resources.data_disk_mib,
            kind: self.record.volume.kind,
        })
    }

    pub(super) fn open(&self) -> Effect {
        Effect::Volume(VolumeEffect::Open(self.record.instance.clone()))
    }

    pub(super) fn close(&self) -> Effect {
        Effect::Volume(VolumeEffect::Close(self.id()))
    }

    /// The name of the suite's kept volume.
    pub(super) fn kept_volume(&self) -> Result<VolumeId, String> {
        "conformance".parse().map_err(|error: InvalidId| error.to_string())
    }

    pub(super) fn jail_plan(&self) -> Box<Jail> {
        Box::new(Jail {
            instance: self.record.instance.clone(),
            uid: self.record.uid,
            image: self.subject.rig.image(),
            resources: self.record.resources,
            volume: self.record.volume.kind,
            identity: Identity {
                network: self.record.network.clone(),
                offset: self.record.offset,
                role: self.record.role.clone(),
                policy: self.record.policy,
                integrations: self.record.integrations.clone(),
                routing_table: self.record.routing_table.clone(),
            },
            secrets: self.drive_secrets(self.record.secrets.epoch),
        })
    }

    pub(super) const fn drive_secrets(&self, epoch: Generation) -> DriveSecrets {
        DriveSecrets { epoch, scopes: Vec::new() }
    }

    /// Seals secrets and puts them in force; what stands for their content.
    pub(super) fn give_secrets(&self, epoch: Generation) -> Result<u64, String> {
        let sealed = self.subject.rig.seal(&self.record.instance, epoch);
        let content = sealed.map_err(|error| format!("cannot seal secrets: {error}"))?;
        self.do_once(&self.publish_secrets(epoch))?;
        Ok(content)
    }

    pub(super) fn publish_secrets(&self, epoch: Generation) -> Effect {
        Effect::PublishSecrets { tenant: self.record.instance.tenant.clone(), epoch }
    }

    pub(super) fn swap_secrets(&self, epoch: Generation) -> Effect {
        Effect::SwapSecrets {
            instance: self.record.instance.clone(),
            uid: self.record.uid,
            secrets: self.drive_secrets(epoch),
        }
    }

    pub(super) fn jail(&self) -> Effect {
        Effect::EnsureJail(self.jail_plan())
    }

    pub(super) fn base(&self, act: BaseAct) -> Effect {
        Effect::Base { act, jail: self.jail_plan() }
    }

    pub(super) fn spawn(&self) -> Effect {
        let Instance { instance, uid, .. } = &self.record;
        Effect::SpawnVmm { instance: instance.clone(), uid: *uid, epoch: None }
    }

    /// As [`Bench::spawn`], for the snapshot of the present epoch.
    pub(super) fn spawn_to_load(&self) -> Effect {
        let Instance { instance, uid, epoch, .. } = &self.record;
        Effect::SpawnVmm { instance: instance.clone(), uid: *uid, epoch: Some(*epoch) }
    }

    pub(super) fn shim(&self) -> Effect {
        Effect::EnsureShim { instance: self.record.instance.clone(), uid: self.record.uid }
    }

    pub(super) fn pause(&self, purpose: PausedFor) -> Effect {
        Effect::PauseVmm { instance: self.id(), purpose }
    }

    pub(super) fn write(&self) -> Effect {
        Effect::WriteSnapshot {
            instance: self.record.instance.clone(),
            epoch: self.record.epoch,
            memory: self.record.resources.mem_mib,
            keyed: self.record.keyed,
            compression: self.record.compression,
        }
    }

    pub(super) fn publish(&self) -> Effect {
        Effect::PublishSnapshot { instance: self.record.instance.clone(), epoch: self.record.epoch }
    }

    pub(super) fn retire(&self) -> Effect {
        Effect::RetireSnapshot { instance: self.record.instance.clone(), epoch: self.record.epoch }
    }

    pub(super) fn load(&self) -> Effect {
        Effect::LoadSnapshot { instance: self.record.instance.clone(), epoch: self.record.epoch }
    }

    pub(super) fn remove_snapshot(&self) -> Effect {
        Effect::RemoveSnapshot { instance: self.record.instance.clone(), epoch: self.record.epoch }
    }
}

impl Seen {
    pub(super) fn phase(&self) -> Option<Phase> {
        self.instance.vmm.map(|vmm| vmm.phase)
    }

    pub(super) fn snapshot(&self) -> Option<SnapshotPhase> {
        self.instance.snapshots.get(&self.epoch).copied()
    }
}

/// Without the figures that differ from moment to moment.
fn stable(mut seen: Seen) -> Seen {
    if let Some(vmm) = &mut seen.instance.vmm {
        vmm.resident_kib = 0;
    }
    seen.node.facts.mem_available_mib = 0;
    seen.node.facts.disk_free_mib = 0;
    seen
}

const fn is_sensible(kind: ErrorKind) -> bool {
    match kind {
        ErrorKind::Failed | ErrorKind::NotFound | ErrorKind::Conflict => true,
        ErrorKind::Usage
        | ErrorKind::Refused
        | ErrorKind::Invalid
        | ErrorKind::Permission
        | ErrorKind::Unavailable
        | ErrorKind::Integrity => false,
    }
}

/// An instance of which there is nothing, in the boot in which it was looked at.
pub(super) fn nothing_of(seen: &Seen) -> ObservedInstance {
    ObservedInstance { boot: seen.instance.boot.clone(), ..ObservedInstance::default() }
}
