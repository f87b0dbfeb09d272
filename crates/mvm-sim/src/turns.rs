//! Several simulated processes, one at a time: who goes on after a port call comes from a seed.
//!
//! Each process is a thread; only the one whose turn it is runs, so a seed has one history.

use std::{
    collections::BTreeSet,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use crate::chance::Chance;

#[derive(Debug)]
struct Table {
    current: Option<u64>,
    present: BTreeSet<u64>,
    expected: usize,
    chance: Chance,
}

/// The table around which the processes sit.
#[derive(Debug)]
pub struct Turns {
    table: Mutex<Table>,
    changed: Condvar,
}

impl Turns {
    /// A table for `expected` threads; nobody starts before all are there.
    #[must_use]
    pub const fn new(expected: usize, seed: u64) -> Self {
        let chance = Chance::new(seed);
        let table = Table { current: None, present: BTreeSet::new(), expected, chance };
        Self { table: Mutex::new(table), changed: Condvar::new() }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sits down as `seat` and waits for the first turn.
    pub fn join(&self, seat: u64) {
        let mut table = self.table();
        table.present.insert(seat);
        if table.present.len() == table.expected {
            table.choose();
            self.changed.notify_all();
        }
        self.wait(table, seat);
    }

    /// Lets someone go on, perhaps oneself, and returns when it is one's turn again.
    pub fn pass(&self, seat: u64) {
        let mut table = self.table();
        if !table.chance.one_in(3) {
            return;
        }
        table.choose();
        if table.current != Some(seat) {
            self.changed.notify_all();
            self.wait(table, seat);
        }
    }

    /// Gets up.
    pub fn leave(&self, seat: u64) {
        let mut table = self.table();
        table.present.remove(&seat);
        table.expected = table.expected.saturating_sub(1);
        table.choose();
        self.changed.notify_all();
    }

    fn wait(&self, mut table: MutexGuard<'_, Table>, seat: u64) {
        while table.current != Some(seat) {
            table = self.changed.wait(table).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Table {
    fn choose(&mut self) {
        let seats: Vec<u64> = self.present.iter().copied().collect();
        self.current = self.chance.pick(&seats).copied();
    }
}
