//! From the arguments to the exit code.

use std::{
    ffi::OsString,
    io,
    process::ExitCode,
    sync::{Arc, Once},
};

use clap::ArgMatches;
use mvm::{
    Actor, Cancel, Config, Context, Error, ErrorKind, Filter, LogFormat, Mvm, Operation,
    OperationId, Outcome, Overrides, Preview, SPAN, dev,
    forward::Published,
    provider::{self, Packages, Place},
};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::{
    args::{
        AgentCommand, Command, DevArgs, Format, Global, InstanceCommand, NodeCommand,
        TemplateCommand,
    },
    commands, exit, forward, log, manual,
    render::{self, progress::Reporter},
    show, usage,
};

/// Runs the command line of this process.
pub(crate) fn main() -> ExitCode {
    let words = usage::words().split_off(1);
    if let Some((first, rest)) = words.split_first()
        && first == mvm::forward::SUBCOMMAND
    {
        return mvm::forward::main(rest.to_vec(), &ThisMachine);
    }
    let (cli, matches) = match usage::read() {
        Ok(read) => read,
        Err(code) => return code,
    };
    let operation = mvm::new_operation();
    match go(cli.command, &cli.global, &matches, words, &operation) {
        Ok(code) => code,
        Err(error) => {
            render::error::say(&error, cli.global.output(), Some(&operation));
            exit::of_error(&error)
        }
    }
}

/// Runs a command: those about the machine here, all others where microVMs run.
fn go(
    command: Command,
    global: &Global,
    matches: &ArgMatches,
    words: Vec<OsString>,
    operation: &OperationId,
) -> Result<ExitCode, Error> {
    let (overrides, config) = configured(&command, global)?;
    let uid = rustix::process::getuid().as_raw();
    let _entered = tracing::info_span!(target: SPAN, "asked", %operation, uid).entered();
    let given = Given { global, matches, words, operation };
    match &command {
        Command::Completions { shell } => manual::completions(*shell).map(|()| ExitCode::SUCCESS),
        Command::Manpages { dir } => manual::man_pages(dir).map(|()| ExitCode::SUCCESS),
        Command::Reference { dir } => manual::reference(dir).map(|()| ExitCode::SUCCESS),
        Command::BuildImage { order } => commands::machine::build_image(&config, order),
        Command::Config(command) => commands::config::run(global.output(), &overrides, command),
        Command::Bootstrap(args) => {
            commands::machine::bootstrap(global, &config, args, Packages::Install)
        }
        Command::Setup(args) => commands::machine::setup(global, &config, args, operation),
        Command::Doctor(args) => commands::machine::doctor(global, &config, args),
        Command::Status => commands::machine::status(global, &config),
        Command::Shell => commands::machine::shell(global, &config, matches),
        Command::Destroy(args) => commands::machine::destroy(global, &config, args, operation),
        Command::Upgrade(args) => commands::upgrade::run(global, &config, args),
        Command::Template(TemplateCommand::Init { dir }) => commands::template::init(global, dir),
        Command::SshConfig(args) => commands::dev::ssh_config(global, &config, args),
        Command::Stop(args) if args.machine => commands::machine::stop(global, &config),
        Command::Stop(_) if commands::machine::is_off(&config)? => {
            commands::machine::status(global, &config)
        }
        Command::Dev(args) => match commands::machine::make_ready(global, &config)? {
            Some(step) if global.dry_run => commands::dev::would_begin(global, step),
            Some(step) => {
                let words = [given.words, DevArgs::words(step)].concat();
                let given = Given { words, ..given };
                run_where_microvms_run(Command::Dev(args.and(step)), &config, given)
            }
            None => run_where_microvms_run(command, &config, given),
        },
        Command::Start(_)
        | Command::Stop(_)
        | Command::Ssh(_)
        | Command::Build(_)
        | Command::Run(_)
        | Command::Image(_)
        | Command::Tenant(_)
        | Command::Pool(_)
        | Command::Instance(_)
        | Command::Volume(_)
        | Command::Template(_)
        | Command::Agent(_)
        | Command::New(_)
        | Command::Deploy(_)
        | Command::Connect { .. }
        | Command::Add(_)
        | Command::Coordinator(_)
        | Command::Events(_)
        | Command::Node(_)
        | Command::Net(_) => run_where_microvms_run(command, &config, given),
    }
}

