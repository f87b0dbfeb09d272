//! The command line as types; parsing is clap's, meaning is the library's.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use mvm::{LogFormat, Overrides, TenantId};

mod agent;
mod config;
mod deploy;
mod dev;
mod events;
mod examples;
mod fleet;
mod image;
mod instance;
mod logs;
mod machine;
mod net;
mod node;
mod pool;
mod template;
mod tenant;
mod volume;

pub(crate) use agent::{AgentCommand, DesiredArgs, ReconcileArgs, ServeArgs};
pub(crate) use config::ConfigCommand;
pub(crate) use deploy::{DeployArgs, NewArgs};
pub(crate) use dev::{DevArgs, DevSshArgs, RunArgs, SetupArgs, SshConfigArgs, StartArgs, StopArgs};
pub(crate) use events::EventsArgs;
pub(crate) use fleet::{
    AddCommand, AddHostArgs, ApproveArgs, AuthorityArgs, CertsCommand, CoordinatorCommand,
    PeerArgs, PushArgs, RemoteEventsArgs, RemoteMoveArgs, RenewArgs, RevokeArgs, TermsArgs,
    TlsArgs, TokenArgs,
};
pub(crate) use image::{BuildArgs, ImageCommand};
pub(crate) use instance::{
    CopyArgs, CopySide, ExecArgs, InstanceCommand, PortsArgs, SshArgs, drain,
};
pub(crate) use logs::LogsArgs;
pub(crate) use machine::{BootstrapArgs, DoctorArgs, ForceArgs, UpgradeArgs};
pub(crate) use net::NetCommand;
pub(crate) use node::NodeCommand;
pub(crate) use pool::{PoolCommand, PoolCreateArgs};
pub(crate) use template::{TemplateBuildArgs, TemplateCommand};
pub(crate) use tenant::{KeyCommand, SecretsCommand, TenantCommand, TenantCreateArgs};
pub(crate) use volume::{VolumeCommand, Volumes};

/// Run fleets of Firecracker microVMs: many tenants, each behind its own walls
#[derive(Debug, Parser)]
#[command(name = "mvm", version, disable_help_subcommand = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that every command takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Print more about what is done
    #[arg(long, short, global = true, conflicts_with = "quiet")]
    pub(crate) verbose: bool,
    /// Print nothing but results and errors
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    /// Read this configuration file
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config_file: Option<PathBuf>,
    /// Keep state in this directory [default: /var/lib/mvm]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Write log lines in this form [default: that of the results]
    #[arg(long, global = true, value_enum, value_name = "FORMAT")]
    pub(crate) log_format: Option<LogForm>,
    /// Print results in this form
    #[arg(long, global = true, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
    /// Show what would be done, and change nothing
    #[arg(long, global = true)]
    pub(crate) dry_run: bool,
    /// Print results as JSON; the same as --format json
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// What `--verbose` logs.
const VERBOSE: &str = "mvm=debug,mvm_engine=debug,mvm_host=debug";

impl Global {
    /// What the flags set over file and environment.
    pub(crate) fn overrides(&self) -> Overrides {
        Overrides {
            config_file: self.config_file.clone(),
            data_dir: self.data_dir.clone(),
            hostd_socket: None,
            log: self.verbose.then(|| VERBOSE.to_owned()),
            log_format: self.log_format.map(|form| match form {
                LogForm::Human => LogFormat::Human,
                LogForm::Json => LogFormat::Json,
            }),
        }
    }

    /// The form of results that was asked for.
    pub(crate) const fn output(&self) -> Format {
        if self.json { Format::Json } else { self.format }
    }
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogForm {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Tables and sentences, for people.
    Table,
    /// One JSON document, for programs.
    Json,
    /// The same document as YAML.
    Yaml,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Set up everything that microVMs need here; without usable KVM, a machine for them
    Bootstrap(BootstrapArgs),
    /// Set up everything but the packages, which must be there
    Setup(SetupArgs),
    /// Check this machine, and say what to do about what is wrong; exit 1 on failures
    Doctor(DoctorArgs),
    /// Do what leads to a shell in the dev VM from wherever things are: bootstrap, setup, start, wake
    Dev(DevArgs),
    /// Start the dev VM, one microVM for yourself, and open a shell in it
    #[command(after_long_help = examples::START)]
    Start(StartArgs),
    /// Stop the dev VM
    Stop(StopArgs),
    /// Open a login shell in the dev VM, or run a command line in one
    Ssh(DevSshArgs),
    /// Print what OpenSSH needs to know to reach the dev VM's SSH server
    SshConfig(SshConfigArgs),
    /// Run a command in a microVM that is made for it and gone afterwards
    #[command(after_long_help = examples::RUN)]
    Run(RunArgs),
    /// Show where microVMs run, and the dev VM
    Status,
    /// Open a shell where microVMs run
    Shell,
    /// Destroy the dev VM with its volumes, and the machine for microVMs with all that is in it
    Destroy(ForceArgs),
    /// Install the newest version of mvm, verified by the release key, or bring back the former one
    #[command(after_long_help = examples::UPGRADE)]
    Upgrade(UpgradeArgs),
    /// Make the image of a directory with an Mvmfile.toml, and write it into a file if asked to
    #[command(after_long_help = examples::BUILD)]
    Build(BuildArgs),
    /// Write images into files, and take them from there
    #[command(subcommand)]
    Image(ImageCommand),
    /// Manage tenants: the boundary of network, quota and keys
    #[command(subcommand)]
    Tenant(TenantCommand),
    /// Manage pools of like instances
    #[command(subcommand)]
    Pool(PoolCommand),
    /// Manage single instances
    #[command(subcommand)]
    Instance(InstanceCommand),
    /// Manage data volumes that outlived their instance
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Manage templates: images that are built once for pools of all tenants, and their storage
    #[command(subcommand)]
    Template(TemplateCommand),
    /// Make a deployment of a template: a tenant with a gateway pool and a worker pool, built and scaled;
    /// safe to repeat
    #[command(after_long_help = examples::NEW)]
    New(NewArgs),
    /// Show a deployment at a glance: network, pools, instances and what to type next
    Connect {
        /// The deployment's name, which is the tenant's id
        name: TenantId,
    },
    /// Bring a tenant and its pools to what a manifest asks for
    #[command(after_long_help = examples::DEPLOY)]
    Deploy(DeployArgs),
    /// Work with the state that this node shall have
    #[command(subcommand)]
    Agent(AgentCommand),
    /// Add to a fleet
    #[command(subcommand)]
    Add(AddCommand),
    /// Say what nodes shall have, and ask them
    #[command(subcommand)]
    Coordinator(CoordinatorCommand),
    /// Show what happened to a tenant
    Events(EventsArgs),
    /// Look at this node
    #[command(subcommand)]
    Node(NodeCommand),
    /// Check the network
    #[command(subcommand)]
    Net(NetCommand),
    /// See the settings
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the completions of a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write one man page per command into a directory
    #[command(hide = true)]
    Manpages {
        /// The directory, made when missing
        dir: PathBuf,
    },
    /// Make an image that a daemon asked for, and print its hash
    #[command(hide = true)]
    BuildImage {
        /// The order, as JSON
        order: String,
    },
    /// Write the reference and the schemas into a directory
    #[command(hide = true)]
    Reference {
        /// The directory
        dir: PathBuf,
    },
}
