//! Images that a directory with an `Mvmfile.toml` asks for.

use std::path::Path;

use mvm_build::{Catalogue, ImageStore, PackageImage};
use mvm_core::{
    error::{Error, ErrorKind},
    id::ImageHash,
    operation::Rebuild,
    pool::ImageRef,
    port::Progress,
};

use super::{Workshop, arch, failed};
use crate::mvmfile::{Base, Mvmfile};

/// The packages of the default image, by their name in the catalogue.
const DEFAULT_SET: &str = "default-image";

impl Workshop {
    /// Makes the image of a directory's file unless the same was made before.
    pub(super) fn make_mvmfile(
        &self,
        store: &ImageStore,
        directory: &Path,
        rebuild: Rebuild,
        progress: &dyn Progress,
    ) -> Result<ImageHash, Error> {
        let file = Mvmfile::of_directory(directory)?;
        let mut packages = match file.base {
            Base::Default => default_packages()?,
            Base::Packages(packages) => packages,
            Base::Oci(reference) => {
                let name = ImageRef::Oci(reference);
                return self.make_oci(store, &name, file.workload, rebuild, progress);
            }
            Base::OciArchive(path) => {
                let name = ImageRef::OciArchive(path);
                return self.make_oci(store, &name, file.workload, rebuild, progress);
            }
        };
        packages.extend(file.packages);
        packages.sort();
        packages.dedup();
        let image = PackageImage { packages, workload: file.workload };
        self.make_packages(store, &image, rebuild, progress)
    }
}

fn default_packages() -> Result<Vec<String>, Error> {
    let damaged = |error| failed(ErrorKind::Failed, "the catalogue is damaged", &error);
    let catalogue = Catalogue::built_in().map_err(damaged)?;
    let set = catalogue.package_set(DEFAULT_SET, arch()?).map_err(damaged)?;
    Ok(set.packages.clone())
}
