//! Time and randomness of this host.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mvm_core::{port::Clock, units::Timestamp};
use rustix::time::{ClockId, clock_gettime};

/// The kernel's clocks and its random numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn elapsed(&self) -> Duration {
        let now = clock_gettime(ClockId::Monotonic);
        Duration::new(
            u64::try_from(now.tv_sec).unwrap_or_default(),
            u32::try_from(now.tv_nsec).unwrap_or_default(),
        )
    }

    fn pause(&self, span: Duration) {
        std::thread::sleep(span);
    }

    fn draw(&self) -> u32 {
        // The kernel's generator fails only before it was seeded at boot; the clock's low bits are
        // enough then, since an id that is taken is drawn again.
        getrandom::u32().unwrap_or_else(|_| self.elapsed().subsec_nanos())
    }
}
