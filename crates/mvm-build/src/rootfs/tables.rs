//! The tables of a squashfs 4.0, whose layout is that of the kernel's documentation
//! (`Documentation/filesystems/squashfs.rst`) and of its `fs/squashfs/squashfs_fs.h`.
//!
//! All are stored, none is compressed, so that the place of everything follows from lengths. Where
//! contents lie is given ([`Layout`]); nothing is read or written here.

use std::collections::{BTreeMap, BTreeSet};

use super::{FILE_TIME, RootError};
use crate::content::{Content, Identity};
use crate::tree::{Entry, Node, Tree};

/// Length of the superblock, at the file's start, in bytes.
pub(super) const SUPERBLOCK: u64 = 96;
/// Length of a block of file data, in bytes; a content that is shorter is a part of a fragment.
pub(super) const BLOCK: u64 = 1 << BLOCK_LOG;
const BLOCK_LOG: u16 = 17;
const MAGIC: u32 = 0x7371_7368;
/// zstd. Nothing is compressed, but a kernel wants to know the name.
const COMPRESSOR: u16 = 6;
/// Inodes, data, fragments and owners are stored; inodes are found by number; no extended attributes.
const FLAGS: u16 = 0x1 | 0x2 | 0x8 | 0x80 | 0x200 | 0x800;
/// In the length of a block of data or a fragment: it is stored.
const STORED: u32 = 1 << 24;
/// In the length of a block of metadata: it is stored.
const METADATA_STORED: u16 = 1 << 15;
/// Length of a block of metadata, in bytes, without the two of its own length.
const METADATA: usize = 8192;
const NONE: u32 = u32::MAX;
const NO_TABLE: u64 = u64::MAX;
/// Most entries behind one head of a listing.
const RUN: usize = 256;

/// Where contents lie in the file.
pub(super) struct Layout {
    /// The first byte of each content that is not empty.
    pub(super) at: BTreeMap<Identity, u64>,
    /// Ordered by their starts, none of them longer than a block.
    pub(super) fragments: Vec<Fragment>,
    /// Behind the last content.
    pub(super) end: u64,
}

/// A piece of the file with contents that are shorter than a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fragment {
    pub(super) start: u64,
    pub(super) end: u64,
}

/// What an inode is called in its own head and in listings; the extended kinds add 7.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Directory = 1,
    File = 2,
    Symlink = 3,
}
const EXTENDED: u16 = 7;

/// Metadata that is cut into blocks when it is whole.
#[derive(Debug, Default)]
struct Metadata(Vec<u8>);

/// A place in metadata: the start of the block behind the start of its table, and what is before it
/// in the block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    block: u32,
    offset: u16,
}

impl Place {
    fn reference(self) -> u64 {
        u64::from(self.block) << 16 | u64::from(self.offset)
    }
}

impl Metadata {
    fn u16(&mut self, number: u16) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn u32(&mut self, number: u32) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn u64(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    /// Where the next byte goes.
    fn place(&self) -> Result<Place, RootError> {
        let before = self.0.len() / METADATA * (METADATA + 2);
        let block = u32::try_from(before).map_err(|_| RootError::TooMany("entries"))?;
        let offset = u16::try_from(self.0.len() % METADATA).unwrap_or_default();
        Ok(Place { block, offset })
    }

    /// Appends all blocks to `to`, which begins at `base` of the file; gives their starts in the file.
    fn append(&self, to: &mut Vec<u8>, base: u64) -> Vec<u64> {
        let mut starts = Vec::new();
        for block in self.0.chunks(METADATA) {
            starts.push(base + to.len() as u64);
            let length = u16::try_from(block.len()).unwrap_or_default() | METADATA_STORED;
            to.extend_from_slice(&length.to_le_bytes());
            to.extend_from_slice(block);
        }
        starts
    }

    /// As [`Metadata::append`], and behind the blocks their starts; gives where those begin.
    fn append_indexed(&self, to: &mut Vec<u8>, base: u64) -> u64 {
        let starts = self.append(to, base);
        let index = base + to.len() as u64;
        starts.iter().for_each(|start| to.extend_from_slice(&start.to_le_bytes()));
        index
    }
}

/// An entry of a directory whose inode is written.
struct Child<'a> {
    name: &'a str,
    kind: Kind,
    number: u32,
    place: Place,
}

/// The tables of one tree.
pub(super) struct Tables<'a> {
    layout: &'a Layout,
    owners: Vec<u32>,
    inodes: Metadata,
    listings: Metadata,
    /// Where each inode is, by its number; the first has the number 1.
    references: Vec<u64>,
    root: Place,
}

