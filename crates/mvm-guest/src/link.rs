//! One connection's shared half: the session under a lock, what waits to be sent, and an inbox
//! for each open stream.
//!
//! ```text
//!  reader thread ──► Session ──► inbox of a stream ──► its worker thread
//!  writer thread ◄── Session ◄── reply, data ◄──────── its worker thread
//! ```
//!
//! Nobody writes to the connection while holding the lock, so a peer that does not read holds up
//! only the writer. This module refuses to know what requests mean.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mvm_proto::{Channel, Failure, Hello, Input, Reply, SendError, Session, StreamId};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

/// Output beyond which no more requests are read, in bytes, so that a caller who asks without
/// reading the answers is held up instead of filling the guest's memory.
const OUTPUT_HIGH: usize = 1024 * 1024;

/// What arrives for a stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Incoming {
    /// Bytes, which have to be given to [`Link::consumed`] when dealt with.
    Data(Vec<u8>),
    /// A message.
    Input(Input),
    /// More may be sent.
    Credit,
    /// Nobody waits for the answer any more, or the connection is gone.
    Cancelled,
}

/// The things that arrived for one stream, with a descriptor that is readable while there are any.
#[derive(Debug)]
pub(crate) struct Inbox {
    queue: Mutex<VecDeque<Incoming>>,
    event: OwnedFd,
}

impl Inbox {
    fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { queue: Mutex::new(VecDeque::new()), event })
    }

    /// Adds something; a second credit in a row adds nothing.
    pub(crate) fn push(&self, incoming: Incoming) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if incoming == Incoming::Credit && queue.back() == Some(&Incoming::Credit) {
            return;
        }
        queue.push_back(incoming);
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    /// Takes the oldest thing, `None` when there is nothing.
    pub(crate) fn take(&self) -> Option<Incoming> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = queue.pop_front();
        if queue.is_empty() {
            let _ = rustix::io::read(&self.event, &mut [0u8; 8]);
        }
        taken
    }

    /// Waits for the oldest thing and takes it.
    pub(crate) fn wait(&self) -> Incoming {
        loop {
            if let Some(incoming) = self.take() {
                return incoming;
            }
            let _ = poll(&mut [PollFd::new(&self.event, PollFlags::IN)], None);
        }
    }

    /// Readable while something is there.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

struct State {
    session: Session,
    inboxes: BTreeMap<StreamId, Arc<Inbox>>,
    is_closed: bool,
}

/// See the module.
pub(crate) struct Link {
    state: Mutex<State>,
    changed: Condvar,
}

impl Link {
    /// A link whose first output is `hello`.
    pub(crate) fn new(hello: Hello) -> Self {
        let session = Session::callee(hello);
        let state = State { session, inboxes: BTreeMap::new(), is_closed: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something to the session and has the output sent.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut Session) -> T) -> T {
        let mut state = self.lock();
        let result = act(&mut state.session);
        if state.session.output_len() > 0 {
            self.changed.notify_all();
        }
        result
    }

    /// Makes the inbox of a new stream.
    pub(crate) fn add_inbox(&self, stream: StreamId) -> io::Result<Arc<Inbox>> {
        let inbox = Arc::new(Inbox::new()?);
        let mut state = self.lock();
        state.inboxes.insert(stream, Arc::clone(&inbox));
        if state.is_closed {
            inbox.push(Incoming::Cancelled);
        }
        Ok(inbox)
    }

    /// Puts something into a stream's inbox; without an inbox nobody is interested.
    pub(crate) fn deliver(&self, stream: StreamId, incoming: Incoming) {
        let inbox = self.lock().inboxes.get(&stream).cloned();
        if let Some(inbox) = inbox {
            inbox.push(incoming);
        }
    }

    /// Answers a stream; that the caller went away is no concern of the one who answers.
    pub(crate) fn reply(&self, stream: StreamId, reply: Reply) {
        match self.with(|session| session.reply(stream, reply)) {
            Ok(()) | Err(SendError::NotOpen(_)) => {}
            Err(error) => {
                let kind = mvm_proto::FailureKind::Failed;
                self.fail(stream, Failure::new(kind, error.to_string()));
            }
        }
    }

    /// Answers with a failure and ends the stream.
    pub(crate) fn fail(&self, stream: StreamId, failure: Failure) {
        self.lock().inboxes.remove(&stream);
        self.with(|session| session.fail(stream, failure));
    }

    /// Ends a stream.
    pub(crate) fn finish(&self, stream: StreamId) {
        self.lock().inboxes.remove(&stream);
        self.with(|session| session.finish(stream));
    }

    /// Sends as much of `bytes` as the credit allows and says how much, without waiting.
    pub(crate) fn send(
        &self,
        stream: StreamId,
        channel: Option<Channel>,
        bytes: &[u8],
    ) -> Result<usize, SendError> {
        self.with(|session| match channel {
            Some(channel) => session.send_channel(stream, channel, bytes),
            None => session.send_data(stream, bytes),
        })
    }

    /// How much may be sent on a stream.
    pub(crate) fn credit(&self, stream: StreamId) -> usize {
        self.lock().session.credit(stream)
    }

    /// Gives the sender credit for bytes that are dealt with.
    pub(crate) fn consumed(&self, stream: StreamId, bytes: usize) {
        self.with(|session| session.consumed(stream, bytes));
    }

    /// Ends everything: the streams are cancelled, the writer stops.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        for inbox in std::mem::take(&mut state.inboxes).into_values() {
            inbox.push(Incoming::Cancelled);
        }
        self.changed.notify_all();
    }

    /// Waits until all output was handed to the connection, at most so long.
    pub(crate) fn flush(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut state = self.lock();
        while state.session.output_len() > 0 && !state.is_closed {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits while too much output is unsent; false when the connection is gone.
    pub(crate) fn wait_for_room(&self) -> bool {
        let mut state = self.lock();
        while state.session.output_len() > OUTPUT_HIGH && !state.is_closed {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        !state.is_closed
    }

    /// Writes output until the link is closed or the connection fails.
    pub(crate) fn write_to(&self, mut writer: impl Write) {
        loop {
            let output = {
                let mut state = self.lock();
                loop {
                    let output = state.session.take_output();
                    if !output.is_empty() {
                        break output;
                    }
                    if state.is_closed {
                        return;
                    }
                    // The session's output is empty: whoever waits for that may go on.
                    self.changed.notify_all();
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            };
            if writer.write_all(&output).and_then(|()| writer.flush()).is_err() {
                self.close();
                return;
            }
        }
    }
}
