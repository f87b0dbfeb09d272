//! `mvm-shim`: the parent of one VM's jailer and VMM, for as long as that VMM lives (SPEC §3).
//!
//! ```text
//!  launcher ── spec.json (locked) as stdin ──► shim ── forks, leaves the launcher's session
//!                                               │ enters the VMM's cgroup, spawns the jailer,
//!                                               │ goes to its own cgroup
//!            ◄── one line of Report ─────────── │ the API socket accepts
//!                                               │ drops to the instance's uid, no capabilities
//!                                               ▼ console, log FIFO, guest's calls, page server,
//!                                                 VMM's end
//!                                             exit.json
//! ```
//!
//! It is a crate of its own so that a program that is started for every VM links little and starts
//! fast; what launcher and shim tell each other is in [`record`], the one place of these types.
//! It refuses to know Firecracker's API, networks, disks and what an instance is for. Its death
//! never ends its VM: nothing the VMM needs passes through it.
//!
//! Read next: [`record`], then [`watch`].

pub mod console;
pub mod identity;
pub mod journal;
pub mod listener;
pub mod pager;
pub mod record;
pub mod relay;
pub mod ring;
pub mod socket;
pub mod start;
pub mod watch;

pub use identity::ProcessId;
pub use record::{Report, Spec};
