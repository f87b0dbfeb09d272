//! What an effect lays claim to, and the bounds that it must keep. Pure: no file, no kernel.
//!
//! A [`Claim`] is a name with an owner: once granted, the name is nobody else's until it is released.
//! So no uid is two instances', no network two tenants', and an instance's id stays with its pool,
//! whatever a caller's store says. What cannot be claimed is bounded: uids lie in their range, MACs and
//! addresses follow from net-id and offset, a cgroup's limits from what a guest may have.

use mvm_core::{
    Error, ErrorKind,
    alloc::{FIRST_UID, UIDS},
    effect::{Effect, Firewall, Jail, Limits},
    id::{InstanceId, InstanceRef, TenantId, VolumeId},
    net::{MAX_TENANT_NET, Mac, NetId, Network, Offset},
    units::Uid,
    volume::VolumeEffect,
};

/// The most vCPUs that Firecracker gives a guest (its `MAX_SUPPORTED_VCPUS`).
const MAX_VCPUS: u32 = 32;
/// The threads of a VMM besides its vCPUs, see [`Limits::of`].
const MAX_PIDS: u32 = MAX_VCPUS + 16;

/// A name that has one owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// What is claimed: a file name, from ids only.
    pub name: String,
    /// Whose it is.
    pub owner: String,
}

impl Claim {
    /// Whether it is on a kept volume.
    #[must_use]
    pub fn is_volume(&self) -> bool {
        self.name.starts_with("volume.")
    }

    fn new(name: String, owner: impl ToString) -> Self {
        Self { name, owner: owner.to_string() }
    }

    /// An instance's id, which belongs to one pool.
    #[must_use]
    pub fn instance(instance: &InstanceRef) -> Self {
        Self::new(instance_name(&instance.instance), instance)
    }

    /// A network, which belongs to one tenant and has one range of addresses.
    #[must_use]
    pub fn network(network: &Network) -> Self {
        Self::new(network_name(network.net), format!("{} {}", network.tenant, network.subnet))
    }

    fn uid(instance: &InstanceId, uid: Uid) -> [Self; 2] {
        let of = Self::new(uid_of_name(instance), uid.0);
        [Self::new(format!("uid.{}", uid.0), instance), of]
    }

    fn place(net: NetId, offset: Offset, uid: Uid) -> Self {
        Self::new(place_name(net, offset), format!("uid {}", uid.0))
    }

    fn volume(volume: &VolumeId, tenant: &TenantId) -> Self {
        Self::new(volume_name(volume), tenant)
    }
}

/// The name of the claim on an instance's id.
#[must_use]
pub fn instance_name(instance: &InstanceId) -> String {
    format!("instance.{instance}")
}

/// The name of the claim that says which uid an instance has.
#[must_use]
pub fn uid_of_name(instance: &InstanceId) -> String {
    format!("uid-of.{instance}")
}

/// The name of the claim on a network.
#[must_use]
pub fn network_name(net: NetId) -> String {
    format!("net.{net}")
}

fn place_name(net: NetId, offset: Offset) -> String {
    format!("place.{net}.{}", offset.0)
}

fn volume_name(volume: &VolumeId) -> String {
    format!("volume.{volume}")
}

/// Whom an effect concerns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Concern {
    /// One instance, named whole.
    Instance(InstanceRef),
    /// One instance by its id; whose it is, the ledger knows.
    Id(InstanceId),
    /// One tenant.
    Tenant(TenantId),
    /// One network by its id; whose it is, the ledger knows.
    Net(NetId),
    /// The whole node.
    Node,
}

/// What the kernel must say besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truth {
    /// Nothing.
    Any,
    /// New tables have walls around every tap that is there.
    KeepsWalls,
    /// Walls are in force around the place of a new tap.
    HasWalls(NetId, Offset),
    /// No tap is on the bridge that goes.
    NoTaps(NetId),
}

/// What an effect stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footing {
    /// Whom it concerns.
    pub concern: Concern,
    /// What must be, or become, its caller's.
    pub claims: Vec<Claim>,
    /// What the kernel must say.
    pub truth: Truth,
    /// The names that are free once it is done.
    pub released: Vec<String>,
}

impl Footing {
    const fn of(concern: Concern) -> Self {
        Self { concern, claims: Vec::new(), truth: Truth::Any, released: Vec::new() }
    }

