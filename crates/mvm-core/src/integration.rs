//! Integrations: what of a workload keeps state of its own, and how it is saved and restored
//! (SPEC §5).
//!
//! This module refuses to know what the commands do; they run in the guest.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::document::{Findings, below, element, present};

/// The most integrations of a pool.
pub const INTEGRATIONS_MAX: usize = 32;
/// The most words of one command.
const WORDS_MAX: usize = 64;
/// The longest word of a command, in bytes.
const WORD_MAX: usize = 4096;

/// One entry of a pool's manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Integration {
    /// Its name, which is also its directory under `/data/integrations`.
    pub name: String,
    /// What saves it before a sleep: a program of the guest and its arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_cmd: Option<Vec<String>>,
    /// What restores it after a wake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_cmd: Option<Vec<String>>,
    /// Whether the guest may not sleep when it cannot be saved.
    #[serde(default)]
    pub critical: bool,
}

/// Reads the integrations at `path` of a document.
pub fn read(value: &Value, path: &str, findings: &mut Findings) -> Vec<Integration> {
    let Some(list) = findings.list(value, path) else { return Vec::new() };
    if list.len() > INTEGRATIONS_MAX {
        findings.add(path, format!("has {} entries (limit {INTEGRATIONS_MAX})", list.len()));
    }
    let mut all: Vec<Integration> = Vec::new();
    for (index, value) in list.iter().enumerate() {
        let at = element(path, index);
        let Some(one) = read_one(value, &at, findings) else { continue };
        if all.iter().any(|other| other.name == one.name) {
            findings.add(below(&at, "name"), format!("{} is there twice", one.name));
        }
        all.push(one);
    }
    all
}

/// Checks integrations that were not read from a document.
pub fn check(all: &[Integration], path: &str, findings: &mut Findings) {
    match serde_json::to_value(all) {
        Ok(value) => drop(read(&value, path, findings)),
        Err(error) => findings.add(path, error.to_string()),
    }
}

fn read_one(value: &Value, at: &str, findings: &mut Findings) -> Option<Integration> {
    const KEYS: [&str; 4] = ["name", "checkpoint_cmd", "restore_cmd", "critical"];
    let map = findings.object(value, at, &KEYS)?;
    let name = findings.needed(map, at, "name").and_then(|value| {
        let place = below(at, "name");
        let name = findings.text(value, &place)?;
        if !is_name(name) {
            findings.add(place, format!("{name:?} is no name: use 1 to 63 letters, digits, - _ ."));
        }
        Some(name.to_owned())
    });
    let mut command = |key: &str| {
        present(map, key).and_then(|value| read_command(value, &below(at, key), findings))
    };
    let (checkpoint_cmd, restore_cmd) = (command("checkpoint_cmd"), command("restore_cmd"));
    let critical = present(map, "critical")
        .and_then(|value| findings.flag(value, &below(at, "critical")))
        .unwrap_or(false);
    Some(Integration { name: name?, checkpoint_cmd, restore_cmd, critical })
}

/// A list of words, or a text for the guest's shell.
fn read_command(value: &Value, at: &str, findings: &mut Findings) -> Option<Vec<String>> {
    let words: Vec<String> = match value {
        Value::String(text) => vec!["/bin/sh".to_owned(), "-c".to_owned(), text.clone()],
        Value::Array(list) => {
            let words = list.iter().enumerate();
            let words = words.filter_map(|(n, word)| findings.text(word, &element(at, n)));
            words.map(str::to_owned).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {
            findings.add(at, "must be a list of words, or one text for the guest's shell");
            return None;
        }
    };
    let program = if value.is_string() { words.last() } else { words.first() };
    if program.is_none_or(|word| word.trim().is_empty()) {
        findings.add(at, "names no program");
    }
    if words.len() > WORDS_MAX || words.iter().any(|word| word.len() > WORD_MAX) {
        findings.add(at, format!("is longer than {WORDS_MAX} words of {WORD_MAX} bytes"));
    }
    if words.iter().any(|word| word.contains('\0')) {
        findings.add(at, "holds a zero byte");
    }
    Some(words)
}

fn is_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=63).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_text_is_for_the_guests_shell_and_a_list_is_run_as_it_is() {
        let mut findings = Findings::new();
        let all = read(
            &json!([
                {"name": "mail", "checkpoint_cmd": "save --all", "critical": true},
                {"name": "chat", "checkpoint_cmd": ["/bin/save"], "restore_cmd": ["/bin/load", ""]},
            ]),
            "integrations",
            &mut findings,
        );
        assert_eq!(findings.all(), []);
        let words = |one: &Integration| one.checkpoint_cmd.clone().unwrap_or_default().join(" ");
        let seen: Vec<_> = all.iter().map(|one| (one.critical, words(one))).collect();
        assert_eq!(
            seen,
            [(true, "/bin/sh -c save --all".to_owned()), (false, "/bin/save".to_owned())]
        );
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        let mut findings = Findings::new();
        let document = json!([
            {"name": "../x", "checkpoint_cmd": [], "critcal": true},
            {"name": "a", "restore_cmd": 7},
            {"name": "a", "checkpoint_cmd": "  ", "critical": "yes"},
            {"checkpoint_cmd": ["x", 1]},
            "b",
        ]);
        read(&document, "integrations", &mut findings);
        let paths: Vec<&str> = findings.all().iter().map(|one| one.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "integrations[0].critcal",
                "integrations[0].name",
                "integrations[0].checkpoint_cmd",
                "integrations[1].restore_cmd",
                "integrations[2].checkpoint_cmd",
                "integrations[2].critical",
                "integrations[2].name",
                "integrations[3].name",
                "integrations[3].checkpoint_cmd[1]",
                "integrations[4]",
            ]
        );
    }
}
