//! One synchronous netlink socket for both families that are spoken here: route and netfilter.
//!
//! It sends what [`super::message`] wrote, waits with a deadline, and sorts the answers by request.
//! It knows nothing of bridges, rules or tables.

use std::{io, os::fd::AsFd, time::Duration};

use mvm_core::{Error, ErrorKind};
use netlink_sys::{Socket, SocketAddr, protocols};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use thiserror::Error;

use super::message::{Message, Reader, Request, aligned, split};

/// How long the kernel may take for one answer; it answers within the system call that asks,
/// unless another process holds the RTNL lock.
const DEADLINE: Duration = Duration::from_secs(10);
/// The kernel fills at most 32 KiB of a dump per message (`netlink_dump`); an answer to a single
/// request is far smaller.
const BUFFER: usize = 64 * 1024;
/// How often a dump that was overtaken by a change is begun anew.
const DUMP_ATTEMPTS: usize = 8;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_ACK: u16 = 0x04;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// Why netlink failed.
#[derive(Debug, Error)]
pub(super) enum NetlinkError {
    /// No socket.
    #[error("cannot open a netlink socket")]
    Open(#[source] io::Error),
    /// The socket broke.
    #[error("cannot {act} netlink")]
    Transport {
        /// `write to`, `read from` or `wait for`.
        act: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nothing came within the deadline.
    #[error("the kernel did not answer within {} s", DEADLINE.as_secs())]
    Timeout,
    /// The kernel said no.
    #[error("{}", refusal(*.errno, .detail))]
    Refused {
        /// The error number.
        errno: i32,
        /// The kernel's own words, often empty.
        detail: String,
    },
    /// The answer does not follow netlink's framing.
    #[error("the kernel's answer is malformed")]
    Malformed,
    /// Changes overtook every attempt of a dump.
    #[error("the listing was overtaken by changes {DUMP_ATTEMPTS} times")]
    Overtaken,
}

fn refusal(errno: i32, detail: &str) -> String {
    let meaning = io::Error::from_raw_os_error(errno);
    if detail.is_empty() { meaning.to_string() } else { format!("{meaning}: {detail}") }
}

impl NetlinkError {
    /// The kernel's error number, when it is a refusal.
    pub(super) const fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::Open(_)
            | Self::Transport { .. }
            | Self::Timeout
            | Self::Malformed
            | Self::Overtaken => None,
        }
    }

    /// Puts the act above this failure.
    pub(super) fn during(&self, act: impl Into<String>) -> Error {
        let kind = match self {
            Self::Refused { errno: libc::EPERM | libc::EACCES, .. } => ErrorKind::Permission,
            Self::Timeout | Self::Overtaken => ErrorKind::Unavailable,
            Self::Refused { .. } | Self::Open(_) | Self::Transport { .. } | Self::Malformed => {
                ErrorKind::Failed
            }
        };
        Error::new(kind, act).because(self)
    }
}

/// Whether a refusal says that the object is not there.
pub(super) fn absent<T>(result: Result<T, NetlinkError>) -> Result<Option<T>, NetlinkError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.errno(), Some(libc::ENODEV | libc::ENOENT | libc::ENXIO)) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// An open netlink socket.
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// The socket for links, addresses and rules.
    pub(super) fn route() -> Result<Self, NetlinkError> {
        let netlink = Self::open(protocols::NETLINK_ROUTE)?;
        // Lets the kernel filter dumps by interface (Linux 4.20); without it, more is read.
        netlink.socket.set_netlink_get_strict_chk(true).map_err(NetlinkError::Open)?;
        Ok(netlink)
    }

    /// The socket for nftables.
    pub(super) fn netfilter() -> Result<Self, NetlinkError> {
        Self::open(protocols::NETLINK_NETFILTER)
    }

    fn open(protocol: isize) -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(protocol).map_err(NetlinkError::Open)?;
        socket.bind_auto().map_err(NetlinkError::Open)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(NetlinkError::Open)?;
        socket.set_ext_ack(true).map_err(NetlinkError::Open)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Does one act and returns what the kernel says besides its acknowledgement.
    pub(super) fn ask(&mut self, request: &Request) -> Result<Vec<Message>, NetlinkError> {
        let mut answers = self.ask_all(std::slice::from_ref(request))?;
        answers.pop().unwrap_or(Err(NetlinkError::Malformed))
    }

    /// Does all acts in one system call, in order; a refused one does not stop the next.
    pub(super) fn ask_all(&mut self, requests: &[Request]) -> Result<Vec<Answer>, NetlinkError> {
        let mut out = Vec::new();
        let first = self.sequence.wrapping_add(1);
        for request in requests {
            self.sequence = self.sequence.wrapping_add(1);
            request.write(NLM_F_ACK, self.sequence, &mut out);
        }
        self.send(&out)?;
        let mut collector = Collector::new(first, requests.len());
        while !collector.is_complete() {
            collector.take(&self.receive()?)?;
        }
        Ok(collector.answers)
    }

    /// Lists everything that the request selects.
    pub(super) fn dump(&mut self, request: &Request) -> Result<Vec<Message>, NetlinkError> {
        for _ in 0..DUMP_ATTEMPTS {
            self.sequence = self.sequence.wrapping_add(1);
            let mut out = Vec::new();
            request.write(NLM_F_DUMP, self.sequence, &mut out);
            self.send(&out)?;
            let mut collector = Collector::new(self.sequence, 1);
            while !collector.is_complete() {
                collector.take(&self.receive()?)?;
            }
            if !collector.overtaken {
                return collector.answers.pop().unwrap_or(Err(NetlinkError::Malformed));
            }
        }
        Err(NetlinkError::Overtaken)
    }

    fn send(&self, out: &[u8]) -> Result<(), NetlinkError> {
        self.socket
            .send(out, 0)
            .map(drop)
            .map_err(|source| NetlinkError::Transport { act: "write to", source })
    }

    fn receive(&self) -> Result<Vec<u8>, NetlinkError> {
        let mut ready = [PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN)];
        let deadline =
            Timespec { tv_sec: i64::try_from(DEADLINE.as_secs()).unwrap_or(i64::MAX), tv_nsec: 0 };
        loop {
            match poll(&mut ready, Some(&deadline)) {
                Ok(0) => return Err(NetlinkError::Timeout),
                Ok(_) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => {
                    return Err(NetlinkError::Transport { act: "wait for", source: errno.into() });
                }
            }
        }
        let mut buffer = vec![0; BUFFER];
        let length = self
            .socket
            .recv(&mut buffer.as_mut_slice(), libc::MSG_TRUNC)
            .map_err(|source| NetlinkError::Transport { act: "read from", source })?;
        if length > BUFFER {
            return Err(NetlinkError::Malformed);
        }
        buffer.truncate(length);
        Ok(buffer)
    }
}

