//! Questions about audit logs: what happened, what happens, and whether the log is whole.
//!
//! They change nothing. This module refuses to know how logs are kept.

use std::collections::BTreeSet;

use mvm_core::{
    audit::AuditReport,
    error::{Error, ErrorKind},
    event::{EventKind, LoggedEvent},
    id::{InstanceId, PoolId, TenantId},
    moment::Since,
    port::Transaction,
    tenant::Tenant,
    units::Timestamp,
};

use crate::{
    engine::{Context, Engine},
    run,
    store::records,
};

/// How many entries of a log are read at once.
pub(crate) const PAGE: usize = 1_000;

/// Which events are asked for; what is absent or empty asks for all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventFilter {
    /// Where to begin.
    pub since: Option<Since>,
    /// How many at most, the newest.
    pub last: usize,
    /// Of which pool.
    pub pool: Option<PoolId>,
    /// Of which instance.
    pub instance: Option<InstanceId>,
    /// Of which kinds.
    pub kinds: Vec<EventKind>,
}

/// Whether who follows a log wants more of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// More.
    On,
    /// Enough.
    Enough,
}

impl EventFilter {
    /// The place before the first event that can be asked for.
    fn after(&self) -> u64 {
        match self.since {
            Some(Since::Seq(seq)) => seq.saturating_sub(1),
            Some(Since::At(_) | Since::Ago(_)) | None => 0,
        }
    }

    /// Whether every event after a place is asked for.
    fn takes_all(&self) -> bool {
        self.pool.is_none()
            && self.instance.is_none()
            && self.kinds.is_empty()
            && matches!(self.since, Some(Since::Seq(_)) | None)
    }

    fn takes(&self, logged: &LoggedEvent, now: Timestamp) -> bool {
        let event = &logged.event;
        let is_late_enough = match self.since {
            Some(Since::Seq(seq)) => logged.seq >= seq,
            Some(Since::At(moment)) => event.time >= moment,
            Some(Since::Ago(seconds)) => {
                event.time.0 >= now.0.saturating_sub(seconds.saturating_mul(1000))
            }
            None => true,
        };
        is_late_enough
            && (self.pool.is_none() || self.pool == event.pool)
            && (self.instance.is_none() || self.instance == event.instance)
            && (self.kinds.is_empty() || self.kinds.contains(&event.event))
    }

    fn choose(&self, mut all: Vec<LoggedEvent>, now: Timestamp) -> Vec<LoggedEvent> {
        all.retain(|logged| self.takes(logged, now));
        all.split_off(all.len().saturating_sub(self.last))
    }
}

impl Engine {
    /// What happened to a tenant, oldest first.
    ///
    /// # Errors
    /// `NotFound`; why the store failed.
    pub fn history(
        &self,
        tenant: &TenantId,
        filter: &EventFilter,
    ) -> Result<Vec<LoggedEvent>, Error> {
        self.living(tenant)?;
        let limit = if filter.takes_all() { filter.last } else { usize::MAX };
        let all = self.ports.store.events(tenant, filter.after(), limit)?;
        Ok(filter.choose(all, self.ports.clock.now()))
    }

    /// The first `limit` entries of a log after one, oldest first, for who reads a log page by page.
    ///
    /// # Errors
    /// `NotFound`; why the store failed.
    pub fn events_from(
        &self,
        tenant: &TenantId,
        after_seq: u64,
        limit: usize,
    ) -> Result<Vec<LoggedEvent>, Error> {
        self.living(tenant)?;
        self.ports.store.first_events(tenant, after_seq, limit)
    }

