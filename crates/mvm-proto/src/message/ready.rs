//! The question whether the workload serves.
//!
//! This module refuses to know who waits for it, and for how long.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Whether the workload serves: that no program of the image failed, and what else is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// The guest's own address, where it shall serve.
    pub address: IpAddr,
    /// What it must show besides; absent means nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<Readiness>,
    /// How long showing it may take, in milliseconds.
    pub timeout_ms: u32,
}

/// What a workload must show to be ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Readiness {
    /// It touched a worker hook.
    WorkerReady {},
    /// A port takes connections.
    Tcp {
        /// Which.
        port: u16,
    },
    /// A request is answered with a status from 200 to 399.
    Http {
        /// At which port.
        port: u16,
        /// For which path; it begins with a slash.
        path: String,
    },
}
