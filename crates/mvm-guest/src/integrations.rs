//! Integrations: each keeps its state under `/data/integrations/<name>` and has commands that
//! save and restore it (SPEC §5).
//!
//! This module refuses to know which of them are critical; it only passes that on.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Instant, UNIX_EPOCH};

use mvm_proto::message::{IntegrationFailure, IntegrationState};
use mvm_proto::{FailureKind, Integration, Reply};

use crate::agent::Agent;
use crate::console::say;
use crate::failure::{Context, Outcome, failure};
use crate::{exec, quiesce};

/// The file in an integration's directory that says when it was saved.
const CHECKPOINT: &str = "checkpoint";

/// Makes the places of the integrations that the guest was told of.
pub(crate) fn prepare(agent: &Agent) {
    let all = agent.config().map(|config| config.integrations).unwrap_or_default();
    for integration in all {
        if let Err(error) = directory(agent, &integration.name) {
            say(&error.message);
        }
    }
}

/// Runs the checkpoint commands, one after the other.
pub(crate) fn checkpoint(agent: &Agent, all: &[Integration], timeout_secs: u32) -> Reply {
    let deadline = exec::seconds_from_here(timeout_secs);
    each(all, |integration| {
        quiesce::unfreeze(agent)?;
        let directory = directory(agent, &integration.name)?;
        run(agent, integration, integration.checkpoint_cmd.as_deref(), &directory, deadline)?;
        let stamp = format!("{}\n", crate::hooks::now_ms());
        fs::write(directory.join(CHECKPOINT), stamp).because("cannot write the checkpoint")
    })
}

/// Runs the restore commands, one after the other.
pub(crate) fn restore(agent: &Agent, all: &[Integration], timeout_secs: u32) -> Reply {
    let deadline = exec::seconds_from_here(timeout_secs);
    each(all, |integration| {
        let directory = directory(agent, &integration.name)?;
        run(agent, integration, integration.restore_cmd.as_deref(), &directory, deadline)
    })
}

fn each(all: &[Integration], act: impl Fn(&Integration) -> Outcome<()>) -> Reply {
    let failed: Vec<IntegrationFailure> = all
        .iter()
        .filter_map(|integration| {
            let error = act(integration).err()?;
            Some(IntegrationFailure {
                name: integration.name.clone(),
                detail: error.message,
                critical: integration.critical,
            })
        })
        .collect();
    Reply::Integrations { success: failed.is_empty(), failed }
}

fn run(
    agent: &Agent,
    integration: &Integration,
    command: Option<&[String]>,
    directory: &Path,
    deadline: Instant,
) -> Outcome<()> {
    let Some((program, arguments)) = command.and_then(<[String]>::split_first) else {
        return Ok(());
    };
    let program = crate::users::find_program(program, exec::DEFAULT_PATH, Path::new("/"))?;
    let mut command = exec::hook_command(agent, &program.display().to_string())?;
    command.args(arguments).current_dir(directory).env("MVM_INTEGRATION", &integration.name);
    exec::run_hook(&mut command, deadline)
}

/// The integration's directory with its `state`, made when missing.
fn directory(agent: &Agent, name: &str) -> Outcome<PathBuf> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.starts_with('.') || !name.bytes().all(is_plain) {
        return failure(FailureKind::Invalid, format!("{name:?} is no name of an integration"));
    }
    let directory = agent.places.data.join("integrations").join(name);
    fs::create_dir_all(directory.join("state")).because("cannot make the integration's place")?;
    Ok(directory)
}

/// What is stored of each integration.
pub(crate) fn status(agent: &Agent) -> Reply {
    let entries = fs::read_dir(agent.places.data.join("integrations"));
    let mut integrations: Vec<IntegrationState> = entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| {
            let modified = fs::metadata(entry.path().join(CHECKPOINT)).and_then(|f| f.modified());
            let since = modified.ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            IntegrationState {
                name: entry.file_name().to_string_lossy().into_owned(),
                has_checkpoint: since.is_some(),
                checkpointed_at: since.and_then(|since| u64::try_from(since.as_millis()).ok()),
            }
        })
        .collect();
    integrations.sort_by(|a, b| a.name.cmp(&b.name));
    Reply::IntegrationStatus { integrations }
}
