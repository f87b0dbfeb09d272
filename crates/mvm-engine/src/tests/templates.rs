//! Templates: whose builds they are, how long those stay, and what is taken over from a storage.

use mvm_core::{
    base64,
    effect::Effect,
    error::{Error, ErrorKind},
    id::{ImageHash, Subject, TemplateId},
    operation::{NewPool, Operation, Rebuild},
    pool::{PoolChange, Resources, Role, Source},
    port::{Host, Store},
    quota::Quotas,
    signed::SignedDocument,
    template::{
        INDEX_SCHEMA, Index, SignedTemplate, Template, TemplateBuild, TemplateSpec, Variant,
    },
    units::{Mib, Seconds, Timestamp, Vcpus},
};

use crate::{fake::*, outcome::Made};

fn web() -> TemplateId {
    "web".parse().unwrap()
}

fn spec(source: Source, variants: &[&str]) -> TemplateSpec {
    let variant = |name: &&str| Variant {
        name: name.parse().unwrap(),
        role: Role::Worker,
        profile: "minimal".to_owned(),
        resources: Resources::new(Vcpus(1), Mib(128), Mib(0)),
        build: None,
    };
    let (template_id, profile) = (web(), "minimal".to_owned());
    TemplateSpec { template_id, source, profile, variants: variants.iter().map(variant).collect() }
}

pub(super) fn of_one_variant() -> TemplateSpec {
    spec(image_of("default"), &["small"])
}

fn image_of(text: &str) -> Source {
    Source::Image(text.to_owned())
}

fn create(spec: TemplateSpec) -> Operation {
    Operation::TemplateCreate(Box::new(spec))
}

pub(super) fn build(variant: Option<&str>, tenant: Option<&str>) -> Operation {
    Operation::TemplateBuild {
        template: web(),
        variant: variant.map(|name| name.parse().unwrap()),
        tenant: tenant.map(|name| name.parse().unwrap()),
        timeout: Seconds(60),
        rebuild: Rebuild::WhenChanged,
    }
}

fn delete() -> Operation {
    Operation::TemplateDelete { template: web() }
}

fn pool_of(name: &str, template: &str) -> Operation {
    let source = Source::Template(template.to_owned());
    let size = Resources::new(Vcpus(1), Mib(128), Mib(0));
    Operation::PoolCreate(Box::new(NewPool::of_workers(pool(name), source, size)))
}

fn rig() -> Rig {
    let rig = Rig::new();
    for tenant in ["acme", "umbrella"] {
        rig.operate(&tenant_create(tenant, Quotas::default())).unwrap();
    }
    rig
}

fn done(rig: &Rig, operation: &Operation) -> Template {
    let Some(Made::Template(template)) = rig.operate(operation).unwrap().made else {
        unreachable!("no template was made")
    };
    *template
}

fn refused(rig: &Rig, operation: &Operation) -> ErrorKind {
    rig.operate(operation).map_err(|error| error.kind).unwrap_err()
}

fn current(rig: &Rig, name: &str) -> ImageHash {
    rig.engine.pool(&pool(name)).unwrap().record.current().unwrap().clone()
}

pub(super) fn signed_at(pushed_at: u64, image: &ImageHash) -> Operation {
    let TemplateSpec { template_id, source, profile, mut variants } =
        spec(image_of("default"), &["small"]);
    for variant in &mut variants {
        let (image, source) = (image.clone(), source.clone());
        variant.build = Some(TemplateBuild { image, source, built_at: Timestamp(1) });
    }
    let images = [(image.clone(), Vec::new())].into();
    let (schema, pushed_at) = (INDEX_SCHEMA, Timestamp(pushed_at));
    let index = Index { schema, template_id, source, profile, variants, images, pushed_at };
    let payload = base64::encode(&serde_json::to_vec(&index).unwrap());
    let signed = SignedDocument { payload, signature: String::new(), signer_id: "aa".to_owned() };
    Operation::TemplatePull(Box::new(SignedTemplate { index, signed }))
}

#[test]
fn pools_of_two_tenants_have_the_template_s_image_and_build_nothing() {
    let rig = rig();
    rig.operate(&create(spec(Source::Flake("/srv/app".to_owned()), &["small", "large"]))).unwrap();
    let template = done(&rig, &build(None, Some("acme")));
    assert_eq!(rig.world.look().building.ran.len(), 1, "both variants are of one build");
    let images: Vec<_> = template.images().cloned().collect();
    assert_eq!(images.len(), 2);
    rig.operate(&pool_of("acme/web", "web:small")).unwrap();
    rig.operate(&pool_of("umbrella/web", "web:large")).unwrap();
    for name in ["acme/web", "umbrella/web"] {
        rig.operate(&Operation::build(pool(name))).unwrap();
        assert_eq!(current(&rig, name), images[0]);
    }
    assert_eq!(rig.world.look().building.ran.len(), 1, "nothing was built for a pool");
}

#[test]
fn a_flake_needs_a_tenant_for_its_builder_and_nothing_else_does() {
    let rig = rig();
    rig.operate(&create(spec(Source::Flake("/srv/app".to_owned()), &["small"]))).unwrap();
    assert_eq!(refused(&rig, &build(None, None)), ErrorKind::Usage);
    rig.operate(&create(spec(image_of("default"), &["small"]))).unwrap();
    rig.operate(&build(None, None)).unwrap();
}

