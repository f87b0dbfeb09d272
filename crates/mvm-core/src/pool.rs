//! The record of a pool: what its instances are made of and how many there shall be.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, ErrorKind},
    id::{ImageHash, PoolRef},
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
    /// A ready image by name or hash; `default` is the one that `mvm` makes itself.
    Image(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(name) => write!(f, "image {name}"),
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
    /// Its builds, newest first; the first is current.
    pub revisions: Vec<Revision>,
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
        self.revisions.first().map(|revision| &revision.image)
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
}
