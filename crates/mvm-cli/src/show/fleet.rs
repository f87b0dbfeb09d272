//! What `mvm agent certs …`, `mvm coordinator …` and `mvm add …` show.

use mvm::{
    Acceptance, CertificateRequest, CertsStep, SignerKey, TenantId, Usage,
    api::{self, InstanceRow, NodeFigures, NodeInfo, Role, TenantRow},
    units::Timestamp,
};
use serde::Serialize;

use crate::render::table::{facts, table};

/// What a command would do, with `--dry-run`.
#[derive(Debug, Serialize)]
pub(crate) struct Would {
    pub(crate) act: &'static str,
    pub(crate) subject: String,
}

impl Would {
    pub(crate) fn text(&self) -> String {
        format!("would {} {}", self.act, self.subject)
    }
}

/// A step of a command.
#[derive(Debug, Serialize)]
pub(crate) struct Step {
    pub(crate) act: String,
    pub(crate) changed: bool,
}

pub(crate) fn steps(all: Vec<CertsStep>) -> Vec<Step> {
    all.into_iter().map(|step| Step { act: step.act, changed: step.changed }).collect()
}

pub(crate) fn steps_text(all: &[Step]) -> String {
    let line = |step: &Step| format!("{} {}", if step.changed { "+" } else { "=" }, step.act);
    all.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// A request for a certificate.
#[derive(Debug, Serialize)]
pub(crate) struct Request {
    pub(crate) role: Role,
    pub(crate) name: String,
    pub(crate) request: String,
    pub(crate) file: String,
}

impl Request {
    pub(crate) fn of(made: CertificateRequest) -> Self {
        let CertificateRequest { role, name, request, file } = made;
        Self { role, name, request, file: file.display().to_string() }
    }
}

/// A certificate of this side.
#[derive(Debug, Serialize)]
pub(crate) struct Certificate {
    pub(crate) role: Option<Role>,
    pub(crate) name: String,
    pub(crate) subject: String,
    pub(crate) issuer: String,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
    pub(crate) serial: String,
    pub(crate) fingerprint: String,
    pub(crate) key: String,
    pub(crate) renewal_due: bool,
}

impl Certificate {
    pub(crate) fn of(facts: mvm::Certificate) -> Self {
        Self {
            role: facts.role,
            name: facts.name,
            subject: facts.subject,
            issuer: facts.issuer,
            not_before: facts.not_before,
            not_after: facts.not_after,
            serial: facts.serial,
            fingerprint: facts.fingerprint,
            key: facts.key,
            renewal_due: facts.is_due,
        }
    }
}

pub(crate) fn certificates(all: &[Certificate]) -> String {
    if all.is_empty() {
        return "No certificates; make them: mvm agent certs init".to_owned();
    }
    let one = |one: &Certificate| {
        facts(vec![
            ("Role", one.role.map_or_else(|| "none".to_owned(), |role| role.to_string())),
            ("Name", one.name.clone()),
            ("Subject", one.subject.clone()),
            ("Issuer", one.issuer.clone()),
            ("Valid from", one.not_before.rfc3339()),
            ("Valid until", one.not_after.rfc3339()),
            ("Renewal", if one.renewal_due { "due" } else { "not yet due" }.to_owned()),
            ("Serial", one.serial.clone()),
            ("Fingerprint", one.fingerprint.clone()),
            ("Key", one.key.clone()),
        ])
    };
    all.iter().map(one).collect::<Vec<_>>().join("\n\n")
}

/// A key that signs desired states.
#[derive(Debug, Serialize)]
pub(crate) struct Signer {
    pub(crate) signer_id: String,
    pub(crate) public_key: String,
    pub(crate) key: String,
    pub(crate) public_file: String,
}

impl Signer {
    pub(crate) fn of(made: SignerKey) -> Self {
        let SignerKey { signer_id, public_key, key, public_file } = made;
        let (key, public_file) = (key.display().to_string(), public_file.display().to_string());
        Self { signer_id, public_key, key, public_file }
    }
}

pub(crate) fn signer(one: &Signer) -> String {
    facts(vec![
        ("Signer", one.signer_id.clone()),
        ("Public key", one.public_key.clone()),
        ("Key", one.key.clone()),
        ("For nodes", one.public_file.clone()),
    ])
}

pub(crate) fn acceptance(one: &Acceptance) -> String {
    let by = one.signer_id.as_deref().map_or("nobody".to_owned(), |id| format!("signer {id}"));
    let sequence = one.sequence.map_or_else(String::new, |number| format!(", sequence {number}"));
    format!("Accepted: {} tenants, signed by {by}{sequence}", one.tenants)
}

pub(crate) fn remote_node(info: &NodeInfo) -> String {
    let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
    let of = &info.facts;
    let desired = info.desired.as_ref();
    let pass = info.pass.as_ref().map_or_else(
        || "none since its agent started".to_owned(),
        |pass| match pass.failures.as_slice() {
            [] => format!("done at {}", pass.ended_at.rfc3339()),
            some => format!(
                "{} failures at {}: {}",
                some.len(),
                pass.ended_at.rfc3339(),
                some.join("; ")
            ),
        },
    );
    facts(vec![
        ("Node", info.node_id.clone()),
        ("Version", info.version.clone()),
        ("Production", yes(info.production)),
        ("Host", format!("{} ({}, Linux {})", of.hostname, of.arch, of.kernel)),
        ("CPUs", of.vcpus.to_string()),
        ("Memory", format!("{} MiB, {} available", of.mem_mib, of.mem_available_mib)),
        ("KVM", format!("{}: {}", yes(of.kvm), of.kvm_detail)),
        ("Jailer", yes(of.jailer)),
        ("cgroup v2", yes(of.cgroup_v2)),
        ("Running", info.usage.running.to_string()),
        ("Desired", desired.map_or_else(|| "nothing was accepted".to_owned(), acceptance)),
        ("Last pass", pass),
        ("Certificate", info.certificate.as_ref().map_or_else(|| "none".to_owned(), validity)),
        ("Revoked", info.revocations.as_ref().map_or_else(|| "no list".to_owned(), list)),
    ])
}

fn validity(one: &api::Certificate) -> String {
    let due = if one.renewal_due { ", renewal due" } else { "" };
    format!("until {}{due}, serial {}", one.not_after.rfc3339(), one.serial)
}

fn list(one: &api::Revocations) -> String {
    format!("{} certificates, list {}", one.certificates, one.number)
}

pub(crate) fn remote_tenants(all: &[TenantRow]) -> String {
    let row = |one: &TenantRow| {
        [
            one.tenant_id.to_string(),
            one.net_id.to_string(),
            one.subnet.to_string(),
            one.pools.to_string(),
            one.instances.to_string(),
            format!("{}/{}", one.usage.running, one.quotas.max_running),
            format!("{}/{} MiB", one.usage.mem_mib, one.quotas.max_mem_mib.0),
        ]
    };
    table(
        ["TENANT", "NET", "SUBNET", "POOLS", "INSTANCES", "RUNNING", "MEMORY"],
        all.iter().map(row).collect(),
    )
}

pub(crate) fn remote_figures(one: &NodeFigures) -> String {
    let states = one.states.iter().map(|(state, count)| format!("{count} {state}"));
    let states: Vec<String> = states.collect();
    let mut all = vec![
        ("Instances", if states.is_empty() { "none".to_owned() } else { states.join(", ") }),
        ("vCPUs", one.usage.vcpus.to_string()),
        ("Memory", format!("{} MiB", one.usage.mem_mib)),
    ];
    let usage = |(tenant, usage): (&TenantId, &Usage)| {
        let Usage { running, vcpus, mem_mib, .. } = usage;
        ("Tenant", format!("{tenant}: {running} running, {vcpus} vCPUs, {mem_mib} MiB"))
    };
    all.extend(one.tenants.iter().map(usage));
    facts(all)
}

pub(crate) fn remote_instances(all: &[InstanceRow]) -> String {
    let row = |one: &InstanceRow| {
        [
            one.instance.to_string(),
            one.state.to_string(),
            one.address.map_or_else(String::new, |address| address.to_string()),
            one.role.to_string(),
            one.last_failure.clone().unwrap_or_default(),
        ]
    };
    table(["INSTANCE", "STATE", "ADDRESS", "ROLE", "NOTE"], all.iter().map(row).collect())
}
