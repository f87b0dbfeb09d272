//! Programs from the catalogue, put in place by name and version.
//!
//! Versions stand side by side (`firecracker-1.12.1/`), so that a machine can keep what a
//! snapshot was taken with. What the programs do is not known here.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::catalogue::{Arch, Asset, AssetFile, Catalogue, CatalogueError};
use crate::fetch::{FetchError, Fetcher, Pinned};
use crate::hash::ContentHash;
use crate::progress::OnProgress;

/// Where a version of Firecracker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmmPaths {
    /// The virtual machine monitor.
    pub firecracker: PathBuf,
    /// Its jailer.
    pub jailer: PathBuf,
}

/// Why an asset could not be put in place.
#[derive(Debug, thiserror::Error)]
pub enum AssetError {
    /// It is not in the catalogue.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// It could not be downloaded.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// It could not be written.
    #[error("cannot install {path}")]
    Install {
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

/// The catalogue's programs on this machine.
pub struct Assets<'a> {
    /// What there is.
    pub catalogue: &'a Catalogue,
    /// How to get it.
    pub fetcher: &'a Fetcher,
}

impl Assets<'_> {
    /// Makes sure that `directory/firecracker-VERSION/{firecracker,jailer}` are there with the
    /// catalogue's bytes and mode 0755; a damaged file is replaced, an intact one costs a read.
    ///
    /// # Errors
    /// When the catalogue has no such version, no source delivers, or the disk refuses.
    pub fn ensure_vmm(
        &self,
        version: &str,
        arch: Arch,
        directory: &Path,
        on: OnProgress<'_>,
    ) -> Result<VmmPaths, AssetError> {
        let asset = self.catalogue.asset("firecracker", version, arch)?;
        let place = self.ensure(asset, directory, on)?;
        Ok(VmmPaths { firecracker: place.join("firecracker"), jailer: place.join("jailer") })
    }

    /// Makes sure that every file of `asset` is in `directory/NAME-VERSION`, and returns that.
    ///
    /// # Errors
    /// When no source delivers a file, or the disk refuses.
    pub fn ensure(
        &self,
        asset: &Asset,
        directory: &Path,
        on: OnProgress<'_>,
    ) -> Result<PathBuf, AssetError> {
        let place = directory.join(format!("{}-{}", asset.name, asset.version));
        let install = |source| AssetError::Install { path: place.clone(), source };
        fs::create_dir_all(&place).map_err(install)?;
        for file in &asset.files {
            let path = place.join(&file.name);
            if is_intact(&path, file) {
                continue;
            }
            let pinned = Pinned { size: file.size, sha256: file.sha256 };
            let name = format!("{} {}", file.name, asset.version);
            let fetched = self.fetcher.file(&name, pinned, &file.sources, on)?;
            put(&fetched.path, &path, mode(file))
                .map_err(|source| AssetError::Install { path: path.clone(), source })?;
        }
        File::open(&place).and_then(|dir| dir.sync_all()).map_err(install)?;
        Ok(place)
    }
}

fn mode(file: &AssetFile) -> u32 {
    if file.executable { 0o755 } else { 0o644 }
}

fn is_intact(path: &Path, file: &AssetFile) -> bool {
    let has_mode = fs::symlink_metadata(path).is_ok_and(|data| {
        data.is_file()
            && data.len() == file.size
            && data.permissions().mode() & 0o7777 == mode(file)
    });
    has_mode && ContentHash::of_file(path).is_ok_and(|(hash, _)| hash == file.sha256)
}

/// Copies a verified file into place: whole or not at all, also for a running program.
fn put(from: &Path, to: &Path, mode: u32) -> io::Result<()> {
    let directory = to.parent().unwrap_or(Path::new("/"));
    let mut scratch = tempfile::NamedTempFile::new_in(directory)?;
    io::copy(&mut File::open(from)?, scratch.as_file_mut())?;
    scratch.as_file().set_permissions(Permissions::from_mode(mode))?;
    scratch.as_file().sync_all()?;
    scratch.persist(to)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

    use super::*;
    use crate::fetch::{FetchConfig, Mirror};

    #[test]
    fn a_vmm_comes_from_a_mirror_directory_and_a_damaged_one_is_replaced() {
        let base = tempfile::tempdir().unwrap();
        let mirror = base.path().join("mirror");
        fs::create_dir(&mirror).unwrap();
        let mut text = String::from(
            "schema = 1\n[[asset]]\nname = \"firecracker\"\nversion = \"9.9.9\"\n\
             arch = \"x86_64\"\nkind = \"vmm\"\n",
        );
        for name in ["firecracker", "jailer"] {
            let hash = ContentHash::of(name.as_bytes());
            fs::write(mirror.join(hash.to_string()), name).unwrap();
            text.push_str(&format!(
                "[[asset.file]]\nname = \"{name}\"\nexecutable = true\nsize = {}\n\
                 sha256 = \"{hash}\"\nsources = [\"https://unused.invalid/\"]\n",
                name.len()
            ));
        }
        let catalogue = Catalogue::parse(&text).unwrap();
        let mut config = FetchConfig::new(base.path().join("cache"));
        config.mirror = Some(Mirror::Directory(mirror));
        let fetcher = Fetcher::new(config).unwrap();
        let assets = Assets { catalogue: &catalogue, fetcher: &fetcher };
        let ensure = || assets.ensure_vmm("9.9.9", Arch::X86_64, &base.path().join("bin"), &|_| ());
        let paths = ensure().unwrap();
        assert_eq!(fs::read(&paths.jailer).unwrap(), b"jailer");
        assert_eq!(fs::metadata(&paths.firecracker).unwrap().permissions().mode() & 0o777, 0o755);
        fs::write(&paths.firecracker, "firecrackeR").unwrap();
        ensure().unwrap();
        assert_eq!(fs::read(&paths.firecracker).unwrap(), b"firecracker");
    }
}
