//! The library: configuration and wiring; one method per operation.

mod builder;
pub mod config;
