#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;
use std::io::{BufReader, Read};
use std::os::unix::fs::MetadataExt;

use backhand::{FilesystemReader, InnerNode};
use tempfile::TempDir;

use super::*;
use crate::tree::{TreeLimits, TreePath};

fn path(text: &str) -> TreePath {
    TreePath::new(text).unwrap()
}

fn bytes(seed: u32, length: u32) -> Vec<u8> {
    (0..length).map(|i| (i.wrapping_mul(seed | 1) >> 3) as u8 | 1).collect()
}

fn sample(mut tree: Tree) -> Tree {
    for (at, length) in [("usr/bin/tool", 300_000), ("usr/bin/block", 131_072), ("etc/a", 7)] {
        let content = tree.keep(&mut &bytes(length, length)[..], u64::from(length)).unwrap();
        tree.put(path(at), Node::file(0o4755, content)).unwrap();
    }
    tree.link(path("etc/b"), &path("etc/a")).unwrap();
    tree.put(path("etc/empty"), Node::file(0o600, Vec::new())).unwrap();
    tree.put(path("etc/memory"), Node::file(0o640, bytes(3, 5000))).unwrap();
    tree.put(path("bin"), Node::symlink("usr/bin")).unwrap();
    tree.put(path("home/u"), Node { uid: 1000, gid: 1001, ..Node::directory(0o700) }).unwrap();
    tree
}

/// An image in a directory of its own, of a tree that is filled by `fill`.
struct Made(TempDir);

impl Made {
    fn at(&self) -> std::path::PathBuf {
        self.0.path().join("root")
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.at()).unwrap()
    }
}

/// An image of a tree that kept its contents in the image's own spool.
fn in_place(fill: impl FnOnce(Tree) -> Tree) -> (Made, Tree) {
    let made = Made(tempfile::tempdir().unwrap());
    let root = RootFile::create(&made.at()).unwrap();
    let tree = fill(Tree::spooled(TreeLimits { entries: 100_000, bytes: 1 << 30 }, root.spool()));
    finish(&root, &tree, &made);
    (made, tree)
}

fn of(tree: &Tree) -> Made {
    let made = Made(tempfile::tempdir().unwrap());
    finish(&RootFile::create(&made.at()).unwrap(), tree, &made);
    made
}

fn finish(root: &RootFile, tree: &Tree, made: &Made) {
    let length = root.finish(tree).unwrap();
    let found = made.at().metadata().unwrap();
    assert_eq!((length, length % 4096), (found.len(), 0));
    assert_eq!(found.mode() & 0o777, 0o644);
}

type Line = (u16, u32, u32, u32, Vec<u8>);

/// Reads an image back into comparable lines.
fn listing(made: &Made) -> BTreeMap<String, Line> {
    let image = BufReader::new(File::open(made.at()).unwrap());
    let reader = FilesystemReader::from_reader(image).unwrap();
    let mut lines = BTreeMap::new();
    for node in reader.files() {
        let data = match &node.inner {
            InnerNode::File(file) => {
                let mut bytes = Vec::new();
                reader.file(file).reader().read_to_end(&mut bytes).unwrap();
                bytes
            }
            InnerNode::Symlink(link) => link.link.to_str().unwrap().as_bytes().to_vec(),
            InnerNode::Dir(_)
            | InnerNode::CharacterDevice(_)
            | InnerNode::BlockDevice(_)
            | InnerNode::NamedPipe
            | InnerNode::Socket => Vec::new(),
        };
        let h = node.header;
        let path = node.fullpath.to_str().unwrap().trim_start_matches('/').to_owned();
        lines.insert(path, (h.permissions, h.uid, h.gid, h.mtime, data));
    }
    lines
}

fn assert_same(made: &Made, tree: &Tree) {
    let lines = listing(made);
    for (path, node) in tree.iter() {
        let (mode, uid, gid, time, data) = lines.get(path.as_str()).unwrap();
        assert_eq!((*mode, *uid, *gid), (node.mode, node.uid, node.gid), "{path}");
        assert_eq!(*time, FILE_TIME);
        match &node.entry {
            Entry::File(content) => assert!(data[..] == content.bytes().unwrap()[..], "{path}"),
            Entry::Symlink(target) => assert_eq!(data[..], *target.as_bytes()),
            Entry::Directory => {}
        }
    }
    assert_eq!(lines.len(), tree.iter().count() + 1);
}

