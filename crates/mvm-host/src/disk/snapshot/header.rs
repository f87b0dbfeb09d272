//! What a snapshot says of itself (`header.json`), and whether it fits this host.
//!
//! It only compares: who asks decides what a mismatch means (a cold boot, audited).

use std::path::Path;

use mvm_core::{
    id::{ImageHash, InstanceRef, VmmVersion},
    units::{Generation, Mib, Timestamp},
};
use serde::{Deserialize, Serialize};
use thiserror::Error as ThisError;

use crate::disk::{durable, error::Error, header};

/// The version of the format that is written.
pub const SCHEMA: u32 = 3;
/// The oldest that is read: it knows no bases.
const OLDEST: u32 = 2;
/// The largest guest: 1 TiB. It bounds what an unverified header can make us allocate.
const MAX_MEMORY: Mib = Mib(1 << 20);
/// The largest device state in bytes; real ones are below 1 MiB.
pub(in crate::disk) const MAX_VMSTATE: u64 = 64 << 20;
/// What a snapshot depends on: it may be resumed only where all three are the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Present {
    /// Firecracker's version, as `1.12.1`.
    pub firecracker: String,
    /// The CPU's model, with its stepping and microcode if those matter to the caller.
    pub cpu: String,
    /// The host kernel's family, as `6.1`.
    pub kernel: String,
}

/// What the writer of a snapshot tells about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// On what it was taken.
    pub taken_on: Present,
    /// The image whose root the guest has mounted.
    pub image: ImageHash,
    /// The guest's memory.
    pub memory: Mib,
    /// When it was taken.
    pub created_at: Timestamp,
}

/// Why a snapshot can't be resumed on this host.
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
#[error("the snapshot was taken with {what} {taken:?}, and this host has {present:?}")]
pub struct Mismatch {
    /// `Firecracker`, `CPU` or `host kernel`.
    pub what: &'static str,
    /// What the snapshot needs.
    pub taken: String,
    /// What there is.
    pub present: String,
}

impl Header {
    /// Whether the snapshot can be resumed here.
    ///
    /// # Errors
    /// The first thing that differs.
    pub fn compatible(&self, present: &Present) -> Result<(), Mismatch> {
        let taken = &self.taken_on;
        for (what, taken, present) in [
            ("Firecracker", &taken.firecracker, &present.firecracker),
            ("CPU", &taken.cpu, &present.cpu),
            ("host kernel", &taken.kernel, &present.kernel),
        ] {
            if taken != present {
                return Err(Mismatch { what, taken: taken.clone(), present: present.clone() });
            }
        }
        Ok(())
    }
}

/// How the files are stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Form {
    /// Plain and sparse, for development.
    Raw {
        /// SHA-256 of `vmstate` in hexadecimal.
        vmstate_sha256: String,
    },
    /// AES-256-GCM, each file under a key of its own.
    Sealed,
}

/// All of `header.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    pub(super) schema: u32,
    pub(super) instance: InstanceRef,
    pub(super) epoch: Generation,
    pub(super) header: Header,
    pub(super) vmstate_bytes: u64,
    /// SHA-256 of the header of the base that lies beneath, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) base: Option<String>,
    /// How many chunks at the front of the page file a wake wants first.
    pub(super) chunks_ahead: u64,
    pub(super) form: Form,
}

impl Manifest {
    /// Reads and checks `header.json`; also returns its SHA-256, which binds everything else to it.
    pub(super) fn read(path: &Path) -> Result<(Self, [u8; 32]), Error> {
        let (manifest, digest): (Self, _) = header::read(path, OLDEST..=SCHEMA)?;
        let memory = manifest.header.memory;
        if memory > MAX_MEMORY {
            return Err(Error::integrity(path, format!("{memory} are no guest's memory")));
        }
        if manifest.vmstate_bytes > MAX_VMSTATE {
            let why = format!("{} bytes are no device state", manifest.vmstate_bytes);
            return Err(Error::integrity(path, why));
        }
        Ok((manifest, digest))
    }
}

/// The version of Firecracker that a header names, whatever else it says; none when it is not there or not
/// understood.
pub(super) fn version(path: &Path) -> Result<Option<VmmVersion>, Error> {
    if !durable::exists(path)? {
        return Ok(None);
    }
    let header: Option<serde_json::Value> = serde_json::from_slice(&header::text(path)?).ok();
    let named = header.as_ref().and_then(|header| header.pointer("/header/taken_on/firecracker"));
    Ok(named.and_then(serde_json::Value::as_str).and_then(|version| version.parse().ok()))
}
