//! The real host: one arm per effect, and the kernel's truth.
//!
//! Every arm is one call; what it does, in which order, and how it is undone is written there.
//! [`LocalHost`] has no opinion, no memory and no lock of its own: who calls holds the lock on the
//! subject.

use std::sync::Arc;

use mvm_core::{
    Error,
    disk::{DiskUse, Room},
    effect::{BaseAct, Effect, Firewall, Jail},
    id::{InstanceId, InstanceRef, OperationId, PoolRef},
    instance::Instance,
    layout,
    meter::{Meter, Pressure},
    net::Network,
    observed::{
        ObservedBase, ObservedInstance, ObservedNode, ObservedPool, ObservedStock, ObservedTenant,
    },
    port::{Console, Finding, Host, LogPlace, LogSource, Logs, Wanted},
    volume::VolumeEffect,
};
use mvm_shim::record::{CONSOLE_LOG, SHIM_LOG, VMM_LOG};

use crate::{
    boot_id,
    disk::{
        base::Which, files, key, listing, rekey, secrets as sealed, shelf, snapshot as stored,
        space, stock, usage, volume,
    },
    net::{self, Mtu},
    roots::Roots,
    vmm::{
        base, boot, cgroup, console, facts, jail, meter, observe, place::Place, secrets,
        secrets::swap, snapshot, spawn, version,
    },
};

/// The machine that this process runs on.
#[derive(Debug, Clone)]
pub struct LocalHost {
    roots: Roots,
    mtu: Mtu,
    operation: Option<OperationId>,
}

impl LocalHost {
    /// The host with these roots. Nothing is touched before the first effect.
    #[must_use]
    pub const fn new(roots: Roots) -> Self {
        Self { roots, mtu: Mtu::OfUplinks, operation: None }
    }

    /// The same host, whose guests send packets no larger than this.
    #[must_use]
    pub fn with_mtu(self, mtu: Option<u16>) -> Self {
        Self { mtu: mtu.map_or(Mtu::OfUplinks, Mtu::Fixed), ..self }
    }

    /// Where it keeps things.
    #[must_use]
    pub const fn roots(&self) -> &Roots {
        &self.roots
    }

    /// The same host, which names this operation in the logs of what it starts.
    #[must_use]
    pub fn named(&self, operation: &OperationId) -> Self {
        Self { operation: Some(operation.clone()), ..self.clone() }
    }

    fn volume(&self, effect: &VolumeEffect) -> Result<(), Error> {
        let roots = &self.roots;
        match effect {
            VolumeEffect::Ensure { instance, uid, size, kind } => {
                volume::ensure(roots, instance, *uid, *size, *kind)
            }
            VolumeEffect::Open(instance) => volume::open(roots, instance),
            VolumeEffect::Close(instance) => volume::close(instance),
            VolumeEffect::Grow { instance, kind, size } => {
                volume::grow(roots, instance, *kind, *size)
                    .and_then(|()| boot::refresh_data(roots, &instance.instance))
            }
            VolumeEffect::Keep { instance, volume, kind } => {
                shelf::keep(roots, instance, volume, *kind)
            }
            VolumeEffect::Attach { volume, instance, kind, uid } => {
                shelf::attach(roots, volume, instance, *kind, *uid)
            }
            VolumeEffect::Wipe { instance, kind } => volume::wipe(roots, instance, *kind),
            VolumeEffect::Remove { volume, kind, fate } => {
                shelf::remove(roots, volume, *kind, *fate)
            }
        }
    }

    fn base(&self, act: BaseAct, jail: &Jail) -> Result<(), Error> {
        let (roots, id) = (&self.roots, &jail.instance.instance);
        match act {
            BaseAct::Take => self.with_vmm(id).and_then(|()| base::take(roots, jail)),
            BaseAct::Load => self.with_vmm(id).and_then(|()| base::load(roots, jail)),
            BaseAct::Remove => Which::of_jail(roots, jail).remove(),
        }
    }

    fn with_vmm(&self, instance: &InstanceId) -> Result<(), Error> {
        observe::require(&Place::of(&self.roots, instance))
    }
}

impl Host for LocalHost {
    fn for_operation(&self, operation: &OperationId) -> Option<Arc<dyn Host>> {
        Some(Arc::new(self.named(operation)))
    }

