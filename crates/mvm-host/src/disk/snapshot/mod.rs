//! Guests on disk: one directory per epoch, written whole, resumed at most once.
//!
//! ```text
//! store        publish      retire
//! ── <epoch>.partial ──► <epoch> ──► <epoch>.retired      remove takes any of them
//!    header.json  keys  vmstate  mem  base/
//! ```
//!
//! The memory is a page file (`mvm-pager`): only what is not zero, each chunk alone. A snapshot of a
//! tenant with a key is sealed: each file under a random key of its own, which the tenant's key wraps.
//! `docs/formats/snapshot.md` is the law of the bytes.
//!
//! - [`mod@header`] — what a snapshot says of itself, and whether it fits this host.
//! - [`place`] — the directories and their three names.
//! - [`store()`], [`open()`] — in and out; [`rekey()`] — to another key.
//! - `seal` — keys; `small` — the same for what is no snapshot.
//!
//! It never talks to a VMM, and never decides when to sleep. The device state is verified as a whole
//! before any of it is shown; of the memory each chunk is, by whoever opens it.

pub mod header;
pub mod open;
pub mod place;
pub mod rekey;
mod seal;
pub(in crate::disk) mod small;
pub mod store;

pub use header::{Header, Mismatch, Present};
pub use open::{Opened, Pages, header, open, put, retired_pages};
pub use place::{allocated, phases, publish, remove, remove_all, retire, versions};
pub use rekey::rekey;
pub use store::{Written, store};

#[cfg(test)]
mod tests;
