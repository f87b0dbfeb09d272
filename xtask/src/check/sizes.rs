//! R16: files stay small, and no file is named after having no subject.

use super::Finding;
use super::sources::Source;

const WARN_LINES: usize = 400;
const FAIL_LINES: usize = 600;
const FORBIDDEN: &[&str] = &["utils", "util", "common", "helpers", "helper", "misc"];

/// Checks one file's length and name.
pub(super) fn check(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let path = source.path.display();
    let lines = source.production_lines().count();
    if lines > FAIL_LINES {
        findings.push(Finding::error("R16", format!("{path}: {lines} lines, over {FAIL_LINES}")));
    } else if lines > WARN_LINES {
        findings.push(Finding::warning("R16", format!("{path}: {lines} lines, over {WARN_LINES}")));
    }
    let parts = source.path.iter().filter_map(|part| part.to_str());
    for part in parts.map(|part| part.trim_end_matches(".rs")) {
        if FORBIDDEN.contains(&part) {
            findings.push(Finding::error("R16", format!("{path}: {part} is not a subject")));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::*;

    fn source(path: &str, production: usize, test: usize) -> Source {
        let text = "x\n".repeat(production) + "#[cfg(test)]\n" + &"y\n".repeat(test);
        Source { path: path.into(), text }
    }

    #[test]
    fn tests_do_not_count_and_the_limits_are_inclusive() {
        assert!(check(&source("crates/a/src/b.rs", 400, 900)).is_empty());
        let soft = check(&source("crates/a/src/b.rs", 401, 0));
        assert_eq!(soft.first().map(|finding| finding.severity), Some(Severity::Warning));
        let hard = check(&source("crates/a/src/b.rs", 601, 0));
        assert_eq!(hard.first().map(|finding| finding.severity), Some(Severity::Error));
    }

    #[test]
    fn a_test_file_may_be_long_but_not_nameless() {
        assert!(check(&source("crates/a/tests/b.rs", 900, 0)).is_empty());
        assert_eq!(check(&source("crates/a/src/utils/b.rs", 1, 0)).len(), 1);
        assert_eq!(check(&source("crates/a/src/misc.rs", 1, 0)).len(), 1);
    }
}
