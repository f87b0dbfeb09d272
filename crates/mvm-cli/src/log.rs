//! The log: structured lines on standard error, each with the id of the operation.
//!
//! It refuses to know where its settings come from: [`mvm::Config`] does.

use std::io;

use mvm::{Config, Error, ErrorKind, LogFormat, SPAN};
use tracing_subscriber::{
    Layer as _, filter::Targets, fmt, layer::SubscriberExt as _, registry,
    util::SubscriberInitExt as _,
};

/// Logs what the configuration asks for, if it asks for anything.
///
/// # Errors
/// `Invalid` when that makes no sense.
pub(crate) fn to_stderr(config: &Config, otherwise: LogFormat) -> Result<(), Error> {
    let Some(wanted) = &config.log else { return Ok(()) };
    // The span that carries the id is let through, whatever else is wanted.
    let filter: Targets = format!("{wanted},{SPAN}=info").parse().map_err(|error| {
        Error::new(ErrorKind::Invalid, format!("cannot log {wanted:?}"))
            .because(&error)
            .hint("give a level (error, warn, info, debug, trace), or TARGET=LEVEL,…")
    })?;
    let layer = fmt::layer().with_writer(io::stderr);
    let layer = match config.log_format.unwrap_or(otherwise) {
        LogFormat::Json => layer.json().with_current_span(false).boxed(),
        LogFormat::Human => layer.with_ansi(false).boxed(),
    };
    // A second log in one process would be a bug of the caller's, and no reason to end.
    let _ = registry().with(layer.with_filter(filter)).try_init();
    Ok(())
}
