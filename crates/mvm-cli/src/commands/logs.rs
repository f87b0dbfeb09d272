//! `mvm instance logs`.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use mvm::{Error, ErrorKind, Follow, LogSource, Logs};

use crate::{
    args::{Format, LogsArgs},
    run::Session,
    show,
};

/// All that a shim keeps is fewer lines than this.
const ALL: usize = 1 << 22;

pub(crate) fn run(session: &Session, args: &LogsArgs) -> Result<ExitCode, Error> {
    let sources = args.sources();
    // A filter looks through all there is.
    let lines = if args.operation.is_some() { ALL } else { args.last };
    let logs = match session.mvm.instance_logs(&args.instance, lines) {
        Ok(logs) => logs,
        Err(error) if args.follow && error.kind == ErrorKind::NotFound => {
            session.mvm.instance_list(&mvm::Filter::Instance(args.instance.clone()))?;
            Logs::default()
        }
        Err(error) => return Err(error),
    };
    let chosen = |source: LogSource, mut all: Vec<String>| {
        if !sources.contains(&source) {
            return Vec::new();
        }
        all.retain(|line| args.takes(line));
        all.split_off(all.len().saturating_sub(args.last))
    };
    let logs = Logs {
        console: chosen(LogSource::Console, logs.console),
        vmm: chosen(LogSource::Vmm, logs.vmm),
        shim: chosen(LogSource::Shim, logs.shim),
    };
    if args.follow {
        return follow(session, args, &sources, &logs);
    }
    session.print(&logs, show::logs)?;
    Ok(ExitCode::SUCCESS)
}

fn follow(
    session: &Session,
    args: &LogsArgs,
    sources: &[LogSource],
    logs: &Logs,
) -> Result<ExitCode, Error> {
    session.stop_on_signals();
    let mut printed = Ok(());
    let mut print = |source: LogSource, text: &str| {
        if args.takes(text) {
            printed = line(session.format, sources.len() > 1, source, text);
        }
        if printed.is_ok() { Follow::On } else { Follow::Enough }
    };
    for (source, lines) in [
        (LogSource::Console, &logs.console),
        (LogSource::Vmm, &logs.vmm),
        (LogSource::Shim, &logs.shim),
    ] {
        for text in lines {
            print(source, text);
        }
    }
    session.mvm.instance_logs_follow(&session.cx, &args.instance, sources, &mut print)?;
    match printed {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::new(ErrorKind::Failed, "cannot print a line").because(&error))
        }
        Ok(()) | Err(_) => Ok(ExitCode::SUCCESS),
    }
}

fn line(format: Format, is_named: bool, source: LogSource, text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let name = match source {
        LogSource::Console => "console",
        LogSource::Vmm => "vmm",
        LogSource::Shim => "shim",
    };
    match format {
        Format::Table if is_named => writeln!(out, "{name}: {text}")?,
        Format::Table => writeln!(out, "{text}")?,
        Format::Json | Format::Yaml => {
            writeln!(out, "{}", serde_json::json!({ "source": source, "line": text }))?;
        }
    }
    out.flush()
}