    fn instance(instance: &InstanceRef) -> Self {
        Self::of(Concern::Instance(instance.clone())).claim(Claim::instance(instance))
    }

    fn with_uid(instance: &InstanceRef, uid: Uid) -> Result<Self, Error> {
        in_range(uid)?;
        let [one, other] = Claim::uid(&instance.instance, uid);
        Ok(Self::instance(instance).claim(one).claim(other))
    }

    fn tenant(tenant: &TenantId) -> Self {
        Self::of(Concern::Tenant(tenant.clone()))
    }

    fn claim(mut self, claim: Claim) -> Self {
        self.claims.push(claim);
        self
    }

    fn release(mut self, name: String) -> Self {
        self.released.push(name);
        self
    }

    fn truth(self, truth: Truth) -> Self {
        Self { truth, ..self }
    }
}

/// What an effect stands on, if it keeps its bounds.
///
/// # Errors
/// `Permission` naming the bound that it does not keep.
pub fn footing(effect: &Effect) -> Result<Footing, Error> {
    Ok(match effect {
        Effect::EnsureBridge(network) | Effect::EnsureRoutes(network) => in_its_range(network)
            .map(|()| Footing::tenant(&network.tenant).claim(Claim::network(network)))?,
        Effect::RemoveBridge(net) => {
            Footing::of(Concern::Net(*net)).truth(Truth::NoTaps(*net)).release(network_name(*net))
        }
        Effect::RemoveRoutes(net) => Footing::of(Concern::Net(*net)),
        Effect::EnsureTap { net, offset, uid } => {
            in_range(*uid)?;
            Footing::of(Concern::Net(*net))
                .claim(Claim::place(*net, *offset, *uid))
                .truth(Truth::HasWalls(*net, *offset))
        }
        Effect::RemoveTap { net, offset } => {
            Footing::of(Concern::Net(*net)).release(place_name(*net, *offset))
        }
        Effect::ReplaceFirewall(intent) => {
            consistent(intent)?;
            Footing::of(Concern::Node).truth(Truth::KeepsWalls)
        }
        Effect::RemoveImage(_) | Effect::RemoveDownloads | Effect::RemoveVersion(_) => {
            Footing::of(Concern::Node)
        }
        Effect::EnsureTenantKey(tenant)
        | Effect::DrawNextKey(tenant)
        | Effect::PromoteNextKey(tenant)
        | Effect::PublishSecrets { tenant, .. }
        | Effect::RemoveTenantFiles(tenant) => Footing::tenant(tenant),
        Effect::EnsureRevision { pool, .. }
        | Effect::RemoveRevision { pool, .. }
        | Effect::RemovePoolFiles(pool) => Footing::tenant(&pool.tenant),
        Effect::EnsureJail(jail) | Effect::BootVmm(jail) | Effect::Base { jail, .. } => {
            whole(jail)?;
            Footing::with_uid(&jail.instance, jail.uid)?
                .claim(Claim::network(&jail.identity.network))
        }
        Effect::SpawnVmm { instance, uid, .. }
        | Effect::EnsureShim { instance, uid }
        | Effect::SwapSecrets { instance, uid, .. } => Footing::with_uid(instance, *uid)?,
        Effect::RemoveInstanceFiles(instance) => Footing::instance(instance)
            .release(uid_of_name(&instance.instance))
            .release(instance_name(&instance.instance)),
        Effect::RekeyInstance { instance, .. }
        | Effect::RemoveRotatedLogs(instance)
        | Effect::LoadSnapshot { instance, .. }
        | Effect::WriteSnapshot { instance, .. }
        | Effect::PublishSnapshot { instance, .. }
        | Effect::RetireSnapshot { instance, .. }
        | Effect::RemoveSnapshot { instance, .. } => Footing::instance(instance),
        Effect::EnsureCgroup { instance, limits } => {
            within(*limits).map(|()| Footing::of(Concern::Id(instance.clone())))?
        }
        Effect::RemoveCgroup(instance)
        | Effect::RemoveJail(instance)
        | Effect::RemoveVmm(instance)
        | Effect::PauseVmm { instance, .. }
        | Effect::ResumeVmm(instance) => Footing::of(Concern::Id(instance.clone())),
        Effect::Volume(effect) => volume(effect)?,
    })
}

