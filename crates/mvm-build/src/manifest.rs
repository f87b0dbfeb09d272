//! The manifest of an image: what it is, what it was made from, and the digests of its files.
//!
//! Stored beside the files as `manifest.json`, schema 1. Unknown fields are refused: a manifest of
//! a later program is not half understood.

use serde::{Deserialize, Serialize};

use crate::catalogue::Arch;
use crate::hash::ContentHash;
use crate::recipe::Input;

/// The schema this program writes and reads.
pub const MANIFEST_SCHEMA: u32 = 1;

/// What is known of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Always [`MANIFEST_SCHEMA`].
    pub schema: u32,
    /// The name it was built under, such as `default`.
    pub name: String,
    /// The content key, which is also the name of its directory.
    pub hash: ContentHash,
    /// What it runs on.
    pub arch: Arch,
    /// Everything that went in, sorted.
    pub created_from: Vec<Input>,
    /// The kernel.
    pub kernel: KernelFile,
    /// The initramfs, when the kernel has its drivers as modules.
    pub initrd: Option<ImageFile>,
    /// The root file system.
    pub root: RootFile,
    /// The guest agent inside.
    pub agent: AgentInfo,
    /// What differed from the plan, for people.
    pub notes: Vec<String>,
}

/// A file of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageFile {
    /// Its name in the image's directory.
    pub file: String,
    /// Its length in bytes.
    pub size: u64,
    /// Its digest.
    pub sha256: ContentHash,
}

/// The kernel of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelFile {
    /// Its name in the image's directory.
    pub file: String,
    /// Its length in bytes.
    pub size: u64,
    /// Its digest.
    pub sha256: ContentHash,
    /// What this image needs on the kernel's command line, beside what the host adds.
    pub cmdline: Vec<String>,
}

/// The root file system of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootFile {
    /// Its name in the image's directory.
    pub file: String,
    /// Its length in bytes.
    pub size: u64,
    /// Its digest.
    pub sha256: ContentHash,
    /// How it is to be mounted.
    pub format: RootFormat,
}

/// Kinds of root file systems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RootFormat {
    /// Read-only squashfs 4.0.
    Squashfs,
}

/// The guest agent of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentInfo {
    /// The digest of the program.
    pub sha256: ContentHash,
    /// The generation of the guest protocol it speaks.
    pub protocol: u32,
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

    use super::*;
    use crate::recipe::InputKind;

    const SNAPSHOT: &str = include_str!("../tests/snapshots/manifest-1.json");

    fn sample() -> Manifest {
        let hash = ContentHash::of(b"");
        Manifest {
            schema: MANIFEST_SCHEMA,
            name: "default".to_owned(),
            hash,
            arch: Arch::X86_64,
            created_from: vec![
                Input { kind: InputKind::Agent, name: "a".to_owned(), version: None, sha256: hash },
                Input {
                    kind: InputKind::Package,
                    name: "b".to_owned(),
                    version: Some("1".to_owned()),
                    sha256: hash,
                },
            ],
            kernel: KernelFile {
                file: "vmlinux".to_owned(),
                size: 1,
                sha256: hash,
                cmdline: vec!["rootfstype=squashfs".to_owned()],
            },
            initrd: Some(ImageFile { file: "initrd.img".to_owned(), size: 2, sha256: hash }),
            root: RootFile {
                file: "rootfs.squashfs".to_owned(),
                size: 3,
                sha256: hash,
                format: RootFormat::Squashfs,
            },
            agent: AgentInfo { sha256: hash, protocol: 1 },
            notes: vec!["n".to_owned()],
        }
    }

    #[test]
    fn schema_1_is_what_the_snapshot_says() {
        let text = serde_json::to_string_pretty(&sample()).unwrap();
        assert_eq!(text, SNAPSHOT.trim_end());
        assert_eq!(serde_json::from_str::<Manifest>(SNAPSHOT).unwrap(), sample());
    }

    #[test]
    fn an_unknown_field_at_any_level_is_refused() {
        for place in ["\"schema\": 1,", "\"file\": \"vmlinux\",", "\"protocol\": 1"] {
            assert!(SNAPSHOT.contains(place), "{place}");
            let extra = if place.ends_with(',') { "\"x\": 1, " } else { "\"x\": 1," };
            let text = SNAPSHOT.replacen(place, &format!("{extra}{place}"), 1);
            assert!(serde_json::from_str::<Manifest>(&text).is_err(), "{place}");
        }
    }
}