    /// What happened to the destroyed tenants of this name, oldest first.
    ///
    /// # Errors
    /// `NotFound` when there was none; why the archive cannot be read.
    pub fn archived_events(
        &self,
        tenant: &TenantId,
        filter: &EventFilter,
    ) -> Result<Vec<LoggedEvent>, Error> {
        let all = self.ports.store.archived_events(tenant)?;
        if all.is_empty() {
            let message = format!("no log of a destroyed tenant {tenant} is in the archive");
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        Ok(filter.choose(all, self.ports.clock.now()))
    }

    /// Gives `sink` what happened to a tenant, and then what happens, whoever does it.
    ///
    /// # Errors
    /// `NotFound`; [`run::is_cancelled`] when it was cancelled; why the store failed. The end of the
    /// tenant is an ordinary end.
    pub fn follow(
        &self,
        cx: &Context,
        tenant: &TenantId,
        filter: &EventFilter,
        sink: &mut dyn FnMut(&LoggedEvent) -> Follow,
    ) -> Result<(), Error> {
        let store = &self.ports.store;
        let began = self.ports.clock.now();
        self.living(tenant)?;
        let mut seen = store.events(tenant, 0, 1)?.last().map_or(0, |logged| logged.seq);
        let mut batch = self.history(tenant, filter)?;
        batch.retain(|logged| logged.seq <= seen);
        loop {
            for logged in &batch {
                if sink(logged) == Follow::Enough {
                    return Ok(());
                }
            }
            cx.cancel.check()?;
            run::look_again_later(&*self.ports.clock);
            let mut fresh = store.first_events(tenant, seen, PAGE)?;
            let is_gone = fresh.is_empty() && !self.is_there(tenant)?;
            if is_gone {
                fresh = last_words(store.archived_events(tenant)?, seen);
            }
            seen = fresh.last().map_or(seen, |logged| logged.seq);
            batch = fresh;
            batch.retain(|logged| filter.takes(logged, began));
            if is_gone {
                for logged in &batch {
                    if sink(logged) == Follow::Enough {
                        break;
                    }
                }
                return Ok(());
            }
        }
    }

    /// Whether audit logs are whole: of one tenant or all, living or destroyed ones.
    ///
    /// # Errors
    /// `NotFound`; why store or files cannot be read. What is wrong with a log stands in its report.
    pub fn audit(
        &self,
        tenant: Option<&TenantId>,
        archived: bool,
    ) -> Result<Vec<AuditReport>, Error> {
        let store = &self.ports.store;
        if archived {
            return store.audit_archives(tenant);
        }
        let those = match tenant {
            Some(tenant) => {
                self.living(tenant)?;
                vec![tenant.clone()]
            }
            None => {
                let all = self.within(|tx| records::list::<Tenant>(tx, ""))?;
                let mut names: BTreeSet<TenantId> =
                    all.into_iter().map(|tenant| tenant.tenant_id).collect();
                for name in [TenantId::local(), TenantId::node()] {
                    if !store.events(&name, 0, 1)?.is_empty() {
                        names.insert(name);
                    }
                }
                names.into_iter().collect()
            }
        };
        those.iter().map(|tenant| store.audit(tenant)).collect()
    }

    fn is_there(&self, tenant: &TenantId) -> Result<bool, Error> {
        let is_known = |tx: &mut dyn Transaction| -> Result<bool, Error> {
            Ok(records::find::<Tenant>(tx, tenant.as_str())?.is_some())
        };
        Ok(tenant.is_built_in() || self.within(is_known)?)
    }

    /// # Errors
    /// `NotFound`, with where else to look.
    fn living(&self, tenant: &TenantId) -> Result<(), Error> {
        if tenant.is_built_in() {
            return Ok(());
        }
        self.within(|tx| records::tenant(tx, tenant)).map(drop).map_err(|error| {
            if error.kind == ErrorKind::NotFound {
                error.hint(format!(
                    "if it was destroyed, see its archived log: mvm events {tenant} --archived"
                ))
            } else {
                error
            }
        })
    }
}

/// What the log that was archived last holds after a place.
fn last_words(archived: Vec<LoggedEvent>, seen: u64) -> Vec<LoggedEvent> {
    let mut below = u64::MAX;
    let mut words: Vec<LoggedEvent> = archived
        .into_iter()
        .rev()
        .take_while(|logged| {
            let is_same_log = logged.seq < below;
            below = logged.seq;
            is_same_log && logged.seq > seen
        })
        .collect();
    words.reverse();
    words
}
