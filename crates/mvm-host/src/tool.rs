//! The one place that spawns a helper program.
