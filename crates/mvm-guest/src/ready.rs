//! Whether the workload serves: its programs did not fail, and it shows what is asked for.
//!
//! This module refuses to know who waits for it. An answer is looked at as far as its status, no further.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use mvm_proto::message::{Readiness, Ready};
use mvm_proto::{Exit, FailureKind};

use crate::agent::{Agent, Service};
use crate::failure::{Outcome, failure};

/// How much of an answer is read at most: `HTTP/1.1 200` and a reason.
const STATUS_LINE: usize = 256;

/// Succeeds when the workload serves; else the failure says what is missing.
pub(crate) fn ready(agent: &Agent, asked: &Ready) -> Outcome<()> {
    match agent.service() {
        Service::Held => return missing("its workload is not started yet"),
        Service::Ended(exit) if exit != Exit::Code(0) => {
            return missing(format!("its program ended with code {}", exit.shell_code()));
        }
        Service::Absent | Service::Running | Service::Ended(_) => {}
    }
    let timeout = Duration::from_millis(u64::from(asked.timeout_ms).max(1));
    let at = |port| SocketAddr::new(asked.address, port);
    match &asked.readiness {
        None => Ok(()),
        Some(Readiness::WorkerReady {}) if agent.hooks.view().is_ready => Ok(()),
        Some(Readiness::WorkerReady {}) => missing("its workload did not say that it is ready"),
        Some(Readiness::Tcp { port }) => match TcpStream::connect_timeout(&at(*port), timeout) {
            Ok(_) => Ok(()),
            Err(error) => missing(format!("port {port} takes no connection: {error}")),
        },
        Some(Readiness::Http { port, path }) => match status(at(*port), path, timeout) {
            Ok(200..=399) => Ok(()),
            Ok(status) => missing(format!("port {port} answers {path} with status {status}")),
            Err(error) => missing(format!("port {port} does not answer {path}: {error}")),
        },
    }
}

fn missing(what: impl Into<String>) -> Outcome<()> {
    failure(FailureKind::Failed, what)
}

/// The status of the answer to a request.
fn status(address: SocketAddr, path: &str, timeout: Duration) -> io::Result<u16> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    if !path.starts_with('/') || path.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return Err(invalid("the path is none"));
    }
    let deadline = Instant::now() + timeout;
    let mut stream = TcpStream::connect_timeout(&address, timeout)?;
    let left = || {
        let left = deadline.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left).ok_or_else(|| io::Error::from(io::ErrorKind::TimedOut))
    };
    stream.set_write_timeout(Some(left()?))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut line = Vec::new();
    let mut buffer = [0u8; 64];
    while !line.contains(&b'\n') && line.len() < STATUS_LINE {
        stream.set_read_timeout(Some(left()?))?;
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        line.extend_from_slice(buffer.get(..read).unwrap_or_default());
    }
    let text = String::from_utf8_lossy(&line);
    let mut words = text.split_ascii_whitespace();
    let is_http = words.next().is_some_and(|word| word.starts_with("HTTP/1."));
    let status = words.next().filter(|word| word.len() == 3).and_then(|word| word.parse().ok());
    status.filter(|_| is_http).ok_or_else(|| invalid("its answer is not HTTP"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;
    use crate::agent::Places;
    use std::net::{Ipv4Addr, TcpListener};

    /// An agent whose workload was started.
    fn agent() -> Agent {
        let agent = Agent::new(Places::of_a_guest(), false);
        agent.set_service(Service::Running);
        agent
    }

    fn asked(readiness: Option<Readiness>) -> Ready {
        Ready { address: Ipv4Addr::LOCALHOST.into(), readiness, timeout_ms: 5000 }
    }

    /// A server that answers one request with these bytes.
    fn answering(bytes: &'static [u8]) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0u8; 512];
            let read = stream.read(&mut request).unwrap();
            assert!(request.starts_with(b"GET /up HTTP/1.1\r\n"), "{read} bytes");
            stream.write_all(bytes).unwrap();
        });
        port
    }

    #[test]
    fn a_workload_that_was_not_started_or_whose_program_failed_does_not_serve() {
        let agent = Agent::new(Places::of_a_guest(), false);
        assert!(ready(&agent, &asked(None)).unwrap_err().message.contains("not started"));
        agent.set_service(Service::Ended(Exit::Code(3)));
        assert!(ready(&agent, &asked(None)).unwrap_err().message.contains("code 3"));
        for service in [Service::Absent, Service::Running, Service::Ended(Exit::Code(0))] {
            agent.set_service(service);
            assert_eq!(ready(&agent, &asked(None)), Ok(()), "{service:?}");
        }
    }

    #[test]
    fn a_worker_is_ready_once_it_says_so() {
        let agent = agent();
        let ask = asked(Some(Readiness::WorkerReady {}));
        assert!(ready(&agent, &ask).is_err());
        agent.hooks.note(mvm_proto::WorkerState::Ready);
        agent.hooks.note(mvm_proto::WorkerState::Busy);
        assert_eq!(ready(&agent, &ask), Ok(()));
    }

    #[test]
    fn a_port_is_ready_when_it_takes_a_connection() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let ask = asked(Some(Readiness::Tcp { port }));
        assert_eq!(ready(&agent(), &ask), Ok(()));
        drop(listener);
        assert!(ready(&agent(), &ask).unwrap_err().message.contains(&format!("port {port}")));
    }

    #[test]
    fn a_request_is_answered_when_its_status_is_200_to_399() {
        let said = |bytes| {
            let port = answering(bytes);
            let http = Readiness::Http { port, path: "/up".to_owned() };
            ready(&agent(), &asked(Some(http))).map_err(|failure| failure.message)
        };
        assert_eq!(said(b"HTTP/1.1 200 OK\r\n\r\n"), Ok(()));
        assert_eq!(said(b"HTTP/1.0 302 Found\r\n\r\n"), Ok(()));
        assert!(said(b"HTTP/1.1 503 Busy\r\n\r\n").unwrap_err().contains("status 503"));
        for bad in [b"SSH-2.0-x\r\n".as_slice(), b"", b"HTTP/1.1 2000 no\r\n"] {
            assert!(said(bad).unwrap_err().contains("not HTTP"), "{bad:?}");
        }
    }

    #[test]
    fn a_path_that_would_be_more_than_a_path_is_not_asked_for() {
        for path in ["up", "/up\r\nX: y", "/a b"] {
            let at = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
            let error = status(at, path, Duration::from_secs(1)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{path:?}");
        }
    }
}
