//! What templates are called and mean.

use mvm::{
    Outcome, Preview, SignedDocument, Template, TemplateBuild, TemplateId, TemplateRef,
    TemplateUse, Variant, VariantId,
    template::{Pushed, TemplateInfo, TemplateVerified},
};

use super::{Described, Shape, describe, leaf};
use crate::show::TemplateFile;

/// Every command about templates, by its file's name.
pub(super) fn shape(name: &str) -> Option<Shape> {
    let question = |result| Some(Shape { result, plan: None });
    match name {
        "template-init" => question(TemplateFile::schema),
        "template-list" => question(Vec::<TemplateInfo>::schema),
        "template-info" => question(TemplateInfo::schema),
        "template-verify" => question(TemplateVerified::schema),
        "template-push" => Some(Shape { result: Pushed::schema, plan: Some(Pushed::schema) }),
        "template-create" | "template-build" | "template-pull" | "template-delete" => {
            Some(Shape { result: Outcome::schema, plan: Some(Preview::schema) })
        }
        _ => None,
    }
}

leaf! {
    TemplateId => { "type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$" };
    VariantId => { "type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$" };
    TemplateRef => { "type": "string", "pattern": "^[a-z0-9-]+(:[a-z0-9-]+)?$" };
}

describe!(TemplateFile, "TemplateFile", "A file that was written.", {
    file: "Where it is.",
});

describe!(SignedDocument, "SignedDocument", "A document with a signature.", {
    payload: "The document in base64.",
    signature: "The Ed25519 signature in base64.",
    signer_id: "Who signed: 32 digits of the SHA-256 of the public key.",
});

describe!(TemplateBuild, "TemplateBuild", "A build of a variant.", {
    image: "The image.",
    source: "What it was built from.",
    built_at: "When, in milliseconds since 1970-01-01 UTC.",
});

describe!(Variant, "Variant", "A variant of a template.", {
    name: "Its name.",
    role: "What its instances are for.",
    profile: "The profile of the source.",
    resources: "The size of one instance.",
} or absent {
    build: "Its build, once there is one.",
});

describe!(Template, "Template", "What images are made of, and the sizes of their instances.", {
    template_id: "Its id.",
    source: "What its images are made from.",
    profile: "The profile of the source.",
    variants: "Its variants.",
    created_at: "When it came to this host, in milliseconds since 1970-01-01 UTC.",
    generation: "Counts the changes of the record.",
} or absent {
    signed: "What it was pulled as; absent when it was made or built here.",
});

describe!(TemplateUse, "TemplateUse", "A pool that is built from a template.", {
    pool: "The pool.",
    of: "What its source names.",
});

describe!(TemplateInfo, "TemplateInfo", "A template with what uses it.", {
    template: "Its record.",
    used_by: "The pools that are built from it.",
    bytes: "The lengths of its images' files together, by image.",
});

describe!(Pushed, "Pushed", "What a push did, or would do.", {
    template_id: "The template.",
    signer_id: "Who signed it.",
    index: "The key of its index in the storage.",
    objects: "How many files its images have.",
    new_objects: "How many of them were not in the storage.",
    new_bytes: "The lengths of these together, in bytes.",
});

describe!(TemplateVerified, "TemplateVerified", "What a look at all files of a template found.", {
    template_id: "Which.",
    images: "The images whose files were read.",
    signer_id: "Who signed it; null when it was made here.",
});
