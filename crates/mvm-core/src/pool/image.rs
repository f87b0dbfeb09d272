//! What a person may name as an image: `ImageRef`, the text of [`super::Source::Image`] read.
//!
//! ```text
//! NAME | HASH                                  an image of the store
//! oci:REGISTRY/REPOSITORY[:TAG][@sha256:HEX]   an image of a registry; the tag is `latest` if none is said
//! oci-archive:/PATH                            a file with one: an OCI layout in a tar, or `docker save`
//! deb:NAME[,NAME…] | deb:/PATH                 Debian packages, listed here or in a file
//! /PATH                                        a directory with an `Mvmfile.toml`, or an image in one file
//! ```
//!
//! It reads texts, and refuses to know whether there is such a thing.

use std::{fmt, str::FromStr};

use crate::error::{Error, ErrorKind};

/// An image, as a person names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageRef {
    /// One that is in the image store, by name or hash.
    Stored(String),
    /// One of a registry.
    Oci(OciRef),
    /// A local archive, by its absolute path.
    OciArchive(String),
    /// Debian packages by name.
    Packages(Vec<String>),
    /// A file with a name of a Debian package on each line, by its absolute path.
    PackageFile(String),
    /// A directory with an `Mvmfile.toml`, or an image in one file, by its absolute path.
    Path(String),
}

/// An image of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OciRef {
    /// The registry, `HOST` or `HOST:PORT`.
    pub registry: String,
    /// The repository in it.
    pub repository: String,
    /// What is wanted of it.
    pub version: OciVersion,
}

/// Which image of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OciVersion {
    /// What the registry has under a tag when it is asked.
    Tag(String),
    /// This one and no other, by the 64 hexadecimal digits of its SHA-256 digest.
    Digest(String),
}

/// Longest repository and tag, in bytes (OCI distribution specification 1.1, "Pulling manifests").
const REPOSITORY_MAX: usize = 255;
const TAG_MAX: usize = 128;
/// Most packages of a list.
const PACKAGES_MAX: usize = 500;

impl FromStr for ImageRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if let Some(reference) = text.strip_prefix("oci:") {
            return reference.parse().map(Self::Oci);
        }
        if let Some(path) = text.strip_prefix("oci-archive:") {
            return absolute(text, path).map(Self::OciArchive);
        }
        match text.strip_prefix("deb:") {
            Some(path) if path.starts_with('/') => absolute(text, path).map(Self::PackageFile),
            Some(list) => packages(list.split(',')).map(Self::Packages),
            None if text.starts_with('/') => absolute(text, text).map(Self::Path),
            None if text.contains("..") || text.starts_with('.') => {
                Err(wrong(text, "an image").hint("write a name, a hash, or an absolute path"))
            }
            None => Ok(Self::Stored(text.to_owned())),
        }
    }
}

fn wrong(text: &str, what: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("{text:?} is not {what}"))
}

fn absolute(text: &str, path: &str) -> Result<String, Error> {
    if path.starts_with('/') && path.split('/').all(|part| part != "..") {
        return Ok(path.to_owned());
    }
    Err(wrong(text, "a file for an image").hint("write its absolute path, without `..`"))
}

/// Reads the names of packages, each once, in alphabetical order.
///
/// # Errors
/// `Invalid` for a name that is none, for no name at all, and for more than 500.
pub fn packages<'a>(names: impl Iterator<Item = &'a str>) -> Result<Vec<String>, Error> {
    let mut all = Vec::new();
    for name in names {
        if !is_package(name) {
            return Err(wrong(name, "the name of a Debian package")
                .hint("write for example: deb:busybox-static,dropbear-bin"));
        }
        all.push(name.to_owned());
    }
    all.sort();
    all.dedup();
    if all.is_empty() || all.len() > PACKAGES_MAX {
        let message = format!("there are {} packages: it must be 1 to {PACKAGES_MAX}", all.len());
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    Ok(all)
}

/// Debian Policy 5.6.1.
fn is_package(name: &str) -> bool {
    (2..=128).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b))
}

impl FromStr for OciRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = |what: &str| {
            wrong(text, what).hint(
                "write the registry in front, for example: oci:registry.example.com/team/app:1.2",
            )
        };
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (text, None),
        };
        let (registry, path) = name.split_once('/').ok_or_else(|| bad("an image of a registry"))?;
        if !is_registry(registry) {
            return Err(bad("an image of a registry"));
        }
        let (repository, tag) = match path.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (path, None),
        };
        if !is_repository(repository) {
            return Err(bad("an image of a registry: its repository is malformed"));
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(bad("an image of a registry: its tag is malformed"));
        }
        let version = match digest {
            None => OciVersion::Tag(tag.unwrap_or("latest").to_owned()),
            Some(digest) => match digest.strip_prefix("sha256:") {
                Some(hex) if is_sha256(hex) => OciVersion::Digest(hex.to_owned()),
                Some(_) | None => {
                    return Err(bad(
                        "an image of a registry: its digest is not sha256:<64 digits>",
                    ));
                }
            },
        };
        Ok(Self { registry: registry.to_owned(), repository: repository.to_owned(), version })
    }
}

