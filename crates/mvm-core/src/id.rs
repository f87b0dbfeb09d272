//! Names of tenants, pools, instances and images; parsing is validation.
//!
//! Paths, device names and cgroups are only ever derived from these types ([`crate::layout`]), so
//! nothing that reaches them can hold a slash or a space, or a dot that is not between two numbers.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidId {
    /// Tenant and pool ids: 1–63 of a–z, 0–9 and hyphen, no hyphen at either end (SPEC §2).
    #[error(
        "{0:?} is not an id: use 1 to 63 lower-case letters, digits and hyphens, no hyphen at either end"
    )]
    Name(String),
    /// Instance ids are generated.
    #[error("{0:?} is not an instance id: it is `i-` and 8 hexadecimal digits")]
    Instance(String),
    /// Image hashes are SHA-256.
    #[error("{0:?} is not an image hash: it is 64 hexadecimal digits")]
    Image(String),
    /// Keys of builds are SHA-256.
    #[error("{0:?} is not the key of a build: it is 64 hexadecimal digits")]
    Request(String),
    /// Operation ids are generated.
    #[error("{0:?} is not an operation id: it is 8 hexadecimal digits")]
    Operation(String),
    /// Versions of Firecracker are three numbers.
    #[error("{0:?} is not a Firecracker version: write major.minor.patch")]
    Version(String),
    /// Addresses have up to three parts.
    #[error("{given:?} is not the address of {what}: write {form}")]
    Address {
        /// What was given.
        given: String,
        /// What it should name.
        what: &'static str,
        /// The form it has.
        form: &'static str,
    },
    /// `local`, `node`, `templates` and `mvm-run` are not for tenants of one's own (SPEC §2).
    #[error("the id {0:?} is reserved")]
    Reserved(String),
}

fn is_name(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_lower_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| matches!(b, b'a'..=b'f' | b'0'..=b'9'))
}

