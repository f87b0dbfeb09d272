//! A tree as a tar.gz whose bytes follow from the tree alone.

use std::io::{self, Write};

use flate2::{Compression, GzBuilder};
use tar::{Builder, EntryType, Header};

use super::tree::{Node, Tree};
use crate::error::{Act, Result};

/// The time of everything: 1980-01-01 UTC, the first that every archive format can write.
pub(super) const TIME: u64 = 315_532_800;

/// Packs a tree; every path begins with `prefix`.
pub(super) fn tar_gz(tree: &Tree, prefix: &str) -> Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    let top = prefix.trim_end_matches('/');
    let directories = std::iter::once(format!("{top}/"))
        .chain(tree.directories().into_iter().map(|path| format!("{prefix}{path}/")));
    let act = || "pack an archive".to_owned();
    for path in directories {
        let mut header = header(EntryType::Directory, 0o755, 0)?;
        tar.append_data(&mut header, path, io::empty()).act(act)?;
    }
    for (path, node) in tree.nodes() {
        let path = format!("{prefix}{path}");
        match node {
            Node::File { mode, bytes } => {
                let mut header = header(EntryType::Regular, *mode, bytes.len() as u64)?;
                tar.append_data(&mut header, path, bytes.as_slice()).act(act)?;
            }
            Node::Link(to) => {
                let mut header = header(EntryType::Symlink, 0o777, 0)?;
                tar.append_link(&mut header, path, to).act(act)?;
            }
        }
    }
    gz(&tar.into_inner().act(act)?)
}

/// Compresses bytes; the head has no name and no time.
pub(super) fn gz(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut gz = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    gz.write_all(bytes).and_then(|()| gz.finish()).act(|| "compress an archive".into())
}

fn header(kind: EntryType, mode: u32, size: u64) -> Result<Header> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(TIME);
    header.set_uid(0);
    header.set_gid(0);
    let names = header.set_username("root").and_then(|()| header.set_groupname("root"));
    names.act(|| "name an owner".into())?;
    Ok(header)
}
