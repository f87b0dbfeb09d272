//! What lies on disk: guest drives, data volumes, tenant keys, snapshots and the documented
//! directories.
//!
//! - [`ext`] — tiny ext2 images for the config and secrets drives, made in memory.
//! - [`volume`] — data volumes.
//! - [`key`] — tenant keys.
//! - [`secrets`] — tenants' sealed secrets.
//! - [`snapshot`] — guests on disk: written, published, retired, opened.
//! - [`files`] — revisions of pools, and removal; [`listing`] — what is there.
//! - [`space`] — room on a file system; [`durable`] — changes that survive a power cut.
//!
//! It does not know what a guest, a policy or a network is, and it never chooses a name: those come
//! from `core::layout`.

pub mod durable;
pub mod error;
pub mod ext;
pub mod files;
#[cfg(test)]
pub(crate) mod ground;
pub mod key;
pub mod listing;
pub mod secrets;
pub mod snapshot;
pub mod space;
pub mod stock;
pub mod volume;

pub use error::Error;
