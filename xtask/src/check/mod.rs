//! `cargo xtask check`: the rules of the code base that a compiler does not know.
//!
//! Each rule is a module with a pure function from what it reads to a list of findings. All rules
//! run, even after the first finding.

mod deny;
mod layers;
mod manifests;
mod names;
mod policy;
mod sizes;
mod sources;
mod text;

use crate::error::{Error, Result};
use crate::{docs, tool, workspace};

/// One broken rule, or a warning about one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// Whether the check fails because of it.
    pub(crate) severity: Severity,
    /// The rule, for example `R1`.
    pub(crate) rule: &'static str,
    /// What is wrong, and where.
    pub(crate) text: String,
}

/// Whether a finding fails the check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Severity {
    /// It does.
    Error,
    /// It is only shown.
    Warning,
}

impl Finding {
    /// A finding that fails the check.
    pub(crate) fn error(rule: &'static str, text: impl Into<String>) -> Self {
        Self { severity: Severity::Error, rule, text: text.into() }
    }

    /// A finding that is only shown.
    pub(crate) fn warning(rule: &'static str, text: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, rule, text: text.into() }
    }
}

/// Runs everything; `Ok` means no rule is broken.
pub(crate) fn run() -> Result<()> {
    let mut failures = Vec::new();
    let findings = findings()?;
    for finding in &findings {
        let word = match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        eprintln!("{word}[{}]: {}", finding.rule, finding.text);
    }
    let broken = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    if broken > 0 {
        failures.push(format!("{broken} broken rules"));
    }
    for (name, mut command) in compilers() {
        eprintln!("xtask: {name}");
        if let Err(error) = tool::show(&mut command) {
            eprintln!("xtask: {error}");
            failures.push(name.to_owned());
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(Error::refused(failures.join(", "))) }
}

/// The findings of every rule that is ours.
fn findings() -> Result<Vec<Finding>> {
    let metadata = workspace::metadata()?;
    let sources = sources::read(workspace::root())?;
    let manifests = manifests::read(&metadata)?;
    let policy = policy::read(workspace::root())?;
    let mut findings = layers::check(&metadata);
    findings.extend(manifests::check(&manifests));
    findings.extend(deny::check(&metadata, &policy));
    for source in &sources {
        findings.extend(sizes::check(source));
        findings.extend(text::check(source));
    }
    findings.extend(names::check(&sources, &docs::read(&workspace::root().join("docs"))?));
    findings.extend(docs::drift()?);
    Ok(findings)
}

fn compilers() -> [(&'static str, std::process::Command); 3] {
    let mut format = workspace::cargo();
    format.args(["fmt", "--all", "--check"]);
    let mut clippy = workspace::cargo();
    clippy.args(["clippy", "--quiet", "--workspace", "--all-targets", "--locked"]);
    clippy.args(["--", "-D", "warnings"]);
    let mut docs = workspace::cargo();
    docs.args(["doc", "--quiet", "--workspace", "--no-deps", "--locked"]);
    docs.args(["--document-private-items"]);
    docs.env("RUSTDOCFLAGS", "-D warnings");
    [("format", format), ("clippy", clippy), ("docs", docs)]
}
