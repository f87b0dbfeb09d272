//! What the guest's console says of the host's operations: which one asked for what.
//!
//! A request that takes time is told before it is done. One that the host waits for on a wake is
//! told when its session ends, since a line on a serial console costs more than the wake's answer.
//! This module refuses to know what requests do; requests that only look are not told.

use mvm_proto::{Hello, Request};

use crate::{console, dispatch};

/// No id is longer; what is, was not made by a host of ours.
const OPERATION_MAX: usize = 32;

/// The story of one session.
#[derive(Debug, Default)]
pub(crate) struct Story {
    operation: Option<String>,
    untold: Vec<&'static str>,
}

impl Story {
    /// Takes note of whom the session is with.
    pub(crate) fn begin(&mut self, peer: Hello) {
        self.operation = peer.operation.filter(|id| id.len() <= OPERATION_MAX);
    }

    /// Tells a request, or keeps it to be told at the end.
    pub(crate) fn add(&mut self, request: &Request) {
        let Some(operation) = &self.operation else { return };
        if dispatch::is_quick(request) {
            if matches!(request, Request::Wake(_) | Request::Thaw {}) {
                self.untold.push(request.name());
            }
        } else {
            console::tell(&format!("operation {operation}: {}", request.name()));
        }
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        if let Some(operation) = &self.operation
            && !self.untold.is_empty()
        {
            console::tell(&format!("operation {operation}: {}", self.untold.join(", ")));
        }
    }
}
