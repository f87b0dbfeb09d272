//! Starts programs and waits for them: shown, silent or captured.
//!
//! Knows nothing about what the programs do. Packages for missing programs: `apt`.

use std::io;
use std::path::Path;
use std::process::{Command, ExitStatus, Output, Stdio};

use crate::error::{Act, Error, Result};

/// A command from its words.
pub(crate) fn command(words: &[&str]) -> Command {
    let (program, arguments) = words.split_first().unwrap_or((&"true", &[]));
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// Runs with both outputs on our standard error; fails unless it exits with 0.
pub(crate) fn show(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .stdout(io::stderr())
        .stderr(Stdio::inherit())
        .status()
        .act(|| format!("run `{}`", line(command)))?;
    judge(command, status, None)
}

/// Runs with the outputs kept, shown only in the error; fails unless it exits with 0.
pub(crate) fn silent(command: &mut Command) -> Result<()> {
    capture(command).map(drop)
}

/// Runs and returns its standard output as text; fails unless it exits with 0.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let output =
        command.stdin(Stdio::null()).output().act(|| format!("run `{}`", line(command)))?;
    judge(command, output.status, Some(&output))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a program of this name is on the search path or in the system directories.
pub(crate) fn exists(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].iter().map(|dir| Path::new(dir).to_path_buf()))
        .any(|dir| dir.join(program).is_file())
}

/// The command line as a person would read it.
fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

fn judge(command: &Command, status: ExitStatus, output: Option<&Output>) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    let text = output.map_or_else(String::new, |output| {
        let joined = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
        format!("\n{}", String::from_utf8_lossy(&joined).trim_end())
    });
    Err(Error::Tool { command: line(command), status: status.to_string(), output: text })
}
