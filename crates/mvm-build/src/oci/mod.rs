//! OCI images into images: from a registry, or from a local archive.
//!
//! ```text
//! reference ──► digest ── answered before? ──► image
//!                 │ no
//!                 ▼
//! manifest → configuration, layers in the cache → (assemble) tree, layer by layer → image
//! ```
//!
//! A tag is resolved here and nowhere else; what it led to is an input of the recipe. Every byte
//! is verified before an image of it is published. Which credentials there are is `fetch`'s, how
//! layers change each other is `layer`'s.

mod archive;
mod document;
mod layer;
mod packed;

use std::io;
use std::path::{Path, PathBuf};

use mvm_core::pool::image::{OciRef, OciVersion};
use mvm_proto::workload::Workload;

use self::archive::{Archive, Section};
use self::document::{Config, Descriptor, Document};
use self::layer::LeftOut;
use self::packed::{Check, Layer};
use crate::assemble::{Arrival, AssembleError, Assembly, Contents, Order, report, workload_input};
use crate::catalogue::Arch;
use crate::fetch::{Fetcher, Pinned, Registry, RegistryError, RegistryRules};
use crate::guest_kernel::KernelFiles;
use crate::hash::ContentHash;
use crate::progress::{OnProgress, Step};
use crate::recipe::{Input, InputKind};
use crate::store::Image;
use crate::tree::TreeLimits;
use crate::untar::UntarError;

/// The name of every image that is made of an OCI image; what it was made of are its inputs.
const NAME: &str = "oci";
/// Bounds of an image's root.
const LIMITS: TreeLimits = TreeLimits { entries: 500_000, bytes: 16 << 30 };
/// Largest configuration, in bytes.
const CONFIG_MAX: u64 = 4 << 20;

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// The registry did not deliver.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The archive can't be read.
    #[error("cannot read the archive {path}")]
    Archive {
        /// The archive.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The archive has no image.
    #[error("{0} is neither an OCI layout in a tar nor what `docker save` writes")]
    NoImage(PathBuf),
    /// The archive lacks something that its index names.
    #[error("the archive {path} has no {member:?}")]
    Member {
        /// The archive.
        path: PathBuf,
        /// What is missing.
        member: String,
    },
    /// A document that is no JSON of the expected shape.
    #[error("cannot read the {what} of the image")]
    Json {
        /// Which.
        what: &'static str,
        /// The reason.
        #[source]
        source: serde_json::Error,
    },
    /// A manifest that is neither an image's nor an index, or both.
    #[error("the image has a manifest of an unknown kind")]
    Manifest,
    /// A digest that is not `sha256:HEX`.
    #[error("{0:?} is no digest that is known here; known is sha256")]
    Digest(String),
    /// Too many layers, or not as many as the configuration says.
    #[error("the image has {0} layers, which is too many or not what its configuration says")]
    Layers(usize),
    /// A layer that can't be had or read.
    #[error("the image has a layer of the kind {0:?}, which is not supported")]
    LayerKind(String),
    /// More than one image, and nothing to choose by.
    #[error("there are {0} images in the archive; it must hold one")]
    Ambiguous(usize),
    /// No image for this machine.
    #[error("the image is not for linux/{arch}; it is for {found}")]
    NoPlatform {
        /// What is needed.
        arch: &'static str,
        /// What there is.
        found: String,
    },
    /// Bytes that are not those that were named.
    #[error("{what} of the image has the digest {found} instead of {want}")]
    WrongDigest {
        /// What it is.
        what: &'static str,
        /// What was wanted.
        want: ContentHash,
        /// What came.
        found: ContentHash,
    },
    /// A layer that can't be unpacked.
    #[error("cannot unpack layer {number} of the image")]
    Layer {
        /// Which, the lowest is 1.
        number: usize,
        /// The reason.
        #[source]
        source: UntarError,
    },
    /// A program or an environment with a NUL in it.
    #[error("the image's program cannot be started: there is a NUL in it")]
    Workload,
    /// A file of the cache can't be read.
    #[error("cannot read a layer of the image")]
    Cache(#[source] io::Error),
    /// The image could not be assembled.
    #[error(transparent)]
    Assemble(#[from] AssembleError),
}

/// Where an OCI image is looked for.
pub enum OciImage<'a> {
    /// In a registry.
    Registry {
        /// Which image.
        reference: &'a OciRef,
        /// What the configuration says about registries.
        rules: &'a RegistryRules,
        /// Gets and keeps what is downloaded.
        fetcher: &'a Fetcher,
    },
    /// In a local archive.
    Archive(&'a Path),
}

/// What was found out about an image before anything large was fetched.
pub enum Resolved<'a> {
    /// It was made before.
    Made(Box<Image>),
    /// It has to be made.
    New(Box<Found<'a>>),
}

/// An image that has to be made.
pub struct Found<'a> {
    request: ContentHash,
    /// What it runs instead of what it says itself.
    workload: Option<Workload>,
    name: &'static str,
    digest: ContentHash,
    place: Place<'a>,
}

enum Place<'a> {
    Registry { session: Registry<'a>, config: Descriptor, layers: Vec<Descriptor> },
    Archive { config: Config, layers: Vec<Layer> },
}

impl<'a> OciImage<'a> {
    /// Finds out which image is meant, and whether it was made before with the kernel of `base`.
    /// An image of a registry by its digest needs no registry when it was. A `workload` stands instead
    /// of what the image says that it runs.
    ///
    /// # Errors
    /// When there is no such image for this machine, or its manifest is not what was named.
    pub fn resolve(
        &self,
        assembly: &Assembly<'_>,
        base: &Image,
        workload: Option<Workload>,
    ) -> Result<Resolved<'a>, OciError> {
        let instead = match &workload {
            Some(workload) => workload_input(workload)?.sha256.to_string(),
            None => String::new(),
        };
        let request = |digest: ContentHash| {
            let base = base.manifest.hash.to_string();
            assembly.request(&[NAME, &digest.to_string(), &base, &instead])
        };
        let answered = |digest| assembly.answered(request(digest)).map(Box::new);
        match self {
            Self::Archive(path) => {
                let held = Archive::open(path)?.image(assembly.arch())?;
                if let Some(image) = answered(held.digest) {
                    return Ok(Resolved::Made(image));
                }
                let place = Place::Archive { config: held.config, layers: held.layers };
                let (name, digest) = (held.name, held.digest);
                let request = request(digest);
                Ok(Resolved::New(Box::new(Found { request, workload, name, digest, place })))
            }
            Self::Registry { reference, rules, fetcher } => {
                let version = match &reference.version {
                    OciVersion::Tag(tag) => tag.clone(),
                    OciVersion::Digest(hex) => {
                        if let Some(image) = hex.parse().ok().and_then(answered) {
                            return Ok(Resolved::Made(image));
                        }
                        format!("sha256:{hex}")
                    }
                };
                let session = Registry::open(fetcher, rules, reference)?;
                let (bytes, top) = session.manifest(&version)?;
                if let Some(image) = answered(top) {
                    return Ok(Resolved::Made(image));
                }
                let (digest, config, layers) = of_session(&session, bytes, top, assembly.arch())?;
                let place = Place::Registry { session, config, layers };
                let (name, request) = ("manifest", request(top));
                Ok(Resolved::New(Box::new(Found { request, workload, name, digest, place })))
            }
        }
    }
}