/// A kept volume stays the tenant's that it was of; it is given to another one by a person with root.
fn volume(effect: &VolumeEffect) -> Result<Footing, Error> {
    Ok(match effect {
        VolumeEffect::Ensure { instance, uid, .. } => Footing::with_uid(instance, *uid)?,
        VolumeEffect::Open(instance)
        | VolumeEffect::Grow { instance, .. }
        | VolumeEffect::Wipe { instance, .. } => Footing::instance(instance),
        VolumeEffect::Keep { instance, volume, .. } => {
            Footing::instance(instance).claim(Claim::volume(volume, &instance.tenant))
        }
        VolumeEffect::Attach { instance, volume, uid, .. } => Footing::with_uid(instance, *uid)?
            .claim(Claim::volume(volume, &instance.tenant))
            .release(volume_name(volume)),
        VolumeEffect::Close(instance) => Footing::of(Concern::Id(instance.clone())),
        VolumeEffect::Remove { volume, .. } => {
            Footing::of(Concern::Node).release(volume_name(volume))
        }
    })
}

fn refused(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Permission, what)
        .hint("the store and this host disagree: mvm node rebuild makes the store anew")
}

fn in_range(uid: Uid) -> Result<(), Error> {
    if (FIRST_UID..FIRST_UID + UIDS).contains(&uid.0) {
        return Ok(());
    }
    Err(refused(format!("uid {} is no instance's", uid.0)))
}

/// Own tenants have the networks that they have everywhere, all others one of the cluster.
fn in_its_range(network: &Network) -> Result<(), Error> {
    let is = match Network::built_in(&network.tenant) {
        Some(own) => own == *network,
        None => network.subnet.is_of_cluster() && (1..=MAX_TENANT_NET).contains(&network.net.0),
    };
    if is {
        return Ok(());
    }
    let (net, subnet) = (network.net, network.subnet);
    Err(refused(format!("net-id {net} with {subnet} is no network of {}", network.tenant)))
}

fn within(limits: Limits) -> Result<(), Error> {
    if limits.cpus <= MAX_VCPUS && limits.pids <= MAX_PIDS && limits.memory.0 > 0 {
        return Ok(());
    }
    let Limits { memory, cpus, pids } = limits;
    Err(refused(format!("no instance has limits of {memory:?}, {cpus} CPUs and {pids} processes")))
}

fn whole(jail: &Jail) -> Result<(), Error> {
    in_range(jail.uid)?;
    let identity = &jail.identity;
    if identity.network.tenant != jail.instance.tenant {
        return Err(refused(format!("{} lies in another tenant's network", jail.instance)));
    }
    if identity.network.subnet.address(identity.offset).is_none() {
        return Err(refused(format!("{} has no place in its network", jail.instance)));
    }
    Ok(())
}

