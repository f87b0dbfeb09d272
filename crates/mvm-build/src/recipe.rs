//! The content key of an image: one hash over everything that goes in.
//!
//! Pure: it sees names and digests, never files. Two builds with one key may stand for each other;
//! whatever changes the result must therefore be here.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::catalogue::{Arch, LockedPackage};
use crate::hash::ContentHash;

/// How images are put together. It is raised with every change of what this crate writes into an
/// image from the same inputs.
pub const RECIPE_VERSION: u32 = 3;

/// One thing that went into an image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// What it is.
    pub kind: InputKind,
    /// Its name; for files without one, what they are for.
    pub name: String,
    /// Its version, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The digest of its bytes.
    pub sha256: ContentHash,
}

/// The kinds of inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputKind {
    /// The guest agent.
    Agent,
    /// A file of this program's own.
    File,
    /// A file of a kernel.
    KernelFile,
    /// A package with a kernel.
    KernelPackage,
    /// The document that names all of an OCI image: its manifest, or its configuration.
    OciImage,
    /// A package of the user space.
    Package,
    /// What the image runs, where that does not follow from the rest.
    Workload,
    /// A root that was made elsewhere, by its content.
    Root,
}

impl InputKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::File => "file",
            Self::KernelFile => "kernel_file",
            Self::KernelPackage => "kernel_package",
            Self::OciImage => "oci_image",
            Self::Package => "package",
            Self::Workload => "workload",
            Self::Root => "root",
        }
    }
}

impl Input {
    /// A package as an input.
    #[must_use]
    pub fn package(kind: InputKind, package: &LockedPackage) -> Self {
        Self {
            kind,
            name: package.name.clone(),
            version: Some(package.version.clone()),
            sha256: package.sha256,
        }
    }
}

/// All that decides what is in an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// The image's name.
    pub name: String,
    /// What it runs on.
    pub arch: Arch,
    /// The generation of the guest protocol that the agent speaks.
    pub agent_protocol: u32,
    /// The inputs, in any order.
    pub inputs: Vec<Input>,
}

impl Recipe {
    /// The content key. The order of the inputs has no part in it, everything else has.
    #[must_use]
    pub fn key(&self) -> ContentHash {
        let mut key = Key(Sha256::new());
        key.text("mvm image recipe");
        key.number(RECIPE_VERSION);
        key.text(&self.name);
        key.text(self.arch.as_str());
        key.number(self.agent_protocol);
        let mut inputs: Vec<&Input> = self.inputs.iter().collect();
        inputs.sort();
        for input in inputs {
            key.text(input.kind.as_str());
            key.text(&input.name);
            key.number(u32::from(input.version.is_some()));
            key.text(input.version.as_deref().unwrap_or_default());
            key.text(&input.sha256.to_string());
        }
        key.finish()
    }
}

/// A hash over parts whose borders count: each is preceded by its length.
pub(crate) struct Key(Sha256);

impl Key {
    pub(crate) fn new(purpose: &str) -> Self {
        let mut key = Self(Sha256::new());
        key.text(purpose);
        key
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.0.update((text.len() as u64).to_le_bytes());
        self.0.update(text.as_bytes());
    }

    pub(crate) fn number(&mut self, number: u32) {
        self.0.update(number.to_le_bytes());
    }

    pub(crate) fn finish(self) -> ContentHash {
        ContentHash::from_hasher(self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kind() -> impl Strategy<Value = InputKind> {
        prop_oneof![
            Just(InputKind::Agent),
            Just(InputKind::File),
            Just(InputKind::Root),
            Just(InputKind::KernelFile),
            Just(InputKind::KernelPackage),
            Just(InputKind::OciImage),
            Just(InputKind::Package),
            Just(InputKind::Workload),
        ]
    }

    fn input() -> impl Strategy<Value = Input> {
        (kind(), "[a-z]{0,6}", proptest::option::of("[0-9.]{0,4}"), any::<u64>()).prop_map(
            |(kind, name, version, seed)| Input {
                kind,
                name,
                version,
                sha256: ContentHash::of(&seed.to_le_bytes()),
            },
        )
    }

    fn recipe() -> impl Strategy<Value = Recipe> {
        ("[a-z]{1,6}", 0..9_u32, proptest::collection::vec(input(), 0..6)).prop_map(
            |(name, agent_protocol, inputs)| Recipe {
                name,
                arch: Arch::X86_64,
                agent_protocol,
                inputs,
            },
        )
    }

    fn sorted(recipe: &Recipe) -> Recipe {
        let mut recipe = recipe.clone();
        recipe.inputs.sort();
        recipe
    }

    proptest! {
        #[test]
        fn the_order_of_inputs_does_not_change_the_key(
            recipe in recipe(), turn in any::<prop::sample::Index>()
        ) {
            let mut other = recipe.clone();
            if !other.inputs.is_empty() {
                let by = turn.index(other.inputs.len());
                other.inputs.rotate_left(by);
            }
            prop_assert_eq!(other.key(), recipe.key());
        }

        #[test]
        fn two_recipes_have_one_key_only_if_they_are_the_same(a in recipe(), b in recipe()) {
            prop_assert_eq!(a.key() == b.key(), sorted(&a) == sorted(&b));
        }

        #[test]
        fn any_change_of_an_input_changes_the_key(
            recipe in recipe(), at in any::<prop::sample::Index>(), new in input()
        ) {
            prop_assume!(!recipe.inputs.is_empty());
            let mut changed = recipe.clone();
            let at = at.index(changed.inputs.len());
            let mut variants = Vec::new();
            if let Some(input) = changed.inputs.get_mut(at) {
                let old = input.clone();
                variants.push(Input { kind: new.kind, ..old.clone() });
                variants.push(Input { name: new.name.clone(), ..old.clone() });
                variants.push(Input { version: new.version.clone(), ..old.clone() });
                variants.push(Input { sha256: new.sha256, ..old.clone() });
                for variant in variants {
                    let is_same = variant == old;
                    let mut other = recipe.clone();
                    if let Some(slot) = other.inputs.get_mut(at) {
                        *slot = variant;
                    }
                    prop_assert_eq!(other.key() == recipe.key(), is_same);
                }
            }
            let mut shorter = recipe.clone();
            shorter.inputs.remove(at);
            prop_assert_ne!(shorter.key(), recipe.key());
        }
    }

    #[test]
    fn the_borders_between_parts_count() {
        let key = |parts: [&str; 2]| {
            let mut key = Key::new("test");
            parts.iter().for_each(|part| key.text(part));
            key.finish()
        };
        assert_ne!(key(["ab", "c"]), key(["a", "bc"]));
    }

    #[test]
    fn what_is_no_input_counts_too() {
        let base = Recipe {
            name: "x".to_owned(),
            arch: Arch::X86_64,
            agent_protocol: 1,
            inputs: Vec::new(),
        };
        assert_ne!(Recipe { agent_protocol: 2, ..base.clone() }.key(), base.key());
        assert_ne!(Recipe { arch: Arch::Aarch64, ..base.clone() }.key(), base.key());
        assert_ne!(Recipe { name: "y".to_owned(), ..base.clone() }.key(), base.key());
    }
}