fn is_version(text: &str) -> bool {
    let is_number = |part: &str| {
        (1..=5).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    text.split('.').count() == 3 && text.split('.').all(is_number)
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $check:expr, $error:path) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text of the id.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                if $check(text) { Ok(Self(text.to_owned())) } else { Err($error(text.to_owned())) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id!(
    /// The id of a tenant.
    TenantId, is_name, InvalidId::Name
);
text_id!(
    /// The id of a pool within its tenant.
    PoolId, is_name, InvalidId::Name
);
text_id!(
    /// The id of an instance, `i-` and 8 hexadecimal digits, unique on the host.
    InstanceId,
    |text: &str| text.strip_prefix("i-").is_some_and(|rest| is_lower_hex(rest, 8)),
    InvalidId::Instance
);
text_id!(
    /// The SHA-256 over everything that went into an image, 64 hexadecimal digits.
    ImageHash,
    |text: &str| is_lower_hex(text, 64),
    InvalidId::Image
);
text_id!(
    /// Everything that decides what a build makes, as one hash: 64 hexadecimal digits.
    RequestKey,
    |text: &str| is_lower_hex(text, 64),
    InvalidId::Request
);
text_id!(
    /// The id of something that was asked, 8 hexadecimal digits: one from the command to the guest.
    OperationId,
    |text: &str| is_lower_hex(text, 8),
    InvalidId::Operation
);

text_id!(
    /// The name of a volume that outlived its instance.
    VolumeId, is_name, InvalidId::Name
);

text_id!(
    /// The id of a template, unique on the host.
    TemplateId, is_name, InvalidId::Name
);
text_id!(
    /// The name of a variant within its template.
    VariantId, is_name, InvalidId::Name
);

text_id!(
    /// A version of Firecracker, as `1.12.1`.
    VmmVersion, is_version, InvalidId::Version
);

impl VmmVersion {
    /// The one that is used unless told otherwise.
    const BUILT_IN: &str = "1.12.1";

    /// The version that new VMMs run unless told otherwise.
    #[must_use]
    pub fn built_in() -> Self {
        Self(Self::BUILT_IN.to_owned())
    }
}

impl Default for VmmVersion {
    fn default() -> Self {
        Self::built_in()
    }
}

impl TenantId {
    /// The built-in tenant of named VMs and dev mode.
    pub const LOCAL: &'static str = "local";
    /// No tenant: the log of what belongs to none has this name.
    pub const NODE: &'static str = "node";
    /// No tenant: whatever works on a template locks it below this name.
    const TEMPLATES: &'static str = "templates";
    /// The built-in tenant of the VMs of `mvm run`.
    pub const RUNS: &'static str = "mvm-run";
    const RESERVED: [&'static str; 4] = [Self::LOCAL, Self::NODE, Self::TEMPLATES, Self::RUNS];

    /// The built-in tenant.
    #[must_use]
    pub fn local() -> Self {
        Self(Self::LOCAL.to_owned())
    }

    /// The built-in tenant of the VMs of `mvm run`.
    #[must_use]
    pub fn runs() -> Self {
        Self(Self::RUNS.to_owned())
    }

    /// Whether the tenant is this host's own: made when it is first needed, with a network that is the same
    /// everywhere, and in no desired state.
    #[must_use]
    pub fn is_own(&self) -> bool {
        [Self::LOCAL, Self::RUNS].contains(&self.0.as_str())
    }

    /// Whose log has what belongs to no tenant.
    #[must_use]
    pub fn node() -> Self {
        Self(Self::NODE.to_owned())
    }

    /// Whether the id has a log without a tenant's record: it may come before the tenant.
    #[must_use]
    pub fn is_built_in(&self) -> bool {
        [Self::LOCAL, Self::NODE].contains(&self.0.as_str())
    }

    /// Parses the id of a tenant that a person may create.
    ///
    /// # Errors
    /// Malformed or reserved ids.
    pub fn parse_new(text: &str) -> Result<Self, InvalidId> {
        if Self::RESERVED.contains(&text) {
            return Err(InvalidId::Reserved(text.to_owned()));
        }
        text.parse()
    }
}

impl InstanceId {
    /// The id with the 32 random bits `draw`.
    #[must_use]
    pub fn from_random(draw: u32) -> Self {
        Self(format!("i-{draw:08x}"))
    }
}

impl OperationId {
    /// The id with the 32 random bits `draw`.
    #[must_use]
    pub fn from_random(draw: u32) -> Self {
        Self(format!("{draw:08x}"))
    }
}

impl ImageHash {
    /// The first 12 digits, for people.
    #[must_use]
    pub fn short(&self) -> &str {
        self.0.get(..12).unwrap_or(&self.0)
    }
}

/// A pool and its tenant, written `tenant/pool`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PoolRef {
    /// The tenant.
    pub tenant: TenantId,
    /// The pool.
    pub pool: PoolId,
}

/// An instance with its pool and tenant, written `tenant/pool/instance`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceRef {
    /// The tenant.
    pub tenant: TenantId,
    /// The pool.
    pub pool: PoolId,
    /// The instance.
    pub instance: InstanceId,
}

impl PoolId {
    /// The pool of a tenant's builder microVMs; no one makes a pool of this name.
    pub const BUILDERS: &str = "mvm-builder";
    /// The pool of the dev VM, in the tenant `local`.
    pub const DEV: &str = "dev";
}

impl PoolRef {
    /// The pool of the dev VM.
    #[must_use]
    pub fn of_dev() -> Self {
        Self { tenant: TenantId::local(), pool: PoolId(PoolId::DEV.to_owned()) }
    }

    /// The pool of a tenant's builder microVMs. It is there while one is, and in no list.
    #[must_use]
    pub fn of_builders(tenant: &TenantId) -> Self {
        Self { tenant: tenant.clone(), pool: PoolId(PoolId::BUILDERS.to_owned()) }
    }

    /// What stands for a template where a subject is locked: a name that no pool has.
    #[must_use]
    pub fn of_template(template: &TemplateId) -> Self {
        let tenant = TenantId(TenantId::TEMPLATES.to_owned());
        Self { tenant, pool: PoolId(template.as_str().to_owned()) }
    }

    /// Whether it stands for a template.
    #[must_use]
    pub fn is_of_template(&self) -> bool {
        self.tenant.as_str() == TenantId::TEMPLATES
    }

    /// Whether it is a pool of builder microVMs.
    #[must_use]
    pub fn is_of_builders(&self) -> bool {
        self.pool.as_str() == PoolId::BUILDERS
    }
}

impl InstanceRef {
    /// The pool of this instance.
    #[must_use]
    pub fn pool_ref(&self) -> PoolRef {
        PoolRef { tenant: self.tenant.clone(), pool: self.pool.clone() }
    }
}

/// A variant of a template, written `template:variant`, or `template` for the only one that it has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TemplateRef {
    /// The template.
    pub template: TemplateId,
    /// The variant; the only one of the template if absent.
    pub variant: Option<VariantId>,
}

