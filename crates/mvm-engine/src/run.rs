//! Attempts, backoff, cancellation and parallel work; the only place that has them (R20).
//!
//! It refuses to know what is attempted.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use mvm_core::{
    error::{Error, ErrorKind},
    port::Clock,
};

/// How often something unavailable is tried before it is given up.
const ATTEMPTS_UNAVAILABLE: u32 = 4;
/// How often something that failed is tried: once more, for what a fresh look puts right.
const ATTEMPTS_FAILED: u32 = 2;
/// The first pause; each further one is twice as long, so all of them are under a second.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// How many plans one instance may need; sleeping a new instance through all states takes five.
const ROUNDS: u32 = 24;

/// How long who follows a log waits before the next look at it.
const FOLLOW_PAUSE: Duration = Duration::from_millis(200);

/// Between two looks whether something may go on.
const WATCH_PAUSE: Duration = Duration::from_millis(100);

const CANCELLED: &str = "interrupted";

/// A flag that stops work between two steps.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// A flag that is not raised.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks to stop after the step that runs; safe in a signal handler.
    pub fn raise(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Goes on unless the flag is raised.
    ///
    /// # Errors
    /// One that [`is_cancelled`] recognises.
    pub fn check(&self) -> Result<(), Error> {
        if self.0.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Failed, CANCELLED).hint(
                "nothing is half done: repeat the command to go on, or ask for something else",
            ));
        }
        Ok(())
    }
}

/// Whether an error is the answer to [`Cancel::raise`].
#[must_use]
pub fn is_cancelled(error: &Error) -> bool {
    error.message == CANCELLED || error.causes.iter().any(|cause| cause == CANCELLED)
}

/// A failed step: the error, and whether a fresh look and another attempt can help.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) error: Error,
    pub(crate) is_final: bool,
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let is_final = attempts(&error) == 1;
        Self { error, is_final }
    }
}

impl Fault {
    pub(crate) const fn last(error: Error) -> Self {
        Self { error, is_final: true }
    }
}

fn attempts(error: &Error) -> u32 {
    if is_cancelled(error) {
        return 1;
    }
    match error.kind {
        ErrorKind::Unavailable => ATTEMPTS_UNAVAILABLE,
        ErrorKind::Failed => ATTEMPTS_FAILED,
        ErrorKind::Usage
        | ErrorKind::NotFound
        | ErrorKind::Conflict
        | ErrorKind::Refused
        | ErrorKind::Invalid
        | ErrorKind::Permission
        | ErrorKind::Integrity => 1,
    }
}

/// The attempts that one piece of work has left.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    faults: u32,
    rounds: u32,
}

impl Patience {
    /// Counts a round of steps that worked and yet did not reach the end.
    pub(crate) fn another_round(&mut self) -> Result<(), Error> {
        self.rounds += 1;
        if self.rounds > ROUNDS {
            return Err(Error::new(
                ErrorKind::Failed,
                format!("it does not come to rest after {ROUNDS} plans"),
            ));
        }
        Ok(())
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    /// The fault's error when there is none.
    pub(crate) fn after(&mut self, fault: Fault, clock: &dyn Clock) -> Result<(), Error> {
        self.faults += 1;
        if fault.is_final || self.faults >= attempts(&fault.error) {
            return Err(fault.error);
        }
        tracing::warn!(error = %fault.error, attempt = self.faults, "trying again");
        clock.pause(FIRST_PAUSE * 2u32.saturating_pow(self.faults - 1));
        Ok(())
    }
}

/// Waits before the next look at something that grows.
pub(crate) fn look_again_later(clock: &dyn Clock) {
    clock.pause(FOLLOW_PAUSE);
}

/// Waits for `span`, and hears a cancellation on the way.
pub(crate) fn pause(clock: &dyn Clock, cancel: &Cancel, span: Duration) -> Result<(), Error> {
    let start = clock.elapsed();
    loop {
        cancel.check()?;
        let left = span.saturating_sub(clock.elapsed().saturating_sub(start));
        if left.is_zero() {
            return Ok(());
        }
        clock.pause(left.min(FOLLOW_PAUSE));
    }
}

/// Does `work`, and looks meanwhile whether it may go on; when it may not, `end` makes it end, and then the
/// reason is its error.
pub(crate) fn watched<T>(
    may_go_on: impl Fn() -> Result<(), Error> + Send,
    end: impl FnOnce() -> Result<(), Error> + Send,
    work: impl FnOnce() -> Result<T, Error>,
) -> Result<T, Error> {
    let (done, ended) = mpsc::channel::<()>();
    let span = tracing::Span::current();
    let (worked, stopped) = thread::scope(|scope| {
        let watcher = scope.spawn(move || {
            let _entered = span.enter();
            while ended.recv_timeout(WATCH_PAUSE) == Err(mpsc::RecvTimeoutError::Timeout) {
                if let Err(why) = may_go_on() {
                    return Some(end().err().unwrap_or(why));
                }
            }
            None
        });
        let worked = work();
        drop(done);
        (worked, watcher.join().ok().flatten())
    });
    worked.map_err(|error| stopped.unwrap_or(error))
}

/// Tries `work` as often as its errors allow.
pub(crate) fn patiently<T>(
    clock: &dyn Clock,
    mut work: impl FnMut() -> Result<T, Error>,
) -> Result<T, Error> {
    let mut patience = Patience::default();
    loop {
        match work() {
            Ok(made) => return Ok(made),
            Err(error) => patience.after(error.into(), clock)?,
        }
    }
}

/// Does `work` for each item, up to `width` at a time, and returns the results in the items' order.
/// With a width of 1 all of it happens on the calling thread.
pub(crate) fn each<T: Sync, R: Send>(
    width: usize,
    items: &[T],
    work: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    if width <= 1 || items.len() <= 1 {
        return items.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, R)>> = Mutex::new(Vec::with_capacity(items.len()));
    let span = tracing::Span::current();
    thread::scope(|scope| {
        for _ in 0..width.min(items.len()) {
            scope.spawn(|| {
                let _entered = span.enter();
                loop {
                    let place = next.fetch_add(1, Ordering::SeqCst);
                    let Some(item) = items.get(place) else { return };
                    let result = work(item);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((place, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(place, _)| *place);
    done.into_iter().map(|(_, result)| result).collect()
}
