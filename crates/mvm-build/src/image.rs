//! The default image: Debian packages, the guest agent and a kernel, made once per content.
//!
//! ```text
//! request (agent, kernel, lock) ── answered before? ──► image
//!        │ no
//!        ▼
//! packages: lock or signed index ──► recipe key ── in the store? ──► image
//!        │ no
//!        ▼
//! unpack → tree → rootfs.squashfs ; kernel → vmlinux, initrd.img ; publish by rename
//! ```
//!
//! The first question costs one read of the agent and no network, which is what makes a warm
//! build fast. Same inputs, same bytes. Who boots the image is not known here.

use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::catalogue::{Arch, Catalogue, CatalogueError, PackageLock};
use crate::deb::{self, DebError};
use crate::default_tree::{self, DefaultTreeError};
use crate::fetch::{FetchError, Fetcher, PackageFiles, WithKernel};
use crate::guest_kernel::{GuestKernel, GuestKernelError, KernelSource};
use crate::hash::ContentHash;
use crate::manifest::{
    AgentInfo, ImageFile, KernelFile, MANIFEST_SCHEMA, Manifest, RootFile, RootFormat,
};
use crate::progress::{OnProgress, Progress, Step};
use crate::recipe::{Input, InputKind, Key, RECIPE_VERSION, Recipe};
use crate::rootfs::{self, RootCompression, RootError};
use crate::store::{BuildLock, Image, ImageStore, StoreError, write_synced};
use crate::tree::Tree;

/// The name of the image, of its package set, and of its entry in `refs`.
const NAME: &str = "default";
const PACKAGE_SET: &str = "default-image";
/// How long a build waits for another one.
const PATIENCE: Duration = Duration::from_secs(600);

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
    /// It could not be written.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The kernel can't be used.
    #[error(transparent)]
    Kernel(#[from] GuestKernelError),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An input or output file failed.
    #[error("cannot {act} {path}")]
    File {
        /// What was tried.
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The agent is no program for a guest.
    #[error("{0} is not a static ELF program, so it can't be the guest agent")]
    Agent(PathBuf),
}

fn file(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BuildError {
    move |source| BuildError::File { act, path: path.to_owned(), source }
}

/// The inputs, read.
struct Inputs {
    agent: Vec<u8>,
    agent_hash: ContentHash,
    kernel_file: Option<(Vec<u8>, ContentHash)>,
    lock: PackageLock,
}

/// Whether the answer to an earlier request of the same kind counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answered {
    Used,
    Ignored,
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
        let inputs = self.read_inputs(lock)?;
        let request = self.request(&inputs);
        if answered == Answered::Used
            && let Some(image) = store.answered(request)
        {
            store.set_ref(NAME, image.manifest.hash)?;
            return Ok(image);
        }
        let catalogue = Catalogue::built_in()?;
        let set = catalogue.package_set(PACKAGE_SET, self.arch)?;
        let with_kernel = match self.kernel {
            KernelSource::Debian => WithKernel::Yes,
            KernelSource::File(_) => WithKernel::No,
        };
        let packages = fetcher.packages(set, &inputs.lock, with_kernel, on)?;
        let recipe = self.recipe(&inputs, &packages);
        let lock = store.lock(PATIENCE)?;
        let image = match store.get(recipe.key()) {
            Ok(image) if answered == Answered::Used || image.verify().is_ok() => image,
            Ok(_) | Err(StoreError::NotFound(_) | StoreError::Damaged { .. }) => {
                self.make(&inputs, &packages, &recipe, store, &lock, on)?
            }
            Err(error) => return Err(error.into()),
        };
        store.remember(request, image.manifest.hash)?;
        store.set_ref(NAME, image.manifest.hash)?;
        Ok(image)
    }

    fn read_inputs(&self, lock: PackageLock) -> Result<Inputs, BuildError> {
        let agent = fs::read(&self.agent).map_err(file("read", &self.agent))?;
        if !is_static_elf(&agent) {
            return Err(BuildError::Agent(self.agent.clone()));
        }
        let kernel_file = match &self.kernel {
            KernelSource::Debian => None,
            KernelSource::File(path) => {
                let bytes = fs::read(path).map_err(file("read", path))?;
                let hash = ContentHash::of(&bytes);
                Some((bytes, hash))
            }
        };
        let agent_hash = ContentHash::of(&agent);
        Ok(Inputs { agent, agent_hash, kernel_file, lock })
    }

    /// The key of what was asked, before anything is resolved.
    fn request(&self, inputs: &Inputs) -> ContentHash {
        let mut key = Key::new("mvm image request");
        key.number(RECIPE_VERSION);
        key.text(&format!("{:?} {:?}", self.arch, self.compression));
        key.number(self.agent_protocol);
        key.text(&inputs.agent_hash.to_string());
        match &inputs.kernel_file {
            Some((_, hash)) => key.text(&hash.to_string()),
            None => key.text(&inputs.lock.kernel.sha256.to_string()),
        }
        for package in &inputs.lock.packages {
            key.text(&package.sha256.to_string());
        }
        key.finish()
    }

    fn recipe(&self, inputs: &Inputs, packages: &PackageFiles) -> Recipe {
        let mut all: Vec<Input> = packages
            .resolution
            .packages
            .iter()
            .map(|package| Input::package(InputKind::Package, package))
            .collect();
        all.push(Input {
            kind: InputKind::Agent,
            name: "mvm-guest".to_owned(),
            version: None,
            sha256: inputs.agent_hash,
        });
        all.push(match &inputs.kernel_file {
            None => Input::package(InputKind::KernelPackage, &packages.resolution.kernel),
            Some((_, hash)) => Input {
                kind: InputKind::KernelFile,
                name: "vmlinux".to_owned(),
                version: None,
                sha256: *hash,
            },
        });
        all.sort();
        Recipe {
            name: NAME.to_owned(),
            arch: self.arch,
            compression: self.compression,
            agent_protocol: self.agent_protocol,
            inputs: all,
        }
    }

    fn make(
        &self,
        inputs: &Inputs,
        packages: &PackageFiles,
        recipe: &Recipe,
        store: &ImageStore,
        lock: &BuildLock,
        on: OnProgress<'_>,
    ) -> Result<Image, BuildError> {
        let tree = root_tree(inputs, packages, on)?;
        let kernel = match (&inputs.kernel_file, &packages.kernel) {
            (Some((bytes, _)), _) => GuestKernel::of_file(bytes)?,
            (None, Some(package)) => {
                let name = &packages.resolution.kernel.name;
                report(on, Step::Unpack, name);
                GuestKernel::of_package(name, package, &inputs.agent)?
            }
            (None, None) => {
                let name = packages.resolution.kernel.name.clone();
                return Err(GuestKernelError::NoKernel(name).into());
            }
        };
        report(on, Step::Pack, NAME);
        let scratch = store.scratch(lock)?;
        let root = write_root(scratch.path(), &tree, self.compression)?;
        let vmlinux = write_file(scratch.path(), "vmlinux", &kernel.vmlinux)?;
        let initrd = match &kernel.initrd {
            Some(bytes) => Some(write_file(scratch.path(), "initrd.img", bytes)?),
            None => None,
        };
        let manifest = Manifest {
            schema: MANIFEST_SCHEMA,
            name: recipe.name.clone(),
            hash: recipe.key(),
            arch: recipe.arch,
            created_from: recipe.inputs.clone(),
            kernel: KernelFile {
                file: vmlinux.file,
                size: vmlinux.size,
                sha256: vmlinux.sha256,
                cmdline: kernel.cmdline,
            },
            initrd,
            root,
            agent: AgentInfo { sha256: inputs.agent_hash, protocol: recipe.agent_protocol },
            notes: packages.resolution.notes.clone(),
        };
        Ok(store.publish(scratch, &manifest, lock)?)
    }
}

