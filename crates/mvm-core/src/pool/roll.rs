//! Replacing a pool's running instances by its current build: what is asked, and how far it is.
//!
//! The record of a roll stands in its pool from the first instance to the last, so that the same command
//! goes on with one that was interrupted. It refuses to know how an instance is replaced.

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, ErrorKind},
    id::{ImageHash, InstanceId},
    instance::ParkedBy,
    units::Seconds,
};

/// How instances are replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollPace {
    /// How many are replaced at once, 1–100: none is made in addition, so that many are away meanwhile.
    pub batch: u32,
    /// How long one may take from its start until it is ready.
    pub timeout: Seconds,
    /// How long it must stay ready before the next one goes.
    pub soak: Seconds,
}

impl RollPace {
    /// The most instances that are replaced at once.
    const MAX_BATCH: u32 = 100;
    /// The longest of the two times.
    const MAX: Seconds = Seconds(24 * 3600);

    /// Checks the ranges.
    ///
    /// # Errors
    /// `Invalid` naming the first figure outside its range.
    pub fn validate(&self) -> Result<(), Error> {
        let wrong = |what: String| Err(Error::new(ErrorKind::Invalid, what));
        if !(1..=Self::MAX_BATCH).contains(&self.batch) {
            return wrong(format!(
                "the batch is {}: it must be 1 to {}",
                self.batch,
                Self::MAX_BATCH
            ));
        }
        if self.timeout.0 == 0 || self.timeout > Self::MAX {
            return wrong(format!(
                "the timeout is {}: it must be 1 s to {}",
                self.timeout,
                Self::MAX
            ));
        }
        if self.soak > Self::MAX {
            return wrong(format!("the soak is {}: it must be at most {}", self.soak, Self::MAX));
        }
        Ok(())
    }
}

impl Default for RollPace {
    fn default() -> Self {
        Self { batch: 1, timeout: Seconds(120), soak: Seconds(5) }
    }
}

/// What becomes of a roll whose build does not become ready.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RollFailure {
    /// The former build becomes current, and what was replaced returns to it.
    #[default]
    Return,
    /// It stops there.
    Stay,
}

/// A roll that is not over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rolling {
    /// The build that instances get.
    pub to: ImageHash,
    /// The build that the pool returns to when that one does not become ready.
    pub from: ImageHash,
    /// The instances that were taken so far, in order.
    pub taken: Vec<Taken>,
    /// Why it is being taken back; none while it goes forward.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// An instance that a roll replaces or has replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Taken {
    /// Which.
    pub instance: InstanceId,
    /// Who had it Warm, if it was; it becomes so again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm: Option<ParkedBy>,
    /// Whether it was ready long enough.
    pub is_ready: bool,
}
