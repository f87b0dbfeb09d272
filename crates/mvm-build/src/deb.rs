//! Debian packages into a tree: the data member only.
//!
//! Reads the `ar` container and the tar inside, and nothing else of a package: no maintainer
//! script is looked at, no dependency followed, nothing written to the machine that builds. A
//! package is untrusted input until its digest was verified, and hostile input is refused anyway.

use std::io::{self, Read};

use flate2::read::GzDecoder;
use liblzma::read::XzDecoder;

use crate::tree::Tree;
use crate::untar::{self, Placement, UntarError};

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
    /// Its archive is refused.
    #[error(transparent)]
    Archive(#[from] UntarError),
}

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
            "data.tar" => untar::unpack(entry, tree, placement)?,
            "data.tar.gz" => untar::unpack(GzDecoder::new(entry), tree, placement)?,
            "data.tar.xz" => untar::unpack(XzDecoder::new(entry), tree, placement)?,
            "data.tar.zst" => {
                untar::unpack(zstd::stream::read::Decoder::new(entry)?, tree, placement)?;
            }
            _ => {
                seen.push(name);
                continue;
            }
        }
        return Ok(());
    }
    Err(DebError::NoData(seen.join(", ")))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

    use super::*;
    use crate::tree::TreePath;
    use crate::untar::tests::{all, tar};

    fn deb(version: &str, name: &str, data: &[u8]) -> Vec<u8> {
        let mut builder = ar::Builder::new(Vec::new());
        for (name, data) in [("debian-binary", version.as_bytes()), (name, data)] {
            let header = ar::Header::new(name.into(), data.len() as u64);
            builder.append(&header, data).unwrap();
        }
        builder.into_inner().unwrap()
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
            assert_eq!(tree.file("a/b").unwrap().bytes().unwrap()[..], *b"hello");
            assert_eq!(tree.file("a/h").unwrap().bytes().unwrap()[..], *b"hello");
            let node = tree.get(&TreePath::new("a/b").unwrap()).unwrap();
            assert_eq!((node.mode, node.uid, node.gid), (0o4755, 7, 8));
        }
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
