//! Tar streams, entry by entry, from people who may mean harm.
//!
//! Yields each entry once, its path checked, and bounds what a stream may cost: its length, and the
//! bytes that describe an entry. [`unpack`] puts the entries of one stream into a tree as they
//! are; what layers do to each other is `oci`'s.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

use crate::tree::{Entry, Node, Tree, TreeError, TreePath};

/// The most that one stream may hold, in bytes, skipped entries included.
pub const STREAM_LIMIT: u64 = 16 << 30;
/// The most that may describe one entry, in bytes: long names, extended attributes.
const HEAD_LIMIT: u64 = 1 << 20;

/// Why a tar stream could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UntarError {
    /// The stream can't be read, or a content can't be kept.
    #[error("cannot read the archive")]
    Read(#[from] io::Error),
    /// A name that is not UTF-8.
    #[error("the archive has a path that is not UTF-8: {0}")]
    NotUtf8(String),
    /// A device, a FIFO or another thing that images don't hold.
    #[error("the archive has an entry of an unknown kind at {0}")]
    Kind(TreePath),
    /// A number in a header that doesn't fit.
    #[error("the archive has an owner or mode out of range at {0}")]
    Header(TreePath),
    /// The tree refused it.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

/// Says where a path of the archive goes; `None` leaves it out.
pub type Placement<'a> = &'a dyn Fn(&TreePath) -> Option<TreePath>;

/// An entry of an archive.
pub(crate) struct Found<'a> {
    /// Where; the root's own entry is not yielded.
    pub(crate) path: TreePath,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) what: What<'a>,
    /// Whether it has extended attributes, which images don't hold.
    pub(crate) has_attributes: bool,
}

/// What an entry is.
pub(crate) enum What<'a> {
    Directory,
    Symlink(String),
    /// Another name of the file with this path.
    Link(TreePath),
    File {
        length: u64,
        bytes: &'a mut dyn Read,
    },
    /// A device or a FIFO.
    Other,
}

impl Found<'_> {
    /// The node of this entry; `None` for a hard link and for what images don't hold.
    pub(crate) fn into_node(self, tree: &mut Tree) -> Result<Option<Node>, UntarError> {
        let entry = match self.what {
            What::Directory => Entry::Directory,
            What::Symlink(target) => Entry::Symlink(target),
            // The header's size is only a claim, so no more is read than there is room for.
            What::File { length, .. } if length > tree.room() => {
                return Err(TreeError::TooLarge(tree.room()).into());
            }
            What::File { length, mut bytes } => Entry::File(tree.keep(&mut bytes, length)?),
            What::Link(_) | What::Other => return Ok(None),
        };
        Ok(Some(Node { mode: self.mode, uid: self.uid, gid: self.gid, entry }))
    }
}

/// Unpacks a tar stream into `tree`, each path where `placement` says.
///
/// # Errors
/// When the stream is malformed, holds what an image can't, or passes the tree's bounds; the tree
/// may then hold a part of it.
pub fn unpack(
    stream: impl Read,
    tree: &mut Tree,
    placement: Placement<'_>,
) -> Result<(), UntarError> {
    each(stream, &mut |found| {
        let Some(place) = placement(&found.path) else { return Ok(()) };
        let path = found.path.clone();
        match &found.what {
            What::Other => return Err(UntarError::Kind(path)),
            What::Link(target) => {
                let target = placement(target)
                    .ok_or(TreeError::LinkTarget { path, target: target.clone() })?;
                return Ok(tree.link(place, &target)?);
            }
            What::Directory | What::Symlink(_) | What::File { .. } => {}
        }
        match found.into_node(tree)? {
            Some(node) => Ok(tree.put(place, node)?),
            None => Err(UntarError::Kind(path)),
        }
    })
}

/// Calls `visit` with each entry of a tar stream, in its order.
pub(crate) fn each(
    stream: impl Read,
    visit: &mut dyn FnMut(Found<'_>) -> Result<(), UntarError>,
) -> Result<(), UntarError> {
    let next = Rc::new(Cell::new(HEAD_LIMIT));
    let metered = Metered { stream, left: STREAM_LIMIT, next: next.clone() };
    let mut archive = tar::Archive::new(metered);
    for entry in archive.entries()? {
        let mut entry = entry?;
        next.set(entry.size().saturating_add(HEAD_LIMIT));
        let text = utf8(&entry.path_bytes())?;
        let Some(path) = inside(&text)? else { continue };
        let kind = entry.header().entry_type();
        if kind.is_pax_global_extensions() {
            continue;
        }
        let has_attributes = has_attributes(&mut entry)?;
        let Some((mode, uid, gid)) = numbers(entry.header()) else {
            return Err(UntarError::Header(path));
        };
        let length = entry.size();
        let what = if kind.is_dir() {
            What::Directory
        } else if kind.is_symlink() {
            let target = utf8(&entry.link_name_bytes().unwrap_or_default())?;
            if target.is_empty() || target.len() > 4095 || target.contains('\0') {
                return Err(TreeError::Path(target.chars().take(200).collect()).into());
            }
            What::Symlink(target)
        } else if kind.is_hard_link() {
            What::Link(TreePath::new(&utf8(&entry.link_name_bytes().unwrap_or_default())?)?)
        } else if kind.is_file() || kind.is_contiguous() {
            What::File { length, bytes: &mut entry }
        } else if kind.is_character_special() || kind.is_block_special() || kind.is_fifo() {
            What::Other
        } else {
            // Also what would have to be put together, such as files with holes.
            return Err(UntarError::Kind(path));
        };
        visit(Found { path, mode, uid, gid, what, has_attributes })?;
    }
    Ok(())
}

/// The checked path; `None` for the root itself.
fn inside(text: &str) -> Result<Option<TreePath>, TreeError> {
    if text.split('/').all(|part| part.is_empty() || part == ".") && !text.starts_with('/') {
        return Ok(None);
    }
    TreePath::new(text).map(Some)
}

fn utf8(bytes: &[u8]) -> Result<String, UntarError> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => {
            Err(UntarError::NotUtf8(String::from_utf8_lossy(bytes).chars().take(200).collect()))
        }
    }
}

