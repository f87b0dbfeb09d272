//! What is put into every host at its start: our programs, the guest kernel, the default image.
//!
//! It travels as a tar archive on a read-only disk that every host has had since its freeze,
//! because that is many times faster than a copy through the emulated network.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use mvm_build::{
    Arch, Catalogue, DefaultImage, FetchConfig, FetchError, Fetcher, ImageStore, KernelSource,
    OwnImage,
    catalogue::{LockedPackage, PackageLock},
    fetch::WithKernel,
};

use super::machine::PAYLOAD_BYTES;
use super::rundir::RunDir;
use crate::binaries::{self, Audience, Built, Profile};
use crate::cache::Cache;
use crate::dist;
use crate::error::{Act, Error, Result};
use crate::kernel;
use crate::script::{Brought, Load};

/// One file or directory and its absolute path in the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Put {
    /// Here.
    pub(crate) from: PathBuf,
    /// There.
    pub(crate) to: String,
}

impl std::str::FromStr for Put {
    type Err = String;

    /// `PATH:DEST`; a `DEST` that ends in a slash is the directory to put it in.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (from, to) = text.rsplit_once(':').ok_or("expected PATH:DEST")?;
        if !to.starts_with('/') {
            return Err(format!("the destination {to} is not an absolute path"));
        }
        let from = PathBuf::from(from);
        let name = from.file_name().map(|name| name.to_string_lossy().into_owned());
        let to = match (to.ends_with('/'), name) {
            (true, Some(name)) => format!("{to}{name}"),
            (true, None) => return Err(format!("{} has no name of its own", from.display())),
            (false, _) => to.to_owned(),
        };
        Ok(Self { from, to })
    }
}

/// A written payload disk; it may go once the hosts have unpacked it.
pub(crate) struct Payload {
    dir: RunDir,
}

impl Payload {
    /// Builds everything and writes it down.
    pub(crate) fn build(
        cache: &Cache,
        profile: Profile,
        load: &Load,
        extra: &[Put],
    ) -> Result<Self> {
        let programs = binaries::build(profile, Audience::Tests)?;
        let kernel = KernelSource::File(kernel::ensure(cache)?.path);
        let own = OwnImage::Default;
        let mut found = image(cache, &programs, kernel.clone(), own, "default")?.to_vec();
        let brings = |what| load.contains(&what);
        if brings(Brought::Debian) {
            found.extend(image(cache, &programs, KernelSource::Debian, own, "debian")?);
        }
        if brings(Brought::Builder) {
            found.extend(image(cache, &programs, kernel, OwnImage::Builder, "builder")?);
        }
        if brings(Brought::Builder) && brings(Brought::Debian) {
            let (kernel, which) = (KernelSource::Debian, OwnImage::Builder);
            found.extend(image(cache, &programs, kernel, which, "debian-builder")?);
        }
        if brings(Brought::Packages) {
            found.extend(packages(cache)?);
        }
        let dir = RunDir::create(cache)?;
        if brings(Brought::Release) {
            let from = dir.path().join("release");
            dist::rehearse(&programs, &from)?;
            found.push(Put { from, to: "/root/release".to_owned() });
        }
        let mut puts: Vec<Put> = programs
            .into_iter()
            .map(|built| Put { from: built.path, to: format!("/usr/local/bin/{}", built.name) })
            .collect();
        puts.extend(found);
        puts.extend_from_slice(extra);
        let payload = Self { dir };
        write(&payload.disk(), &puts)?;
        Ok(payload)
    }

    /// The raw disk.
    pub(crate) fn disk(&self) -> PathBuf {
        self.dir.path().join("payload")
    }
}

/// The directory of the default image with the guest kernel of the tests; its name in the store is
/// `default`.
pub(crate) fn default_image(cache: &Cache, programs: &[Built]) -> Result<PathBuf> {
    let kernel = KernelSource::File(kernel::ensure(cache)?.path);
    let [image, _name] = image(cache, programs, kernel, OwnImage::Default, "default")?;
    Ok(image.from)
}

