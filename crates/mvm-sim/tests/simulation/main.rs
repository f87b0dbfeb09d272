//! The whole engine over the simulated machine, whatever dies.
//!
//! - [`crash_points`] — every operation with every fault at every port call.
//! - [`random_operations`] — several engines, random commands and faults from a seed.
//! - [`reconciling`] — random desired states, one after the other.
//! - [`regressions`] — histories that once broke a law.
//! - [`rehearsals`] — `--dry-run` of every operation.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::indexing_slicing,
    reason = "tests stop at the first surprise and say what it was"
)]

mod crash_points;
mod harness;
mod random_operations;
mod reconciling;
mod regressions;
mod rehearsals;
mod versions;