/// What a command line is besides its command.
struct Given<'a> {
    global: &'a Global,
    matches: &'a ArgMatches,
    words: Vec<OsString>,
    operation: &'a OperationId,
}

fn run_where_microvms_run(
    command: Command,
    config: &Config,
    given: Given<'_>,
) -> Result<ExitCode, Error> {
    let Given { global, matches, words, operation } = given;
    let machine = match provider::place(config)? {
        Place::Here => {
            if let Command::Node(NodeCommand::Rebuild { force }) = command {
                return commands::node::rebuild(global, config, operation, force);
            }
            if let Command::Add(command) = &command {
                return commands::add::run(global, config, operation, command);
            }
            return dispatch(&Session::open(global, config, operation)?, command);
        }
        Place::There(machine) => machine,
    };
    let is_exec = matches!(
        command,
        Command::Instance(InstanceCommand::Exec(_) | InstanceCommand::Ssh(_))
            | Command::Ssh(_)
            | Command::Run(_)
    );
    match forward::command(global, config, matches, words, &*machine) {
        Err(error) if is_exec => Ok(exec_failed(&error, global, operation)),
        ran => ran,
    }
}

/// What an `exec` ends with that did not come into the machine.
fn exec_failed(error: &Error, global: &Global, operation: &OperationId) -> ExitCode {
    render::error::say(error, global.output(), Some(operation));
    ExitCode::from(exit::EXEC_FAILED)
}

/// Reads the configuration and begins the log.
fn configured(command: &Command, global: &Global) -> Result<(Overrides, Config), Error> {
    let mut overrides = global.overrides();
    if let Command::Agent(AgentCommand::Serve(args)) = command {
        overrides.hostd_socket.clone_from(&args.hostd_socket);
    }
    let config = Config::read(&overrides)?;
    let form = match global.output() {
        Format::Json | Format::Yaml => LogFormat::Json,
        Format::Table => LogFormat::Human,
    };
    log::to_stderr(&config, form)?;
    Ok((overrides, config))
}

/// The machine that other commands are forwarded into.
struct ThisMachine;

impl ThisMachine {
    fn open() -> Result<Mvm, Error> {
        Mvm::open(&Config::read(&Overrides::default())?)
    }
}

impl mvm::forward::Inside for ThisMachine {
    fn put_to_rest(&self) -> Result<(), Error> {
        let cx = Context {
            actor: Actor::Uid(rustix::process::getuid().as_raw()),
            operation: None,
            cancel: Cancel::new(),
            progress: Arc::new(Reporter::Silent),
        };
        Self::open()?.rest(&cx)
    }

    fn published(&self) -> Vec<Published> {
        // A machine whose store cannot be read has said so to the command itself.
        let instances = Self::open().and_then(|mvm| mvm.instance_list(&Filter::All));
        let ports = instances.unwrap_or_default().into_iter().flat_map(|one| one.record.publish);
        // With an address a port is open at that address of the machine, which nobody outside has.
        let ports = ports.filter(|port| port.address.is_none());
        ports.map(|port| Published { port: port.host, protocol: port.protocol }).collect()
    }

    fn sources(&self) -> Result<String, Error> {
        let config = Config::read(&Overrides::default())?;
        if !dev::has_store(&config) {
            return Err(Error::new(ErrorKind::NotFound, "there are no records yet"));
        }
        Mvm::open(&config)?.sources()
    }
}

