//! How results, progress and errors look. Data goes to standard output, speech to standard error.

pub(crate) mod error;
pub(crate) mod progress;
pub(crate) mod table;
mod yaml;

use std::io::{self, Write};

use serde::Serialize;

use crate::args::Format;

/// Prints a result: `value` as JSON or YAML, or what `text` makes of it.
///
/// # Errors
/// Standard output is gone.
pub(crate) fn result<T: Serialize>(
    format: Format,
    value: &T,
    text: impl FnOnce(&T) -> String,
) -> io::Result<()> {
    let printed = match format {
        Format::Json => serde_json::to_string_pretty(value).map_err(io::Error::other)?,
        Format::Yaml => yaml::document(&serde_json::to_value(value).map_err(io::Error::other)?),
        Format::Table => text(value),
    };
    let mut out = io::stdout().lock();
    if printed.is_empty() { Ok(()) } else { writeln!(out, "{}", printed.trim_end()) }
}
