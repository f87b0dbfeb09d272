//! Tiny ext2 images, made in memory: the config and secrets drives of a guest.
//!
//! The same input gives the same bytes: all times are 0 and the UUID comes from the label. One block
//! group of 4 KiB blocks, 128-byte inodes, features `filetype` and `sparse_super` only, so that
//! every kernel's ext2 and ext4 driver mounts it. Everything in use lies at the front, in the order
//! below; the rest of the image is zero and costs nothing to write.
//!
//! ```text
//! block 0      1            2             3             4 ..         ..
//! superblock   descriptors  block bitmap  inode bitmap  inode table  directories and files
//! ```
//!
//! Each file's blocks are followed by its indirect blocks (single, then double). Field names and
//! offsets are those of Linux `fs/ext2/ext2.h`. It does not know what the files mean, and it makes
//! no links, devices or holes.

mod tree;

use std::{fs, os::unix::fs::FileExt};

use mvm_core::units::{Mib, Uid};
use ring::digest;
use zeroize::Zeroizing;

use self::tree::{Node, Tree};
use super::error::Error;

/// The size of a block in bytes: the page size of guests.
const BLOCK: usize = 4096;
/// Blocks in the one block group: the bits of its bitmap. An image is at most 128 MiB.
const MAX_BLOCKS: u32 = 8 * BLOCK as u32;
const INODE: usize = 128;
const INODES_PER_BLOCK: u32 = (BLOCK / INODE) as u32;
/// Pointers in an inode that name blocks themselves; then one single and one double indirect.
const DIRECT: u32 = 12;
const POINTERS: u32 = (BLOCK / 4) as u32;
const ROOT: u32 = 2;
/// Inodes below this are reserved; the root's is one of them.
const FIRST_INODE: u32 = 11;
const FIRST_TABLE_BLOCK: u32 = 4;

/// One file of a drive; its content may be secret, so it cannot be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct File {
    /// Its path in the drive, relative, without `.` and `..`; directories are made as needed, 0755
    /// and owned by root.
    pub path: String,
    /// Its permission bits, at most 0o7777.
    pub mode: u16,
    /// Its owner in the guest.
    pub uid: Uid,
    /// Its group in the guest.
    pub gid: Uid,
    /// Its content.
    pub data: Zeroizing<Vec<u8>>,
}

/// A drive to be made.
#[derive(Clone, PartialEq, Eq)]
pub struct Image {
    /// The label by which the guest finds it, at most 16 bytes.
    pub label: String,
    /// Its size, 1–128 MiB.
    pub size: Mib,
    /// Its files; their order does not matter.
    pub files: Vec<File>,
}

impl Image {
    /// The size of config drives (SPEC §5), and enough for the 256 KiB of secrets.
    pub const DEFAULT_SIZE: Mib = Mib(4);

    /// The whole image.
    ///
    /// # Errors
    /// `Invalid` when the files do not fit, or a path or the label is malformed.
    pub fn bytes(&self) -> Result<Vec<u8>, mvm_core::Error> {
        let mut bytes = self.front()?;
        let size = usize::try_from(self.size.bytes()).unwrap_or(usize::MAX);
        bytes.resize(size, 0);
        Ok(std::mem::take(&mut *bytes))
    }

    /// Writes the image to an empty file, leaving holes where it is zero at the end. Nothing is
    /// synced.
    ///
    /// # Errors
    /// As [`Image::bytes`], or when the file cannot be written.
    pub fn write_to(&self, file: &fs::File) -> Result<(), mvm_core::Error> {
        let front = self.front()?;
        file.write_all_at(&front, 0).and_then(|()| file.set_len(self.size.bytes())).map_err(
            |error| {
                mvm_core::Error::new(
                    mvm_core::ErrorKind::Failed,
                    format!("cannot write the drive {}", self.label),
                )
                .because(&error)
            },
        )
    }

