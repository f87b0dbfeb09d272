//! What `mvm events` shows.

use mvm::{AuditReport, LoggedEvent};

use crate::render::table::table;

pub(crate) fn events(all: &[LoggedEvent]) -> String {
    table(HEAD, all.iter().map(row).collect())
}

/// One event of a log that is followed.
pub(crate) fn event_line(logged: &LoggedEvent) -> String {
    row(logged).join("  ").trim_end().to_owned()
}

/// What a check of audit logs found.
pub(crate) fn audit_reports(all: &[AuditReport]) -> String {
    let row = |report: &AuditReport| {
        let name = report.archive.clone().unwrap_or_else(|| report.tenant.to_string());
        let word = match (report.problems.len(), report.unexported) {
            (0, 0) => "whole".to_owned(),
            (0, late) => format!("whole; {late} entries are not in the files yet"),
            (count, _) => format!("BROKEN: {count} problems"),
        };
        [name, report.last_seq.to_string(), report.files.len().to_string(), word]
    };
    table(["LOG", "ENTRIES", "FILES", "CHAIN"], all.iter().map(row).collect())
}

const HEAD: [&str; 7] = ["SEQ", "TIME", "EVENT", "SUBJECT", "BY", "OPERATION", "REASON"];

fn row(logged: &LoggedEvent) -> [String; 7] {
    let event = &logged.event;
    let subject = [
        Some(event.tenant.to_string()),
        event.pool.as_ref().map(ToString::to_string),
        event.instance.as_ref().map(ToString::to_string),
    ];
    [
        logged.seq.to_string(),
        event.time.rfc3339(),
        event.event.to_string(),
        subject.into_iter().flatten().collect::<Vec<_>>().join("/"),
        event.actor.to_string(),
        event.detail.get("operation").cloned().unwrap_or_else(|| "-".to_owned()),
        event.reason.clone(),
    ]
}
