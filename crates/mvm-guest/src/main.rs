//! The agent inside a VM: one static binary, process 1 or started by another init.
//!
//! ```text
//!  (initramfs ──►) init ──► serve (vsock 5252) ──► dispatch ──► exec files health wake quiesce …
//!                     └──► identity (config drive) ──► workload   hooks ──► notify the host
//!                                                        └──► gateway, a program of its own
//! ```
//!
//! It knows this guest and the protocol, and refuses to know hosts, tenants' rights and policy.
//! It listens before it looks for drives, so that the host hears from it as early as possible. One that is
//! held makes ready before, since it becomes a base as soon as it is heard.

mod agent;
mod console;
mod dispatch;
mod drives;
mod exec;
mod failure;
mod files;
mod gateway;
mod health;
mod hooks;
mod identity;
mod init;
mod initramfs;
mod integrations;
mod kernel;
mod link;
mod net;
mod netlink;
mod probe;
mod process;
mod quiesce;
mod ready;
mod routes;
mod serve;
mod services;
mod story;
mod users;
mod wake;
mod workload;

use std::io;
use std::process::ExitCode;
use std::sync::Arc;

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use vsock::{VMADDR_CID_ANY, VsockListener};

use crate::agent::{Agent, Places};
use crate::console::say;
use crate::serve::spawn;

fn main() -> ExitCode {
    let is_init = std::process::id() == 1;
    init::set_last_resort(is_init);
    if !is_init && std::env::args().nth(1).as_deref() == Some(gateway::COMMAND) {
        let Err(error) = gateway::run(&Places::of_a_guest().config) else {
            return ExitCode::SUCCESS;
        };
        say(&format!("gateway: {error}"));
        return ExitCode::FAILURE;
    }
    if is_init && initramfs::is_here() {
        let Err(error) = initramfs::enter_root();
        console::alarm(&error.message);
        workload::restart();
        return ExitCode::FAILURE;
    }
    if is_init {
        init::set_up();
    } else {
        console::open();
        init::make_cgroups(false);
    }
    let agent = Arc::new(Agent::new(Places::of_a_guest(), is_init));
    let made = init::make_run_directory(&agent.places);
    if let Err(error) = made.and_then(|()| wake::raise_generation(&agent, 0)) {
        say(&error.message);
    }
    if let Err(error) = net::loopback_up() {
        say(&error.message);
    }
    identity::prepare(&agent);
    let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, mvm_proto::GUEST_PORT);
    match listener {
        Ok(listener) => {
            say("listening");
            let agent = Arc::clone(&agent);
            spawn("listener", move || serve::listen(&agent, &listener));
        }
        Err(error) => say(&format!("cannot listen on vsock: {error}")),
    }
    watch_hooks(&agent);
    let orders = orders(is_init);
    identity::boot(&agent);
    wait_for_the_end(&agent, orders)
}

fn watch_hooks(agent: &Arc<Agent>) {
    let agent = Arc::clone(agent);
    spawn("hooks", move || {
        let watched = agent.hooks.watch(|state| serve::notify_host(&agent, state));
        if let Err(error) = watched {
            say(&format!("cannot watch the worker hooks: {error}"));
        }
    });
}

/// The signals that are orders to go down. Process 1 gets TERM, USR1 and USR2 from `reboot`, `halt`
/// and `poweroff` (busybox `init/halt.c`), INT from ctrl-alt-del. Without a handler it would not
/// notice them, so they are caught before the workload starts.
fn orders(is_init: bool) -> io::Result<Signals> {
    let of_init: &[i32] = if is_init { &[SIGUSR1, SIGUSR2] } else { &[] };
    Signals::new([SIGINT, SIGTERM].iter().chain(of_init))
}

/// Process 1 never returns: a signal is the order to go down, and so is its own failure. All orders
/// end in a restart, because that is what makes the VMM exit.
fn wait_for_the_end(agent: &Arc<Agent>, orders: io::Result<Signals>) -> ExitCode {
    let grace = |agent: &Agent| {
        let policy = agent.config().map(|config| config.min_runtime_policy);
        policy.unwrap_or_default().graceful_shutdown_seconds
    };
    match orders {
        Ok(mut orders) => {
            if orders.forever().next().is_some() && agent.is_init {
                workload::shut_down(agent, grace(agent), || {});
            }
        }
        Err(error) => say(&format!("cannot wait for signals: {error}")),
    }
    if agent.is_init {
        workload::restart();
    }
    ExitCode::SUCCESS
}
