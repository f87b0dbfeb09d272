//! What is built in a microVM: a builder is a short-lived instance, and nothing else.
//!
//! ```text
//! request's key ─ answered before? ─▶ image
//!        │ no
//!        ▼
//! clear what is left ─▶ pool and instance at `.2` ─▶ start ─▶ feed it ─▶ exec: a program of its image ─▶ root
//!                                                         image ◀─ import ◀───────────────────────────────┘
//! clear
//! ```
//!
//! The instance lives in a pool of its own, made for one build and removed after it, under the lock of that
//! pool: one build per tenant at a time, and whoever gets the lock knows that what it finds there was left
//! behind. What it is fed with and which program runs is a [`Job`]'s: that of a flake (`flake`) or of an
//! image's commands (`commands`). It refuses to know what a program of the builder image does.

use std::{
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use mvm_core::{
    effect::Effect,
    error::{Error, ErrorKind},
    event::EventKind,
    id::{ImageHash, InstanceRef, PoolRef, RequestKey, Subject, TenantId},
    instance::{Drain, Instance},
    operation::Rebuild,
    pool::{Counts, Pool, PoolPolicy, Revision, Role, RuntimePolicy, Source},
    port::{BuildOrder, BuiltRoot, ExecRequest, ExecStatus, Transaction},
    state::Move,
    units::{Generation, Seconds},
    volume::VolumeFate,
};

use super::{heard::Heard, instance::Granted, pool::Going, refuse_destroying};
use crate::{
    converge::FirewallAfter,
    engine::{Context, Engine, Telling},
    outcome::Outcome,
    run::{self, Cancel},
    store::records,
};

/// The image of builders, by its name in the image store.
const TOOLS: &str = "builder";
/// Where a builder's program leaves the root of an image.
pub(super) const ROOT: &str = "/data/root";

/// Brings into a builder what it needs.
type Feed<'a> = Box<dyn FnOnce(&InstanceRef) -> Result<(), Error> + 'a>;

/// For whom an image is made.
pub(super) struct Asked<'a> {
    /// Whose it is to be, as it is told and logged.
    pub(super) name: &'a PoolRef,
    /// In whose network builders are; nobody's is known for whoever needs none.
    pub(super) tenant: Option<&'a TenantId>,
}

impl Asked<'_> {
    /// The pool of builders that work for it.
    ///
    /// # Errors
    /// `Usage` when it is nobody's.
    fn builders(&self) -> Result<PoolRef, Error> {
        self.tenant.map(PoolRef::of_builders).ok_or_else(|| {
            Error::new(ErrorKind::Usage, "this is built in the network of a tenant")
                .hint("say whose: --tenant TENANT")
        })
    }
}

/// What a builder is to do.
pub(super) struct Job<'a> {
    /// Brings into the builder what the program needs.
    pub feed: Feed<'a>,
    /// The program of the builder image, and its arguments.
    pub argv: Vec<String>,
    /// The image whose kernel boots what is made.
    pub kernel: ImageHash,
    /// What was asked for; none when the same question may have another answer.
    pub key: Option<RequestKey>,
    /// Says what it means that the program did not end well.
    pub failure: Box<dyn Fn(ExecStatus) -> Error + 'a>,
}

impl Engine {
    /// The image of an order, whoever makes it: the builder port, a builder microVM for flakes and commands,
    /// or an earlier build of a template. [`Engine::ensure_image`] is for what the port makes alone.
    pub(super) fn make_image(
        &self,
        cx: &Context,
        asked: &Asked<'_>,
        order: &BuildOrder,
    ) -> Result<ImageHash, Error> {
        let until = self.ports.clock.elapsed().saturating_add(order.timeout.duration());
        match &order.source {
            Source::Flake(reference) => self.build_flake(cx, asked, order, reference, until),
            Source::Template(wanted) => self.template_image(cx, order, wanted),
            Source::Image(_) => {
                let prepared = self.ports.builder.ensure_image(order, &cx.progress)?;
                match prepared.commands {
                    None => Ok(prepared.image),
                    Some(commands) => {
                        self.run_commands(cx, asked, order, (prepared.image, commands), until)
                    }
                }
            }
        }
    }

