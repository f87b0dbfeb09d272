//! Rules that are patterns in the text: no shell strings, no debt without an issue, no `allow`, no
//! decisions in the host.

use super::Finding;
use super::sources::Source;

/// Only these members may speak to a shell, because they never ship.
const SHELL_USERS: &[&str] = &["xtask", "mvm-bench"];
/// What starts a shell inside a guest or inside the machine: for a person, or with what the owner of the
/// pool wrote for that guest.
const GUEST_SHELLS: &[&str] = &[
    "crates/mvm-core/src/integration.rs",
    "crates/mvm-cli/src/commands/guest.rs",
    "crates/mvm/src/forward/server.rs",
    "crates/mvm/src/mvmfile.rs",
];

/// Checks one file line by line.
pub(super) fn check(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find = |rule, line: usize, what: &str| {
        findings.push(Finding::error(rule, format!("{}:{line}: {what}", source.path.display())));
    };
    for (index, line) in source.text.lines().enumerate() {
        let number = index + 1;
        if has_naked_debt(line) {
            find("style 16", number, "debt without an issue number");
        }
        if line.trim_start().starts_with(ALLOW) || line.trim_start().starts_with(ALLOW_INNER) {
            find("style 16", number, "expect with a reason, instead of allow");
        }
    }
    if source.member() == "mvm-host" {
        for (number, line) in source.production_lines().filter(|(_, line)| has_policy(line)) {
            find("R8", number, &format!("the host imports decisions: {}", line.trim()));
        }
    }
    let is_in_guest = GUEST_SHELLS.iter().any(|path| source.path.ends_with(path));
    if !SHELL_USERS.contains(&source.member()) && !is_in_guest {
        for (number, line) in source.production_lines().filter(|(_, line)| has_shell(line)) {
            find("R4", number, &format!("a shell string: {}", line.trim()));
        }
    }
    findings
}

const ALLOW: &str = concat!("#[", "allow(");
const ALLOW_INNER: &str = concat!("#![", "allow(");

/// The word in capitals without `(#number)` after it, or its ruder cousins.
fn has_naked_debt(line: &str) -> bool {
    let todo = concat!("TO", "DO");
    if [concat!("FIX", "ME"), concat!("XX", "X:")].iter().any(|word| line.contains(word)) {
        return true;
    }
    line.match_indices(todo).any(|(at, _)| {
        let is_word = !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let rest = line.get(at + todo.len()..).unwrap_or_default();
        let ends = !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
        let digits = rest.strip_prefix("(#").and_then(|rest| rest.split_once(')'));
        let has_issue = digits.is_some_and(|(number, _)| {
            !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
        });
        is_word && ends && !has_issue
    })
}

/// Whether the line names the core's deciding modules.
fn has_policy(line: &str) -> bool {
    let code = line.split_once("//").map_or(line, |(code, _)| code);
    ["mvm_core::policy", "mvm_core::plan"].iter().any(|module| {
        code.match_indices(module).any(|(at, _)| {
            let rest = code.get(at + module.len()..).unwrap_or_default();
            !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_')
        })
    })
}

fn has_shell(line: &str) -> bool {
    let code = line.split_once("//").map_or(line, |(code, _)| code);
    [r#""-c""#, r#""-lc""#, r#""sh""#, r#""bash""#, r#""/bin/sh""#, r#""/bin/bash""#]
        .iter()
        .any(|pattern| code.contains(pattern))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(path: &str, text: &str) -> Vec<&'static str> {
        let source = Source { path: path.into(), text: text.into() };
        check(&source).into_iter().map(|finding| finding.rule).collect()
    }

    #[test]
    fn debt_needs_an_issue_number() {
        let todo = concat!("TO", "DO");
        assert_eq!(rules("crates/a/src/b.rs", &format!("// {todo}: later")), ["style 16"]);
        assert_eq!(rules("crates/a/src/b.rs", &format!("// {todo}(#): later")), ["style 16"]);
        assert_eq!(rules("crates/a/src/b.rs", &format!("// {todo}(#12): later")), [""; 0]);
        assert_eq!(rules("crates/a/src/b.rs", &format!("let MY_{todo}_LIST = 1;")), [""; 0]);
    }

    #[test]
    fn a_shell_string_is_found_in_shipped_code_only() {
        let text = r#"Command::new("sh").args(["-c", script])"#;
        assert_eq!(rules("crates/a/src/b.rs", text), ["R4"]);
        assert_eq!(rules("crates/a/tests/b.rs", text), [""; 0]);
        assert_eq!(rules("xtask/src/b.rs", text), [""; 0]);
        assert_eq!(rules("crates/a/src/b.rs", r#"// never "-c""#), [""; 0]);
    }

    #[test]
    fn the_host_may_not_import_decisions() {
        assert_eq!(rules("crates/mvm-host/src/a.rs", "use mvm_core::plan::Plan;"), ["R8"]);
        assert_eq!(rules("crates/mvm-host/src/a.rs", "use mvm_core::planet;"), [""; 0]);
        assert_eq!(rules("crates/mvm-engine/src/a.rs", "use mvm_core::plan::Plan;"), [""; 0]);
    }

    #[test]
    fn allow_is_found_as_outer_and_inner_attribute() {
        assert_eq!(rules("xtask/src/b.rs", &format!("  {ALLOW}dead_code)]")), ["style 16"]);
        assert_eq!(rules("xtask/src/b.rs", &format!("{ALLOW_INNER}dead_code)]")), ["style 16"]);
    }
}
