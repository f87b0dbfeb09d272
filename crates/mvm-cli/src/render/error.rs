//! Errors on standard error: the act, the chain, what to do next.

use std::io::{self, Write};

use mvm::{Error, OperationId};

use crate::args::Format;

/// The lines of an error.
pub(crate) fn text(error: &Error) -> String {
    let mut lines = vec![format!("mvm: error: {}", error.message)];
    lines.extend(error.causes.iter().map(|cause| format!("  because: {}", inside(cause))));
    lines.extend(error.hints.iter().map(|hint| format!("  try: {}", inside(hint))));
    lines.join("\n")
}

/// A text of several lines, with all but the first further in than what begins a cause or a hint.
fn inside(text: &str) -> String {
    text.trim_end().replace('\n', "\n    ")
}

/// Says an error; with JSON or YAML the error document follows on standard output.
pub(crate) fn say(error: &Error, format: Format, operation: Option<&OperationId>) {
    // Where standard error is gone, the exit code still speaks.
    let _ = writeln!(io::stderr(), "{}", text(error));
    if format != Format::Table {
        let _ = super::result(format, &document(error, operation), |_| String::new());
    }
}

fn document(error: &Error, operation: Option<&OperationId>) -> serde_json::Value {
    match operation {
        Some(operation) => serde_json::json!({ "error": error, "operation": operation }),
        None => serde_json::json!({ "error": error }),
    }
}

/// Says what a person should know and what stops nothing.
pub(crate) fn warn(message: &str) {
    // As above.
    let _ = writeln!(io::stderr(), "mvm: warning: {message}");
}

/// Says what goes by.
pub(crate) fn note(message: &str) {
    // As above.
    let _ = writeln!(io::stderr(), "mvm: {message}");
}

#[cfg(test)]
mod tests {
    use mvm::ErrorKind;

    use super::*;

    #[test]
    fn a_cause_of_several_lines_stays_one_cause() {
        let error = Error::new(ErrorKind::Invalid, "x.toml makes no sense");
        let error = Error { causes: vec!["at line 1\n1 | = x\n".to_owned()], ..error };
        assert_eq!(
            text(&error),
            "mvm: error: x.toml makes no sense\n  because: at line 1\n    1 | = x"
        );
    }

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