fn numbers(header: &tar::Header) -> Option<(u16, u32, u32)> {
    let mode = u16::try_from(header.mode().ok()? & 0o7777).ok()?;
    let uid = u32::try_from(header.uid().ok()?).ok()?;
    let gid = u32::try_from(header.gid().ok()?).ok()?;
    Some((mode, uid, gid))
}

fn has_attributes(entry: &mut tar::Entry<'_, impl Read>) -> io::Result<bool> {
    let Some(extensions) = entry.pax_extensions()? else { return Ok(false) };
    Ok(extensions.flatten().any(|one| one.key_bytes().starts_with(b"SCHILY.xattr.")))
}

/// A stream that fails when it is too long, or when more is read than what was announced.
struct Metered<R> {
    stream: R,
    left: u64,
    /// How much may be read before the next entry.
    next: Rc<Cell<u64>>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(into)? as u64;
        if count > self.left || count > self.next.get() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is longer than it may be"));
        }
        self.left -= count;
        self.next.set(self.next.get() - count);
        usize::try_from(count).map_err(io::Error::other)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

    use super::*;
    use crate::content::Spool;
    use crate::tree::TreeLimits;

    pub(crate) type Item<'a> = (&'a str, tar::EntryType, &'a str);

    /// A tar with raw names, as a hostile packer would write it.
    pub(crate) fn tar(items: &[Item<'_>]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, kind, text) in items {
            let mut header = tar::Header::new_gnu();
            header.as_mut_bytes().get_mut(..name.len()).unwrap().copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(0o4755);
            header.set_uid(7);
            header.set_gid(8);
            let is_long = kind.is_gnu_longname() || kind.is_pax_local_extensions();
            let data = if kind.is_file() || is_long { text.as_bytes() } else { &[] };
            header.set_size(data.len() as u64);
            if !kind.is_file() && !is_long {
                header.set_link_name_literal(text).unwrap();
            }
            header.set_cksum();
            builder.append(&header, data).unwrap();
        }
        builder.into_inner().unwrap()
    }

    pub(crate) fn all(path: &TreePath) -> Option<TreePath> {
        Some(path.clone())
    }

    #[test]
    fn hostile_entries_are_refused() {
        use tar::EntryType as Kind;
        let cases: [&[Item<'_>]; 7] = [
            &[("../x", Kind::Regular, "x")],
            &[("/etc/x", Kind::Regular, "x")],
            &[("a/../../x", Kind::Regular, "x")],
            &[("l", Kind::Symlink, "/etc"), ("l/passwd", Kind::Regular, "x")],
            &[("h", Kind::Link, "../../etc/passwd")],
            &[("h", Kind::Link, "not/there")],
            &[("d", Kind::Char, "")],
        ];
        for items in cases {
            let mut tree = Tree::default();
            assert!(unpack(&tar(items)[..], &mut tree, &all).is_err(), "{items:?}");
            assert!(tree.iter().all(|(_, node)| !matches!(node.entry, Entry::File(_))));
        }
    }

    #[test]
    fn a_claimed_size_beyond_the_bound_is_refused_before_it_is_read() {
        let mut tree = Tree::new(TreeLimits { entries: 10, bytes: 3 });
        let data = tar(&[("a", tar::EntryType::Regular, "1234")]);
        assert!(matches!(
            unpack(&data[..], &mut tree, &all),
            Err(UntarError::Tree(TreeError::TooLarge(_)))
        ));
    }

    #[test]
    fn a_name_without_end_is_refused_before_it_fills_the_memory() {
        let long = "x".repeat(2 << 20);
        for kind in [tar::EntryType::GNULongName, tar::EntryType::XHeader] {
            let data = tar(&[("n", kind, &long), ("a", tar::EntryType::Regular, "1")]);
            let error = unpack(&data[..], &mut Tree::default(), &all).unwrap_err();
            assert!(matches!(error, UntarError::Read(_)), "{error}");
        }
    }

    #[test]
    fn an_archive_that_ends_inside_an_entry_is_an_error() {
        let data = tar(&[("a", tar::EntryType::Regular, "1234")]);
        assert!(unpack(data.get(..514).unwrap(), &mut Tree::default(), &all).is_err());
    }

    #[test]
    fn a_spooled_tree_holds_what_one_in_memory_holds() {
        let directory = tempfile::tempdir().unwrap();
        let data = tar(&[
            ("./", tar::EntryType::Directory, ""),
            ("a/b", tar::EntryType::Regular, "hello"),
            ("a/h", tar::EntryType::Link, "a/b"),
        ]);
        let spool = Spool::on(directory.path()).unwrap();
        let mut tree = Tree::spooled(TreeLimits::default(), spool);
        unpack(&data[..], &mut tree, &all).unwrap();
        for path in ["a/b", "a/h"] {
            assert_eq!(tree.file(path).unwrap().bytes().unwrap()[..], *b"hello");
        }
    }
}
