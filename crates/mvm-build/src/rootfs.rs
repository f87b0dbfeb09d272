//! A tree into a squashfs image: read-only, shared by every guest that boots from it.
//!
//! ```text
//! ┌────────────┬───────────────────────────────┬─────────────────────────────────────────┐
//! │ superblock │ contents, one after the other │ inodes, listings, fragments, references │
//! └────────────┴───────────────────────────────┴─────────────────────────────────────────┘
//!                what a tree kept in the file's     written when the tree is whole
//!                spool lies here already
//! ```
//!
//! File data is stored, not compressed: an image is small, is held once per host in the page cache,
//! and a guest on a slow processor boots without spending time on decompression. So a content can be
//! written where it stays before it is known what else there is, and a large image is written once.
//!
//! Same tree with contents that came in the same order, same bytes: one time for everything, and no
//! padding that depends on the machine. Contents that lie elsewhere are put in by the order of
//! their paths. It knows nothing of what the files are for.

mod tables;

use std::collections::{BTreeMap, btree_map};
use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::FallocateFlags;

use self::tables::{BLOCK, Fragment, Layout, SUPERBLOCK, Tables};
use crate::content::{Content, Identity, Spool};
use crate::tree::{Entry, Node, Tree};

/// The time of every file: the start of 2020, in seconds of UTC. Zero would make archivers in
/// guests warn of an implausible age.
pub const FILE_TIME: u32 = 1_577_836_800;
/// An image is a multiple of this long, in bytes: a block device has whole pages.
const PADDING: u64 = 4096;

/// Why an image could not be written.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// The disk refused, or a content can't be read.
    #[error("cannot write the root file system")]
    Write(#[from] io::Error),
    /// More of something than a squashfs has numbers for.
    #[error("the root file system has too many {0} for a squashfs")]
    TooMany(&'static str),
    /// Something that lies in no directory.
    #[error("the root file system has no directory {0:?}")]
    NoDirectory(String),
}

/// An image that is being written.
#[derive(Debug)]
pub struct RootFile(Arc<File>);

impl RootFile {
    /// A new file, which everybody may read.
    ///
    /// # Errors
    /// When it can't be made, also because there is one.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        // Whatever the umask says.
        file.set_permissions(Permissions::from_mode(0o644))?;
        Ok(Self(Arc::new(file)))
    }

    /// Where a tree may keep contents that come in the order in which they shall lie.
    pub(crate) fn spool(&self) -> Spool {
        Spool::behind(self.0.clone(), SUPERBLOCK)
    }

    /// Makes the file the image of `tree` and gives its length in bytes. Of contents that were kept in
    /// its spool and are no more in the tree nothing is left.
    ///
    /// # Errors
    /// When the disk refuses, or a squashfs has no place for an entry.
    pub fn finish(&self, tree: &Tree) -> Result<u64, RootError> {
        let layout = self.lay_out(tree)?;
        let end = layout.end;
        let (superblock, tables) = Tables::of(tree, &layout)?.encode()?;
        self.0.write_all_at(&tables, end)?;
        self.0.write_all_at(&superblock, 0)?;
        let length = (end + tables.len() as u64).next_multiple_of(PADDING);
        self.0.set_len(length)?;
        Ok(length)
    }

    /// Waits until the disk has all of it.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    /// Brings every content of the tree into the file.
    fn lay_out(&self, tree: &Tree) -> io::Result<Layout> {
        let spool = self.spool();
        let mut at: BTreeMap<Identity, u64> = BTreeMap::new();
        let mut here: Vec<(u64, u64)> = Vec::new();
        for content in tree.iter().filter_map(|(_, node)| file(node)) {
            if let Some(offset) = spool.holds(content)
                && at.insert(content.identity(), offset).is_none()
            {
                here.push((offset, content.length()));
            }
        }
        here.sort_unstable();
        let mut spool = Spool::behind(self.0.clone(), self.clear_between(&here)?);
        for content in tree.iter().filter_map(|(_, node)| file(node)) {
            if let btree_map::Entry::Vacant(place) = at.entry(content.identity()) {
                let offset = *place.insert(spool.end());
                spool.append(&mut content.reader(), content.length())?;
                here.push((offset, content.length()));
            }
        }
        Ok(Layout { at, fragments: fragments(&here), end: spool.end() })
    }

    /// Makes everything but these pieces zeros; gives the end of the last.
    fn clear_between(&self, pieces: &[(u64, u64)]) -> io::Result<u64> {
        let mut end = SUPERBLOCK;
        for (offset, length) in pieces {
            if *offset > end {
                clear(&self.0, end, offset - end)?;
            }
            end = offset + length;
        }
        self.0.set_len(end)?;
        Ok(end)
    }
}

/// The content of a file that has one.
fn file(node: &Node) -> Option<&Content> {
    match &node.entry {
        Entry::File(content) if content.length() > 0 => Some(content),
        Entry::File(_) | Entry::Directory | Entry::Symlink(_) => None,
    }
}

/// Makes a part of a file zeros, which take no space where the file system knows holes.
fn clear(file: &File, offset: u64, length: u64) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match rustix::fs::fallocate(file, flags, offset, length) {
        Err(rustix::io::Errno::OPNOTSUPP) => {
            let zeros = vec![0; usize::try_from(length.min(BLOCK)).unwrap_or_default()];
            let mut left = length;
            while left > 0 {
                let piece = zeros.get(..usize::try_from(left).unwrap_or(zeros.len()));
                let piece = piece.unwrap_or(&zeros);
                file.write_all_at(piece, offset + length - left)?;
                left -= piece.len() as u64;
            }
            Ok(())
        }
        done => Ok(done?),
    }
}

/// Small contents that lie close to each other, as pieces that are read together.
fn fragments(pieces: &[(u64, u64)]) -> Vec<Fragment> {
    let mut fragments: Vec<Fragment> = Vec::new();
    for (offset, length) in pieces.iter().filter(|(_, length)| *length < BLOCK) {
        let end = offset + length;
        match fragments.last_mut() {
            Some(last) if end - last.start <= BLOCK => last.end = end,
            Some(_) | None => fragments.push(Fragment { start: *offset, end }),
        }
    }
    fragments
}

#[cfg(test)]
mod tests;
