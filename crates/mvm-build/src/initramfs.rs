//! The first file system of a guest whose kernel has its drivers as modules.
//!
//! A cpio archive (`newc`), uncompressed: unpacking costs the guest nothing then. This module
//! packs; what happens inside is the guest agent's part of the contract:
//!
//! * `/init` is the guest agent, started by the kernel as process 1. It knows that it is in an
//!   initramfs by the presence of `/modules.list`.
//! * `/modules.list` names one module per line, as an absolute path, in the order to load:
//!   `finit_module` each; `EEXIST` is no error.
//! * `/dev/console` and `/dev/null` exist, so that process 1 has its three streams. `/proc`,
//!   `/sys`, `/dev` and `/newroot` are empty directories to mount on.
//! * The root file system is the squashfs on `/dev/vda`. Once that device is there (devtmpfs; wait
//!   with a bound), it is mounted read-only on `/newroot`, moved over `/`, and `/sbin/mvm-guest` of
//!   the new root is executed. Everything else is done by that one.
//! * The kernel's command line is left as it is for the second stage, `/proc/cmdline`.

use std::borrow::Cow;
use std::io::{self, Write};

use crate::modules::Module;
use crate::tree::{Entry, Node, Tree, TreeError, TreePath};

/// Where the list of modules is.
pub const MODULE_LIST: &str = "/modules.list";
/// The device with the root file system.
pub const ROOT_DEVICE: &str = "/dev/vda";

/// Why an initramfs could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum InitramfsError {
    /// It passes the bounds of a tree.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A file of it can't be read.
    #[error("cannot read a file of the initramfs")]
    Read(#[from] io::Error),
}

/// The initramfs of `agent` and `modules`.
///
/// # Errors
/// When it passes the bounds of a tree, or a file of it can't be read.
pub fn build(agent: &[u8], modules: &[Module]) -> Result<Vec<u8>, InitramfsError> {
    let mut tree = Tree::default();
    let mut list = String::new();
    for name in ["dev", "proc", "sys", "newroot", "modules"] {
        tree.put(TreePath::new(name)?, Node::directory(0o755))?;
    }
    for module in modules {
        let path = format!("modules/{}.ko", module.name);
        tree.put(TreePath::new(&path)?, Node::file(0o644, module.bytes.as_slice()))?;
        list.push('/');
        list.push_str(&path);
        list.push('\n');
    }
    tree.put(TreePath::new("modules.list")?, Node::file(0o644, list.into_bytes()))?;
    tree.put(TreePath::new("init")?, Node::file(0o755, agent))?;
    pack(&tree, &[("dev/console", 0o600, 5, 1), ("dev/null", 0o666, 1, 3)])
}

/// A character device: path, permissions, major, minor.
type Device<'a> = (&'a str, u32, u32, u32);

/// Packs a tree, and then devices, which a tree can't hold.
fn pack(tree: &Tree, devices: &[Device<'_>]) -> Result<Vec<u8>, InitramfsError> {
    let mut archive = Archive { bytes: Vec::new(), inode: 0 };
    for (path, node) in tree.iter() {
        let (kind, data) = match &node.entry {
            Entry::Directory => (0o040_000, Cow::Borrowed(&[][..])),
            Entry::File(content) => (0o100_000, content.bytes()?),
            Entry::Symlink(target) => (0o120_000, Cow::Borrowed(target.as_bytes())),
        };
        let mode = kind | u32::from(node.mode);
        archive.put(path.as_str(), mode, (node.uid, node.gid), (0, 0), &data);
    }
    for (path, mode, major, minor) in devices {
        archive.put(path, 0o020_000 | mode, (0, 0), (*major, *minor), &[]);
    }
    archive.put("TRAILER!!!", 0, (0, 0), (0, 0), &[]);
    Ok(archive.bytes)
}

struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    fn put(&mut self, name: &str, mode: u32, owner: (u32, u32), device: (u32, u32), data: &[u8]) {
        self.inode += 1;
        let links = if mode & 0o170_000 == 0o040_000 { 2 } else { 1 };
        let fields = [
            self.inode,
            mode,
            owner.0,
            owner.1,
            links,
            0,
            clamp(data.len()),
            0,
            0,
            device.0,
            device.1,
            clamp(name.len() + 1),
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            let written: io::Result<()> = write!(self.bytes, "{field:08x}");
            debug_assert!(written.is_ok(), "a vector takes every byte");
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(data);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// Sizes fit: a tree holds at most 1 GiB.
fn clamp(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

    use super::*;

    /// Name, mode, device, data.
    type Item = (String, u32, (u32, u32), Vec<u8>);

    fn read(mut bytes: &[u8]) -> Vec<Item> {
        let mut entries = Vec::new();
        loop {
            let field = |index: usize| {
                let text = bytes.get(6 + index * 8..14 + index * 8).unwrap();
                u32::from_str_radix(std::str::from_utf8(text).unwrap(), 16).unwrap()
            };
            assert_eq!(bytes.get(..6).unwrap(), b"070701");
            let (mode, size, device, length) =
                (field(1), field(6) as usize, (field(9), field(10)), field(11) as usize);
            let name = std::str::from_utf8(bytes.get(110..109 + length).unwrap()).unwrap();
            let start = (110 + length).next_multiple_of(4);
            let data = bytes.get(start..start + size).unwrap().to_vec();
            if name == "TRAILER!!!" {
                return entries;
            }
            entries.push((name.to_owned(), mode, device, data));
            bytes = bytes.get((start + size).next_multiple_of(4)..).unwrap();
        }
    }

    #[test]
    fn the_archive_holds_the_agent_the_modules_and_the_list_in_load_order() {
        let module = |name: &str| Module { name: name.to_owned(), bytes: name.into() };
        let archive = build(b"agent", &[module("virtio"), module("a")]).unwrap();
        let entries = read(&archive);
        let data = |name: &str| entries.iter().find(|e| e.0 == name).unwrap().clone();
        assert_eq!(data("init").1, 0o100_755);
        assert_eq!(data("init").3, b"agent");
        assert_eq!(data("modules.list").3, b"/modules/virtio.ko\n/modules/a.ko\n");
        assert_eq!(data("modules/a.ko").3, b"a");
        assert_eq!((data("dev/console").1, data("dev/console").2), (0o020_600, (5, 1)));
        assert_eq!(data("newroot").1, 0o040_755);
        assert_eq!(archive, build(b"agent", &[module("virtio"), module("a")]).unwrap());
    }
}
