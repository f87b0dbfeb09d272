//! What an image runs: the file [`PATH`], written by whoever makes the image, read by the agent.
//!
//! A service is a program with its surroundings, started once the guest knows who it is. This module
//! refuses to know how services are started and watched.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Where the file is in an image.
pub const PATH: &str = "/etc/mvm/workload.json";

/// The services of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// The services, in the order in which they are written; `after` decides which waits for which.
    #[serde(default)]
    pub services: Vec<Service>,
}

/// A program that the agent starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its name, unique in the image.
    pub name: String,
    /// The program and its arguments; never empty. A program without a slash is looked for in `PATH`.
    pub argv: Vec<String>,
    /// Its environment, in addition to `PATH`, `HOME` and `USER`, which it may replace.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Who runs it: a name or number, and after a colon a group's; none is root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Its working directory, made when missing; none is the user's home.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// The services that are started before it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
    /// What its end means.
    #[serde(default)]
    pub restart: Restart,
}

/// When a service that ended is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// Never.
    #[default]
    Never,
    /// When it ended by a signal or with a code other than 0.
    OnFailure,
    /// Whenever it ended.
    Always,
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;

    #[test]
    fn what_is_not_said_has_a_default_and_what_is_unknown_is_passed_over() {
        let text = r#"{"services":[{"name":"a","argv":["/a"],"later":1}]}"#;
        let read: Workload = serde_json::from_str(text).unwrap();
        let service = read.services.first().unwrap();
        assert_eq!((service.restart, service.user.as_ref()), (Restart::Never, None));
        let back = serde_json::to_string(&read).unwrap();
        assert_eq!(serde_json::from_str::<Workload>(&back).unwrap(), read);
    }
}
