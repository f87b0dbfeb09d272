//! The node's side of the API: answers what is asked from afar over this machine's engine.
//!
//! A pushed state is stored and noted here; the agent's loop brings it about. What moves an instance is done
//! at once, in the name of the caller's certificate: whoever may ask for it counts as a person. A certificate
//! and a list of revoked ones that come from afar are in use before the answer goes out. It refuses to know
//! connections.

mod enrolling;

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use mvm_core::{
    api::{
        Answer, InstanceRow, Moved, NodeFigures, NodeInfo, Page, PageOf, Pass, Refusal, Request,
        Role, TenantRow,
    },
    error::{Error, ErrorKind},
    event::Actor,
    id::{InstanceRef, TenantId},
    instance::Drain,
    signed::Envelope,
    state::Move,
};
use mvm_engine::{
    Context, Outcome,
    engine::Trust,
    query::{Filter, InstanceView, TenantView},
};
use mvm_fleet::{
    certs::{
        self as certificates, Identity,
        enroll::{self, Waiting},
    },
    keys,
    rpc::{Caller, Face, Joining, Node, Server},
};

use super::{Listen, TlsFiles, now};
use crate::{Mvm, new_operation};

/// How often the certificate is looked at.
const CERTIFICATE_LOOK: Duration = Duration::from_secs(60);
/// Failures of a pass that are told from afar, and how long one may be.
const FAILURES_TOLD: usize = 100;
const FAILURE_LENGTH: usize = 500;
/// Bytes of events in a page.
const EVENTS_SIZE: usize = 768 << 10;

/// The API of this node while the agent serves.
pub(crate) struct Api {
    server: Server,
    behind: Arc<Behind>,
    looked: Mutex<Instant>,
}

/// As whom a node listens.
enum Shown {
    /// As one of a fleet.
    Node(Box<Identity>),
    /// As one that waits for its approval.
    Waiting(Box<Waiting>),
}

/// What answers.
struct Behind {
    mvm: Mvm,
    tls: TlsFiles,
    face: OnceLock<Face>,
    refused: AtomicU32,
    follows_file: bool,
    changed: AtomicBool,
    pass: Mutex<Option<Pass>>,
}

impl Api {
    /// Listens, if this node is ready to be asked.
    ///
    /// # Errors
    /// `NotFound` or `Permission` when something of what it trusts is missing or open to others, with what
    /// to do; `Unavailable` when the address is taken.
    pub(crate) fn start(mvm: &Mvm, listen: &Listen, follows_file: bool) -> Result<Self, Error> {
        let shown = shown(mvm, &listen.tls)?;
        let behind = Arc::new(Behind {
            mvm: mvm.for_operation(new_operation()),
            tls: listen.tls.clone(),
            face: OnceLock::new(),
            refused: AtomicU32::new(0),
            follows_file,
            changed: AtomicBool::new(false),
            pass: Mutex::new(None),
        });
        let node: Arc<dyn Node> = Arc::<Behind>::clone(&behind);
        let server = match shown {
            Shown::Node(identity) => Server::start(listen.address, &identity, node)?,
            Shown::Waiting(waiting) => {
                tracing::info!(until = %waiting.token.expires.rfc3339(), "waits for approval");
                let joining: Arc<dyn Joining> = Arc::<Behind>::clone(&behind);
                Server::wait(listen.address, *waiting, joining, node)?
            }
        };
        behind.face.get_or_init(|| server.face());
        tracing::info!(address = %server.address(), "the API listens");
        Ok(Self { server, behind, looked: Mutex::new(Instant::now()) })
    }

    /// Whether another state was accepted since this was asked last.
    pub(crate) fn take_changed(&self) -> bool {
        self.behind.changed.swap(false, Ordering::AcqRel)
    }

    /// Notes how a pass ended, for who asks.
    pub(crate) fn note(&self, done: &Result<Outcome, Error>) {
        let failures = match done {
            Ok(outcome) => {
                let failed = outcome.failures.iter().take(FAILURES_TOLD);
                failed.map(|one| short(&format!("{}: {}", one.subject, one.error))).collect()
            }
            Err(error) => vec![short(&error.to_string())],
        };
        let pass = Pass { ended_at: now(), failures };
        *self.behind.pass.lock().unwrap_or_else(PoisonError::into_inner) = Some(pass);
    }

