//! Images of chosen Debian packages.

use std::{fs::File, io::Read, path::Path};

use mvm_build::{BuildError, ImageStore, PackageImage};
use mvm_core::{
    error::{Error, ErrorKind},
    id::ImageHash,
    operation::Rebuild,
    pool::image,
    port::Progress,
};

use super::{Workshop, failed, hash_of, kind_of, report};

/// The largest list of packages, in bytes.
const LIST_MAX: u64 = 64 << 10;
/// What a build may take at worst, in MiB: packages, the unpacked tree and the image.
const BUILD_MIB: u64 = 2048;

/// The packages that a file names, one on each line; what follows a `#` is for people.
///
/// # Errors
/// `NotFound` when there is no such file, `Invalid` when it is none with names of packages.
pub(super) fn listed(path: &Path) -> Result<Vec<String>, Error> {
    let wrong = |kind, error: &dyn std::fmt::Display| {
        Error::new(kind, format!("cannot read the packages in {}: {error}", path.display()))
    };
    let file = File::open(path).map_err(|error| {
        let is_missing = error.kind() == std::io::ErrorKind::NotFound;
        wrong(if is_missing { ErrorKind::NotFound } else { ErrorKind::Failed }, &error)
    })?;
    let mut text = String::new();
    file.take(LIST_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|error| wrong(ErrorKind::Invalid, &error))?;
    if u64::try_from(text.len()).is_ok_and(|length| length > LIST_MAX) {
        return Err(wrong(ErrorKind::Invalid, &format!("it is longer than {LIST_MAX} bytes")));
    }
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    image::packages(lines.filter(|line| !line.is_empty()))
        .map_err(|error| error.context(format!("{} is no list of packages", path.display())))
}

impl Workshop {
    /// Makes the image of packages unless the same versions were made into one before.
    pub(super) fn make_packages(
        &self,
        store: &ImageStore,
        image: &PackageImage,
        rebuild: Rebuild,
        progress: &dyn Progress,
    ) -> Result<ImageHash, Error> {
        let on = |step: mvm_build::Progress<'_>| progress.report(&report(step));
        let (assembly, base) = self.begin(store, rebuild, progress)?;
        self.admit("a build of Debian packages", BUILD_MIB)?;
        let made = image.build(&assembly, &base, &self.fetcher()?, &on).map_err(|error| {
            let kind = match &error {
                BuildError::Fetch(_) => ErrorKind::Unavailable,
                BuildError::Assemble(error) => kind_of(error),
                BuildError::Unpack { .. } | BuildError::Tree(_) => ErrorKind::Invalid,
                BuildError::Base(_) => ErrorKind::Integrity,
                BuildError::Catalogue(_) | BuildError::Kernel(_) => ErrorKind::Failed,
            };
            failed(kind, "cannot make an image of Debian packages", &error)
                .hint("check the names with `apt-cache policy`; apt must work on this machine")
        })?;
        hash_of(&made.manifest.hash.to_string())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;

    #[test]
    fn a_list_of_packages_has_comments_and_nothing_else_but_names() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("list");
        std::fs::write(&path, "# ours\n\nbusybox-static # a shell\n  libc6\n").unwrap();
        assert_eq!(listed(&path).unwrap(), ["busybox-static", "libc6"]);
        for text in ["", "# none", "two names", "-oX"] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(listed(&path).unwrap_err().kind, ErrorKind::Invalid, "{text:?}");
        }
        assert_eq!(listed(&place.path().join("none")).unwrap_err().kind, ErrorKind::NotFound);
    }
}
