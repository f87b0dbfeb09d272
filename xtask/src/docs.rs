//! `cargo xtask docs`: what is written from the command line's own definition, and whether it is
//! current.
//!
//! The program writes itself (`mvm reference DIR`); this module only runs it and compares.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::check::Finding;
use crate::error::{Act, Result};
use crate::{tool, workspace};

/// The references, below the directory.
const REFERENCES: [&str; 2] = ["cli.md", "metrics.md"];
/// The schemas, below the directory.
const SCHEMAS: &str = "schemas";

/// Writes the references and the schemas to `docs/`.
pub(crate) fn write() -> Result<()> {
    generate(&workspace::root().join("docs"))
}

/// What of `docs/` is not as the program writes it.
pub(crate) fn drift() -> Result<Vec<Finding>> {
    let fresh = tempfile::tempdir().act(|| "make a directory".to_owned())?;
    generate(fresh.path())?;
    Ok(compare(&read(fresh.path())?, &read(&workspace::root().join("docs"))?))
}

/// The generated files of a directory, by their paths below it.
pub(crate) fn read(directory: &Path) -> Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    let mut paths: Vec<_> = REFERENCES.iter().map(|name| directory.join(name)).collect();
    let schemas = directory.join(SCHEMAS);
    if schemas.is_dir() {
        for entry in fs::read_dir(&schemas).act(|| format!("read {}", schemas.display()))? {
            paths.push(entry.act(|| format!("read {}", schemas.display()))?.path());
        }
    }
    for path in paths.iter().filter(|path| path.is_file()) {
        let name = path.strip_prefix(directory).unwrap_or(path).display().to_string();
        files.insert(name, fs::read_to_string(path).act(|| format!("read {}", path.display()))?);
    }
    Ok(files)
}

fn generate(directory: &Path) -> Result<()> {
    let mut program = workspace::cargo();
    program.args(["run", "--quiet", "--locked", "--package", "mvm-cli", "--bin", "mvm", "--"]);
    program.arg("reference").arg(directory);
    tool::show(&mut program)
}

fn compare(fresh: &BTreeMap<String, String>, there: &BTreeMap<String, String>) -> Vec<Finding> {
    let names = fresh.keys().chain(there.keys().filter(|name| !fresh.contains_key(*name)));
    names
        .filter(|name| fresh.get(*name) != there.get(*name))
        .map(|name| {
            Finding::error("docs", format!("docs/{name} is not current: run `cargo xtask docs`"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_differs_is_missing_or_is_left_over_is_found() {
        let files = |all: &[(&str, &str)]| -> BTreeMap<String, String> {
            all.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
        };
        let fresh = files(&[("cli.md", "new"), ("schemas/a.json", "{}"), ("schemas/b.json", "{}")]);
        let there = files(&[("cli.md", "old"), ("schemas/b.json", "{}"), ("schemas/c.json", "{}")]);
        assert_eq!(compare(&fresh, &there).len(), 3);
        assert!(compare(&fresh, &fresh).is_empty());
    }
}
