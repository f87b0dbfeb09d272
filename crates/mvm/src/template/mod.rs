//! Templates beyond what the engine does: their files, and the way to a storage and back.
//!
//! ```text
//! push: files of all builds ─▶ objects/sha256/HASH, those that are there already not again ─▶ signed index
//! pull: signed index ─ signature? ─▶ objects ─ size, hash? ─▶ image store ─▶ the engine's record
//! ```
//! The index is written last and read first. An image is published as a whole and after all of its files were
//! verified, and counts once the record names it. This module refuses to know who uses a template.

mod storage;

use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
};

use mvm_build::ImageStore;
use mvm_core::{
    error::{Error, ErrorKind},
    id::{ImageHash, TemplateId, TemplateRef, VariantId},
    layout::data,
    operation::{Operation, Rebuild},
    template::{Index, Template, TemplateSpec, Variant},
};
use mvm_engine::{
    Context, Outcome,
    query::{TemplateUse, TemplateView},
};
use mvm_fleet::keys;
use serde::Serialize;

pub use storage::{Push, Pushed};

use crate::{Mvm, forward::CallerPath, manifest, wiring::require_root};

/// The file that `template init` writes.
pub const FILE: &str = "template.toml";
const EXAMPLE: &str = include_str!("example.toml");

/// A template as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TemplateInfo {
    /// Its record.
    pub template: Template,
    /// The pools that are built from it.
    pub used_by: Vec<TemplateUse>,
    /// The lengths of its images' files together, in bytes, by image; without those that cannot be read.
    pub bytes: BTreeMap<ImageHash, u64>,
}

/// What a look at all files of a template found: they are as they were when they were built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TemplateVerified {
    /// Which.
    pub template_id: TemplateId,
    /// The images whose files were read.
    pub images: Vec<ImageHash>,
    /// Who signed it, as this host trusts; none of one that was made here.
    pub signer_id: Option<String>,
}

/// Writes an example of a template into a directory.
///
/// # Errors
/// `Conflict` when there is one; `Failed` when it cannot be written.
pub fn template_init(directory: &Path) -> Result<PathBuf, Error> {
    let path = directory.join(FILE);
    let write = || {
        std::fs::create_dir_all(directory)?;
        std::fs::File::create_new(&path)?.write_all(EXAMPLE.as_bytes())
    };
    match write() {
        Ok(()) => Ok(path),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let message = format!("there is a {} already", path.display());
            Err(Error::new(ErrorKind::Conflict, message).hint("it is not replaced: move it away"))
        }
        Err(error) => {
            let message = format!("cannot write {}", path.display());
            Err(Error::new(ErrorKind::Failed, message).because(&error))
        }
    }
}

impl Mvm {
    /// Reads a template from a file, TOML or JSON.
    ///
    /// # Errors
    /// `Invalid` with one cause for each finding.
    pub fn read_template(&self, file: &CallerPath) -> Result<TemplateSpec, Error> {
        let read = TemplateSpec::read(&manifest::read(file)?);
        read.map_err(|error| error.context(format!("{file} cannot be used")))
    }

    /// Makes a template, or changes it to this.
    ///
    /// # Errors
    /// `Conflict` while a pool uses a variant that would go.
    pub fn template_create(&self, cx: &Context, spec: TemplateSpec) -> Result<Outcome, Error> {
        self.operate(cx, &Operation::TemplateCreate(Box::new(spec)))
    }

    /// Makes or finds the images of a template's variants, or of one; a flake needs the operation itself, with
    /// a tenant.
    ///
    /// # Errors
    /// Why an image cannot be made.
    pub fn template_build(
        &self,
        cx: &Context,
        id: &TemplateId,
        variant: Option<&VariantId>,
    ) -> Result<Outcome, Error> {
        let (template, variant) = (id.clone(), variant.cloned());
        let (timeout, rebuild) = (Operation::BUILD_TIMEOUT, Rebuild::WhenChanged);
        let tenant = None;
        self.operate(cx, &Operation::TemplateBuild { template, variant, tenant, timeout, rebuild })
    }