    /// All blocks in use.
    fn front(&self) -> Result<Zeroizing<Vec<u8>>, Error> {
        if self.label.len() > 16 || self.label.bytes().any(|byte| byte == 0) {
            return Err(Error::Drive(format!("the label {:?} is over 16 bytes", self.label)));
        }
        let blocks = u32::try_from(self.size.bytes() / BLOCK as u64).unwrap_or(u32::MAX);
        if !(1..=MAX_BLOCKS).contains(&blocks) {
            return Err(Error::Drive(format!("{} is not between 1 and 128 MiB", self.size)));
        }
        let tree = Tree::of(&self.files)?;
        let inodes = (FIRST_INODE - 1 + tree.beside_root()).next_multiple_of(INODES_PER_BLOCK);
        let table_blocks = inodes / INODES_PER_BLOCK;
        let mut next = u64::from(FIRST_TABLE_BLOCK + table_blocks);
        let mut nodes = Vec::with_capacity(tree.nodes.len());
        for node in &tree.nodes {
            let content = tree.content(node)?;
            let extent = Extent { first: next, data: content.len().div_ceil(BLOCK) as u64 };
            next = extent.end();
            nodes.push((node, content, extent));
        }
        let Some(used) = u32::try_from(next).ok().filter(|used| *used <= blocks) else {
            return Err(Error::Drive(format!(
                "the files of {} need {} KiB and it has {}",
                self.label,
                next * 4,
                self.size
            )));
        };
        let plan = Plan { blocks, used, inodes, used_inodes: FIRST_INODE - 1 + tree.beside_root() };
        // Reserved in one piece: growing would leave copies of secrets behind.
        let mut out = Zeroizing::new(Vec::with_capacity(used as usize * BLOCK));
        out.resize(1024, 0);
        self.superblock(&plan, &mut out);
        plan.descriptor(tree.directories(), &mut out);
        bitmap(plan.used, plan.blocks, &mut out);
        bitmap(plan.used_inodes, plan.inodes, &mut out);
        inode_table(&nodes, table_blocks, &mut out);
        for (_, content, extent) in &nodes {
            out.extend_from_slice(content);
            pad(&mut out);
            extent.indirect_blocks(&mut out);
        }
        Ok(out)
    }

    fn superblock(&self, plan: &Plan, out: &mut Vec<u8>) {
        let mut label = self.label.clone().into_bytes();
        label.resize(16, 0);
        let mut name = b"mvm drive ".to_vec();
        name.extend_from_slice(&label);
        let uuid = digest::digest(&digest::SHA256, &name);
        le32(out, &[plan.inodes, plan.blocks, 0, plan.blocks - plan.used]);
        // s_free_inodes_count, s_first_data_block, s_log_block_size (1024 << 2), s_log_frag_size.
        le32(out, &[plan.inodes - plan.used_inodes, 0, 2, 2]);
        le32(out, &[MAX_BLOCKS, MAX_BLOCKS, plan.inodes, 0, 0]);
        // s_mnt_count, s_max_mnt_count (never), s_magic, s_state (clean), s_errors (continue).
        le16(out, &[0, 0xffff, 0xef53, 1, 1, 0]);
        // s_lastcheck, s_checkinterval, s_creator_os (Linux), s_rev_level (dynamic).
        le32(out, &[0, 0, 0, 1]);
        le16(out, &[0, 0]);
        le32(out, &[FIRST_INODE]);
        le16(out, &[INODE as u16, 0]);
        // s_feature_compat, s_feature_incompat (filetype), s_feature_ro_compat (sparse_super).
        le32(out, &[0, 2, 1]);
        out.extend(uuid.as_ref().iter().take(16));
        out.extend_from_slice(&label);
        pad(out);
    }
}

/// The counts of an image.
struct Plan {
    blocks: u32,
    used: u32,
    inodes: u32,
    used_inodes: u32,
}

impl Plan {
    fn descriptor(&self, directories: u16, out: &mut Vec<u8>) {
        le32(out, &[2, 3, FIRST_TABLE_BLOCK]);
        // Both counts are below 2^16: an image has at most MAX_BLOCKS blocks, and files need some.
        let free_blocks = u16::try_from(self.blocks - self.used).unwrap_or(u16::MAX);
        let free_inodes = u16::try_from(self.inodes - self.used_inodes).unwrap_or(u16::MAX);
        le16(out, &[free_blocks, free_inodes, directories]);
        pad(out);
    }
}

/// Where the blocks of one inode lie: `data` of them from `first`, then the indirect ones.
struct Extent {
    first: u64,
    data: u64,
}