fn dispatch(session: &Session, command: Command) -> Result<ExitCode, Error> {
    match command {
        Command::Dev(args) => commands::dev::dev(session, args),
        Command::Start(args) => commands::dev::start(session, args),
        Command::Stop(_) => commands::dev::stop(session),
        Command::Ssh(args) => Ok(commands::dev::ssh(session, args)),
        Command::Build(args) => commands::build::run(session, &args),
        Command::Run(args) => Ok(commands::dev::run(session, args)),
        Command::Image(command) => commands::image::run(session, &command),
        Command::Tenant(command) => commands::tenant::run(session, command),
        Command::Pool(command) => commands::pool::run(session, command),
        Command::Instance(command) => commands::instance::run(session, command),
        Command::Volume(command) => commands::volume::run(session, command),
        Command::Template(command) => commands::template::run(session, command),
        Command::Agent(command) => commands::agent::run(session, command),
        Command::New(args) => commands::new::run(session, args),
        Command::Deploy(args) => commands::deploy::run(session, &args),
        Command::Connect { name } => commands::connect::run(session, &name),
        Command::Coordinator(command) => commands::coordinator::run(session, command),
        Command::Events(args) => commands::events::run(session, &args),
        Command::Node(command) => commands::node::run(session, &command),
        Command::Net(command) => commands::net::run(session, &command),
        Command::Add(_)
        | Command::Config(_)
        | Command::Completions { .. }
        | Command::Manpages { .. }
        | Command::Reference { .. }
        | Command::BuildImage { .. }
        | Command::Bootstrap(_)
        | Command::Setup(_)
        | Command::Doctor(_)
        | Command::Status
        | Command::Shell
        | Command::SshConfig(_)
        | Command::Destroy(_)
        | Command::Upgrade(_) => Err(Error::new(ErrorKind::Failed, "this command has no session")),
    }
}

/// What every command works with.
pub(crate) struct Session {
    pub(crate) mvm: Mvm,
    pub(crate) cx: Context,
    pub(crate) format: Format,
    quiet: bool,
    dry_run: bool,
    signals: Once,
}

impl Session {
    pub(crate) fn open(
        global: &Global,
        config: &Config,
        operation: &OperationId,
    ) -> Result<Self, Error> {
        let mvm = Mvm::open(config)?.for_operation(operation.clone());
        let cx = Context {
            actor: Actor::Uid(rustix::process::getuid().as_raw()),
            operation: Some(operation.clone()),
            cancel: Cancel::new(),
            progress: Arc::new(Reporter::of(global)),
        };
        let dry_run = global.dry_run;
        let format = global.output();
        Ok(Self { mvm, cx, format, quiet: global.quiet, dry_run, signals: Once::new() })
    }

    /// Does an operation and says what it did; with `--dry-run` says what it would do.
    pub(crate) fn operate(&self, operation: &Operation) -> Result<ExitCode, Error> {
        let plan = || self.mvm.plan(&self.cx, operation);
        self.act(plan, || self.mvm.operate(&self.cx, operation))
    }

    /// As [`Session::operate`], for what is more than one operation.
    pub(crate) fn act(
        &self,
        plan: impl FnOnce() -> Result<Preview, Error>,
        work: impl FnOnce() -> Result<Outcome, Error>,
    ) -> Result<ExitCode, Error> {
        if self.dry_run {
            self.print(&plan()?, show::preview)?;
            return Ok(ExitCode::SUCCESS);
        }
        self.stop_on_signals();
        let outcome = work()?;
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

    /// Says what was done, unless only results are wanted; in JSON it is the result.
    pub(crate) fn tell<T: serde::Serialize>(
        &self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), Error> {
        if self.format == Format::Table && self.quiet { Ok(()) } else { self.print(value, text) }
    }

    /// Says on standard error what a person should see go by, unless only results are wanted.
    pub(crate) fn say(&self, text: &str) {
        if !self.quiet {
            render::error::note(text);
        }
    }

    /// Prints a result in the form that was asked for.
    pub(crate) fn print<T: serde::Serialize>(
        &self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), Error> {
        print(self.format, value, text)
    }

    /// From now on the first SIGINT or SIGTERM stops after the current effect, the second at once.
    pub(crate) fn stop_on_signals(&self) {
        self.signals.call_once(|| {
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
        });
    }
}

/// Prints a result in the form that was asked for; nobody reading it is no error.
pub(crate) fn print<T: serde::Serialize>(
    format: Format,
    value: &T,
    text: impl FnOnce(&T) -> String,
) -> Result<(), Error> {
    match render::result(format, value, text) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::new(ErrorKind::Failed, "cannot print the result").because(&error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
