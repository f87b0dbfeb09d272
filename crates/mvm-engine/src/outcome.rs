//! What an operation did, as data: for people, for `--json` and for the agent's report.

use std::collections::BTreeMap;

use mvm_core::{
    error::Error,
    event::EventKind,
    id::{ImageHash, InstanceRef, OperationId, TenantId},
    instance::Instance,
    pool::Pool,
    secrets::TenantSecrets,
    state::State,
    template::Template,
    tenant::Tenant,
};
use serde::{Deserialize, Serialize};

use crate::run::is_cancelled;

/// What an operation did, piece by piece.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The operation's id, as in logs and events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<OperationId>,
    /// The record that was made, built or scaled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<Made>,
    /// The operations that were done as parts of this one, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acts: Vec<Acted>,
    /// The changes of instances, in the order in which they were asked.
    pub changes: Vec<Change>,
    /// What was left alone, and why.
    pub deferrals: Vec<Deferral>,
    /// What was removed because nothing used it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removals: Vec<Removal>,
    /// What a person should know about the change.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What did not work. The operation as a whole did when this is empty.
    pub failures: Vec<Failed>,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

/// An operation that is a part of another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acted {
    /// Its name, as in logs: `pool_scale`.
    pub act: String,
    /// What it is about: an address.
    pub subject: String,
    /// Figures and names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub detail: BTreeMap<String, String>,
}

/// What an operation made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Made {
    /// A tenant.
    Tenant(Tenant),
    /// A tenant's secrets.
    Secrets {
        /// Whose.
        tenant: TenantId,
        /// What is known of them.
        secrets: TenantSecrets,
    },
    /// A pool, or its new counts.
    Pool(Box<Pool>),
    /// A pool's current image.
    Image(ImageHash),
    /// An instance.
    Instance(Box<Instance>),
    /// A template, or its new builds.
    Template(Box<Template>),
    /// A tenant's new key; whose it is.
    Key(TenantId),
    /// Something was removed; its address.
    Removed(String),
}

/// An instance that is in another state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Which.
    pub instance: InstanceRef,
    /// The state before; none for a new one.
    pub from: Option<State>,
    /// The state after.
    pub to: State,
    /// What happened on the way, as in the audit log.
    pub events: Vec<EventKind>,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

/// Something that nothing used and that is gone, or would go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removal {
    /// The effect that removes it.
    pub effect: String,
    /// What it is: an address, an id or a hash.
    pub subject: String,
    /// How many bytes of disk that gives back.
    pub bytes: u64,
}

/// Something that was left alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deferral {
    /// Which instance.
    pub instance: InstanceRef,
    /// Why.
    pub reason: String,
}

/// Something that did not work, while the rest went on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// An address.
    pub subject: String,
    /// Why.
    pub error: Error,
}

impl Outcome {
    /// Adds what a part of this operation did.
    pub fn absorb(&mut self, part: Self) {
        self.acts.extend(part.acts);
        self.changes.extend(part.changes);
        self.deferrals.extend(part.deferrals);
        self.removals.extend(part.removals);
        self.notes.extend(part.notes);
        self.failures.extend(part.failures);
    }

    /// The one error that speaks for all failures, with the kind of the first; an interruption
    /// speaks for itself.
    #[must_use]
    pub fn error(&self) -> Option<Error> {
        if let Some(stopped) = self.failures.iter().find(|one| is_cancelled(&one.error)) {
            return Some(stopped.error.clone());
        }
        let first = self.failures.first()?;
        let mut error = Error::new(
            first.error.kind,
            format!(
                "{} of {} changes failed",
                self.failures.len(),
                self.failures.len() + self.changes.len() + self.acts.len()
            ),
        );
        for failure in &self.failures {
            error.causes.push(format!("{}: {}", failure.subject, failure.error));
            for hint in &failure.error.hints {
                if !error.hints.contains(hint) {
                    error.hints.push(hint.clone());
                }
            }
        }
        Some(error)
    }
}
