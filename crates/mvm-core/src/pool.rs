//! The record of a pool: what its instances are made of and how many there shall be.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

pub mod image;
mod policy;
mod roll;

pub use image::ImageRef;
pub use policy::{
    Compression, OnNodeLoss, PoolPolicy, Readiness, ReadinessChange, SeccompPolicy, SleepPolicy,
};
pub use roll::{RollFailure, RollPace, Rolling, Taken};

use crate::{
    error::{Error, ErrorKind},
    id::{ImageHash, PoolRef, TemplateRef},
    integration::Integration,
    route::RoutingTable,
    secrets::Scope,
    units::{Generation, Mib, Seconds, Timestamp, Vcpus},
};

/// What a pool's instances are for; the number orders reconciliation (SPEC §1.1).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Role {
    /// Routes traffic to others.
    Gateway,
    /// Builds images.
    Builder,
    /// Does the work.
    Worker,
    /// Offers a named capability.
    Capability(String),
}

impl Role {
    /// Reconcile priority: lower first when growing, last when shrinking.
    #[must_use]
    pub const fn priority(&self) -> u8 {
        match self {
            Self::Gateway => 0,
            Self::Builder => 1,
            Self::Worker => 2,
            Self::Capability(_) => 3,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gateway => f.write_str("gateway"),
            Self::Builder => f.write_str("builder"),
            Self::Worker => f.write_str("worker"),
            Self::Capability(name) => write!(f, "capability-{name}"),
        }
    }
}

impl FromStr for Role {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "gateway" => Ok(Self::Gateway),
            "builder" => Ok(Self::Builder),
            "worker" => Ok(Self::Worker),
            other => match other.strip_prefix("capability-") {
                Some(name) if name.parse::<crate::id::PoolId>().is_ok() => {
                    Ok(Self::Capability(name.to_owned()))
                }
                _ => Err(Error::new(ErrorKind::Invalid, format!("{text:?} is not a role"))
                    .hint("roles are gateway, builder, worker and capability-<name>")),
            },
        }
    }
}

impl TryFrom<String> for Role {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Role> for String {
    fn from(role: Role) -> Self {
        role.to_string()
    }
}

/// Where a pool's image comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// An image as [`ImageRef`] reads it; `default` is the one that `mvm` makes itself.
    Image(String),
    /// A Nix flake reference, built in an ephemeral builder VM (SPEC §10).
    Flake(String),
    /// A variant of a template, as [`TemplateRef`] reads it; its builds are shared between tenants (SPEC §10).
    Template(String),
}

/// The longest text of a source, in bytes.
const SOURCE_MAX: usize = 1024;

impl Source {
    /// Whether a build of it may need a builder microVM in its tenant's network.
    #[must_use]
    pub fn may_need_builder(&self) -> bool {
        match self {
            Self::Flake(_) => true,
            Self::Image(text) => matches!(text.parse(), Ok(ImageRef::Path(_))),
            Self::Template(_) => false,
        }
    }

    /// The text of the source without its kind.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Image(text) | Self::Flake(text) | Self::Template(text) => text,
        }
    }

    /// Checks the form; whether there is such a thing is the builder's question.
    ///
    /// # Errors
    /// `Invalid` saying what is wrong with it.
    pub fn validate(&self) -> Result<(), Error> {
        let text = self.text();
        let wrong = |what: &str, hint: &str| {
            Err(Error::new(ErrorKind::Invalid, format!("{text:?} is not {what}")).hint(hint))
        };
        let is_printable = text.chars().all(|c| c.is_ascii_graphic());
        if text.is_empty() || text.len() > SOURCE_MAX || !is_printable || text.starts_with('-') {
            return wrong(
                "the name of a source",
                "write 1 to 1024 printable ASCII characters without blanks",
            );
        }
        match self {
            Self::Image(_) => text.parse::<ImageRef>().map(drop),
            Self::Flake(_) => match text.split_once(':') {
                Some((scheme, rest)) if is_scheme(scheme) && !rest.is_empty() => Ok(()),
                None if text.starts_with('/') || text.starts_with("./") => Ok(()),
                Some(_) | None => wrong(
                    "a flake reference",
                    "for example github:org/app?rev=abc123, path:/srv/app or /srv/app",
                ),
            },
            Self::Template(_) if text.parse::<TemplateRef>().is_ok() => Ok(()),
            Self::Template(_) => wrong(
                "a template",
                "write its id, and a variant of it if it has several, for example: web or web:small",
            ),
        }
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '+')
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(name) => write!(f, "image {name}"),
            Self::Flake(reference) => write!(f, "flake {reference}"),
            Self::Template(name) => write!(f, "template {name}"),
        }
    }
}

