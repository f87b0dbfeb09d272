//! `Tree`: the files of an image, in memory, before they are packed.
//!
//! Ordered by path, owned by numbers, without times and without devices: what can't be
//! reproduced can't be said. Paths are checked once, when a `TreePath` is made, so that no name
//! from an archive ever leads out of the tree or through a symbolic link; nothing is looked up on
//! the machine that builds. Next: `deb` fills a tree, `rootfs` and `initramfs` pack it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A path from the root of a tree: no leading slash, no empty, `.` or `..` part.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TreePath(String);

/// Longest path, in bytes, as in Linux.
const PATH_LIMIT: usize = 4095;
/// Longest part of a path, in bytes, as in Linux.
const NAME_LIMIT: usize = 255;

/// What a tree refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// A path that is empty, absolute where it may not be, too long, or has a `..` part.
    #[error("not a path inside the tree: {0:?}")]
    Path(String),
    /// A part of the path is a file or a symbolic link.
    #[error("cannot place {path}: {parent} is not a directory")]
    NotADirectory {
        /// What was to be placed.
        path: TreePath,
        /// What is in the way.
        parent: TreePath,
    },
    /// A directory is where something else should go, or the other way round.
    #[error("cannot place {0}: a directory and another kind of entry have the same path")]
    Conflict(TreePath),
    /// A hard link to something that is not a file of the tree.
    #[error("cannot link {path} to {target}: that is not a file of the tree")]
    LinkTarget {
        /// The link.
        path: TreePath,
        /// What it names.
        target: TreePath,
    },
    /// More entries than allowed.
    #[error("more than {0} entries")]
    TooMany(usize),
    /// More content than allowed.
    #[error("more than {0} bytes of content")]
    TooLarge(u64),
}

impl TreePath {
    /// Reads a path as archives write it: leading `./` and a trailing slash are dropped.
    ///
    /// # Errors
    /// [`TreeError::Path`] for anything that is not strictly inside the tree.
    pub fn new(text: &str) -> Result<Self, TreeError> {
        let bad = || TreeError::Path(text.chars().take(200).collect());
        if text.starts_with('/') {
            return Err(bad());
        }
        let parts: Vec<&str> =
            text.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        let is_bad = |part: &&str| {
            *part == ".." || part.len() > NAME_LIMIT || part.contains(['\0', '\n', '\\'])
        };
        let path = parts.join("/");
        if parts.is_empty() || parts.iter().any(is_bad) || path.len() > PATH_LIMIT {
            return Err(bad());
        }
        Ok(Self(path))
    }

    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The directories that lead here, outermost first, without the root and without itself.
    fn parents(&self) -> Vec<TreePath> {
        let cut = |(at, _)| Some(TreePath(self.0.get(..at)?.to_owned()));
        self.0.match_indices('/').filter_map(cut).collect()
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A directory.
    Directory,
    /// A file and its bytes, shared between hard links.
    File(Arc<[u8]>),
    /// A symbolic link and its target, which is never followed here.
    Symlink(String),
}

/// An entry with its owner and mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Permission bits with setuid, setgid and sticky; at most 0o7777.
    pub mode: u16,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// What it is.
    pub entry: Entry,
}

impl Node {
    /// A directory of root's.
    #[must_use]
    pub fn directory(mode: u16) -> Self {
        Self { mode, uid: 0, gid: 0, entry: Entry::Directory }
    }

    /// A file of root's.
    #[must_use]
    pub fn file(mode: u16, bytes: impl Into<Arc<[u8]>>) -> Self {
        Self { mode, uid: 0, gid: 0, entry: Entry::File(bytes.into()) }
    }

    /// A symbolic link of root's.
    #[must_use]
    pub fn symlink(target: &str) -> Self {
        Self { mode: 0o777, uid: 0, gid: 0, entry: Entry::Symlink(target.to_owned()) }
    }
}

/// Bounds of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeLimits {
    /// Most entries.
    pub entries: usize,
    /// Most content of all files, in bytes.
    pub bytes: u64,
}

impl Default for TreeLimits {
    fn default() -> Self {
        Self { entries: 100_000, bytes: 1 << 30 }
    }
}

/// Files by path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    nodes: BTreeMap<TreePath, Node>,
    bytes: u64,
    limits: TreeLimits,
}

impl Default for Tree {
    fn default() -> Self {
        Self::new(TreeLimits::default())
    }
}

impl Tree {
    /// An empty tree.
    #[must_use]
    pub fn new(limits: TreeLimits) -> Self {
        Self { nodes: BTreeMap::new(), bytes: 0, limits }
    }