    /// Renews the certificate when it is due, and shows one that was renewed by a command.
    pub(crate) fn tend(&self) {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.elapsed() < CERTIFICATE_LOOK {
            return;
        }
        *looked = Instant::now();
        let Behind { mvm, tls, .. } = &*self.behind;
        let facts = certificates::status(&mvm.certs(), now()).unwrap_or_default();
        let is_due = facts.iter().any(|one| one.role == Some(Role::Node) && one.is_due);
        let shown = mvm.identity(Role::Node, tls);
        if shown.is_err() && self.server.face().is_waiting() {
            return;
        }
        if let Err(error) = shown.and_then(|identity| self.server.show(&identity)) {
            tracing::warn!(%error, "the certificate cannot be renewed");
        } else if is_due {
            tracing::info!(
                "half the certificate's life is over: it is renewed where its authority is"
            );
        }
    }
}

impl Mvm {
    /// Whether this node is ready to be asked from afar.
    ///
    /// # Errors
    /// Why it is not, with what to do.
    pub fn can_listen(&self, tls: &TlsFiles) -> Result<(), Error> {
        shown(self, tls).map(drop)
    }
}

/// As whom a node listens, if something is in order of what it trusts and shows.
fn shown(mvm: &Mvm, tls: &TlsFiles) -> Result<Shown, Error> {
    let trusted = keys::trusted(&mvm.trusted_keys())?;
    if trusted.keys.is_empty() && mvm.production {
        let message = format!("no signer is trusted: {} has no key", mvm.trusted_keys().display());
        let error = Error::new(ErrorKind::Permission, message)
            .hint("in production nothing unsigned is accepted")
            .hint("trust the coordinator: mvm add host --signing-key FILE.pub");
        let skipped = trusted.skipped.iter();
        return Err(skipped.fold(error, |error, (file, why)| error.hint(format!("{file}: {why}"))));
    }
    let identity = match mvm.identity(Role::Node, tls) {
        Ok(identity) => identity,
        Err(error) => return waiting(mvm, tls, error),
    };
    if identity.facts.role != Some(Role::Node) {
        let message = format!("the certificate of {} is not a node's", identity.facts.name);
        return Err(Error::new(ErrorKind::Invalid, message)
            .hint("make one: mvm agent certs init --role node"));
    }
    Ok(Shown::Node(Box::new(identity)))
}

/// A node without a certificate listens only when it was given a token.
fn waiting(mvm: &Mvm, tls: &TlsFiles, error: Error) -> Result<Shown, Error> {
    let is_usual = *tls == TlsFiles::default();
    if !is_usual || !matches!(error.kind, ErrorKind::NotFound | ErrorKind::Integrity) {
        return Err(error);
    }
    let found = enroll::waiting(&mvm.certs(), &mvm.engine.node_id()?, now())?;
    found.map(|waiting| Shown::Waiting(Box::new(waiting))).ok_or(error)
}

fn short(text: &str) -> String {
    text.chars().take(FAILURE_LENGTH).collect()
}

impl Node for Behind {
    fn answer(&self, caller: &Caller, request: Request) -> Result<Answer, Refusal> {
        let mvm = self.mvm.for_operation(new_operation());
        let cx = Context::silent(Actor::Certificate(caller.subject()));
        tracing::info!(caller = caller.subject(), request = request.name(), "asked from afar");
        let answered = match request {
            Request::ReconcileSigned { envelope, .. } => self.accept_signed(&mvm, &cx, &envelope),
            Request::Reconcile { document } => self.accept_unsigned(&mvm, &cx, &document),
            Request::NodeInfo {} => self.info(&mvm),
            Request::NodeStats {} => figures(&mvm),
            Request::TenantList { page } => tenants(&mvm, &page),
            Request::InstanceList { tenant, page } => instances(&mvm, tenant, &page),
            Request::WakeInstance { instance } => moved(&mvm, &cx, &instance, Move::Wake),
            Request::SleepInstance { instance } => moved(&mvm, &cx, &instance, Move::Sleep),
            Request::Events { tenant, after_seq, limit } => events(&mvm, &tenant, after_seq, limit),
            Request::CertificateRequest {} => self.request_again(&mvm),
            Request::InstallCertificate { certificate } => self.install_again(&mvm, &certificate),
            Request::Revoke { list } => self.revoke(&mvm, &list),
        };
        answered.map_err(Refusal::from)
    }
}

impl Behind {
    fn accept_signed(&self, mvm: &Mvm, cx: &Context, envelope: &Envelope) -> Result<Answer, Error> {
        self.admit()?;
        // A key that was trusted since the start counts at once, and so does one that was removed.
        let trusted = keys::trusted(&mvm.trusted_keys())?;
        let trust = Trust { keys: &trusted.keys, verify: &keys::verify };
        let acceptance = mvm.engine.accept_signed(cx, envelope, &trust)?;
        self.changed.store(true, Ordering::Release);
        Ok(Answer::Accepted(acceptance))
    }

