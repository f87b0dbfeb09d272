//! `mvm events`.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use mvm::{AuditReport, Error, ErrorKind, Follow, LoggedEvent, TenantId};

use crate::{
    args::{EventsArgs, Format},
    run::Session,
    show,
};

pub(crate) fn run(session: &Session, args: &EventsArgs) -> Result<ExitCode, Error> {
    if args.verify {
        return verify(session, args);
    }
    let Some(tenant) = &args.tenant else {
        return Err(Error::new(ErrorKind::Usage, "events of which tenant?"));
    };
    if args.follow {
        return follow(session, args, tenant);
    }
    let events = session.mvm.events(tenant, &args.filter(), args.archived)?;
    session.print(&events, |events| show::events(events))?;
    Ok(ExitCode::SUCCESS)
}

/// Prints events as they come; one JSON object a line, so that a reader need not wait for the end.
fn follow(session: &Session, args: &EventsArgs, tenant: &TenantId) -> Result<ExitCode, Error> {
    session.stop_on_signals();
    let mut broken = None;
    session.mvm.events_follow(&session.cx, tenant, &args.filter(), &mut |event| match print(
        session.format,
        event,
    ) {
        Ok(()) => Follow::On,
        Err(error) => {
            broken = Some(error);
            Follow::Enough
        }
    })?;
    match broken {
        Some(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::new(ErrorKind::Failed, "cannot print an event").because(&error))
        }
        Some(_) | None => Ok(ExitCode::SUCCESS),
    }
}

fn print(format: Format, event: &LoggedEvent) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match format {
        Format::Table => writeln!(out, "{}", show::event_line(event))?,
        Format::Json | Format::Yaml => {
            serde_json::to_writer(&mut out, event)?;
            writeln!(out)?;
        }
    }
    out.flush()
}

fn verify(session: &Session, args: &EventsArgs) -> Result<ExitCode, Error> {
    let reports = session.mvm.events_verify(args.tenant.as_ref(), args.archived)?;
    session.print(&reports, |reports| show::audit_reports(reports))?;
    let broken: Vec<&AuditReport> =
        reports.iter().filter(|report| !report.problems.is_empty()).collect();
    if broken.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let logs = if broken.len() == 1 { "an audit log is" } else { "audit logs are" };
    let mut error = Error::new(ErrorKind::Integrity, format!("{logs} not whole"))
        .hint("keep the files as they are, and compare them with a backup");
    for report in broken {
        let name = report.archive.clone().unwrap_or_else(|| report.tenant.to_string());
        error.causes.extend(report.problems.iter().map(|problem| format!("{name}: {problem}")));
    }
    Err(error)
}
