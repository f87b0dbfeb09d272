//! Locks of the small world: between threads. They know no processes.

use std::time::Duration;

use mvm_core::{
    error::{Error, ErrorKind},
    id::Subject,
    port::{Lock, Locks},
};

use super::World;

struct Held(World, Subject);

impl Lock for Held {
    fn retire(self: Box<Self>) {
        self.0.look().lock_files.remove(&self.1);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.0.1.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&self.1);
        self.0.0.2.notify_all();
    }
}

struct Place(World, u32);

impl Lock for Place {
    fn retire(self: Box<Self>) {}
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.look().places.remove(&self.1);
    }
}

impl Locks for World {
    fn place(&self, place: u32) -> Result<Option<Box<dyn Lock>>, Error> {
        let is_free = self.look().places.insert(place);
        Ok(is_free.then(|| Box::new(Place(self.clone(), place)) as Box<dyn Lock>))
    }

    fn lock(&self, subject: &Subject, wait: Duration) -> Result<Box<dyn Lock>, Error> {
        let held = self.0.1.lock().unwrap();
        let (mut held, late) =
            self.0.2.wait_timeout_while(held, wait, |held| held.contains(subject)).unwrap();
        if late.timed_out() && held.contains(subject) {
            return Err(Error::new(ErrorKind::Unavailable, format!("{subject} is locked")));
        }
        held.insert(subject.clone());
        self.look().lock_files.insert(subject.clone());
        Ok(Box::new(Held(self.clone(), subject.clone())))
    }
}
