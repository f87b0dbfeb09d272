//! What `mvm template …` shows.

use std::path::PathBuf;

use mvm::{
    Variant,
    template::{Pushed, TemplateInfo, TemplateVerified},
};
use serde::Serialize;

use super::size;
use crate::render::table::{facts, table};

/// A file that was written.
#[derive(Debug, Serialize)]
pub(crate) struct TemplateFile {
    /// Where it is.
    pub(crate) file: PathBuf,
}

impl TemplateFile {
    pub(crate) fn text(&self) -> String {
        let file = self.file.display();
        format!("{file} is an example: change it, then `mvm template create {file}`.")
    }
}

fn built(info: &TemplateInfo) -> String {
    let all = &info.template.variants;
    let built = all.iter().filter(|one| one.build.is_some()).count();
    format!("{built} of {}", all.len())
}

fn signer(info: &TemplateInfo) -> String {
    info.template.signed.as_ref().map_or_else(|| "-".to_owned(), |one| one.signer_id.clone())
}

pub(crate) fn templates(all: &[TemplateInfo]) -> String {
    let row = |one: &TemplateInfo| {
        [
            one.template.template_id.to_string(),
            one.template.source.to_string(),
            built(one),
            one.used_by.len().to_string(),
            signer(one),
        ]
    };
    table(["TEMPLATE", "SOURCE", "BUILT", "POOLS", "SIGNED BY"], all.iter().map(row).collect())
}

pub(crate) fn template(info: &TemplateInfo) -> String {
    let one = &info.template;
    let pools: Vec<_> = info.used_by.iter().map(|used| used.pool.to_string()).collect();
    let used_by = if pools.is_empty() { "nothing".to_owned() } else { pools.join(", ") };
    let head = facts(vec![
        ("Template", one.template_id.to_string()),
        ("Source", one.source.to_string()),
        ("Profile", one.profile.clone()),
        ("Signed by", signer(info)),
        ("Used by", used_by),
    ]);
    let row = |variant: &Variant| {
        let image = variant.build.as_ref().map(|build| &build.image);
        let bytes = image.and_then(|image| info.bytes.get(image));
        let built_at = variant.build.as_ref().map(|build| build.built_at.rfc3339());
        let none = || "-".to_owned();
        [
            variant.name.to_string(),
            variant.role.to_string(),
            variant.resources.vcpus.to_string(),
            variant.resources.mem_mib.to_string(),
            variant.resources.data_disk_mib.to_string(),
            image.map_or_else(none, |image| image.short().to_owned()),
            bytes.map_or_else(none, |bytes| size(*bytes)),
            built_at.unwrap_or_else(none),
        ]
    };
    let variants = table(
        ["VARIANT", "ROLE", "VCPUS", "MEMORY", "DATA DISK", "IMAGE", "SIZE", "BUILT"],
        one.variants.iter().map(row).collect(),
    );
    format!("{head}\n\n{variants}")
}

pub(crate) fn pushed(one: &Pushed) -> String {
    format!(
        "Template {}, signed by {}: {} of {} files were new ({}).",
        one.template_id,
        one.signer_id,
        one.new_objects,
        one.objects,
        size(one.new_bytes)
    )
}

pub(crate) fn template_verified(one: &TemplateVerified) -> String {
    let signer = match &one.signer_id {
        Some(signer) => format!("signed by {signer}"),
        None => "made here".to_owned(),
    };
    format!("Template {} is whole: {} images, {signer}.", one.template_id, one.images.len())
}
