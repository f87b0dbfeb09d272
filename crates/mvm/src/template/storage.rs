//! A template in a storage: its signed index at `templates/ID/index.json`, and the files of its images at
//! `objects/sha256/HASH`, which templates share.
//!
//! What a transfer that was killed leaves is parts in the download cache and objects that no index names; the
//! same command goes on from there. It refuses to know what a bucket's requests look like.

use std::collections::{BTreeMap, BTreeSet};

use mvm_build::{
    Arch, ContentHash, FetchConfig, Fetcher, Image, ImageStore, StoreError, StoredFile,
    fetch::{
        HttpError, Pinned,
        bucket::{Bucket, BucketError},
    },
};
use mvm_core::{
    error::{Error, ErrorKind},
    id::{ImageHash, TemplateId},
    layout::data,
    port::ProgressStep,
    signed::Purpose,
    template::{ImageFile, Index, SignedTemplate},
};
use mvm_engine::Context;
use mvm_fleet::keys::{self, SigningKey};
use mvm_host::disk::space;
use serde::Serialize;

use crate::{Mvm, fleet, wiring::require_root};

/// The longest index, in bytes.
const INDEX_MAX: u64 = 1 << 20;

/// What a push did, or would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pushed {
    /// The template.
    pub template_id: TemplateId,
    /// Who signed it.
    pub signer_id: String,
    /// The key of its index in the storage.
    pub index: String,
    /// How many files its images have.
    pub objects: usize,
    /// How many of them were not in the storage.
    pub new_objects: usize,
    /// The lengths of these together, in bytes.
    pub new_bytes: u64,
}

/// Whether anything is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Push {
    /// What is missing is sent, and the index after it.
    Do,
    /// Nothing is sent.
    Plan,
}

impl Mvm {
    /// Signs a template and puts it, with the files of its builds, into a storage.
    ///
    /// # Errors
    /// `Conflict` when a variant has no build; `Integrity` when a build is damaged; `NotFound` without a signing
    /// key; `Permission` without root, or when the storage refuses.
    pub fn template_push(
        &self,
        cx: &Context,
        id: &TemplateId,
        to: Option<&str>,
        key: Option<&std::path::Path>,
        act: Push,
    ) -> Result<Pushed, Error> {
        require_root()?;
        let key = SigningKey::read(&self.signing_key(key))?;
        let bucket = self.bucket(to)?;
        let (index, files) = self.indexed(id)?;
        let signed = key.sign_document(Purpose::Template, &json(id, &index)?);
        let mut pushed = Pushed {
            template_id: id.clone(),
            signer_id: signed.signer_id.clone(),
            index: index_key(id),
            objects: files.len(),
            new_objects: 0,
            new_bytes: 0,
        };
        let failed = |error: BucketError| explain(&format!("push template {id}"), &error);
        for (place, (hash, file)) in files.iter().enumerate() {
            cx.cancel.check()?;
            let key = object_key(&hash.to_string());
            if bucket.has(&key, file.pinned.size).map_err(failed)? {
                continue;
            }
            pushed.new_objects += 1;
            pushed.new_bytes += file.pinned.size;
            if act == Push::Do {
                tell(cx, id, "sending", (place, files.len()));
                bucket.put_file(&key, &file.path, file.pinned).map_err(failed)?;
            }
        }
        if act == Push::Do {
            bucket.put(&pushed.index, &json(id, &signed)?).map_err(failed)?;
        }
        Ok(pushed)
    }

    /// The index of a template, and its files by what is in them; each was read and is as it was built.
    fn indexed(
        &self,
        id: &TemplateId,
    ) -> Result<(Index, BTreeMap<ContentHash, StoredFile>), Error> {
        let template = self.engine.template(id)?.record;
        let store = self.images()?;
        let (mut images, mut files) = (BTreeMap::new(), BTreeMap::new());
        let named: BTreeSet<&ImageHash> = template.images().collect();
        for hash in named {
            let image = stored(&store, hash)?;
            let damaged = |error: StoreError| damaged(id, hash).because(&error);
            image.verify().map_err(damaged)?;
            let parts = image.portable().map_err(damaged)?;
            let listed = parts.iter().map(|part| {
                let sha256 = part.pinned.sha256.to_string().parse().map_err(|error| {
                    Error::new(ErrorKind::Failed, "a digest is none").because(&error)
                })?;
                Ok(ImageFile { name: part.name.clone(), size: part.pinned.size, sha256 })
            });
            images.insert(hash.clone(), listed.collect::<Result<Vec<_>, Error>>()?);
            files.extend(parts.into_iter().map(|part| (part.pinned.sha256, part)));
        }
        Ok((Index::for_push(&template, images, fleet::now())?, files))
    }

