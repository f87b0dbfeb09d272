//! What `mvm coordinator token`, `approve`, `renew` and `revoke` show.

use mvm::{
    Approved, Asked, Invitation, Revocation,
    api::{self, Role},
    units::Timestamp,
};
use serde::Serialize;

use crate::render::table::facts;

/// A join token.
#[derive(Debug, Serialize)]
pub(crate) struct Invited {
    pub(crate) token: String,
    pub(crate) expires: Timestamp,
    pub(crate) authority: String,
}

impl Invited {
    pub(crate) fn of(made: Invitation) -> Self {
        let Invitation { token, expires, authority } = made;
        Self { token, expires, authority }
    }
}

/// What was approved.
#[derive(Debug, Serialize)]
pub(crate) struct Approval {
    pub(crate) role: Role,
    pub(crate) name: String,
    pub(crate) key: String,
    pub(crate) certificate: api::Certificate,
    pub(crate) file: Option<String>,
}

impl Approval {
    pub(crate) fn of(approved: Approved, file: Option<String>) -> Self {
        let Approved { asked: Asked { role, name, key }, certificate } = approved;
        Self { role, name, key, certificate, file }
    }
}

pub(crate) fn asked(one: &Asked) -> String {
    format!("{} asks for a {} certificate of the key {}", one.name, one.role, one.key)
}

pub(crate) fn approval(one: &Approval) -> String {
    let place = one
        .file
        .as_ref()
        .map(|file| format!("\nInstall it on the node: mvm agent certs install {file}"));
    remote_certificate(&one.certificate) + &place.unwrap_or_default()
}

pub(crate) fn remote_certificate(one: &api::Certificate) -> String {
    facts(vec![
        ("Name", one.name.clone()),
        ("Valid from", one.not_before.rfc3339()),
        ("Valid until", one.not_after.rfc3339()),
        ("Serial", one.serial.clone()),
        ("Fingerprint", one.fingerprint.clone()),
    ])
}

/// A revoked certificate.
#[derive(Debug, Serialize)]
pub(crate) struct RevokedOne {
    pub(crate) serial: String,
    pub(crate) name: Option<String>,
}

/// A node that a list was pushed to.
#[derive(Debug, Serialize)]
pub(crate) struct PushedTo {
    pub(crate) node: String,
    pub(crate) number: Option<u64>,
    pub(crate) error: Option<String>,
}

/// A list of revoked certificates, and who has it.
#[derive(Debug, Serialize)]
pub(crate) struct RevokedList {
    pub(crate) number: u64,
    pub(crate) certificates: u64,
    pub(crate) revoked: Vec<RevokedOne>,
    pub(crate) file: String,
    pub(crate) pushed: Vec<PushedTo>,
}

impl RevokedList {
    pub(crate) fn of(done: Revocation) -> Self {
        let pushed = done.pushed.into_iter().map(|one| PushedTo {
            node: one.node,
            number: one.number.as_ref().ok().copied(),
            error: one.number.err().map(|error| error.to_string()),
        });
        let revoked = done.certificates.into_iter();
        Self {
            number: done.list.number,
            certificates: done.list.certificates,
            revoked: revoked.map(|one| RevokedOne { serial: one.serial, name: one.name }).collect(),
            file: done.file.display().to_string(),
            pushed: pushed.collect(),
        }
    }
}

pub(crate) fn revoked_list(one: &RevokedList) -> String {
    let mut lines: Vec<String> = one
        .revoked
        .iter()
        .map(|it| format!("revoked {} of {}", it.serial, it.name.as_deref().unwrap_or("unknown")))
        .collect();
    lines.push(format!("list {}, {} certificates: {}", one.number, one.certificates, one.file));
    if one.pushed.is_empty() {
        lines
            .push("No node knows yet; push it: mvm coordinator revoke --node HOST:PORT".to_owned());
    }
    let told = |it: &PushedTo| match (&it.number, &it.error) {
        (Some(number), _) => format!("{} has list {number}", it.node),
        (None, error) => format!("{}: {}", it.node, error.as_deref().unwrap_or("no answer")),
    };
    lines.extend(one.pushed.iter().map(told));
    lines.join("\n")
}
