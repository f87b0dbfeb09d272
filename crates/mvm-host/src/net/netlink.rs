//! One synchronous netlink socket for both families that are spoken here: route and netfilter.
//!
//! A request is a kind, a fixed header and attributes, written by hand: the two dozen attributes
//! used here are fewer than what a typed library must know of every foreign device to get past it
//! in a dump, and one unknown attribute of somebody else's interface never hides ours.
//!
//! It knows nothing of bridges, rules or tables. Next: [`super::link`].

use std::{io, os::fd::AsFd, time::Duration};

use mvm_core::{Error, ErrorKind};
use netlink_sys::{Socket, SocketAddr, protocols};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use thiserror::Error;

/// How long the kernel may take for one answer; it answers within the system call that asks,
/// unless another process holds the RTNL lock.
const DEADLINE: Duration = Duration::from_secs(10);
/// The kernel fills at most 32 KiB of a dump per message (`netlink_dump`); an answer to a single
/// request is far smaller.
const BUFFER: usize = 64 * 1024;
/// How often a dump that was overtaken by a change is begun anew.
const DUMP_ATTEMPTS: usize = 8;

const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x01;
const NLM_F_ACK: u16 = 0x04;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;

/// Replace what is there.
pub(super) const REPLACE: u16 = 0x100;
/// Fail with `EEXIST` when it is there.
pub(super) const EXCLUSIVE: u16 = 0x200;
/// Make it when it is not there.
pub(super) const CREATE: u16 = 0x400;

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

/// Attributes in the order they are sent.
#[derive(Debug, Default, Clone)]
pub(super) struct Attributes(Vec<u8>);

impl Attributes {
    pub(super) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(aligned(self.0.len()), 0);
        self
    }

    pub(super) fn u32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    pub(super) fn u8(self, kind: u16, value: u8) -> Self {
        self.bytes(kind, &[value])
    }

    /// A text with its closing zero byte.
    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        let mut text = value.as_bytes().to_vec();
        text.push(0);
        self.bytes(kind, &text)
    }

    pub(super) fn nested(self, kind: u16, inner: &Self) -> Self {
        self.bytes(kind | NLA_F_NESTED, &inner.0)
    }
}

/// One request: message kind, flags, the family's fixed header, attributes.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) fixed: Vec<u8>,
    pub(super) attributes: Attributes,
}

impl Request {
    fn write(&self, flags: u16, sequence: u32, out: &mut Vec<u8>) {
        let length = HEADER + aligned(self.fixed.len()) + self.attributes.0.len();
        let start = out.len();
        out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
        out.extend_from_slice(&self.kind.to_ne_bytes());
        out.extend_from_slice(&(self.flags | flags | NLM_F_REQUEST).to_ne_bytes());
        out.extend_from_slice(&sequence.to_ne_bytes());
        out.extend_from_slice(&0u32.to_ne_bytes());
        out.extend_from_slice(&self.fixed);
        out.resize(start + HEADER + aligned(self.fixed.len()), 0);
        out.extend_from_slice(&self.attributes.0);
    }
}

/// One message of an answer, without netlink's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) kind: u16,
    pub(super) body: Vec<u8>,
}

impl Message {
    /// The attributes after a fixed header of `fixed` bytes.
    pub(super) fn attributes(&self, fixed: usize) -> Reader<'_> {
        Reader(self.body.get(aligned(fixed)..).unwrap_or_default())
    }

    /// The 32 bits at `at` of the fixed header.
    pub(super) fn u32_at(&self, at: usize) -> Option<u32> {
        self.body.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
    }
}

/// Walks attributes; stops at the first that does not fit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    /// The value of the first attribute of this kind.
    pub(super) fn value(self, kind: u16) -> Option<&'a [u8]> {
        self.into_iter().find(|(found, _)| *found == kind).map(|(_, value)| value)
    }

    pub(super) fn u32(self, kind: u16) -> Option<u32> {
        self.value(kind)?.try_into().ok().map(u32::from_ne_bytes)
    }

    pub(super) fn text(self, kind: u16) -> Option<&'a str> {
        let bytes = self.value(kind)?;
        std::str::from_utf8(bytes.strip_suffix(&[0]).unwrap_or(bytes)).ok()
    }

    pub(super) fn nested(self, kind: u16) -> Option<Self> {
        self.value(kind).map(Self)
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = (u16, &'a [u8]);
    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16::from_ne_bytes(self.0.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(self.0.get(2..4)?.try_into().ok()?) & NLA_TYPE_MASK;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(aligned(length)..).unwrap_or_default();
        Some((kind, value))
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

type Split<'a> = (u16, u16, u32, &'a [u8], &'a [u8]);

fn split(datagram: &[u8]) -> Option<Split<'_>> {
    let length = usize::try_from(u32::from_ne_bytes(datagram.get(..4)?.try_into().ok()?)).ok()?;
    let kind = u16::from_ne_bytes(datagram.get(4..6)?.try_into().ok()?);
    let flags = u16::from_ne_bytes(datagram.get(6..8)?.try_into().ok()?);
    let sequence = u32::from_ne_bytes(datagram.get(8..12)?.try_into().ok()?);
    let body = datagram.get(HEADER..length)?;
    Some((kind, flags, sequence, body, datagram.get(aligned(length)..).unwrap_or_default()))
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

const fn aligned(length: usize) -> usize {
    (length + 3) & !3
}

#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests stop at the first surprise"
)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
    fn what_is_written_is_read_back() {
        let inner = Attributes::default().u8(4, 9).text(5, "bridge");
        let attributes = Attributes::default().u32(1, 7).nested(2, &inner).text(3, "tn3i4");
        let request = Request { kind: 16, flags: 0, fixed: vec![0; 16], attributes };
        let mut out = Vec::new();
        request.write(NLM_F_ACK, 3, &mut out);
        let (kind, flags, sequence, body, rest) = split(&out).unwrap();
        assert_eq!((kind, flags, sequence, rest.len()), (16, NLM_F_REQUEST | NLM_F_ACK, 3, 0));
        let reader = Message { kind, body: body.to_vec() };
        assert_eq!(reader.attributes(16).u32(1), Some(7));
        assert_eq!(reader.attributes(16).text(3), Some("tn3i4"));
        let nested = reader.attributes(16).nested(2).unwrap();
        assert_eq!((nested.value(4), nested.text(5)), (Some([9].as_slice()), Some("bridge")));
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