impl<'a> Tables<'a> {
    /// Numbers follow the order of paths, the root has the last. An inode is written after those of
    /// what is in it, so against that order.
    pub(super) fn of(tree: &'a Tree, layout: &'a Layout) -> Result<Self, RootError> {
        let nodes: Vec<_> = tree.iter().collect();
        let last = u32::try_from(nodes.len() + 1).map_err(|_| RootError::TooMany("entries"))?;
        let owners: BTreeSet<u32> =
            nodes.iter().flat_map(|(_, node)| [node.uid, node.gid]).chain([0]).collect();
        let mut tables = Self {
            layout,
            owners: owners.into_iter().collect(),
            inodes: Metadata::default(),
            listings: Metadata::default(),
            references: Vec::new(),
            root: Place { block: 0, offset: 0 },
        };
        let numbers: BTreeMap<&str, u32> =
            (1..).zip(&nodes).map(|(number, (path, _))| (path.as_str(), number)).collect();
        let mut inside: BTreeMap<&str, Vec<Child<'_>>> = BTreeMap::new();
        for ((path, node), number) in nodes.iter().rev().zip((1..last).rev()) {
            let path = path.as_str();
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
            let of_parent = match numbers.get(parent) {
                Some(number) => *number,
                None if parent.is_empty() => last,
                None => return Err(RootError::NoDirectory(parent.to_owned())),
            };
            let place = tables.inodes.place()?;
            let kind = match &node.entry {
                Entry::File(content) => tables.file(node, number, content)?,
                Entry::Symlink(target) => tables.symlink(node, number, target)?,
                Entry::Directory => {
                    let children = inside.remove(path).unwrap_or_default();
                    tables.directory(node, number, of_parent, children)?
                }
            };
            tables.references.push(place.reference());
            inside.entry(parent).or_default().push(Child { name, kind, number, place });
        }
        tables.references.reverse();
        tables.root = tables.inodes.place()?;
        let children = inside.remove("").unwrap_or_default();
        tables.directory(&Node::directory(0o755), last, last + 1, children)?;
        tables.references.push(tables.root.reference());
        match inside.into_keys().next() {
            None => Ok(tables),
            Some(path) => Err(RootError::NoDirectory(path.to_owned())),
        }
    }

    fn head(&mut self, kind: u16, node: &Node, number: u32) -> Result<(), RootError> {
        self.inodes.u16(kind);
        self.inodes.u16(node.mode);
        for owner in [node.uid, node.gid] {
            let at = self.owners.binary_search(&owner).unwrap_or_default();
            self.inodes.u16(u16::try_from(at).map_err(|_| RootError::TooMany("owners"))?);
        }
        self.inodes.u32(FILE_TIME);
        self.inodes.u32(number);
        Ok(())
    }

    fn file(&mut self, node: &Node, number: u32, content: &Content) -> Result<Kind, RootError> {
        let length = content.length();
        let at = self.layout.at.get(&content.identity()).copied().unwrap_or_default();
        let (start, fragment, offset) = match self.fragment(at, length) {
            Some((fragment, offset)) => (0, fragment, offset),
            None => (at, NONE, 0),
        };
        if let (Ok(start), Ok(length)) = (u32::try_from(start), u32::try_from(length)) {
            self.head(Kind::File as u16, node, number)?;
            [start, fragment, offset, length].into_iter().for_each(|part| self.inodes.u32(part));
        } else {
            self.head(Kind::File as u16 + EXTENDED, node, number)?;
            [start, length, 0].into_iter().for_each(|part| self.inodes.u64(part));
            [1, fragment, offset, NONE].into_iter().for_each(|part| self.inodes.u32(part));
        }
        let mut left = if fragment == NONE { length } else { 0 };
        while left > 0 {
            let block = left.min(BLOCK);
            self.inodes.u32(u32::try_from(block).unwrap_or_default() | STORED);
            left -= block;
        }
        Ok(Kind::File)
    }

    /// Which fragment a content is in, and how far behind its start.
    fn fragment(&self, at: u64, length: u64) -> Option<(u32, u32)> {
        if length == 0 || length >= BLOCK {
            return None;
        }
        let fragments = &self.layout.fragments;
        let index = fragments.partition_point(|one| one.start <= at).checked_sub(1)?;
        let inside = at.checked_sub(fragments.get(index)?.start)?;
        Some((u32::try_from(index).ok()?, u32::try_from(inside).ok()?))
    }

    fn symlink(&mut self, node: &Node, number: u32, target: &str) -> Result<Kind, RootError> {
        self.head(Kind::Symlink as u16, node, number)?;
        self.inodes.u32(1);
        self.inodes.u32(u32::try_from(target.len()).unwrap_or_default());
        self.inodes.0.extend_from_slice(target.as_bytes());
        Ok(Kind::Symlink)
    }