/// One of the product's own images with the present agent and a kernel, made by the product's own
/// builder when it is missing, and a name for it in the host.
fn image(
    cache: &Cache,
    programs: &[Built],
    kernel: KernelSource,
    which: OwnImage,
    name: &str,
) -> Result<[Put; 2]> {
    let agent = programs
        .iter()
        .find(|built| built.name == "mvm-guest")
        .ok_or_else(|| Error::refused("there is no guest agent to put into the image"))?;
    let made = |error: &dyn std::error::Error| {
        Error::refused(format!("the image {name} cannot be made: {}", chain(error)))
    };
    // Those of both kernels have one name, so each kind has a store of its own.
    let images = match kernel {
        KernelSource::File(_) => cache.root().join("images"),
        KernelSource::Debian => cache.root().join("images-debian"),
    };
    let store = ImageStore::open(&images).map_err(|error| made(&error))?;
    let fetcher = fetcher(cache).map_err(|error| made(&error))?;
    let image = DefaultImage {
        which,
        agent: agent.path.clone(),
        agent_protocol: 1,
        kernel,
        arch: Arch::X86_64,
    };
    let built = image.build(&fetcher, &store, &|_| {}).map_err(|error| made(&error))?;
    let hash = built.manifest.hash.to_string();
    let there = "/var/lib/mvm/images";
    Ok([
        Put { from: built.directory, to: format!("{there}/{hash}") },
        Put { from: images.join("refs").join(which.name()), to: format!("{there}/refs/{name}") },
    ])
}

/// The packages of the default image, each under its name.
fn packages(cache: &Cache) -> Result<Vec<Put>> {
    let failed = |error: &dyn std::error::Error| {
        Error::refused(format!("there are no packages: {}", chain(error)))
    };
    let catalogue = Catalogue::built_in().map_err(|error| failed(&error))?;
    let lock = PackageLock::built_in().map_err(|error| failed(&error))?;
    let set =
        catalogue.package_set("default-image", Arch::X86_64).map_err(|error| failed(&error))?;
    let fetcher = fetcher(cache).map_err(|error| failed(&error))?;
    let got = fetcher.packages(set, &lock, WithKernel::No, &|_| {});
    let got = got.map_err(|error| failed(&error))?;
    let put = |(package, from): (&LockedPackage, &PathBuf)| {
        let to = format!("/srv/packages/{}.deb", package.name);
        Put { from: from.clone(), to }
    };
    Ok(got.resolution.packages.iter().zip(&got.packages).map(put).collect())
}

fn fetcher(cache: &Cache) -> std::result::Result<Fetcher, FetchError> {
    Fetcher::new(FetchConfig::new(cache.root().join("downloads")))
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// A payload disk with nothing on it, for the freeze.
pub(crate) fn blank(path: &Path) -> Result<()> {
    write(path, &[])
}

fn write(path: &Path, puts: &[Put]) -> Result<()> {
    let file = File::create(path).act(|| format!("create {}", path.display()))?;
    let mut archive = tar::Builder::new(file);
    archive.mode(tar::HeaderMode::Deterministic);
    archive.follow_symlinks(false);
    for put in puts {
        let name = put.to.trim_start_matches('/');
        let act = || format!("pack {}", put.from.display());
        if put.from.is_dir() {
            archive.append_dir_all(name, &put.from).act(act)?;
        } else {
            // A named file may be a link to what is wanted; links inside a directory stay links.
            let real = fs::canonicalize(&put.from).act(act)?;
            archive.append_path_with_name(real, name).act(act)?;
        }
    }
    let mut file = archive.into_inner().act(|| "finish the payload".into())?;
    file.flush().act(|| "write the payload".into())?;
    let length = file.metadata().act(|| "measure the payload".into())?.len();
    if length > PAYLOAD_BYTES {
        return Err(Error::refused(format!("{length} bytes do not fit on the payload disk")));
    }
    file.set_len(PAYLOAD_BYTES).act(|| "size the payload disk".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_with_a_final_slash_keeps_the_file_name() {
        let put: std::result::Result<Put, String> = "a/b.sh:/root/".parse();
        assert_eq!(put, Ok(Put { from: "a/b.sh".into(), to: "/root/b.sh".into() }));
        assert!("a/b.sh".parse::<Put>().is_err());
        assert!("a/b.sh:root".parse::<Put>().is_err());
    }
}
