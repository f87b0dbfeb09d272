//! Serving: who calls, and one thread a connection.
//!
//! The kernel says who is at the other end (`SO_PEERCRED`, taken when the connection was made). Each
//! question is answered before the next one is read. A frame that makes no sense ends its connection and
//! nothing else; who has too many connections is hung up on.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use mvm_core::{
    Error, ErrorKind,
    port::{Builder, BuiltRoot, Homes, Host, LogPlace, PlacedRoot, Progress, ProgressStep, Vault},
};
use serde::Serialize;

use super::{
    admitted::AdmittedHost,
    home::Keeper,
    scope::{Grants, Scope},
    wire::{self, Ask, MAX_REQUEST, Making},
};
use crate::{
    guest, local::LocalHost, roots::Roots, secrets::LocalVault, vmm::console, vmm::place::Place,
    vmm::socket::Deadline,
};

/// How many connections of root and the agent are served at once.
const CONNECTIONS: usize = 128;
/// How many of all others: they shall keep nobody waiting.
const OTHERS: usize = 32;
/// How long connecting to an agent's socket may take.
const CONNECT: Duration = Duration::from_millis(500);
/// How long a client may take to send what it began, or to read what it asked for.
const PATIENCE: Duration = Duration::from_secs(30);

/// What serves.
pub struct Server {
    host: LocalHost,
    keeper: Keeper,
    grants: Grants,
    builder: Box<dyn Builder>,
    busy: AtomicUsize,
}

/// An answer with the open files that it brings.
type Answer = Result<(Vec<u8>, Vec<OwnedFd>), Error>;

impl Server {
    /// A server of this host for this agent, and for those whom the file grants something.
    #[must_use]
    pub fn new(
        host: LocalHost,
        keeper: Keeper,
        grants: PathBuf,
        builder: Box<dyn Builder>,
    ) -> Self {
        Self { host, keeper, grants: Grants::of(grants), builder, busy: AtomicUsize::new(0) }
    }

    /// Serves until `is_over` says so, at a connection or every quarter of a second; then lets those that
    /// are being served finish what they do.
    pub fn serve(self: &Arc<Self>, listener: &UnixListener, is_over: impl Fn() -> bool) {
        let (own, others) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        while !is_over() {
            if !comes(listener) {
                continue;
            }
            let Ok((stream, _)) = listener.accept() else { continue };
            let Some(scope) = self.scope(&stream) else { continue };
            let (serving, most) = match scope {
                Scope::Root | Scope::Node => (own.clone(), CONNECTIONS),
                Scope::Tenants(_) => (others.clone(), OTHERS),
            };
            if serving.load(Ordering::Acquire) >= most {
                // Who is hung up on tries again.
                tracing::warn!(most, "too many connections");
                continue;
            }
            let server = self.clone();
            serving.fetch_add(1, Ordering::AcqRel);
            thread::spawn(move || {
                server.attend(&stream, scope);
                serving.fetch_sub(1, Ordering::AcqRel);
            });
        }
        let patience = Deadline::after(PATIENCE);
        while self.busy.load(Ordering::Acquire) > 0 {
            let Ok(left) = patience.left() else { break };
            thread::sleep(left.min(Duration::from_millis(5)));
        }
    }

    /// Who is at the other end, as the kernel says.
    fn scope(&self, stream: &UnixStream) -> Option<Scope> {
        match rustix::net::sockopt::socket_peercred(stream) {
            Ok(peer) => Some(Scope::of(peer.uid.as_raw(), self.keeper.uid, &self.grants.read())),
            Err(error) => {
                tracing::warn!(%error, "a caller without credentials");
                None
            }
        }
    }

    /// Answers one connection until it ends.
    fn attend(&self, stream: &UnixStream, scope: Scope) {
        let caller = Caller { server: self, host: AdmittedHost::new(self.host.clone(), scope) };
        // A write that nobody reads must not hold a thread for ever; waiting for a question may.
        let _ = stream.set_write_timeout(Some(PATIENCE));
        loop {
            match wire::receive(stream, MAX_REQUEST) {
                Ok(None) => return,
                Ok(Some((bytes, _))) => {
                    self.busy.fetch_add(1, Ordering::AcqRel);
                    let replied = caller.reply(stream, &bytes);
                    self.busy.fetch_sub(1, Ordering::AcqRel);
                    if let Err(error) = replied {
                        tracing::debug!(%error, "a caller is gone");
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "a caller makes no sense");
                    return;
                }
            }
        }
    }
}