    fn execute(&self, effect: &Effect) -> Result<(), Error> {
        let (roots, by) = (&self.roots, self.operation.as_ref());
        let done = match effect {
            Effect::EnsureBridge(network) => net::ensure_bridge(roots, self.mtu, network),
            Effect::RemoveBridge(id) => net::remove_bridge(*id),
            Effect::EnsureRoutes(network) => net::ensure_routes(network),
            Effect::RemoveRoutes(id) => net::remove_routes(*id),
            Effect::ReplaceFirewall(intent) => net::replace_firewall(roots, intent),
            Effect::EnsureTenantKey(tenant) => key::ensure(roots, tenant),
            Effect::PublishSecrets { tenant, epoch } => sealed::publish(roots, tenant, *epoch),
            Effect::RemoveTenantFiles(tenant) => files::remove_tenant(roots, tenant),
            Effect::EnsureRevision { pool, image } => files::ensure_revision(roots, pool, image),
            Effect::RemoveRevision { pool, image } => stock::remove_revision(roots, pool, image),
            Effect::RemoveImage(image) => stock::remove_image(roots, image),
            Effect::RemoveRotatedLogs(instance) => stock::remove_rotated_logs(roots, instance),
            Effect::RemoveDownloads => stock::remove_downloads(roots),
            Effect::RemoveVersion(version) => version::remove(roots, version),
            Effect::RemovePoolFiles(pool) => files::remove_pool(roots, pool),
            Effect::Volume(effect) => self.volume(effect),
            Effect::DrawNextKey(tenant) => rekey::draw(roots, tenant),
            Effect::RekeyInstance { instance, volume } => rekey::instance(roots, instance, *volume),
            Effect::PromoteNextKey(tenant) => rekey::promote(roots, tenant),
            Effect::RemoveInstanceFiles(instance) => files::remove_instance(roots, instance),
            Effect::EnsureTap { net, offset, uid } => net::ensure_tap(*net, *offset, *uid),
            Effect::RemoveTap { net, offset } => net::remove_tap(*net, *offset),
            Effect::EnsureCgroup { instance, limits } => cgroup::ensure(roots, instance, *limits),
            Effect::RemoveCgroup(instance) => cgroup::remove(roots, instance),
            Effect::EnsureJail(jail) => jail::ensure(roots, jail),
            Effect::RemoveJail(instance) => jail::remove(roots, instance),
            Effect::SpawnVmm { instance, uid, epoch } => {
                spawn::ensure(roots, instance, *uid, *epoch, by)
            }
            Effect::EnsureShim { instance, uid } => self
                .with_vmm(&instance.instance)
                .and_then(|()| spawn::ensure_shim(roots, instance, *uid, by)),
            Effect::RemoveVmm(instance) => spawn::remove(roots, instance),
            Effect::BootVmm(jail) => {
                self.with_vmm(&jail.instance.instance).and_then(|()| boot::boot(roots, jail))
            }
            Effect::Base { act, jail } => self.base(*act, jail),
            Effect::LoadSnapshot { instance, epoch } => self
                .with_vmm(&instance.instance)
                .and_then(|()| snapshot::load(roots, instance, *epoch)),
            Effect::SwapSecrets { instance, uid, secrets } => swap(roots, instance, *uid, secrets),
            Effect::PauseVmm { instance, purpose } => {
                self.with_vmm(instance).and_then(|()| boot::pause(roots, instance, *purpose))
            }
            Effect::ResumeVmm(instance) => {
                self.with_vmm(instance).and_then(|()| boot::resume(roots, instance))
            }
            Effect::WriteSnapshot { instance, epoch, memory, keyed, compression } => {
                self.with_vmm(&instance.instance).and_then(|()| {
                    snapshot::write(roots, instance, *epoch, *memory, *keyed, *compression)
                })
            }
            Effect::PublishSnapshot { instance, epoch } => stored::publish(roots, instance, *epoch),
            Effect::RetireSnapshot { instance, epoch } => stored::retire(roots, instance, *epoch),
            Effect::RemoveSnapshot { instance, epoch } => stored::remove(roots, instance, *epoch),
        };
        tracing::debug!(effect = effect.name(), done = done.is_ok());
        done
    }

    fn observe_instance(&self, instance: &Instance) -> Result<ObservedInstance, Error> {
        let roots = &self.roots;
        let id = &instance.instance;
        let place = Place::of(roots, &id.instance);
        let vmm = observe::vmm(&place)?;
        let shim = observe::shim(&place, vmm.as_ref())?;
        Ok(ObservedInstance {
            shim,
            vmm,
            exit: observe::exit(&place, shim || vmm.is_some())?,
            bridge: net::bridge_is_up(&instance.network)?,
            routes: net::routes_are_there(&instance.network)?,
            tap: net::tap_is_there(instance.network.net, instance.offset)?,
            cgroup: cgroup::is_there(&place)?,
            jail: jail::is_there(&place)?,
            base: match &instance.image {
                Some(image) => Which::of(roots, id.pool_ref(), image, instance.resources)
                    .look(|| snapshot::present(&roots.firecracker))?,
                None => ObservedBase::Absent,
            },
            snapshots: stored::phases(roots, id)?,
            secrets: secrets::epoch(&place)?,
            volume: volume::size(roots, id, instance.volume.kind)?,
            mapping: volume::is_open(&id.instance)?,
            files: listing::instance_is_there(roots, id)?,
            firewall: net::firewall(roots)?.generation,
            boot: boot_id::present(),
        })
    }