#[test]
fn an_image_reads_back_as_the_tree_wherever_its_contents_were() {
    let (made, tree) = in_place(sample);
    assert_same(&made, &tree);
    let tree = sample(Tree::default());
    assert_same(&of(&tree), &tree);
    let directory = tempfile::tempdir().unwrap();
    let spool = Spool::on(directory.path()).unwrap();
    let tree = sample(Tree::spooled(TreeLimits::default(), spool));
    assert_same(&of(&tree), &tree);
    let empty = Tree::default();
    assert_same(&of(&empty), &empty);
}

#[test]
fn two_builds_of_a_tree_give_the_same_bytes() {
    let one = of(&sample(Tree::default())).bytes();
    assert!(one == of(&sample(Tree::default())).bytes());
    assert_eq!(*one.get(8..12).unwrap(), FILE_TIME.to_le_bytes());
    assert!(in_place(sample).0.bytes() == in_place(sample).0.bytes());
}

#[test]
fn contents_that_lie_elsewhere_are_put_in_by_path_in_whatever_order_they_came() {
    let filled = |names: [&str; 3]| {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::on(directory.path()).unwrap();
        let mut tree = Tree::spooled(TreeLimits::default(), spool);
        for name in names {
            let content = tree.keep(&mut name.repeat(9000).as_bytes(), 9000).unwrap();
            tree.put(path(name), Node::file(0o644, content)).unwrap();
        }
        of(&tree).bytes()
    };
    assert!(filled(["a", "b", "c"]) == filled(["c", "a", "b"]));
}

#[test]
fn of_a_content_that_was_replaced_nothing_is_left() {
    let secret = b"a secret of a lower layer. ".repeat(9000);
    let (made, tree) = in_place(|mut tree| {
        for (name, text) in [("a", &secret[..]), ("k", b"kept"), ("z", &secret[..])] {
            let content = tree.keep(&mut &text[..], text.len() as u64).unwrap();
            tree.put(path(name), Node::file(0o644, content)).unwrap();
        }
        let mut tree = sample(tree);
        tree.remove(&path("a"), &|_| false);
        tree.put(path("z"), Node::file(0o644, *b"z")).unwrap();
        tree
    });
    assert_same(&made, &tree);
    let image = made.bytes();
    assert!(!image.windows(8).any(|window| window == b"a secret"));
    assert!(image.windows(4).any(|window| window == b"kept"));
}

#[test]
fn what_is_zero_takes_no_space_on_the_disk() {
    let (made, tree) = in_place(|mut tree| {
        let content = tree.keep(&mut std::io::repeat(0).take(64 << 20), 64 << 20).unwrap();
        tree.put(path("zeros"), Node::file(0o644, content)).unwrap();
        tree
    });
    assert!(made.at().metadata().unwrap().blocks() * 512 < 1 << 20);
    assert_same(&made, &tree);
}

#[test]
fn a_directory_may_have_many_entries_and_a_tree_many_owners_and_small_files() {
    let (made, tree) = in_place(|mut tree| {
        for number in 0..4000_u32 {
            let name = format!("d/{number}-{}", "n".repeat(number as usize % 200));
            let content = tree.keep(&mut &bytes(number, number % 777)[..], u64::from(number % 777));
            let node = Node::file(0o644, content.unwrap());
            tree.put(path(&name), Node { uid: number % 1000, gid: number % 900, ..node }).unwrap();
            tree.put(path(&format!("e/{number}/f/g")), Node::symlink(&"l".repeat(200))).unwrap();
        }
        tree
    });
    assert_same(&made, &tree);
}

#[test]
fn a_content_may_lie_beyond_four_gibibytes() {
    let made = Made(tempfile::tempdir().unwrap());
    let root = RootFile::create(&made.at()).unwrap();
    let spool = Spool::behind(root.0.clone(), 5 << 30);
    let tree = sample(Tree::spooled(TreeLimits::default(), spool));
    finish(&root, &tree, &made);
    assert_same(&made, &tree);
}

#[test]
fn a_changed_mode_changes_the_image() {
    let mut tree = sample(Tree::default());
    tree.put(path("home/u"), Node::directory(0o701)).unwrap();
    assert!(of(&tree).bytes() != of(&sample(Tree::default())).bytes());
}

#[test]
fn more_owners_than_there_are_numbers_for_are_refused() {
    let mut tree = Tree::new(TreeLimits { entries: 100_000, bytes: 0 });
    for number in 0..66_000_u32 {
        let node = Node { uid: number, ..Node::directory(0o755) };
        tree.put(path(&number.to_string()), node).unwrap();
    }
    let directory = tempfile::tempdir().unwrap();
    let root = RootFile::create(&directory.path().join("root")).unwrap();
    assert!(matches!(root.finish(&tree), Err(RootError::TooMany("owners"))));
}
