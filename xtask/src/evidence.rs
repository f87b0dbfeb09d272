//! The written result of a full run: what was run, on which commit, how it ended, how long it took.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Act, Result};
use crate::suite::Outcome;
use crate::{e2e, tool, workspace};

/// One phase of a run and how long it took.
pub(crate) struct Phase {
    /// Its name.
    pub(crate) name: &'static str,
    /// Its duration.
    pub(crate) elapsed: Duration,
    /// Why it failed.
    pub(crate) failure: Option<String>,
}

/// Today in UTC, `YYYY-MM-DD`.
pub(crate) fn today() -> Result<String> {
    Ok(tool::capture(&mut tool::command(&["date", "-u", "+%F"]))?.trim().to_owned())
}

/// Writes `docs/evidence/<date>-full.md`.
pub(crate) fn write(
    command: &str,
    phases: &[Phase],
    outcomes: &[Outcome],
    figures: &[String],
) -> Result<PathBuf> {
    let dir = e2e::evidence_dir();
    fs::create_dir_all(&dir).act(|| format!("create {}", dir.display()))?;
    let date = today()?;
    let path = dir.join(format!("{date}-full.md"));
    let mut text = render(&date, &commit()?, command, phases, outcomes);
    if !figures.is_empty() {
        text.push_str(&format!("\n- {}\n", figures.join("\n- ")));
    }
    fs::write(&path, text).act(|| format!("write {}", path.display()))?;
    Ok(path)
}

/// The commit that is checked out, marked when files differ from it.
fn commit() -> Result<String> {
    let git = |words: &[&str]| {
        tool::capture(tool::command(&["git"]).args(words).current_dir(workspace::root()))
    };
    let id = git(&["rev-parse", "HEAD"])?.trim().to_owned();
    let is_clean = git(&["status", "--porcelain", "--untracked-files=no"])?.trim().is_empty();
    Ok(if is_clean { id } else { format!("{id} with uncommitted changes") })
}

fn render(
    date: &str,
    commit: &str,
    command: &str,
    phases: &[Phase],
    outcomes: &[Outcome],
) -> String {
    let mut text = format!(
        "# Full run of {date}\n\nCommit: `{commit}`\n\nCommand: `{command}`\n\n\
         | phase | result | seconds |\n|---|---|---|\n"
    );
    for phase in phases {
        text.push_str(&row(phase.name, phase.failure.as_deref(), phase.elapsed));
    }
    text.push_str("\n| end-to-end script | result | seconds |\n|---|---|---|\n");
    for outcome in outcomes {
        let name = format!(
            "{}{}",
            outcome.name,
            said(&fs::read_to_string(&outcome.log).unwrap_or_default())
        );
        text.push_str(&row(&name, outcome.failure.as_deref(), outcome.elapsed));
    }
    let failed = outcomes.iter().filter(|outcome| outcome.failure.is_some()).count();
    text.push_str(&format!("\n{} passed, {failed} failed\n", outcomes.len() - failed));
    text
}

/// What a script's log says of its size: how many checks held, and from which seed it chose.
fn said(log: &str) -> String {
    let checks =
        log.lines().filter(|line| line.starts_with("ok: ") || line.starts_with("PASS ")).count();
    let seed = log.lines().find(|line| line.starts_with("SEED="));
    let checks = (checks > 0).then(|| format!("{checks} checks"));
    let parts: Vec<&str> = checks.as_deref().into_iter().chain(seed).collect();
    if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) }
}

fn row(name: &str, failure: Option<&str>, elapsed: Duration) -> String {
    let result = failure.map_or_else(|| "passed".to_owned(), |why| format!("FAILED: {why}"));
    let result = result.replace('|', "\\|").replace('\n', " ");
    format!("| {name} | {result} | {:.1} |\n", elapsed.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_told_with_its_checks_and_its_seed() {
        let log = "== begin\nSEED=7 MOMENTS=30\nok: one\nFAILED: x\nok: two\n";
        assert_eq!(said(log), " (2 checks, SEED=7 MOMENTS=30)");
        assert_eq!(said("no word"), "");
    }

    #[test]
    fn the_page_names_commit_command_results_and_the_sum() {
        let outcome = |name: &str, failure: Option<&str>| Outcome {
            name: name.into(),
            failure: failure.map(str::to_owned),
            elapsed: Duration::from_millis(1_500),
            log: "log".into(),
        };
        let phase = Phase { name: "check", elapsed: Duration::from_secs(2), failure: None };
        let outcomes = [outcome("a", None), outcome("b", Some("exit | 1"))];
        let text = render("2030-01-02", "abc", "cargo xtask full", &[phase], &outcomes);
        assert!(text.contains("Commit: `abc`") && text.contains("Command: `cargo xtask full`"));
        assert!(text.contains("| check | passed | 2.0 |") && text.contains("| a | passed | 1.5 |"));
        assert!(text.contains(r"| b | FAILED: exit \| 1 | 1.5 |"));
        assert!(text.ends_with("\n1 passed, 1 failed\n"));
    }
}
