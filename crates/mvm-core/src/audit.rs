//! What a look at an audit log found: whether its chain is whole, and where it breaks.
//!
//! It refuses to know how a chain is made; the store does.

use serde::{Deserialize, Serialize};

use crate::id::TenantId;

/// Where an audit log ends, which tells it from every other one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogEnd {
    /// Whose log.
    pub tenant: TenantId,
    /// The last entry.
    pub seq: u64,
    /// The hash of the last entry.
    pub hash: String,
}

/// One file of an exported audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditFile {
    /// Its name in the tenant's directory or in the archive.
    pub name: String,
    /// Its first entry; 0 when it is empty.
    pub first_seq: u64,
    /// Its last entry; 0 when it is empty.
    pub last_seq: u64,
}

/// What a look at one audit log found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditReport {
    /// Whose log.
    pub tenant: TenantId,
    /// Where the archived log of a destroyed tenant is; none for a living one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<String>,
    /// The last entry, as anchored.
    pub last_seq: u64,
    /// The hash of the last entry, as anchored.
    pub last_hash: String,
    /// The first entry that is in the store; earlier ones are in rotated files only.
    pub first_stored_seq: u64,
    /// The exported files, oldest first.
    pub files: Vec<AuditFile>,
    /// How many entries the files lack because a crash came before they were written; the next event
    /// writes them.
    pub unexported: u64,
    /// Where the chain breaks; empty when it is whole.
    pub problems: Vec<String>,
}

impl AuditReport {
    /// A report that found nothing yet.
    #[must_use]
    pub fn of(tenant: &TenantId, last_seq: u64, last_hash: &str) -> Self {
        Self {
            tenant: tenant.clone(),
            archive: None,
            last_seq,
            last_hash: last_hash.to_owned(),
            first_stored_seq: 1,
            files: Vec::new(),
            unexported: 0,
            problems: Vec::new(),
        }
    }
}
