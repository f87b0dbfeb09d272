//! The `Builder` port over `mvm-build`: images and the VMM that boots them, fetched and made when
//! missing.
//!
//! Every image but the default one boots the default one's kernel, which is made first when it is
//! missing. What an image is made of is told from its name (`mvm_core::pool::image`).

mod debian;
mod mvmfile;
mod oci;
pub(crate) mod parcel;
mod root;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, mpsc},
    thread,
};

use mvm_build::{
    Answered, Arch, AssembleError, Assembly, Assets, Catalogue, DefaultImage, FetchConfig, Fetcher,
    Fittings, Image, ImageStore, KernelSource, OwnImage, PackageImage, Step, StoreError,
};
use mvm_core::{
    error::{Error, ErrorKind},
    id::{ImageHash, RequestKey},
    layout::data,
    operation::{Operation, Rebuild},
    pool::{ImageRef, Role, Source},
    port::{BuildOrder, Builder, BuiltRoot, PlacedRoot, Prepared, Progress, ProgressStep},
};

use mvm_host::disk::space;

use crate::config::Config;

/// What a build of the default image may take at worst: its packages, the unpacked tree and the
/// image, 150 MiB when it was measured.
const BUILD_MIB: u64 = 400;
/// The name of the image that is made here when it is missing.
const DEFAULT: &str = "default";
/// The guest protocol generation of the agent that ships beside this program.
const AGENT_PROTOCOL: u32 = 1;

/// Makes images under the data directory.
#[derive(Clone)]
pub(crate) struct LocalBuilder(Arc<Workshop>);

struct Workshop {
    config: Config,
    agent: PathBuf,
    /// One build at a time in this process; between processes the image store locks.
    busy: Mutex<()>,
}

