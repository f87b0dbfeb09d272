//! The images of this program's own: Debian packages and a kernel, through `assemble`.
//!
//! | image | packages | besides |
//! |---|---|---|
//! | `default` | a shell, tools, SSH | |
//! | `builder` | these, and Nix | `/usr/lib/mvm/{build-flake,run-commands}` |
//!
//! The packages come from a lock, or from the signed index where that has left a locked version
//! behind. The first question, whether the same was asked before, costs one read of the agent and no
//! network, which is what makes a warm build fast. Who boots the image is not known here.

use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use crate::assemble::{
    Answered, Arrival, AssembleError, Assembly, Contents, Fittings, Order, file, report,
};
use crate::catalogue::{Arch, Catalogue, CatalogueError, PackageLock};
use crate::deb::{self, DebError};
use crate::default_tree::{self, DefaultTreeError};
use crate::fetch::{FetchError, Fetcher, PackageFiles, WithKernel};
use crate::guest_kernel::{GuestKernelError, KernelFiles, KernelSource};
use crate::hash::ContentHash;
use crate::progress::{OnProgress, Step};
use crate::recipe::{Input, InputKind};
use crate::root::RootReadError;
use crate::store::{Image, ImageStore, StoreError};
use crate::tree::{Node, Tree, TreeLimits, TreePath};

/// The program that builds a flake inside a builder.
const BUILD_FLAKE: &[u8] = include_bytes!("build-flake.sh");
const BUILD_FLAKE_PATH: &str = "usr/lib/mvm/build-flake";
/// The program that runs commands in a root inside a builder.
const RUN_COMMANDS: &[u8] = include_bytes!("run-commands.sh");
const RUN_COMMANDS_PATH: &str = "usr/lib/mvm/run-commands";

/// What runs commands in a root inside a builder, by its content: it has a part in what they make.
#[must_use]
pub fn commands_program() -> ContentHash {
    ContentHash::of(RUN_COMMANDS)
}

/// Which of the images of this program's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnImage {
    /// What instances run that bring no image of their own.
    Default,
    /// What flakes are built in, and commands run in.
    Builder,
}

impl OwnImage {
    /// The name of the image and of its entry in `refs`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Builder => "builder",
        }
    }

    /// The one of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Default, Self::Builder].into_iter().find(|one| one.name() == name)
    }

    /// Whether an image has the files that this program puts into it.
    #[must_use]
    pub fn is_current(self, image: &Image) -> bool {
        own_files(self).iter().all(|file| image.manifest.created_from.contains(file))
    }

    const fn package_set(self) -> &'static str {
        match self {
            Self::Default => "default-image",
            Self::Builder => "builder-image",
        }
    }

    fn lock(self) -> Result<PackageLock, CatalogueError> {
        match self {
            Self::Default => PackageLock::built_in(),
            Self::Builder => PackageLock::of_builder(),
        }
    }

    /// Files besides those of packages: where, and what is in them.
    const fn files(self) -> &'static [(&'static str, &'static [u8])] {
        match self {
            Self::Default => &[],
            Self::Builder => &[(BUILD_FLAKE_PATH, BUILD_FLAKE), (RUN_COMMANDS_PATH, RUN_COMMANDS)],
        }
    }
}

/// What to build one of them from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultImage {
    /// Which.
    pub which: OwnImage,
    /// The guest agent, a static program.
    pub agent: PathBuf,
    /// The generation of the guest protocol it speaks.
    pub agent_protocol: u32,
    /// The kernel.
    pub kernel: KernelSource,
    /// What it shall run on.
    pub arch: Arch,
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
    /// The root of the image that it begins with is unusable.
    #[error(transparent)]
    Base(#[from] RootReadError),
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
    /// Makes sure the image is in `store` and is the current one of its name there.
    ///
    /// # Errors
    /// When an input is missing or wrong, no source delivers the packages, or the disk refuses.
    pub fn build(
        &self,
        fetcher: &Fetcher,
        store: &ImageStore,
        on: OnProgress<'_>,
    ) -> Result<Image, BuildError> {
        self.build_locked(self.which.lock()?, fetcher, store, Answered::Used, on)
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
        self.build_locked(self.which.lock()?, fetcher, store, Answered::Ignored, on)
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
        };
        let assembly = Assembly::new(&fittings, store, answered)?;
        let kernel_file = self.kernel_file()?;
        let (name, files) = (self.which.name(), own_files(self.which));
        let request = request(&assembly, name, kernel_file.as_ref(), &lock, &files);
        if let Some(image) = assembly.answered(request) {
            store.set_ref(name, image.manifest.hash)?;
            return Ok(image);
        }
        let catalogue = Catalogue::built_in()?;
        let set = catalogue.package_set(self.which.package_set(), self.arch)?;
        let with_kernel = match self.kernel {
            KernelSource::Debian => WithKernel::Yes,
            KernelSource::File(_) => WithKernel::No,
        };
        let packages = fetcher.packages(set, &lock, with_kernel, on)?;
        let mut inputs = inputs(kernel_file.as_ref(), &packages);
        inputs.extend(files);
        let order =
            Order { name, request, inputs, limits: TreeLimits::default(), arrival: Arrival::Any };
        let image = assembly.make(order, on, |tree| {
            fill(tree, &packages, on)?;
            for (path, bytes) in self.which.files() {
                put(tree, path, bytes)?;
            }
            let kernel = kernel(kernel_file.as_ref(), &packages, assembly.agent(), on)?;
            let notes = packages.resolution.notes.clone();
            Ok::<_, BuildError>(Contents { kernel, workload: None, notes })
        })?;
        store.set_ref(name, image.manifest.hash)?;
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
    name: &str,
    kernel: Option<&KernelFile>,
    lock: &PackageLock,
    files: &[Input],
) -> ContentHash {
    let kernel = kernel.map_or(lock.kernel.sha256, |file| file.hash);
    let packages = lock.packages.iter().map(|package| package.sha256);
    let hashes = [kernel].into_iter().chain(packages).chain(files.iter().map(|file| file.sha256));
    let parts: Vec<String> = hashes.map(|hash| hash.to_string()).collect();
    let parts: Vec<&str> = [name].into_iter().chain(parts.iter().map(String::as_str)).collect();
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

fn own_files(which: OwnImage) -> Vec<Input> {
    let input = |(path, bytes): &(&str, &[u8])| Input {
        kind: InputKind::File,
        name: (*path).to_owned(),
        version: None,
        sha256: ContentHash::of(bytes),
    };
    which.files().iter().map(input).collect()
}

fn put(tree: &mut Tree, path: &str, bytes: &[u8]) -> Result<(), BuildError> {
    let place = TreePath::new(path).map_err(DefaultTreeError::from)?;
    Ok(tree.put(place, Node::file(0o755, bytes)).map_err(DefaultTreeError::from)?)
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