/// The size of one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Virtual CPUs, 1–32.
    pub vcpus: Vcpus,
    /// Guest memory, at least 64 MiB.
    pub mem_mib: Mib,
    /// Size of the data disk; 0 means none.
    pub data_disk_mib: Mib,
    /// Operations per second of the data disk, at most; none for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_iops: Option<u32>,
    /// Throughput of the data disk in MB/s, at most; none for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_mbps: Option<u32>,
    /// Throughput of the network in MB/s, each way, at most; none for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net_mbps: Option<u32>,
}

impl Resources {
    /// A size without limits on what it reads and writes.
    #[must_use]
    pub const fn new(vcpus: Vcpus, mem_mib: Mib, data_disk_mib: Mib) -> Self {
        Self { vcpus, mem_mib, data_disk_mib, disk_iops: None, disk_mbps: None, net_mbps: None }
    }
}

impl Resources {
    /// Checks the ranges.
    ///
    /// # Errors
    /// `Invalid` naming the first field outside its range.
    pub fn validate(&self) -> Result<(), Error> {
        let wrong = |what: String| Err(Error::new(ErrorKind::Invalid, what));
        if !(1..=32).contains(&self.vcpus.0) {
            return wrong(format!("vcpus is {}: it must be 1 to 32", self.vcpus));
        }
        if !(64..=1 << 20).contains(&self.mem_mib.0) {
            return wrong(format!("memory is {}: it must be 64 MiB to 1 TiB", self.mem_mib));
        }
        if self.data_disk_mib.0 != 0 && !(16..=16 << 20).contains(&self.data_disk_mib.0) {
            return wrong(format!(
                "data disk is {}: it must be 0 or 16 MiB to 16 TiB",
                self.data_disk_mib
            ));
        }
        for (name, limit) in [
            ("disk operations per second", self.disk_iops),
            ("disk throughput", self.disk_mbps),
            ("network throughput", self.net_mbps),
        ] {
            if limit.is_some_and(|limit| !(1..=1_000_000).contains(&limit)) {
                return wrong(format!("the limit of {name} must be 1 to 1000000"));
            }
        }
        Ok(())
    }
}

/// How many instances there shall be in each state; 0–100 each (SPEC §5).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Available: Running, or parked by policy.
    pub running: u32,
    /// Warm standby, held in addition.
    pub warm: u32,
    /// Sleeping standby, held in addition.
    pub sleeping: u32,
}

/// Waiting times of a pool (SPEC §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RuntimePolicy {
    /// Shortest time in Running before policy may act.
    pub min_running_seconds: Seconds,
    /// Shortest time in Warm before policy may act.
    pub min_warm_seconds: Seconds,
    /// How long a guest may take to drain before sleep is forced.
    pub drain_timeout_seconds: Seconds,
    /// How long a guest may take to shut down before it is killed.
    pub graceful_shutdown_seconds: Seconds,
}

impl RuntimePolicy {
    /// The longest of these times: a day.
    pub const MAX: Seconds = Seconds(24 * 3600);

    /// Checks the ranges.
    ///
    /// # Errors
    /// `Invalid` naming the first time outside its range.
    pub fn validate(&self) -> Result<(), Error> {
        for (name, time) in [
            ("shortest time in Running", self.min_running_seconds),
            ("shortest time in Warm", self.min_warm_seconds),
            ("drain timeout", self.drain_timeout_seconds),
            ("time to shut down", self.graceful_shutdown_seconds),
        ] {
            if time > Self::MAX {
                let message = format!("the {name} is {time}: it must be at most {}", Self::MAX);
                return Err(Error::new(ErrorKind::Invalid, message));
            }
        }
        Ok(())
    }
}

impl Default for RuntimePolicy {
    fn default() -> Self {
        Self {
            min_running_seconds: Seconds(60),
            min_warm_seconds: Seconds(30),
            drain_timeout_seconds: Seconds(30),
            graceful_shutdown_seconds: Seconds(15),
        }
    }
}

/// One build of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revision {
    /// The image.
    pub image: ImageHash,
    /// When it was built for this pool.
    pub built_at: Timestamp,
    /// What it was built from; absent in the records of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
}

/// A build of a pool's history, as a person names it (SPEC §1.20).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum RevisionName {
    /// Its place in the history; 1 is the newest.
    Ordinal(u32),
    /// The first characters of its image's hash, at least 4.
    Prefix(String),
}

impl fmt::Display for RevisionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ordinal(number) => write!(f, "{number}"),
            Self::Prefix(prefix) => f.write_str(prefix),
        }
    }
}