    /// Takes a template out of a storage: its images first, then its record.
    ///
    /// # Errors
    /// As [`Mvm::template_fetch`]; `Conflict` when a template of this id was made here, `Integrity` when what is
    /// here was signed later.
    pub fn template_pull(
        &self,
        cx: &Context,
        id: &TemplateId,
        from: Option<&str>,
    ) -> Result<Outcome, Error> {
        let found = self.template_fetch(cx, id, from)?;
        self.operate(cx, &Operation::TemplatePull(Box::new(found)))
    }

    /// Removes a template.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` while a pool uses it.
    pub fn template_delete(&self, cx: &Context, id: &TemplateId) -> Result<Outcome, Error> {
        self.operate(cx, &Operation::TemplateDelete { template: id.clone() })
    }

    /// The templates, by id.
    ///
    /// # Errors
    /// Why the store failed.
    pub fn template_list(&self) -> Result<Vec<TemplateInfo>, Error> {
        Ok(self.engine.templates()?.into_iter().map(|view| self.template_sizes(view)).collect())
    }

    /// One template.
    ///
    /// # Errors
    /// `NotFound`; why the store failed.
    pub fn template_info(&self, id: &TemplateId) -> Result<TemplateInfo, Error> {
        Ok(self.template_sizes(self.engine.template(id)?))
    }

    fn template_sizes(&self, view: TemplateView) -> TemplateInfo {
        let TemplateView { record, used_by } = view;
        let store = ImageStore::open(&self.roots.data.join(data::IMAGES)).ok();
        let size = |image: &ImageHash| {
            let image = store.as_ref()?.find(image.as_str()).ok()?;
            Some(image.portable().ok()?.iter().map(|file| file.pinned.size).sum())
        };
        let sizes = record.images().filter_map(|image| Some((image.clone(), size(image)?)));
        let bytes = sizes.collect();
        TemplateInfo { template: record, used_by, bytes }
    }

    /// Reads every file of a template's builds and compares it with what was built, and the record with what
    /// was signed, if it was.
    ///
    /// # Errors
    /// `Integrity` for the first thing that differs, and for a signer whom this host does not trust;
    /// `Permission` without root.
    pub fn template_verify(&self, id: &TemplateId) -> Result<TemplateVerified, Error> {
        require_root()?;
        let template = self.engine.template(id)?.record;
        let signed = template.signed.as_ref();
        let index = signed.map(|signed| {
            let trusted = keys::trusted(&self.trusted_keys())?;
            Index::of(signed, id, &trusted.keys, &keys::verify)
        });
        let index = index.transpose()?;
        if let Some(index) = &index
            && (index.variants != template.variants || index.source != template.source)
        {
            let message = format!("the record of template {id} is not what was signed");
            return Err(Error::new(ErrorKind::Integrity, message)
                .hint(format!("pull it again: mvm template pull {id}")));
        }
        let store = self.images()?;
        let mut images: Vec<ImageHash> = template.images().cloned().collect();
        images.sort();
        images.dedup();
        for hash in &images {
            let intact = match &index {
                Some(index) => storage::matches(&store, hash, index).and_then(|is_whole| {
                    is_whole.then_some(()).ok_or_else(|| storage::damaged(id, hash))
                }),
                None => storage::stored(&store, hash).and_then(|image| {
                    image.verify().map_err(|error| storage::damaged(id, hash).because(&error))
                }),
            };
            intact.map_err(|error| {
                error.hint(format!("make it again: mvm template build {id} --force, or pull it"))
            })?;
        }
        let signer_id = template.signed.map(|signed| signed.signer_id);
        Ok(TemplateVerified { template_id: id.clone(), images, signer_id })
    }

    /// What a pool of a template is unless told otherwise.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` when a variant has to be named.
    pub fn template_variant(&self, wanted: &TemplateRef) -> Result<Variant, Error> {
        let template = self.engine.template(&wanted.template)?.record;
        template.variant(wanted).cloned()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;

    #[test]
    fn the_example_is_a_template_and_is_never_written_over_another() {
        let directory = tempfile::tempdir().unwrap();
        let path = template_init(&directory.path().join("new")).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let spec = TemplateSpec::read(&toml::from_str(&text).unwrap()).unwrap();
        assert_eq!(spec.variants.len(), 2);
        let again = template_init(path.parent().unwrap()).unwrap_err();
        assert_eq!(again.kind, ErrorKind::Conflict);
    }
}
