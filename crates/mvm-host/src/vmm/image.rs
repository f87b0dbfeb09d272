//! The files of an image that a VM boots from: kernel, initramfs if it needs one, root.

use std::{
    fs,
    path::{Path, PathBuf},
};

use mvm_core::{Error, ErrorKind, id::ImageHash, layout::data};
use serde::Deserialize;

use super::fault::{Act, absent};
use crate::roots::Roots;

/// The manifest of an image beside its files.
const MANIFEST: &str = "manifest.json";

/// What is needed of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The ELF kernel.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initrd: Option<PathBuf>,
    /// The root file system.
    pub root: PathBuf,
    /// What the image needs on the kernel's command line.
    pub cmdline: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Manifest {
    kernel: Kernel,
    initrd: Option<Named>,
    root: Named,
}

#[derive(Debug, Deserialize)]
struct Kernel {
    file: String,
    #[serde(default)]
    cmdline: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Named {
    file: String,
}

/// Finds the files of an image by its manifest.
///
/// # Errors
/// `NotFound` when there is no such image, `Integrity` when its manifest names what cannot be.
pub fn files(roots: &Roots, image: &ImageHash) -> Result<Files, Error> {
    let directory = roots.data.join(data::image(image));
    let path = directory.join(MANIFEST);
    let text = absent(fs::read(&path)).act(format_args!("read {}", path.display()))?;
    let Some(text) = text else {
        let message = format!("the image {} is not on this host", image.short());
        return Err(Error::new(ErrorKind::NotFound, message).hint("run `mvm pool build`"));
    };
    parse(&directory, &text).ok_or_else(|| {
        Error::new(ErrorKind::Integrity, format!("{} is damaged", path.display()))
            .hint("run `mvm pool build --force`")
    })
}

fn parse(directory: &Path, text: &[u8]) -> Option<Files> {
    let Manifest { kernel, initrd, root } = serde_json::from_slice(text).ok()?;
    let join = |name: &str| is_plain(name).then(|| directory.join(name));
    let initrd = match initrd {
        Some(initrd) => Some(join(&initrd.file)?),
        None => None,
    };
    let words = kernel.cmdline.iter().all(|word| !word.contains(char::is_whitespace));
    words.then_some(())?;
    Some(Files {
        kernel: join(&kernel.file)?,
        initrd,
        root: join(&root.file)?,
        cmdline: kernel.cmdline,
    })
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains('/')
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;

    #[test]
    fn a_manifest_names_files_of_its_own_directory_only() {
        let text = |root: &str| {
            format!(
                r#"{{"kernel":{{"file":"vmlinux","cmdline":["a=b"]}},"root":{{"file":"{root}"}}}}"#
            )
        };
        let files = parse(Path::new("/d"), text("rootfs.squashfs").as_bytes()).unwrap();
        assert_eq!(files.root, Path::new("/d/rootfs.squashfs"));
        assert_eq!((files.initrd, files.cmdline), (None, vec!["a=b".to_owned()]));
        for root in ["../x", "/etc/shadow", "", ".."] {
            assert!(parse(Path::new("/d"), text(root).as_bytes()).is_none(), "{root}");
        }
    }

    #[test]
    fn an_initramfs_is_taken_from_the_same_directory_and_a_null_is_none() {
        let text = |initrd: &str| {
            let kernel = r#"{"file":"vmlinux","cmdline":[]}"#;
            format!(r#"{{"kernel":{kernel},"initrd":{initrd},"root":{{"file":"r"}}}}"#)
        };
        let found = |initrd| parse(Path::new("/d"), text(initrd).as_bytes());
        let initrd = found(r#"{"file":"initrd.img","size":1}"#).unwrap().initrd;
        assert_eq!(initrd.as_deref(), Some(Path::new("/d/initrd.img")));
        assert_eq!(found("null").unwrap().initrd, None);
        assert_eq!(found(r#"{"file":"../initrd.img"}"#), None);
    }
}
