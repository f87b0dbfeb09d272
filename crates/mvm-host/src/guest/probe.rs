//! What a guest can reach, asked of its agent.
//!
//! It refuses to know what it should.

use std::time::Duration;

use mvm_core::{
    Error, ErrorKind,
    id::InstanceRef,
    port::{ProbeOutcome, ProbeTarget},
    publish::Protocol,
};
use mvm_proto::{
    Event, Reply, Request,
    message::{self, ProbeProtocol},
};

use super::{
    MARGIN, PROMPT,
    link::{Link, Lost, Mine},
};
use crate::vmm::socket::Deadline;

/// Until when the outcomes are waited for.
pub(super) fn deadline(targets: &[ProbeTarget], timeout: Duration) -> Deadline {
    // An agent of an older image tries one target after the other.
    let in_turn = timeout.saturating_mul(u32::try_from(targets.len()).unwrap_or(u32::MAX));
    Deadline::after(PROMPT + in_turn + MARGIN)
}

/// Lets the guest try.
pub(super) fn run(
    link: Result<Link, Lost>,
    instance: &InstanceRef,
    targets: &[ProbeTarget],
    timeout: Duration,
) -> Result<Vec<ProbeOutcome>, Error> {
    let request = Request::Probe {
        targets: targets.iter().map(target).collect(),
        timeout_ms: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX),
    };
    let lost = |lost: Lost| lost.error(&instance.to_string(), "no agent answers in it");
    let mut link = link.map_err(lost)?;
    let stream = link.begin(request).map_err(lost)?;
    loop {
        if let Some(results) = results(link.next_event().map_err(lost)?, stream) {
            return results.map_err(|why| {
                Error::new(ErrorKind::Failed, format!("{instance} cannot probe: {why}"))
            });
        }
    }
}

fn target(asked: &ProbeTarget) -> message::ProbeTarget {
    message::ProbeTarget {
        address: asked.address.into(),
        port: asked.port,
        protocol: match asked.protocol {
            Protocol::Tcp => ProbeProtocol::Tcp,
            Protocol::Udp => ProbeProtocol::Udp,
        },
    }
}

/// The outcomes, when this event has them.
fn results(event: Event, asked: mvm_proto::StreamId) -> Option<Result<Vec<ProbeOutcome>, String>> {
    match Mine::of(event, asked)? {
        Mine::Reply(Reply::Probe { results }) => {
            Some(Ok(results.iter().map(|one| outcome(one.outcome)).collect()))
        }
        Mine::Reply(_) => None,
        Mine::Failed(failure) => Some(Err(failure.message)),
        Mine::Ended => Some(Err("the agent ended the request without an answer".to_owned())),
    }
}

const fn outcome(told: message::ProbeOutcome) -> ProbeOutcome {
    match told {
        message::ProbeOutcome::Reachable => ProbeOutcome::Reachable,
        message::ProbeOutcome::Refused => ProbeOutcome::Refused,
        message::ProbeOutcome::Unreachable => ProbeOutcome::Unreachable,
        message::ProbeOutcome::Silent => ProbeOutcome::Silent,
        message::ProbeOutcome::Unsupported | message::ProbeOutcome::Unknown => {
            ProbeOutcome::Unsupported
        }
    }
}
