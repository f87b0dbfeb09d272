//! `cargo xtask host …`: test hosts for people and scripts.

use std::fs;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use super::machine::Lifetime;
use super::network::Group;
use super::payload::{Payload, Put};
use super::test_host::{HostFiles, TestHost};
use crate::binaries::Profile;
use crate::cache::Cache;
use crate::error::{Act, Error, Result};
use crate::script::Load;

/// What to do with test hosts.
#[derive(Debug, Subcommand)]
pub(crate) enum Host {
    /// Start a host that stays
    Up(Start),
    /// Run a command (default: a shell) in the host that stays
    Ssh {
        /// The command and its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// End the host that stays
    Down,
    /// Run a command in pristine hosts and end them
    Run {
        #[command(flatten)]
        start: Start,
        /// How many hosts; the command runs on host1
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=9))]
        hosts: u8,
        /// The command and its arguments; a shell when left out
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Make everything a host needs, without starting one
    Make,
}

/// What goes into a host.
#[derive(Debug, Args)]
pub(crate) struct Start {
    /// Copy a file or directory into the host
    #[arg(long, value_name = "PATH:DEST")]
    put: Vec<Put>,
    /// Build the host's programs as shipped
    #[arg(long)]
    release: bool,
}

/// Where the host that stays is.
#[derive(Debug, Serialize, Deserialize)]
struct Up {
    dir: PathBuf,
    key: PathBuf,
    port: u16,
}

/// Runs one of the subcommands.
pub(crate) fn run(host: Host) -> Result<ExitCode> {
    let cache = Cache::open()?;
    match host {
        Host::Up(start) => up(&cache, &start),
        Host::Ssh { command } => {
            let up = current(&cache)?.ok_or_else(|| Error::refused("no host is up"))?;
            follow(&TestHost::adopt(up.dir, &up.key, up.port), command)
        }
        Host::Down => {
            end_current(&cache)?;
            Ok(ExitCode::SUCCESS)
        }
        Host::Run { start, hosts, command } => in_hosts(&cache, &start, hosts, command),
        Host::Make => {
            HostFiles::ensure(&cache)?;
            drop(Payload::build(&cache, Profile::Dev, &Load::new(), &[])?);
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn in_hosts(cache: &Cache, start: &Start, hosts: u8, command: Vec<String>) -> Result<ExitCode> {
    let (files, payload) = prepare(cache, start)?;
    if hosts == 1 {
        let host = TestHost::resume(&files, &payload)?;
        return follow(&host, command);
    }
    let group = Group::resume(&files, &payload, usize::from(hosts))?;
    let first = group.first().ok_or_else(|| Error::refused("no host was asked for"))?;
    follow(first, command)
}

fn up(cache: &Cache, start: &Start) -> Result<ExitCode> {
    end_current(cache)?;
    let (files, payload) = prepare(cache, start)?;
    let mut host = TestHost::resume_for(&files, &payload, Lifetime::Ended)?;
    let up = Up { dir: host.dir().to_path_buf(), key: files.key(), port: host.port() };
    let text = serde_json::to_string(&up)
        .map_err(|source| Error::Json { what: "the record of the host".into(), source })?;
    fs::write(record(cache), text).act(|| "record the host".into())?;
    host.release()?;
    eprintln!("xtask: a host is up; `cargo xtask host ssh`, then `cargo xtask host down`");
    Ok(ExitCode::SUCCESS)
}

fn prepare(cache: &Cache, start: &Start) -> Result<(HostFiles, Payload)> {
    let files = HostFiles::ensure(cache)?;
    let profile = if start.release { Profile::Release } else { Profile::Dev };
    let payload = Payload::build(cache, profile, &Load::new(), &start.put)?;
    Ok((files, payload))
}

/// Runs the command with our standard streams and passes its exit code on.
fn follow(host: &TestHost, command: Vec<String>) -> Result<ExitCode> {
    let is_person = command.is_empty() && std::io::stdin().is_terminal();
    let command = if command.is_empty() { vec!["bash".to_owned()] } else { command };
    let mut ssh: Command = if is_person { host.ssh_terminal(&command) } else { host.ssh(&command) };
    let status = ssh.status().act(|| "start ssh".into())?;
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(255);
    Ok(ExitCode::from(code))
}

fn record(cache: &Cache) -> PathBuf {
    cache.root().join("up.json")
}

fn current(cache: &Cache) -> Result<Option<Up>> {
    let Ok(text) = fs::read_to_string(record(cache)) else { return Ok(None) };
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|source| Error::Json { what: "the record of the host".into(), source })
}

fn end_current(cache: &Cache) -> Result<()> {
    if let Some(up) = current(cache)? {
        super::rundir::RunDir::end(&up.dir);
        fs::remove_file(record(cache)).act(|| "forget the host".into())?;
    }
    Ok(())
}