#[test]
fn a_pool_of_what_is_not_there_or_not_built_is_refused() {
    let rig = rig();
    assert_eq!(refused(&rig, &pool_of("acme/web", "web")), ErrorKind::NotFound);
    rig.operate(&create(spec(image_of("default"), &["small", "large"]))).unwrap();
    assert_eq!(refused(&rig, &pool_of("acme/web", "web")), ErrorKind::Invalid);
    assert_eq!(refused(&rig, &pool_of("acme/web", "web:huge")), ErrorKind::NotFound);
    rig.operate(&pool_of("acme/web", "web:large")).unwrap();
    rig.operate(&build(Some("small"), None)).unwrap();
    assert_eq!(refused(&rig, &Operation::build(pool("acme/web"))), ErrorKind::Conflict);
    rig.operate(&build(Some("large"), None)).unwrap();
    rig.operate(&Operation::build(pool("acme/web"))).unwrap();
}

#[test]
fn what_a_template_names_is_no_litter_and_is_litter_once_it_is_deleted() {
    let rig = rig();
    rig.operate(&create(spec(image_of("default"), &["small"]))).unwrap();
    let template = done(&rig, &build(None, None));
    let image = template.images().next().unwrap().clone();
    let litter =
        || rig.engine.node_litter(None).unwrap().contains(&Effect::RemoveImage(image.clone()));
    assert!(!litter());
    rig.operate(&Operation::NodeGc { keep: None }).unwrap();
    assert!(rig.world.observe_stock().unwrap().images.contains(&image));
    rig.operate(&delete()).unwrap();
    assert!(litter());
}

#[test]
fn a_template_that_a_pool_uses_is_not_deleted_and_keeps_its_variant() {
    let rig = rig();
    rig.operate(&create(spec(image_of("default"), &["small", "large"]))).unwrap();
    rig.operate(&pool_of("acme/web", "web:large")).unwrap();
    assert_eq!(refused(&rig, &delete()), ErrorKind::Conflict);
    let without = create(spec(image_of("default"), &["small"]));
    assert_eq!(refused(&rig, &without), ErrorKind::Conflict);
    let change = PoolChange { source: Some(image_of("default")), ..PoolChange::default() };
    rig.operate(&Operation::PoolUpdate { pool: pool("acme/web"), change: Box::new(change) })
        .unwrap();
    rig.operate(&without).unwrap();
    rig.operate(&delete()).unwrap();
    assert_eq!(refused(&rig, &delete()), ErrorKind::NotFound);
    let is_of_template =
        |one: &Subject| matches!(one, Subject::Pool(pool) if pool.is_of_template());
    assert!(!rig.world.look().lock_files.iter().any(is_of_template), "a lock outlived it");
}

#[test]
fn a_changed_source_takes_the_builds_away_and_a_changed_size_does_not() {
    let rig = rig();
    let with = |source, mem| {
        let mut spec = spec(image_of(source), &["small"]);
        spec.variants[0].resources.mem_mib = Mib(mem);
        create(spec)
    };
    rig.operate(&with("default", 128)).unwrap();
    rig.operate(&build(None, None)).unwrap();
    assert_eq!(done(&rig, &with("default", 256)).images().count(), 1);
    assert_eq!(done(&rig, &with("other", 256)).images().count(), 0);
}

#[test]
fn a_failed_build_is_told_in_the_node_s_log() {
    let rig = rig();
    rig.operate(&create(spec(image_of("absent"), &["small"]))).unwrap();
    assert_eq!(refused(&rig, &build(None, None)), ErrorKind::NotFound);
    let log = rig.store.events(&mvm_core::id::TenantId::node(), 0, 100).unwrap();
    let last = log.last().unwrap();
    assert_eq!(last.event.event, mvm_core::event::EventKind::TemplateBuildFailed);
}

#[test]
fn what_is_pulled_replaces_what_was_pulled_before_but_nothing_older_and_nothing_made_here() {
    let rig = rig();
    let image: ImageHash = "cd".repeat(32).parse().unwrap();
    assert_eq!(refused(&rig, &signed_at(5, &image)), ErrorKind::Unavailable, "it is not here");
    assert_eq!(refused(&rig, &delete()), ErrorKind::NotFound, "nothing was taken over");
    rig.world.look().building.images.insert(image.clone());
    rig.operate(&signed_at(5, &image)).unwrap();
    rig.operate(&signed_at(5, &image)).unwrap();
    let newer = done(&rig, &signed_at(6, &image));
    assert_eq!(newer.pushed_at(), Some(Timestamp(6)));
    assert_eq!(refused(&rig, &signed_at(5, &image)), ErrorKind::Integrity);
    rig.operate(&delete()).unwrap();
    rig.operate(&create(spec(image_of("default"), &["small"]))).unwrap();
    assert_eq!(refused(&rig, &signed_at(7, &image)), ErrorKind::Conflict);
    let unchanged: Result<_, Error> = rig.engine.template(&web());
    assert!(unchanged.unwrap().record.signed.is_none());
}