    fn accept_unsigned(&self, mvm: &Mvm, cx: &Context, document: &str) -> Result<Answer, Error> {
        self.admit()?;
        let acceptance = mvm.engine.accept_unsigned(cx, document)?;
        self.changed.store(true, Ordering::Release);
        Ok(Answer::Accepted(acceptance))
    }

    fn admit(&self) -> Result<(), Error> {
        if !self.follows_file {
            return Ok(());
        }
        let message = "this node follows a file, and no state that is pushed";
        Err(Error::new(ErrorKind::Conflict, message)
            .hint("start its agent without --desired: mvm agent serve --listen ADDRESS"))
    }

    fn info(&self, mvm: &Mvm) -> Result<Answer, Error> {
        let view = mvm.node_info()?;
        Ok(Answer::Node(Box::new(NodeInfo {
            node_id: view.node_id,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            production: mvm.production,
            facts: view.observed.facts,
            usage: view.usage,
            desired: mvm.engine.accepted()?.map(|state| state.acceptance),
            pass: self.pass.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            certificate: self.certificate(mvm),
            revocations: self.face.get().and_then(Face::revoked).map(|list| list.told()),
        })))
    }
}

fn figures(mvm: &Mvm) -> Result<Answer, Error> {
    let mut figures = NodeFigures { usage: mvm.node_info()?.usage, ..NodeFigures::default() };
    for view in mvm.instance_list(&Filter::All)? {
        *figures.states.entry(view.record.state).or_default() += 1;
    }
    for view in mvm.tenant_list()? {
        figures.tenants.insert(view.record.tenant_id, view.usage);
    }
    Ok(Answer::Stats(figures))
}

fn tenants(mvm: &Mvm, page: &PageOf) -> Result<Answer, Error> {
    let row = |view: TenantView| TenantRow {
        tenant_id: view.record.tenant_id,
        net_id: view.record.network.net,
        subnet: view.record.network.subnet,
        quotas: view.record.quotas,
        usage: view.usage,
        pools: view.pools as u64,
        instances: view.instances as u64,
    };
    let all = mvm.tenant_list()?.into_iter().map(row).collect();
    Ok(Answer::Tenants(Page::of(all, page, |one| one.tenant_id.to_string())))
}

fn instances(mvm: &Mvm, tenant: Option<TenantId>, page: &PageOf) -> Result<Answer, Error> {
    let filter = tenant.map_or(Filter::All, Filter::Tenant);
    let all = mvm.instance_list(&filter)?.iter().map(row).collect();
    Ok(Answer::Instances(Page::of(all, page, |one| one.instance.to_string())))
}

fn row(view: &InstanceView) -> InstanceRow {
    let record = &view.record;
    InstanceRow {
        instance: record.instance.clone(),
        state: record.state,
        in_flight: view.in_flight,
        role: record.role.clone(),
        address: record.address(),
        vcpus: record.resources.vcpus,
        mem_mib: record.resources.mem_mib,
        parked_by: record.parked_by,
        last_failure: record.last_failure.as_ref().map(|failure| short(&failure.reason)),
        state_since: record.state_since,
    }
}

fn moved(mvm: &Mvm, cx: &Context, instance: &InstanceRef, wish: Move) -> Result<Answer, Error> {
    let outcome = mvm.instance_move(cx, instance, wish, Drain::Ask)?;
    match outcome.error() {
        Some(error) => Err(error),
        None => {
            let state = mvm.instance_info(instance)?.record.state;
            Ok(Answer::Moved(Moved { instance: instance.clone(), state }))
        }
    }
}

fn events(mvm: &Mvm, tenant: &TenantId, after_seq: u64, limit: u32) -> Result<Answer, Error> {
    let limit = PageOf { after: None, limit }.size();
    let mut items = mvm.engine.events_from(tenant, after_seq, limit)?;
    let is_full = items.len() >= limit;
    // A page is as long as a frame has room for it, and one entry at least.
    let mut size = 0;
    let fits = items.iter().take_while(|one| {
        size += serde_json::to_vec(one).map_or(0, |bytes| bytes.len());
        size <= EVENTS_SIZE
    });
    let fits = fits.count().max(1);
    let is_cut = fits < items.len();
    items.truncate(fits);
    let last = items.last().map(|one| one.seq.to_string());
    Ok(Answer::Events(Page { items, next: last.filter(|_| is_full || is_cut) }))
}
