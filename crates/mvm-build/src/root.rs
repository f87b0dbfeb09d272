//! A root that was made elsewhere, as a tar stream, into an image; and the root of an image as a tar stream,
//! or as what another one begins with.
//!
//! The image is named by what is in the root: paths, modes, owners, contents. When and in which order that
//! was written has no part in it, so that two builds of one thing are one image. The stream comes from
//! people who may mean harm; [`crate::untar`] reads it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, Write};
use std::path::Path;

use backhand::{BackhandError, FilesystemReader, InnerNode};

use crate::assemble::{Arrival, AssembleError, Assembly, Contents, Order};
use crate::guest_kernel::KernelFiles;
use crate::hash::ContentHash;
use crate::progress::OnProgress;
use crate::recipe::{Input, InputKind, Key};
use crate::rootfs::FILE_TIME;
use crate::store::Image;
use crate::tree::{Entry, Node, Tree, TreeError, TreeLimits, TreePath};
use crate::untar::{self, UntarError, What};

/// Bounds of a root: what a large closure is, with room.
const LIMITS: TreeLimits = TreeLimits { entries: 1_000_000, bytes: 16 << 30 };

/// A root to make an image of.
#[derive(Debug)]
pub struct BuiltTree<'a> {
    /// The image's name.
    pub name: &'a str,
    /// A tar stream whose entries lie below one directory.
    pub stream: File,
    /// The image whose kernel boots it.
    pub base: &'a Image,
    /// What was asked for, as [`Assembly::request`] gives it; none when the same question may have
    /// another answer.
    pub request: Option<ContentHash>,
}

