//! Any root and a kernel into an image: the one way in which images come to be.
//!
//! ```text
//! request ── answered before? ──► image
//!    │ no
//!    ▼
//! inputs ──► recipe key ── in the store? ──► image
//!    │ no
//!    ▼
//! fill a tree → fit it for the agent → finish rootfs.squashfs ; vmlinux, initrd.img ; publish by rename
//! ```
//!
//! Where the root comes from is the caller's: Debian packages (`image`), layers (`oci`), or any tar
//! stream through [`crate::untar::unpack`]. The contents of a tree are spooled in the image that is
//! being written or beside it ([`Arrival`]), so that memory holds names only. Who boots the image is
//! not known here.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use mvm_proto::workload::Workload;

use crate::catalogue::Arch;
use crate::content::Spool;
use crate::failed::FileError;
use crate::fit::{self, FitError};
use crate::guest_kernel::{KernelFiles, Part};
use crate::hash::ContentHash;
use crate::manifest::{
    self, AgentInfo, ImageFile, KernelFile, MANIFEST_SCHEMA, Manifest, RootFormat,
};
use crate::progress::{OnProgress, Progress, Step};
use crate::recipe::{Input, InputKind, Key, RECIPE_VERSION, Recipe};
use crate::rootfs::{RootError, RootFile};
use crate::store::{BuildLock, Image, ImageStore, StoreError, write_synced};
use crate::tree::{Tree, TreeLimits};

/// How long a build waits for another one.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);
const ROOT: &str = "rootfs.squashfs";

/// What every image gets, whatever its root is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fittings {
    /// The guest agent, a static program.
    pub agent: PathBuf,
    /// The generation of the guest protocol it speaks.
    pub agent_protocol: u32,
    /// What the image shall run on.
    pub arch: Arch,
}

/// Whether the answer to an earlier request of the same kind counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    /// An image that was made before is taken.
    Used,
    /// Everything is made anew; what is in the store stays only if every byte of it is as its
    /// manifest says.
    Ignored,
}

/// Why an image could not be assembled.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// The root is no root for a guest.
    #[error("cannot fit the root file system for a guest")]
    Fit(#[from] FitError),
    /// The root file system could not be written.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An input or output file failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The agent is no program for a guest.
    #[error("{0} is not a static ELF program, so it can't be the guest agent")]
    Agent(PathBuf),
}

pub(crate) fn file(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AssembleError {
    move |source| FileError::new(act, path, source).into()
}

/// A workload as an input: for an image whose other inputs do not say what it runs.
///
/// # Errors
/// When it can't be written down.
pub fn workload_input(workload: &Workload) -> Result<Input, AssembleError> {
    let json = serde_json::to_vec(workload).map_err(FitError::from)?;
    let (kind, name) = (InputKind::Workload, "services".to_owned());
    Ok(Input { kind, name, version: None, sha256: ContentHash::of(&json) })
}

/// What shall be made.
#[derive(Debug, Clone)]
pub struct Order<'a> {
    /// The image's name in its manifest; it is part of the key.
    pub name: &'a str,
    /// What was asked, as [`Assembly::request`] gives it.
    pub request: ContentHash,
    /// All that decides what is in the root and the kernel. The agent is added.
    pub inputs: Vec<Input>,
    /// Bounds of the root.
    pub limits: TreeLimits,
    /// What is known of the order in which its contents come.
    pub arrival: Arrival,
}

/// Whether contents come in an order that follows from the inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// It does: they are written once, where they stay.
    Given,
    /// It may be another the next time: they are spooled, and written in the order of their paths.
    Any,
}

/// What a root is, once its tree is filled.
#[derive(Debug)]
pub struct Contents {
    /// The kernel to boot it with.
    pub kernel: KernelFiles,
    /// What the image runs. It must follow from the inputs; none leaves what the root says itself.
    pub workload: Option<Workload>,
    /// What differs from what was asked for, for people.
    pub notes: Vec<String>,
}

/// Makes images in one store.
#[derive(Debug)]
pub struct Assembly<'a> {
    store: &'a ImageStore,
    fittings: Fittings,
    agent: Vec<u8>,
    agent_hash: ContentHash,
    answered: Answered,
}

impl<'a> Assembly<'a> {
    /// Reads the agent.
    ///
    /// # Errors
    /// When it can't be read or is no program for a guest.
    pub fn new(
        fittings: &Fittings,
        store: &'a ImageStore,
        answered: Answered,
    ) -> Result<Self, AssembleError> {
        let path = &fittings.agent;
        let agent = fs::read(path).map_err(file("read", path))?;
        if !is_static_elf(&agent) {
            return Err(AssembleError::Agent(path.clone()));
        }
        let agent_hash = ContentHash::of(&agent);
        Ok(Self { store, fittings: fittings.clone(), agent, agent_hash, answered })
    }

    /// The agent's bytes.
    #[must_use]
    pub fn agent(&self) -> &[u8] {
        &self.agent
    }

    /// What the image shall run on.
    #[must_use]
    pub fn arch(&self) -> Arch {
        self.fittings.arch
    }

    /// Whether an image carries the agent that this assembly would put into it.
    #[must_use]
    pub fn has_agent(&self, image: &Image) -> bool {
        image.manifest.agent.sha256 == self.agent_hash
    }

