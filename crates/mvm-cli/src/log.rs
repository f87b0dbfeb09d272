//! The log: structured lines on standard error, each with the id of the operation.
//!
//! It refuses to know where its settings come from: [`mvm::Config`] does.

use std::io;

use mvm::{Config, Error, ErrorKind, LogFormat, OperationId, SPAN};
use tracing_subscriber::{
    Layer as _, filter::Targets, fmt, layer::SubscriberExt as _, registry,
    util::SubscriberInitExt as _,
};

use crate::args::Format;

/// What `--verbose` logs.
pub(crate) const VERBOSE: &str = "mvm=debug,mvm_engine=debug,mvm_host=debug";

/// Logs what the configuration asks for, if it asks for anything.
///
/// # Errors
/// `Invalid` when that makes no sense.
pub(crate) fn to_stderr(config: &Config, results: Format) -> Result<(), Error> {
    let Some(wanted) = &config.log else { return Ok(()) };
    // The span that carries the id is let through, whatever else is wanted.
    let filter: Targets = format!("{wanted},{SPAN}=info").parse().map_err(|error| {
        Error::new(ErrorKind::Invalid, format!("cannot log {wanted:?}"))
            .because(&error)
            .hint("give a level (error, warn, info, debug, trace), or TARGET=LEVEL,…")
    })?;
    let layer = fmt::layer().with_writer(io::stderr);
    let format = config.log_format.unwrap_or(match results {
        Format::Json | Format::Yaml => LogFormat::Json,
        Format::Table => LogFormat::Human,
    });
    let layer = match format {
        LogFormat::Json => layer.json().with_current_span(false).boxed(),
        LogFormat::Human => layer.with_ansi(false).boxed(),
    };
    // A second log in one process would be a bug of the caller's, and no reason to end.
    let _ = registry().with(layer.with_filter(filter)).try_init();
    Ok(())
}

/// The span of everything that a command does.
pub(crate) fn span(operation: &OperationId, uid: u32) -> tracing::Span {
    tracing::info_span!(target: SPAN, "asked", %operation, uid)
}
