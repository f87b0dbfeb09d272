//! The kernel of an image, and what it needs to find its root.
//!
//! Brings `kernel`, `modules` and `initramfs` together, from a file or from a Debian package. It
//! downloads nothing and writes nothing.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use crate::deb::{self, DebError};
use crate::fit;
use crate::hash::ContentHash;
use crate::initramfs::{self, InitramfsError};
use crate::kernel::{self, KernelError};
use crate::modules::{self, ModuleError};
use crate::recipe::{Input, InputKind};
use crate::store::Image;
use crate::tree::{Tree, TreePath};

/// Where the kernel comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelSource {
    /// An ELF `vmlinux` or a bzImage that boots without an initramfs: virtio over MMIO, its block,
    /// net and vsock devices, squashfs, overlay and ext4 are built in.
    File(PathBuf),
    /// Debian's cloud kernel; its drivers are modules, so the image gets an initramfs.
    Debian,
}

/// Why a kernel can't be used.
#[derive(Debug, thiserror::Error)]
pub enum GuestKernelError {
    /// The kernel is none.
    #[error("cannot use the kernel {name}")]
    Kernel {
        /// Its file or package.
        name: String,
        /// The reason.
        #[source]
        source: KernelError,
    },
    /// The package has no kernel in it.
    #[error("the package {0} has no boot/vmlinuz file")]
    NoKernel(String),
    /// Its modules can't be used.
    #[error("cannot use the modules of {name}")]
    Modules {
        /// The package.
        name: String,
        /// The reason.
        #[source]
        source: ModuleError,
    },
    /// The initramfs passes the bounds.
    #[error("cannot put the initramfs together")]
    Initramfs(#[source] InitramfsError),
    /// A file can't be opened or read.
    #[error("cannot open {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The package can't be unpacked.
    #[error("cannot unpack {package}")]
    Unpack {
        /// The package.
        package: String,
        /// The reason.
        #[source]
        source: DebError,
    },
}

/// A kernel as an image holds it.
#[derive(Debug)]
pub struct KernelFiles {
    pub(crate) vmlinux: Part,
    pub(crate) initrd: Option<Part>,
    pub(crate) cmdline: Vec<String>,
}

/// A file of a kernel.
#[derive(Debug)]
pub(crate) enum Part {
    /// Its bytes.
    Made(Vec<u8>),
    /// A file of another image in the same store.
    Of { path: PathBuf, size: u64, sha256: ContentHash },
}

impl KernelFiles {
    /// The kernel that another image has, and what it was made from. Only for an image with the
    /// same agent: the initramfs holds one.
    #[must_use]
    pub fn of_image(image: &Image) -> (Self, Vec<Input>) {
        let manifest = &image.manifest;
        let kernel = &manifest.kernel;
        let vmlinux = Part::Of { path: image.kernel(), size: kernel.size, sha256: kernel.sha256 };
        let initrd = image.initrd().zip(manifest.initrd.as_ref()).map(|(path, file)| Part::Of {
            path,
            size: file.size,
            sha256: file.sha256,
        });
        let is_of_kernel = |input: &&Input| match input.kind {
            InputKind::KernelFile | InputKind::KernelPackage => true,
            InputKind::Agent
            | InputKind::File
            | InputKind::OciImage
            | InputKind::Package
            | InputKind::Root
            | InputKind::Workload => false,
        };
        let inputs = manifest.created_from.iter().filter(is_of_kernel).cloned().collect();
        (Self { vmlinux, initrd, cmdline: kernel.cmdline.clone() }, inputs)
    }

    /// A kernel that was given as a file.
    pub(crate) fn of_file(bytes: &[u8]) -> Result<Self, GuestKernelError> {
        let vmlinux = kernel::vmlinux(bytes)
            .map_err(|source| GuestKernelError::Kernel { name: "file".to_owned(), source })?
            .into_owned();
        let cmdline = vec!["rootfstype=squashfs".to_owned(), format!("init={}", fit::AGENT)];
        Ok(Self { vmlinux: Part::Made(vmlinux), initrd: None, cmdline })
    }

    /// The kernel, the modules and the initramfs of a downloaded package.
    pub(crate) fn of_package(
        name: &str,
        path: &Path,
        agent: &[u8],
    ) -> Result<Self, GuestKernelError> {
        let mut tree = Tree::default();
        let archive = File::open(path)
            .map_err(|source| GuestKernelError::Open { path: path.to_owned(), source })?;
        deb::unpack(BufReader::new(archive), &mut tree, &kernel_placement)
            .map_err(|source| GuestKernelError::Unpack { package: name.to_owned(), source })?;
        let image = tree
            .iter()
            .find(|(path, _)| path.as_str().starts_with("boot/vmlinuz-"))
            .and_then(|(path, _)| tree.file(path.as_str()))
            .ok_or_else(|| GuestKernelError::NoKernel(name.to_owned()))?
            .bytes()
            .map_err(|source| GuestKernelError::Open { path: path.to_owned(), source })?;
        let vmlinux = kernel::vmlinux(&image)
            .map_err(|source| GuestKernelError::Kernel { name: name.to_owned(), source })?
            .into_owned();
        let modules = modules::in_load_order(&tree, &modules::WANTED)
            .map_err(|source| GuestKernelError::Modules { name: name.to_owned(), source })?;
        let initrd = initramfs::build(agent, &modules).map_err(GuestKernelError::Initramfs)?;
        let vmlinux = Part::Made(vmlinux);
        Ok(Self { vmlinux, initrd: Some(Part::Made(initrd)), cmdline: Vec::new() })
    }
}

/// Of a kernel's package: the kernel, the modules and the list of what is built in.
fn kernel_placement(path: &TreePath) -> Option<TreePath> {
    let text = path.as_str();
    let text = text.strip_prefix("usr/").unwrap_or(text);
    let is_wanted = text.starts_with("boot/vmlinuz-")
        || text.starts_with("lib/modules/")
            && (text.contains(".ko") || text.ends_with("/modules.builtin"));
    if is_wanted { TreePath::new(text).ok() } else { None }
}
