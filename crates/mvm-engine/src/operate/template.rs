//! Templates: made, built, taken over from a storage, deleted.
//!
//! A template's builds are images of the image store that its record names; garbage collection leaves those.
//! Whoever changes a template holds its lock; a pool that is built from it takes what the record says at that
//! moment, and builds nothing. It refuses to know storages and signatures: what it is told to take over was
//! verified, and its images are there.

use std::collections::BTreeSet;

use mvm_core::{
    error::{Error, ErrorKind},
    event::EventKind,
    id::{ImageHash, PoolRef, Subject, TemplateId, TemplateRef, TenantId, VariantId},
    operation::Rebuild,
    pool::Source,
    port::{BuildOrder, Table, Transaction},
    template::{SignedTemplate, Template, TemplateBuild, TemplateSpec, Variant},
    units::{Generation, Seconds},
};

use super::builder::Asked;
use crate::{
    engine::{Context, Engine, Telling},
    outcome::{Made, Outcome},
    store::records,
};

/// What of a template shall be built.
pub(crate) struct TemplateWork {
    pub(crate) template: TemplateId,
    /// All variants if absent.
    pub(crate) variant: Option<VariantId>,
    /// In whose network a flake is built.
    pub(crate) tenant: Option<TenantId>,
    pub(crate) timeout: Seconds,
    pub(crate) rebuild: Rebuild,
}

fn made(template: Template) -> Outcome {
    Outcome { made: Some(Made::Template(Box::new(template))), ..Outcome::default() }
}

impl Engine {
    pub(crate) fn template_create(
        &self,
        cx: &Context,
        spec: &TemplateSpec,
    ) -> Result<Outcome, Error> {
        spec.validate()?;
        self.alone(&spec.template_id, || {
            Ok(made(self.within(|tx| self.template_record(tx, cx, spec))?))
        })
    }

    /// Does something with a template that nobody else does meanwhile.
    fn alone(
        &self,
        id: &TemplateId,
        work: impl FnOnce() -> Result<Outcome, Error>,
    ) -> Result<Outcome, Error> {
        let lock = self.lock(&Subject::Pool(PoolRef::of_template(id)))?;
        let done = work();
        if self.within(|tx| records::find::<Template>(tx, id.as_str()))?.is_none() {
            lock.retire();
        }
        done
    }

    /// Puts what a person says of a template; builds stay where they are of what is said now.
    pub(crate) fn template_record(
        &self,
        tx: &mut dyn Transaction,
        cx: &Context,
        spec: &TemplateSpec,
    ) -> Result<Template, Error> {
        let id = &spec.template_id;
        let before = records::find::<Template>(tx, id.as_str())?;
        let mut template = Template {
            template_id: id.clone(),
            source: spec.source.clone(),
            profile: spec.profile.clone(),
            variants: spec.variants.iter().map(|one| fresh(one, spec, before.as_ref())).collect(),
            signed: None,
            created_at: before
                .as_ref()
                .map_or_else(|| self.ports.clock.now(), |one| one.created_at),
            generation: before.as_ref().map_or(Generation(0), |one| one.generation),
        };
        let is_same =
            |is: &Template| is.spec() == template.spec() && is.variants == template.variants;
        if let Some(before) = before.filter(is_same) {
            return Ok(before);
        }
        self.put_template(tx, &mut template)?;
        let event = self.event(&cx.actor, &TenantId::node(), EventKind::TemplateCreated);
        tx.append(&event.with("template", id).with("source", &template.source))?;
        Ok(template)
    }

    /// Puts a template, unless a pool uses a variant that would go.
    fn put_template(&self, tx: &mut dyn Transaction, template: &mut Template) -> Result<(), Error> {
        for (pool, wanted) in users(tx, &template.template_id)? {
            template.variant(&wanted).map_err(|error| {
                Error::new(ErrorKind::Conflict, format!("pool {pool} uses template {wanted}"))
                    .because(&error)
                    .hint(format!("give the pool another source first: mvm pool update {pool}"))
            })?;
        }
        records::put(tx, template)
    }

    pub(crate) fn template_build(
        &self,
        cx: &Context,
        ask: &TemplateWork,
    ) -> Result<Outcome, Error> {
        if ask.timeout.0 == 0 {
            return Err(Error::new(ErrorKind::Invalid, "a build needs a timeout of 1 s or more"));
        }
        self.alone(&ask.template, || self.build_template(cx, ask))
    }

    fn build_template(&self, cx: &Context, ask: &TemplateWork) -> Result<Outcome, Error> {
        let id = &ask.template;
        let template = self.within(|tx| records::template(tx, id))?;
        let mut answered: Vec<(BuildOrder, ImageHash)> = Vec::new();
        for variant in chosen(&template, ask.variant.as_ref())? {
            cx.cancel.check()?;
            let order = BuildOrder {
                source: template.source.clone(),
                profile: variant.profile.clone(),
                role: variant.role.clone(),
                rebuild: ask.rebuild,
                timeout: ask.timeout,
            };
            let known = answered.iter().find(|(asked, _)| *asked == order).map(|(_, image)| image);
            if let Some(image) = known {
                self.record_variant(cx, id, (&variant.name, image), &order)?;
                continue;
            }
            let image = self.build_variant(cx, ask, variant, &order)?;
            answered.push((order, image));
        }
        if let Err(error) = self.trim_cache(cx) {
            tracing::warn!(%error, "what is beyond the cache's budget stays");
        }
        Ok(made(self.within(|tx| records::template(tx, id))?))
    }