/// Why there is no image of a root.
#[derive(Debug, thiserror::Error)]
pub enum RootImageError {
    /// The stream is damaged, or holds what an image can't.
    #[error("cannot read the root")]
    Untar(#[from] UntarError),
    /// The stream can't be read twice.
    #[error("cannot read the root again")]
    Read(#[from] io::Error),
    /// There is nothing in it.
    #[error("the root is empty")]
    Empty,
    /// The image could not be assembled.
    #[error(transparent)]
    Assemble(#[from] AssembleError),
}

/// Why the root of an image can't be sent.
#[derive(Debug, thiserror::Error)]
pub enum RootStreamError {
    /// The image can't be read.
    #[error("cannot read the root of the image")]
    Squashfs(#[from] BackhandError),
    /// The stream was not taken.
    #[error("cannot send the root of the image")]
    Send(#[from] io::Error),
}

/// Why the root of an image can't be taken over into another one.
#[derive(Debug, thiserror::Error)]
pub enum RootReadError {
    /// It is damaged.
    #[error("cannot read the root of the image")]
    Squashfs(#[from] BackhandError),
    /// Its file, or one in it, can't be read or kept.
    #[error("cannot take over the root of the image")]
    Read(#[from] io::Error),
    /// A name that is not UTF-8.
    #[error("the root of the image has a path that is not UTF-8: {0}")]
    NotUtf8(String),
    /// The tree refused an entry.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

/// Sends the root of an image as a tar stream: each entry below the root, directories before what is in them.
///
/// # Errors
/// When the image can't be read, or `to` does not take it.
pub fn send(image: &Image, to: impl Write) -> Result<(), RootStreamError> {
    stream(BufReader::new(File::open(image.root())?), to)
}

fn stream(squashfs: impl BufRead + Seek + Send, to: impl Write) -> Result<(), RootStreamError> {
    let root = FilesystemReader::from_reader(squashfs)?;
    let mut archive = tar::Builder::new(to);
    for node in root.files() {
        let Ok(path) = node.fullpath.strip_prefix("/") else { continue };
        if path.as_os_str().is_empty() {
            continue;
        }
        let mut header = tar::Header::new_gnu();
        header.set_mode(u32::from(node.header.permissions));
        header.set_uid(u64::from(node.header.uid));
        header.set_gid(u64::from(node.header.gid));
        header.set_mtime(u64::from(FILE_TIME));
        header.set_size(0);
        match &node.inner {
            InnerNode::Dir(_) => {
                header.set_entry_type(tar::EntryType::Directory);
                archive.append_data(&mut header, path, io::empty())?;
            }
            InnerNode::Symlink(link) => {
                header.set_entry_type(tar::EntryType::Symlink);
                archive.append_link(&mut header, path, &link.link)?;
            }
            InnerNode::File(found) => {
                header.set_size(u64::try_from(found.file_len()).map_err(io::Error::other)?);
                archive.append_data(&mut header, path, root.file(found).reader_checked()?)?;
            }
            // No image has one.
            InnerNode::CharacterDevice(_)
            | InnerNode::BlockDevice(_)
            | InnerNode::NamedPipe
            | InnerNode::Socket => {}
        }
    }
    archive.into_inner()?.flush()?;
    Ok(())
}

/// Puts the root of an image into a tree, as it is.
///
/// # Errors
/// When the image can't be read, or the tree refuses an entry.
pub(crate) fn take_over(image: &Image, tree: &mut Tree) -> Result<(), RootReadError> {
    take(BufReader::new(File::open(image.root())?), tree)
}

fn take(squashfs: impl BufRead + Seek + Send, tree: &mut Tree) -> Result<(), RootReadError> {
    let not_utf8 = |path: &Path| RootReadError::NotUtf8(path.display().to_string());
    let root = FilesystemReader::from_reader(squashfs)?;
    for node in root.files() {
        let Ok(path) = node.fullpath.strip_prefix("/") else { continue };
        if path.as_os_str().is_empty() {
            continue;
        }
        let entry = match &node.inner {
            InnerNode::Dir(_) => Entry::Directory,
            InnerNode::Symlink(found) => {
                let target = found.link.to_str().ok_or_else(|| not_utf8(path))?;
                Entry::Symlink(target.to_owned())
            }
            InnerNode::File(found) => {
                let length = u64::try_from(found.file_len()).map_err(io::Error::other)?;
                Entry::File(tree.keep(&mut root.file(found).reader_checked()?, length)?)
            }
            // No image has one.
            InnerNode::CharacterDevice(_)
            | InnerNode::BlockDevice(_)
            | InnerNode::NamedPipe
            | InnerNode::Socket => continue,
        };
        let place = TreePath::new(path.to_str().ok_or_else(|| not_utf8(path))?)?;
        let header = &node.header;
        let (mode, uid, gid) = (header.permissions, header.uid, header.gid);
        tree.put(place, Node { mode, uid, gid, entry })?;
    }
    Ok(())
}

impl BuiltTree<'_> {
    /// Makes sure that the image of this root is in the assembly's store.
    ///
    /// # Errors
    /// When the stream makes no root, or the disk refuses.
    pub fn build(
        self,
        assembly: &Assembly<'_>,
        on: OnProgress<'_>,
    ) -> Result<Image, RootImageError> {
        let mut stream = self.stream;
        stream.rewind()?;
        let content = content(BufReader::new(&stream))?;
        let (kernel, mut inputs) = KernelFiles::of_image(self.base);
        inputs.push(Input {
            kind: InputKind::Root,
            name: self.name.to_owned(),
            version: None,
            sha256: content,
        });
        let request = self.request;
        let request = request.unwrap_or_else(|| assembly.request(&["root", &content.to_string()]));
        let order =
            Order { name: self.name, request, inputs, limits: LIMITS, arrival: Arrival::Any };
        assembly.make(order, on, |tree| {
            stream.rewind()?;
            untar::unpack(BufReader::new(&stream), tree, &below)?;
            Ok(Contents { kernel, workload: None, notes: Vec::new() })
        })
    }
}

/// A path without the directory that all of the stream lies in.
fn below(path: &TreePath) -> Option<TreePath> {
    let (_, rest) = path.as_str().split_once('/')?;
    TreePath::new(rest).ok()
}

/// What is in a root, as one hash.
fn content(stream: impl Read) -> Result<ContentHash, RootImageError> {
    let mut entries: BTreeMap<TreePath, ContentHash> = BTreeMap::new();
    untar::each(stream, &mut |found| {
        let Some(path) = below(&found.path) else { return Ok(()) };
        let mut key = Key::new("mvm root entry");
        for number in [u32::from(found.mode), found.uid, found.gid] {
            key.number(number);
        }
        match found.what {
            What::Directory => key.text("directory"),
            What::Symlink(target) => {
                key.text("link");
                key.text(&target);
            }
            What::File { bytes, .. } => {
                key.text("file");
                key.text(&ContentHash::of_reader(bytes)?.0.to_string());
            }
            // Another name of a file that came before is a file like it.
            What::Link(target) => {
                let same = below(&target).and_then(|target| entries.get(&target).copied());
                entries.insert(path, same.unwrap_or_else(|| key.finish()));
                return Ok(());
            }
            What::Other => return Err(UntarError::Kind(found.path)),
        }
        entries.insert(path, key.finish());
        Ok(())
    })?;
    if entries.is_empty() {
        return Err(RootImageError::Empty);
    }
    let mut key = Key::new("mvm root");
    for (path, entry) in &entries {
        key.text(path.as_str());
        key.text(&entry.to_string());
    }
    Ok(key.finish())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

    use super::*;
    use crate::rootfs::RootFile;

    #[test]
    fn the_root_of_an_image_is_sent_and_taken_over_as_it_was_put_together() {
        let path = |text: &str| TreePath::new(text).unwrap();
        let mut tree = Tree::default();
        let long = format!("srv/{}/{}", "d".repeat(90), "f".repeat(90));
        tree.put(path("usr/bin/tool"), Node::file(0o4755, vec![7; 200_000])).unwrap();
        tree.put(path("etc/empty"), Node::file(0o600, *b"")).unwrap();
        tree.put(path(&long), Node { uid: 7, gid: 8, ..Node::file(0o640, *b"x") }).unwrap();
        tree.put(path("bin"), Node::symlink("usr/bin")).unwrap();
        tree.put(path("tmp"), Node::directory(0o1777)).unwrap();
        tree.put(path("var/run"), Node::symlink("/run")).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("root");
        RootFile::create(&image).unwrap().finish(&tree).unwrap();
        let mut sent = Vec::new();
        super::stream(BufReader::new(File::open(&image).unwrap()), &mut sent).unwrap();
        let mut back = Tree::default();
        untar::unpack(&sent[..], &mut back, &|path| Some(path.clone())).unwrap();
        let all = |tree: &Tree| -> Vec<_> {
            tree.iter().map(|(path, node)| (path.clone(), node.clone())).collect()
        };
        assert_eq!(all(&back), all(&tree));
        let mut taken = Tree::default();
        take(BufReader::new(File::open(&image).unwrap()), &mut taken).unwrap();
        assert_eq!(all(&taken), all(&tree));
    }

    /// A tar stream below `root` of files with these modes, contents and times.
    fn stream(files: &[(&str, u32, &str, u64)]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        let mut directory = tar::Header::new_gnu();
        directory.set_entry_type(tar::EntryType::Directory);
        directory.set_mode(0o755);
        directory.set_uid(0);
        directory.set_gid(0);
        directory.set_size(0);
        archive.append_data(&mut directory, "root", io::empty()).unwrap();
        for (path, mode, text, time) in files {
            let mut header = tar::Header::new_gnu();
            header.set_mode(*mode);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(*time);
            header.set_size(text.len() as u64);
            archive.append_data(&mut header, format!("root/{path}"), text.as_bytes()).unwrap();
        }
        archive.into_inner().unwrap()
    }

    fn hash(files: &[(&str, u32, &str, u64)]) -> ContentHash {
        content(&stream(files)[..]).unwrap()
    }

    #[test]
    fn a_root_is_named_by_what_is_in_it_and_not_by_when_it_was_written() {
        let one = hash(&[("a", 0o644, "x", 1), ("b", 0o755, "y", 1)]);
        assert_eq!(hash(&[("b", 0o755, "y", 7), ("a", 0o644, "x", 9)]), one);
        for other in [
            [("a", 0o644, "x", 1), ("b", 0o755, "z", 1)],
            [("a", 0o644, "x", 1), ("c", 0o755, "y", 1)],
            [("a", 0o600, "x", 1), ("b", 0o755, "y", 1)],
        ] {
            assert_ne!(hash(&other), one);
        }
    }

    #[test]
    fn a_root_with_nothing_in_it_is_none() {
        assert!(matches!(content(&stream(&[])[..]), Err(RootImageError::Empty)));
    }

    #[test]
    fn a_stream_that_ends_early_is_no_root() {
        let whole = stream(&[("a", 0o644, &"x".repeat(2000), 1)]);
        let mut cut = tempfile::tempfile().unwrap();
        cut.write_all(whole.get(..1800).unwrap()).unwrap();
        cut.rewind().unwrap();
        assert!(matches!(content(cut), Err(RootImageError::Untar(_))));
    }
}
