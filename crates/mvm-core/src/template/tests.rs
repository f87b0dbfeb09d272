#![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::{
    base64,
    signed::{PublicKey, Purpose, TrustedKeys},
    units::{Mib, Vcpus},
};

fn hash(digit: &str) -> ImageHash {
    digit.repeat(64).parse().unwrap()
}

fn spec() -> TemplateSpec {
    let value = json!({
        "template_id": "web", "source": "oci-archive:/srv/web.tar",
        "variants": [
            {"name": "small", "vcpus": 1, "mem_mib": 128},
            {"name": "large", "role": "gateway", "profile": "full", "vcpus": 2, "mem_mib": 512,
             "data_disk_mib": 64},
        ],
    });
    TemplateSpec::read(&value).unwrap()
}

fn template() -> Template {
    let TemplateSpec { template_id, source, profile, mut variants } = spec();
    for (variant, digit) in variants.iter_mut().zip(["1", "2"]) {
        let built_at = Timestamp(5);
        variant.build =
            Some(TemplateBuild { image: hash(digit), source: source.clone(), built_at });
    }
    let (created_at, generation) = (Timestamp(1), Generation(1));
    Template { template_id, source, profile, variants, signed: None, created_at, generation }
}

fn index() -> Index {
    let file = ImageFile { name: "rootfs.squashfs".to_owned(), size: 3, sha256: hash("a") };
    let images = BTreeMap::from([(hash("1"), vec![file.clone()]), (hash("2"), vec![file])]);
    Index::for_push(&template(), images, Timestamp(9)).unwrap()
}

/// A signature that is its message, padded; real ones are tested where they are made.
fn holds(_: &PublicKey, message: &[u8], signature: &[u8]) -> bool {
    seal(message) == signature
}

fn seal(message: &[u8]) -> Vec<u8> {
    let mut seal = vec![0_u8; 64];
    for (place, byte) in message.iter().enumerate() {
        if let Some(at) = seal.get_mut(place % 64) {
            *at = at.rotate_left(3) ^ byte;
        }
    }
    seal
}

fn signed(document: &[u8]) -> SignedDocument {
    let (payload, signer_id) = (base64::encode(document), "aa".to_owned());
    let mut signed = SignedDocument { payload, signature: String::new(), signer_id };
    signed.signature = base64::encode(&seal(&signed.message(Purpose::Template)));
    signed
}

fn opened(signed: &SignedDocument) -> Result<SignedTemplate, Error> {
    let keys = TrustedKeys::from([("aa".to_owned(), PublicKey([7; 32]))]);
    let bytes = serde_json::to_vec(signed).unwrap();
    SignedTemplate::open(&bytes, &"web".parse().unwrap(), &keys, &holds)
}

#[test]
fn a_variant_has_the_profile_of_its_template_and_is_a_worker_unless_it_says_otherwise() {
    let spec = spec();
    let [small, large] = spec.variants.as_slice() else { unreachable!() };
    assert_eq!((&small.role, small.profile.as_str()), (&Role::Worker, "minimal"));
    assert_eq!(small.resources, Resources::new(Vcpus(1), Mib(128), Mib(0)));
    assert_eq!((&large.role, large.profile.as_str()), (&Role::Gateway, "full"));
    assert_eq!(large.resources.data_disk_mib, Mib(64));
}

#[test]
fn every_finding_in_a_template_has_its_place() {
    let value = json!({
        "template_id": "Web", "source": "oci:web", "profil": "x",
        "variants": [{"name": "a", "vcpus": 99, "mem_mib": 128, "disk": 1}],
    });
    let error = TemplateSpec::read(&value).unwrap_err();
    let all = error.causes.join("\n");
    for place in ["template_id", "source", "profil", "variants[0].vcpus", "variants[0].disk"] {
        assert!(all.contains(place), "{place}: {all}");
    }
    let none = json!({"template_id": "web", "source": "default", "variants": []});
    assert_eq!(TemplateSpec::read(&none).unwrap_err().kind, ErrorKind::Invalid);
    let twice = json!({"name": "a", "vcpus": 1, "mem_mib": 64});
    let twice = json!({"template_id": "web", "source": "default", "variants": [twice, twice]});
    assert!(TemplateSpec::read(&twice).unwrap_err().message.contains("twice"));
}

