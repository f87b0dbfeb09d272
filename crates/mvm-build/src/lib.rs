//! Packages and assets into verified, content-addressed files and images.
//!
//! What this crate refuses to know: privilege, tenants, instances. It downloads pinned bytes
//! (`catalogue`, `source`, `fetch`) and releases of this program (`release`), puts a virtual machine
//! monitor in place (`assets`), and turns archives, a guest agent and a kernel into an image
//! (`untar`, `deb` → `tree` → `fit` → `rootfs`; `kernel` and `initramfs`; put together by `assemble`,
//! named by `recipe`, kept by `store`).
//!
//! Nothing here retries, prints, or runs anything that was downloaded.

pub mod assemble;
pub mod assets;
pub mod catalogue;
pub mod content;
pub mod deb;
pub mod debian;
mod default_tree;
mod failed;
pub mod fetch;
mod fit;
mod guest_kernel;
pub mod hash;
pub mod image;
pub mod initramfs;
pub mod kernel;
pub mod manifest;
pub mod modules;
pub mod oci;
pub mod parcel;
pub mod progress;
pub mod recipe;
pub mod release;
pub mod root;
pub mod rootfs;
pub mod source;
pub mod store;
pub mod tree;
pub mod untar;

pub use assemble::{Answered, AssembleError, Assembly, Contents, Fittings, Order};
pub use assets::{AssetError, Assets, VmmPaths};
pub use catalogue::{Arch, Catalogue, CatalogueError};
pub use debian::{Beginning, PackageImage};
pub use default_tree::DefaultTreeError;
pub use failed::FileError;
pub use fetch::{FetchConfig, FetchError, Fetcher, Mirror};
pub use fit::FitError;
pub use guest_kernel::{GuestKernelError, KernelFiles, KernelSource};
pub use hash::ContentHash;
pub use image::{BuildError, DefaultImage, OwnImage};
pub use manifest::Manifest;
pub use oci::{OciError, OciImage};
pub use parcel::{Parcel, ParcelError};
pub use progress::{OnProgress, Progress, Step};
pub use root::{BuiltTree, RootImageError, RootReadError, RootStreamError};
// What images run is part of the contract with the agent.
pub use mvm_proto::workload::{Restart, Service, Workload};
pub use store::{Image, ImageStore, StoreError, StoredFile};
