//! Making images as ports: what they are made from, who makes them, and what of a caller's files a
//! build reads and writes.
//!
//! A flake is built in a microVM, and the commands of an `Mvmfile.toml` run in one, which the engine drives as
//! it drives any other (`Guest`); to put a root into it, and what is made of the root that stands in it
//! then, is a [`Builder`]'s again.

use std::{fmt, io::Read, io::Write, sync::Arc};

use serde::{Deserialize, Serialize};

use super::Progress;
use crate::{
    error::Error, id::ImageHash, id::InstanceRef, id::PoolRef, id::RequestKey, operation::Rebuild,
    pool::Role, pool::Source, units::Seconds,
};

/// What a builder is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildOrder {
    /// Where the image comes from.
    pub source: Source,
    /// The profile of the source.
    pub profile: String,
    /// What the instances are for; flakes have attributes by role.
    pub role: Role,
    /// Whether an image that is there is made again.
    pub rebuild: Rebuild,
    /// How long it may take.
    pub timeout: Seconds,
}

/// A root file system that stands in a builder microVM and shall become an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuiltRoot {
    /// The builder.
    pub instance: InstanceRef,
    /// The directory in it.
    pub path: String,
    /// The image whose kernel boots what is made.
    pub kernel: ImageHash,
    /// What was asked for, so that the same question finds the image; none when the answer may be another
    /// one next time.
    pub request: Option<RequestKey>,
}

/// An image that was made or found, and what is left to do until it is the one that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prepared {
    /// The image.
    pub image: ImageHash,
    /// What has to run in its root; none when it is ready.
    pub commands: Option<RootCommands>,
}

impl From<ImageHash> for Prepared {
    fn from(image: ImageHash) -> Self {
        Self { image, commands: None }
    }
}

/// Commands that run in the root of an image, as root of a builder microVM, and make another image of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootCommands {
    /// The commands for the root's `/bin/sh`, in their order.
    pub lines: Vec<String>,
    /// What the image and the commands amount to.
    pub key: RequestKey,
}

/// A root file system that shall stand in a builder microVM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlacedRoot {
    /// The builder.
    pub instance: InstanceRef,
    /// The directory in it, which is made.
    pub path: String,
    /// The image that has the root.
    pub image: ImageHash,
}

/// Makes or finds images.
pub trait Builder: Send + Sync {
    /// Makes the image of a source unless it is there, and whatever booting it needs.
    ///
    /// # Errors
    /// Why it cannot be made, `Unavailable` when it takes too long; the images there are stay as
    /// they are.
    fn ensure_image(
        &self,
        order: &BuildOrder,
        progress: &Arc<dyn Progress>,
    ) -> Result<Prepared, Error>;

    /// The image that an earlier request with this key made; none when there is none any more.
    ///
    /// # Errors
    /// Why the images cannot be read.
    fn find_image(&self, request: &RequestKey) -> Result<Option<ImageHash>, Error>;

    /// Puts the root of an image into a builder.
    ///
    /// # Errors
    /// `NotFound` without such an image, `Unavailable` when the builder is gone, why it has no room for it.
    fn place_root(&self, root: &PlacedRoot) -> Result<(), Error>;

    /// Makes an image of a root that a builder made. The same root makes the same image.
    ///
    /// # Errors
    /// `Invalid` when it is no root, `Unavailable` when the builder is gone, why it cannot be written.
    fn import_root(
        &self,
        root: &BuiltRoot,
        progress: &Arc<dyn Progress>,
    ) -> Result<ImageHash, Error>;
}

/// A flake as it stands.
#[derive(Debug)]
pub struct Flake {
    /// What is built.
    pub source: FlakeSource,
    /// What its content and the way to build it amount to; none when only building it tells.
    pub key: Option<RequestKey>,
}

/// Where a flake's files come from.
pub enum FlakeSource {
    /// A directory of this host, as a tar stream of its files.
    Directory {
        /// The stream.
        files: Box<dyn Read + Send>,
        /// Whether it has inputs, which are fetched.
        has_inputs: bool,
    },
    /// Something that the builder fetches itself.
    Reference(String),
}

impl fmt::Debug for FlakeSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory { has_inputs, .. } => {
                f.debug_struct("Directory").field("has_inputs", has_inputs).finish_non_exhaustive()
            }
            Self::Reference(text) => f.debug_tuple("Reference").field(text).finish(),
        }
    }
}

/// What a build reads and writes of the files of who asks for it, with the rights of who asks.
pub trait Sources: Send + Sync {
    /// Reads a flake for a pool of this profile and role, to be built with the builder image `tools`.
    ///
    /// # Errors
    /// `NotFound` and `Permission` of the directory; `Invalid` when it is no flake, or says itself that it
    /// has no such profile or role.
    fn flake(
        &self,
        reference: &str,
        profile: &str,
        role: &Role,
        tools: &ImageHash,
    ) -> Result<Flake, Error>;

    /// A pool's build log, emptied, and where it is.
    ///
    /// # Errors
    /// Why it cannot be written.
    fn build_log(&self, pool: &PoolRef) -> Result<(Box<dyn Write + Send>, String), Error>;
}
