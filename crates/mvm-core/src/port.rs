//! The ports: what the decisions need from the world, as traits.
//!
//! All are synchronous: work on one subject is a sequence under a kernel lock, several subjects
//! are worked on by several threads. Every call has a bound in time of its own.

mod build;
mod guest;

use std::{io::Read, io::Write, net::Ipv4Addr, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    audit::AuditReport, audit::LogEnd, disk::DiskUse, disk::Room, effect::Effect, effect::Firewall,
    error::Error, error::ErrorKind, event::Event, event::LoggedEvent, id::InstanceRef,
    id::OperationId, id::PoolRef, id::Subject, id::TenantId, instance::Instance, meter::Meter,
    meter::Pressure, net::NetId, net::Network, net::Offset, observed::ObservedInstance,
    observed::ObservedNode, observed::ObservedPool, observed::ObservedStock,
    observed::ObservedTenant, secrets::SecretsSource, units::Generation, units::Timestamp,
};

pub use build::{
    BuildOrder, Builder, BuiltRoot, Flake, FlakeSource, PlacedRoot, Prepared, RootCommands, Sources,
};
pub use guest::{
    ExecControl, ExecRequest, ExecStatus, ExecStreams, Guest, GuestAct, GuestAnswer,
    IntegrationFailure, ProbeOutcome, ProbeTarget, TerminalSize,
};

/// The machine: acts and truth.
pub trait Host: Send + Sync {
    /// The same machine, which names `operation` in whatever outlives a call: the logs of what it
    /// starts. None when it keeps no such thing.
    fn for_operation(&self, operation: &OperationId) -> Option<Arc<dyn Host>> {
        let _ = operation;
        None
    }

    /// Does one effect. Doing it twice is doing it once.
    ///
    /// # Errors
    /// The kind says whether trying again can help (`Unavailable`) or not.
    fn execute(&self, effect: &Effect) -> Result<(), Error>;

    /// What there is of one instance. Narrow: its cost does not grow with the host's load.
    ///
    /// # Errors
    /// When the truth cannot be read; never because something is absent.
    fn observe_instance(&self, instance: &Instance) -> Result<ObservedInstance, Error>;

    /// What there is of one tenant.
    ///
    /// # Errors
    /// As [`Host::observe_instance`].
    fn observe_tenant(&self, network: &Network) -> Result<ObservedTenant, Error>;

    /// What there is of one pool.
    ///
    /// # Errors
    /// As [`Host::observe_instance`].
    fn observe_pool(&self, pool: &PoolRef) -> Result<ObservedPool, Error>;

    /// What is kept on disk and could be made or fetched again.
    ///
    /// # Errors
    /// As [`Host::observe_instance`].
    fn observe_stock(&self) -> Result<ObservedStock, Error>;

    /// How many bytes of disk each of these removals gives back, if they are done in this order;
    /// none for what is no file.
    ///
    /// # Errors
    /// As [`Host::observe_instance`].
    fn weigh(&self, removals: &[Effect]) -> Result<Vec<u64>, Error>;

    /// Everything of ours on this host, whoever owns it.
    ///
    /// # Errors
    /// As [`Host::observe_instance`].
    fn observe_node(&self) -> Result<ObservedNode, Error>;

    /// The room on the data file system.
    ///
    /// # Errors
    /// As [`Host::observe_instance`].
    fn room(&self) -> Result<Room, Error>;

    /// What lies on the data file system, by class and tenant. Its cost grows with the number of
    /// files.
    ///
    /// # Errors
    /// As [`Host::observe_instance`].
    fn disk_use(&self) -> Result<DiskUse, Error>;

    /// Compares the kernel's tables, routes and devices with an intent, in depth.
    ///
    /// # Errors
    /// As [`Host::observe_instance`].
    fn verify_network(&self, intent: &Firewall) -> Result<Vec<Finding>, Error>;

    /// What is measured of an instance; all zero of one that has nothing.
    ///
    /// # Errors
    /// As [`Host::observe_instance`].
    fn meter(&self, instance: &Instance) -> Result<Meter, Error>;

    /// The host's memory at this moment.
    ///
    /// # Errors
    /// As [`Host::observe_instance`].
    fn pressure(&self) -> Result<Pressure, Error>;

    /// What somebody in a tenant's network, or the host on the way to a published port, tried to reach within
    /// the last seconds; those who answered are among them.
    ///
    /// # Errors
    /// As [`Host::observe_instance`].
    fn wanted(&self) -> Result<Vec<Wanted>, Error>;

    /// Attaches to the guest's serial console; it is let go when both ends are dropped.
    ///
    /// # Errors
    /// `Conflict` while somebody else is attached, `Unavailable` when nobody holds a console.
    fn console(&self, instance: &InstanceRef) -> Result<Console, Error>;

    /// The guest's console log (the last `lines`) and the VMM's log.
    ///
    /// # Errors
    /// `NotFound` when the instance never ran.
    fn logs(&self, instance: &InstanceRef, lines: usize) -> Result<Logs, Error>;