impl FromStr for RevisionName {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let is_hash = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match text.parse() {
            Ok(number @ 1..) if text.len() < 4 => Ok(Self::Ordinal(number)),
            Ok(_) | Err(_) if is_hash && (4..=64).contains(&text.len()) => {
                Ok(Self::Prefix(text.to_owned()))
            }
            Ok(_) | Err(_) => {
                Err(Error::new(ErrorKind::Invalid, format!("{text:?} is not a revision")).hint(
                    "write 1 for the newest build, 2 for the one before, or 4 to 64 hexadecimal \
                     digits that its hash begins with",
                ))
            }
        }
    }
}

impl TryFrom<String> for RevisionName {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<RevisionName> for String {
    fn from(name: RevisionName) -> Self {
        name.to_string()
    }
}

/// What a pool's instances get unless the pool says otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolDefaults {
    /// Their processors.
    pub vcpus: Option<Vcpus>,
    /// Their memory.
    pub mem_mib: Option<Mib>,
    /// Their data disk.
    pub data_disk_mib: Option<Mib>,
}

/// What is changed in a pool's record; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolChange {
    /// Where its image comes from; the next build uses it.
    pub source: Option<Source>,
    /// The profile of the source; the next build uses it.
    pub profile: Option<String>,
    /// What new instances are for.
    pub role: Option<Role>,
    /// vCPUs of new instances.
    pub vcpus: Option<Vcpus>,
    /// Memory of new instances.
    pub mem_mib: Option<Mib>,
    /// Data disk of new instances.
    pub data_disk_mib: Option<Mib>,
    /// As in [`Resources`], of new instances; 0 lifts the limit.
    #[serde(default)]
    pub disk_iops: Option<u32>,
    /// As in [`Resources`], of new instances; 0 lifts the limit.
    #[serde(default)]
    pub disk_mbps: Option<u32>,
    /// As in [`Resources`], of new instances; 0 lifts the limit.
    #[serde(default)]
    pub net_mbps: Option<u32>,
    /// As in [`RuntimePolicy`], of new instances.
    pub min_running_seconds: Option<Seconds>,
    /// As in [`RuntimePolicy`], of new instances.
    pub min_warm_seconds: Option<Seconds>,
    /// As in [`RuntimePolicy`], of new instances.
    pub drain_timeout_seconds: Option<Seconds>,
    /// As in [`RuntimePolicy`], of new instances.
    pub graceful_shutdown_seconds: Option<Seconds>,
    /// What instances see of the tenant's secrets from their next start on.
    #[serde(default)]
    pub secret_scopes: Option<Vec<Scope>>,
    /// What of the workload keeps state of its own; of all instances from their next move on.
    #[serde(default)]
    pub integrations: Option<Vec<Integration>>,
    /// Where its gateways lead to; those that run are told at once.
    #[serde(default)]
    pub routing_table: Option<RoutingTable>,
    /// What is decided for it without being asked.
    #[serde(default)]
    pub policy: Option<PoolPolicy>,
    /// When its instances are ready, from the next roll on; it wins over what is in `policy`.
    #[serde(default)]
    pub readiness: Option<ReadinessChange>,
}

/// What was asked of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// Its address.
    pub pool: PoolRef,
    /// What its image is made from.
    pub source: Source,
    /// The profile of the source.
    pub profile: String,
    /// What its instances are for.
    pub role: Role,
    /// The size of one instance.
    pub instance_resources: Resources,
    /// How many there shall be.
    pub desired_counts: Counts,
    /// Waiting times.
    pub runtime_policy: RuntimePolicy,
    /// What its instances see of the tenant's secrets; everything when empty.
    #[serde(default)]
    pub secret_scopes: Vec<Scope>,
    /// What of its workload keeps state of its own.
    #[serde(default)]
    pub integrations: Vec<Integration>,
    /// Where its gateways lead to; gateways only.
    #[serde(default)]
    pub routing_table: Option<RoutingTable>,
    /// What is decided for it without being asked.
    #[serde(default)]
    pub policy: PoolPolicy,
    /// Its builds, newest first.
    pub revisions: Vec<Revision>,
    /// The build that a rollback made current; the newest is while this is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolled_back_to: Option<ImageHash>,
    /// The roll that is under way, or was interrupted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolling: Option<Rolling>,
    /// Whether it is being destroyed: nothing new may be made in it.
    pub destroying: bool,
    /// When it was created.
    pub created_at: Timestamp,
    /// Counts the changes of this record.
    pub generation: Generation,
}