    /// The image of a variant, recorded so that it stays.
    fn build_variant(
        &self,
        cx: &Context,
        ask: &TemplateWork,
        variant: &Variant,
        order: &BuildOrder,
    ) -> Result<ImageHash, Error> {
        let id = &ask.template;
        let make = || {
            let asked = Asked { name: &PoolRef::of_template(id), tenant: ask.tenant.as_ref() };
            let image = self.make_image(cx, &asked, order)?;
            self.record_variant(cx, id, (&variant.name, &image), order)?;
            Ok(image)
        };
        let once = || {
            let held = match &ask.tenant {
                Some(tenant) if order.source.may_need_builder() => {
                    self.converge_tenant(tenant)?;
                    Some(self.lock(&Subject::Pool(PoolRef::of_builders(tenant)))?)
                }
                Some(_) | None => None,
            };
            let image = make();
            if let Some(held) = held {
                held.retire();
            }
            image
        };
        let image = once().and_then(|image| {
            // Nobody named it before the record did, and somebody removed what nobody names.
            if self.is_in_stock(&image)? { Ok(image) } else { once() }
        });
        image.map_err(|error: Error| {
            let what = format!("cannot build {id}:{} from {}", variant.name, order.source);
            let error = error.context(what);
            self.tell_failed_variant(cx, id, &variant.name, &error);
            error
        })
    }

    fn is_in_stock(&self, image: &ImageHash) -> Result<bool, Error> {
        Ok(self.ports.host.observe_stock()?.images.contains(image))
    }

    fn record_variant(
        &self,
        cx: &Context,
        id: &TemplateId,
        (name, image): (&VariantId, &ImageHash),
        order: &BuildOrder,
    ) -> Result<(), Error> {
        self.within(|tx| {
            let mut template = records::template(tx, id)?;
            let Some(variant) = template.variants.iter_mut().find(|one| one.name == *name) else {
                return Ok(());
            };
            let source = order.source.clone();
            let is_known = |build: &TemplateBuild| build.image == *image && build.source == source;
            if variant.build.as_ref().is_some_and(is_known) {
                return Ok(());
            }
            let (image, built_at) = (image.clone(), self.ports.clock.now());
            let event = self.event(&cx.actor, &TenantId::node(), EventKind::TemplateBuilt);
            let event = event.with("template", id).with("variant", name).with("image", &image);
            variant.build = Some(TemplateBuild { image, source, built_at });
            template.signed = None;
            records::put(tx, &mut template)?;
            tx.append(&event)
        })
    }

    fn tell_failed_variant(&self, cx: &Context, id: &TemplateId, name: &VariantId, error: &Error) {
        let told = self.within(|tx| {
            let event = self.event(&cx.actor, &TenantId::node(), EventKind::TemplateBuildFailed);
            let event = event.with("template", id).with("variant", name);
            tx.append(&event.because(error.to_string()))
        });
        if let Err(error) = told {
            tracing::warn!(template = %id, %error, "cannot put a failed build into the audit log");
        }
    }

    pub(crate) fn template_pull(
        &self,
        cx: &Context,
        pulled: &SignedTemplate,
    ) -> Result<Outcome, Error> {
        let id = &pulled.index.template_id;
        let images: Vec<&ImageHash> = pulled.index.images.keys().collect();
        self.alone(id, || {
            self.require_images(id, &images)?;
            let template = self.within(|tx| self.template_adopt(tx, cx, pulled))?;
            // From now on they stay, unless somebody removed them just before.
            self.require_images(id, &images)?;
            Ok(made(template))
        })
    }

    fn require_images(&self, id: &TemplateId, images: &[&ImageHash]) -> Result<(), Error> {
        let stock = self.ports.host.observe_stock()?;
        match images.iter().find(|image| !stock.images.contains(image)) {
            None => Ok(()),
            Some(image) => {
                let message = format!("the image {} of template {id} is not here", image.short());
                Err(Error::new(ErrorKind::Unavailable, message)
                    .hint(format!("pull it again: mvm template pull {id}")))
            }
        }
    }

