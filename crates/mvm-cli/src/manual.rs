//! What is written from the code about the code: the references `docs/cli.md` and
//! `docs/metrics.md`, the schemas, man pages.
//!
//! `cargo xtask docs` writes all but the last into the repository and `cargo xtask check` compares. All
//! text is that of `--help`; nothing here knows a command by name.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    path::Path,
};

use clap::{Arg, ArgAction, Command, CommandFactory};
use mvm::{Error, ErrorKind};
use serde_json::{Map, Value};

use crate::{args::Cli, schema};

/// The head of the reference.
const HEAD: &str = "# Command line reference\n\n\
    Written by `cargo xtask docs` from the command line's own definition; do not edit it.\n\n\
    A command that shows something prints it as a table, with `--json` as one JSON document whose\n\
    schema is linked here, with `--format yaml` as the same document in YAML. A command that changes\n\
    something reports what it did; with `--dry-run` it prints its plan and changes nothing. Results go\n\
    to standard output, everything else to standard error.\n\n\
    ## Exit codes\n\n\
    | code | meaning |\n|---|---|\n\
    | 0 | done |\n\
    | 1 | tried, and did not succeed; findings of `net verify`, a newer version for `upgrade --check` |\n\
    | 2 | the command line makes no sense |\n\
    | 3 | not found |\n\
    | 4 | conflict, or illegal in the present state |\n\
    | 5 | refused by quota or capacity |\n\
    | 6 | invalid input |\n\
    | 7 | not permitted |\n\
    | 8 | unavailable, or not in time |\n\
    | 9 | a signature, checksum or decryption does not verify |\n\
    | 125, 126, 127, 128+n | of `exec` and `ssh`: own failure, not executable, no such program, \
    signal n; else the guest's own code |\n\
    | 130 | stopped by Ctrl-C |\n\n";

/// Prints the completions of a shell.
///
/// # Errors
/// Standard output is gone.
pub(crate) fn completions(shell: clap_complete::Shell) -> Result<(), Error> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "mvm", &mut text);
    io::stdout().write_all(&text).map_err(|error| failed("cannot print the completions", &error))
}

/// Writes one man page per command.
///
/// # Errors
/// The directory cannot be written to.
pub(crate) fn man_pages(directory: &Path) -> Result<(), Error> {
    let act = format!("cannot write man pages to {}", directory.display());
    fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(built(), directory))
        .map_err(|error| failed(&act, &error))
}

/// Writes `cli.md`, `metrics.md` and `schemas/`; a schema of a command that is gone is removed.
///
/// # Errors
/// The directory cannot be written to.
pub(crate) fn reference(directory: &Path) -> Result<(), Error> {
    let act = format!("cannot write the reference to {}", directory.display());
    let schemas = directory.join("schemas");
    let write = || -> io::Result<()> {
        match fs::remove_dir_all(&schemas) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Err(_) | Ok(()) => {}
        }
        fs::create_dir_all(&schemas)?;
        let mut text = HEAD.to_owned();
        let root = built();
        text.push_str("## Global flags\n\n");
        options(&root, &mut text, Globals::Shown);
        walk(&root, &mut text, &schemas)?;
        fs::write(directory.join("metrics.md"), mvm::metrics::reference())?;
        fs::write(directory.join("cli.md"), format!("{}\n", text.trim_end()))
    };
    write().map_err(|error| failed(&act, &error))
}

fn failed(act: &str, error: &io::Error) -> Error {
    Error::new(ErrorKind::Failed, act).because(error)
}

fn built() -> Command {
    let mut root = Cli::command();
    root.build();
    root
}

fn walk(command: &Command, text: &mut String, schemas: &Path) -> io::Result<()> {
    for child in command.get_subcommands().filter(|child| !child.is_hide_set()) {
        if child.get_name() == "help" {
            continue;
        }
        if child.has_subcommands() {
            let name = full_name(child);
            let _ = writeln!(text, "## {name}\n\n{}.\n", about(child));
            walk(child, text, schemas)?;
        } else {
            page(child, text, schemas)?;
        }
    }
    Ok(())
}

fn page(command: &Command, text: &mut String, schemas: &Path) -> io::Result<()> {
    let name = full_name(command);
    let _ = writeln!(text, "### {name}\n\n{}.\n", about(command));
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").replace(" [OPTIONS]", "");
    let _ = writeln!(text, "```text\n{usage}\n```\n");
    let aliases: Vec<_> = command.get_visible_aliases().collect();
    if !aliases.is_empty() {
        let _ = writeln!(text, "Also called `{}`.\n", aliases.join("`, `"));
    }
    positionals(command, text);
    options(command, text, Globals::Hidden);
    if let Some(examples) = command.get_after_long_help() {
        let _ = writeln!(text, "{}\n", fenced(&examples.to_string()));
    }
    let file = name.trim_start_matches("mvm ").replace(' ', "-");
    if let Some(schema) = schema::of_command(&file) {
        let _ = writeln!(text, "JSON: [schemas/{file}.json](schemas/{file}.json)\n");
        fs::write(schemas.join(format!("{file}.json")), by_line(&schema))?;
    }
    Ok(())
}

