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

impl Locks for World {
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