    /// The key of what is asked, before anything is resolved: what every image gets, and `parts`.
    #[must_use]
    pub fn request(&self, parts: &[&str]) -> ContentHash {
        let mut key = Key::new("mvm image request");
        key.number(RECIPE_VERSION);
        key.text(self.fittings.arch.as_str());
        key.number(self.fittings.agent_protocol);
        key.text(&self.agent_hash.to_string());
        parts.iter().for_each(|part| key.text(part));
        key.finish()
    }

    /// The image that a request was answered with before, unless that does not count.
    #[must_use]
    pub fn answered(&self, request: ContentHash) -> Option<Image> {
        match self.answered {
            Answered::Used => self.store.answered(request),
            Answered::Ignored => None,
        }
    }

    /// Makes sure that the image of an order is in the store; `fill` is called when it is not.
    ///
    /// # Errors
    /// Those of `fill`; when the tree is no root for a guest, or the disk refuses.
    pub fn make<E: From<AssembleError>>(
        &self,
        order: Order<'_>,
        on: OnProgress<'_>,
        fill: impl FnOnce(&mut Tree) -> Result<Contents, E>,
    ) -> Result<Image, E> {
        let request = order.request;
        let (limits, arrival) = (order.limits, order.arrival);
        let recipe = self.recipe(order);
        let lock = self.store.lock(PATIENCE).map_err(AssembleError::from)?;
        let image = match self.store.get(recipe.key()) {
            Ok(image) if self.answered == Answered::Used || image.verify().is_ok() => image,
            Ok(_) | Err(StoreError::NotFound(_) | StoreError::Damaged { .. }) => {
                let scratch = self.store.scratch(&lock).map_err(AssembleError::from)?;
                let path = scratch.path().join(ROOT);
                let root = RootFile::create(&path).map_err(file("make", &path))?;
                let spool = match arrival {
                    Arrival::Given => root.spool(),
                    Arrival::Any => Spool::on(scratch.path())
                        .map_err(file("make a spool in", scratch.path()))?,
                };
                let mut tree = Tree::spooled(limits, spool);
                let contents = fill(&mut tree)?;
                report(on, Step::Pack, &recipe.name);
                fit::fit(&mut tree, &self.agent, contents.workload.as_ref())
                    .map_err(AssembleError::from)?;
                let root = finish(&root, &path, tree)?;
                self.publish(scratch, root, contents, &recipe, &lock)?
            }
            Err(error) => return Err(AssembleError::from(error).into()),
        };
        self.store.remember(request, image.manifest.hash).map_err(AssembleError::from)?;
        Ok(image)
    }

    fn recipe(&self, order: Order<'_>) -> Recipe {
        let mut inputs = order.inputs;
        inputs.push(Input {
            kind: InputKind::Agent,
            name: "mvm-guest".to_owned(),
            version: None,
            sha256: self.agent_hash,
        });
        inputs.sort();
        Recipe {
            name: order.name.to_owned(),
            arch: self.fittings.arch,
            agent_protocol: self.fittings.agent_protocol,
            inputs,
        }
    }

    fn publish(
        &self,
        scratch: tempfile::TempDir,
        root: manifest::RootFile,
        contents: Contents,
        recipe: &Recipe,
        lock: &BuildLock,
    ) -> Result<Image, AssembleError> {
        let KernelFiles { vmlinux, initrd, cmdline } = contents.kernel;
        let vmlinux = place(scratch.path(), "vmlinux", vmlinux)?;
        let initrd = match initrd {
            Some(part) => Some(place(scratch.path(), "initrd.img", part)?),
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
                cmdline,
            },
            initrd,
            root,
            agent: AgentInfo { sha256: self.agent_hash, protocol: recipe.agent_protocol },
            notes: contents.notes,
        };
        Ok(self.store.publish(scratch, &manifest, lock)?)
    }
}

pub(crate) fn report(on: OnProgress<'_>, step: Step, name: &str) {
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

/// Puts a part of a kernel into a directory: what another image has is shared with it.
fn place(directory: &Path, name: &str, part: Part) -> Result<ImageFile, AssembleError> {
    let path = directory.join(name);
    match part {
        Part::Made(bytes) => {
            write_synced(&path, &bytes).map_err(file("write", &path))?;
            let sha256 = ContentHash::of(&bytes);
            Ok(ImageFile { file: name.to_owned(), size: bytes.len() as u64, sha256 })
        }
        Part::Of { path: from, size, sha256 } => {
            fs::hard_link(&from, &path).map_err(file("link", &from))?;
            Ok(ImageFile { file: name.to_owned(), size, sha256 })
        }
    }
}

/// Makes the file the root that a tree is, and describes it.
fn finish(root: &RootFile, path: &Path, tree: Tree) -> Result<manifest::RootFile, AssembleError> {
    let size = root.finish(&tree)?;
    drop(tree);
    // The digest is taken from memory while the disk gets it.
    let (synced, digest) = thread::scope(|scope| {
        let syncing = scope.spawn(|| root.sync());
        let digest = ContentHash::of_file(path);
        (syncing.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into())), digest)
    });
    synced.map_err(file("write", path))?;
    let (sha256, _) = digest.map_err(file("read", path))?;
    let format = RootFormat::Squashfs;
    Ok(manifest::RootFile { file: ROOT.to_owned(), size, sha256, format })
}

#[cfg(test)]
mod tests;