    /// The image of builders; whatever a killed command left of one goes, also when nothing has to be
    /// built.
    pub(super) fn builder_image(
        &self,
        cx: &Context,
        asked: &Asked<'_>,
        order: &BuildOrder,
    ) -> Result<ImageHash, Error> {
        self.clear_builders(cx, &asked.builders()?, &mut Outcome::default())?;
        let source = Source::Image(TOOLS.to_owned());
        let tools = BuildOrder { source, rebuild: Rebuild::WhenChanged, ..order.clone() };
        let tools = self.ports.builder.ensure_image(&tools, &cx.progress).map_err(|error| {
            error.hint("a ready image needs no builder, for example: --image default")
        })?;
        Ok(tools.image)
    }

    /// The image that the same request made before, unless everything is to be made again.
    pub(super) fn answered(
        &self,
        order: &BuildOrder,
        key: &RequestKey,
    ) -> Result<Option<ImageHash>, Error> {
        match order.rebuild {
            Rebuild::WhenChanged => self.ports.builder.find_image(key),
            Rebuild::Always => Ok(None),
        }
    }

    /// Has a job done by a builder that is made for it and gone afterwards.
    pub(super) fn build_apart(
        &self,
        cx: &Context,
        asked: &Asked<'_>,
        tools: &ImageHash,
        job: Job<'_>,
        until: Duration,
    ) -> Result<ImageHash, Error> {
        let builders = asked.builders()?;
        let built = self
            .make_builder(cx, &builders, tools)
            .and_then(|builder| self.build_in(cx, asked.name, &builder.instance, job, until));
        let cleared = self.clear_builders(cx, &builders, &mut Outcome::default());
        built.and_then(|image| cleared.map(|()| image))
    }

    /// Removes the pool of a tenant's builders with all that is in it; whoever calls holds its lock. Who
    /// was interrupted clears up all the same.
    fn clear_builders(
        &self,
        cx: &Context,
        builders: &PoolRef,
        outcome: &mut Outcome,
    ) -> Result<(), Error> {
        let cx = Context { cancel: Cancel::new(), ..cx.clone() };
        let going =
            self.empty_pool(&cx, builders, (FirewallAfter::Each, VolumeFate::Delete), outcome)?;
        match (going, outcome.error()) {
            (Going::Gone, _) => Ok(()),
            (Going::Stays, Some(error)) => {
                Err(error
                    .context(format!("cannot remove the builder of tenant {}", builders.tenant)))
            }
            (Going::Stays, None) => {
                Err(Error::new(ErrorKind::Failed, format!("pool {builders} does not go")))
            }
        }
    }

    /// Removes builders that a killed command left behind, unless a build is at work.
    pub(super) fn collect_builders(
        &self,
        cx: &Context,
        builders: &PoolRef,
        outcome: &mut Outcome,
    ) -> Result<(), Error> {
        let subject = Subject::Pool(builders.clone());
        let Ok(lock) = self.ports.locks.lock(&subject, Duration::ZERO) else { return Ok(()) };
        self.clear_builders(cx, builders, outcome)?;
        lock.retire();
        Ok(())
    }

    /// A builder that runs.
    fn make_builder(
        &self,
        cx: &Context,
        builders: &PoolRef,
        tools: &ImageHash,
    ) -> Result<Instance, Error> {
        let of = format!("the builder of tenant {}", builders.tenant);
        self.admit_volume(
            &format!("the disk of {of}"),
            u64::from(self.config.builder.data_disk_mib.0),
        )?;
        let record = self.within(|tx| {
            self.builder_pool(tx, cx, builders, tools)?;
            self.instance_allocate(tx, cx, builders, &[], None)
        });
        let record = record.map_err(|error| error.context(format!("there is no room for {of}")))?;
        let (pool, image) = (builders.clone(), tools.clone());
        self.execute(&Effect::EnsureRevision { pool, image })?;
        self.sync_firewall(&record.network)?;
        let wish = self.wish(cx, &record.instance, Move::Start, Drain::Skip)?;
        match self.bring(cx, &wish).map_err(|error| error.context(format!("cannot start {of}")))? {
            Granted::Changed(_) => Ok(record),
            Granted::Deferred(reason) => Err(Error::new(ErrorKind::Conflict, reason)),
        }
    }

