//! Templates: an image's source and the sizes of its instances, built once and shared by pools of all
//! tenants (SPEC §10).
//!
//! ```text
//! template.toml ─▶ TemplateSpec ─▶ Template ─ build ─▶ Variant::build ─▶ pools of the variant
//!                                     │ ▲
//!                          sign, push ▼ │ pull, verify
//!                                SignedTemplate
//! ```
//! A build is an image of the image store that a template names and that stays for it. This module refuses to
//! know how images are made and where a storage is.

mod index;
mod read;

use serde::{Deserialize, Serialize};

pub use index::{INDEX_SCHEMA, ImageFile, Index, SignedTemplate};

use crate::{
    base64,
    error::{Error, ErrorKind},
    id::{ImageHash, TemplateId, TemplateRef, VariantId},
    pool::{ImageRef, Resources, Role, Source},
    signed::SignedDocument,
    units::{Generation, Timestamp},
};

/// Most variants of a template.
pub const VARIANTS_MAX: usize = 32;

/// What a person says a template shall be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateSpec {
    /// Its id.
    pub template_id: TemplateId,
    /// What its images are made from; never another template.
    pub source: Source,
    /// The profile of the source.
    pub profile: String,
    /// Its variants, at least one, none of them built.
    pub variants: Vec<Variant>,
}

/// The record of a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// Its id.
    pub template_id: TemplateId,
    /// What its images are made from.
    pub source: Source,
    /// The profile of the source.
    pub profile: String,
    /// Its variants.
    pub variants: Vec<Variant>,
    /// What it was pulled as; none of one that was made or built here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<SignedDocument>,
    /// When it came to this host.
    pub created_at: Timestamp,
    /// Counts the changes of this record.
    pub generation: Generation,
}

/// A variant of a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// Its name.
    pub name: VariantId,
    /// What its instances are for.
    pub role: Role,
    /// The profile of the source.
    pub profile: String,
    /// The size of one instance.
    pub resources: Resources,
    /// Its build, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<TemplateBuild>,
}

/// A build of a variant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateBuild {
    /// The image.
    pub image: ImageHash,
    /// What it was built from.
    pub source: Source,
    /// When.
    pub built_at: Timestamp,
}

impl TemplateSpec {
    /// Checks it.
    ///
    /// # Errors
    /// `Invalid` naming the first thing that is wrong.
    pub fn validate(&self) -> Result<(), Error> {
        let wrong = |what: String| Err(Error::new(ErrorKind::Invalid, what));
        let id = &self.template_id;
        self.source.validate()?;
        if matches!(self.source, Source::Template(_)) {
            return wrong(format!("the source of template {id} is a template"));
        }
        if self.variants.is_empty() || self.variants.len() > VARIANTS_MAX {
            let count = self.variants.len();
            return wrong(format!(
                "template {id} has {count} variants: it must be 1 to {VARIANTS_MAX}"
            ));
        }
        let mut names: Vec<_> = self.variants.iter().map(|one| &one.name).collect();
        names.sort();
        if let Some([twice, _]) = names.windows(2).find(|pair| matches!(pair, [a, b] if a == b)) {
            return wrong(format!("template {id} has the variant {twice} twice"));
        }
        self.variants.iter().try_for_each(|one| {
            let checked = one.resources.validate();
            checked
                .map_err(|error| error.context(format!("the variant {} makes no sense", one.name)))
        })
    }
}

impl Template {
    /// The variant that a reference means.
    ///
    /// # Errors
    /// `NotFound` when there is none of this name; `Invalid` when none is named and there are several.
    pub fn variant(&self, wanted: &TemplateRef) -> Result<&Variant, Error> {
        let id = &self.template_id;
        let names =
            || self.variants.iter().map(|one| one.name.as_str()).collect::<Vec<_>>().join(", ");
        match (&wanted.variant, self.variants.as_slice()) {
            (Some(name), all) => all.iter().find(|one| one.name == *name).ok_or_else(|| {
                Error::new(ErrorKind::NotFound, format!("template {id} has no variant {name}"))
                    .hint(format!("its variants are {}", names()))
            }),
            (None, [only]) => Ok(only),
            (None, _) => Err(Error::new(
                ErrorKind::Invalid,
                format!("template {id} has several variants: {}", names()),
            )
            .hint(format!("name one of them: {id}:<variant>"))),
        }
    }

    /// What it shall be, without its builds.
    #[must_use]
    pub fn spec(&self) -> TemplateSpec {
        let bare = |one: &Variant| Variant { build: None, ..one.clone() };
        TemplateSpec {
            template_id: self.template_id.clone(),
            source: self.source.clone(),
            profile: self.profile.clone(),
            variants: self.variants.iter().map(bare).collect(),
        }
    }

    /// When what was pulled had been signed; none of one that was made here.
    #[must_use]
    pub fn pushed_at(&self) -> Option<Timestamp> {
        let document = base64::decode(&self.signed.as_ref()?.payload)?;
        serde_json::from_slice::<Index>(&document).ok().map(|index| index.pushed_at)
    }

    /// The images that stay because this template names them.
    pub fn images(&self) -> impl Iterator<Item = &ImageHash> {
        self.variants.iter().filter_map(|one| one.build.as_ref()).map(|build| &build.image)
    }
}

impl Source {
    /// Reads a source of which one text says what it is, as in `template.toml`: a text with a scheme that is no
    /// image's is a flake, a directory of a flake is `path:/DIR`.
    ///
    /// # Errors
    /// `Invalid` when it is neither.
    pub fn from_text(text: &str) -> Result<Self, Error> {
        let is_image = match text.split_once(':') {
            Some((scheme, _)) => ["oci", "oci-archive", "deb"].contains(&scheme),
            None => true,
        };
        let source = if is_image {
            text.parse::<ImageRef>()?;
            Self::Image(text.to_owned())
        } else {
            Self::Flake(text.to_owned())
        };
        source.validate()?;
        Ok(source)
    }
}

#[cfg(test)]
mod tests;
