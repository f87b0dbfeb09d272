//! The real machine: the arms of one `match effect`, and the kernel's truth.
//!
//! - [`net`] — bridges, taps, policy routes, the two nftables tables.
//! - [`disk`] — drives, volumes, keys, sealed snapshots, the documented directories.
//! - [`vmm`] — cgroup, jail, shim, Firecracker's API.
//! - [`tool`] — the one place that spawns a helper program.
//!
//! It knows no policy, never retries, and decides nothing: `core::plan` chose every name and
//! number before it got here.

pub mod disk;
pub mod net;
pub mod roots;
pub mod tool;
pub mod vmm;
