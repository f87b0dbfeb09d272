//! Command lines that cannot be read, said as every other error is (SPEC §13).
//!
//! What clap refuses is of two kinds: a line that makes no sense (unknown, missing or conflicting
//! words: usage) and a value that is not what it should be (invalid input, as when a file holds it).

use std::{
    ffi::{OsStr, OsString},
    path::Path,
    process::ExitCode,
};

use clap::{ArgMatches, CommandFactory, FromArgMatches, error::ErrorKind as Clap};
use mvm::{Error, ErrorKind};

use crate::{
    args::{Cli, Format},
    exit, render,
};

/// A name of this program under which it is an agent.
const DAEMON: &str = "mvm-agentd";

/// The command line of this process, as types and as what it was parsed from, or the exit code when
/// there is none to be run.
pub(crate) fn read() -> Result<(Cli, ArgMatches), ExitCode> {
    let parsed = Cli::command()
        .try_get_matches_from(words())
        .and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, matches)));
    parsed.map_err(|refused| {
        if !refused.use_stderr() || refused.kind() == Clap::DisplayHelpOnMissingArgumentOrSubcommand
        {
            // Help and version; where there is nobody to read them, the exit code still speaks.
            let _ = refused.print();
            return if refused.use_stderr() {
                ExitCode::from(ErrorKind::Usage.exit_code())
            } else {
                ExitCode::SUCCESS
            };
        }
        let error = translate(&refused);
        let is_json = std::env::args_os().any(|word| word == "--json" || word == "--format=json");
        render::error::say(&error, if is_json { Format::Json } else { Format::Table }, None);
        exit::of_error(&error)
    })
}

/// The words of the command line. A program of the daemon's name is `mvm agent serve`.
pub(crate) fn words() -> Vec<OsString> {
    let mut words: Vec<OsString> = std::env::args_os().collect();
    let name = words.first().and_then(|program| Path::new(program).file_name());
    if name == Some(OsStr::new(DAEMON)) {
        words.splice(..1, ["mvm", "agent", "serve"].map(OsString::from));
    }
    words
}

fn translate(refused: &clap::Error) -> Error {
    let is_value = matches!(refused.kind(), Clap::ValueValidation | Clap::InvalidUtf8);
    let kind = if is_value { ErrorKind::Invalid } else { ErrorKind::Usage };
    let text = refused.to_string();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or("the command line makes no sense");
    let mut message = first.strip_prefix("error: ").unwrap_or(first).to_owned();
    let mut hints = Vec::new();
    for line in lines {
        if let Some(tip) = line.strip_prefix("tip: ") {
            hints.push(tip.to_owned());
        } else if let Some(usage) = line.strip_prefix("Usage: ") {
            hints.push(usage.to_owned());
        } else if line.starts_with("For more information") {
            hints.push("--help shows what can be written".to_owned());
        } else {
            message = format!("{message} {line}");
        }
    }
    hints.into_iter().fold(Error::new(kind, message), Error::hint)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
mod tests {
    use clap::Parser;

    use super::*;

    fn refused(line: &str) -> Error {
        translate(&Cli::try_parse_from(line.split(' ')).unwrap_err())
    }

    #[test]
    fn a_wrong_value_is_invalid_and_a_wrong_word_is_usage() {
        let value = refused("mvm tenant info Acme");
        assert_eq!(value.kind, ErrorKind::Invalid);
        assert!(value.message.contains("\"Acme\" is not an id"), "{value}");
        let word = refused("mvm tenant info acme --colour");
        assert_eq!(word.kind, ErrorKind::Usage);
        assert!(word.message.starts_with("unexpected argument '--colour'"), "{word}");
        assert!(word.hints.iter().any(|hint| hint.starts_with("mvm tenant info")), "{word:?}");
    }

    #[test]
    fn what_is_missing_is_named_in_the_message() {
        let missing = refused("mvm tenant info");
        assert_eq!(missing.kind, ErrorKind::Usage);
        assert!(missing.message.contains("<TENANT>"), "{missing}");
    }
}