impl fmt::Display for OciRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "oci:{}/{}", self.registry, self.repository)?;
        match &self.version {
            OciVersion::Tag(tag) => write!(f, ":{tag}"),
            OciVersion::Digest(hex) => write!(f, "@sha256:{hex}"),
        }
    }
}

/// A host is told from a part of a repository by its dot, its port, or by being `localhost`.
fn is_registry(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let is_clean = |b: u8| b.is_ascii_alphanumeric() || b == b'.' || b == b'-';
    host.starts_with(|c: char| c.is_ascii_alphanumeric())
        && host.len() <= 253
        && host.bytes().all(is_clean)
        && (host.contains('.') || port.is_some() || host == "localhost")
        && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

fn is_repository(text: &str) -> bool {
    let is_inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
    let is_outer = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.len() <= REPOSITORY_MAX
        && text.split('/').all(|part| {
            part.starts_with(is_outer)
                && part.ends_with(is_outer)
                && part.bytes().all(is_inner)
                && !part.contains("..")
        })
}

fn is_tag(text: &str) -> bool {
    let is_clean = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    (1..=TAG_MAX).contains(&text.len())
        && !text.starts_with(['.', '-'])
        && text.bytes().all(is_clean)
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;

    fn read(text: &str) -> Result<ImageRef, Error> {
        text.parse()
    }

    #[test]
    fn every_form_of_image_is_told_from_the_others() {
        let hex = "ab".repeat(32);
        let oci = |registry: &str, repository: &str, version| {
            let (registry, repository) = (registry.to_owned(), repository.to_owned());
            Ok(ImageRef::Oci(OciRef { registry, repository, version }))
        };
        let tag = |tag: &str| OciVersion::Tag(tag.to_owned());
        assert_eq!(read("default"), Ok(ImageRef::Stored("default".to_owned())));
        assert_eq!(read("oci:127.0.0.1:5000/a"), oci("127.0.0.1:5000", "a", tag("latest")));
        assert_eq!(read("oci:localhost/a/b-c:1.0_x"), oci("localhost", "a/b-c", tag("1.0_x")));
        let pinned = OciVersion::Digest(hex.clone());
        for text in [
            format!("oci:r.example.com/a@sha256:{hex}"),
            format!("oci:r.example.com/a:1@sha256:{hex}"),
        ] {
            assert_eq!(read(&text), oci("r.example.com", "a", pinned.clone()), "{text}");
        }
        assert_eq!(read("oci-archive:/a/b.tar"), Ok(ImageRef::OciArchive("/a/b.tar".to_owned())));
        assert_eq!(read("/srv/app"), Ok(ImageRef::Path("/srv/app".to_owned())));
        assert_eq!(read("deb:/a/list"), Ok(ImageRef::PackageFile("/a/list".to_owned())));
        let names = ["busybox-static", "libstdc++6"].map(str::to_owned).to_vec();
        assert_eq!(read("deb:libstdc++6,busybox-static,libstdc++6"), Ok(ImageRef::Packages(names)));
    }

    #[test]
    fn what_is_no_image_is_refused_with_a_hint() {
        for text in [
            "a/../b",
            "./a",
            "/a/../b",
            "oci:app",
            "oci:team/app:1",
            "oci:r.example.com/App",
            "oci:r.example.com/a/../b",
            "oci:r.example.com:0/a",
            "oci:r.example.com:99999/a",
            "oci:-r.example.com/a",
            "oci:r.example.com/a:",
            "oci:r.example.com/a:.x",
            "oci:r.example.com/a@sha256:12",
            "oci:r.example.com/a@md5:12",
            "oci:u@r.example.com/a",
            "oci-archive:a.tar",
            "oci-archive:/a/../b.tar",
            "deb:",
            "deb:-o",
            "deb:A",
            "deb:a b",
        ] {
            let error = read(text).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Invalid, "{text}");
            assert!(!error.hints.is_empty(), "{text}");
        }
    }

    #[test]
    fn a_reference_reads_back_as_it_is_shown() {
        for text in ["oci:r.example.com/a/b:latest", "oci:localhost:5000/x:1"] {
            let ImageRef::Oci(reference) = read(text).unwrap() else { unreachable!() };
            assert_eq!(reference.to_string(), text);
        }
    }
}
