//! What the simulated machine shows.

use std::collections::BTreeSet;

use mvm_core::{
    effect::Firewall,
    id::{InstanceId, InstanceRef, PoolRef},
    instance::Instance,
    net::Network,
    observed::{
        Dns, Ending, ExitRecord, NodeFacts, ObservedBase, ObservedInstance, ObservedNode,
        ObservedPool, ObservedStock, ObservedTenant, ObservedVmm,
    },
    port::Finding,
    units::Generation,
};

use crate::{
    disk::{Content, Path},
    host::vmm::base_path,
    world::World,
};

impl World {
    /// The firewall generation in force; none when the tables are absent, were altered, or hand name
    /// queries to others than the machine's resolvers.
    #[must_use]
    pub fn firewall_generation(&self) -> Option<Generation> {
        let firewall = self.firewall.as_ref().filter(|_| !self.firewall_altered)?;
        (firewall.resolvers == self.resolvers).then_some(firewall.generation)
    }

    /// What there is of one instance.
    #[must_use]
    pub fn observe_instance(&self, instance: &Instance) -> ObservedInstance {
        let id = &instance.instance.instance;
        let (net, path) = (instance.network.net, Path::Instance(instance.instance.clone()));
        let volume = match self.disk.get(&Path::Volume(instance.instance.clone())) {
            Some(Content::Volume { size, .. }) => Some(*size),
            Some(
                Content::Bare
                | Content::Key(_)
                | Content::Secrets(_)
                | Content::Current(_)
                | Content::Snapshot(_)
                | Content::Base(..),
            )
            | None => None,
        };
        ObservedInstance {
            vmm: self.vmms.get(id).map(|vmm| ObservedVmm {
                origin: vmm.origin,
                phase: vmm.phase,
                pid: vmm.pid,
                resident_kib: 1024,
            }),
            shim: self.shims.contains_key(id),
            exit: self.exit(id),
            bridge: self.bridges.get(&net) == Some(&instance.network),
            routes: self.routes.get(&net) == Some(&instance.network),
            tap: self.taps.contains_key(&(net, instance.offset)),
            cgroup: self.cgroups.contains_key(id),
            jail: self.has_jail(id),
            base: self.base(instance),
            snapshots: self
                .disk
                .snapshots(&instance.instance)
                .map(|(epoch, snapshot)| (epoch, snapshot.phase))
                .collect(),
            secrets: self.mounts.get(id).map(|mount| mount.secrets.epoch),
            volume,
            mapping: self.mappings.contains(id),
            files: self.disk.has_any(&path),
            firewall: self.firewall_generation(),
            boot: self.present_boot(),
        }
    }

    fn base(&self, instance: &Instance) -> ObservedBase {
        let Some(image) = &instance.image else { return ObservedBase::Absent };
        let path = base_path(&instance.instance.pool_ref(), image, &instance.resources);
        match self.disk.get(&path) {
            Some(Content::Base(_, model)) if *model == self.model => ObservedBase::Fits,
            Some(_) => ObservedBase::Unfit("it was taken on another machine".to_owned()),
            None => ObservedBase::Absent,
        }
    }

    /// How the last VMM ended. Records without an exit record, a VMM and a shim are those of a
    /// death that nobody saw.
    fn exit(&self, id: &InstanceId) -> Option<ExitRecord> {
        let run = self.runs.get(id)?;
        let is_unseen = !self.vmms.contains_key(id) && !self.shims.contains_key(id);
        run.exit.clone().or_else(|| is_unseen.then(|| ExitRecord::of(Ending::Unseen)))
    }

    /// What there is of one tenant.
    #[must_use]
    pub fn observe_tenant(&self, network: &Network) -> ObservedTenant {
        ObservedTenant {
            bridge: self.bridges.get(&network.net) == Some(network),
            routes: self.routes.get(&network.net) == Some(network),
            key: self.disk.key(&network.tenant).is_some(),
            key_given: false,
            next_key: self.disk.get(&Path::NextKey(network.tenant.clone())).is_some(),
            secrets: self.published_secrets(&network.tenant),
            secrets_staged: !self.staged_secrets(&network.tenant).is_empty(),
            files: self.disk.has_any(&Path::Tenant(network.tenant.clone())),
            firewall: self.firewall_generation(),
            firewall_altered: self.firewall_altered,
            firewall_cut_off: false,
            resolvers: self.resolvers.clone(),
        }
    }

