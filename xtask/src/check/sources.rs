//! The Rust sources of the workspace, with the border between production and test lines.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Act, Result};

/// One source file.
#[derive(Debug)]
pub(crate) struct Source {
    /// Path below the workspace, with forward slashes.
    pub(crate) path: PathBuf,
    /// All of it.
    pub(crate) text: String,
}

impl Source {
    /// Whether the whole file is a test, a benchmark or an example.
    pub(crate) fn is_test(&self) -> bool {
        let name = self.path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        name.as_deref() == Some("tests")
            || self.path.components().any(|part| {
                matches!(part.as_os_str().to_str(), Some("tests" | "benches" | "examples" | "fuzz"))
            })
    }

    /// The member it belongs to, by its directory's name.
    pub(crate) fn member(&self) -> &str {
        let mut parts = self.path.iter().filter_map(|part| part.to_str());
        match parts.next() {
            Some("crates") => parts.next().unwrap_or_default(),
            first => first.unwrap_or_default(),
        }
    }

    /// The lines before the first test module, numbered from 1; none for a test file.
    pub(crate) fn production_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let all = if self.is_test() { "" } else { self.text.as_str() };
        all.lines()
            .enumerate()
            .take_while(|(_, line)| line.trim() != "#[cfg(test)]")
            .map(|(index, line)| (index + 1, line))
    }
}

/// Every `.rs` file of the members.
pub(super) fn read(root: &Path) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    for top in ["crates", "xtask"] {
        walk(root, &root.join(top), &mut sources)?;
    }
    sources.sort_by(|one, two| one.path.cmp(&two.path));
    Ok(sources)
}

fn walk(root: &Path, dir: &Path, sources: &mut Vec<Source>) -> Result<()> {
    for entry in fs::read_dir(dir).act(|| format!("read {}", dir.display()))? {
        let path = entry.act(|| format!("read {}", dir.display()))?.path();
        if path.is_dir() {
            if path.file_name().is_none_or(|name| name != "target") {
                walk(root, &path, sources)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).act(|| format!("read {}", path.display()))?;
            let path = path.strip_prefix(root).unwrap_or(&path).to_path_buf();
            sources.push(Source { path, text });
        }
    }
    Ok(())
}
