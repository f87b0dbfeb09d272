//! The log: structured lines on standard error, each with the id of the operation.
//!
//! It refuses to know where its settings come from: [`mvm::Config`] does.

use std::io;

use mvm::{Config, LogFormat, OperationId, SPAN};
use tracing_subscriber::{EnvFilter, fmt};

use crate::args::Format;

/// What `--verbose` logs.
pub(crate) const VERBOSE: &str = "mvm=debug,mvm_engine=debug,mvm_host=debug";

/// Logs what the configuration asks for, if it asks for anything.
pub(crate) fn to_stderr(config: &Config, results: Format) {
    let Some(wanted) = &config.log else { return };
    // The span that carries the id is let through, whatever else is wanted.
    let filter = EnvFilter::new(format!("{wanted},{SPAN}=info"));
    let layer = fmt().with_env_filter(filter).with_writer(io::stderr);
    let format = config.log_format.unwrap_or(match results {
        Format::Json | Format::Yaml => LogFormat::Json,
        Format::Table => LogFormat::Human,
    });
    // A second log in one process would be a bug of the caller's, and no reason to end.
    let _ = match format {
        LogFormat::Json => layer.json().with_current_span(false).try_init(),
        LogFormat::Human => layer.with_ansi(false).try_init(),
    };
}

/// The span of everything that a command does.
pub(crate) fn span(operation: &OperationId, uid: u32) -> tracing::Span {
    tracing::info_span!(target: SPAN, "asked", %operation, uid)
}