    /// What there is of one pool.
    #[must_use]
    pub fn observe_pool(&self, pool: &PoolRef) -> ObservedPool {
        let mut seen = ObservedPool {
            files: self.disk.has_any(&Path::Pool(pool.clone())),
            ..ObservedPool::default()
        };
        for (path, content) in self.disk.iter() {
            match (path, content) {
                (Path::Revision(of, image), _) if of == pool => {
                    seen.revisions.push(image.clone());
                }
                (Path::Current(of), Content::Current(image)) if of == pool => {
                    seen.current = Some(image.clone());
                }
                _ => {}
            }
        }
        seen
    }

    /// What could be made or fetched again.
    #[must_use]
    pub fn observe_stock(&self) -> ObservedStock {
        let has_files =
            |one: &&InstanceRef| self.disk.get(&Path::Instance((*one).clone())).is_some();
        ObservedStock {
            images: self.images.iter().cloned().collect(),
            rotated_logs: self.rotated_logs.iter().filter(has_files).cloned().collect(),
            downloads: self.has_downloads,
            versions: self.installed(),
        }
    }

    /// Everything of ours.
    #[must_use]
    pub fn observe_node(&self) -> ObservedNode {
        let mut jails: BTreeSet<InstanceId> = self.mounts.keys().cloned().collect();
        let (mut tenants, mut pools, mut volumes) = (Vec::new(), Vec::new(), Vec::new());
        for (path, _) in self.disk.iter() {
            match path {
                Path::Jail(id) => {
                    jails.insert(id.clone());
                }
                Path::Tenant(id) => tenants.push(id.clone()),
                Path::Pool(pool) => pools.push((pool.tenant.clone(), pool.pool.clone())),
                Path::Kept(volume) => volumes.push(volume.clone()),
                Path::Key(_)
                | Path::NextKey(_)
                | Path::VolumeKey(_)
                | Path::Secrets(_)
                | Path::StagedSecrets(..)
                | Path::Revision(..)
                | Path::Base(..)
                | Path::Current(_)
                | Path::Instance(_)
                | Path::Volume(_)
                | Path::Snapshot(..)
                | Path::Archive(_) => {}
            }
        }
        let processes: BTreeSet<InstanceId> =
            self.vmms.keys().chain(self.shims.keys()).cloned().collect();
        ObservedNode {
            bridges: self.bridges.keys().copied().collect(),
            routes: self.routes.keys().copied().collect(),
            taps: self.taps.keys().copied().collect(),
            cgroups: self.cgroups.keys().cloned().collect(),
            jails: jails.into_iter().collect(),
            runs: self.runs.keys().cloned().collect(),
            processes: processes.into_iter().collect(),
            mappings: self.mappings.iter().cloned().collect(),
            volumes,
            tenants,
            pools,
            firewall: self.firewall_generation(),
            agent: false,
            listening: Vec::new(),
            facts: NodeFacts {
                hostname: "sim".to_owned(),
                arch: "x86_64".to_owned(),
                kernel: "6.12.0".to_owned(),
                boot: self.present_boot(),
                vcpus: 64,
                mem_mib: 1 << 20,
                mem_available_mib: 1 << 20,
                disk_free_mib: if self.disk.full { 0 } else { 1 << 20 },
                kvm: true,
                kvm_detail: "simulated".to_owned(),
                cgroup_v2: true,
                nftables: true,
                firecracker: self.installed().iter().map(|one| one.version.to_string()).collect(),
                firecracker_new: self.version.clone(),
                jailer: true,
                dns: Dns { resolvers: self.resolvers.clone(), problem: None },
            },
        }
    }

    /// Differences between the machine's network and an intent.
    #[must_use]
    pub fn verify(&self, intent: &Firewall) -> Vec<Finding> {
        let mut findings = Vec::new();
        let is_at_work = |network: &&Network| {
            self.bridges.contains_key(&network.net)
                || self.routes.contains_key(&network.net)
                || self.taps.keys().any(|(net, _)| *net == network.net)
        };
        let at_work: Vec<&Network> = intent.networks.iter().filter(is_at_work).collect();
        for network in &at_work {
            let mut check = |is_there: bool, check: &str| {
                if !is_there {
                    findings.push(Finding {
                        tenant: Some(network.tenant.clone()),
                        check: check.to_owned(),
                        problem: format!("the {check} of network {} is not there", network.net),
                    });
                }
            };
            check(self.bridges.get(&network.net) == Some(network), "bridge");
            check(self.routes.get(&network.net) == Some(network), "routes");
        }
        let same = self.firewall.as_ref().is_some_and(|there| {
            !self.firewall_altered
                && there.networks == intent.networks
                && there.ports == intent.ports
                && there.resolvers == intent.resolvers
                && there.published == intent.published
        });
        if !same && !at_work.is_empty() {
            findings.push(Finding {
                tenant: None,
                check: "table".to_owned(),
                problem: "the tables in force are not those that are wanted".to_owned(),
            });
        }
        findings
    }
}
