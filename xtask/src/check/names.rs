//! R17: an operation, its library method, its command, the command's file and its page have one
//! name. `pool_scale` is `Mvm::pool_scale`, `mvm pool scale`, `commands/pool.rs`, `pool-scale.json`.

use std::collections::{BTreeMap, BTreeSet};

use super::Finding;
use super::sources::Source;

/// Commands that are one operation or method under several names, and why one word is not enough.
const SHARED: &[(&str, &str)] = &[
    ("instance_start", "instance_move"),
    ("instance_stop", "instance_move"),
    ("instance_warm", "instance_move"),
    ("instance_sleep", "instance_move"),
    ("instance_wake", "instance_move"),
    ("instance_update", "instance_grow"),
    ("instance_ssh", "instance_exec"),
    ("instance_cp", "instance_copy_in"),
    ("new", "deploy"),
];
/// Commands about the command line itself, about the machine that microVMs run in, and of dev mode, whose VM
/// is an instance.
const OWN: &[&str] = &[
    "completions",
    "config_ls",
    "bootstrap",
    "setup",
    "doctor",
    "status",
    "shell",
    "stop",
    "destroy",
    "upgrade",
    "dev",
    "start",
    "ssh",
    "ssh_config",
    "build",
    "run",
];

/// Compares the four lists; `pages` are the generated files of `docs/`.
pub(super) fn check(sources: &[Source], pages: &BTreeMap<String, String>) -> Vec<Finding> {
    let operations = operations(sources);
    let methods = methods(sources);
    let commands = commands(pages);
    let mut findings = Vec::new();
    let mut find = |text: String| findings.push(Finding::error("R17", text));
    for operation in &operations {
        if !methods.contains(operation) {
            find(format!("the operation {operation} has no method Mvm::{operation}"));
        }
        let is_shared = SHARED.iter().any(|(_, of)| of == operation);
        if !is_shared && !commands.contains(operation) {
            find(format!("the operation {operation} has no command: mvm {}", spoken(operation)));
        }
    }
    for command in commands.iter().filter(|command| !OWN.contains(&command.as_str())) {
        let shared = SHARED.iter().find(|(name, _)| name == command).map(|(_, of)| *of);
        let name = shared.unwrap_or(command);
        if !methods.contains(name) {
            find(format!("the command `mvm {}` has no method Mvm::{name}", spoken(command)));
        }
        let noun = command.split('_').next().unwrap_or(command);
        let has_file = sources.iter().any(|source| {
            let path = source.path.to_string_lossy();
            let base = "crates/mvm-cli/src/commands/";
            path == format!("{base}{noun}.rs") || path.starts_with(&format!("{base}{noun}/"))
        });
        if !has_file {
            find(format!("the command `mvm {}` has no file commands/{noun}.rs", spoken(command)));
        }
        let page = format!("schemas/{}.json", command.replace('_', "-"));
        if !pages.contains_key(&page) {
            find(format!("the command `mvm {}` has no page docs/{page}", spoken(command)));
        }
    }
    findings
}

fn spoken(name: &str) -> String {
    name.replace('_', " ")
}

/// The serialised names, from `Operation::name`.
fn operations(sources: &[Source]) -> BTreeSet<String> {
    let file = sources.iter().find(|source| source.path.ends_with("mvm-core/src/operation.rs"));
    let text = file.map_or("", |file| file.text.as_str());
    let named = text.lines().filter_map(|line| {
        let rest = line.trim().strip_prefix("Self::")?.split_once("=> \"")?.1;
        rest.split('"').next().map(str::to_owned)
    });
    named.collect()
}

fn methods(sources: &[Source]) -> BTreeSet<String> {
    let library = sources.iter().filter(|source| source.path.starts_with("crates/mvm/src"));
    let lines = library.flat_map(|source| source.text.lines());
    lines
        .filter_map(|line| {
            let name = line.trim().strip_prefix("pub fn ")?.split(['(', '<']).next()?;
            Some(name.to_owned())
        })
        .collect()
}

fn commands(pages: &BTreeMap<String, String>) -> BTreeSet<String> {
    let reference = pages.get("cli.md").map_or("", String::as_str);
    let headings = reference.lines().filter_map(|line| line.strip_prefix("### mvm "));
    headings.map(|name| name.replace([' ', '-'], "_")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source { path: path.into(), text: text.into() }
    }

    fn found(reference: &str, pages: &[&str]) -> Vec<String> {
        let sources = [
            source(
                "crates/mvm-core/src/operation.rs",
                "  Self::PoolScale { .. } => \"pool_scale\",",
            ),
            source(
                "crates/mvm/src/methods.rs",
                "    pub fn pool_scale(\n    pub fn pool_list(&self)",
            ),
            source("crates/mvm-cli/src/commands/pool.rs", ""),
        ];
        let mut all: BTreeMap<String, String> =
            pages.iter().map(|name| ((*name).to_owned(), String::new())).collect();
        all.insert("cli.md".to_owned(), reference.to_owned());
        check(&sources, &all).into_iter().map(|finding| finding.text).collect()
    }

    #[test]
    fn lists_that_agree_have_no_findings() {
        let pages = ["schemas/pool-scale.json", "schemas/pool-list.json"];
        assert_eq!(found("### mvm pool scale\n### mvm pool list\n", &pages), [""; 0]);
    }

    #[test]
    fn each_missing_name_is_found() {
        assert_eq!(found("", &[]).len(), 1, "the operation has no command");
        let texts = found("### mvm pool scale\n### mvm net verify\n", &["schemas/pool-scale.json"]);
        assert_eq!(texts.len(), 3, "no method, no file, no page: {texts:?}");
    }
}