fn report(on: OnProgress<'_>, step: Step, name: &str) {
    on(Progress { step, name, done: 0, total: None });
}

/// Whether these bytes are a 64-bit ELF program without an interpreter.
fn is_static_elf(bytes: &[u8]) -> bool {
    const PROGRAM_HEADER: usize = 56;
    const INTERPRETER: [u8; 4] = 3_u32.to_le_bytes();
    let find = || {
        let table = usize::try_from(u64::from_le_bytes(bytes.get(0x20..0x28)?.try_into().ok()?));
        let count = u16::from_le_bytes(bytes.get(0x38..0x3a)?.try_into().ok()?);
        let length = usize::from(count) * PROGRAM_HEADER;
        let table = table.ok()?;
        let headers = bytes.get(table..table.checked_add(length)?)?;
        Some(!headers.chunks(PROGRAM_HEADER).any(|header| header.starts_with(&INTERPRETER)))
    };
    bytes.starts_with(b"\x7fELF\x02\x01") && find() == Some(true)
}

fn root_tree(
    inputs: &Inputs,
    packages: &PackageFiles,
    on: OnProgress<'_>,
) -> Result<Tree, BuildError> {
    let mut tree = Tree::default();
    for (package, path) in packages.resolution.packages.iter().zip(&packages.packages) {
        report(on, Step::Unpack, &package.name);
        let archive = File::open(path).map_err(file("open", path))?;
        deb::unpack(BufReader::new(archive), &mut tree, &default_tree::placement)
            .map_err(|source| BuildError::Unpack { package: package.name.clone(), source })?;
    }
    default_tree::complete(&mut tree, &inputs.agent)?;
    Ok(tree)
}

fn write_file(directory: &Path, name: &str, bytes: &[u8]) -> Result<ImageFile, BuildError> {
    let path = directory.join(name);
    write_synced(&path, bytes).map_err(file("write", &path))?;
    Ok(ImageFile {
        file: name.to_owned(),
        size: bytes.len() as u64,
        sha256: ContentHash::of(bytes),
    })
}

fn write_root(
    directory: &Path,
    tree: &Tree,
    compression: RootCompression,
) -> Result<RootFile, BuildError> {
    let mut image = io::Cursor::new(Vec::new());
    rootfs::write(tree, compression, &mut image)?;
    let ImageFile { file, size, sha256 } =
        write_file(directory, "rootfs.squashfs", image.get_ref())?;
    Ok(RootFile { file, size, sha256, format: RootFormat::Squashfs })
}

#[cfg(test)]
mod tests;
