//! The store: records, claims and audit logs, changed in transactions.
//!
//! Two stores with one meaning: [`sqlite::SqliteStore`] for machines, [`memory::MemoryStore`] for
//! simulation and tests; `tests.rs` runs the same suite over both. This module refuses to know what
//! a record means; [`records`] is the typed view of it.
//!
//! - [`chain`] — the hash chain of the audit log.
//! - [`tally`] — what instances cost together, kept up with every record.
//! - [`export`] — the documented files, written after each commit and never read back.
//! - [`recover`] — reading those files when the store is lost.
//! - `ledger` — the anchors of audit logs; `segments` — their files; `verify` — one against the other.

pub mod chain;
pub mod export;
mod ledger;
pub mod memory;
pub mod records;
pub mod recover;
mod segments;
pub mod sqlite;
pub mod tally;
mod verify;

#[cfg(test)]
mod tests;

use std::{
    io,
    path::{Path, PathBuf},
};

use mvm_core::port::Table;

/// The name of a table in the database.
const fn table_name(table: Table) -> &'static str {
    match table {
        Table::Tenants => "tenants",
        Table::Pools => "pools",
        Table::Instances => "instances",
        Table::Tombstones => "tombstones",
        Table::Volumes => "volumes",
        Table::Templates => "templates",
        Table::Meta => "meta",
    }
}

/// The number in a claim's name directly below `prefix`, if that is what it is.
fn claimed_number(name: &str, prefix: &str) -> Option<u32> {
    name.strip_prefix(prefix)?.strip_prefix('/')?.parse().ok()
}

/// Where a file of the store is: here, or where one link leads that root made because an agent without
/// root keeps it. What is there may be that agent's, and is followed no further.
#[expect(clippy::disallowed_methods, reason = "R3: where the store itself lies")]
fn kept(file: &Path) -> io::Result<PathBuf> {
    let (Some(directory), Some(name)) = (file.parent(), file.file_name()) else {
        return Err(io::ErrorKind::InvalidFilename.into());
    };
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    // Links above it are the operator's.
    let file = std::fs::canonicalize(directory)?.join(name);
    match std::fs::read_link(&file) {
        Ok(target) => Ok(file.with_file_name(target)),
        Err(_) => Ok(file),
    }
}

/// The half-open range of keys that lie below `prefix`: `0` is the character after `/`.
fn below(prefix: &str) -> (String, String) {
    (format!("{prefix}/"), format!("{prefix}0"))
}
