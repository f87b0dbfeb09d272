//! A tree into a squashfs image: read-only, shared by every guest that boots from it.
//!
//! Same tree, same bytes: order by path, one time for everything, and no padding that depends on
//! the machine. File data is stored, not compressed, unless asked otherwise: an image is small, is
//! held once per host in the page cache, and a guest on a slow processor boots without spending
//! time on decompression. It knows nothing of what the files are for.

use std::io::{Seek, Write};
use std::path::Path;

use backhand::compression::{CompressionOptions, Compressor, DefaultCompressor, Zstd};
use backhand::kind::{Kind, LE_V4_0};
use backhand::traits::CompressionAction;
use backhand::{BackhandError, FilesystemCompressor, FilesystemWriter, NodeHeader, SuperBlock};

use crate::tree::{Entry, Node, Tree};

/// The time of every file: the start of 2020, in seconds of UTC. Zero would make archivers in
/// guests warn of an implausible age.
pub const FILE_TIME: u32 = 1_577_836_800;

/// How file data lies in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootCompression {
    /// As it is.
    Stored,
    /// zstd of this level, 1 to 22.
    Zstd(u32),
}

/// Why an image could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the root file system")]
pub struct RootError(#[source] Box<BackhandError>);

impl From<BackhandError> for RootError {
    fn from(error: BackhandError) -> Self {
        Self(Box::new(error))
    }
}

/// Says "no smaller" to every block, upon which the writer stores it as it is.
struct Stored;

impl CompressionAction for Stored {
    type Error = BackhandError;
    type Compressor = Compressor;
    type FilesystemCompressor = FilesystemCompressor;
    type SuperBlock = SuperBlock;

    fn decompress(
        &self,
        bytes: &[u8],
        out: &mut Vec<u8>,
        compressor: Compressor,
    ) -> Result<(), BackhandError> {
        DefaultCompressor.decompress(bytes, out, compressor)
    }

    fn compress(
        &self,
        bytes: &[u8],
        _: FilesystemCompressor,
        _: u32,
    ) -> Result<Vec<u8>, BackhandError> {
        Ok(vec![0; bytes.len() + 1])
    }

    fn compression_options(
        &self,
        superblock: &mut SuperBlock,
        kind: &Kind,
        compressor: FilesystemCompressor,
    ) -> Result<Option<Vec<u8>>, BackhandError> {
        DefaultCompressor.compression_options(superblock, kind, compressor)
    }
}

/// Writes `tree` as a squashfs 4.0 image; returns its length in bytes, a multiple of 4096.
///
/// # Errors
/// When `to` can't be written, or an entry has no place in a squashfs.
pub fn write(
    tree: &Tree,
    compression: RootCompression,
    to: impl Write + Seek,
) -> Result<u64, RootError> {
    let mut writer = FilesystemWriter::default();
    writer.set_time(FILE_TIME);
    writer.set_root_mode(0o755);
    writer.set_only_root_id();
    writer.set_kib_padding(4);
    let compressor = match compression {
        RootCompression::Stored => {
            writer.set_kind(Kind::new_v4_with_const(&Stored, LE_V4_0));
            FilesystemCompressor::new(Compressor::Zstd, None)?
        }
        RootCompression::Zstd(level) => {
            let options = CompressionOptions::Zstd(Zstd { compression_level: level });
            FilesystemCompressor::new(Compressor::Zstd, Some(options))?
        }
    };
    writer.set_compressor(compressor);
    for (path, node) in tree.iter() {
        let path = Path::new("/").join(path.as_str());
        let header = header(node);
        match &node.entry {
            Entry::Directory => writer.push_dir(path, header)?,
            Entry::Symlink(target) => writer.push_symlink(target.as_str(), path, header)?,
            Entry::File(content) => writer.push_file(content.reader(), path, header)?,
        }
    }
    let (_, length) = writer.write(to)?;
    Ok(length)
}

fn header(node: &Node) -> NodeHeader {
    NodeHeader::new(node.mode, node.uid, node.gid, FILE_TIME)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

    use std::collections::BTreeMap;
    use std::io::{Cursor, Read};

    use backhand::{FilesystemReader, InnerNode};

    use super::*;
    use crate::tree::TreePath;

    fn sample() -> Tree {
        let mut tree = Tree::default();
        let path = |text| TreePath::new(text).unwrap();
        let big: Vec<u8> = (0..300_000_u32).map(|i| (i.wrapping_mul(31) >> 3) as u8).collect();
        tree.put(path("usr/bin/tool"), Node::file(0o4755, big)).unwrap();
        tree.put(path("etc/empty"), Node::file(0o600, Vec::new())).unwrap();
        tree.put(path("etc/zeros"), Node::file(0o644, vec![0; 262_144])).unwrap();
        tree.put(path("bin"), Node::symlink("usr/bin")).unwrap();
        tree.put(path("home/u"), Node { uid: 1000, gid: 1001, ..Node::directory(0o700) }).unwrap();
        tree
    }

    fn image(tree: &Tree, compression: RootCompression) -> Vec<u8> {
        let mut image = Cursor::new(Vec::new());
        let length = write(tree, compression, &mut image).unwrap();
        assert_eq!(length, image.get_ref().len() as u64);
        assert_eq!(length % 4096, 0);
        image.into_inner()
    }

    /// Reads an image back into comparable lines.
    fn listing(image: Vec<u8>) -> BTreeMap<String, (u16, u32, u32, u32, Vec<u8>)> {
        let reader = FilesystemReader::from_reader(Cursor::new(image)).unwrap();
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

    #[test]
    fn an_image_reads_back_as_the_tree_in_either_compression() {
        let tree = sample();
        for compression in [RootCompression::Stored, RootCompression::Zstd(3)] {
            let lines = listing(image(&tree, compression));
            for (path, node) in tree.iter() {
                let (mode, uid, gid, time, data) = lines.get(path.as_str()).unwrap();
                assert_eq!((*mode, *uid, *gid), (node.mode, node.uid, node.gid), "{path}");
                assert_eq!(*time, FILE_TIME);
                match &node.entry {
                    Entry::File(content) => {
                        assert_eq!(data[..], content.bytes().unwrap()[..], "{path}")
                    }
                    Entry::Symlink(target) => assert_eq!(data[..], *target.as_bytes()),
                    Entry::Directory => {}
                }
            }
            assert_eq!(lines.len(), tree.iter().count() + 1);
        }
    }

    #[test]
    fn two_builds_of_a_tree_give_the_same_bytes() {
        for compression in [RootCompression::Stored, RootCompression::Zstd(3)] {
            let one = image(&sample(), compression);
            assert!(one == image(&sample(), compression));
            assert_eq!(*one.get(8..12).unwrap(), FILE_TIME.to_le_bytes());
        }
    }

    #[test]
    fn a_changed_mode_changes_the_image() {
        let mut tree = sample();
        tree.put(TreePath::new("home/u").unwrap(), Node::directory(0o701)).unwrap();
        assert!(image(&tree, RootCompression::Stored) != image(&sample(), RootCompression::Stored));
    }
}
