//! A store in memory with the meaning of the durable one; it forgets what was not committed.
//!
//! Changes are made in place and undone when the work fails or unwinds, so that a transaction costs
//! what it changes and not what there is. Cloning the handle shares the store, as two processes
//! share a database.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, Mutex, PoisonError},
};

use mvm_core::{
    audit::{AuditReport, LogEnd},
    error::{Error, ErrorKind},
    event::{Event, LoggedEvent},
    id::TenantId,
    port::{Store, Table, Transaction},
};

use super::{below, chain, claimed_number};

type Records = BTreeMap<(Table, String), String>;

#[derive(Default)]
struct Content {
    records: Records,
    claims: BTreeMap<String, String>,
    events: BTreeMap<TenantId, Vec<LoggedEvent>>,
    archives: Vec<(TenantId, Vec<LoggedEvent>)>,
}

/// The store in memory.
#[derive(Clone, Default)]
pub struct MemoryStore {
    content: Arc<Mutex<Content>>,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Store for MemoryStore {
    fn transact(
        &self,
        work: &mut dyn FnMut(&mut dyn Transaction) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        let mut open = Open { content: &mut content, undo: Vec::new() };
        work(&mut open)?;
        open.undo.clear();
        Ok(())
    }

    fn events(
        &self,
        tenant: &TenantId,
        after_seq: u64,
        limit: usize,
    ) -> Result<Vec<LoggedEvent>, Error> {
        let content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        let log = content.events.get(tenant).map_or(&[][..], Vec::as_slice);
        let newer = log.iter().filter(|entry| entry.seq > after_seq);
        let skipped = newer.clone().count().saturating_sub(limit);
        Ok(newer.skip(skipped).cloned().collect())
    }

    fn first_events(
        &self,
        tenant: &TenantId,
        after_seq: u64,
        limit: usize,
    ) -> Result<Vec<LoggedEvent>, Error> {
        let content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        let log = content.events.get(tenant).map_or(&[][..], Vec::as_slice);
        Ok(log.iter().filter(|entry| entry.seq > after_seq).take(limit).cloned().collect())
    }

    fn audit(&self, tenant: &TenantId) -> Result<AuditReport, Error> {
        let content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(report(tenant, content.events.get(tenant).map_or(&[][..], Vec::as_slice)))
    }

    fn audit_archives(&self, tenant: Option<&TenantId>) -> Result<Vec<AuditReport>, Error> {
        let content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        let those = content.archives.iter().filter(|(of, _)| tenant.is_none_or(|id| id == of));
        Ok(those.map(|(of, log)| report(of, log)).collect())
    }

    fn archived_ends(&self) -> Result<Vec<LogEnd>, Error> {
        let content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        let end = |(tenant, log): &(TenantId, Vec<LoggedEvent>)| {
            let last = log.last()?;
            Some(LogEnd { tenant: tenant.clone(), seq: last.seq, hash: last.hash.clone() })
        };
        Ok(content.archives.iter().filter_map(end).collect())
    }

    fn archived_events(&self, tenant: &TenantId) -> Result<Vec<LoggedEvent>, Error> {
        let content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        let those = content.archives.iter().filter(|(of, _)| of == tenant);
        Ok(those.flat_map(|(_, log)| log.iter().cloned()).collect())
    }
}

fn report(tenant: &TenantId, log: &[LoggedEvent]) -> AuditReport {
    let (seq, hash) = log.last().map_or((0, chain::START), |last| (last.seq, last.hash.as_str()));
    let problems = chain::verify(log).err().map(|error| error.message);
    AuditReport { problems: problems.into_iter().collect(), ..AuditReport::of(tenant, seq, hash) }
}

enum Undo {
    Record((Table, String), Option<String>),
    Claim(String, Option<String>),
    Event(TenantId),
    Log(TenantId, Vec<LoggedEvent>),
}

struct Open<'a> {
    content: &'a mut Content,
    undo: Vec<Undo>,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        while let Some(undo) = self.undo.pop() {
            match undo {
                Undo::Record(key, before) => restore(&mut self.content.records, key, before),
                Undo::Claim(name, before) => restore(&mut self.content.claims, name, before),
                Undo::Event(tenant) => {
                    if let Some(log) = self.content.events.get_mut(&tenant) {
                        log.pop();
                    }
                }
                Undo::Log(tenant, log) => {
                    self.content.archives.pop();
                    self.content.events.insert(tenant, log);
                }
            }
        }
    }
}

