//! `Tree`: the files of an image before they are packed; names in memory, contents there or spooled.
//!
//! Ordered by path, owned by numbers, without times and without devices: what can't be
//! reproduced can't be said. Paths are checked once, when a `TreePath` is made, so that no name
//! from an archive ever leads out of the tree or through a symbolic link; nothing is looked up on
//! the machine that builds. Next: `deb` fills a tree, `rootfs` and `initramfs` pack it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io::{self, Read};
use std::ops::Bound;

use crate::content::{Content, Spool};

/// A path from the root of a tree: no leading slash, no empty, `.` or `..` part.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TreePath(String);

/// Longest path, in bytes, as in Linux.
const PATH_LIMIT: usize = 4095;
/// Longest part of a path, in bytes, as in Linux.
const NAME_LIMIT: usize = 255;
/// Most symbolic links that are followed for one path, as in Linux.
const LINK_LIMIT: usize = 40;

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
    /// A ring or a long chain of symbolic links.
    #[error("{0:?} leads through more than {LINK_LIMIT} symbolic links")]
    Links(String),
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
        let is_bad =
            |part: &&str| *part == ".." || part.len() > NAME_LIMIT || part.contains(['\0', '\n']);
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
    pub(crate) fn parents(&self) -> Vec<TreePath> {
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
    File(Content),
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
    pub fn file(mode: u16, bytes: impl Into<Content>) -> Self {
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
#[derive(Debug)]
pub struct Tree {
    nodes: BTreeMap<TreePath, Node>,
    bytes: u64,
    limits: TreeLimits,
    spool: Option<Spool>,
}

impl Default for Tree {
    fn default() -> Self {
        Self::new(TreeLimits::default())
    }
}

impl Tree {
    /// An empty tree, all of it in memory.
    #[must_use]
    pub fn new(limits: TreeLimits) -> Self {
        Self { nodes: BTreeMap::new(), bytes: 0, limits, spool: None }
    }

    /// An empty tree that keeps contents in a spool.
    #[must_use]
    pub fn spooled(limits: TreeLimits, spool: Spool) -> Self {
        Self { spool: Some(spool), ..Self::new(limits) }
    }

    /// Keeps exactly `length` bytes of `from` for a file of this tree, where it keeps its contents.
    /// Whether there is [`Tree::room`] is the caller's question.
    ///
    /// # Errors
    /// When there are fewer, or they can't be kept.
    pub fn keep(&mut self, from: &mut impl Read, length: u64) -> io::Result<Content> {
        if let Some(spool) = &mut self.spool {
            return spool.append(from, length);
        }
        let mut bytes = Vec::new();
        let count = from.take(length).read_to_end(&mut bytes)?;
        if count as u64 == length {
            Ok(bytes.into())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
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

    /// Puts a node at a path whatever is there: what is in the way goes, but a directory keeps what
    /// is in it when a directory comes.
    ///
    /// # Errors
    /// When a part of the path is no directory, or a bound is passed.
    pub fn replace(&mut self, path: TreePath, node: Node) -> Result<(), TreeError> {
        let is_directory = |entry: &Entry| *entry == Entry::Directory;
        let stays = self
            .nodes
            .get(&path)
            .is_none_or(|old| is_directory(&old.entry) && is_directory(&node.entry));
        if !stays {
            self.remove(&path, &|_| false);
        }
        self.put(path, node)
    }

    /// Removes what is at a path and below it, but for what `stays`.
    pub fn remove(&mut self, path: &TreePath, stays: &dyn Fn(&TreePath) -> bool) {
        if !stays(path)
            && let Some(old) = self.nodes.remove(path)
        {
            self.bytes = self.bytes.saturating_sub(content(&old));
        }
        self.clear(Some(path), stays);
    }

    /// Removes what is in a directory, or in the root, but for what `stays`.
    pub fn clear(&mut self, directory: Option<&TreePath>, stays: &dyn Fn(&TreePath) -> bool) {
        let inside: Vec<TreePath> = self.below(directory).filter(|path| !stays(path)).collect();
        for path in inside {
            if let Some(old) = self.nodes.remove(&path) {
                self.bytes = self.bytes.saturating_sub(content(&old));
            }
        }
    }

    /// The paths below a directory: all between `directory/` and what follows a slash, `directory0`.
    fn below(&self, directory: Option<&TreePath>) -> impl Iterator<Item = TreePath> {
        let bound = |end: char| match directory {
            Some(path) => Bound::Included(TreePath(format!("{path}{end}"))),
            None => Bound::Unbounded,
        };
        self.nodes.range((bound('/'), bound('0'))).filter_map(move |(path, _)| {
            let is_inside = directory.is_none_or(|directory| {
                path.0.strip_prefix(&directory.0).is_some_and(|rest| rest.starts_with('/'))
            });
            is_inside.then(|| path.clone())
        })
    }

    /// Where a path leads for a process that has this tree as its root: every symbolic link is
    /// followed, also the last part. Parts that are not there are kept as they are.
    ///
    /// # Errors
    /// When the links never end, or lead to the root itself.
    pub fn resolve(&self, path: &str) -> Result<TreePath, TreeError> {
        TreePath::new(&self.follow(path)?)
    }

    /// As [`Tree::resolve`], but the last part is kept: where an entry of this name would lie.
    ///
    /// # Errors
    /// When the links never end.
    pub fn resolve_parent(&self, path: &TreePath) -> Result<TreePath, TreeError> {
        match path.as_str().rsplit_once('/') {
            None => Ok(path.clone()),
            Some((parent, name)) => TreePath::new(&format!("./{}/{name}", self.follow(parent)?)),
        }
    }

    fn follow(&self, path: &str) -> Result<String, TreeError> {
        let shown = || path.chars().take(200).collect();
        let mut ahead: VecDeque<&str> = path.split('/').collect();
        let mut place = TreePath(String::new());
        let mut links = 0;
        while let Some(part) = ahead.pop_front() {
            let parent = place.0.rfind('/').unwrap_or(0);
            match part {
                "" | "." => continue,
                ".." => {
                    place.0.truncate(parent);
                    continue;
                }
                _ => {}
            }
            let length = place.0.len();
            if length > 0 {
                place.0.push('/');
            }
            place.0.push_str(part);
            if place.0.len() > PATH_LIMIT {
                return Err(TreeError::Path(shown()));
            }
            if let Some(Node { entry: Entry::Symlink(target), .. }) = self.nodes.get(&place) {
                links += 1;
                if links > LINK_LIMIT {
                    return Err(TreeError::Links(shown()));
                }
                place.0.truncate(if target.starts_with('/') { 0 } else { length });
                target.split('/').rev().for_each(|part| ahead.push_front(part));
            }
        }
        Ok(place.0)
    }

    /// The content of the file at `path`, which is written as in [`TreePath::new`].
    #[must_use]
    pub fn file(&self, path: &str) -> Option<&Content> {
        match &self.nodes.get(&TreePath::new(path).ok()?)?.entry {
            Entry::File(content) => Some(content),
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
        Entry::File(content) => content.length(),
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
        for text in ["", ".", "./", "/etc", "../x", "a/../../x", "a/..", "a\0b", "a\nb"] {
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

    #[test]
    fn links_are_followed_inside_the_tree_and_never_out_of_it() {
        let mut tree = Tree::default();
        for (at, target) in [
            ("sbin", "usr/sbin"),
            ("usr/sbin", "bin"),
            ("var/run", "/run"),
            ("out", "../../../etc"),
            ("ring", "ring"),
            ("top", "/"),
        ] {
            tree.put(path(at), Node::symlink(target)).unwrap();
        }
        let leads = |text: &str| tree.resolve(text).unwrap().as_str().to_owned();
        assert_eq!(leads("sbin/mvm-guest"), "usr/bin/mvm-guest");
        assert_eq!(leads("/var/run/lock"), "run/lock");
        assert_eq!(leads("out/passwd"), "etc/passwd");
        assert_eq!(leads("top/etc"), "etc");
        assert!(matches!(tree.resolve("ring/x"), Err(TreeError::Links(_))));
        assert!(tree.resolve("top").is_err());
        let parent = |text: &str| tree.resolve_parent(&path(text)).unwrap().as_str().to_owned();
        assert_eq!(parent("sbin"), "sbin");
        assert_eq!(parent("usr/sbin"), "usr/sbin");
        assert_eq!(parent("top/x"), "x");
    }

    #[test]
    fn removing_takes_what_is_below_and_leaves_names_that_only_begin_alike() {
        let mut tree = Tree::new(TreeLimits { entries: 10, bytes: 6 });
        for text in ["a/b", "a/c/d", "a-", "a0", "b"] {
            tree.put(path(text), Node::file(0o644, *b"1")).unwrap();
        }
        tree.remove(&path("a"), &|path| path.as_str() == "a/b" || path.as_str() == "a");
        let names =
            |tree: &Tree| tree.iter().map(|(path, _)| path.as_str().to_owned()).collect::<Vec<_>>();
        assert_eq!(names(&tree), ["a", "a-", "a/b", "a0", "b"]);
        assert_eq!(tree.room(), 2);
        tree.replace(path("a"), Node::symlink("b")).unwrap();
        assert_eq!(names(&tree), ["a", "a-", "a0", "b"]);
        tree.clear(None, &|_| false);
        assert_eq!((tree.iter().count(), tree.room()), (0, 6));
    }
}
