//! A whole command line, run by the `mvm` of another machine as if it ran here.
//!
//! ```text
//! caller's mvm ── frames over a provider's link ──▶ `mvm __forwarded` ── spawns ──▶ mvm ARGV
//!   terminal, signals, input ─▶                                         pipes or a pty
//!   files of the caller      ─▶  session directory ◀── `CallerPath` finds them there
//!                            ◀─ output, errors, files to bring back, exit code
//! ```
//! The argument vector travels as data and arrives unchanged; there is no shell. A path of the
//! caller is a [`CallerPath`], and nothing else: the far side looks up where its file was put.
//! What carries the bytes is a provider's affair; see [`crate::provider`].

mod carry;
mod client;
mod launch;
mod path;
mod server;
#[cfg(test)]
pub(crate) mod tests;
mod wire;

pub use carry::{Carried, There, Way};
pub use client::{Ended, Link, hello, run};
pub use path::{CallerPath, ImagePath, InputPath, OutputPath};
pub use server::{Inside, SUBCOMMAND, main};
pub use wire::{Act, Hello, Published, Request};

pub(crate) use server::{PROGRAMS_FILE, is_far};
