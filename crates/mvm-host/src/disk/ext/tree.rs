//! The directories of a drive, from the paths of its files.
//!
//! Inode numbers are given in the order of the tree, so that they depend on the paths alone.

use std::{borrow::Cow, collections::BTreeMap};

use mvm_core::units::Uid;

use super::{BLOCK, FIRST_INODE, File, ROOT};
use crate::disk::error::Error;

const DIRECTORY: u16 = 0o040_000;
const REGULAR: u16 = 0o100_000;

/// One inode.
pub(super) struct Node {
    pub(super) inode: u32,
    /// Type and permission bits.
    pub(super) mode: u16,
    pub(super) links: u16,
    pub(super) uid: Uid,
    pub(super) gid: Uid,
    parent: u32,
    content: Content,
}

enum Content {
    /// Index into the list of files.
    File(usize),
    /// Names with inode and whether it is a directory.
    Directory(BTreeMap<String, (u32, bool)>),
}

/// All inodes of a drive, in the order of their numbers; the root comes first.
pub(super) struct Tree<'a> {
    pub(super) nodes: Vec<Node>,
    files: &'a [File],
}

impl<'a> Tree<'a> {
    pub(super) fn of(files: &'a [File]) -> Result<Self, Error> {
        let mut by_path: BTreeMap<Vec<&str>, Option<usize>> = BTreeMap::new();
        by_path.insert(Vec::new(), None);
        for (index, file) in files.iter().enumerate() {
            let parts: Vec<&str> = file.path.split('/').collect();
            let legal = |part: &&str| {
                (1..=255).contains(&part.len())
                    && !matches!(*part, "." | "..")
                    && !part.contains('\0')
            };
            if !parts.iter().all(legal) || file.mode > 0o7777 {
                return Err(Error::Drive(format!("{:?} is not a path for a file", file.path)));
            }
            let mut above = parts.clone();
            while above.pop().is_some() {
                if let Some(Some(_)) = by_path.insert(above.clone(), None) {
                    return Err(twice(&file.path));
                }
            }
            if by_path.insert(parts, Some(index)).is_some() {
                return Err(twice(&file.path));
            }
        }
        Ok(Self { nodes: number(&by_path, files)?, files })
    }

    pub(super) fn beside_root(&self) -> u32 {
        u32::try_from(self.nodes.len() - 1).unwrap_or(u32::MAX)
    }

    pub(super) fn directories(&self) -> u16 {
        let count = self.nodes.iter().filter(|node| matches!(node.content, Content::Directory(_)));
        u16::try_from(count.count()).unwrap_or(u16::MAX)
    }

    pub(super) fn content(&self, node: &Node) -> Result<Cow<'a, [u8]>, Error> {
        match &node.content {
            Content::File(index) => Ok(Cow::Borrowed(
                self.files.get(*index).map(|file| file.data.as_slice()).unwrap_or_default(),
            )),
            Content::Directory(entries) => directory(node, entries).map(Cow::Owned),
        }
    }
}

fn twice(path: &str) -> Error {
    Error::Drive(format!("{path:?} is there twice, or is a file and a directory"))
}

fn number(
    by_path: &BTreeMap<Vec<&str>, Option<usize>>,
    files: &[File],
) -> Result<Vec<Node>, Error> {
    let mut nodes: Vec<Node> = Vec::with_capacity(by_path.len());
    let mut places: BTreeMap<&[&str], usize> = BTreeMap::new();
    for (path, file) in by_path {
        let place = nodes.len();
        let inode = match u32::try_from(place) {
            Ok(0) => ROOT,
            Ok(place) if place < 60_000 => FIRST_INODE - 1 + place,
            _ => return Err(Error::Drive("more than 60,000 files".to_owned())),
        };
        let mut parent_inode = ROOT;
        if let Some((name, above)) = path.split_last() {
            let parent = places.get(above).and_then(|place| nodes.get_mut(*place));
            if let Some(Node {
                content: Content::Directory(entries), links, inode: above, ..
            }) = parent
            {
                entries.insert((*name).to_owned(), (inode, file.is_none()));
                *links += u16::from(file.is_none());
                parent_inode = *above;
            }
        }
        places.insert(path, place);
        nodes.push(match file.and_then(|index| Some((index, files.get(index)?))) {
            Some((index, file)) => Node {
                inode,
                mode: REGULAR | file.mode,
                links: 1,
                uid: file.uid,
                gid: file.gid,
                parent: parent_inode,
                content: Content::File(index),
            },
            None => Node {
                inode,
                mode: DIRECTORY | 0o755,
                links: 2,
                uid: Uid(0),
                gid: Uid(0),
                parent: parent_inode,
                content: Content::Directory(BTreeMap::new()),
            },
        });
    }
    Ok(nodes)
}

/// Directory entries: inode, length of the entry, length of the name, type, name. An entry never
/// crosses a block, and the last of a block reaches to its end.
fn directory(node: &Node, entries: &BTreeMap<String, (u32, bool)>) -> Result<Vec<u8>, Error> {
    let own = [(".", (node.inode, true)), ("..", (node.parent, true))];
    let all = own.into_iter().chain(entries.iter().map(|(name, entry)| (name.as_str(), *entry)));
    let mut blocks: Vec<Vec<(u32, bool, &str)>> = Vec::new();
    let mut room = 0;
    for (name, (inode, is_directory)) in all {
        let length = length(name);
        if length > room {
            blocks.push(Vec::new());
            room = BLOCK;
        }
        room -= length;
        if let Some(block) = blocks.last_mut() {
            block.push((inode, is_directory, name));
        }
    }
    let mut out = Vec::with_capacity(blocks.len() * BLOCK);
    for block in blocks {
        let end = out.len() + BLOCK;
        let last = block.len() - 1;
        for (index, (inode, is_directory, name)) in block.into_iter().enumerate() {
            let whole = if index == last { end - out.len() } else { length(name) };
            let whole = u16::try_from(whole).map_err(|_| Error::Drive("a long name".to_owned()))?;
            out.extend_from_slice(&inode.to_le_bytes());
            out.extend_from_slice(&whole.to_le_bytes());
            out.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
            out.push(if is_directory { 2 } else { 1 });
            out.extend_from_slice(name.as_bytes());
            out.resize(out.len().next_multiple_of(4), 0);
        }
        out.resize(end, 0);
    }
    Ok(out)
}

fn length(name: &str) -> usize {
    (8 + name.len()).next_multiple_of(4)
}
