//! Locks between simulated processes; the death of a process releases what it held.
//!
//! Nobody waits here: a lock that is held is refused at once, as after a wait that was too short.
//! Who lets several processes run at a time decides when a waiting one tries again.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use mvm_core::{Error, ErrorKind, id::Subject, port::Lock};

#[derive(Debug, Default)]
struct Table {
    held: BTreeMap<Held, Holder>,
    last_ticket: u64,
}

/// What can be held: a subject, or one of the node's places.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Held {
    Subject(Subject),
    Place(u32),
}

#[derive(Debug, Clone, Copy)]
struct Holder {
    process: u64,
    ticket: u64,
}

/// The locks of one machine.
#[derive(Debug, Clone, Default)]
pub struct SimLocks(Arc<Mutex<Table>>);

impl SimLocks {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a lock for a process.
    ///
    /// # Errors
    /// `Unavailable` naming who holds it.
    pub fn take(&self, process: u64, subject: &Subject) -> Result<Box<dyn Lock>, Error> {
        self.hold(process, Held::Subject(subject.clone())).map_err(|holder| {
            let message = format!("{subject} is locked by process {}", holder.process);
            Error::new(ErrorKind::Unavailable, message)
        })
    }

    /// Takes a place for a process; none while somebody has it.
    #[must_use]
    pub fn take_place(&self, process: u64, place: u32) -> Option<Box<dyn Lock>> {
        self.hold(process, Held::Place(place)).ok()
    }

    fn hold(&self, process: u64, what: Held) -> Result<Box<dyn Lock>, Holder> {
        let mut table = self.table();
        if let Some(holder) = table.held.get(&what) {
            return Err(*holder);
        }
        table.last_ticket += 1;
        let ticket = table.last_ticket;
        table.held.insert(what.clone(), Holder { process, ticket });
        Ok(Box::new(SimLock { locks: self.clone(), what, ticket }))
    }

    /// Whether someone holds it.
    #[must_use]
    pub fn is_held(&self, subject: &Subject) -> bool {
        self.table().held.contains_key(&Held::Subject(subject.clone()))
    }

    /// Whether this process holds it.
    #[must_use]
    pub fn is_held_by(&self, subject: &Subject, process: u64) -> bool {
        let what = Held::Subject(subject.clone());
        self.table().held.get(&what).is_some_and(|holder| holder.process == process)
    }

    /// What subjects this process holds.
    #[must_use]
    pub fn held_by(&self, process: u64) -> Vec<Subject> {
        let table = self.table();
        let own = table.held.iter().filter(|(_, holder)| holder.process == process);
        own.filter_map(|(what, _)| what.subject()).collect()
    }

    /// What a process holds is free: it died.
    pub fn release_all(&self, process: u64) {
        self.table().held.retain(|_, holder| holder.process != process);
    }

    /// All subjects that are held.
    #[must_use]
    pub fn held(&self) -> Vec<Subject> {
        self.table().held.keys().filter_map(Held::subject).collect()
    }
}

impl Held {
    fn subject(&self) -> Option<Subject> {
        match self {
            Self::Subject(subject) => Some(subject.clone()),
            Self::Place(_) => None,
        }
    }
}

struct SimLock {
    locks: SimLocks,
    what: Held,
    ticket: u64,
}

impl Lock for SimLock {
    fn retire(self: Box<Self>) {}
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut table = self.locks.table();
        if table.held.get(&self.what).is_some_and(|holder| holder.ticket == self.ticket) {
            table.held.remove(&self.what);
        }
    }
}
