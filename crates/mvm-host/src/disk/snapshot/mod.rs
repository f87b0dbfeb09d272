//! Guests on disk: one directory per epoch, written whole, resumed at most once.
//!
//! ```text
//! store        publish      retire
//! ── <epoch>.partial ──► <epoch> ──► <epoch>.retired      remove takes any of them
//!    header.json  keys  vmstate  mem
//! ```
//!
//! A snapshot of a tenant with a key is sealed: its files are chunks of AES-256-GCM under a random
//! key of their own, which the tenant's key wraps. Without a key (development) the files are plain
//! and sparse. `docs/formats/snapshot.md` is the law of the bytes.
//!
//! - [`mod@header`] — what a snapshot says of itself, and whether it fits this host.
//! - [`place`] — the directories and their three names.
//! - [`store()`], [`open()`] — in and out; [`rekey()`] — to another key.
//! - `seal` — keys, nonces, associated data; `small` — the same for what is no snapshot; `stream` — whole files through it; `sparse` — what of
//!   a file is worth reading.
//!
//! It never talks to a VMM, never decides when to sleep, and never returns a byte that it did not
//! verify.

pub mod header;
pub mod open;
pub mod place;
pub mod rekey;
mod seal;
pub(in crate::disk) mod small;
mod sparse;
pub mod store;
mod stream;

pub use header::{Header, Mismatch, Present};
pub use open::{Opened, header, open};
pub use place::{phases, publish, remove, remove_all, retire};
pub use rekey::rekey;
pub use store::store;

#[cfg(test)]
mod tests;
