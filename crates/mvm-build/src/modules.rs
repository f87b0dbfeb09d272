//! Kernel modules: which ones a guest needs, and in which order they load.
//!
//! Dependencies are read from the modules themselves (`.modinfo`: `depends=` and `softdep=pre:`),
//! since a package has no `modules.dep` until it is installed. Loading is the guest's business;
//! see `initramfs` for the list it gets.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

use liblzma::read::XzDecoder;

use crate::content::Content;
use crate::tree::{Entry, Tree};

/// What every guest needs, in the order to start from: the bus, its devices, the root file
/// system, and what can be plugged in later.
pub const WANTED: [&str; 10] = [
    "virtio_mmio",
    "virtio_blk",
    "virtio_net",
    "vmw_vsock_virtio_transport",
    "squashfs",
    "overlay",
    "ext4",
    "virtio_rng",
    "virtio_balloon",
    "i8042",
];

/// Modules that a kernel may lack altogether.
const OPTIONAL: [&str; 3] = ["virtio_rng", "virtio_balloon", "i8042"];
/// Largest module, uncompressed, in bytes.
const MODULE_LIMIT: u64 = 64 << 20;

/// Why the modules of a kernel can't be had.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// Neither built in nor a module.
    #[error("the kernel has no {0}, neither built in nor as a module")]
    Missing(String),
    /// A compressed module that is damaged.
    #[error("cannot decompress the kernel module {name}")]
    Damaged {
        /// The module.
        name: String,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// A file of the package can't be read.
    #[error("cannot read a file of the kernel package")]
    Read(#[source] io::Error),
    /// Not an ELF file with a `.modinfo` section.
    #[error("the kernel module {0} has no readable information section")]
    NoInfo(String),
    /// No list of what is built in: not a kernel package.
    #[error("the package has no modules.builtin")]
    NoBuiltin,
}

/// A module, uncompressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// The name with underscores.
    pub name: String,
    /// The ELF object.
    pub bytes: Vec<u8>,
}

/// A kernel package's modules by name.
struct Index<'a> {
    modules: BTreeMap<String, (&'a str, &'a Content)>,
    builtin: BTreeSet<String>,
}

/// The modules among `wanted` that are not built in, with everything they need before them.
///
/// `tree` holds a kernel package's `lib/modules`.
///
/// # Errors
/// When one is missing or unreadable.
pub fn in_load_order(tree: &Tree, wanted: &[&str]) -> Result<Vec<Module>, ModuleError> {
    let index = Index::new(tree)?;
    let mut chosen = Vec::new();
    let mut visited = BTreeSet::new();
    for name in wanted {
        let is_absent = !index.builtin.contains(*name) && !index.modules.contains_key(*name);
        if !(is_absent && OPTIONAL.contains(name)) {
            visit(&index, name, &mut visited, &mut chosen)?;
        }
    }
    Ok(chosen)
}

/// Depth first; `visited` also ends the rings that soft dependencies can form.
fn visit(
    index: &Index<'_>,
    name: &str,
    visited: &mut BTreeSet<String>,
    chosen: &mut Vec<Module>,
) -> Result<(), ModuleError> {
    if index.builtin.contains(name) || !visited.insert(name.to_owned()) {
        return Ok(());
    }
    let (path, content) =
        index.modules.get(name).ok_or_else(|| ModuleError::Missing(name.to_owned()))?;
    let bytes = decompress(name, path, &content.bytes().map_err(ModuleError::Read)?)?;
    let info = modinfo(&bytes).ok_or_else(|| ModuleError::NoInfo(name.to_owned()))?;
    for needed in info.soft {
        if index.builtin.contains(&needed) || index.modules.contains_key(&needed) {
            visit(index, &needed, visited, chosen)?;
        }
    }
    for needed in info.hard {
        visit(index, &needed, visited, chosen)?;
    }
    chosen.push(Module { name: name.to_owned(), bytes });
    Ok(())
}

