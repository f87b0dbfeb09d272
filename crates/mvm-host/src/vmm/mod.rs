//! One VM as processes and files: cgroup, jail, shim, Firecracker's API.
//!
//! ```text
//!  cgroup ─► jail (ram, config) ─► spawn (shim ─► jailer ─► Firecracker) ─► boot │ snapshot::load
//!                                          │ records ◄─ markers                │
//!                                          ▼                                   ▼
//!                                       observe ◄──────── http ◄── api ◄── pause │ snapshot::write
//! ```
//!
//! - [`place`] — where everything of one instance is; [`records`] — what is written down about it.
//! - [`cgroup`], [`ram`], [`jail`] — what a VM stands on; [`config`] — what its guest is told.
//! - [`spawn`] — from nothing to a VMM whose API answers, and back.
//! - [`http`], [`api`] — Firecracker's API; [`boot`], [`mod@base`], [`snapshot`] — what is asked of it;
//!   [`dump`] — what it writes of a guest.
//! - [`pager`] — who serves a woken guest's memory; [`touched`] — what of it the guest used.
//! - [`image`] — the files of an image; [`version`] — the Firecracker that is used.
//! - [`logs`] — what the shim kept of console and VMM.
//! - [`observe`] — the truth about it; [`facts`] — the truth about the host.
//! - [`socket`] — Unix sockets below long paths, with deadlines; [`fault`] — I/O errors with the act.
//!
//! It refuses to know why: no state, no policy, no retry. Nothing in here signals a process that
//! is not held by a pidfd or is outside of an instance's own cgroup.

mod advice;
pub mod api;
pub mod base;
pub mod boot;
pub mod cgroup;
pub mod config;
pub mod console;
pub mod dump;
pub mod facts;
pub mod fault;
pub mod http;
pub mod image;
pub mod jail;
pub mod logs;
pub mod meter;
pub mod mounts;
pub mod observe;
pub mod pager;
pub mod place;
pub mod ram;
pub mod records;
pub mod secrets;
pub mod snapshot;
pub mod socket;
pub mod spawn;
pub mod touched;
pub mod version;
