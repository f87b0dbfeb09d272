//! Probes for `net verify --deep`: can this guest reach that address, from its own one?
//!
//! This module refuses to know whether it should.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use mvm_proto::message::{PROBE_MAX, ProbeOutcome, ProbeProtocol, ProbeResult, ProbeTarget};
use mvm_proto::{FailureKind, Reply};

use crate::failure::{Outcome, failure};

/// The port of resolvers: a datagram there is a question that every resolver answers.
const DOMAIN: u16 = 53;
/// A query for the name servers of the root: number 0x6d76, recursion desired, one question.
const QUERY: [u8; 17] = [0x6d, 0x76, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];

/// Tries the targets, all at once.
pub(crate) fn probe(targets: &[ProbeTarget], timeout_ms: u32) -> Outcome<Reply> {
    if targets.len() > PROBE_MAX || timeout_ms == 0 {
        let message = format!("a probe has at most {PROBE_MAX} targets and a timeout");
        return failure(FailureKind::Invalid, message);
    }
    let timeout = Duration::from_millis(u64::from(timeout_ms));
    let outcomes: Vec<ProbeOutcome> = std::thread::scope(|scope| {
        let tries: Vec<_> =
            targets.iter().map(|target| scope.spawn(move || outcome(target, timeout))).collect();
        tries.into_iter().map(|one| one.join().unwrap_or(ProbeOutcome::Unsupported)).collect()
    });
    let results = targets.iter().cloned().zip(outcomes);
    let results = results.map(|(target, outcome)| ProbeResult { target, outcome }).collect();
    Ok(Reply::Probe { results })
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the standard library adds kinds at will")]
fn outcome(target: &ProbeTarget, timeout: Duration) -> ProbeOutcome {
    let address = SocketAddr::new(target.address, target.port);
    let tried = match target.protocol {
        ProbeProtocol::Tcp => TcpStream::connect_timeout(&address, timeout).map(drop),
        ProbeProtocol::Udp => ask(address, timeout),
        ProbeProtocol::Icmp => return ProbeOutcome::Unsupported,
    };
    match tried {
        Ok(()) => ProbeOutcome::Reachable,
        Err(error) => match error.kind() {
            ErrorKind::ConnectionRefused => ProbeOutcome::Refused,
            ErrorKind::TimedOut | ErrorKind::WouldBlock => ProbeOutcome::Silent,
            _ => ProbeOutcome::Unreachable,
        },
    }
}

fn ask(address: SocketAddr, timeout: Duration) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(timeout))?;
    socket.send(if address.port() == DOMAIN { &QUERY } else { b"mvm" })?;
    socket.recv(&mut [0u8; 512]).map(drop)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;

    fn tcp(port: u16) -> ProbeOutcome {
        let address = Ipv4Addr::LOCALHOST.into();
        let target = ProbeTarget { address, port, protocol: ProbeProtocol::Tcp };
        outcome(&target, Duration::from_secs(5))
    }

    #[test]
    fn a_listener_is_reachable_and_a_closed_port_refuses() {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(tcp(port), ProbeOutcome::Reachable);
        drop(listener);
        assert_eq!(tcp(port), ProbeOutcome::Refused);
    }
}
