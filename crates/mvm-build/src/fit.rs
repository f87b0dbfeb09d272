//! What a guest needs in its root, put into a tree that somebody else made.
//!
//! | path | for |
//! |---|---|
//! | `/sbin/mvm-guest` | the guest agent, process 1; a static program, so no shell is needed |
//! | `/dev`, `/proc`, `/run`, `/sys`, `/tmp`, `/data`, `/etc/mvm`, `/etc/mvm-config` | directories to mount on |
//! | `/etc/{hostname,hosts,resolv.conf}` | files that the agent writes, made when missing |
//! | `/etc/machine-id` | empty: an image is nobody yet |
//! | `/etc/mvm/workload.json` | what the image runs, if whoever made it said so |
//!
//! Links on the way are followed as the guest will follow them, so that `/sbin`, `/bin` or `/etc`
//! may lie anywhere in the tree. What else is in the tree is not looked at.

use mvm_proto::workload::{self, Workload};

use crate::tree::{Entry, Node, Tree, TreeError, TreePath};

/// Where the agent is, as the kernel is told.
pub(crate) const AGENT: &str = "/sbin/mvm-guest";

const DIRECTORIES: [(&str, u16); 8] = [
    ("data", 0o755),
    ("dev", 0o755),
    ("etc/mvm", 0o755),
    ("etc/mvm-config", 0o755),
    ("proc", 0o555),
    ("run", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
];
const FILES: [&str; 3] = ["etc/hostname", "etc/hosts", "etc/resolv.conf"];
const MACHINE_ID: &str = "etc/machine-id";

/// Why a tree can't be the root of a guest.
#[derive(Debug, thiserror::Error)]
pub enum FitError {
    /// A file is where the guest needs a directory.
    #[error("/{0} is not a directory")]
    NotADirectory(TreePath),
    /// The tree refused an entry.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The workload can't be written down.
    #[error("cannot write the workload")]
    Workload(#[from] serde_json::Error),
}

/// Puts the agent, what it mounts on, and the workload into a tree. Twice is once.
///
/// # Errors
/// When a file is in the way of a directory, a link never ends, or a bound of the tree is passed.
pub(crate) fn fit(
    tree: &mut Tree,
    agent: &[u8],
    workload: Option<&Workload>,
) -> Result<(), FitError> {
    for (path, mode) in DIRECTORIES {
        let path = tree.resolve(path)?;
        match tree.get(&path).map(|node| &node.entry) {
            None => tree.put(path, Node::directory(mode))?,
            Some(Entry::Directory) => {}
            Some(Entry::File(_) | Entry::Symlink(_)) => return Err(FitError::NotADirectory(path)),
        }
    }
    for path in FILES {
        let path = tree.resolve_parent(&TreePath::new(path)?)?;
        if tree.get(&path).is_none() {
            tree.put(path, Node::file(0o644, *b""))?;
        }
    }
    put_file(tree, MACHINE_ID, Node::file(0o444, *b""))?;
    put_file(tree, AGENT.trim_start_matches('/'), Node::file(0o755, agent))?;
    if let Some(workload) = workload {
        let json = serde_json::to_vec_pretty(workload)?;
        put_file(tree, workload::PATH.trim_start_matches('/'), Node::file(0o644, json))?;
    }
    Ok(())
}

/// Puts a file where its directory leads, instead of whatever is there.
fn put_file(tree: &mut Tree, path: &str, node: Node) -> Result<(), TreeError> {
    let place = tree.resolve_parent(&TreePath::new(path)?)?;
    tree.replace(place, node)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

    use super::*;

    fn path(text: &str) -> TreePath {
        TreePath::new(text).unwrap()
    }

    fn text(tree: &Tree, path: &str) -> String {
        let place = tree.resolve(path).unwrap();
        let content = tree.file(place.as_str()).unwrap().bytes().unwrap();
        String::from_utf8(content.into_owned()).unwrap()
    }

    #[test]
    fn an_empty_tree_gets_all_that_the_agent_needs() {
        let mut tree = Tree::default();
        fit(&mut tree, b"agent", None).unwrap();
        assert_eq!(text(&tree, "/sbin/mvm-guest"), "agent");
        assert_eq!(tree.get(&path("sbin/mvm-guest")).unwrap().mode, 0o755);
        assert_eq!(tree.get(&path("tmp")).unwrap().mode, 0o1777);
        assert_eq!(text(&tree, "etc/resolv.conf"), "");
        assert!(tree.file("etc/mvm/workload.json").is_none());
        let before: Vec<_> = tree.iter().map(|(path, node)| (path.clone(), node.clone())).collect();
        fit(&mut tree, b"agent", None).unwrap();
        assert!(tree.iter().eq(before.iter().map(|(path, node)| (path, node))));
    }

    #[test]
    fn links_of_the_image_are_followed_and_stay() {
        let mut tree = Tree::default();
        for (at, target) in [
            ("sbin", "usr/sbin"),
            ("usr/sbin", "/usr/bin"),
            ("etc", "private/etc"),
            ("tmp", "var/tmp"),
            ("private/etc/resolv.conf", "../../run/resolve/stub"),
        ] {
            tree.put(path(at), Node::symlink(target)).unwrap();
        }
        tree.put(path("private/etc/hosts"), Node::file(0o600, *b"mine")).unwrap();
        tree.put(path("private/etc/machine-id"), Node::file(0o444, *b"0123")).unwrap();
        fit(&mut tree, b"agent", Some(&Workload::default())).unwrap();
        assert_eq!(text(&tree, "usr/bin/mvm-guest"), "agent");
        assert_eq!(text(&tree, "/sbin/mvm-guest"), "agent");
        assert_eq!(text(&tree, "private/etc/hosts"), "mine");
        assert_eq!(text(&tree, "etc/machine-id"), "");
        assert!(text(&tree, "private/etc/mvm/workload.json").contains("services"));
        assert!(tree.get(&path("var/tmp")).is_some());
        assert!(matches!(tree.get(&path("sbin")).unwrap().entry, Entry::Symlink(_)));
        let resolver = tree.get(&path("private/etc/resolv.conf")).unwrap();
        assert!(matches!(resolver.entry, Entry::Symlink(_)), "the agent replaces it itself");
    }

    #[test]
    fn a_file_where_the_guest_needs_a_directory_is_named() {
        let mut tree = Tree::default();
        tree.put(path("proc"), Node::file(0o644, *b"x")).unwrap();
        let error = fit(&mut tree, b"agent", None).unwrap_err();
        assert_eq!(error.to_string(), "/proc is not a directory");
    }
}
