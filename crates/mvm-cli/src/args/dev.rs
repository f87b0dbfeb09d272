//! The arguments of dev mode: one microVM for a person.

use std::ffi::OsString;

use clap::Args;
use mvm::{
    dev::{Step, VolumeAsk},
    forward::{ImagePath, InputPath},
};

#[derive(Debug, Args)]
pub(crate) struct SetupArgs {
    /// Refuse from now on what weakens isolation: writes `production = true` into config.toml
    #[arg(long)]
    pub(crate) production: bool,
    /// Make it anew: the machine for microVMs with all that is in it; on this machine, the dev VM
    #[arg(long)]
    pub(crate) recreate: bool,
    /// Do not ask before something is made anew
    #[arg(long, visible_alias = "yes", requires = "recreate")]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// A step that was done before this command was handed over
    #[arg(long, hide = true, value_parser = step)]
    pub(crate) after: Vec<Step>,
}

impl DevArgs {
    /// These, after one step more.
    pub(crate) fn and(&self, step: Step) -> Self {
        Self { after: [self.after.as_slice(), &[step]].concat() }
    }

    /// The words that say so to another `mvm`.
    pub(crate) fn words(step: Step) -> Vec<OsString> {
        let name = serde_json::to_value(step).unwrap_or_default();
        vec!["--after".into(), name.as_str().unwrap_or_default().into()]
    }
}

fn step(word: &str) -> Result<Step, serde_json::Error> {
    serde_json::from_value(word.into())
}

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// The image: a directory with an Mvmfile.toml, a hash, or what pools take [default: that of before, else default]
    pub(crate) image: Option<ImagePath>,
    /// vCPUs [default: those of before, else 2]
    #[arg(long, value_name = "N")]
    pub(crate) cpus: Option<u32>,
    /// Memory [default: that of before, else 1024]
    #[arg(long, value_name = "MIB")]
    pub(crate) memory: Option<u32>,
    /// Give it a volume that outlives it, filled from a directory of this host when it is made
    #[arg(long, value_name = "HOST:GUEST:SIZE")]
    pub(crate) volume: Vec<VolumeAsk>,
    /// Take what is not said here from a file: cpus, memory, volumes
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<InputPath>,
}

#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// Stop the machine for microVMs, too; all that run in it are stopped first
    #[arg(long)]
    pub(crate) machine: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DevSshArgs {
    /// Log in as this user
    #[arg(short, long, value_name = "USER")]
    pub(crate) login: Option<String>,
    /// Give a command line a terminal, too
    #[arg(long, short)]
    pub(crate) tty: bool,
    /// Carry standard input and output to the SSH server of its image, for OpenSSH's ProxyCommand
    #[arg(long, conflicts_with_all = ["login", "tty", "command"])]
    pub(crate) stdio: bool,
    /// The command line, which a login shell reads
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The image is built from this flake
    #[arg(long, value_name = "REF", conflicts_with = "image")]
    pub(crate) flake: Option<String>,
    /// The image: a directory with an Mvmfile.toml, a hash, or what pools take [default: default]
    #[arg(long, value_name = "IMAGE")]
    pub(crate) image: Option<ImagePath>,
    /// vCPUs [default: 2]
    #[arg(long, value_name = "N")]
    pub(crate) cpus: Option<u32>,
    /// Memory [default: 1024]
    #[arg(long, value_name = "MIB")]
    pub(crate) memory: Option<u32>,
    /// Give the command a terminal
    #[arg(long, short)]
    pub(crate) tty: bool,
    /// Pass standard input to the command
    #[arg(long, short)]
    pub(crate) interactive: bool,
    /// The command and its arguments; a login shell if there is none
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct SshConfigArgs {
    /// The name that OpenSSH shall know the dev VM by
    #[arg(long, value_name = "NAME", default_value = "mvm-dev")]
    pub(crate) host: String,
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    #[test]
    fn what_was_done_before_dev_is_handed_over_is_heard_there_in_its_order() {
        let mut words = vec![OsString::from("mvm"), "--json".into(), "dev".into()];
        let steps = [Step::Bootstrap, Step::SetUp, Step::StartMachine];
        words.extend(steps.into_iter().flat_map(DevArgs::words));
        let Command::Dev(heard) = Cli::try_parse_from(words).unwrap().command else {
            unreachable!("it is dev")
        };
        assert_eq!(heard.after, steps);
        assert_eq!(heard.and(Step::Make).after.last(), Some(&Step::Make));
        assert!(Cli::try_parse_from(["mvm", "dev", "--after", "lunch"]).is_err());
    }
}