    /// The index of a template in a storage, if somebody whom this host trusts signed it.
    ///
    /// # Errors
    /// `NotFound`; `Integrity` when it is not what was signed or nobody trusted signed it; `Permission` when the
    /// storage refuses.
    pub fn template_look(
        &self,
        id: &TemplateId,
        from: Option<&str>,
    ) -> Result<SignedTemplate, Error> {
        self.looked_up(id, &self.bucket(from)?)
    }

    fn looked_up(&self, id: &TemplateId, bucket: &Bucket) -> Result<SignedTemplate, Error> {
        let bytes = bucket.document(&index_key(id), INDEX_MAX).map_err(|error| {
            if matches!(error, BucketError::Missing { .. }) {
                let message = format!("the storage has no template {id}");
                return Error::new(ErrorKind::NotFound, message).because(&error);
            }
            explain(&format!("pull template {id}"), &error)
        })?;
        let trusted = keys::trusted(&self.trusted_keys())?;
        SignedTemplate::open(&bytes, id, &trusted.keys, &keys::verify)
    }

    /// Brings the images of a template in a storage into the image store; the record is the engine's
    /// (`TemplatePull`).
    ///
    /// # Errors
    /// As [`Mvm::template_look`]; `Integrity` when a file is not what the index says, `Refused` when there is no
    /// room. What is verified is kept, and counts for nothing.
    pub fn template_fetch(
        &self,
        cx: &Context,
        id: &TemplateId,
        from: Option<&str>,
    ) -> Result<SignedTemplate, Error> {
        require_root()?;
        let bucket = self.bucket(from)?;
        let found = self.looked_up(id, &bucket)?;
        let store = self.images()?;
        let mut missing = Vec::new();
        for hash in found.index.images.keys() {
            if !matches(&store, hash, &found.index)? {
                missing.push(hash);
            }
        }
        let sizes = missing.iter().filter_map(|hash| found.index.images.get(*hash)).flatten();
        let mib = sizes.map(|file| file.size).sum::<u64>().div_ceil(1 << 20);
        space::room_of(&self.roots.data, self.roots.reserve_percent)?
            .admit(&format!("template {id}"), mib)?;
        let fetcher = Fetcher::new(FetchConfig::new(self.roots.data.join(data::DOWNLOADS)));
        let fetcher = fetcher.map_err(|error| {
            Error::new(ErrorKind::Failed, "cannot prepare downloads").because(&error)
        })?;
        for (place, hash) in missing.iter().enumerate() {
            cx.cancel.check()?;
            tell(cx, id, "fetching", (place, missing.len()));
            self.fetch_image(&found, hash, (&store, &fetcher, &bucket))?;
        }
        Ok(found)
    }

    fn fetch_image(
        &self,
        found: &SignedTemplate,
        hash: &ImageHash,
        (store, fetcher, bucket): (&ImageStore, &Fetcher, &Bucket),
    ) -> Result<(), Error> {
        let id = &found.index.template_id;
        let mut files = Vec::new();
        for (name, pinned) in listed(&found.index, hash)? {
            let key = object_key(&pinned.sha256.to_string());
            let got = fetcher.object(bucket, &key, pinned, &|_| ());
            let path = got.map_err(|error| explain(&format!("pull template {id}"), &error))?.path;
            files.push(StoredFile { name, path, pinned });
        }
        let image = store.import(content(hash)?, &files).map_err(|error| {
            let kind = match &error {
                StoreError::Foreign { .. }
                | StoreError::Differs { .. }
                | StoreError::Damaged { .. }
                | StoreError::Manifest { .. }
                | StoreError::Schema { .. } => ErrorKind::Integrity,
                StoreError::Busy { .. } => ErrorKind::Unavailable,
                StoreError::File { .. }
                | StoreError::NotFound(_)
                | StoreError::Ambiguous(_)
                | StoreError::Name(_) => ErrorKind::Failed,
            };
            Error::new(kind, format!("cannot keep the image {}", hash.short())).because(&error)
        })?;
        if Some(image.manifest.arch) == Arch::native() {
            return Ok(());
        }
        let arch = image.manifest.arch.as_str();
        let message =
            format!("the images of template {id} are for {arch}, and this machine is not");
        Err(Error::new(ErrorKind::Invalid, message))
    }

