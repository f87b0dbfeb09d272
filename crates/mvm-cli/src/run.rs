//! From the arguments to the exit code.

use std::{io, process::ExitCode, sync::Arc};

use mvm::{Actor, Cancel, Config, Context, Error, ErrorKind, Mvm, Operation, Outcome, Overrides};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::{
    args::{Command, Format, Global},
    commands, exit,
    render::{self, progress::Reporter},
    show, usage,
};

/// Runs the command line of this process.
pub(crate) fn main() -> ExitCode {
    let cli = match usage::read() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    log_to_stderr(&cli.global);
    match Session::open(&cli.global).and_then(|session| dispatch(&session, cli.command)) {
        Ok(code) => code,
        Err(error) => {
            render::error::say(&error, cli.global.output());
            exit::of_error(&error)
        }
    }
}

fn dispatch(session: &Session, command: Command) -> Result<ExitCode, Error> {
    match command {
        Command::Tenant(command) => commands::tenant::run(session, command),
        Command::Pool(command) => commands::pool::run(session, command),
        Command::Instance(command) => commands::instance::run(session, command),
        Command::Agent(command) => commands::agent::run(session, command),
        Command::Events(args) => commands::events::run(session, &args),
        Command::Node(command) => commands::node::run(session, &command),
        Command::Net(command) => commands::net::run(session, &command),
    }
}

/// What every command works with.
pub(crate) struct Session {
    pub(crate) mvm: Mvm,
    pub(crate) cx: Context,
    pub(crate) format: Format,
    quiet: bool,
    dry_run: bool,
}

impl Session {
    fn open(global: &Global) -> Result<Self, Error> {
        let overrides = Overrides {
            config_file: global.config_file.clone(),
            data_dir: global.data_dir.clone(),
        };
        let mvm = Mvm::open(&Config::read(&overrides)?)?;
        let cx = Context {
            actor: Actor::Uid(rustix::process::getuid().as_raw()),
            cancel: Cancel::new(),
            progress: Arc::new(Reporter::of(global)),
        };
        let dry_run = global.dry_run;
        Ok(Self { mvm, cx, format: global.output(), quiet: global.quiet, dry_run })
    }

    /// Does an operation and says what it did; with `--dry-run` says what it would do.
    pub(crate) fn operate(&self, operation: &Operation) -> Result<ExitCode, Error> {
        if self.dry_run {
            let preview = self.mvm.plan(&self.cx, operation)?;
            self.print(&preview, show::preview)?;
            return Ok(ExitCode::SUCCESS);
        }
        self.stop_on_signals();
        let outcome = self.mvm.operate(&self.cx, operation)?;
        match self.format {
            Format::Json | Format::Yaml => {
                self.print(&show::outcome_json(&outcome), |_| String::new())?;
            }
            Format::Table if self.quiet => {}
            Format::Table => self.print(&outcome, |outcome: &Outcome| show::outcome(outcome))?,
        }
        match outcome.error() {
            Some(error) => Err(error),
            None => Ok(ExitCode::SUCCESS),
        }
    }

    /// Whether nothing may be changed.
    pub(crate) const fn is_rehearsal(&self) -> bool {
        self.dry_run
    }

    /// Prints a result in the form that was asked for.
    pub(crate) fn print<T: serde::Serialize>(
        &self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), Error> {
        match render::result(self.format, value, text) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(Error::new(ErrorKind::Failed, "cannot print the result").because(&error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// From now on the first SIGINT or SIGTERM stops after the current effect, the second at once.
    fn stop_on_signals(&self) {
        let cancel = self.cx.cancel.clone();
        if let Ok(mut signals) = Signals::new([SIGINT, SIGTERM]) {
            std::thread::spawn(move || {
                let mut caught = signals.forever();
                if caught.next().is_some() {
                    cancel.raise();
                }
                if caught.next().is_some() {
                    std::process::exit(i32::from(exit::CANCELLED));
                }
            });
        }
    }
}

fn log_to_stderr(global: &Global) {
    use tracing_subscriber::{EnvFilter, fmt};
    let wanted = std::env::var("MVM_LOG").ok().filter(|filter| !filter.is_empty());
    let filter = match (wanted, global.verbose) {
        (Some(filter), _) => filter,
        (None, true) => "mvm=debug,mvm_engine=debug,mvm_host=debug".to_owned(),
        (None, false) => return,
    };
    let layer = fmt().with_env_filter(EnvFilter::new(filter)).with_writer(io::stderr);
    if global.output() != Format::Table { layer.json().init() } else { layer.init() }
}