#[test]
fn one_text_says_whether_a_source_is_a_flake() {
    let image =
        |text: &str| assert_eq!(Source::from_text(text), Ok(Source::Image(text.to_owned())));
    let flake =
        |text: &str| assert_eq!(Source::from_text(text), Ok(Source::Flake(text.to_owned())));
    ["default", "/srv/app", "deb:busybox-static", "oci:r.example.com/a:1"]
        .iter()
        .for_each(|text| image(text));
    ["github:org/app", "path:/srv/app", "git+https://example.com/a"]
        .iter()
        .for_each(|text| flake(text));
    assert!(Source::from_text("oci:nowhere").is_err());
}

#[test]
fn a_reference_without_a_variant_means_the_only_one() {
    let mut template = template();
    let find = |template: &Template, text: &str| {
        let found = template.variant(&text.parse().unwrap()).map(|one| one.name.to_string());
        found.map_err(|error| error.kind)
    };
    assert_eq!(find(&template, "web:large"), Ok("large".to_owned()));
    assert_eq!(find(&template, "web:huge"), Err(ErrorKind::NotFound));
    assert_eq!(find(&template, "web"), Err(ErrorKind::Invalid));
    template.variants.truncate(1);
    assert_eq!(find(&template, "web"), Ok("small".to_owned()));
}

#[test]
fn what_a_trusted_signer_made_of_a_template_opens_as_it_was() {
    let index = index();
    let opened = opened(&signed(&serde_json::to_vec(&index).unwrap())).unwrap();
    assert_eq!(opened.index, index);
}

#[test]
fn an_index_that_was_altered_or_is_of_another_template_or_signer_is_not_taken() {
    let document = serde_json::to_vec(&index()).unwrap();
    let whole = signed(&document);
    let other = SignedDocument { signer_id: "bb".to_owned(), ..whole.clone() };
    let altered = SignedDocument { payload: base64::encode(b"{}"), ..whole.clone() };
    let cut = SignedDocument { signature: "AAAA".to_owned(), ..whole };
    let renamed = Index { template_id: "api".parse().unwrap(), ..index() };
    let renamed = signed(&serde_json::to_vec(&renamed).unwrap());
    for bad in [other, altered, cut, renamed] {
        assert_eq!(opened(&bad).unwrap_err().kind, ErrorKind::Integrity, "{bad:?}");
    }
}

#[test]
fn a_signed_index_that_names_a_path_or_other_images_is_not_taken() {
    let with = |change: fn(&mut Index)| {
        let mut index = index();
        change(&mut index);
        opened(&signed(&serde_json::to_vec(&index).unwrap())).map(drop).map_err(|e| e.kind)
    };
    assert_eq!(with(|_| ()), Ok(()));
    let bad: [fn(&mut Index); 5] = [
        |index| index.images.values_mut().flatten().for_each(|file| file.name = "../x".to_owned()),
        |index| index.images.values_mut().flatten().for_each(|file| file.name = ".x".to_owned()),
        |index| drop(index.images.insert(hash("3"), Vec::new())),
        |index| index.images.clear(),
        |index| index.schema = 2,
    ];
    for change in bad {
        assert_eq!(with(change), Err(ErrorKind::Integrity));
    }
}

#[test]
fn a_template_is_pushed_only_when_every_variant_has_a_build() {
    let mut template = template();
    template.variants.iter_mut().for_each(|one| one.build = None);
    let error = Index::for_push(&template, BTreeMap::new(), Timestamp(9)).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
}
