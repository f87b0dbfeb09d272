//! `mvm doctor`: what this machine has, what it lacks, and what to do about it.
//!
//! Every check is a name, a verdict, what was found and, unless all is well, an order that can be
//! followed. It changes nothing but the kept verdict on KVM. Files of the kernel are read below a
//! root that a test can replace.
//!
//! `platform` (what microVMs need), `files` (what is installed), `production` (the host guide of
//! Firecracker and our own rules).

mod files;
mod platform;
mod production;
#[cfg(test)]
mod tests;

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::config::Config;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// As it should be.
    Ok,
    /// It works, and is not as it should be.
    Warning,
    /// It does not work, or may not stay so.
    Failed,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// The verdict.
    pub health: Health,
    /// What was found.
    pub found: String,
    /// What to do; none when all is well.
    pub advice: Option<String>,
}

impl Check {
    fn ok(name: &str, found: impl Into<String>) -> Self {
        Self { name: name.to_owned(), health: Health::Ok, found: found.into(), advice: None }
    }

    fn warning(name: &str, found: impl Into<String>, advice: &str) -> Self {
        Self { health: Health::Warning, advice: Some(advice.to_owned()), ..Self::ok(name, found) }
    }

    fn failed(name: &str, found: impl Into<String>, advice: &str) -> Self {
        Self { health: Health::Failed, advice: Some(advice.to_owned()), ..Self::ok(name, found) }
    }
}

/// How much is asked of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// That microVMs run.
    Development,
    /// That other people's microVMs may run here.
    Production,
}

/// Where a check looks.
struct Sight<'a> {
    config: &'a Config,
    root: PathBuf,
}

impl Sight<'_> {
    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    fn text(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.path(path)).ok().map(|text| text.trim().to_owned())
    }

    fn has(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    fn data(&self) -> &Path {
        &self.config.data_dir
    }
}

/// Makes all checks; takes a few seconds at most.
#[must_use]
pub fn examine(config: &Config, scope: Scope) -> Vec<Check> {
    let sight = Sight { config, root: PathBuf::from("/") };
    let mut checks = platform::checks(&sight);
    checks.extend(files::checks(&sight));
    if scope == Scope::Production {
        checks.extend(production::checks(&sight));
    }
    checks
}