    fn directory(
        &mut self,
        node: &Node,
        number: u32,
        parent: u32,
        mut children: Vec<Child<'_>>,
    ) -> Result<Kind, RootError> {
        children.sort_unstable_by_key(|child| child.name);
        let directories = children.iter().filter(|child| child.kind == Kind::Directory).count();
        let links = u32::try_from(directories + 2).map_err(|_| RootError::TooMany("entries"))?;
        let (place, before) = (self.listings.place()?, self.listings.0.len());
        self.list(&children);
        // The entries of itself and of its parent, which are not written, count three bytes.
        let length = self.listings.0.len() - before + 3;
        if let Ok(length) = u16::try_from(length) {
            self.head(Kind::Directory as u16, node, number)?;
            self.inodes.u32(place.block);
            self.inodes.u32(links);
            self.inodes.u16(length);
            self.inodes.u16(place.offset);
            self.inodes.u32(parent);
        } else {
            let length = u32::try_from(length).map_err(|_| RootError::TooMany("entries"))?;
            self.head(Kind::Directory as u16 + EXTENDED, node, number)?;
            [links, length, place.block, parent].into_iter().for_each(|part| self.inodes.u32(part));
            self.inodes.u16(0);
            self.inodes.u16(place.offset);
            self.inodes.u32(NONE);
        }
        Ok(Kind::Directory)
    }

    /// Writes a listing, in runs of entries whose inodes are in one block and have close numbers.
    fn list(&mut self, mut children: &[Child<'_>]) {
        while let Some(first) = children.first() {
            let beyond = |child: &Child<'_>| i64::from(child.number) - i64::from(first.number);
            let fits = |child: &&Child<'_>| {
                child.place.block == first.place.block && i16::try_from(beyond(child)).is_ok()
            };
            let count = children.iter().take(RUN).take_while(fits).count();
            let (run, rest) = children.split_at(count);
            self.listings.u32(u32::try_from(count - 1).unwrap_or_default());
            self.listings.u32(first.place.block);
            self.listings.u32(first.number);
            for child in run {
                self.listings.u16(child.place.offset);
                let beyond = i16::try_from(beyond(child)).unwrap_or_default();
                self.listings.0.extend_from_slice(&beyond.to_le_bytes());
                self.listings.u16(child.kind as u16);
                self.listings.u16(u16::try_from(child.name.len() - 1).unwrap_or_default());
                self.listings.0.extend_from_slice(child.name.as_bytes());
            }
            children = rest;
        }
    }

    /// The superblock, and all tables, which go where the contents end.
    pub(super) fn encode(&self) -> Result<([u8; SUPERBLOCK as usize], Vec<u8>), RootError> {
        let base = self.layout.end;
        let mut tables = Vec::new();
        self.inodes.append(&mut tables, base);
        let listings_at = base + tables.len() as u64;
        self.listings.append(&mut tables, base);
        let (mut fragments, mut references, mut owners) =
            (Metadata::default(), Metadata::default(), Metadata::default());
        for fragment in &self.layout.fragments {
            fragments.u64(fragment.start);
            let length = u32::try_from(fragment.end - fragment.start).unwrap_or_default();
            fragments.u32(length | STORED);
            fragments.u32(0);
        }
        self.references.iter().for_each(|reference| references.u64(*reference));
        self.owners.iter().for_each(|owner| owners.u32(*owner));
        let fragments_at = if self.layout.fragments.is_empty() {
            NO_TABLE
        } else {
            fragments.append_indexed(&mut tables, base)
        };
        let references_at = references.append_indexed(&mut tables, base);
        let owners_at = owners.append_indexed(&mut tables, base);
        let count =
            |number: usize, what| u32::try_from(number).map_err(|_| RootError::TooMany(what));
        let owner_count = u16::try_from(self.owners.len());
        let mut head = Metadata(Vec::new());
        head.u32(MAGIC);
        head.u32(count(self.references.len(), "entries")?);
        head.u32(FILE_TIME);
        head.u32(1 << BLOCK_LOG);
        head.u32(count(self.layout.fragments.len(), "small files")?);
        head.u16(COMPRESSOR);
        head.u16(BLOCK_LOG);
        head.u16(FLAGS);
        head.u16(owner_count.map_err(|_| RootError::TooMany("owners"))?);
        head.u16(4);
        head.u16(0);
        head.u64(self.root.reference());
        head.u64(base + tables.len() as u64);
        for table in [owners_at, NO_TABLE, base, listings_at, fragments_at, references_at] {
            head.u64(table);
        }
        let superblock = head.0.try_into().map_err(|_| RootError::TooMany("tables"))?;
        Ok((superblock, tables))
    }
}
