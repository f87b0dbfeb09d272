//! The `mvm` command line: arguments in, text or JSON out.

mod args;
mod commands;
mod exit;
mod forward;
mod log;
mod manual;
mod render;
mod run;
mod schema;
mod show;
mod terminal;
mod usage;

fn main() -> std::process::ExitCode {
    run::main()
}
