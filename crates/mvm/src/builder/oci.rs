//! Images of registries and of local archives, and what their failures mean to a person.

use std::path::Path;

use mvm_build::{
    ImageStore, OciError, OciImage, Workload,
    fetch::{HttpError, RegistryError, RegistryRules},
    oci::Resolved,
};
use mvm_core::{
    error::{Error, ErrorKind},
    id::ImageHash,
    operation::Rebuild,
    pool::ImageRef,
    port::Progress,
};

use super::{Workshop, failed, hash_of, kind_of, report};

/// How many times as large a packed layer may become: unpacked, and once more as an image.
const UNPACKED: u64 = 6;
/// What is needed beside the layers: the kernel and the rest of an image.
const REST_MIB: u64 = 64;

impl Workshop {
    /// Makes the image of a registry or an archive unless the same was made before.
    pub(super) fn make_oci(
        &self,
        store: &ImageStore,
        name: &ImageRef,
        workload: Option<Workload>,
        rebuild: Rebuild,
        progress: &dyn Progress,
    ) -> Result<ImageHash, Error> {
        let on = |step: mvm_build::Progress<'_>| progress.report(&report(step));
        let (assembly, base) = self.begin(store, rebuild, progress)?;
        let fetcher = self.fetcher()?;
        let rules = RegistryRules {
            auth_file: Some(self.config.registry_auth_file.clone()),
            insecure: self.config.insecure_registries.clone(),
        };
        let (image, what) = match name {
            ImageRef::Oci(reference) => {
                let image = OciImage::Registry { reference, rules: &rules, fetcher: &fetcher };
                (image, reference.to_string())
            }
            ImageRef::OciArchive(path) => {
                (OciImage::Archive(Path::new(path)), format!("oci-archive:{path}"))
            }
            ImageRef::Stored(_)
            | ImageRef::Packages(_)
            | ImageRef::PackageFile(_)
            | ImageRef::Path(_) => {
                return Err(Error::new(ErrorKind::Failed, "this is no OCI image"));
            }
        };
        let told = |error: OciError| explain(&what, &error);
        let made = match image.resolve(&assembly, &base, workload).map_err(told)? {
            Resolved::Made(image) => *image,
            Resolved::New(found) => {
                let packed = found.bytes().div_ceil(1 << 20);
                let mib = packed.saturating_mul(UNPACKED).saturating_add(REST_MIB);
                self.admit(&format!("a build of {what}"), mib)?;
                found.make(&assembly, &base, &on).map_err(told)?
            }
        };
        hash_of(&made.manifest.hash.to_string())
    }
}

/// An OCI image's failure, with what a person can do about it.
fn explain(what: &str, error: &OciError) -> Error {
    let (kind, hint) = match error {
        OciError::Registry(error) => of_registry(error),
        OciError::Archive { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            (ErrorKind::NotFound, Some("write the absolute path of the archive"))
        }
        OciError::NoPlatform { .. } => (
            ErrorKind::Invalid,
            Some("choose an image for this machine's processor, or one that is for several"),
        ),
        OciError::NoImage(_) | OciError::Ambiguous(_) => (
            ErrorKind::Invalid,
            Some("write it with `skopeo copy … oci-archive:FILE` or `docker save IMAGE -o FILE`"),
        ),
        OciError::WrongDigest { .. } => {
            (ErrorKind::Integrity, Some("get the image again from who made it"))
        }
        OciError::Archive { .. }
        | OciError::Member { .. }
        | OciError::Json { .. }
        | OciError::Manifest
        | OciError::Digest(_)
        | OciError::Layers(_)
        | OciError::LayerKind(_)
        | OciError::Layer { .. }
        | OciError::Workload => (ErrorKind::Invalid, None),
        OciError::Cache(_) => (ErrorKind::Failed, None),
        OciError::Assemble(error) => (kind_of(error), None),
    };
    let told = failed(kind, &format!("cannot make an image of {what}"), error);
    hint.into_iter().fold(told, Error::hint)
}

fn of_registry(error: &RegistryError) -> (ErrorKind, Option<&'static str>) {
    match error {
        RegistryError::Http {
            source: HttpError::WrongHash { .. } | HttpError::Oversize { .. },
            ..
        }
        | RegistryError::WrongDigest { .. } => {
            (ErrorKind::Integrity, Some("the registry is not to be trusted, or is broken"))
        }
        RegistryError::Http { .. } => (
            ErrorKind::Unavailable,
            Some(
                "check the registry's name and the network; one without TLS must be named in `registries.insecure` of config.toml",
            ),
        ),
        RegistryError::Denied { .. } => (
            ErrorKind::Permission,
            Some(
                "run `docker login`, or name a file with credentials as `registries.auth_file` in config.toml",
            ),
        ),
        RegistryError::NotFound { .. } => (
            ErrorKind::NotFound,
            Some("check repository and tag; some registries say so, too, of what one may not see"),
        ),
        RegistryError::Status { .. } | RegistryError::Challenge(_) | RegistryError::Fetch(_) => {
            (ErrorKind::Unavailable, None)
        }
        RegistryError::AuthFile { .. } => (
            ErrorKind::Invalid,
            Some(
                "it is the file that `docker login` writes; helpers for credentials are not asked",
            ),
        ),
    }
}