/// Every guest has the MAC and the address that follow from its place, in a network that is there
/// once; published ports lead to addresses of their network.
fn consistent(intent: &Firewall) -> Result<(), Error> {
    let of = |net: NetId| intent.networks.iter().find(|network| network.net == net);
    for (at, network) in intent.networks.iter().enumerate() {
        in_its_range(network)?;
        let twice = intent
            .networks
            .iter()
            .skip(at + 1)
            .find(|other| other.net == network.net || other.subnet.overlaps(network.subnet));
        if let Some(other) = twice {
            return Err(refused(format!(
                "{} and {} share addresses",
                network.tenant, other.tenant
            )));
        }
    }
    for port in &intent.ports {
        let address = of(port.net).and_then(|network| network.subnet.address(port.offset));
        if address != Some(port.address) || port.mac != Mac::of(port.net, port.offset) {
            return Err(refused(format!("{} is not the address of its place", port.address)));
        }
    }
    for published in &intent.published {
        let ports = &intent.ports;
        if !ports.iter().any(|port| port.net == published.net && port.address == published.to) {
            return Err(refused(format!("a published port leads to {}, no guest", published.to)));
        }
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
mod tests {
    use mvm_core::{
        effect::Port,
        observed::PausedFor,
        publish::{Protocol, Publish},
        units::Mib,
    };

    use super::*;

    fn network(tenant: &str, net: u16) -> Network {
        let subnet = mvm_core::net::Subnet::automatic(NetId(net)).unwrap();
        Network { tenant: tenant.parse().unwrap(), net: NetId(net), subnet }
    }

    fn port(net: u16, offset: u16) -> Port {
        let (id, offset) = (NetId(net), Offset(offset));
        let address = network("x", net).subnet.address(offset).unwrap();
        Port { net: id, offset, mac: Mac::of(id, offset), address }
    }

    fn refusal(effect: &Effect) -> String {
        let error = footing(effect).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Permission);
        error.message
    }

    #[test]
    fn no_vmm_runs_as_root_or_as_anybody_who_is_no_instance() {
        let instance: InstanceRef = "acme/w/i-0000000a".parse().unwrap();
        for uid in [0, 1000, FIRST_UID - 1, FIRST_UID + UIDS].map(Uid) {
            let spawn = Effect::SpawnVmm { instance: instance.clone(), uid, epoch: None };
            assert!(refusal(&spawn).contains("is no instance's"));
        }
        let spawn = Effect::SpawnVmm { instance, uid: Uid(FIRST_UID), epoch: None };
        assert!(footing(&spawn).is_ok());
    }

    #[test]
    fn a_firewall_that_lets_a_guest_be_another_one_is_refused() {
        let firewall = |change: &dyn Fn(&mut Firewall)| {
            let mut intent = Firewall {
                networks: vec![network("acme", 3), network("beta", 4)],
                ports: vec![port(3, 3), port(4, 3)],
                ..Firewall::default()
            };
            change(&mut intent);
            Effect::ReplaceFirewall(intent)
        };
        assert!(footing(&firewall(&|_| {})).is_ok());
        let forged =
            firewall(&|intent| intent.ports.last_mut().unwrap().address = port(3, 3).address);
        assert!(refusal(&forged).contains("is not the address of its place"));
        let forged = firewall(&|intent| intent.ports.last_mut().unwrap().mac = port(3, 3).mac);
        assert!(refusal(&forged).contains("is not the address of its place"));
        let homeless = firewall(&|intent| drop(intent.networks.pop()));
        assert!(refusal(&homeless).contains("is not the address of its place"));
        let twice =
            firewall(&|intent| intent.networks.last_mut().unwrap().subnet = network("x", 3).subnet);
        assert!(refusal(&twice).contains("share addresses"));
        let outside = firewall(&|intent| {
            let publish = Publish { address: None, host: 80, guest: 80, protocol: Protocol::Tcp };
            let to = std::net::Ipv4Addr::LOCALHOST;
            intent.published.push(mvm_core::effect::Published { net: NetId(3), to, publish });
        });
        assert!(refusal(&outside).contains("no guest"));
    }

    #[test]
    fn a_tenant_has_no_network_of_another_ones_range() {
        let own = Network::built_in(&TenantId::local()).unwrap();
        assert!(footing(&Effect::EnsureBridge(own.clone())).is_ok());
        let tenant = "acme".parse().unwrap();
        let posing = Network { tenant, ..own.clone() };
        let elsewhere = Network { tenant: TenantId::local(), ..network("acme", 3) };
        let unnumbered = Network { net: NetId(0), ..network("acme", 3) };
        for network in [posing, elsewhere, unnumbered] {
            assert!(refusal(&Effect::EnsureBridge(network)).contains("is no network of"));
        }
    }

    #[test]
    fn limits_beyond_what_a_guest_can_have_are_refused() {
        let instance: InstanceId = "i-0000000a".parse().unwrap();
        let of = |memory, cpus, pids| Effect::EnsureCgroup {
            instance: instance.clone(),
            limits: Limits { memory: Mib(memory), cpus, pids },
        };
        assert!(footing(&of(192, 1, 17)).is_ok());
        for beyond in [of(192, 33, 17), of(192, 1, 49), of(0, 1, 17)] {
            assert!(refusal(&beyond).contains("no instance has limits"));
        }
    }

    #[test]
    fn what_names_an_instance_by_its_id_only_is_the_ledgers_to_place() {
        let id: InstanceId = "i-0000000a".parse().unwrap();
        let pause = Effect::PauseVmm { instance: id.clone(), purpose: PausedFor::Warm };
        assert_eq!(footing(&pause).unwrap().concern, Concern::Id(id));
    }
}