    fn builder_pool(
        &self,
        tx: &mut dyn Transaction,
        cx: &Context,
        id: &PoolRef,
        tools: &ImageHash,
    ) -> Result<(), Error> {
        let tenant = records::tenant(tx, &id.tenant)?;
        refuse_destroying("tenant", &id.tenant, tenant.destroying)?;
        let (now, source) = (self.ports.clock.now(), Source::Image(TOOLS.to_owned()));
        let built = Revision { image: tools.clone(), built_at: now, source: Some(source.clone()) };
        let mut pool = Pool {
            pool: id.clone(),
            source,
            profile: "minimal".to_owned(),
            role: Role::Builder,
            instance_resources: self.config.builder,
            desired_counts: Counts::default(),
            // Nothing in it is worth a word before it ends.
            runtime_policy: RuntimePolicy {
                graceful_shutdown_seconds: Seconds(0),
                ..RuntimePolicy::default()
            },
            // A build is none of the integrations that a tenant has secrets for.
            secret_scopes: vec![id.pool.as_str().parse()?],
            integrations: Vec::new(),
            routing_table: None,
            revisions: vec![built],
            rolled_back_to: None,
            rolling: None,
            policy: PoolPolicy { pinned: true, critical: true, ..PoolPolicy::default() },
            destroying: false,
            created_at: now,
            generation: Generation(0),
        };
        records::put(tx, &mut pool)?;
        let event = self.event(&cx.actor, &id.tenant, EventKind::PoolCreated).of_pool(&id.pool);
        tx.append(&event.with("source", &pool.source))
    }

    /// Feeds the builder, lets it build, and makes an image of what it made; all of it before `until`.
    fn build_in(
        &self,
        cx: &Context,
        pool: &PoolRef,
        builder: &InstanceRef,
        job: Job<'_>,
        until: Duration,
    ) -> Result<ImageHash, Error> {
        let (log, place) = self.build_log(pool);
        let heard = Arc::new(Heard::new(pool, cx.progress.clone(), log));
        let Job { feed, argv, kernel, key: request, failure } = job;
        let work = || {
            feed(builder)?;
            let asked =
                ExecRequest { argv, env: Vec::new(), cwd: None, user: None, terminal: None };
            let ended = self.ports.guest.exec(builder, &asked, heard.streams())?;
            if ended == ExecStatus::Code(0) {
                let path = ROOT.to_owned();
                let root = BuiltRoot { instance: builder.clone(), path, kernel, request };
                return self.ports.builder.import_root(&root, &cx.progress);
            }
            Err(Error { causes: heard.last(), ..failure(ended) })
        };
        let work = || work().map_err(|error| self.explain(builder, error));
        self.before(cx, until, builder, work).map_err(|error| {
            let told = |place| format!("all that the build said is in {place}");
            place.map(told).into_iter().fold(error, Error::hint)
        })
    }

    /// A pool's build log and where it is; a build that cannot keep one goes on without.
    fn build_log(&self, pool: &PoolRef) -> (Box<dyn Write + Send>, Option<String>) {
        match self.ports.sources.build_log(pool) {
            Ok((log, place)) => (log, Some(place)),
            Err(error) => {
                tracing::warn!(%pool, %error, "there is no build log");
                (Box::new(io::sink()), None)
            }
        }
    }

    /// Does `work` with a builder, which loses it when the time is over or who asked wants it to end.
    fn before<T>(
        &self,
        cx: &Context,
        until: Duration,
        builder: &InstanceRef,
        work: impl FnOnce() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let may_go_on = || {
            if self.ports.clock.elapsed() >= until { Err(overdue()) } else { cx.cancel.check() }
        };
        // What is told to it, or asked of it, ends with it.
        let end = || self.execute(&Effect::RemoveVmm(builder.instance.clone()));
        run::watched(may_go_on, end, work)
    }

    /// An error with the reason why the builder died, if it did.
    fn explain(&self, builder: &InstanceRef, error: Error) -> Error {
        if error.kind != ErrorKind::Unavailable {
            return error;
        }
        let Ok(_lock) = self.lock(&Subject::Instance(builder.clone())) else { return error };
        match self.truth(builder).ok().and_then(|(record, _)| record.last_failure) {
            Some(failure) => error
                .hint(format!("the builder died: {}", failure.reason))
                .hint("give builders more: builder.mem_mib in config.toml"),
            None => error,
        }
    }
}

fn overdue() -> Error {
    Error::new(ErrorKind::Unavailable, "the build took too long, and was ended")
        .hint("give it more time: --timeout SECS")
}

/// What it means that a builder's program did not end by itself with a code.
pub(super) fn broken_off(ended: ExecStatus) -> Error {
    match ended {
        ExecStatus::Code(code) => {
            Error::new(ErrorKind::Failed, format!("the build failed: exit code {code}"))
        }
        ExecStatus::Signal(signal) => {
            Error::new(ErrorKind::Failed, format!("the build was ended by signal {signal}"))
        }
        ExecStatus::Absent | ExecStatus::NotExecutable => {
            Error::new(ErrorKind::Failed, "the builder image has no program for this build")
        }
    }
}