    fn bucket(&self, named: Option<&str>) -> Result<Bucket, Error> {
        let opened = Bucket::open(self.storage.bucket(named)?);
        opened.map_err(|error| explain("use the storage", &error))
    }
}

/// Whether an image is in the store as an index says, whole; `Integrity` when it is there with other files.
pub(super) fn matches(store: &ImageStore, hash: &ImageHash, index: &Index) -> Result<bool, Error> {
    store.has(content(hash)?, &listed(index, hash)?).map_err(|error| {
        let message = format!("the image {} is not what was signed", hash.short());
        Error::new(ErrorKind::Integrity, message).because(&error)
    })
}

pub(super) fn stored(store: &ImageStore, hash: &ImageHash) -> Result<Image, Error> {
    store.get(content(hash)?).map_err(|error| {
        let message = format!("cannot use the image {}", hash.short());
        Error::new(ErrorKind::Integrity, message).because(&error)
    })
}

pub(super) fn damaged(id: &TemplateId, hash: &ImageHash) -> Error {
    let message = format!("the image {} of template {id} is damaged", hash.short());
    Error::new(ErrorKind::Integrity, message)
}

fn listed(index: &Index, hash: &ImageHash) -> Result<Vec<(String, Pinned)>, Error> {
    let files = index.images.get(hash).map(Vec::as_slice).unwrap_or_default();
    let pinned = |file: &ImageFile| {
        let sha256 = content(&file.sha256)?;
        Ok((file.name.clone(), Pinned { size: file.size, sha256 }))
    };
    files.iter().map(pinned).collect()
}

fn content(hash: &ImageHash) -> Result<ContentHash, Error> {
    hash.as_str().parse().map_err(|error| {
        Error::new(ErrorKind::Failed, format!("{hash} is no digest")).because(&error)
    })
}

fn index_key(id: &TemplateId) -> String {
    format!("templates/{id}/index.json")
}

fn object_key(sha256: &str) -> String {
    format!("objects/sha256/{sha256}")
}

fn json(id: &TemplateId, value: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|error| {
        Error::new(ErrorKind::Failed, format!("cannot write the index of template {id}"))
            .because(&error)
    })
}

fn tell(cx: &Context, id: &TemplateId, activity: &str, (done, total): (usize, usize)) {
    cx.progress.report(&ProgressStep {
        subject: format!("template {id}"),
        activity: activity.to_owned(),
        done: done as u64,
        total: total as u64,
    });
}

/// A storage's failure, with what a person can do about it.
fn explain(act: &str, error: &BucketError) -> Error {
    let (kind, hint) = match error {
        BucketError::Address(_) | BucketError::Endpoint(_) | BucketError::Oversize { .. } => {
            (ErrorKind::Invalid, None)
        }
        BucketError::Http(
            HttpError::WrongHash { .. }
            | HttpError::Oversize { .. }
            | HttpError::Cut { source: None, .. },
        )
        | BucketError::Missing { .. } => (
            ErrorKind::Integrity,
            Some(
                "the storage has not what was signed: remove the object there, and push the template again",
            ),
        ),
        BucketError::Http(_) => {
            (ErrorKind::Unavailable, Some("check the network and storage.endpoint"))
        }
        BucketError::Denied { .. } => (
            ErrorKind::Permission,
            Some("check the key, storage.region, the bucket's policy, and this machine's clock"),
        ),
        BucketError::Status { .. } => (
            ErrorKind::Unavailable,
            Some("see what the storage logs, and that the bucket is there"),
        ),
        BucketError::File { .. } | BucketError::Cache(_) => (ErrorKind::Failed, None),
    };
    let told = Error::new(kind, format!("cannot {act}")).because(error);
    hint.into_iter().fold(told, Error::hint)
}
