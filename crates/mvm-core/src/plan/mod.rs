//! Decisions: from a record and what was observed to the next steps.
//!
//! Nothing here acts, waits or remembers. A plan is recomputed after every run of steps, so a
//! crash between any two of them needs no special path: the next look sees what is there.
//!
//! - [`instance`] — one instance to its wanted state.
//! - [`policy`] — which instance rests because nobody needs it, or to make room.
//! - [`pool`] — which instance shall be in which state, from the counts.
//! - [`roll`] — which instance is replaced by its pool's current build, and when.
//! - [`brake`] — what fails again and again.
//! - [`node`] — all tenants and pools of a node to a desired state.
//! - [`gc`] — what nothing uses any more.
//! - [`rebuild`] — a record whose store was lost.
//! - [`truth`] — what happened while nobody looked.

pub mod brake;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
mod fixture;
pub mod gc;
pub mod instance;
pub mod node;
pub mod policy;
pub mod pool;
pub mod rebuild;
pub mod roll;
pub mod truth;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{effect::Effect, event::EventKind, port::GuestAct, state::State};

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Act on the machine.
    Do(Effect),
    /// Speak with the guest.
    Ask(GuestAct),
    /// Bring the firewall to the store's present intent, under its lock.
    SyncFirewall,
    /// Commit a change of state with its event.
    Record(Transition),
    /// Add to the audit log what was found and will be put right. It comes before the repair, so
    /// that a crash between them tells it twice rather than never.
    Tell {
        /// What.
        event: EventKind,
        /// Why, when the event does not say it all.
        reason: String,
    },
}

/// A change of an instance's state, as it goes into record and audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// The new state.
    pub state: State,
    /// The event.
    pub event: EventKind,
    /// Why, when the event does not say it all.
    pub reason: String,
    /// How it came to run, if that is what happened.
    pub started: Option<Started>,
}

/// How a guest came to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Started {
    /// By a cold boot.
    Boot,
    /// As a clone of its pool's base.
    Clone,
}

impl fmt::Display for Started {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Boot => "boot",
            Self::Clone => "clone",
        })
    }
}

impl Transition {
    /// A transition that needs no reason.
    #[must_use]
    pub const fn new(state: State, event: EventKind) -> Self {
        Self { state, event, reason: String::new(), started: None }
    }

    /// The same with its reason.
    #[must_use]
    pub fn because(self, reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), ..self }
    }
}