fn restore<K: Ord>(map: &mut BTreeMap<K, String>, key: K, before: Option<String>) {
    match before {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}

impl Transaction for Open<'_> {
    fn get(&mut self, table: Table, key: &str) -> Result<Option<String>, Error> {
        Ok(self.content.records.get(&(table, key.to_owned())).cloned())
    }

    fn list(&mut self, table: Table, prefix: &str) -> Result<Vec<(String, String)>, Error> {
        let pair = |((_, key), value): (&(Table, String), &String)| (key.clone(), value.clone());
        if prefix.is_empty() {
            let all = self.content.records.range((table, String::new())..);
            return Ok(all.take_while(|((t, _), _)| *t == table).map(pair).collect());
        }
        let (from, to) = below(prefix);
        let exact = self.content.records.get_key_value(&(table, prefix.to_owned()));
        let range = self.content.records.range((table, from)..(table, to));
        Ok(exact.into_iter().chain(range).map(pair).collect())
    }

    fn put(&mut self, table: Table, key: &str, value: &str) -> Result<(), Error> {
        let key = (table, key.to_owned());
        let before = self.content.records.insert(key.clone(), value.to_owned());
        self.undo.push(Undo::Record(key, before));
        Ok(())
    }

    fn delete(&mut self, table: Table, key: &str) -> Result<(), Error> {
        let place = (table, key.to_owned());
        let before = self.content.records.remove(&place);
        self.undo.push(Undo::Record(place, before));
        let held: Vec<String> = self
            .content
            .claims
            .iter()
            .filter(|(_, owner)| *owner == key)
            .map(|(name, _)| name.clone())
            .collect();
        for name in held {
            let before = self.content.claims.remove(&name);
            self.undo.push(Undo::Claim(name, before));
        }
        if table == Table::Tenants
            && let Ok(tenant) = key.parse()
            && let Some(log) = self.content.events.remove(&tenant)
        {
            self.content.archives.push((tenant.clone(), log.clone()));
            self.undo.push(Undo::Log(tenant, log));
        }
        Ok(())
    }

    fn claim(&mut self, name: &str, owner: &str) -> Result<(), Error> {
        match self.content.claims.get(name) {
            Some(holder) if holder == owner => Ok(()),
            Some(holder) => Err(Error::new(
                ErrorKind::Conflict,
                format!("{name} is held by {holder}, {owner} cannot have it"),
            )),
            None => {
                self.content.claims.insert(name.to_owned(), owner.to_owned());
                self.undo.push(Undo::Claim(name.to_owned(), None));
                Ok(())
            }
        }
    }

    fn release(&mut self, name: &str, owner: &str) -> Result<(), Error> {
        if self.content.claims.get(name).is_some_and(|holder| holder == owner) {
            let before = self.content.claims.remove(name);
            self.undo.push(Undo::Claim(name.to_owned(), before));
        }
        Ok(())
    }

    fn claimed(&mut self, prefix: &str) -> Result<Vec<u32>, Error> {
        let (from, to) = below(prefix);
        let range = (Bound::Included(from), Bound::Excluded(to));
        let names = self.content.claims.range(range);
        let mut numbers: Vec<u32> =
            names.filter_map(|(name, _)| claimed_number(name, prefix)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn append(&mut self, event: &Event) -> Result<(), Error> {
        let log = self.content.events.entry(event.tenant.clone()).or_default();
        let (seq, previous) =
            log.last().map_or((1, chain::START), |last| (last.seq + 1, last.hash.as_str()));
        let entry = chain::link(previous, seq, event)?;
        log.push(entry);
        self.undo.push(Undo::Event(event.tenant.clone()));
        Ok(())
    }
}