    /// What was added to a log after `from`, across its rotations, and where the log ends. Without
    /// `from` nothing but the end.
    ///
    /// # Errors
    /// `Unavailable` on a host whose logs do not grow.
    fn logs_after(
        &self,
        instance: &InstanceRef,
        source: LogSource,
        from: Option<LogPlace>,
    ) -> Result<(Vec<u8>, LogPlace), Error> {
        let _ = (source, from);
        let message = format!("the logs of {instance} cannot be followed on this host");
        Err(Error::new(ErrorKind::Unavailable, message))
    }
}

/// An address that somebody tried to reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Wanted {
    /// In which network.
    pub net: NetId,
    /// The guest that tried; none when it was the host.
    pub by: Option<Offset>,
    /// What it tried to reach; its own when it announces itself.
    pub address: Ipv4Addr,
}

/// The directories that the documented files lie in. A store that belongs to another user than the
/// machine does cannot make them itself.
pub trait Homes: Send + Sync {
    /// Makes the directory of a subject; the firewall has none.
    ///
    /// # Errors
    /// Why it cannot be made.
    fn ensure_home(&self, subject: &Subject) -> Result<(), Error>;
}

/// Both directions of a serial console.
pub struct Console {
    /// What is typed.
    pub input: Box<dyn Write + Send>,
    /// The last lines of the log, then what the guest prints; it ends when the guest does.
    pub output: Box<dyn Read + Send>,
}

/// One thing that `net verify` found wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Whose network; none when it concerns the host.
    pub tenant: Option<TenantId>,
    /// What was checked: `bridge`, `routes`, `tap`, `egress`, `table`, `foreign_rule`, `probe`.
    pub check: String,
    /// What is wrong, for people.
    pub problem: String,
}

/// Logs of an instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logs {
    /// The guest's console, oldest line first.
    pub console: Vec<String>,
    /// The VMM's log, oldest line first.
    pub vmm: Vec<String>,
    /// The shim's log, oldest line first.
    #[serde(default)]
    pub shim: Vec<String>,
}

/// Which of an instance's logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogSource {
    /// What the guest wrote to its console.
    Console,
    /// What the VMM logged.
    Vmm,
    /// What the shim had to say.
    Shim,
}

impl LogSource {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Console, Self::Vmm, Self::Shim];
}

/// A place in a log that is rotated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogPlace {
    /// Which file, as its file system numbers it; 0 when there is none yet.
    pub file: u64,
    /// How many bytes into it.
    pub offset: u64,
}

/// Secrets to be sealed.
#[derive(Debug, Clone, Copy)]
pub struct SecretsToSeal<'a> {
    /// Whose.
    pub tenant: &'a TenantId,
    /// Their epoch.
    pub epoch: Generation,
    /// Whether the tenant's key seals them.
    pub keyed: bool,
    /// Where they come from.
    pub source: &'a SecretsSource,
}

/// Tenants' secrets. Values pass neither in nor out: the vault reads them from their source, keeps
/// them sealed, and the host puts them into guests' drives.
pub trait Vault: Send + Sync {
    /// Reads a source and says how many secrets it has.
    ///
    /// # Errors
    /// `Invalid` naming the key that is wrong; `NotFound` and `Permission` of the source.
    fn check(&self, source: &SecretsSource) -> Result<u32, Error>;

    /// Reads a source and stages what it has, durably, beside what is in force; says how many there
    /// are. What was staged under the same epoch is replaced.
    ///
    /// # Errors
    /// As [`Vault::check`]; why they cannot be sealed or written.
    fn seal(&self, ask: &SecretsToSeal<'_>) -> Result<u32, Error>;

    /// Whether a source that can be read again has something else than what was sealed for this epoch.
    ///
    /// # Errors
    /// As [`Vault::check`] and [`Vault::keys`].
    fn differs(&self, ask: &SecretsToSeal<'_>) -> Result<bool, Error>;

    /// The keys of a tenant's secrets of this epoch or a later one, sorted.
    ///
    /// # Errors
    /// `NotFound` when there are none, `Integrity` when they cannot be opened.
    fn keys(&self, tenant: &TenantId, epoch: Generation) -> Result<Vec<String>, Error>;
}

/// The tables of the store. Keys are addresses; a prefix of an address lists what is below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Table {
    /// Tenants by id.
    Tenants,
    /// Pools by `tenant/pool`.
    Pools,
    /// Instances by `tenant/pool/instance`.
    Instances,
    /// Tombstones by `net/<net-id>`, which is the key of no record with claims.
    Tombstones,
    /// Kept volumes by name.
    Volumes,
    /// Templates by id.
    Templates,
    /// Single values: `node_id`, `network_generation`, `routes_generation`; what a tenant's instances cost by
    /// `usage/<tenant>`, and those of all by `usage`.
    Meta,
}

/// The store: records as JSON, unique claims, events, all changed in transactions.
pub trait Store: Send + Sync {
    /// Runs `work` in one serialised transaction: all of it is durable when this returns, or
    /// nothing happened. After the commit the documented export files follow.
    ///
    /// # Errors
    /// What `work` returned (then nothing happened), or why the store failed.
    fn transact(
        &self,
        work: &mut dyn FnMut(&mut dyn Transaction) -> Result<(), Error>,
    ) -> Result<(), Error>;

