//! Images that a directory with an `Mvmfile.toml` asks for.

use std::path::Path;

use mvm_build::{Beginning, ContentHash, ImageStore, PackageImage};
use mvm_core::{
    error::{Error, ErrorKind},
    id::ImageHash,
    operation::Rebuild,
    pool::ImageRef,
    port::{Prepared, Progress, RootCommands},
};

use super::{DEFAULT, Workshop, failed};
use crate::mvmfile::{Base, Mvmfile};

impl Workshop {
    /// Makes the image of a directory's file unless the same was made before; its commands are left to
    /// whoever asks.
    pub(super) fn make_mvmfile(
        &self,
        store: &ImageStore,
        directory: &Path,
        rebuild: Rebuild,
        progress: &dyn Progress,
    ) -> Result<Prepared, Error> {
        let Mvmfile { base, packages, run, workload, name: _, defaults: _ } =
            Mvmfile::of_directory(directory)?;
        let image = match base {
            Base::Default if packages.is_empty() && workload.is_none() => {
                self.stored(store, DEFAULT, rebuild, progress)?
            }
            Base::Default => {
                let image = PackageImage { beginning: Beginning::Base, packages, workload };
                self.make_packages(store, &image, rebuild, progress)?
            }
            Base::Packages(chosen) => {
                let packages = together(chosen, packages);
                let image = PackageImage { beginning: Beginning::Nothing, packages, workload };
                self.make_packages(store, &image, rebuild, progress)?
            }
            Base::Oci(reference) => {
                let name = ImageRef::Oci(reference);
                self.make_oci(store, &name, workload, rebuild, progress)?
            }
            Base::OciArchive(path) => {
                let name = ImageRef::OciArchive(path);
                self.make_oci(store, &name, workload, rebuild, progress)?
            }
        };
        let commands = if run.is_empty() { None } else { Some(commands(&image, run)?) };
        Ok(Prepared { image, commands })
    }
}

fn together(mut all: Vec<String>, more: Vec<String>) -> Vec<String> {
    all.extend(more);
    all.sort();
    all.dedup();
    all
}

/// The commands with the key of what they make of an image.
fn commands(image: &ImageHash, lines: Vec<String>) -> Result<RootCommands, Error> {
    let program = mvm_build::image::commands_program().to_string();
    let parts = [program.as_str(), image.as_str()].into_iter();
    let parts = parts.chain(lines.iter().map(String::as_str));
    // A length in front of each tells where it ends.
    let text: String = parts.map(|part| format!("{} {part}\n", part.len())).collect();
    let key = ContentHash::of(text.as_bytes()).to_string().parse();
    let key = key.map_err(|error| failed(ErrorKind::Failed, "a digest is no key", &error))?;
    Ok(RootCommands { lines, key })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;

    #[test]
    fn commands_are_known_by_their_image_and_by_where_each_of_them_ends() {
        let key = |pair: &str, lines: &[&str]| {
            let lines = lines.iter().map(|line| (*line).to_owned()).collect();
            commands(&pair.repeat(32).parse().unwrap(), lines).unwrap().key
        };
        let one = key("ab", &["make", "make install"]);
        assert_eq!(key("ab", &["make", "make install"]), one);
        for other in [
            key("cd", &["make", "make install"]),
            key("ab", &["make install", "make"]),
            key("ab", &["make\n12 make install"]),
            key("ab", &["make"]),
        ] {
            assert_ne!(other, one);
        }
    }
}
