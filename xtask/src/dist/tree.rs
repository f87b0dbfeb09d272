//! Files by their paths, in order: what an archive is made from.
//!
//! Knows directories, plain files and links to neighbours, and no owner and no time: those are the
//! same for everything.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::error::{Act, Result};

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    /// A file, with its mode.
    File { mode: u32, bytes: Vec<u8> },
    /// A link to this.
    Link(String),
}

/// Files by their paths, which are relative and plain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tree(BTreeMap<String, Node>);

impl Tree {
    /// Adds a file for reading.
    pub(super) fn file(&mut self, path: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        self.0.insert(path.into(), Node::File { mode: 0o644, bytes: bytes.into() });
    }

    /// Adds a program.
    pub(super) fn program(&mut self, path: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        self.0.insert(path.into(), Node::File { mode: 0o755, bytes: bytes.into() });
    }

    /// Adds a link.
    pub(super) fn link(&mut self, path: impl Into<String>, to: &str) {
        self.0.insert(path.into(), Node::Link(to.to_owned()));
    }

    /// The files of a directory, without those of directories in it.
    pub(super) fn of_directory(directory: &Path) -> Result<Self> {
        let act = || format!("read {}", directory.display());
        let mut tree = Self::default();
        for entry in fs::read_dir(directory).act(act)? {
            let path = entry.act(act)?.path();
            if path.is_file() {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                tree.file(name, fs::read(&path).act(|| format!("read {}", path.display()))?);
            }
        }
        Ok(tree)
    }

    /// The same files with other paths, and other contents where those are to be changed.
    pub(super) fn moved(&self, change: impl Fn(&str, &[u8]) -> (String, Vec<u8>)) -> Self {
        let moved = self.0.iter().map(|(path, node)| match node {
            Node::File { mode, bytes } => {
                let (path, bytes) = change(path, bytes);
                (path, Node::File { mode: *mode, bytes })
            }
            Node::Link(to) => (change(path, &[]).0, Node::Link(to.clone())),
        });
        Self(moved.collect())
    }

    /// Takes all of another tree.
    pub(super) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Everything, in the order of the paths.
    pub(super) fn nodes(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.0.iter().map(|(path, node)| (path.as_str(), node))
    }

    /// Every directory above a file, in order, each before what is in it.
    pub(super) fn directories(&self) -> Vec<&str> {
        let above = |path: &'_ str| path.match_indices('/').map(|(at, _)| at).collect::<Vec<_>>();
        let mut all: Vec<&str> = self
            .0
            .keys()
            .flat_map(|path| above(path).into_iter().filter_map(|at| path.get(..at)))
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The sum of all sizes in bytes.
    pub(super) fn size(&self) -> u64 {
        let sizes = self.0.values().map(|node| match node {
            Node::File { bytes, .. } => bytes.len() as u64,
            Node::Link(_) => 0,
        });
        sizes.sum()
    }
}
