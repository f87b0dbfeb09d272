//! Benchmarks against the bare Firecracker sequence, in one run on one host: `start-wake`, `clones`, `cold`.
//! Each prints a page with every raw sample.

#[path = "../bare.rs"]
mod bare;
#[path = "../clones.rs"]
mod clones;
#[path = "../cold.rs"]
mod cold;
#[path = "../collect.rs"]
mod collect;
#[path = "../rounds.rs"]
mod rounds;
#[path = "../start_wake.rs"]
mod start_wake;

use std::{
    io::{self, Write as _},
    process::ExitCode,
    sync::Arc,
};

use mvm::{Actor, Config, Context, Mvm, Overrides};
use tracing_subscriber::{
    Layer as _,
    filter::{LevelFilter, Targets},
    fmt,
    layer::SubscriberExt as _,
    registry,
    util::SubscriberInitExt as _,
};

use rounds::{Run, Steps, failed};

/// What MVM_LOG asks for goes to standard error, to see where time goes; what the host tells of its guests
/// goes to `steps`.
fn log(steps: Steps) {
    let guests = Targets::new().with_target("mvm_host::guest", LevelFilter::DEBUG);
    let asked = std::env::var("MVM_LOG").ok().and_then(|text| text.parse().ok());
    let told =
        asked.map(|filter: Targets| fmt::layer().with_writer(io::stderr).with_filter(filter));
    let _ = registry().with(steps.with_filter(guests)).with(told).try_init();
}

fn main() -> ExitCode {
    let steps = Steps::default();
    log(steps.clone());
    let mut words = std::env::args().skip(1);
    let what = words.next().unwrap_or_default();
    let rounds = words.next().and_then(|text| text.parse().ok()).unwrap_or(15);
    let done = Config::read(&Overrides::default())
        .and_then(|config| Mvm::open(&config))
        .map(|mvm| {
            let progress = Arc::new(steps.clone());
            let cx = Context { progress, ..Context::silent(Actor::Uid(0)) };
            Run { mvm, cx, steps, rounds }
        })
        .and_then(|run| match what.as_str() {
            "start-wake" => start_wake::run(&run, &mut io::stderr()),
            "cold" => cold::run(&run, &mut io::stderr()),
            "clones" => clones::run(&run, &mut io::stderr()),
            other => Err(failed("no such benchmark", &other)),
        });
    match done {
        Ok(page) => {
            let _ = io::stdout().write_all(page.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "mvm-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
