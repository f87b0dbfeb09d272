//! The ports: what the decisions need from the world, as traits.
//!
//! All are synchronous: work on one subject is a sequence under a kernel lock, several subjects
//! are worked on by several threads. Every call has a bound in time of its own.

use std::{
    fmt,
    io::{Read, Write},
    net::Ipv4Addr,
    sync::{Arc, mpsc::Receiver},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    disk::{DiskUse, Room},
    effect::{Effect, Firewall},
    error::Error,
    event::{Event, LoggedEvent},
    id::{ImageHash, InstanceRef, PoolRef, Subject, TenantId},
    instance::Instance,
    meter::{CopyReport, GuestMetrics, Meter},
    net::{Network, Offset},
    observed::{ObservedInstance, ObservedNode, ObservedPool, ObservedStock, ObservedTenant},
    operation::Rebuild,
    pool::{Role, Source},
    publish::Protocol,
    secrets::SecretsSource,
    units::{Generation, Seconds, Timestamp},
};

/// The machine: acts and truth.
pub trait Host: Send + Sync {
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
}

/// What the engine says to a guest's agent in the course of a plan. All are idempotent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuestAct {
    /// Waits until the agent answers.
    Await {
        /// How long at most.
        timeout: Seconds,
    },
    /// Asks the guest to finish what it does.
    Drain {
        /// How long it may take.
        timeout: Seconds,
    },
    /// Syncs, and freezes the workload.
    Quiesce,
    /// Tells the guest the time, fresh entropy and its network identity, and then lets its workload
    /// run.
    Wake {
        /// Its network.
        network: Network,
        /// Its place in it.
        offset: Offset,
        /// Rises with every wake; programs in the guest can watch it.
        generation: u64,
        /// The epoch of the secrets on its drive; a guest with older ones reads them first.
        secrets: Generation,
    },
    /// Tells a running guest to read its secrets drive again.
    RefreshSecrets {
        /// The epoch of the secrets on it.
        epoch: Generation,
    },
    /// Lets the workload run again, of a guest that never left this process.
    Thaw,
    /// Lets the file system of the data volume fill its drive.
    Resize,
    /// Asks the guest to shut down.
    Shutdown {
        /// How long it may take.
        grace: Seconds,
    },
}

/// What a guest answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuestAnswer {
    /// Done.
    Done,
    /// No answer within the bound.
    Silent,
    /// It will not, and says why.
    Refused(String),
}

/// A command to run in a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Variables besides the default environment.
    pub env: Vec<(String, String)>,
    /// Working directory; `/` if absent.
    pub cwd: Option<String>,
    /// User by name or number; root if absent.
    pub user: Option<String>,
    /// A terminal of this size and kind; pipes if absent.
    pub terminal: Option<TerminalSize>,
}

/// A terminal's size and kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
    /// The value of `TERM`.
    pub term: String,
}

/// What reaches a running command besides its input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecControl {
    /// A signal by its number.
    Signal(i32),
    /// The terminal's new size.
    Resize {
        /// Lines.
        rows: u16,
        /// Columns.
        cols: u16,
    },
}

/// Where a command's input comes from and its output goes.
pub struct ExecStreams {
    /// Standard input; closed at its end.
    pub stdin: Box<dyn Read + Send>,
    /// Standard output.
    pub stdout: Box<dyn Write + Send>,
    /// Standard error.
    pub stderr: Box<dyn Write + Send>,
    /// Signals and sizes.
    pub control: Receiver<ExecControl>,
}

/// How a command in a guest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecStatus {
    /// It exited.
    Code(u8),
    /// A signal ended it.
    Signal(u8),
    /// It never ran: there is no such program in the guest.
    Absent,
    /// It never ran: the program is there, and may not or cannot be executed.
    NotExecutable,
}

/// Something that a guest tries to reach from its own address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProbeTarget {
    /// The address.
    pub address: Ipv4Addr,
    /// The port.
    pub port: u16,
    /// What is spoken there.
    pub protocol: Protocol,
}

/// What came of a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeOutcome {
    /// The target answered.
    Reachable,
    /// The target refused: it was reached.
    Refused,
    /// Somebody on the way, or the guest's own routes, said no.
    Unreachable,
    /// Nothing came back in time.
    Silent,
    /// The guest cannot try this.
    Unsupported,
}

impl ProbeOutcome {
    /// Whether the packet got to the target.
    #[must_use]
    pub const fn got_there(self) -> bool {
        match self {
            Self::Reachable | Self::Refused => true,
            Self::Unreachable | Self::Silent | Self::Unsupported => false,
        }
    }
}

impl fmt::Display for ProbeOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reachable => "it answered",
            Self::Refused => "it refused",
            Self::Unreachable => "unreachable",
            Self::Silent => "no answer",
            Self::Unsupported => "its agent cannot try this",
        })
    }
}

/// The agent in a running guest.
pub trait Guest: Send + Sync {
    /// Lets the guest try targets, all at once, each with this bound; the outcomes in their order.
    ///
    /// # Errors
    /// `Unavailable` when the agent does not answer.
    fn probe(
        &self,
        instance: &InstanceRef,
        targets: &[ProbeTarget],
        timeout: Duration,
    ) -> Result<Vec<ProbeOutcome>, Error>;

    /// Does one act.
    ///
    /// # Errors
    /// When the guest cannot be reached for a reason other than silence.
    fn ask(&self, instance: &InstanceRef, act: &GuestAct) -> Result<GuestAnswer, Error>;

    /// Counters of the guest; none when it does not answer in time.
    ///
    /// # Errors
    /// When the guest cannot be reached for a reason other than silence.
    fn metrics(&self, instance: &InstanceRef) -> Result<Option<GuestMetrics>, Error>;

    /// Unpacks a tar stream below a directory of the guest, which is made when missing.
    ///
    /// # Errors
    /// `Permission` for a stream that leads outside; `Unavailable` when the agent is lost.
    fn copy_in(
        &self,
        instance: &InstanceRef,
        path: &str,
        stream: &mut dyn Read,
    ) -> Result<CopyReport, Error>;

    /// Sends a file or directory of the guest as a tar stream.
    ///
    /// # Errors
    /// `NotFound` when it is not there; `Unavailable` when the agent is lost.
    fn copy_out(
        &self,
        instance: &InstanceRef,
        path: &str,
        to: &mut dyn Write,
    ) -> Result<CopyReport, Error>;

    /// Runs a command to its end.
    ///
    /// # Errors
    /// `Unavailable` when the agent does not answer or is lost.
    fn exec(
        &self,
        instance: &InstanceRef,
        request: &ExecRequest,
        streams: ExecStreams,
    ) -> Result<ExecStatus, Error>;
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
    /// Single values: `node_id`, `network_generation`; what a tenant's instances cost by
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

/// What a builder is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildOrder {
    /// Where the image comes from.
    pub source: Source,
    /// The profile of the source.
    pub profile: String,
    /// What the instances are for; flakes have attributes by role.
    pub role: Role,
    /// Whether an image that is there is made again.
    pub rebuild: Rebuild,
    /// How long it may take.
    pub timeout: Seconds,
}

/// Makes or finds images.
pub trait Builder: Send + Sync {
    /// Makes the image of a source unless it is there, and whatever booting it needs.
    ///
    /// # Errors
    /// Why it cannot be made, `Unavailable` when it takes too long; the images there are stay as
    /// they are.
    fn ensure_image(
        &self,
        order: &BuildOrder,
        progress: &Arc<dyn Progress>,
    ) -> Result<ImageHash, Error>;
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
}
