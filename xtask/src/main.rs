//! The project's own tasks: `cargo xtask <task>`; never shipped.
//!
//! Each task is a module. `check` holds the rules of the code base, `host` the test host, `e2e`
//! the tests that run in it, `ci` their order.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a task speaks to its user")]

mod apt;
mod binaries;
mod cache;
mod check;
mod ci;
mod dist;
mod docs;
mod e2e;
mod error;
mod evidence;
mod firecracker;
mod host;
mod interrupt;
mod kernel;
mod native;
mod process;
mod provider;
mod script;
mod suite;
mod tasks;
mod tool;
mod workspace;

use std::process::ExitCode;

fn main() -> ExitCode {
    tasks::main()
}