/// The manifest of the image for `arch`: its digest, and what it names.
fn of_session(
    session: &Registry<'_>,
    bytes: Vec<u8>,
    top: ContentHash,
    arch: Arch,
) -> Result<(ContentHash, Descriptor, Vec<Descriptor>), OciError> {
    let (bytes, digest) = match Document::read(&bytes, arch)? {
        Document::Image { config, layers } => return Ok((top, config, layers)),
        Document::Index(one) => session.manifest(&format!("sha256:{}", one.pinned()?.sha256))?,
    };
    match Document::read(&bytes, arch)? {
        Document::Image { config, layers } => Ok((digest, config, layers)),
        Document::Index(_) => Err(OciError::Manifest),
    }
}

impl Found<'_> {
    /// How many bytes are fetched or read, packed; unpacked they may be several times as many.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match &self.place {
            Place::Registry { layers, .. } => {
                let sizes = layers.iter().filter_map(|layer| Some(layer.pinned().ok()?.size));
                sizes.fold(0, u64::saturating_add)
            }
            Place::Archive { layers, .. } => layers.iter().map(|layer| layer.section.left()).sum(),
        }
    }

    /// Fetches what is missing and makes the image, with the kernel of `base`.
    ///
    /// # Errors
    /// When the image is not what its manifest says, can't be unpacked, or the disk refuses.
    pub fn make(
        self,
        assembly: &Assembly<'_>,
        base: &Image,
        on: OnProgress<'_>,
    ) -> Result<Image, OciError> {
        let (config, layers) = match self.place {
            Place::Archive { config, layers } => (config, layers),
            Place::Registry { session, config, layers } => {
                fetch(&session, &config, &layers, assembly.arch(), on)?
            }
        };
        let (kernel, mut inputs) = KernelFiles::of_image(base);
        let workload = match self.workload {
            Some(workload) => {
                inputs.push(workload_input(&workload)?);
                Some(workload)
            }
            None => config.workload()?,
        };
        inputs.push(Input {
            kind: InputKind::OciImage,
            name: self.name.to_owned(),
            version: None,
            sha256: self.digest,
        });
        let order = Order {
            name: NAME,
            request: self.request,
            inputs,
            limits: LIMITS,
            arrival: Arrival::Given,
        };
        assembly.make(order, on, |tree| {
            let mut left_out = LeftOut::default();
            for (number, layer) in (1..).zip(layers) {
                report(on, Step::Unpack, &format!("layer {number}"));
                packed::unpack(layer, number, tree, &mut left_out)?;
            }
            Ok(Contents { kernel, workload, notes: left_out.notes() })
        })
    }
}

/// Brings configuration and layers into the cache.
fn fetch(
    session: &Registry<'_>,
    config: &Descriptor,
    layers: &[Descriptor],
    arch: Arch,
    on: OnProgress<'_>,
) -> Result<(Config, Vec<Layer>), OciError> {
    let pinned = config.pinned()?;
    if pinned.size > CONFIG_MAX {
        return Err(OciError::Manifest);
    }
    let path = session.blob("configuration", pinned, on)?;
    let config = Config::read(&std::fs::read(path).map_err(OciError::Cache)?, arch)?;
    let mut all = Vec::new();
    for (number, layer) in (1..).zip(layers) {
        let pinned: Pinned = layer.pinned()?;
        let path = session.blob(&format!("layer {number}"), pinned, on)?;
        let section = Section::whole(&path).map_err(OciError::Cache)?;
        all.push(Layer { section, check: Check::Done });
    }
    Ok((config, all))
}

#[cfg(test)]
mod tests;