/// A schema with one line a type, so that a change shows as a line.
fn by_line(schema: &Value) -> String {
    let none = Map::new();
    let fields = schema.as_object().unwrap_or(&none);
    let definitions = fields.get("$defs").and_then(Value::as_object).unwrap_or(&none);
    let line =
        |(name, value): (&String, &Value)| format!("{}: {value}", Value::from(name.as_str()));
    let mut lines: Vec<_> = fields.iter().filter(|(name, _)| *name != "$defs").map(line).collect();
    let types: Vec<_> = definitions.iter().map(line).collect();
    lines.push(format!("\"$defs\": {{\n    {}\n  }}", types.join(",\n    ")));
    format!("{{\n  {}\n}}\n", lines.join(",\n  "))
}

/// Examples as a block for reading.
fn fenced(examples: &str) -> String {
    let body = examples.trim().trim_start_matches("Examples:").trim_matches('\n');
    let lines: Vec<_> = body.lines().map(|line| line.strip_prefix("  ").unwrap_or(line)).collect();
    format!("```text\n{}\n```", lines.join("\n").trim())
}

fn full_name(command: &Command) -> String {
    command.get_bin_name().unwrap_or_else(|| command.get_name()).to_owned()
}

fn about(command: &Command) -> String {
    let about = command.get_long_about().or_else(|| command.get_about());
    about.map(ToString::to_string).unwrap_or_default().trim_end_matches('.').to_owned()
}

fn positionals(command: &Command, text: &mut String) {
    let shown: Vec<&Arg> = command.get_positionals().filter(|arg| !arg.is_hide_set()).collect();
    if shown.is_empty() {
        return;
    }
    text.push_str("| argument | meaning |\n|---|---|\n");
    for arg in shown {
        let name = arg.get_value_names().and_then(<[_]>::first).map_or("", |name| name.as_str());
        let _ = writeln!(text, "| `{name}` | {} |", help(arg));
    }
    text.push('\n');
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Globals {
    Shown,
    Hidden,
}

fn options(command: &Command, text: &mut String, globals: Globals) {
    let is_shown = |arg: &&Arg| {
        let is_own = !matches!(arg.get_id().as_str(), "help" | "version");
        is_own && !arg.is_hide_set() && arg.is_global_set() == (globals == Globals::Shown)
    };
    let shown: Vec<&Arg> = command.get_opts().chain(flags(command)).filter(is_shown).collect();
    if shown.is_empty() {
        return;
    }
    text.push_str("| flag | meaning |\n|---|---|\n");
    for arg in shown {
        let mut names = Vec::new();
        names.extend(arg.get_short().map(|short| format!("-{short}")));
        names.extend(arg.get_long().map(|long| format!("--{long}")));
        for alias in arg.get_visible_aliases().unwrap_or_default() {
            names.push(format!("--{alias}"));
        }
        let takes = arg.get_action().takes_values();
        let value = arg.get_value_names().and_then(<[_]>::first).filter(|_| takes);
        let value = value.map(|value| format!(" {value}")).unwrap_or_default();
        let _ =
            writeln!(text, "| `{}{value}` | {}{} |", names.join("`, `"), help(arg), default(arg));
    }
    text.push('\n');
}

fn flags(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| {
        !arg.is_positional()
            && matches!(
                arg.get_action(),
                ArgAction::SetTrue | ArgAction::SetFalse | ArgAction::Count
            )
    })
}

fn help(arg: &Arg) -> String {
    let help = arg.get_long_help().or_else(|| arg.get_help());
    let text = help.map(ToString::to_string).unwrap_or_default();
    text.replace('|', "\\|").replace('\n', " ")
}

fn default(arg: &Arg) -> String {
    let values: Vec<_> =
        arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    let takes = arg.get_action().takes_values();
    if values.is_empty() || !takes { String::new() } else { format!(" (`{}`)", values.join(", ")) }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    /// Those that print no document: what a person types in, and what a shell reads.
    const UNDESCRIBED: [&str; 2] = ["shell", "completions"];

    #[test]
    fn every_command_that_is_shown_has_a_page_and_a_schema() {
        let directory = tempfile::tempdir().unwrap();
        reference(directory.path()).unwrap();
        let text = fs::read_to_string(directory.path().join("cli.md")).unwrap();
        for heading in text.lines().filter_map(|line| line.strip_prefix("### mvm ")) {
            let file = format!("{}.json", heading.replace(' ', "-"));
            let has_schema = directory.path().join("schemas").join(&file).is_file();
            assert!(has_schema || UNDESCRIBED.contains(&heading), "{heading} has no schema {file}");
        }
        assert!(text.contains("### mvm pool scale\n"));
    }

    #[test]
    fn every_shell_gets_completions_and_every_command_a_man_page() {
        for shell in
            [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish]
        {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "mvm", &mut text);
            assert!(String::from_utf8(text).unwrap().contains("scale"), "{shell}");
        }
        let directory = tempfile::tempdir().unwrap();
        man_pages(directory.path()).unwrap();
        assert!(directory.path().join("mvm-pool-scale.1").is_file());
    }
}