impl Pool {
    /// The current build.
    #[must_use]
    pub fn current(&self) -> Option<&ImageHash> {
        let newest = self.revisions.first().map(|revision| &revision.image);
        self.rolled_back_to.as_ref().or(newest)
    }

    /// The one build that a name means.
    ///
    /// # Errors
    /// `NotFound` when there is none, `Invalid` when a prefix fits several images.
    pub fn revision(&self, name: &RevisionName) -> Result<&Revision, Error> {
        let hint = format!("see its builds: mvm pool info {}", self.pool);
        let missing = || {
            Error::new(ErrorKind::NotFound, format!("pool {} has no build {name}", self.pool))
                .hint(hint.clone())
        };
        match name {
            RevisionName::Ordinal(number) => {
                let place = usize::try_from(*number).ok().and_then(|n| n.checked_sub(1));
                place.and_then(|place| self.revisions.get(place)).ok_or_else(missing)
            }
            RevisionName::Prefix(prefix) => {
                let fits = |one: &&Revision| one.image.as_str().starts_with(prefix.as_str());
                let first = self.revisions.iter().find(fits).ok_or_else(missing)?;
                match self.revisions.iter().filter(fits).find(|one| one.image != first.image) {
                    None => Ok(first),
                    Some(_) => Err(Error::new(
                        ErrorKind::Invalid,
                        format!("{prefix} fits several builds of pool {}", self.pool),
                    )
                    .hint(format!("write more of the hash; {hint}"))),
                }
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn any_capability_name_is_a_role_of_priority_three() {
        let role: Role = "capability-openclaw".parse().unwrap();
        assert_eq!(role.priority(), 3);
        assert_eq!(role.to_string(), "capability-openclaw");
        assert!("capability-".parse::<Role>().is_err());
        assert!("capability-A/b".parse::<Role>().is_err());
    }

    #[test]
    fn a_source_is_checked_in_its_form_only() {
        let flake = |text: &str| Source::Flake(text.to_owned()).validate().is_ok();
        for good in ["github:org/app?rev=abc", "git+ssh://host/app", "path:/srv/app", "/srv/app"] {
            assert!(flake(good), "{good}");
        }
        for bad in ["", "app", "a b:c", ":x", "github:", "-github:org/app", "x\u{e9}:y"] {
            assert!(!flake(bad), "{bad}");
        }
        assert!(Source::Template("openclaw".to_owned()).validate().is_ok());
        assert!(Source::Template("openclaw:large".to_owned()).validate().is_ok());
        for wrong in ["Open/Claw", "openclaw:", ":large", "a:b:c"] {
            assert!(Source::Template(wrong.to_owned()).validate().is_err(), "{wrong}");
        }
        assert!(Source::Image("../x".to_owned()).validate().is_err());
    }

    #[test]
    fn a_revision_is_named_by_place_or_by_an_unambiguous_prefix() {
        let image = |c: &str| -> ImageHash { c.repeat(64 / c.len()).parse().unwrap() };
        let revision = |c| Revision { image: image(c), built_at: Timestamp(0), source: None };
        let pool = Pool {
            pool: "a/b".parse().unwrap(),
            source: Source::Image("default".to_owned()),
            profile: "minimal".to_owned(),
            role: Role::Worker,
            instance_resources: Resources::new(Vcpus(1), Mib(128), Mib(0)),
            desired_counts: Counts::default(),
            runtime_policy: RuntimePolicy::default(),
            secret_scopes: Vec::new(),
            integrations: Vec::new(),
            routing_table: None,
            revisions: vec![revision("abcd1111"), revision("abcd2222"), revision("abcd1111")],
            rolled_back_to: None,
            rolling: None,
            policy: PoolPolicy::default(),
            destroying: false,
            created_at: Timestamp(0),
            generation: Generation(0),
        };
        let find = |name: &str| pool.revision(&name.parse().unwrap()).map(|one| one.image.clone());
        assert_eq!(find("1").unwrap(), image("abcd1111"));
        assert_eq!(find("2").unwrap(), image("abcd2222"));
        assert_eq!(find("abcd2").unwrap(), image("abcd2222"));
        assert_eq!(find("abcd1").unwrap(), image("abcd1111"), "twice the same image is one");
        assert_eq!(find("abcd").unwrap_err().kind, ErrorKind::Invalid);
        assert_eq!(find("4").unwrap_err().kind, ErrorKind::NotFound);
        assert_eq!(find("beef").unwrap_err().kind, ErrorKind::NotFound);
        for bad in ["0", "", "-1", "xyz", "abc", "ABCD"] {
            assert!(bad.parse::<RevisionName>().is_err(), "{bad}");
        }
    }
}
