//! Debian packages into a tree: the data member only.
//!
//! Reads the `ar` container and the tar inside, and nothing else of a package: no maintainer
//! script is looked at, no dependency followed, nothing written to the machine that builds. A
//! package is untrusted input until its digest was verified, and hostile input is refused anyway.

use std::io::{self, Read};

use flate2::read::GzDecoder;
use liblzma::read::XzDecoder;

use crate::tree::{Entry, Node, Tree, TreeError, TreePath};

/// The most that one package may unpack to, in bytes, the skipped files included.
const STREAM_LIMIT: u64 = 4 << 30;

/// Why a package could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum DebError {
    /// The container or the archive can't be read.
    #[error("cannot read the package")]
    Read(#[from] io::Error),
    /// No `data.tar` with a compression that is known.
    #[error("the package has no data member of a known kind; it has {0}")]
    NoData(String),
    /// Not a package of format 2.
    #[error("not a Debian package of format 2.x")]
    Format,
    /// A name that is not UTF-8.
    #[error("the package has a path that is not UTF-8: {0}")]
    NotUtf8(String),
    /// A device, a FIFO or another thing that images don't hold.
    #[error("the package has an entry of an unknown kind at {0}")]
    Kind(String),
    /// A number in a header that doesn't fit.
    #[error("the package has an owner or mode out of range at {0}")]
    Header(String),
    /// The tree refused it.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

/// Says where a path of the package goes; `None` leaves it out.
pub type Placement<'a> = &'a dyn Fn(&TreePath) -> Option<TreePath>;

/// Unpacks the data member of a `.deb` into `tree`, each path where `placement` says.
///
/// # Errors
/// When the package is malformed, holds what an image can't, or passes the tree's bounds; the
/// tree may then hold a part of it.
pub fn unpack(
    package: impl Read,
    tree: &mut Tree,
    placement: Placement<'_>,
) -> Result<(), DebError> {
    let mut archive = ar::Archive::new(package);
    let mut seen = Vec::new();
    while let Some(entry) = archive.next_entry() {
        let mut entry = entry?;
        let name = String::from_utf8_lossy(entry.header().identifier()).into_owned();
        if seen.is_empty() {
            let mut version = String::new();
            (&mut entry).take(16).read_to_string(&mut version)?;
            if name != "debian-binary" || !version.starts_with("2.") {
                return Err(DebError::Format);
            }
        }
        match name.as_str() {
            "data.tar" => return unpack_tar(entry, tree, placement),
            "data.tar.gz" => return unpack_tar(GzDecoder::new(entry), tree, placement),
            "data.tar.xz" => return unpack_tar(XzDecoder::new(entry), tree, placement),
            "data.tar.zst" => {
                return unpack_tar(zstd::stream::read::Decoder::new(entry)?, tree, placement);
            }
            _ => seen.push(name),
        }
    }
    Err(DebError::NoData(seen.join(", ")))
}

/// Unpacks a tar stream into `tree`, each path where `placement` says.
///
/// # Errors
/// As [`unpack`].
pub fn unpack_tar(
    stream: impl Read,
    tree: &mut Tree,
    placement: Placement<'_>,
) -> Result<(), DebError> {
    let mut archive = tar::Archive::new(stream.take(STREAM_LIMIT));
    for entry in archive.entries()? {
        let mut entry = entry?;
        let text = utf8(&entry.path_bytes())?;
        let Some(path) = inside(&text)? else { continue };
        let Some(place) = placement(&path) else { continue };
        let kind = entry.header().entry_type();
        if kind.is_hard_link() {
            let target = utf8(&entry.link_name_bytes().unwrap_or_default())?;
            let target = TreePath::new(&target)?;
            match placement(&target) {
                Some(target) => tree.link(place, &target)?,
                None => return Err(TreeError::LinkTarget { path, target }.into()),
            }
            continue;
        }
        let content = if kind.is_dir() {
            Entry::Directory
        } else if kind.is_symlink() {
            let target = utf8(&entry.link_name_bytes().unwrap_or_default())?;
            if target.is_empty() || target.len() > 4095 || target.contains('\0') {
                return Err(TreeError::Path(target).into());
            }
            Entry::Symlink(target)
        } else if kind.is_file() {
            Entry::File(content(&mut entry, tree.room())?.into())
        } else {
            return Err(DebError::Kind(text));
        };
        let node = node(entry.header(), content).ok_or(DebError::Header(text))?;
        tree.put(place, node)?;
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

fn utf8(bytes: &[u8]) -> Result<String, DebError> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => {
            Err(DebError::NotUtf8(String::from_utf8_lossy(bytes).chars().take(200).collect()))
        }
    }
}

/// Reads a file, never more than the tree has room for: the header's size is only a claim.
fn content(entry: &mut tar::Entry<'_, impl Read>, room: u64) -> Result<Vec<u8>, DebError> {
    let size = entry.size();
    if size > room {
        return Err(TreeError::TooLarge(room).into());
    }
    let mut bytes = Vec::new();
    let count = entry.take(size).read_to_end(&mut bytes)?;
    if count as u64 == size {
        Ok(bytes)
    } else {
        Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())
    }
}

