//! What a storage has of a template: one signed index, and files that it names by size and hash.
//!
//! The index says everything that counts, and its signature is verified before a byte that it names is
//! fetched. It refuses to know how a storage is asked.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Template, TemplateSpec, Variant};
use crate::{
    error::{Error, ErrorKind},
    id::{ImageHash, TemplateId},
    pool::Source,
    signed::{Purpose, SignedDocument, TrustedKeys, Verify},
    units::Timestamp,
};

/// The schema of an index that this program writes and reads.
pub const INDEX_SCHEMA: u32 = 1;
/// The longest index, in bytes; an index is a few kilobytes.
const INDEX_MAX: usize = 1 << 20;
/// Most files of an image.
const FILES_MAX: usize = 8;

/// A template with its builds, as it is signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Index {
    /// Always [`INDEX_SCHEMA`].
    pub schema: u32,
    /// Its id.
    pub template_id: TemplateId,
    /// What its images were made from.
    pub source: Source,
    /// The profile of the source.
    pub profile: String,
    /// Its variants, each with its build.
    pub variants: Vec<Variant>,
    /// The files of each image that a variant names.
    pub images: BTreeMap<ImageHash, Vec<ImageFile>>,
    /// When it was signed.
    pub pushed_at: Timestamp,
}

/// A file of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageFile {
    /// Its name in the image's directory.
    pub name: String,
    /// Its length in bytes.
    pub size: u64,
    /// Its SHA-256, which is also its name in a storage; 64 hexadecimal digits.
    pub sha256: ImageHash,
}

/// An index whose signature was verified, with the signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedTemplate {
    /// What is in it.
    pub index: Index,
    /// As it lay in the storage.
    pub signed: SignedDocument,
}

impl SignedTemplate {
    /// Reads and verifies the index of a template.
    ///
    /// # Errors
    /// `Integrity` when it is none, nobody trusted signed it, or it is another template's.
    pub fn open(
        bytes: &[u8],
        template: &TemplateId,
        keys: &TrustedKeys,
        verify: Verify<'_>,
    ) -> Result<Self, Error> {
        if bytes.len() > INDEX_MAX {
            return Err(untaken(template, &format!("it is longer than {INDEX_MAX} bytes")));
        }
        let signed: SignedDocument = serde_json::from_slice(bytes)
            .map_err(|error| untaken(template, &format!("it is not signed: {error}")))?;
        let index = Index::of(&signed, template, keys, verify)?;
        Ok(Self { index, signed })
    }
}

impl Index {
    /// The index in a signed document.
    ///
    /// # Errors
    /// As [`SignedTemplate::open`].
    pub fn of(
        signed: &SignedDocument,
        template: &TemplateId,
        keys: &TrustedKeys,
        verify: Verify<'_>,
    ) -> Result<Self, Error> {
        let document = signed.open(Purpose::Template, keys, verify).map_err(|rejection| {
            untaken(template, &rejection.to_string())
                .hint("trust its signer, if you do: put its .pub file into trusted_keys of the configuration directory")
        })?;
        let index: Self = serde_json::from_slice(&document)
            .map_err(|error| untaken(template, &format!("it makes no sense: {error}")))?;
        index.check().map_err(|why| untaken(template, &why))?;
        if index.template_id != *template {
            return Err(untaken(template, &format!("it is that of {}", index.template_id)));
        }
        Ok(index)
    }

    /// The index of a template whose builds have these files.
    ///
    /// # Errors
    /// `Conflict` when a variant has no build.
    pub fn for_push(
        template: &Template,
        images: BTreeMap<ImageHash, Vec<ImageFile>>,
        now: Timestamp,
    ) -> Result<Self, Error> {
        let id = &template.template_id;
        if let Some(bare) = template.variants.iter().find(|one| one.build.is_none()) {
            let message = format!("the variant {} of template {id} has no build", bare.name);
            return Err(Error::new(ErrorKind::Conflict, message)
                .hint(format!("build it: mvm template build {id}")));
        }
        Ok(Self {
            schema: INDEX_SCHEMA,
            template_id: id.clone(),
            source: template.source.clone(),
            profile: template.profile.clone(),
            variants: template.variants.clone(),
            images,
            pushed_at: now,
        })
    }

    /// What the template shall be.
    #[must_use]
    pub fn spec(&self) -> TemplateSpec {
        TemplateSpec {
            template_id: self.template_id.clone(),
            source: self.source.clone(),
            profile: self.profile.clone(),
            variants: self.variants.clone(),
        }
    }

    fn check(&self) -> Result<(), String> {
        if self.schema != INDEX_SCHEMA {
            let found = self.schema;
            return Err(format!("it has schema {found}, this program reads {INDEX_SCHEMA}"));
        }
        self.spec().validate().map_err(|error| error.to_string())?;
        let builds = self.variants.iter().map(|one| one.build.as_ref().map(|build| &build.image));
        let builds: Option<BTreeSet<_>> = builds.collect();
        if builds.ok_or("a variant in it has no build")? != self.images.keys().collect() {
            return Err("it lists other images than its variants have".to_owned());
        }
        for files in self.images.values() {
            let mut names: Vec<_> = files.iter().map(|file| file.name.as_str()).collect();
            names.sort_unstable();
            names.dedup();
            let is_sound = names.len() == files.len() && names.len() <= FILES_MAX;
            if !is_sound || !names.iter().all(|name| is_plain(name)) {
                return Err("the files of an image in it are not what an image has".to_owned());
            }
        }
        Ok(())
    }
}

/// A plain file name, which is no path.
fn is_plain(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

fn untaken(template: &TemplateId, why: &str) -> Error {
    let message = format!("the signed index of template {template} is not taken");
    let mut error = Error::new(ErrorKind::Integrity, message);
    error.causes.push(why.to_owned());
    error
}
