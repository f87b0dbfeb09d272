//! The default image: Debian packages and a kernel, through `assemble`.
//!
//! The packages come from a lock, or from the signed index where that has left a locked version
//! behind. The first question, whether the same was asked before, costs one read of the agent and no
//! network, which is what makes a warm build fast. Who boots the image is not known here.

use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use crate::assemble::{Answered, AssembleError, Assembly, Contents, Fittings, Order, file, report};
use crate::catalogue::{Arch, Catalogue, CatalogueError, PackageLock};
use crate::deb::{self, DebError};
use crate::default_tree::{self, DefaultTreeError};
use crate::fetch::{FetchError, Fetcher, PackageFiles, WithKernel};
use crate::guest_kernel::{GuestKernelError, KernelFiles, KernelSource};
use crate::hash::ContentHash;
use crate::progress::{OnProgress, Step};
use crate::recipe::{Input, InputKind};
use crate::rootfs::RootCompression;
use crate::store::{Image, ImageStore, StoreError};
use crate::tree::{Tree, TreeLimits};

/// The name of the image, of its package set, and of its entry in `refs`.
const NAME: &str = "default";
const PACKAGE_SET: &str = "default-image";

/// What to build the default image from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultImage {
    /// The guest agent, a static program.
    pub agent: PathBuf,
    /// The generation of the guest protocol it speaks.
    pub agent_protocol: u32,
    /// The kernel.
    pub kernel: KernelSource,
    /// What it shall run on.
    pub arch: Arch,
    /// How file data lies in the root file system.
    pub compression: RootCompression,
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The catalogue or the lock is at fault.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// Packages could not be had.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A package could not be unpacked.
    #[error("cannot unpack {package}")]
    Unpack {
        /// The package.
        package: String,
        /// The reason.
        #[source]
        source: DebError,
    },
    /// The root file system could not be put together.
    #[error("cannot put the root file system together")]
    Tree(#[from] DefaultTreeError),
    /// The kernel can't be used.
    #[error(transparent)]
    Kernel(#[from] GuestKernelError),
    /// The image could not be assembled.
    #[error(transparent)]
    Assemble(#[from] AssembleError),
}

impl From<StoreError> for BuildError {
    fn from(error: StoreError) -> Self {
        Self::Assemble(error.into())
    }
}

/// A kernel that was given as a file, read.
struct KernelFile {
    bytes: Vec<u8>,
    hash: ContentHash,
}

impl DefaultImage {
    /// Makes sure the image is in `store` and is the current `default` there.
    ///
    /// # Errors
    /// When an input is missing or wrong, no source delivers the packages, or the disk refuses.
    pub fn build(
        &self,
        fetcher: &Fetcher,
        store: &ImageStore,
        on: OnProgress<'_>,
    ) -> Result<Image, BuildError> {
        self.build_locked(PackageLock::built_in()?, fetcher, store, Answered::Used, on)
    }

    /// Builds although an image for the same inputs was made before: what is there stays only if
    /// every byte of it is as its manifest says.
    ///
    /// # Errors
    /// As [`DefaultImage::build`].
    pub fn build_again(
        &self,
        fetcher: &Fetcher,
        store: &ImageStore,
        on: OnProgress<'_>,
    ) -> Result<Image, BuildError> {
        self.build_locked(PackageLock::built_in()?, fetcher, store, Answered::Ignored, on)
    }

    fn build_locked(
        &self,
        lock: PackageLock,
        fetcher: &Fetcher,
        store: &ImageStore,
        answered: Answered,
        on: OnProgress<'_>,
    ) -> Result<Image, BuildError> {
        let fittings = Fittings {
            agent: self.agent.clone(),
            agent_protocol: self.agent_protocol,
            arch: self.arch,
            compression: self.compression,
        };
        let assembly = Assembly::new(&fittings, store, answered)?;
        let kernel_file = self.kernel_file()?;
        let request = request(&assembly, kernel_file.as_ref(), &lock);
        if let Some(image) = assembly.answered(request) {
            store.set_ref(NAME, image.manifest.hash)?;
            return Ok(image);
        }
        let catalogue = Catalogue::built_in()?;
        let set = catalogue.package_set(PACKAGE_SET, self.arch)?;
        let with_kernel = match self.kernel {
            KernelSource::Debian => WithKernel::Yes,
            KernelSource::File(_) => WithKernel::No,
        };
        let packages = fetcher.packages(set, &lock, with_kernel, on)?;
        let inputs = inputs(kernel_file.as_ref(), &packages);
        let order = Order { name: NAME, request, inputs, limits: TreeLimits::default() };
        let image = assembly.make(order, on, |tree| {
            fill(tree, &packages, on)?;
            let kernel = kernel(kernel_file.as_ref(), &packages, assembly.agent(), on)?;
            let notes = packages.resolution.notes.clone();
            Ok::<_, BuildError>(Contents { kernel, workload: None, notes })
        })?;
        store.set_ref(NAME, image.manifest.hash)?;
        Ok(image)
    }

    fn kernel_file(&self) -> Result<Option<KernelFile>, BuildError> {
        match &self.kernel {
            KernelSource::Debian => Ok(None),
            KernelSource::File(path) => {
                let bytes = fs::read(path).map_err(file("read", path))?;
                let hash = ContentHash::of(&bytes);
                Ok(Some(KernelFile { bytes, hash }))
            }
        }
    }
}

/// The key of what was asked, before anything is resolved.
fn request(
    assembly: &Assembly<'_>,
    kernel: Option<&KernelFile>,
    lock: &PackageLock,
) -> ContentHash {
    let kernel = kernel.map_or(lock.kernel.sha256, |file| file.hash);
    let hashes = [kernel].into_iter().chain(lock.packages.iter().map(|package| package.sha256));
    let parts: Vec<String> = hashes.map(|hash| hash.to_string()).collect();
    let parts: Vec<&str> = [NAME].into_iter().chain(parts.iter().map(String::as_str)).collect();
    assembly.request(&parts)
}

fn inputs(kernel: Option<&KernelFile>, packages: &PackageFiles) -> Vec<Input> {
    let mut all: Vec<Input> = packages
        .resolution
        .packages
        .iter()
        .map(|package| Input::package(InputKind::Package, package))
        .collect();
    all.push(match kernel {
        None => Input::package(InputKind::KernelPackage, &packages.resolution.kernel),
        Some(file) => Input {
            kind: InputKind::KernelFile,
            name: "vmlinux".to_owned(),
            version: None,
            sha256: file.hash,
        },
    });
    all
}

fn kernel(
    file: Option<&KernelFile>,
    packages: &PackageFiles,
    agent: &[u8],
    on: OnProgress<'_>,
) -> Result<KernelFiles, BuildError> {
    let name = &packages.resolution.kernel.name;
    match (file, &packages.kernel) {
        (Some(file), _) => Ok(KernelFiles::of_file(&file.bytes)?),
        (None, Some(package)) => {
            report(on, Step::Unpack, name);
            Ok(KernelFiles::of_package(name, package, agent)?)
        }
        (None, None) => Err(GuestKernelError::NoKernel(name.clone()).into()),
    }
}

fn fill(tree: &mut Tree, packages: &PackageFiles, on: OnProgress<'_>) -> Result<(), BuildError> {
    for (package, path) in packages.resolution.packages.iter().zip(&packages.packages) {
        report(on, Step::Unpack, &package.name);
        unpack(&package.name, path, tree)?;
    }
    default_tree::complete(tree)?;
    Ok(())
}

/// Unpacks a package of an image.
pub(crate) fn unpack(package: &str, path: &Path, tree: &mut Tree) -> Result<(), BuildError> {
    let archive = File::open(path).map_err(file("open", path))?;
    deb::unpack(BufReader::new(archive), tree, &default_tree::placement)
        .map_err(|source| BuildError::Unpack { package: package.to_owned(), source })
}

#[cfg(test)]
mod tests;