    /// Puts what was pulled in place of what was pulled before.
    pub(crate) fn template_adopt(
        &self,
        tx: &mut dyn Transaction,
        cx: &Context,
        pulled: &SignedTemplate,
    ) -> Result<Template, Error> {
        let SignedTemplate { index, signed } = pulled;
        let id = &index.template_id;
        let before = records::find::<Template>(tx, id.as_str())?;
        let mut created_at = self.ports.clock.now();
        let mut generation = Generation(0);
        if let Some(before) = before {
            let Some(present) = before.pushed_at() else {
                let message = format!("there is a template {id} that was made here");
                return Err(Error::new(ErrorKind::Conflict, message)
                    .hint(format!("delete it first: mvm template delete {id}")));
            };
            if present > index.pushed_at {
                let message = format!(
                    "the storage has template {id} as of {}, and here it is as of {}",
                    index.pushed_at.rfc3339(),
                    present.rfc3339()
                );
                return Err(Error::new(ErrorKind::Integrity, message).hint(format!(
                    "to go back all the same, delete it first: mvm template delete {id}"
                )));
            }
            if before.signed.as_ref() == Some(signed) {
                return Ok(before);
            }
            (created_at, generation) = (before.created_at, before.generation);
        }
        let TemplateSpec { template_id, source, profile, variants } = index.spec();
        let signed = Some(signed.clone());
        let mut template =
            Template { template_id, source, profile, variants, signed, created_at, generation };
        self.put_template(tx, &mut template)?;
        let event = self.event(&cx.actor, &TenantId::node(), EventKind::TemplatePulled);
        let event = event.with("template", id).with("signer", &pulled.signed.signer_id);
        tx.append(&event)?;
        Ok(template)
    }

    pub(crate) fn template_delete(&self, cx: &Context, id: &TemplateId) -> Result<Outcome, Error> {
        self.alone(id, || {
            self.within(|tx| {
                may_delete(tx, id)?;
                tx.delete(Table::Templates, id.as_str())?;
                let event = self.event(&cx.actor, &TenantId::node(), EventKind::TemplateDeleted);
                tx.append(&event.with("template", id))
            })?;
            let removed = Some(Made::Removed(format!("template {id}")));
            Ok(Outcome { made: removed, ..Outcome::default() })
        })
    }

    /// The image that pools of a template have.
    pub(super) fn template_image(
        &self,
        cx: &Context,
        order: &BuildOrder,
        wanted: &str,
    ) -> Result<ImageHash, Error> {
        let wanted = named(wanted)?;
        let template = self.within(|tx| records::template(tx, &wanted.template))?;
        let variant = template.variant(&wanted)?;
        let again = format!("build it: mvm template build {}", template.template_id);
        let Some(build) = &variant.build else {
            let message = format!("{}:{} has no build", template.template_id, variant.name);
            return Err(Error::new(ErrorKind::Conflict, message).hint(again));
        };
        let source = Source::Image(build.image.to_string());
        let found = BuildOrder { source, ..order.clone() };
        let found = self.ports.builder.ensure_image(&found, &cx.progress);
        found.map(|found| found.image).map_err(|error| error.hint(again))
    }
}

/// A variant with the build that it has already, if that is of what is said now.
fn fresh(wanted: &Variant, spec: &TemplateSpec, before: Option<&Template>) -> Variant {
    let mut all = before.into_iter().flat_map(|template| &template.variants);
    let is = all.find(|is| {
        (&is.name, &is.role, &is.profile) == (&wanted.name, &wanted.role, &wanted.profile)
    });
    let build = is.and_then(|is| is.build.clone()).filter(|build| build.source == spec.source);
    Variant { build, ..wanted.clone() }
}

fn named(text: &str) -> Result<TemplateRef, Error> {
    text.parse().map_err(|error| {
        Error::new(ErrorKind::Invalid, format!("{text:?} names no template")).because(&error)
    })
}

fn chosen<'t>(
    template: &'t Template,
    variant: Option<&VariantId>,
) -> Result<Vec<&'t Variant>, Error> {
    let Some(name) = variant else { return Ok(template.variants.iter().collect()) };
    let wanted =
        TemplateRef { template: template.template_id.clone(), variant: Some(name.clone()) };
    Ok(vec![template.variant(&wanted)?])
}

/// The pools that are built from a template, and what of it each names.
pub(crate) fn users(
    tx: &mut dyn Transaction,
    id: &TemplateId,
) -> Result<Vec<(PoolRef, TemplateRef)>, Error> {
    let pools = records::pools(tx, "")?.into_iter().filter(|pool| !pool.destroying);
    Ok(pools
        .filter_map(|pool| {
            let Source::Template(text) = &pool.source else { return None };
            let wanted: TemplateRef = text.parse().ok()?;
            (wanted.template == *id).then_some((pool.pool, wanted))
        })
        .collect())
}

/// Refuses the source of a pool if it is a template that there is not.
pub(crate) fn known(tx: &mut dyn Transaction, source: &Source) -> Result<(), Error> {
    let Source::Template(text) = source else { return Ok(()) };
    let wanted = named(text)?;
    records::template(tx, &wanted.template)?.variant(&wanted).map(drop)
}

/// Refuses to delete a template that pools use.
pub(crate) fn may_delete(tx: &mut dyn Transaction, id: &TemplateId) -> Result<(), Error> {
    records::template(tx, id)?;
    let users: BTreeSet<String> =
        users(tx, id)?.into_iter().map(|(pool, _)| pool.to_string()).collect();
    if users.is_empty() {
        return Ok(());
    }
    let users: Vec<String> = users.into_iter().collect();
    let message = format!("template {id} is used by {}", users.join(", "));
    Err(Error::new(ErrorKind::Conflict, message)
        .hint("give these pools another source first: mvm pool update, or destroy them"))
}