impl Extent {
    fn single(&self) -> u64 {
        u64::from(self.data > u64::from(DIRECT))
    }

    /// Single indirect blocks below the double indirect one.
    fn leaves(&self) -> u64 {
        self.data.saturating_sub(u64::from(DIRECT + POINTERS)).div_ceil(u64::from(POINTERS))
    }

    fn double(&self) -> u64 {
        u64::from(self.leaves() > 0)
    }

    fn end(&self) -> u64 {
        self.first + self.count()
    }

    fn count(&self) -> u64 {
        self.data + self.single() + self.double() + self.leaves()
    }

    /// The numbers of the data blocks from the `skip`th on, at most `take`.
    fn numbers(&self, skip: u64, take: u32) -> impl Iterator<Item = u32> {
        let end = self.data.min(skip + u64::from(take));
        (skip..end.max(skip)).map(|block| number(self.first + block))
    }

    fn pointers(&self) -> Vec<u32> {
        let mut pointers: Vec<u32> = self.numbers(0, DIRECT).collect();
        pointers.resize(DIRECT as usize, 0);
        let after = self.first + self.data;
        pointers.push(if self.single() > 0 { number(after) } else { 0 });
        pointers.push(if self.double() > 0 { number(after + 1) } else { 0 });
        pointers.push(0);
        pointers
    }

    fn indirect_blocks(&self, out: &mut Vec<u8>) {
        if self.single() > 0 {
            le32(out, &self.numbers(u64::from(DIRECT), POINTERS).collect::<Vec<_>>());
            pad(out);
        }
        if self.double() > 0 {
            let first = self.first + self.data + 2;
            le32(out, &(first..first + self.leaves()).map(number).collect::<Vec<_>>());
            pad(out);
        }
        for leaf in 0..self.leaves() {
            let skip = u64::from(DIRECT + POINTERS) + leaf * u64::from(POINTERS);
            le32(out, &self.numbers(skip, POINTERS).collect::<Vec<_>>());
            pad(out);
        }
    }
}

/// A block number; saturated ones are never written, because the image is refused as too small.
fn number(block: u64) -> u32 {
    u32::try_from(block).unwrap_or(u32::MAX)
}

fn inode_table(
    nodes: &[(&Node, std::borrow::Cow<'_, [u8]>, Extent)],
    blocks: u32,
    out: &mut Vec<u8>,
) {
    let end = out.len() + blocks as usize * BLOCK;
    out.resize(out.len() + INODE * (ROOT as usize - 1), 0);
    for (node, content, extent) in nodes {
        if node.inode == FIRST_INODE {
            out.resize(out.len() + INODE * (FIRST_INODE - ROOT - 1) as usize, 0);
        }
        let (uid, gid) = (node.uid.0.to_le_bytes(), node.gid.0.to_le_bytes());
        le16(out, &[node.mode]);
        out.extend(uid.iter().take(2));
        le32(out, &[content.len() as u32, 0, 0, 0, 0]);
        out.extend(gid.iter().take(2));
        le16(out, &[node.links]);
        // i_blocks counts sectors of 512 bytes, indirect blocks included.
        le32(out, &[number(extent.count() * (BLOCK as u64 / 512)), 0, 0]);
        le32(out, &extent.pointers());
        // i_generation, i_file_acl, i_size_high, i_faddr, l_i_frag; then the high halves of the ids.
        le32(out, &[0, 0, 0, 0, 0]);
        out.extend(uid.iter().skip(2).chain(gid.iter().skip(2)));
        le32(out, &[0]);
    }
    out.resize(end, 0);
}

/// One block with `used` bits set, and those after `count`, which stand for nothing.
fn bitmap(used: u32, count: u32, out: &mut Vec<u8>) {
    let bit = |index: u32| u8::from(index < used || index >= count);
    for byte in 0..BLOCK as u32 {
        out.push((0..8).fold(0, |bits, shift| bits | (bit(byte * 8 + shift) << shift)));
    }
}

fn le16(out: &mut Vec<u8>, values: &[u16]) {
    out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}

fn le32(out: &mut Vec<u8>, values: &[u32]) {
    out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(BLOCK), 0);
}

#[cfg(test)]
mod tests;