fn comes(listener: &UnixListener) -> bool {
    let flags = rustix::event::PollFlags::IN;
    Deadline::after(Duration::from_millis(250)).poll([(listener.as_fd(), flags)]).is_ok()
}

/// One caller and what it may do.
struct Caller<'a> {
    server: &'a Server,
    host: AdmittedHost,
}

impl Caller<'_> {
    fn reply(&self, stream: &UnixStream, bytes: &[u8]) -> io::Result<()> {
        let answer = match serde_json::from_slice::<Ask>(bytes) {
            Ok(ask) => self.answer(ask),
            Err(error) => {
                Err(Error::new(ErrorKind::Invalid, "the question makes no sense").because(&error))
            }
        };
        let (bytes, files) = match answer {
            Ok(answer) => answer,
            Err(error) => {
                if error.kind == ErrorKind::Permission {
                    tracing::warn!(%error, "refused");
                }
                (serde_json::to_vec(&Err::<(), _>(error))?, Vec::new())
            }
        };
        let files: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
        wire::send(stream, &bytes, &files)
    }

    fn answer(&self, ask: Ask) -> Answer {
        let host = &self.host;
        match ask {
            Ask::Hello {} => said(Ok(env!("CARGO_PKG_VERSION"))),
            Ask::Execute { effect, operation } => {
                let named = operation.and_then(|operation| host.for_operation(&operation));
                said(named.as_deref().unwrap_or(host).execute(&effect))
            }
            Ask::EnsureHome(subject) => said(host.ensure_home(&subject)),
            Ask::ObserveInstance(instance) => said(host.observe_instance(&instance)),
            Ask::ObserveTenant(network) => said(host.observe_tenant(&network)),
            Ask::ObservePool(pool) => said(host.observe_pool(&pool)),
            Ask::ObserveStock {} => said(host.observe_stock()),
            Ask::ObserveNode {} => said(host.observe_node()),
            Ask::Weigh(removals) => said(host.weigh(&removals)),
            Ask::Room {} => said(host.room()),
            Ask::DiskUse {} => said(host.disk_use()),
            Ask::VerifyNetwork(intent) => said(host.verify_network(&intent)),
            Ask::Meter(instance) => said(host.meter(&instance)),
            Ask::Wanted {} => said(host.wanted()),
            Ask::Pressure {} => said(host.pressure()),
            Ask::Logs { instance, lines } => said(host.logs(&instance, lines)),
            Ask::LogsAfter { instance, source, from } => {
                let from = from.map(|(file, offset)| LogPlace { file, offset });
                let found = host.logs_after(&instance, source, from);
                said(found.map(|(text, place)| (text, (place.file, place.offset))))
            }
            Ask::Console(instance) => {
                host.admit_instance(&instance)?;
                let stream = console::connect(self.roots(), &instance)?;
                with(vec![stream.into()])
            }
            Ask::Guest(instance) => {
                host.admit_instance(&instance)?;
                let place = Place::of(self.roots(), &instance.instance);
                let (vmm, stream) = guest::knock(&place, Deadline::after(CONNECT))?;
                with(vec![vmm, stream.into()])
            }
            Ask::SecretKeys { tenant, epoch } => {
                host.admit(Some(&tenant))?;
                said(LocalVault::new(self.roots().clone(), |_| None).keys(&tenant, epoch))
            }
            Ask::Build(making) => {
                match &*making {
                    Making::Ensure(_) | Making::Find(_) => host.admit(None)?,
                    Making::Place(PlacedRoot { instance, .. })
                    | Making::Import(BuiltRoot { instance, .. }) => {
                        host.admit_instance(instance)?
                    }
                }
                let quiet: Arc<dyn Progress> = Arc::new(Quiet);
                said(making.by(&*self.server.builder, &quiet))
            }
        }
    }

    const fn roots(&self) -> &Roots {
        self.server.host.roots()
    }
}

/// Nobody watches.
struct Quiet;

impl Progress for Quiet {
    fn report(&self, step: &ProgressStep) {
        tracing::debug!(subject = step.subject, activity = step.activity, "building");
    }
}

fn said<T: Serialize>(answer: Result<T, Error>) -> Answer {
    with_value(&answer?, Vec::new())
}

fn with(files: Vec<OwnedFd>) -> Answer {
    with_value(&(), files)
}

fn with_value<T: Serialize>(value: &T, files: Vec<OwnedFd>) -> Answer {
    match serde_json::to_vec(&Ok::<_, Error>(value)) {
        Ok(bytes) => Ok((bytes, files)),
        Err(error) => {
            Err(Error::new(ErrorKind::Failed, "the answer cannot be sent").because(&error))
        }
    }
}
