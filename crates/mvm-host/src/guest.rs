//! The agent in a guest, over the Unix socket of Firecracker's vsock device.
//!
//! One connection per act: `CONNECT 5252`, hello, its requests. Every wait ends at the act's bound
//! or at once when the VMM dies. It refuses to know why something is asked, and never asks twice.
//!
//! - `link` — a session over a socket, with a deadline and an eye on the VMM.
//! - `exec` — a command with its streams; `copy` — tar streams, and the guest's figures.
//! - `probe` — what a guest can reach.

mod copy;
mod exec;
mod link;
mod probe;

use std::{
    io::{Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::Arc,
    time::{Duration, Instant},
};

use mvm_core::{
    Error, ErrorKind,
    effect::Jail,
    id::{InstanceRef, OperationId},
    meter::{CopyReport, GuestMetrics},
    pool::Role,
    port::{
        ExecRequest, ExecStatus, ExecStreams, Guest, GuestAct, GuestAnswer, IntegrationFailure,
        ProbeOutcome, ProbeTarget,
    },
    route::Routes,
    units::{Generation, Seconds},
};
use mvm_proto::{
    Entropy, Event, Failure, FailureKind, NetworkIdentity, Reply, Request, StreamId,
    config::{DATA_LABEL, SECRETS_LABEL},
    message::{AttachDrive, Configure, Ready, Wake},
};
use mvm_shim::identity::Process;

use self::link::{Link, Lost, Mine};
use crate::{
    disk::volume::LABEL,
    ipc::client::HostdClient,
    roots::Roots,
    vmm::{config, fault::Act, place::Place, socket::Deadline},
};

/// How long the processes and file systems of a guest may take to freeze.
const FREEZE: Duration = Duration::from_secs(5);
/// How long a request may take that needs no waiting inside the guest.
const PROMPT: Duration = Duration::from_secs(15);
/// How long a woken guest may take, each of whose pages may have to come from a disk.
const WAKE: Duration = Duration::from_secs(45);
/// How long a gateway may take to hear of a change, and a guest to say what it does: whoever waits
/// for it works on something else.
const ASIDE: Duration = Duration::from_secs(2);
/// From when on a time of day is old: it shall be right within a second (SPEC §8).
const OLD: Duration = Duration::from_millis(500);
/// How often a guest is told it at most.
const TELLINGS: u32 = 3;
/// What the guest's own bound is exceeded by before it counts as silent.
const MARGIN: Duration = Duration::from_secs(3);

/// How a guest's socket is reached.
#[derive(Debug, Clone)]
enum Door {
    /// Below these roots.
    Here(Roots),
    /// Through the daemon that may open it.
    Daemon(HostdClient),
}

impl Door {
    fn knock(
        &self,
        instance: &InstanceRef,
        deadline: Deadline,
    ) -> Result<(Process, UnixStream), Lost> {
        match self {
            Self::Here(roots) => link::knock(&Place::of(roots, &instance.instance), deadline),
            Self::Daemon(daemon) => match daemon.guest(instance) {
                Ok((vmm, stream)) => Ok((Process::from_pidfd(vmm), stream)),
                Err(error) if error.kind == ErrorKind::NotFound => Err(Lost::Vmm),
                Err(error) if error.kind == ErrorKind::Unavailable => {
                    Err(Lost::HungUp(error.to_string()))
                }
                Err(error) => Err(Lost::Host(error)),
            },
        }
    }
}

/// Opens the socket of an instance's agent for somebody else: the VMM's pidfd, and a connection on which
/// nothing was said yet.
///
/// # Errors
/// `NotFound` when there is no VMM, `Unavailable` when nobody listens yet.
pub(crate) fn knock(place: &Place, deadline: Deadline) -> Result<(OwnedFd, UnixStream), Error> {
    let unavailable = |why: String| Error::new(ErrorKind::Unavailable, why);
    match link::knock(place, deadline) {
        Ok((vmm, stream)) => Ok((vmm.into_pidfd(), stream)),
        Err(Lost::Vmm) => {
            Err(Error::new(ErrorKind::NotFound, format!("{} has no VMM", place.instance)))
        }
        Err(Lost::Silent) => Err(unavailable(format!("{} is silent", place.instance))),
        Err(Lost::HungUp(why)) => Err(unavailable(why)),
        Err(Lost::Host(error)) => Err(error),
    }
}

/// The guests of this host.
#[derive(Debug, Clone)]
pub struct VsockGuest {
    door: Door,
    operation: Option<OperationId>,
}

impl VsockGuest {
    /// The guests of the host with these roots.
    #[must_use]
    pub const fn new(roots: Roots) -> Self {
        Self { door: Door::Here(roots), operation: None }
    }

    /// The guests of a host that only a daemon may touch.
    #[must_use]
    pub const fn through(daemon: HostdClient) -> Self {
        Self { door: Door::Daemon(daemon), operation: None }
    }

    /// Connects to the agent of an instance, in the name of the operation that asks.
    fn link(&self, instance: &InstanceRef, deadline: Deadline) -> Result<Link, Lost> {
        Link::open(&self.door, instance, self.operation.as_ref(), deadline)
    }

    /// Makes the requests one after another, while they are done.
    fn request<const N: usize>(
        &self,
        instance: &InstanceRef,
        requests: [Request; N],
        bound: Duration,
    ) -> Result<GuestAnswer, Error> {
        let answer = self.link(instance, Deadline::after(bound)).and_then(|mut link| {
            for request in requests {
                match ask(&mut link, request)? {
                    GuestAnswer::Done => tracing::debug!(%instance, "the guest did it"),
                    other @ (GuestAnswer::Refused(_)
                    | GuestAnswer::Silent
                    | GuestAnswer::Partly(_)) => return Ok(other),
                }
            }
            Ok(GuestAnswer::Done)
        });
        settle(instance, answer)
    }
}

impl Guest for VsockGuest {
    fn for_operation(&self, operation: &OperationId) -> Option<Arc<dyn Guest>> {
        Some(Arc::new(Self { operation: Some(operation.clone()), ..self.clone() }))
    }

    fn probe(
        &self,
        instance: &InstanceRef,
        targets: &[ProbeTarget],
        timeout: Duration,
    ) -> Result<Vec<ProbeOutcome>, Error> {
        let link = self.link(instance, probe::deadline(targets, timeout));
        probe::run(link, instance, targets, timeout)
    }

    fn ask(&self, instance: &InstanceRef, act: &GuestAct) -> Result<GuestAnswer, Error> {
        match act {
            GuestAct::Await { timeout } => {
                let link = self.link(instance, Deadline::after(timeout.duration()));
                settle(instance, link.map(|_| GuestAnswer::Done))
            }
            GuestAct::Configure { jail, generation, timeout } => {
                let word = || wake(None, *generation, Generation(0));
                let configure = Request::Configure(Box::new(configure(jail)?));
                self.wake(instance, word, &configure, timeout.duration() + PROMPT)
            }
            GuestAct::Drain { timeout } => {
                let request = Request::SleepPrep { drain_timeout_secs: timeout.0 };
                self.request(instance, [request], timeout.duration() + MARGIN)
            }
            GuestAct::Checkpoint { integrations, timeout } => {
                let integrations = config::integrations(integrations);
                let request = Request::Checkpoint { integrations, timeout_secs: timeout.0 };
                self.request(instance, [request], timeout.duration() + MARGIN)
            }
            GuestAct::Restore { integrations, timeout } => {
                let integrations = config::integrations(integrations);
                let request = Request::Restore { integrations, timeout_secs: timeout.0 };
                self.request(instance, [request], timeout.duration() + MARGIN)
            }
            GuestAct::Routes(routes) => {
                let request = Request::Routes(Box::new(config::routes(routes)));
                self.request(instance, [request], ASIDE)
            }
            GuestAct::Quiesce => {
                let timeout_ms = u32::try_from(FREEZE.as_millis()).unwrap_or(u32::MAX);
                let request = Request::Quiesce { workload: true, filesystems: true, timeout_ms };
                self.request(instance, [request], FREEZE + MARGIN)
            }
            GuestAct::Wake { network, offset, generation, secrets } => {
                let network = config::network(network, *offset)?;
                let word = || wake(Some(network.clone()), *generation, *secrets);
                self.wake(instance, word, &Request::Thaw {}, WAKE)
            }
            GuestAct::RefreshSecrets { epoch } => {
                self.request(instance, [Request::SecretsRefresh { epoch: epoch.0 }], PROMPT)
            }
            GuestAct::Ready { address, readiness, timeout } => {
                let timeout_ms = timeout.0.saturating_mul(1000);
                let readiness = readiness.as_ref().map(config::readiness);
                let ready = Ready { address: (*address).into(), readiness, timeout_ms };
                self.request(instance, [Request::Ready(ready)], timeout.duration() + MARGIN)
            }
            GuestAct::Thaw => self.request(instance, [Request::Thaw {}], PROMPT),
            GuestAct::Resize => {
                let label = LABEL.to_owned();
                self.request(instance, [Request::Resize { label }], PROMPT)
            }
            GuestAct::Shutdown { grace } => self.shut_down(instance, *grace),
        }
    }

    fn metrics(&self, instance: &InstanceRef) -> Result<Option<GuestMetrics>, Error> {
        match self.link(instance, Deadline::after(copy::FIGURES)).and_then(copy::figures) {
            Ok(metrics) => Ok(Some(metrics)),
            Err(Lost::Silent | Lost::Vmm | Lost::HungUp(_)) => Ok(None),
            Err(Lost::Host(error)) => Err(error),
        }
    }

    fn copy_in(
        &self,
        instance: &InstanceRef,
        path: &str,
        stream: &mut dyn Read,
    ) -> Result<CopyReport, Error> {
        copy::copy_in(self.prompt(instance)?, &instance.to_string(), path, stream)
    }

    fn copy_out(
        &self,
        instance: &InstanceRef,
        path: &str,
        to: &mut dyn Write,
    ) -> Result<CopyReport, Error> {
        copy::copy_out(self.prompt(instance)?, &instance.to_string(), path, to)
    }

    fn exec(
        &self,
        instance: &InstanceRef,
        request: &ExecRequest,
        streams: ExecStreams,
    ) -> Result<ExecStatus, Error> {
        exec::run(self.prompt(instance)?, &instance.to_string(), request, streams)
    }
}

impl VsockGuest {
    /// Tells a guest the present, and then lets its workload run.
    ///
    /// A guest that runs again resets the connections that it had when it was written, and one that came
    /// too early with them: that one is made again.
    fn wake(
        &self,
        instance: &InstanceRef,
        word: impl Fn() -> Result<Wake, Error>,
        then: &Request,
        bound: Duration,
    ) -> Result<GuestAnswer, Error> {
        let deadline = Deadline::after(bound);
        loop {
            let told = self.link(instance, deadline);
            match told.and_then(|mut link| tell_present(&mut link, &word, then)) {
                Err(Lost::HungUp(why)) if deadline.left().is_ok() => {
                    tracing::debug!(%instance, why, "hung up at its wake");
                }
                told => return settle(instance, told),
            }
        }
    }

    /// A session for an act of a person, who is told when there is none.
    fn prompt(&self, instance: &InstanceRef) -> Result<Link, Error> {
        self.link(instance, Deadline::after(PROMPT))
            .map_err(|lost| lost.error(&instance.to_string(), "no agent answers in it"))
    }

    /// Done when the VMM is gone, however it went: that is what was asked for.
    fn shut_down(&self, instance: &InstanceRef, grace: Seconds) -> Result<GuestAnswer, Error> {
        let deadline = Deadline::after(grace.duration() + MARGIN);
        let mut link = match self.link(instance, deadline) {
            Ok(link) => link,
            Err(Lost::Vmm) => return Ok(GuestAnswer::Done),
            Err(lost) => return settle(instance, Err(lost)),
        };
        match ask(&mut link, Request::Shutdown { grace_secs: grace.0 }) {
            Ok(GuestAnswer::Refused(reason)) => Ok(GuestAnswer::Refused(reason)),
            // The connection may break before the answer is through.
            Ok(_) | Err(Lost::HungUp(_)) => match link.await_end() {
                Lost::Vmm => Ok(GuestAnswer::Done),
                lost @ (Lost::Silent | Lost::HungUp(_) | Lost::Host(_)) => {
                    settle(instance, Err(lost))
                }
            },
            Err(Lost::Vmm) => Ok(GuestAnswer::Done),
            Err(lost) => settle(instance, Err(lost)),
        }
    }
}

/// The word and what follows it. A guest that was loaded just now may take long to hear, for each page
/// that it needs for that comes from a file: what it was told is old then, and it is told again, which
/// touches nothing new.
fn tell_present(
    link: &mut Link,
    word: impl Fn() -> Result<Wake, Error>,
    then: &Request,
) -> Result<GuestAnswer, Lost> {
    for _ in 0..TELLINGS {
        let word = Request::Wake(word().map_err(Lost::Host)?);
        let told = Instant::now();
        let answer = ask(link, word)?;
        tracing::debug!("the guest answers its first word");
        match answer {
            GuestAnswer::Done if told.elapsed() < OLD => break,
            GuestAnswer::Done => {}
            other @ (GuestAnswer::Refused(_) | GuestAnswer::Silent | GuestAnswer::Partly(_)) => {
                return Ok(other);
            }
        }
    }
    ask(link, then.clone())
}

fn ask(link: &mut Link, request: Request) -> Result<GuestAnswer, Lost> {
    let stream = link.begin(request)?;
    loop {
        if let Some(answer) = answer(link.next_event()?, stream) {
            return Ok(answer);
        }
    }
}

/// What an event says about a request that has one answer.
fn answer(event: Event, stream: StreamId) -> Option<GuestAnswer> {
    match Mine::of(event, stream)? {
        Mine::Reply(reply) => Some(match reply {
            Reply::Ack { success: false, detail } => GuestAnswer::Refused(detail),
            Reply::Integrations { success: false, failed } => {
                GuestAnswer::Partly(failed.into_iter().map(failure_of).collect())
            }
            Reply::Ack { .. }
            | Reply::Pong {}
            | Reply::Status(_)
            | Reply::Integrations { success: true, .. }
            | Reply::IntegrationStatus { .. }
            | Reply::Started { .. }
            | Reply::Exit(_)
            | Reply::Copied { .. }
            | Reply::Probe { .. }
            | Reply::Metrics(_) => GuestAnswer::Done,
        }),
        Mine::Failed(failure) => Some(failed(failure)),
        Mine::Ended => {
            Some(GuestAnswer::Refused("the agent ended the request without an answer".to_owned()))
        }
    }
}

fn failure_of(failure: mvm_proto::message::IntegrationFailure) -> IntegrationFailure {
    IntegrationFailure { name: failure.name, detail: failure.detail }
}

/// A guest whose own bound was too short has not answered; any other failure is a refusal.
fn failed(failure: Failure) -> GuestAnswer {
    match failure.kind {
        FailureKind::Timeout => GuestAnswer::Silent,
        FailureKind::Unsupported
        | FailureKind::Invalid
        | FailureKind::NotFound
        | FailureKind::NotExecutable
        | FailureKind::Denied
        | FailureKind::Busy
        | FailureKind::Failed
        | FailureKind::Unknown => GuestAnswer::Refused(failure.message),
    }
}

fn settle(instance: &InstanceRef, answer: Result<GuestAnswer, Lost>) -> Result<GuestAnswer, Error> {
    match answer {
        Err(Lost::Silent) => Ok(GuestAnswer::Silent),
        answer => answer.map_err(|lost| lost.error(&instance.to_string(), "its agent is lost")),
    }
}

/// Who a guest is, and the drives that it has.
fn configure(jail: &Jail) -> Result<Configure, Error> {
    let drive = |label: &str| AttachDrive { label: label.to_owned(), path: None, read_only: false };
    let data = (jail.resources.data_disk_mib.0 > 0).then(|| drive(DATA_LABEL));
    // A drive without secrets needs no reading.
    let secrets = (jail.secrets.epoch > Generation(0)).then(|| drive(SECRETS_LABEL));
    let table = jail.identity.routing_table.as_ref().map_or_else(Routes::default, Routes::alone);
    let routes = match jail.identity.role {
        Role::Gateway => Some(serde_json::to_string(&config::routes(&table)).map_err(|error| {
            Error::new(ErrorKind::Failed, "cannot encode a gateway's routes").because(&error)
        })?),
        Role::Builder | Role::Worker | Role::Capability(_) => None,
    };
    Ok(Configure {
        config: config::of(jail, jail.secrets.epoch)?,
        machine_id: Some(machine_id(&jail.instance)),
        routes,
        drives: secrets.into_iter().chain(data).collect(),
    })
}

/// The same for an instance's whole life, and nobody else's: 128 bits of a hash of its address.
fn machine_id(instance: &InstanceRef) -> String {
    let text = format!("mvm machine id of {instance}");
    let hash = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    hex::encode(hash.as_ref().get(..16).unwrap_or_default())
}

fn wake(
    network: Option<NetworkIdentity>,
    generation: u64,
    secrets: Generation,
) -> Result<Wake, Error> {
    let mut entropy = Entropy([0; Entropy::LENGTH]);
    getrandom::fill(&mut entropy.0)
        .map_err(|error| std::io::Error::other(error.to_string()))
        .act("draw entropy for a guest")?;
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let clock = since.map_err(|error| {
        Error::new(ErrorKind::Failed, "this host's clock stands before 1970").because(&error)
    })?;
    Ok(Wake {
        wall_clock_ns: u64::try_from(clock.as_nanos()).unwrap_or(u64::MAX),
        entropy,
        network,
        secrets_epoch: secrets.0,
        generation,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_carries_the_guests_reason_and_its_timeout_is_silence() {
        let reply = |reply| answer(Event::Reply { stream: 1, reply }, 1);
        let refused = Reply::Ack { success: false, detail: "db is busy".to_owned() };
        assert_eq!(reply(refused), Some(GuestAnswer::Refused("db is busy".to_owned())));
        let done = Reply::Ack { success: true, detail: String::new() };
        assert_eq!(reply(done.clone()), Some(GuestAnswer::Done));
        assert_eq!(answer(Event::Reply { stream: 3, reply: done }, 1), None);
        let failure = Failure::new(FailureKind::Timeout, "late");
        assert_eq!(answer(Event::Failed { stream: 1, failure }, 1), Some(GuestAnswer::Silent));
    }
}
