//! Time that passes when it is told to, and randomness from a seed.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use mvm_core::{port::Clock, units::Timestamp};

use crate::chance::Chance;

#[derive(Debug)]
struct Time {
    elapsed: Duration,
    wall_offset_ms: i64,
    chance: Chance,
}

/// A clock shared by everything on a simulated machine.
#[derive(Debug, Clone)]
pub struct SimClock(Arc<Mutex<Time>>);

/// The wall clock when a simulation begins, in milliseconds since the Unix epoch.
pub const START_MS: i64 = 1_800_000_000_000;

impl SimClock {
    /// A clock whose draws come from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let chance = Chance::new(seed);
        Self(Arc::new(Mutex::new(Time { elapsed: Duration::ZERO, wall_offset_ms: 0, chance })))
    }

    /// Time passes, on both clocks.
    pub fn advance(&self, span: Duration) {
        self.with(|time| time.elapsed += span);
    }

    /// The wall clock jumps by so many milliseconds; the other one does not.
    pub fn jump(&self, milliseconds: i64) {
        self.with(|time| time.wall_offset_ms += milliseconds);
    }

    fn with<T>(&self, work: impl FnOnce(&mut Time) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        self.with(|time| {
            let elapsed = i64::try_from(time.elapsed.as_millis()).unwrap_or(i64::MAX / 4);
            Timestamp(u64::try_from(START_MS + time.wall_offset_ms + elapsed).unwrap_or(0))
        })
    }

    fn elapsed(&self) -> Duration {
        self.with(|time| time.elapsed)
    }

    fn pause(&self, span: Duration) {
        self.advance(span);
    }

    fn draw(&self) -> u32 {
        self.with(|time| u32::try_from(time.chance.next() >> 32).unwrap_or(0))
    }
}
