//! Sessions: one per connection, a thread that reads and one that writes, and a thread for each
//! request that may take time.
//!
//! This module refuses to know what a connection is: the tests bring a pair of sockets, `main`
//! brings vsock.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mvm_proto::{Event, Failure, FailureKind, Generations, Hello, Request, StreamId, WorkerState};
use vsock::{VMADDR_CID_HOST, VsockAddr, VsockListener, VsockStream};

use crate::agent::Agent;
use crate::console::say;
use crate::link::{Inbox, Incoming, Link};
use crate::story::Story;
use crate::{dispatch, exec, files};

/// Sessions at once; a further connection is closed without a word.
const SESSIONS_MAX: usize = 32;

/// Bytes read from a connection at once.
const READ_SIZE: usize = 64 * 1024;

/// Serves one connection to its end; `hang_up` has to end both directions of it, so that a writer
/// whose peer stopped reading is not held for ever.
pub(crate) fn serve<W>(agent: &Arc<Agent>, mut reader: impl Read, writer: W, hang_up: impl FnOnce())
where
    W: Write + Send + 'static,
{
    let link = Arc::new(Link::new(hello(agent)));
    let writing = Arc::clone(&link);
    let writer = spawn("writer", move || writing.write_to(writer));
    if writer.is_some() {
        read_requests(agent, &link, &mut reader);
    }
    link.close();
    hang_up();
    if let Some(writer) = writer {
        let _ = writer.join();
    }
}

/// What the agent says about itself.
pub(crate) fn hello(agent: &Agent) -> Hello {
    Hello {
        generations: Generations::SUPPORTED,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        boot_id: agent.boot_id(),
        instance_id: agent.instance_id(),
        operation: None,
    }
}

/// Accepts connections of the host for ever.
pub(crate) fn listen(agent: &Arc<Agent>, listener: &VsockListener) {
    let sessions = Arc::new(AtomicUsize::new(0));
    loop {
        let Ok((stream, peer)) = listener.accept() else { continue };
        // Programs of the guest itself may reach this port through the loopback of vsock.
        if peer.cid() != VMADDR_CID_HOST || sessions.load(Ordering::Relaxed) >= SESSIONS_MAX {
            continue;
        }
        let Ok(writer) = stream.try_clone() else { continue };
        sessions.fetch_add(1, Ordering::Relaxed);
        let (agent, counter) = (Arc::clone(agent), Arc::clone(&sessions));
        let spawned = spawn("session", move || {
            serve(&agent, &stream, writer, || {
                let _ = stream.shutdown(std::net::Shutdown::Both);
            });
            counter.fetch_sub(1, Ordering::Relaxed);
        });
        if spawned.is_none() {
            sessions.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Tells the host what a worker hook announced. Nobody listening there is not an error.
pub(crate) fn notify_host(agent: &Agent, worker: WorkerState) {
    let address = VsockAddr::new(VMADDR_CID_HOST, mvm_proto::HOST_PORT);
    let Ok(mut stream) = VsockStream::connect(&address) else { return };
    let patience = Some(std::time::Duration::from_secs(5));
    let _ = stream.set_read_timeout(patience);
    let _ = stream.set_write_timeout(patience);
    let mut session = mvm_proto::Session::caller(hello(agent));
    if session.open(Request::Notify { worker }).is_err() {
        return;
    }
    let mut buffer = [0u8; 4096];
    loop {
        if stream.write_all(&session.take_output()).is_err() {
            return;
        }
        let Ok(length @ 1..) = stream.read(&mut buffer) else { return };
        session.receive(buffer.get(..length).unwrap_or_default());
        loop {
            match session.next_event() {
                Ok(Some(Event::Ended { .. })) | Err(_) => return,
                Ok(Some(_)) => {}
                Ok(None) => break,
            }
        }
    }
}

/// Starts a named thread; `None`, and a line on the console, when the guest has no room for it.
pub(crate) fn spawn(
    name: &str,
    act: impl FnOnce() + Send + 'static,
) -> Option<std::thread::JoinHandle<()>> {
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(act);
    spawned.inspect_err(|error| say(&format!("cannot start thread {name}: {error}"))).ok()
}

fn read_requests(agent: &Arc<Agent>, link: &Arc<Link>, reader: &mut impl Read) {
    let mut buffer = vec![0u8; READ_SIZE];
    let mut story = Story::default();
    while link.wait_for_room() {
        let length = match reader.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        link.with(|session| session.receive(buffer.get(..length).unwrap_or_default()));
        loop {
            match link.with(mvm_proto::Session::next_event) {
                Ok(Some(event)) => apply(agent, link, &mut story, event),
                Ok(None) => break,
                Err(error) => {
                    say(&format!("session ended: {error}"));
                    return;
                }
            }
        }
    }
}

fn apply(agent: &Arc<Agent>, link: &Arc<Link>, story: &mut Story, event: Event) {
    match event {
        Event::Ready { peer, .. } => story.begin(peer),
        Event::Opened { stream, request } => {
            story.add(&request);
            open(agent, link, stream, request);
        }
        Event::Input { stream, input } => link.deliver(stream, Incoming::Input(input)),
        Event::Data { stream, payload } => link.deliver(stream, Incoming::Data(payload)),
        Event::Credit { stream } => link.deliver(stream, Incoming::Credit),
        Event::Cancelled { stream } => link.deliver(stream, Incoming::Cancelled),
        Event::Reply { .. } | Event::Failed { .. } | Event::Ended { .. } => {}
    }
}

fn open(agent: &Arc<Agent>, link: &Arc<Link>, stream: StreamId, request: Request) {
    if dispatch::is_quick(&request) {
        dispatch::answer(agent, link, stream, request);
        return;
    }
    let inbox = match link.add_inbox(stream) {
        Ok(inbox) => inbox,
        Err(error) => {
            link.fail(stream, Failure::new(FailureKind::Busy, error.to_string()));
            return;
        }
    };
    let (agent, working) = (Arc::clone(agent), Arc::clone(link));
    let worker = spawn("request", move || work(&agent, &working, stream, request, &inbox));
    if worker.is_none() {
        link.fail(stream, Failure::new(FailureKind::Busy, "the guest has no room for a thread"));
    }
}

fn work(agent: &Arc<Agent>, link: &Link, stream: StreamId, request: Request, inbox: &Inbox) {
    let result = if let Request::Exec(exec) = &request {
        exec::run(agent, link, stream, exec, inbox)
    } else if let Request::CopyIn { path } = &request {
        files::copy_in(link, stream, path, inbox)
    } else if let Request::CopyOut { path } = &request {
        files::copy_out(link, stream, path, inbox)
    } else {
        dispatch::answer(agent, link, stream, request);
        return;
    };
    match result {
        Ok(()) => link.finish(stream),
        Err(failure) => link.fail(stream, failure),
    }
}

#[cfg(test)]
mod tests;
