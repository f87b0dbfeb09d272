//! How often, and how much at once, a peer may ask: a token bucket and a count for each identity.
//!
//! An identity is the role and the name of a certificate, so that more connections give no more. The number
//! of identities is bounded by what the authority signed, and what has rested is forgotten.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use mvm_core::api::Role;

/// Requests of one identity that are being read or answered.
const AT_ONCE: u32 = 8;
/// Identities that are remembered.
const REMEMBERED: usize = 1024;

type Identity = (Role, String);

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
    busy: u32,
}

/// What each identity may still ask.
#[derive(Debug, Default)]
pub(super) struct Limits {
    buckets: Mutex<BTreeMap<Identity, Bucket>>,
}

/// Leave to ask once; gone when it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    limits: Arc<Limits>,
    identity: Identity,
}

impl Limits {
    fn hold(&self) -> MutexGuard<'_, BTreeMap<Identity, Bucket>> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leave for one request; none when it is one too many.
    pub(super) fn turn(self: &Arc<Self>, role: Role, name: &str, now: Instant) -> Option<Turn> {
        let (rate, burst) = (f64::from(role.rate().per_second), f64::from(role.rate().burst));
        let identity = (role, name.to_owned());
        let mut buckets = self.hold();
        if buckets.len() >= REMEMBERED && !buckets.contains_key(&identity) {
            // Who has asked nothing for as long as a bucket takes to fill has a full one.
            buckets.retain(|_, one| one.busy > 0 || now.duration_since(one.at).as_secs() < 10);
        }
        let fresh = || Bucket { tokens: burst, at: now, busy: 0 };
        let bucket = buckets.entry(identity.clone()).or_insert_with(fresh);
        let since = now.saturating_duration_since(bucket.at).as_secs_f64();
        bucket.tokens = (bucket.tokens + since * rate).min(burst);
        bucket.at = now;
        if bucket.tokens < 1.0 || bucket.busy >= AT_ONCE {
            return None;
        }
        bucket.tokens -= 1.0;
        bucket.busy += 1;
        drop(buckets);
        Some(Turn { limits: Arc::clone(self), identity })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(bucket) = self.limits.hold().get_mut(&self.identity) {
            bucket.busy = bucket.busy.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_is_allowed_and_then_the_rate() {
        let (limits, start) = (Arc::new(Limits::default()), Instant::now());
        let ask = |at: Duration| limits.turn(Role::Observer, "eye", start + at).is_some();
        assert_eq!((0..30).filter(|_| ask(Duration::ZERO)).count(), 20);
        let second = (0..30).filter(|_| ask(Duration::from_secs(1))).count();
        assert_eq!(second, 10);
        assert!(limits.turn(Role::Observer, "other", start).is_some(), "another has its own");
    }

    #[test]
    fn eight_requests_of_one_are_worked_on_at_once() {
        let (limits, start) = (Arc::new(Limits::default()), Instant::now());
        let mut turns: Vec<Turn> =
            (0..20).filter_map(|_| limits.turn(Role::Coordinator, "boss", start)).collect();
        assert_eq!(turns.len(), 8);
        turns.pop();
        assert!(limits.turn(Role::Coordinator, "boss", start).is_some());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (limits, start) = (Arc::new(Limits::default()), Instant::now());
        for number in 0..REMEMBERED {
            drop(limits.turn(Role::Node, &number.to_string(), start));
        }
        drop(limits.turn(Role::Node, "late", start + Duration::from_secs(20)));
        assert_eq!(limits.hold().len(), 1);
    }
}