    fn observe_tenant(&self, network: &Network) -> Result<ObservedTenant, Error> {
        let roots = &self.roots;
        let firewall = net::firewall(roots)?;
        Ok(ObservedTenant {
            bridge: net::bridge_is_up(network)? && net::mtu_is_right(self.mtu, network.net)?,
            routes: net::routes_are_there(network)?,
            key: key::exists(roots, &network.tenant)?,
            key_given: roots.given.place(&network.tenant).is_some(),
            next_key: key::next_exists(roots, &network.tenant)?,
            secrets: sealed::published(roots, &network.tenant)?,
            secrets_staged: sealed::is_staged(roots, &network.tenant)?,
            files: listing::tenant_is_there(roots, &network.tenant)?,
            firewall: firewall.generation,
            firewall_altered: firewall.is_altered,
            firewall_cut_off: firewall.is_cut_off,
            resolvers: net::resolvers(roots).resolvers,
        })
    }

    fn observe_pool(&self, pool: &PoolRef) -> Result<ObservedPool, Error> {
        listing::observe_pool(&self.roots, pool)
    }

    fn observe_stock(&self) -> Result<ObservedStock, Error> {
        let versions = version::stock(&self.roots)?;
        Ok(ObservedStock { versions, ..stock::observe(&self.roots)? })
    }

    fn weigh(&self, removals: &[Effect]) -> Result<Vec<u64>, Error> {
        stock::weigh(&self.roots, removals)
    }

    fn observe_node(&self) -> Result<ObservedNode, Error> {
        let roots = &self.roots;
        let net::NetListing { bridges, routes, taps } = net::list()?;
        Ok(ObservedNode {
            bridges,
            routes,
            taps,
            cgroups: cgroup::list(roots)?,
            jails: jail::list(roots)?,
            runs: spawn::list(roots)?,
            processes: spawn::list_alive(roots)?,
            mappings: volume::list_open()?,
            volumes: shelf::list(roots)?,
            tenants: listing::tenants(roots)?,
            pools: listing::pools(roots)?,
            firewall: net::firewall(roots)?.generation,
            agent: crate::lock::is_held(&roots.run.join(layout::run::AGENT))?,
            listening: net::listening()?,
            facts: facts::node(roots)?,
        })
    }

    fn room(&self) -> Result<Room, Error> {
        space::room(&self.roots)
    }

    fn disk_use(&self) -> Result<DiskUse, Error> {
        usage::of(&self.roots)
    }

    fn verify_network(&self, intent: &Firewall) -> Result<Vec<Finding>, Error> {
        net::verify(&self.roots, self.mtu, intent)
    }

    fn meter(&self, instance: &Instance) -> Result<Meter, Error> {
        meter::of(&self.roots, instance)
    }

    fn pressure(&self) -> Result<Pressure, Error> {
        facts::pressure()
    }

    fn wanted(&self) -> Result<Vec<Wanted>, Error> {
        net::wanted()
    }

    fn console(&self, instance: &InstanceRef) -> Result<Console, Error> {
        console::attach(&self.roots, instance)
    }

    fn logs(&self, instance: &InstanceRef, lines: usize) -> Result<Logs, Error> {
        let read = |name| crate::vmm::logs::read(&self.roots, instance, name, lines);
        match (read(CONSOLE_LOG)?, read(VMM_LOG)?, read(SHIM_LOG)?) {
            (None, None, None) => Err(crate::vmm::logs::never_ran(instance)),
            (console, vmm, shim) => Ok(Logs {
                console: console.unwrap_or_default(),
                vmm: vmm.unwrap_or_default(),
                shim: shim.unwrap_or_default(),
            }),
        }
    }

    fn logs_after(
        &self,
        instance: &InstanceRef,
        source: LogSource,
        from: Option<LogPlace>,
    ) -> Result<(Vec<u8>, LogPlace), Error> {
        let name = match source {
            LogSource::Console => CONSOLE_LOG,
            LogSource::Vmm => VMM_LOG,
            LogSource::Shim => SHIM_LOG,
        };
        crate::vmm::logs::after(&self.roots, instance, name, from)
    }
}