/// The module name of a path such as `kernel/drivers/virtio-rng.ko.xz`.
fn module_name(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let (name, extension) = file.split_once(".ko")?;
    matches!(extension, "" | ".xz" | ".zst").then(|| name.replace('-', "_"))
}

impl<'a> Index<'a> {
    fn new(tree: &'a Tree) -> Result<Self, ModuleError> {
        let mut modules = BTreeMap::new();
        let mut builtin = None;
        for (path, node) in tree.iter() {
            let Entry::File(content) = &node.entry else { continue };
            if path.as_str().ends_with("/modules.builtin") {
                let bytes = content.bytes().map_err(ModuleError::Read)?;
                let text = String::from_utf8_lossy(&bytes);
                builtin = Some(text.lines().filter_map(module_name).collect());
            } else if let Some(name) = module_name(path.as_str()) {
                modules.insert(name, (path.as_str(), content));
            }
        }
        Ok(Self { modules, builtin: builtin.ok_or(ModuleError::NoBuiltin)? })
    }
}

fn decompress(name: &str, path: &str, bytes: &[u8]) -> Result<Vec<u8>, ModuleError> {
    let damaged = |source| ModuleError::Damaged { name: name.to_owned(), source };
    let mut out = Vec::new();
    if path.ends_with(".xz") {
        XzDecoder::new(bytes).take(MODULE_LIMIT).read_to_end(&mut out).map_err(damaged)?;
    } else if path.ends_with(".zst") {
        let decoder = zstd::stream::read::Decoder::new(bytes).map_err(damaged)?;
        decoder.take(MODULE_LIMIT).read_to_end(&mut out).map_err(damaged)?;
    } else {
        out.extend_from_slice(bytes);
    }
    Ok(out)
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Info {
    hard: Vec<String>,
    soft: Vec<String>,
}

/// What a module says it needs.
fn modinfo(elf: &[u8]) -> Option<Info> {
    let section = section(elf, b".modinfo")?;
    let mut info = Info::default();
    for entry in section.split(|byte| *byte == 0) {
        let Ok(text) = std::str::from_utf8(entry) else { continue };
        if let Some(names) = text.strip_prefix("depends=") {
            info.hard.extend(
                names.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")),
            );
        } else if let Some(rule) = text.strip_prefix("softdep=") {
            let before = rule.split("post:").next().unwrap_or_default();
            let names = before.split_once("pre:").map_or("", |(_, names)| names);
            info.soft.extend(names.split_whitespace().map(|name| name.replace('-', "_")));
        }
    }
    Some(info)
}

/// A section of a 64-bit little-endian ELF object, by name.
fn section<'a>(elf: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let u16_at = |at: usize| Some(u16::from_le_bytes(elf.get(at..at + 2)?.try_into().ok()?));
    let u32_at =
        |at: usize| Some(u32::from_le_bytes(elf.get(at..at.checked_add(4)?)?.try_into().ok()?));
    let offset_at = |at: usize| {
        usize::try_from(u64::from_le_bytes(elf.get(at..at.checked_add(8)?)?.try_into().ok()?)).ok()
    };
    let table = offset_at(0x28)?;
    let size = usize::from(u16_at(0x3a)?);
    let count = usize::from(u16_at(0x3c)?);
    let header = |index: usize| table.checked_add(index.checked_mul(size)?);
    let body = |at: usize| {
        let start = offset_at(at.checked_add(0x18)?)?;
        elf.get(start..start.checked_add(offset_at(at.checked_add(0x20)?)?)?)
    };
    let names = body(header(usize::from(u16_at(0x3e)?))?)?;
    (0..count).find_map(|index| {
        let at = header(index)?;
        let start = usize::try_from(u32_at(at)?).ok()?;
        let rest = names.get(start..)?;
        let is_named = rest.strip_prefix(name).is_some_and(|tail| tail.first() == Some(&0));
        if is_named { body(at) } else { None }
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

    use super::*;
    use crate::tree::{Node, TreePath};

    /// An ELF object with nothing but a `.modinfo` section.
    fn object(info: &str) -> Vec<u8> {
        let names = b"\0.modinfo\0.shstrtab\0";
        let mut elf = vec![0; 0x40];
        let mut put = |at: usize, data: &[u8]| {
            elf.get_mut(at..at + data.len()).unwrap().copy_from_slice(data)
        };
        let end = 0x40 + names.len() + info.len();
        put(0, b"\x7fELF\x02\x01");
        put(0x28, &(end as u64).to_le_bytes());
        put(0x3a, &64_u16.to_le_bytes());
        put(0x3c, &3_u16.to_le_bytes());
        put(0x3e, &2_u16.to_le_bytes());
        elf.extend(names);
        elf.extend(info.as_bytes());
        let mut header = |name: u32, start: usize, length: usize| {
            let mut bytes = [0; 64];
            bytes.get_mut(..4).unwrap().copy_from_slice(&name.to_le_bytes());
            bytes.get_mut(0x18..0x20).unwrap().copy_from_slice(&(start as u64).to_le_bytes());
            bytes.get_mut(0x20..0x28).unwrap().copy_from_slice(&(length as u64).to_le_bytes());
            elf.extend(bytes);
        };
        header(0, 0, 0);
        header(1, 0x40 + names.len(), info.len());
        header(10, 0x40, names.len());
        elf
    }

    fn package(modules: &[(&str, &str)], builtin: &str) -> Tree {
        let mut tree = Tree::default();
        let mut put = |path: String, bytes: Vec<u8>| {
            tree.put(TreePath::new(&path).unwrap(), Node::file(0o644, bytes)).unwrap();
        };
        for (path, info) in modules {
            let bytes = object(info);
            let bytes = if path.ends_with(".zst") {
                zstd::encode_all(&bytes[..], 1).unwrap()
            } else {
                bytes
            };
            put(format!("lib/modules/6.1/kernel/{path}"), bytes);
        }
        put("lib/modules/6.1/modules.builtin".to_owned(), builtin.as_bytes().to_vec());
        tree
    }

    fn names(modules: Vec<Module>) -> Vec<String> {
        modules.into_iter().map(|module| module.name).collect()
    }

    #[test]
    fn what_a_module_needs_is_loaded_before_it_and_built_in_ones_are_left_out() {
        let tree = package(
            &[
                ("a.ko", "name=a\0depends=b,core-x\0softdep=pre: soft nothere post: z\0"),
                ("b.ko.zst", "depends=core_x\0"),
                ("core-x.ko", "depends=\0"),
                ("soft.ko", "depends=\0"),
            ],
            "kernel/crypto/builtin-one.ko\n",
        );
        let order = names(in_load_order(&tree, &["builtin_one", "a"]).unwrap());
        assert_eq!(order, ["soft", "core_x", "b", "a"]);
    }

    #[test]
    fn a_missing_module_is_named_unless_it_is_optional() {
        let tree = package(&[("a.ko", "depends=gone\0")], "");
        let error = in_load_order(&tree, &["a"]).unwrap_err();
        assert!(matches!(error, ModuleError::Missing(name) if name == "gone"));
        assert!(in_load_order(&tree, &["virtio_rng"]).unwrap().is_empty());
        assert!(in_load_order(&tree, &["virtio_blk"]).is_err());
    }

    #[test]
    fn a_ring_of_soft_dependencies_ends() {
        let tree = package(&[("a.ko", "softdep=pre: b\0"), ("b.ko", "softdep=pre: a\0")], "");
        assert_eq!(names(in_load_order(&tree, &["a"]).unwrap()), ["b", "a"]);
    }

    #[test]
    fn garbage_is_no_module() {
        for length in 0..object("depends=\0").len() {
            let bytes = object("depends=x\0");
            let _none = section(bytes.get(..length).unwrap(), b".modinfo");
        }
        assert_eq!(modinfo(b"text"), None);
    }
}