    /// The last `limit` events of a tenant after `after_seq`, oldest first.
    ///
    /// # Errors
    /// Why the store failed.
    fn events(
        &self,
        tenant: &TenantId,
        after_seq: u64,
        limit: usize,
    ) -> Result<Vec<LoggedEvent>, Error>;

    /// The first `limit` events of a tenant after `after_seq`, oldest first; for who reads a log page by
    /// page, so that no page costs more than it has.
    ///
    /// # Errors
    /// Why the store failed.
    fn first_events(
        &self,
        tenant: &TenantId,
        after_seq: u64,
        limit: usize,
    ) -> Result<Vec<LoggedEvent>, Error>;

    /// Checks a tenant's audit log against its anchor, and the exported files against the store.
    /// What is wrong stands in the report.
    ///
    /// # Errors
    /// Why store or files cannot be read.
    fn audit(&self, tenant: &TenantId) -> Result<AuditReport, Error>;

    /// The same for the archived logs of destroyed tenants, of one name or all.
    ///
    /// # Errors
    /// As [`Store::audit`].
    fn audit_archives(&self, tenant: Option<&TenantId>) -> Result<Vec<AuditReport>, Error>;

    /// Where the logs of destroyed tenants end.
    ///
    /// # Errors
    /// Why the store failed.
    fn archived_ends(&self) -> Result<Vec<LogEnd>, Error>;

    /// The events of destroyed tenants of this name, oldest first.
    ///
    /// # Errors
    /// As [`Store::audit`].
    fn archived_events(&self, tenant: &TenantId) -> Result<Vec<LoggedEvent>, Error>;
}

/// An open transaction.
pub trait Transaction {
    /// One record.
    ///
    /// # Errors
    /// Why the store failed.
    fn get(&mut self, table: Table, key: &str) -> Result<Option<String>, Error>;
    /// All records whose key is `prefix` or lies below it (`prefix/…`); all of them for `""`.
    ///
    /// # Errors
    /// Why the store failed.
    fn list(&mut self, table: Table, prefix: &str) -> Result<Vec<(String, String)>, Error>;
    /// Writes one record.
    ///
    /// # Errors
    /// Why the store failed.
    fn put(&mut self, table: Table, key: &str, value: &str) -> Result<(), Error>;
    /// Removes one record and releases every claim of its key; with a tenant goes its audit log,
    /// whose archive is a file.
    ///
    /// # Errors
    /// Why the store failed.
    fn delete(&mut self, table: Table, key: &str) -> Result<(), Error>;
    /// Claims a unique name (`uid/458752`, `address/3/7`) for the record `owner`. Claiming twice
    /// is claiming once.
    ///
    /// # Errors
    /// `Conflict` when another record holds it.
    fn claim(&mut self, name: &str, owner: &str) -> Result<(), Error>;
    /// Gives up a name that this owner claimed; one that it does not hold stays as it is.
    ///
    /// # Errors
    /// Why the store failed.
    fn release(&mut self, name: &str, owner: &str) -> Result<(), Error>;
    /// The numbers claimed below `prefix` (`uid`, `address/3`), ascending.
    ///
    /// # Errors
    /// Why the store failed.
    fn claimed(&mut self, prefix: &str) -> Result<Vec<u32>, Error>;
    /// Appends to a tenant's audit log.
    ///
    /// # Errors
    /// Why the store failed.
    fn append(&mut self, event: &Event) -> Result<(), Error>;
}

/// How a long act reports where it is.
pub trait Progress: Send + Sync {
    /// Something advanced.
    fn report(&self, step: &ProgressStep);
}

/// One report of progress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressStep {
    /// What is worked on: an address or the name of an asset.
    pub subject: String,
    /// What is being done.
    pub activity: String,
    /// How much of it is done.
    pub done: u64,
    /// How much there is; 0 while unknown.
    pub total: u64,
}

/// Time and randomness.
pub trait Clock: Send + Sync {
    /// The wall clock.
    fn now(&self) -> Timestamp;
    /// Time on a clock that never jumps.
    fn elapsed(&self) -> Duration;
    /// Lets time pass: backoff, and the time between two looks that make a rate.
    fn pause(&self, span: Duration);
    /// 32 random bits for a new id.
    fn draw(&self) -> u32;
}

/// A held lock; dropping it, or the death of the process, releases it.
pub trait Lock: Send {
    /// Releases the lock and removes its trace, because its subject is gone.
    fn retire(self: Box<Self>);
}

/// Exclusive locks on subjects, between threads and processes.
pub trait Locks: Send + Sync {
    /// Takes the lock, waiting up to `wait`.
    ///
    /// # Errors
    /// `Unavailable` naming who holds it and since when.
    fn lock(&self, subject: &Subject, wait: Duration) -> Result<Box<dyn Lock>, Error>;

    /// Takes one of the node's places, which stand for no subject but for the processor; none while
    /// somebody has it. It does not wait.
    ///
    /// # Errors
    /// Why that cannot be known.
    fn place(&self, place: u32) -> Result<Option<Box<dyn Lock>>, Error>;
}
