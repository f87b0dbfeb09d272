//! Operations over the ports: what was asked becomes records, plans and effects.
//!
//! ```text
//! operate ─▶ lock the subject ─▶ load ─▶ observe ─▶ notice the truth ─▶ record the want
//!                                          ▲                                  │
//!                                          └── run the steps ◀── plan ◀───────┘   until empty
//! ```
//!
//! After a crash at any point the next operation on the subject walks the same path. This crate
//! decides nothing that [`mvm_core::plan`] decides, makes no system call and prints nothing.
//!
//! - [`engine`] — [`Engine`], its ports and settings, and the door for operations.
//! - `operate` — one function per operation; `converge` — one instance to what it shall be.
//! - [`rebuild`] — a new store in place of a lost one.
//! - `run` — attempts, backoff, cancellation and parallel work; nowhere else.
//! - [`figures`] — what is measured, and the streams of a guest that are no commands.
//! - [`history`] — questions about audit logs.
//! - [`policy`] — a tick of it, and demand.
//! - [`query`] — questions, which change nothing but a record that is not true any more.
//! - `tail` — following an instance's logs.
//! - [`store`] — the durable store, and one in memory with the same meaning.

mod admit;
mod converge;
mod desired;
pub mod engine;
pub mod figures;
mod firewall;
pub mod history;
mod images;
pub mod metrics;
pub mod netcheck;
mod operate;
pub mod outcome;
pub mod policy;
mod preview;
pub mod query;
pub mod rebuild;
mod routes;
mod run;
pub mod store;
mod tail;

#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "tests stop at the first surprise"
)]
mod fake;
#[cfg(test)]
mod tests;

pub use engine::{Config, Context, Engine, Ports, SPAN};
pub use history::{EventFilter, Follow};
pub use outcome::{Acted, Change, Deferral, Failed, Made, Outcome, Removal};
pub use policy::Watch;
pub use preview::Preview;
pub use run::{Cancel, is_cancelled};
