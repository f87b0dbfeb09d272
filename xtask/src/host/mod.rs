//! The test host: a full Debian with KVM in a software-emulated machine.
//!
//! A host is never booted for a test; it is resumed, pristine, from a state frozen once, and gone
//! when its `TestHost` is dropped, when the task is interrupted, and at the latest when the next
//! task sweeps what a killed one left. Only x86_64 Linux with Debian's packages can run it.
//!
//! Read next: `image` (what is in it), `machine` (how it is started), `payload` (what is put in).

mod image;
mod machine;
mod monitor;
mod payload;
mod rundir;
mod session;
mod settle;

pub(crate) mod command;
mod network;
mod test_host;

pub(crate) use image::current_key;
pub(crate) use network::Group;
pub(crate) use payload::{Payload, Put, default_image};

pub(crate) use rundir::{RunDir, end_all, sweep};
pub(crate) use test_host::{HostFiles, TestHost};
