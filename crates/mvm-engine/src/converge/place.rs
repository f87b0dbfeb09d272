//! A place on the node for a guest that comes to life: fifty at once would all be slow, and those that
//! are silent for too long be taken for dead.
//!
//! Who waits holds its instance's lock and no place; who has a place takes no lock but the firewall's.

use std::time::Duration;

use mvm_core::error::{Error, ErrorKind};

use super::Course;
use crate::run::{self, Fault};

/// The time between two looks at all places.
const LOOK: Duration = Duration::from_millis(50);

impl Course<'_> {
    /// Waits for a place, unless there is one already.
    pub(super) fn take_place(&mut self) -> Result<(), Fault> {
        let (ports, config) = (&self.engine.ports, &self.engine.config);
        let mut began = None;
        while self.place.is_none() {
            for place in 0..config.places {
                self.place = ports.locks.place(place)?;
                if self.place.is_some() {
                    return Ok(());
                }
            }
            let now = ports.clock.elapsed();
            if began.is_none() {
                self.cx.tell(&self.record.instance, "waiting for others that start", (0, 0));
            }
            if now.saturating_sub(*began.get_or_insert(now)) >= config.place_wait {
                return Err(Fault::last(self.no_place()));
            }
            run::pause(&*ports.clock, &self.cx.cancel, LOOK)?;
        }
        Ok(())
    }

    fn no_place(&self) -> Error {
        let (places, waited) = (self.engine.config.places, self.engine.config.place_wait.as_secs());
        let message = format!(
            "{places} other guests are on their way to life; waited {waited} s for one of them"
        );
        Error::new(ErrorKind::Unavailable, message).hint("see what hangs: mvm instance list")
    }
}