/// What came back for one request.
pub(super) type Answer = Result<Vec<Message>, NetlinkError>;

/// Sorts the messages of a datagram by the request they answer.
struct Collector {
    first: u32,
    answers: Vec<Answer>,
    open: usize,
    overtaken: bool,
}

impl Collector {
    fn new(first: u32, count: usize) -> Self {
        let answers = std::iter::repeat_with(|| Ok(Vec::new())).take(count).collect();
        Self { first, answers, open: count, overtaken: false }
    }

    const fn is_complete(&self) -> bool {
        self.open == 0
    }

    fn take(&mut self, mut datagram: &[u8]) -> Result<(), NetlinkError> {
        while !datagram.is_empty() {
            let (kind, flags, sequence, body, rest) =
                split(datagram).ok_or(NetlinkError::Malformed)?;
            datagram = rest;
            let Some(answer) = usize::try_from(sequence.wrapping_sub(self.first))
                .ok()
                .and_then(|index| self.answers.get_mut(index))
            else {
                continue;
            };
            self.overtaken |= flags & NLM_F_DUMP_INTR != 0;
            match kind {
                NLMSG_DONE | NLMSG_ERROR => {
                    self.open = self.open.saturating_sub(1);
                    if let Some(refused) = refused(kind, flags, body) {
                        *answer = Err(refused);
                    }
                }
                _ => {
                    if let Ok(messages) = answer {
                        messages.push(Message { kind, body: body.to_vec() });
                    }
                }
            }
        }
        Ok(())
    }
}

/// The refusal in an acknowledgement or at the end of a dump; none when it says 0.
fn refused(kind: u16, flags: u16, body: &[u8]) -> Option<NetlinkError> {
    let code = i32::from_ne_bytes(body.get(..4)?.try_into().ok()?);
    if code >= 0 {
        return None;
    }
    let attributes = match kind {
        _ if flags & NLM_F_ACK_TLVS == 0 => &[],
        NLMSG_DONE => body.get(4..).unwrap_or_default(),
        // The request stands between the code and the attributes.
        _ => {
            let echoed = u32::from_ne_bytes(body.get(4..8)?.try_into().ok()?);
            body.get(4 + aligned(usize::try_from(echoed).ok()?)..).unwrap_or_default()
        }
    };
    let detail = Reader(attributes).text(NLMSGERR_ATTR_MSG).unwrap_or_default().to_owned();
    Some(NetlinkError::Refused { errno: -code, detail })
}

#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests stop at the first surprise"
)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::message::{Attributes, HEADER},
        *,
    };

    fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let length = u32::try_from(HEADER + body.len()).unwrap();
        out.extend(length.to_ne_bytes());
        out.extend(kind.to_ne_bytes());
        out.extend(flags.to_ne_bytes());
        out.extend(sequence.to_ne_bytes());
        out.extend(0u32.to_ne_bytes());
        out.extend(body);
        out.resize(aligned(out.len()), 0);
        out
    }

    #[test]
    fn answers_go_to_the_request_they_belong_to() {
        let mut collector = Collector::new(8, 2);
        let mut refusal = (-libc::EEXIST).to_ne_bytes().to_vec();
        refusal.extend(message(32, 0, 9, &[])[..].iter());
        let text = Attributes::default().text(NLMSGERR_ATTR_MSG, "it is there");
        refusal.extend(text.0);
        let mut datagram = message(16, 0, 8, &[1, 2, 3, 4]);
        datagram.extend(message(NLMSG_ERROR, NLM_F_ACK_TLVS, 9, &refusal));
        datagram.extend(message(NLMSG_ERROR, 0, 8, &[0; 20]));
        collector.take(&datagram).unwrap();
        assert!(collector.is_complete());
        assert_eq!(collector.answers[0].as_ref().unwrap()[0].body, [1, 2, 3, 4]);
        let error = collector.answers[1].as_ref().unwrap_err();
        assert_eq!(error.errno(), Some(libc::EEXIST));
        assert!(error.to_string().ends_with("it is there"), "{error}");
    }

    #[test]
    fn an_overtaken_dump_is_noticed() {
        let mut collector = Collector::new(1, 1);
        collector.take(&message(16, NLM_F_DUMP_INTR, 1, &[0; 4])).unwrap();
        collector.take(&message(NLMSG_DONE, 0, 1, &[0; 4])).unwrap();
        assert!(collector.is_complete() && collector.overtaken);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic_or_run_for_ever(bytes: Vec<u8>) {
            let _ = Collector::new(0, 1).take(&bytes);
            prop_assert!(Reader(&bytes).count() <= bytes.len());
        }
    }
}