    /// Puts a node at a path. Missing directories on the way are made (0755, root); a directory
    /// that is there gets the mode and owner given; a file or link replaces a file or link.
    ///
    /// # Errors
    /// When a file or link is in the way, a directory would be replaced, or a bound is passed.
    pub fn put(&mut self, path: TreePath, node: Node) -> Result<(), TreeError> {
        for parent in path.parents() {
            match self.nodes.get(&parent) {
                None => {
                    self.nodes.insert(parent, Node::directory(0o755));
                }
                Some(Node { entry: Entry::Directory, .. }) => {}
                Some(_) => return Err(TreeError::NotADirectory { path, parent }),
            }
        }
        if let Some(old) = self.nodes.get(&path) {
            let is_directory = |node: &Node| node.entry == Entry::Directory;
            if is_directory(old) != is_directory(&node) {
                return Err(TreeError::Conflict(path));
            }
            self.bytes = self.bytes.saturating_sub(content(old));
        }
        self.bytes = self.bytes.saturating_add(content(&node));
        let mode = node.mode & 0o7777;
        self.nodes.insert(path, Node { mode, ..node });
        if self.bytes > self.limits.bytes {
            return Err(TreeError::TooLarge(self.limits.bytes));
        }
        if self.nodes.len() > self.limits.entries {
            return Err(TreeError::TooMany(self.limits.entries));
        }
        Ok(())
    }

    /// Puts the same file at a second path.
    ///
    /// # Errors
    /// When `target` is no file of the tree, and as [`Tree::put`].
    pub fn link(&mut self, path: TreePath, target: &TreePath) -> Result<(), TreeError> {
        match self.nodes.get(target) {
            Some(node @ Node { entry: Entry::File(_), .. }) => self.put(path, node.clone()),
            _ => Err(TreeError::LinkTarget { path, target: target.clone() }),
        }
    }

    /// The node at a path.
    #[must_use]
    pub fn get(&self, path: &TreePath) -> Option<&Node> {
        self.nodes.get(path)
    }

    /// The bytes of the file at `path`, which is written as in [`TreePath::new`].
    #[must_use]
    pub fn file(&self, path: &str) -> Option<&Arc<[u8]>> {
        match &self.nodes.get(&TreePath::new(path).ok()?)?.entry {
            Entry::File(bytes) => Some(bytes),
            Entry::Directory | Entry::Symlink(_) => None,
        }
    }

    /// All nodes; a directory comes before what is in it.
    pub fn iter(&self) -> impl Iterator<Item = (&TreePath, &Node)> {
        self.nodes.iter()
    }

    /// How much content may still be added, in bytes.
    #[must_use]
    pub fn room(&self) -> u64 {
        self.limits.bytes.saturating_sub(self.bytes)
    }
}

fn content(node: &Node) -> u64 {
    match &node.entry {
        Entry::File(bytes) => bytes.len() as u64,
        Entry::Directory | Entry::Symlink(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

    use super::*;

    fn path(text: &str) -> TreePath {
        TreePath::new(text).unwrap()
    }

    #[test]
    fn a_path_never_leads_out_of_the_tree() {
        for text in ["", ".", "./", "/etc", "../x", "a/../../x", "a/..", "a\0b", "a\\b"] {
            assert!(TreePath::new(text).is_err(), "{text:?}");
        }
        assert_eq!(path("./a//b/./c/").as_str(), "a/b/c");
        assert!(TreePath::new(&"x".repeat(256)).is_err());
        assert!(TreePath::new(&"x/".repeat(2100)).is_err());
    }

    #[test]
    fn nothing_is_placed_through_a_symbolic_link() {
        let mut tree = Tree::default();
        tree.put(path("out"), Node::symlink("/etc")).unwrap();
        let error = tree.put(path("out/passwd"), Node::file(0o644, *b"x")).unwrap_err();
        assert!(matches!(error, TreeError::NotADirectory { .. }));
    }

    #[test]
    fn parents_come_first_and_are_made() {
        let mut tree = Tree::default();
        tree.put(path("a/b/c"), Node::file(0o644, *b"x")).unwrap();
        tree.put(path("a-b"), Node::file(0o644, *b"x")).unwrap();
        let paths: Vec<_> = tree.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(paths, ["a", "a-b", "a/b", "a/b/c"]);
    }

    #[test]
    fn bounds_hold_and_replacing_gives_room_back() {
        let mut tree = Tree::new(TreeLimits { entries: 3, bytes: 4 });
        tree.put(path("a"), Node::file(0o644, *b"1234")).unwrap();
        tree.put(path("a"), Node::file(0o644, *b"12")).unwrap();
        assert_eq!(tree.room(), 2);
        let error = tree.put(path("b"), Node::file(0o644, *b"123")).unwrap_err();
        assert_eq!(error, TreeError::TooLarge(4));
        let mut tree = Tree::new(TreeLimits { entries: 2, bytes: 4 });
        assert_eq!(tree.put(path("a/b/c"), Node::directory(0o755)), Err(TreeError::TooMany(2)));
    }

    #[test]
    fn a_link_needs_a_file_and_a_directory_is_not_replaced() {
        let mut tree = Tree::default();
        tree.put(path("d"), Node::directory(0o755)).unwrap();
        assert!(matches!(tree.link(path("l"), &path("d")), Err(TreeError::LinkTarget { .. })));
        assert!(matches!(
            tree.put(path("d"), Node::file(0o644, *b"")),
            Err(TreeError::Conflict(_))
        ));
    }
}