fn node(header: &tar::Header, entry: Entry) -> Option<Node> {
    let mode = u16::try_from(header.mode().ok()? & 0o7777).ok()?;
    let uid = u32::try_from(header.uid().ok()?).ok()?;
    let gid = u32::try_from(header.gid().ok()?).ok()?;
    Some(Node { mode, uid, gid, entry })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

    use super::*;

    type Item<'a> = (&'a str, tar::EntryType, &'a str);

    /// A tar with raw names, as a hostile packer would write it.
    fn tar(items: &[Item<'_>]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, kind, text) in items {
            let mut header = tar::Header::new_gnu();
            header.as_mut_bytes().get_mut(..name.len()).unwrap().copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(0o4755);
            header.set_uid(7);
            header.set_gid(8);
            let data = if kind.is_file() { text.as_bytes() } else { &[] };
            header.set_size(data.len() as u64);
            if !kind.is_file() {
                header.set_link_name_literal(text).unwrap();
            }
            header.set_cksum();
            builder.append(&header, data).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn deb(version: &str, name: &str, data: &[u8]) -> Vec<u8> {
        let mut builder = ar::Builder::new(Vec::new());
        for (name, data) in [("debian-binary", version.as_bytes()), (name, data)] {
            let header = ar::Header::new(name.into(), data.len() as u64);
            builder.append(&header, data).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn all(path: &TreePath) -> Option<TreePath> {
        Some(path.clone())
    }

    #[test]
    fn every_compression_gives_the_same_tree() {
        use std::io::Write;
        let data = tar(&[
            ("./", tar::EntryType::Directory, ""),
            ("./a/b", tar::EntryType::Regular, "hello"),
            ("./a/l", tar::EntryType::Symlink, "../../outside"),
            ("./a/h", tar::EntryType::Link, "./a/b"),
        ]);
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&data).unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&data).unwrap();
        let packages = [
            deb("2.0\n", "data.tar", &data),
            deb("2.0\n", "data.tar.gz", &gz.finish().unwrap()),
            deb("2.0\n", "data.tar.xz", &xz.finish().unwrap()),
            deb("2.0\n", "data.tar.zst", &zstd::encode_all(&data[..], 1).unwrap()),
        ];
        for package in packages {
            let mut tree = Tree::default();
            unpack(&package[..], &mut tree, &all).unwrap();
            assert_eq!(tree.file("a/b").unwrap()[..], *b"hello");
            assert_eq!(tree.file("a/h").unwrap()[..], *b"hello");
            let node = tree.get(&TreePath::new("a/b").unwrap()).unwrap();
            assert_eq!((node.mode, node.uid, node.gid), (0o4755, 7, 8));
        }
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
            assert!(unpack_tar(&tar(items)[..], &mut tree, &all).is_err(), "{items:?}");
            assert!(tree.iter().all(|(_, node)| !matches!(node.entry, Entry::File(_))));
        }
    }

    #[test]
    fn a_claimed_size_beyond_the_bound_is_refused_before_it_is_read() {
        let mut tree = Tree::new(crate::tree::TreeLimits { entries: 10, bytes: 3 });
        let data = tar(&[("a", tar::EntryType::Regular, "1234")]);
        assert!(matches!(
            unpack_tar(&data[..], &mut tree, &all),
            Err(DebError::Tree(TreeError::TooLarge(_)))
        ));
    }

    #[test]
    fn a_truncated_or_foreign_container_is_an_error() {
        let data = tar(&[("a", tar::EntryType::Regular, "1234")]);
        let good = deb("2.0\n", "data.tar", &data);
        let mut tree = Tree::default();
        assert!(unpack(good.get(..good.len() / 2).unwrap(), &mut tree, &all).is_err());
        let old = deb("0.9\n", "data.tar", &data);
        assert!(matches!(unpack(&old[..], &mut tree, &all), Err(DebError::Format)));
        let other = deb("2.0\n", "data.tar.lzma", &data);
        assert!(matches!(unpack(&other[..], &mut tree, &all), Err(DebError::NoData(_))));
    }
}