fn failed(kind: ErrorKind, act: &str, source: &(dyn std::error::Error + 'static)) -> Error {
    Error::new(kind, act).because(source)
}

impl LocalBuilder {
    /// A builder whose images carry the guest agent at `agent`.
    pub(crate) fn new(config: Config, agent: PathBuf) -> Self {
        Self(Arc::new(Workshop { config, agent, busy: Mutex::new(()) }))
    }

    /// Makes sure that the VMM of the configuration is installed.
    pub(crate) fn ensure_vmm(&self, progress: &dyn Progress) -> Result<(), Error> {
        self.0.ensure_vmm(progress)
    }

    /// Whether the default image and the VMM of the configuration are there.
    pub(crate) fn is_equipped(&self) -> bool {
        let vmm = self.0.config.data_dir.join(data::vmm(&self.0.config.firecracker));
        let images = self.0.config.data_dir.join(data::IMAGES);
        vmm.is_dir() && images.is_dir() && self.0.store().is_ok_and(|all| all.find(DEFAULT).is_ok())
    }

    /// Makes the default image unless it is there, and installs the VMM.
    pub(crate) fn ensure_default(&self, progress: &dyn Progress) -> Result<ImageHash, Error> {
        let order = BuildOrder {
            source: Source::Image(DEFAULT.to_owned()),
            profile: String::new(),
            role: Role::Worker,
            rebuild: Rebuild::WhenChanged,
            timeout: Operation::BUILD_TIMEOUT,
        };
        self.0.ensure(&order, progress).map(|prepared| prepared.image)
    }
}

impl Workshop {
    fn fetcher(&self) -> Result<Fetcher, Error> {
        let mut settings = FetchConfig::new(self.config.data_dir.join("cache"));
        if let Some(mirror) = &self.config.asset_mirror {
            let parsed = mirror.parse();
            settings.mirror = Some(parsed.map_err(|error| {
                failed(ErrorKind::Invalid, "the asset mirror makes no sense", &error)
            })?);
        }
        Fetcher::new(settings)
            .map_err(|error| failed(ErrorKind::Failed, "cannot prepare downloads", &error))
    }

    fn ensure_vmm(&self, progress: &dyn Progress) -> Result<(), Error> {
        let catalogue = Catalogue::built_in()
            .map_err(|error| failed(ErrorKind::Failed, "the catalogue is damaged", &error))?;
        let fetcher = self.fetcher()?;
        let version = &self.config.firecracker;
        Assets { catalogue: &catalogue, fetcher: &fetcher }
            .ensure_vmm(
                version.as_str(),
                arch()?,
                &self.config.data_dir.join(data::BINARIES),
                &|step| {
                    progress.report(&report(step));
                },
            )
            .map(drop)
            .map_err(|error| {
                failed(
                    ErrorKind::Unavailable,
                    &format!("cannot install Firecracker {version}"),
                    &error,
                )
                .hint("check the network, or set MVM_ASSET_MIRROR to a place that has the files")
            })
    }

    /// Checks that the disk has room for what a build may write, before it begins.
    fn admit(&self, what: &str, mib: u64) -> Result<(), Error> {
        std::fs::create_dir_all(&self.config.data_dir)
            .map_err(|error| failed(ErrorKind::Failed, "cannot make the data directory", &error))?;
        space::room_of(&self.config.data_dir, self.config.disk_reserve_percent)?.admit(what, mib)
    }

    fn make_own(
        &self,
        which: OwnImage,
        store: &ImageStore,
        rebuild: Rebuild,
        progress: &dyn Progress,
    ) -> Result<ImageHash, Error> {
        let image = DefaultImage {
            which,
            agent: self.agent.clone(),
            agent_protocol: AGENT_PROTOCOL,
            kernel: KernelSource::Debian,
            arch: arch()?,
        };
        let on = |step: mvm_build::Progress<'_>| progress.report(&report(step));
        let fetcher = self.fetcher()?;
        let built = match rebuild {
            Rebuild::WhenChanged => image.build(&fetcher, store, &on),
            Rebuild::Always => image.build_again(&fetcher, store, &on),
        };
        let built = built.map_err(|error| {
            let act = format!("cannot make the {} image", which.name());
            failed(ErrorKind::Unavailable, &act, &error)
                .hint("it is made from Debian packages: apt must work on this machine")
        })?;
        hash_of(&built.manifest.hash.to_string())
    }
}

impl Builder for LocalBuilder {
    /// A build that takes too long is left to itself: it ends with this process or, in one that
    /// lives on, when it is done; what it makes then is in the store for the next one.
    fn ensure_image(
        &self,
        order: &BuildOrder,
        progress: &Arc<dyn Progress>,
    ) -> Result<Prepared, Error> {
        not_yet(&order.source)?;
        let (sender, receiver) = mpsc::channel();
        let (workshop, order_of, teller) = (self.0.clone(), order.clone(), progress.clone());
        thread::spawn(move || sender.send(workshop.ensure(&order_of, &*teller)));
        receiver.recv_timeout(order.timeout.duration()).unwrap_or_else(|why| {
            Err(match why {
                mpsc::RecvTimeoutError::Timeout => Error::new(
                    ErrorKind::Unavailable,
                    format!("the build took longer than {} s", order.timeout.0),
                )
                .hint("give it more time: --timeout SECS"),
                mpsc::RecvTimeoutError::Disconnected => {
                    Error::new(ErrorKind::Failed, "the build ended without a word")
                }
            })
        })
    }

    fn find_image(&self, request: &RequestKey) -> Result<Option<ImageHash>, Error> {
        self.0.find(request)
    }

    fn place_root(&self, root: &PlacedRoot) -> Result<(), Error> {
        self.0.place(root)
    }

    fn import_root(
        &self,
        root: &BuiltRoot,
        progress: &Arc<dyn Progress>,
    ) -> Result<ImageHash, Error> {
        self.0.import(root, &**progress)
    }
}

/// Refuses sources that nothing here builds yet.
fn not_yet(source: &Source) -> Result<(), Error> {
    let what = match source {
        Source::Image(_) => return Ok(()),
        // The engine builds these, in a microVM.
        Source::Flake(_) => "flakes on its own",
        // The engine says which image that is.
        Source::Template(_) => "templates on its own",
    };
    Err(Error::new(ErrorKind::Unavailable, format!("this version cannot build {what} yet")).hint(
        "use a ready image: mvm pool update <tenant>/<pool> --image default, and build again",
    ))
}

impl Workshop {
    fn ensure(&self, order: &BuildOrder, progress: &dyn Progress) -> Result<Prepared, Error> {
        not_yet(&order.source)?;
        let _one_at_a_time = self.busy.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.ensure_vmm(progress)?;
        let store = self.store()?;
        let name = order.source.text().parse::<ImageRef>()?;
        let image = match &name {
            ImageRef::Stored(name) => self.stored(&store, name, order.rebuild, progress)?,
            ImageRef::Oci(_) | ImageRef::OciArchive(_) => {
                self.make_oci(&store, &name, None, order.rebuild, progress)?
            }
            ImageRef::Packages(packages) => {
                let image = PackageImage { packages: packages.clone(), ..PackageImage::default() };
                self.make_packages(&store, &image, order.rebuild, progress)?
            }
            ImageRef::PackageFile(path) => {
                let packages = debian::listed(Path::new(path))?;
                let image = PackageImage { packages, ..PackageImage::default() };
                self.make_packages(&store, &image, order.rebuild, progress)?
            }
            ImageRef::Path(path) if Path::new(path).is_dir() => {
                return self.make_mvmfile(&store, Path::new(path), order.rebuild, progress);
            }
            ImageRef::Path(path) => self.take_parcel(&store, Path::new(path), progress)?,
        };
        Ok(image.into())
    }

    /// An image that is in the store; one of our own is made when it is missing or of another version.
    fn stored(
        &self,
        store: &ImageStore,
        name: &str,
        rebuild: Rebuild,
        progress: &dyn Progress,
    ) -> Result<ImageHash, Error> {
        match (store.find(name), OwnImage::named(name)) {
            (Ok(image), Some(own)) if rebuild == Rebuild::Always || !own.is_current(&image) => {
                self.make_own(own, store, rebuild, progress)
            }
            (Ok(image), _) if rebuild == Rebuild::Always => {
                // A ready image has nothing that it could be made from; its bytes are looked at.
                image.verify().map_err(|error| {
                    failed(ErrorKind::Integrity, &format!("cannot use the image {name:?}"), &error)
                })?;
                hash_of(&image.manifest.hash.to_string())
            }
            (Ok(image), _) => hash_of(&image.manifest.hash.to_string()),
            (Err(StoreError::NotFound(_)), Some(own)) => {
                self.admit(&format!("a build of the {} image", own.name()), BUILD_MIB)?;
                self.make_own(own, store, rebuild, progress)
            }
            (Err(error @ (StoreError::NotFound(_) | StoreError::Ambiguous(_))), _) => {
                Err(failed(ErrorKind::NotFound, &format!("there is no image {name:?}"), &error)
                    .hint("use --image default, or the hash of an image in the image store"))
            }
            (Err(error), _) => {
                Err(failed(ErrorKind::Integrity, &format!("cannot use the image {name:?}"), &error))
            }
        }
    }
}

impl Workshop {
    fn store(&self) -> Result<ImageStore, Error> {
        ImageStore::open(&self.config.data_dir.join(data::IMAGES))
            .map_err(|error| failed(ErrorKind::Failed, "cannot open the image store", &error))
    }

    /// What every image gets, for one that is made here of whatever root.
    fn assembly<'s>(&self, store: &'s ImageStore, rebuild: Rebuild) -> Result<Assembly<'s>, Error> {
        let fittings =
            Fittings { agent: self.agent.clone(), agent_protocol: AGENT_PROTOCOL, arch: arch()? };
        let answered = match rebuild {
            Rebuild::WhenChanged => Answered::Used,
            Rebuild::Always => Answered::Ignored,
        };
        Assembly::new(&fittings, store, answered)
            .map_err(|error| failed(kind_of(&error), "cannot prepare the build", &error))
    }

    /// What every image but the default one begins with.
    fn begin<'s>(
        &self,
        store: &'s ImageStore,
        rebuild: Rebuild,
        progress: &dyn Progress,
    ) -> Result<(Assembly<'s>, Image), Error> {
        let assembly = self.assembly(store, rebuild)?;
        let base = self.base(store, &assembly, progress)?;
        Ok((assembly, base))
    }

    /// The default image, whose kernel every other one boots; made when it is missing or has
    /// another agent.
    fn base(
        &self,
        store: &ImageStore,
        assembly: &Assembly<'_>,
        progress: &dyn Progress,
    ) -> Result<Image, Error> {
        match store.find(DEFAULT) {
            Ok(image) if assembly.has_agent(&image) => return Ok(image),
            Ok(_) | Err(StoreError::NotFound(_) | StoreError::Damaged { .. }) => {}
            Err(error) => {
                return Err(failed(ErrorKind::Integrity, "cannot use the default image", &error));
            }
        }
        self.admit("a build of the default image", BUILD_MIB)?;
        let hash = self.make_own(OwnImage::Default, store, Rebuild::WhenChanged, progress)?;
        store
            .find(hash.as_str())
            .map_err(|error| failed(ErrorKind::Integrity, "cannot use the default image", &error))
    }
}

fn kind_of(error: &AssembleError) -> ErrorKind {
    match error {
        AssembleError::Fit(_) => ErrorKind::Invalid,
        AssembleError::Store(StoreError::Busy { .. }) => ErrorKind::Unavailable,
        AssembleError::Root(_)
        | AssembleError::Store(_)
        | AssembleError::File(_)
        | AssembleError::Agent(_) => ErrorKind::Failed,
    }
}

pub(crate) fn hash_of(text: &str) -> Result<ImageHash, Error> {
    text.parse().map_err(|error| failed(ErrorKind::Integrity, "the image has no hash", &error))
}

fn arch() -> Result<Arch, Error> {
    Arch::native().ok_or_else(|| {
        Error::new(ErrorKind::Unavailable, "there are no assets for this processor architecture")
    })
}

fn report(step: mvm_build::Progress<'_>) -> ProgressStep {
    let activity = match step.step {
        Step::Resolve => "looking up packages",
        Step::Fetch => "fetching",
        Step::Unpack => "unpacking",
        Step::Pack => "writing the image",
    };
    ProgressStep {
        subject: step.name.to_owned(),
        activity: activity.to_owned(),
        done: step.done,
        total: step.total.unwrap_or(0),
    }
}
