//! The `Host` and `Vault` ports over the socket of `mvm-hostd`, and the door to a guest's agent.
//!
//! Connections are kept and used again, one request at a time each. It waits a moment for a daemon that
//! is being restarted, before anything was sent; what was sent and not answered is `Unavailable`, and
//! whoever asked asks again when it likes.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use mvm_core::{
    Error, ErrorKind,
    disk::{DiskUse, Room},
    effect::{Effect, Firewall},
    id::{ImageHash, InstanceRef, OperationId, PoolRef, RequestKey, Subject, TenantId},
    instance::Instance,
    meter::{Meter, Pressure},
    net::Network,
    observed::{ObservedInstance, ObservedNode, ObservedPool, ObservedStock, ObservedTenant},
    port::{
        BuildOrder, Builder, BuiltRoot, Console, Finding, Homes, Host, LogPlace, LogSource, Logs,
        PlacedRoot, Prepared, Progress, SecretsToSeal, Vault, Wanted,
    },
    secrets::SecretsSource,
    units::Generation,
};
use serde::de::DeserializeOwned;

use super::wire::{self, Ask, Build, MAX_ANSWER, Making};
use crate::vmm::socket::Deadline;

/// How long a daemon that is restarted is waited for.
const RESTART: Duration = Duration::from_secs(10);
/// Between two looks for it.
const INTERVAL: Duration = Duration::from_millis(20);
/// How many idle connections are kept.
const KEPT: usize = 16;

/// The privileged daemon of this host.
#[derive(Debug, Clone)]
pub struct HostdClient {
    shared: Arc<Shared>,
    operation: Option<OperationId>,
}

#[derive(Debug)]
struct Shared {
    socket: PathBuf,
    idle: Mutex<Vec<UnixStream>>,
}

impl HostdClient {
    /// The daemon behind this socket. Nothing is sent before the first question.
    #[must_use]
    pub fn at(socket: PathBuf) -> Self {
        Self { shared: Arc::new(Shared { socket, idle: Mutex::default() }), operation: None }
    }

    /// Where its socket is.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.shared.socket
    }

    /// Which version serves.
    ///
    /// # Errors
    /// `Unavailable` when nobody does, `Conflict` when it is another version than this.
    pub fn hello(&self) -> Result<String, Error> {
        let version: String = self.call(&Ask::Hello {})?;
        if version == env!("CARGO_PKG_VERSION") {
            return Ok(version);
        }
        Err(Error::new(ErrorKind::Conflict, format!("mvm-hostd is version {version}"))
            .hint("restart it: systemctl restart mvm-hostd"))
    }

    /// The VMM's pidfd and a connection to the socket of an instance's agent.
    pub(crate) fn guest(&self, instance: &InstanceRef) -> Result<(OwnedFd, UnixStream), Error> {
        let (_, files): ((), _) = self.ask(&Ask::Guest(instance.clone()))?;
        let mut files = files.into_iter();
        match (files.next(), files.next()) {
            (Some(vmm), Some(stream)) => {
                let stream = UnixStream::from(stream);
                stream.set_nonblocking(true).map_err(|error| broken(&error))?;
                Ok((vmm, stream))
            }
            _ => Err(broken(&io::Error::other("no connection came with the answer"))),
        }
    }

    fn call<T: DeserializeOwned>(&self, ask: &Ask) -> Result<T, Error> {
        self.ask(ask).map(|(answer, _)| answer)
    }

    fn ask<T: DeserializeOwned>(&self, ask: &Ask) -> Result<(T, Vec<OwnedFd>), Error> {
        let bytes = serde_json::to_vec(ask).map_err(|error| broken(&error.into()))?;
        let stream = self.connection(&bytes)?;
        let answer = wire::receive(&stream, MAX_ANSWER).map_err(|error| broken(&error))?;
        let (answer, files) = answer.ok_or_else(|| broken(&io::ErrorKind::UnexpectedEof.into()))?;
        let answer: Result<T, Error> =
            serde_json::from_slice(&answer).map_err(|error| broken(&error.into()))?;
        let mut idle = self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < KEPT {
            idle.push(stream);
        }
        drop(idle);
        Ok((answer?, files))
    }

    /// A connection on which the question was sent whole. One that was idle may be of a daemon that is
    /// gone; then nobody read the question.
    fn connection(&self, bytes: &[u8]) -> Result<UnixStream, Error> {
        let idle = || self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        while let Some(stream) = idle() {
            if is_quiet(&stream) && wire::send(&stream, bytes, &[]).is_ok() {
                return Ok(stream);
            }
        }
        let deadline = Deadline::after(RESTART);
        loop {
            match UnixStream::connect(&self.shared.socket) {
                Ok(stream) => {
                    wire::send(&stream, bytes, &[]).map_err(|error| broken(&error))?;
                    return Ok(stream);
                }
                Err(error) if is_restarting(&error) => match deadline.left() {
                    Ok(left) => thread::sleep(INTERVAL.min(left)),
                    Err(_) => return Err(self.absent(&error)),
                },
                Err(error) => return Err(self.absent(&error)),
            }
        }
    }

    fn absent(&self, error: &io::Error) -> Error {
        let kind = if error.kind() == io::ErrorKind::PermissionDenied {
            ErrorKind::Permission
        } else {
            ErrorKind::Unavailable
        };
        Error::new(kind, format!("nobody serves {}", self.socket().display()))
            .because(error)
            .hint("start the daemon: systemctl start mvm-hostd")
    }
}

