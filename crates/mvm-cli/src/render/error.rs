//! Errors on standard error: the act, the chain, what to do next.

use std::io::{self, Write};

use mvm::Error;

use crate::args::Format;

/// The lines of an error.
pub(crate) fn text(error: &Error) -> String {
    let mut lines = vec![format!("mvm: error: {}", error.message)];
    lines.extend(error.causes.iter().map(|cause| format!("  because: {cause}")));
    lines.extend(error.hints.iter().map(|hint| format!("  try: {hint}")));
    lines.join("\n")
}

/// Says an error; with JSON or YAML the error document follows on standard output.
pub(crate) fn say(error: &Error, format: Format) {
    // Where standard error is gone, the exit code still speaks.
    let _ = writeln!(io::stderr(), "{}", text(error));
    if format != Format::Table {
        let document = serde_json::json!({ "error": error });
        let _ = super::result(format, &document, |_| String::new());
    }
}

#[cfg(test)]
mod tests {
    use mvm::ErrorKind;

    use super::*;

    #[test]
    fn an_error_shows_act_causes_and_hints_one_a_line() {
        let error = Error::new(ErrorKind::Conflict, "disk is full")
            .context("cannot sleep a/b/i-00000001")
            .hint("free some space: mvm node gc");
        assert_eq!(
            text(&error),
            "mvm: error: cannot sleep a/b/i-00000001\n  because: disk is full\n  try: free some space: mvm node gc"
        );
    }
}
