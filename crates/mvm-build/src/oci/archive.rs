//! A local archive with an image: an OCI layout in a tar, or what `docker save` writes.
//!
//! Its index is read once; members are then read where they lie. A member's digest is verified by
//! whoever reads it. Where both layouts are in one archive, the OCI layout is the one that counts.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::OciError;
use super::document::{self, Config, Document, Saved};
use super::packed::{Check, Layer};
use crate::catalogue::Arch;
use crate::fetch::Pinned;
use crate::hash::ContentHash;

/// Most members of an archive.
const MEMBERS_MAX: usize = 10_000;
/// Largest JSON document, in bytes.
const DOCUMENT_MAX: u64 = 4 << 20;
/// How deep indexes may lie in each other.
const DEPTH_MAX: usize = 4;

/// An archive, indexed.
#[derive(Debug)]
pub(crate) struct Archive {
    path: PathBuf,
    file: Arc<File>,
    members: BTreeMap<String, Member>,
}

#[derive(Debug, Clone)]
enum Member {
    File {
        offset: u64,
        length: u64,
    },
    /// A link to another member, as old versions of Docker write for a layer that is there twice.
    Link(String),
}

/// Bytes of a file, from a place on.
#[derive(Debug, Clone)]
pub(crate) struct Section {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Section {
    /// All of a file.
    pub(crate) fn whole(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let left = file.metadata()?.len();
        Ok(Self { file: Arc::new(file), at: 0, left })
    }

    /// How many bytes are still to be read.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }
}

impl Read for Section {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(into.len());
        let count = self.file.read_at(into.get_mut(..most).unwrap_or_default(), self.at)?;
        self.at += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

/// An image that was found in an archive.
pub(crate) struct Held {
    /// What kind of document names the image, and its digest.
    pub(crate) name: &'static str,
    pub(crate) digest: ContentHash,
    pub(crate) config: Config,
    pub(crate) layers: Vec<Layer>,
}

impl Archive {
    /// Opens and indexes an archive.
    pub(crate) fn open(path: &Path) -> Result<Self, OciError> {
        let wrap = |source| OciError::Archive { path: path.to_owned(), source };
        let file = File::open(path).map_err(wrap)?;
        let mut members = BTreeMap::new();
        let mut archive = tar::Archive::new(&file);
        for entry in archive.entries_with_seek().map_err(wrap)? {
            let entry = entry.map_err(wrap)?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let name = name.trim_start_matches("./").to_owned();
            let kind = entry.header().entry_type();
            if kind.is_file() {
                let (offset, length) = (entry.raw_file_position(), entry.size());
                members.insert(name, Member::File { offset, length });
            } else if kind.is_symlink() || kind.is_hard_link() {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                members.insert(name, Member::Link(String::from_utf8_lossy(&target).into_owned()));
            }
            if members.len() > MEMBERS_MAX {
                return Err(OciError::NoImage(path.to_owned()));
            }
        }
        Ok(Self { path: path.to_owned(), file: Arc::new(file), members })
    }

    fn section(&self, name: &str) -> Result<Section, OciError> {
        let missing = || OciError::Member { path: self.path.clone(), member: name.to_owned() };
        let found = match self.members.get(name) {
            // `../ID/layer.tar`, beside the member's own directory.
            Some(Member::Link(target)) => self.members.get(target.trim_start_matches("../")),
            other => other,
        };
        match found {
            Some(Member::File { offset, length }) => {
                Ok(Section { file: self.file.clone(), at: *offset, left: *length })
            }
            Some(Member::Link(_)) | None => Err(missing()),
        }
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, OciError> {
        let section = self.section(name)?;
        if section.left > DOCUMENT_MAX {
            return Err(OciError::Manifest);
        }
        let mut bytes = Vec::new();
        let wrap = |source| OciError::Archive { path: self.path.clone(), source };
        section.take(DOCUMENT_MAX).read_to_end(&mut bytes).map_err(wrap)?;
        Ok(bytes)
    }

    /// A blob that is a document, verified.
    fn blob(&self, pinned: Pinned) -> Result<Vec<u8>, OciError> {
        let bytes = self.read(&blob_name(pinned.sha256))?;
        let found = ContentHash::of(&bytes);
        if found == pinned.sha256 {
            Ok(bytes)
        } else {
            Err(OciError::WrongDigest { what: "a document", want: pinned.sha256, found })
        }
    }

    /// The image of the archive for `arch`.
    pub(crate) fn image(&self, arch: Arch) -> Result<Held, OciError> {
        if self.members.contains_key("oci-layout") && self.members.contains_key("index.json") {
            return self.of_layout(arch);
        }
        if self.members.contains_key("manifest.json") {
            return self.of_save(arch);
        }
        Err(OciError::NoImage(self.path.clone()))
    }

    fn of_layout(&self, arch: Arch) -> Result<Held, OciError> {
        let mut bytes = self.read("index.json")?;
        let mut digest = ContentHash::of(&bytes);
        for _ in 0..DEPTH_MAX {
            match Document::read(&bytes, arch)? {
                Document::Index(inner) => {
                    let pinned = inner.pinned()?;
                    bytes = self.blob(pinned)?;
                    digest = pinned.sha256;
                }
                Document::Image { config, layers } => {
                    let config = Config::read(&self.blob(config.pinned()?)?, arch)?;
                    let mut all = Vec::new();
                    for layer in layers {
                        let pinned = layer.pinned()?;
                        let section = self.section(&blob_name(pinned.sha256))?;
                        all.push(Layer { section, check: Check::Packed(pinned.sha256) });
                    }
                    return Ok(Held { name: "manifest", digest, config, layers: all });
                }
            }
        }
        Err(OciError::Manifest)
    }

    fn of_save(&self, arch: Arch) -> Result<Held, OciError> {
        let all: Vec<Saved> = document::json("manifest.json", &self.read("manifest.json")?)?;
        let [saved] = all.as_slice() else { return Err(OciError::Ambiguous(all.len())) };
        let bytes = self.read(&saved.config)?;
        let digest = ContentHash::of(&bytes);
        let config = Config::read(&bytes, arch)?;
        let ids = config.diff_ids()?;
        if ids.len() != saved.layers.len() || ids.len() > 256 {
            return Err(OciError::Layers(saved.layers.len()));
        }
        let mut layers = Vec::new();
        for (name, id) in saved.layers.iter().zip(ids) {
            layers.push(Layer { section: self.section(name)?, check: Check::Unpacked(id) });
        }
        Ok(Held { name: "config", digest, config, layers })
    }
}

fn blob_name(hash: ContentHash) -> String {
    format!("blobs/sha256/{hash}")
}