/// Whether nothing came on an idle connection: not even its end.
fn is_quiet(stream: &UnixStream) -> bool {
    use std::os::fd::AsFd;
    let mut fds =
        [rustix::event::PollFd::from_borrowed_fd(stream.as_fd(), rustix::event::PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(rustix::event::poll(&mut fds, Some(&now)), Ok(0))
}

fn is_restarting(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

fn broken(error: &io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, "mvm-hostd did not answer").because(error)
}

fn elsewhere(what: &str) -> Error {
    Error::new(ErrorKind::Permission, format!("{what} needs root"))
        .hint("run the command with sudo")
}

impl Homes for HostdClient {
    fn ensure_home(&self, subject: &Subject) -> Result<(), Error> {
        self.call(&Ask::EnsureHome(subject.clone()))
    }
}

impl Host for HostdClient {
    fn for_operation(&self, operation: &OperationId) -> Option<Arc<dyn Host>> {
        Some(Arc::new(Self { operation: Some(operation.clone()), ..self.clone() }))
    }

    fn execute(&self, effect: &Effect) -> Result<(), Error> {
        let operation = self.operation.clone();
        self.call(&Ask::Execute { effect: Box::new(effect.clone()), operation })
    }

    fn observe_instance(&self, instance: &Instance) -> Result<ObservedInstance, Error> {
        self.call(&Ask::ObserveInstance(Box::new(instance.clone())))
    }

    fn observe_tenant(&self, network: &Network) -> Result<ObservedTenant, Error> {
        self.call(&Ask::ObserveTenant(network.clone()))
    }

    fn observe_pool(&self, pool: &PoolRef) -> Result<ObservedPool, Error> {
        self.call(&Ask::ObservePool(pool.clone()))
    }

    fn observe_stock(&self) -> Result<ObservedStock, Error> {
        self.call(&Ask::ObserveStock {})
    }

    fn weigh(&self, removals: &[Effect]) -> Result<Vec<u64>, Error> {
        self.call(&Ask::Weigh(removals.to_vec()))
    }

    fn observe_node(&self) -> Result<ObservedNode, Error> {
        self.call(&Ask::ObserveNode {})
    }

    fn room(&self) -> Result<Room, Error> {
        self.call(&Ask::Room {})
    }

    fn disk_use(&self) -> Result<DiskUse, Error> {
        self.call(&Ask::DiskUse {})
    }

    fn verify_network(&self, intent: &Firewall) -> Result<Vec<Finding>, Error> {
        self.call(&Ask::VerifyNetwork(Box::new(intent.clone())))
    }

    fn meter(&self, instance: &Instance) -> Result<Meter, Error> {
        self.call(&Ask::Meter(Box::new(instance.clone())))
    }

    fn pressure(&self) -> Result<Pressure, Error> {
        self.call(&Ask::Pressure {})
    }

    fn wanted(&self) -> Result<Vec<Wanted>, Error> {
        self.call(&Ask::Wanted {})
    }

    fn console(&self, instance: &InstanceRef) -> Result<Console, Error> {
        let (_, files): ((), _) = self.ask(&Ask::Console(instance.clone()))?;
        let stream = files.into_iter().next().map(UnixStream::from);
        let stream = stream.ok_or_else(|| broken(&io::Error::other("no console came")))?;
        let input = stream.try_clone().map_err(|error| broken(&error))?;
        Ok(Console { input: Box::new(input), output: Box::new(stream) })
    }

    fn logs(&self, instance: &InstanceRef, lines: usize) -> Result<Logs, Error> {
        self.call(&Ask::Logs { instance: instance.clone(), lines })
    }

    fn logs_after(
        &self,
        instance: &InstanceRef,
        source: LogSource,
        from: Option<LogPlace>,
    ) -> Result<(Vec<u8>, LogPlace), Error> {
        let from = from.map(|LogPlace { file, offset }| (file, offset));
        let (text, (file, offset)): (Vec<u8>, (u64, u64)) =
            self.call(&Ask::LogsAfter { instance: instance.clone(), source, from })?;
        Ok((text, LogPlace { file, offset }))
    }
}

/// What can be known of secrets without root: their names. A source is a path or a variable of whoever
/// asks, which a daemon with root must not read for him.
impl Vault for HostdClient {
    fn check(&self, _: &SecretsSource) -> Result<u32, Error> {
        Err(elsewhere("reading secrets"))
    }

    fn seal(&self, _: &SecretsToSeal<'_>) -> Result<u32, Error> {
        Err(elsewhere("sealing secrets"))
    }

    fn differs(&self, _: &SecretsToSeal<'_>) -> Result<bool, Error> {
        Err(elsewhere("comparing secrets"))
    }

    fn keys(&self, tenant: &TenantId, epoch: Generation) -> Result<Vec<String>, Error> {
        self.call(&Ask::SecretKeys { tenant: tenant.clone(), epoch })
    }
}

impl HostdClient {
    fn make(&self, making: Making) -> Result<Option<Prepared>, Error> {
        self.call(&Ask::Build(Box::new(making)))
    }
}

fn no_image() -> Error {
    broken(&io::Error::other("it made no image"))
}

/// Images are made by the daemon: what guests boot from is root's.
impl Builder for HostdClient {
    fn ensure_image(
        &self,
        order: &BuildOrder,
        _progress: &Arc<dyn Progress>,
    ) -> Result<Prepared, Error> {
        let BuildOrder { source, profile, role, rebuild, timeout } = order.clone();
        self.make(Making::Ensure(Build { source, profile, role, rebuild, timeout }))?
            .ok_or_else(no_image)
    }

    fn find_image(&self, request: &RequestKey) -> Result<Option<ImageHash>, Error> {
        Ok(self.make(Making::Find(request.clone()))?.map(|found| found.image))
    }

    fn place_root(&self, root: &PlacedRoot) -> Result<(), Error> {
        self.make(Making::Place(root.clone())).map(drop)
    }

    fn import_root(
        &self,
        root: &BuiltRoot,
        _progress: &Arc<dyn Progress>,
    ) -> Result<ImageHash, Error> {
        Ok(self.make(Making::Import(root.clone()))?.ok_or_else(no_image)?.image)
    }
}
