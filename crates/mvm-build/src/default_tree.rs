//! The root file system of the default image, and of others of Debian packages, as a tree.
//!
//! A merged `/usr`: every program is in `/usr/bin`, and `/bin`, `/sbin` and `/usr/sbin` lead
//! there, so that a program is found under any path that Debian or busybox know it by. The root is
//! mounted read-only; what a guest must write gets an empty file or directory here, to mount over.
//!
//! | path | for |
//! |---|---|
//! | `/sbin/init` | leads to the guest agent, which `fit` adds |
//! | `/bin/busybox` and its applets | the shell and its tools |
//! | `/usr/sbin/dropbear`, `/usr/bin/{dropbearkey,dbclient}` | SSH, for images that may have it; nothing starts it |
//! | `/etc/{hosts,hostname,resolv.conf,machine-id}` | files the agent mounts its own over |
//! | `/data`, `/etc/mvm`, `/etc/mvm-config`, `/run`, `/tmp`, `/root`, `/var`, `/etc/dropbear` | directories to mount on |

use crate::recipe::RECIPE_VERSION;
use crate::tree::{Entry, Node, Tree, TreeError, TreePath};

/// What the default image can't be made from.
#[derive(Debug, thiserror::Error)]
pub enum DefaultTreeError {
    /// A package did not bring what it should.
    #[error("the packages of the default image have no {0}")]
    Missing(&'static str),
    /// The list of applets inside busybox was not found.
    #[error("cannot find the list of applets in busybox")]
    Applets,
    /// A file of the tree can't be read.
    #[error("cannot read a file of the packages")]
    Read(#[source] std::io::Error),
    /// The tree refused an entry.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

/// Paths of packages that are left out: documentation, translations, character set tables, and
/// what is for an init system or a package manager.
const LEFT_OUT: [&str; 12] = [
    "usr/share/bug",
    "usr/share/doc",
    "usr/share/doc-base",
    "usr/share/info",
    "usr/share/initramfs-tools",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/menu",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/aarch64-linux-gnu/gconv",
    "usr/lib/systemd",
];

/// Directories that are one and the same, and where they are.
const MERGED: [(&str, &str); 5] = [
    ("bin", "usr/bin"),
    ("sbin", "usr/bin"),
    ("lib", "usr/lib"),
    ("lib64", "usr/lib64"),
    ("usr/sbin", "usr/bin"),
];

const DIRECTORIES: [(&str, u16); 22] = [
    ("data", 0o755),
    ("dev", 0o755),
    ("etc/dropbear", 0o700),
    ("etc/mvm", 0o755),
    ("etc/mvm-config", 0o755),
    ("home", 0o755),
    ("mnt", 0o755),
    ("opt", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("root/.ssh", 0o700),
    ("run", 0o755),
    ("srv", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("usr/lib64", 0o755),
    ("usr/local/bin", 0o755),
    ("var/cache", 0o755),
    ("var/empty", 0o755),
    ("var/lib", 0o755),
    ("var/log", 0o755),
    ("var/tmp", 0o1777),
];

const LINKS: [(&str, &str); 8] = [
    ("bin", "usr/bin"),
    ("sbin", "usr/bin"),
    ("lib", "usr/lib"),
    ("lib64", "usr/lib64"),
    ("usr/sbin", "bin"),
    ("var/run", "/run"),
    ("etc/mtab", "/proc/self/mounts"),
    ("usr/bin/init", "mvm-guest"),
];

const FILES: [(&str, u16, &str); 12] = [
    (
        "etc/group",
        0o644,
        "root:x:0:\ndaemon:x:1:\ntty:x:5:\ndisk:x:6:\nkmem:x:15:\nnogroup:x:65534:\n",
    ),
    ("etc/hostname", 0o644, ""),
    ("etc/hosts", 0o644, "127.0.0.1\tlocalhost\n"),
    ("etc/ld.so.conf", 0o644, ""),
    ("etc/machine-id", 0o444, ""),
    (
        "etc/nsswitch.conf",
        0o644,
        "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\n\
         protocols: files\nservices: files\n",
    ),
    (
        "etc/passwd",
        0o644,
        "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n\
         nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    ),
    (
        "etc/profile",
        0o644,
        "export PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin\nexport PS1='\\h:\\w\\$ '\n",
    ),
    ("etc/resolv.conf", 0o644, ""),
    ("etc/shadow", 0o640, "root:*:::::::\ndaemon:*:::::::\nnobody:*:::::::\n"),
    ("etc/shells", 0o644, "/bin/sh\n/bin/ash\n"),
    ("etc/default/locale", 0o644, "LANG=C.UTF-8\n"),
];

/// Where a package's path goes in the image; `None` leaves it out.
pub(crate) fn placement(path: &TreePath) -> Option<TreePath> {
    let text = path.as_str();
    let merged = MERGED.iter().find_map(|(from, to)| {
        let rest = text.strip_prefix(from)?;
        (rest.is_empty() || rest.starts_with('/')).then(|| format!("{to}{rest}"))
    });
    let place = merged.unwrap_or_else(|| text.to_owned());
    let is_left_out = |prefix: &&str| {
        place.strip_prefix(*prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if LEFT_OUT.iter().any(is_left_out) {
        return None;
    }
    TreePath::new(&place).ok()
}

/// Completes a tree that holds the packages of the default image, as [`lay_out`] does.
///
/// # Errors
/// When busybox or dropbear are not in the tree, or it refuses an entry.
pub(crate) fn complete(tree: &mut Tree) -> Result<(), DefaultTreeError> {
    lay_out(tree)?;
    let release = format!(
        "NAME=\"mvm default image\"\nID=mvm\nID_LIKE=debian\nVERSION_ID={RECIPE_VERSION}\n"
    );
    tree.put(TreePath::new("etc/os-release")?, Node::file(0o644, release.into_bytes()))?;
    for (path, name) in [("usr/bin/busybox", "busybox"), ("usr/bin/dropbear", "dropbear")] {
        tree.file(path).ok_or(DefaultTreeError::Missing(name))?;
    }
    Ok(())
}

/// Completes a tree of packages that were placed by [`placement`]: the directories and links of a
/// merged `/usr`, the files that no package brings, and the applets of a busybox, if there is one.
///
/// # Errors
/// When a busybox has no list of applets, or the tree refuses an entry.
pub(crate) fn lay_out(tree: &mut Tree) -> Result<(), DefaultTreeError> {
    for (path, mode) in DIRECTORIES {
        let path = TreePath::new(path)?;
        if tree.get(&path).is_none_or(|node| node.entry == Entry::Directory) {
            tree.put(path, Node::directory(mode))?;
        }
    }
    for (path, target) in LINKS {
        tree.put(TreePath::new(path)?, Node::symlink(target))?;
    }
    for (path, mode, text) in FILES {
        let path = TreePath::new(path)?;
        if tree.get(&path).is_none() {
            tree.put(path, Node::file(mode, text.as_bytes()))?;
        }
    }
    let Some(busybox) = tree.file("usr/bin/busybox").cloned() else { return Ok(()) };
    let names = applets(&busybox.bytes().map_err(DefaultTreeError::Read)?);
    for applet in names.ok_or(DefaultTreeError::Applets)? {
        let path = TreePath::new(&format!("usr/bin/{applet}"))?;
        if tree.get(&path).is_none() {
            tree.put(path, Node::symlink("busybox"))?;
        }
    }
    Ok(())
}

/// The names of the applets in a busybox program.
///
/// busybox keeps them as one run of NUL-terminated strings in ascending order, which begins with
/// `[` and `[[` and ends with an empty one. Reading it works for every architecture; running the
/// program would not.
fn applets(program: &[u8]) -> Option<Vec<String>> {
    const START: &[u8] = b"\0[\0[[\0";
    let start = program.windows(START.len()).position(|window| window == START)? + 1;
    let mut names: Vec<String> = Vec::new();
    for name in program.get(start..)?.split(|byte| *byte == 0) {
        if name.is_empty() {
            break;
        }
        let name = std::str::from_utf8(name).ok()?.to_owned();
        let is_clean = name.bytes().all(|b| b.is_ascii_graphic() && b != b'/');
        if !is_clean || names.last().is_some_and(|last| *last >= name) || names.len() > 1000 {
            return None;
        }
        names.push(name);
    }
    let has = |name: &str| names.iter().any(|known| known == name);
    (has("[") && has("mount")).then_some(names)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

    use super::*;

    fn place(text: &str) -> Option<String> {
        placement(&TreePath::new(text).unwrap()).map(|path| path.as_str().to_owned())
    }

    #[test]
    fn directories_that_are_one_are_merged_and_documentation_is_left_out() {
        assert_eq!(place("lib").unwrap(), "usr/lib");
        assert_eq!(
            place("lib/x86_64-linux-gnu/libc.so.6").unwrap(),
            "usr/lib/x86_64-linux-gnu/libc.so.6"
        );
        assert_eq!(place("library").unwrap(), "library");
        assert_eq!(place("usr/sbin/dropbear").unwrap(), "usr/bin/dropbear");
        assert_eq!(place("usr/share/doc/libc6/copyright"), None);
        assert_eq!(place("usr/share/docs").unwrap(), "usr/share/docs");
        assert_eq!(place("lib/x86_64-linux-gnu/gconv"), None);
    }

    fn packages() -> Tree {
        let mut tree = Tree::default();
        let busybox = b"\x7fELF..\0[\0[[\0ash\0init\0mount\0sh\0\0rest".to_vec();
        for (path, bytes) in [("bin/busybox", busybox), ("usr/sbin/dropbear", b"d".to_vec())] {
            let place = placement(&TreePath::new(path).unwrap()).unwrap();
            tree.put(place, Node::file(0o755, bytes)).unwrap();
        }
        tree
    }

    #[test]
    fn the_agent_is_init_and_every_other_applet_is_linked() {
        let mut tree = packages();
        complete(&mut tree).unwrap();
        let entry = |text: &str| tree.get(&TreePath::new(text).unwrap()).unwrap().entry.clone();
        assert_eq!(entry("usr/bin/init"), Entry::Symlink("mvm-guest".to_owned()));
        assert_eq!(entry("usr/bin/sh"), Entry::Symlink("busybox".to_owned()));
        assert_eq!(entry("sbin"), Entry::Symlink("usr/bin".to_owned()));
        let tmp = tree.get(&TreePath::new("tmp").unwrap()).unwrap();
        assert_eq!(tmp.mode, 0o1777);
    }

    #[test]
    fn a_program_without_a_sorted_list_of_applets_is_refused() {
        assert_eq!(applets(b"\0[\0[[\0sh\0mount\0\0"), None);
        assert_eq!(applets(b"nothing"), None);
        assert_eq!(applets(b"\0[\0[[\0mount\0sh\0\0").unwrap(), ["[", "[[", "mount", "sh"]);
    }

    #[test]
    fn missing_packages_are_named() {
        let mut tree = Tree::default();
        let error = complete(&mut tree).unwrap_err();
        assert!(error.to_string().contains("busybox"), "{error}");
    }
}
