//! `template.toml`, as a document (SPEC §5).
//!
//! ```toml
//! template_id = "web"
//! source = "oci:registry.example.com/team/web:1.2"   # or as --image says, or a flake
//! profile = "minimal"
//! [[variants]]
//! name = "small"
//! role = "worker"
//! vcpus = 1
//! mem_mib = 256
//! data_disk_mib = 0
//! ```
//! Unknown keys are refused, and all findings come together. It refuses to know where the document is from.

use serde_json::Value;

use super::{TemplateSpec, Variant};
use crate::{
    document::{Findings, below, element, present},
    error::{Error, ErrorKind},
    id::{PoolId, TemplateId, VariantId},
    pool::{Resources, Role, Source},
    units::{Mib, Vcpus},
};

const TEMPLATE: &[&str] = &["template_id", "source", "profile", "variants"];
const VARIANT: &[&str] = &["name", "role", "profile", "vcpus", "mem_mib", "data_disk_mib"];
const PROFILE: &str = "minimal";

impl TemplateSpec {
    /// Reads a template.
    ///
    /// # Errors
    /// `Invalid` with one cause for each finding.
    pub fn read(value: &Value) -> Result<Self, Error> {
        let mut findings = Findings::new();
        let spec = template(value, &mut findings);
        findings.settle("the template")?;
        let spec =
            spec.ok_or_else(|| Error::new(ErrorKind::Invalid, "the template makes no sense"))?;
        spec.validate()?;
        Ok(spec)
    }
}

fn template(value: &Value, findings: &mut Findings) -> Option<TemplateSpec> {
    let map = findings.object(value, "", TEMPLATE)?;
    let id = findings.needed(map, "", "template_id");
    let id = id.and_then(|value| findings.parsed::<TemplateId>(value, "template_id"));
    let source = findings.needed(map, "", "source");
    let source = source.and_then(|value| findings.text(value, "source"));
    let source = source.and_then(|text| match Source::from_text(text) {
        Ok(source) => Some(source),
        Err(error) => {
            findings.add("source", error.to_string());
            None
        }
    });
    let profile = match present(map, "profile") {
        Some(value) => profile(value, "profile", findings)?,
        None => PROFILE.to_owned(),
    };
    let list = findings.needed(map, "", "variants");
    let list = list.and_then(|list| findings.list(list, "variants"));
    let mut variants = Vec::new();
    for (index, value) in list.unwrap_or_default().iter().enumerate() {
        variants.extend(variant(value, &element("variants", index), &profile, findings));
    }
    Some(TemplateSpec { template_id: id?, source: source?, profile, variants })
}

fn variant(value: &Value, path: &str, usual: &str, findings: &mut Findings) -> Option<Variant> {
    let map = findings.object(value, path, VARIANT)?;
    let name = findings.needed(map, path, "name");
    let name = name.and_then(|value| findings.parsed::<VariantId>(value, &below(path, "name")));
    let role = match present(map, "role") {
        Some(value) => findings.parsed::<Role>(value, &below(path, "role")),
        None => Some(Role::Worker),
    };
    let profile = match present(map, "profile") {
        Some(value) => profile(value, &below(path, "profile"), findings),
        None => Some(usual.to_owned()),
    };
    let mut number = |key, range| {
        let value = findings.needed(map, path, key)?;
        findings.number(value, &below(path, key), range)
    };
    let (vcpus, mem) = (number("vcpus", 1..=32), number("mem_mib", 64..=1 << 20));
    let disk = match present(map, "data_disk_mib") {
        Some(value) => findings.number(value, &below(path, "data_disk_mib"), 0..=16 << 20),
        None => Some(0),
    };
    let resources = Resources::new(Vcpus(vcpus?), Mib(mem?), Mib(disk?));
    Some(Variant { name: name?, role: role?, profile: profile?, resources, build: None })
}

fn profile(value: &Value, path: &str, findings: &mut Findings) -> Option<String> {
    let text = findings.text(value, path)?;
    if text.parse::<PoolId>().is_err() {
        findings.add(path, "is not the name of a profile: write it like a pool's, as minimal");
        return None;
    }
    Some(text.to_owned())
}
