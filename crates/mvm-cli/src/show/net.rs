//! What `mvm net …` shows.

use mvm::Finding;
use serde::Serialize;

use crate::render::table::table;

/// What `net verify` shows.
#[derive(Debug, Serialize)]
pub(crate) struct Verified {
    pub(crate) findings: Vec<Finding>,
}

pub(crate) fn verified(report: &Verified) -> String {
    if report.findings.is_empty() {
        return "The network is as it shall be.".to_owned();
    }
    let row = |finding: &Finding| {
        let tenant = finding.tenant.as_ref().map_or_else(|| "host".to_owned(), ToString::to_string);
        [tenant, finding.check.clone(), finding.problem.clone()]
    };
    table(["WHERE", "CHECK", "PROBLEM"], report.findings.iter().map(row).collect())
}
