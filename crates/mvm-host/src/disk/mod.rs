//! What lies on disk: guest drives, data volumes, tenant keys, snapshots and the documented
//! directories.
//!
//! - [`ext`] — tiny ext2 images for the config and secrets drives, made in memory.
//! - [`volume`] — data volumes of instances, `luks` — how they are encrypted, [`shelf`] — those that
//!   outlived their instance.
//! - [`key`] — tenant keys, [`given`] — those brought along; [`rekey`] — another one.
//! - [`secrets`] — tenants' sealed secrets.
//! - [`mod@base`] — what the guests of one build have in common.
//! - [`snapshot`] — guests on disk: written, published, retired, opened.
//! - `header` — how bases and snapshots say what they are.
//! - [`files`] — revisions of pools, and removal; [`listing`] — what is there.
//! - [`space`] — room on a file system; [`usage`] — what takes it; [`durable`] — changes that survive a power cut.
//!
//! It does not know what a guest, a policy or a network is, and it never chooses a name: those come
//! from `core::layout`.

pub mod base;
pub mod durable;
pub mod error;
pub mod ext;
pub mod files;
pub mod given;
#[cfg(test)]
pub(crate) mod ground;
mod header;
pub mod key;
pub mod listing;
mod luks;
pub mod rekey;
pub mod secrets;
pub mod shelf;
pub mod snapshot;
pub mod space;
pub mod stock;
pub mod usage;
pub mod volume;

pub use error::Error;