impl fmt::Display for TemplateRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.variant {
            Some(variant) => write!(f, "{}:{variant}", self.template),
            None => write!(f, "{}", self.template),
        }
    }
}

impl FromStr for TemplateRef {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let (template, variant) = match text.split_once(':') {
            Some((template, variant)) => (template, Some(variant.parse()?)),
            None => (text, None),
        };
        Ok(Self { template: template.parse()?, variant })
    }
}

impl fmt::Display for PoolRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.pool)
    }
}

impl fmt::Display for InstanceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.tenant, self.pool, self.instance)
    }
}

impl FromStr for PoolRef {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let parts: Vec<&str> = text.split('/').collect();
        let [tenant, pool] = parts.as_slice() else {
            return Err(InvalidId::Address {
                given: text.to_owned(),
                what: "a pool",
                form: "<tenant>/<pool>",
            });
        };
        Ok(Self { tenant: tenant.parse()?, pool: pool.parse()? })
    }
}

impl FromStr for InstanceRef {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let parts: Vec<&str> = text.split('/').collect();
        let [tenant, pool, instance] = parts.as_slice() else {
            return Err(InvalidId::Address {
                given: text.to_owned(),
                what: "an instance",
                form: "<tenant>/<pool>/<instance>",
            });
        };
        Ok(Self { tenant: tenant.parse()?, pool: pool.parse()?, instance: instance.parse()? })
    }
}

macro_rules! via_text {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }
    };
}
via_text!(PoolRef);
via_text!(TemplateRef);
via_text!(InstanceRef);

/// What an operation works on, and what a lock protects.
///
/// Locks are taken downwards only: tenant, the tenant's pool of builders, pool, instance, then the firewall,
/// which is a leaf.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// A whole tenant.
    Tenant(TenantId),
    /// One pool.
    Pool(PoolRef),
    /// One instance.
    Instance(InstanceRef),
    /// The two nftables tables of this host.
    Firewall,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tenant(id) => write!(f, "tenant {id}"),
            Self::Pool(id) => write!(f, "pool {id}"),
            Self::Instance(id) => write!(f, "instance {id}"),
            Self::Firewall => f.write_str("the firewall"),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_accepted_name_never_holds_a_path_or_device_character(text in ".{0,70}") {
            if let Ok(id) = text.parse::<TenantId>() {
                prop_assert!(id.as_str().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
                prop_assert!(!id.as_str().is_empty() && id.as_str().len() <= 63);
            }
        }

        #[test]
        fn a_generated_instance_id_parses(draw: u32) {
            let id = InstanceId::from_random(draw);
            prop_assert_eq!(id.as_str().parse::<InstanceId>().unwrap(), id);
        }
    }

    #[test]
    fn names_are_refused_at_the_edges() {
        for bad in ["", "-a", "a-", "A", "a_b", "a/b", "a.b", &"a".repeat(64), "é"] {
            assert!(bad.parse::<PoolId>().is_err(), "{bad:?} was accepted");
        }
        assert!("a".repeat(63).parse::<PoolId>().is_ok());
    }

    #[test]
    fn a_version_is_three_numbers_and_no_path() {
        for bad in
            ["", "1.12", "1.12.1.0", "1.12.", "1.12.x", "1.12/..", "..", "v1.12.1", "1.12.123456"]
        {
            assert!(bad.parse::<VmmVersion>().is_err(), "{bad:?} was accepted");
        }
        assert_eq!(VmmVersion::built_in().as_str().parse(), Ok(VmmVersion::default()));
    }

    #[test]
    fn an_address_with_extra_parts_is_an_error() {
        assert!("acme/workers/i-00000001/x".parse::<InstanceRef>().is_err());
        assert!("acme/workers/i-00000001".parse::<PoolRef>().is_err());
        assert!("acme".parse::<PoolRef>().is_err());
        assert!("acme/workers/i-00000001".parse::<InstanceRef>().is_ok());
    }

    #[test]
    fn reserved_tenants_cannot_be_created() {
        for id in ["local", "node", "templates", "mvm-run"] {
            assert!(matches!(TenantId::parse_new(id), Err(InvalidId::Reserved(_))));
        }
    }
}
