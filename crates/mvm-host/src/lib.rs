//! The real machine: the arms of one `match effect`, and the kernel's truth.
//!
//! - [`net`] — bridges, taps, policy routes, the two nftables tables.
//! - [`disk`] — drives, volumes, keys, sealed snapshots, the documented directories.
//! - [`secrets`] — from a source to a sealed file, and into guests' drives.
//! - [`vmm`] — cgroup, jail, shim, Firecracker's API.
//! - [`tool`] — the one place that spawns a helper program; [`kvm`] — whether guests boot here.
//! - [`local`] — the `Host` port: one arm per effect; [`guest`] — the `Guest` port over vsock;
//!   [`lock`], [`clock`] — the `Locks` and `Clock` ports; [`boot_id`] — which boot this is.
//!
//! - [`ipc`] — the same ports across the wall between `mvm-hostd` and who has no root.
//!
//! It knows no policy, never retries, and decides nothing: `core::plan` chose every name and
//! number before it got here.

pub mod boot_id;
pub mod clock;
pub mod disk;
pub mod guest;
pub mod ipc;
pub mod kvm;
pub mod local;
pub mod lock;
pub mod net;
pub mod roots;
pub mod secrets;
pub mod tool;
pub mod vmm;
