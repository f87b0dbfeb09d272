//! From a request to the function that does it, and from its result to the reply.
//!
//! This module refuses to know how anything is done.

use std::sync::Arc;

use mvm_proto::message::Status;
use mvm_proto::{Failure, FailureKind, Reply, Request, StreamId};

use crate::agent::{Agent, Service};
use crate::failure::Outcome;
use crate::link::Link;
use crate::{
    drives, health, identity, integrations, probe, quiesce, ready, routes, wake, workload,
};

/// Whether a request is answered by the thread that reads, rather than by its own: what is done at once,
/// and what nothing else can be asked beside, for a thread more costs a clone pages that it has to copy.
pub(crate) fn is_quick(request: &Request) -> bool {
    matches!(
        request,
        Request::Ping {}
            | Request::Status {}
            | Request::Metrics {}
            | Request::Wake(_)
            | Request::Configure(_)
            | Request::Thaw {}
    )
}

/// Does what is asked, answers and ends the stream.
pub(crate) fn answer(agent: &Arc<Agent>, link: &Link, stream: StreamId, request: Request) {
    if let Request::Shutdown { grace_secs } = request {
        workload::shut_down(agent, grace_secs, || {
            link.reply(stream, done("going down"));
            link.finish(stream);
            link.flush(workload::LAST_WORD);
        });
        return;
    }
    match reply_to(agent, request) {
        Ok(reply) => {
            link.reply(stream, reply);
            link.finish(stream);
        }
        Err(failure) => link.fail(stream, failure),
    }
}

fn reply_to(agent: &Arc<Agent>, request: Request) -> Outcome<Reply> {
    match request {
        Request::Ping {} => Ok(Reply::Pong {}),
        Request::Status {} => Ok(Reply::Status(status(agent))),
        Request::Metrics {} => Ok(Reply::Metrics(health::metrics())),
        Request::SleepPrep { drain_timeout_secs } => {
            Ok(ack(workload::drain(agent, drain_timeout_secs)))
        }
        Request::Wake(wake) => wake::wake(agent, &wake).map(|detail| done(&detail)),
        Request::Checkpoint { integrations, timeout_secs } => {
            Ok(integrations::checkpoint(agent, &integrations, timeout_secs))
        }
        Request::Restore { integrations, timeout_secs } => {
            Ok(integrations::restore(agent, &integrations, timeout_secs))
        }
        Request::IntegrationStatus {} => Ok(integrations::status(agent)),
        Request::Configure(configure) => {
            identity::configure(agent, &configure).map(|()| done("configured"))
        }
        Request::AttachDrive(drive) => {
            drives::attach(agent, &drive).map(|place| done(&place.display().to_string()))
        }
        Request::DetachDrive { label } => drives::detach(agent, &label).map(|()| done("detached")),
        Request::SecretsRefresh { epoch } => {
            drives::refresh_secrets(agent, epoch).map(|()| done("secrets replaced"))
        }
        Request::Routes(routes) => routes::take(agent, &routes).map(done),
        Request::Ready(asked) => Ok(ack(ready::ready(agent, &asked))),
        Request::Quiesce { workload, filesystems, timeout_ms } => {
            quiesce::quiesce(agent, workload, filesystems, timeout_ms).map(|()| done("quiet"))
        }
        Request::Thaw {} => quiesce::thaw(agent).map(|()| done("thawed")),
        Request::Probe { targets, timeout_ms } => probe::probe(&targets, timeout_ms),
        Request::Resize { label } => drives::resize(&label).map(|detail| done(&detail)),
        Request::Notify { .. } => unsupported("hooks are announced by the guest"),
        Request::Exec(_)
        | Request::CopyIn { .. }
        | Request::CopyOut { .. }
        | Request::Shutdown { .. } => unsupported("this request has a path of its own"),
    }
}

fn status(agent: &Agent) -> Status {
    let view = agent.hooks.view();
    let workload_exit = match agent.service() {
        Service::Ended(exit) => Some(exit),
        Service::Held | Service::Absent | Service::Running => None,
    };
    Status {
        worker: view.state,
        last_busy_at: view.last_busy_at,
        has_hooks: view.is_ready,
        is_ready: view.is_ready,
        is_configured: agent.instance_id().is_some(),
        is_frozen: agent.is_frozen(),
        generation: agent.generation(),
        secrets_epoch: agent.secrets_epoch(),
        workload_exit,
    }
}

fn done(detail: &str) -> Reply {
    Reply::Ack { success: true, detail: detail.to_owned() }
}

fn ack(result: Outcome<()>) -> Reply {
    match result {
        Ok(()) => done("done"),
        Err(failure) => Reply::Ack { success: false, detail: failure.message },
    }
}

fn unsupported(message: &str) -> Outcome<Reply> {
    Err(Failure::new(FailureKind::Unsupported, message))
}
