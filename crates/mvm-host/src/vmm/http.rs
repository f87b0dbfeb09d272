//! HTTP/1.1 on a Unix socket: one request, one answer, JSON bodies, as much as Firecracker speaks.
//!
//! Every wait has a deadline and every answer a greatest size. It refuses to know redirects,
//! chunked bodies, TLS and names of hosts.

use std::{
    io::{self, Read, Write},
    os::{fd::AsFd, unix::net::UnixStream},
};

use rustix::event::PollFlags;
use thiserror::Error;

use super::socket::Deadline;

/// The greatest answer, head and body, in bytes. Firecracker's own are below 64 KiB.
pub const ANSWER_MAX: usize = 1024 * 1024;
const HEADERS_MAX: usize = 32;

/// Why a request has no answer.
#[derive(Debug, Error)]
pub enum HttpError {
    /// The connection failed, or the deadline came.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// The other side hung up in the middle.
    #[error("the other side hung up")]
    HungUp,
    /// What came is not HTTP/1.1.
    #[error("the answer is not HTTP")]
    Syntax(#[from] httparse::Error),
    /// A length that is absent where one is needed, or no number.
    #[error("the answer's length is unclear")]
    Length,
    /// An answer above [`ANSWER_MAX`].
    #[error("the answer is larger than {ANSWER_MAX} bytes")]
    TooLarge,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body, empty without one.
    pub body: Vec<u8>,
}

/// The methods in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Asks.
    Get,
    /// Sets.
    Put,
    /// Changes.
    Patch,
}

impl Method {
    const fn text(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
        }
    }
}

/// Sends one request over a non-blocking connection and takes its answer.
///
/// # Errors
/// [`HttpError`]; the connection is of no use then.
pub fn request(
    stream: &mut UnixStream,
    method: Method,
    path: &str,
    body: &[u8],
    deadline: Deadline,
) -> Result<Answer, HttpError> {
    let head = format!(
        "{} {path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        method.text(),
        body.len()
    );
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(body);
    send(stream, &bytes, deadline)?;
    receive(stream, deadline)
}

fn send(stream: &mut UnixStream, mut bytes: &[u8], deadline: Deadline) -> Result<(), HttpError> {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                deadline.poll([(stream.as_fd(), PollFlags::OUT)])?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn receive(stream: &mut UnixStream, deadline: Deadline) -> Result<Answer, HttpError> {
    let mut bytes = Vec::new();
    let mut buffer = [0u8; 16 * 1024];
    loop {
        if let Some(answer) = parse(&bytes)? {
            return Ok(answer);
        }
        if bytes.len() > ANSWER_MAX {
            return Err(HttpError::TooLarge);
        }
        match stream.read(&mut buffer) {
            Ok(0) => return Err(HttpError::HungUp),
            Ok(count) => bytes.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                deadline.poll([(stream.as_fd(), PollFlags::IN)])?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The answer at the start of `bytes`, `None` while it is not complete. An interim answer (1xx)
/// is passed over.
fn parse(bytes: &[u8]) -> Result<Option<Answer>, HttpError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(bytes)? else { return Ok(None) };
    let status = response.code.unwrap_or(0);
    let rest = bytes.get(head..).unwrap_or_default();
    if (100..200).contains(&status) {
        return parse(rest);
    }
    let length = match response
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"))
    {
        Some(header) => std::str::from_utf8(header.value)
            .ok()
            .and_then(|text| text.trim().parse::<usize>().ok())
            .ok_or(HttpError::Length)?,
        None if status == 204 => 0,
        None => return Err(HttpError::Length),
    };
    if length > ANSWER_MAX {
        return Err(HttpError::TooLarge);
    }
    Ok(rest.get(..length).map(|body| Answer { status, body: body.to_vec() }))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use std::{thread, time::Duration};

    use super::*;

    /// A server that reads one request and sends these pieces, one after the other.
    fn answer_of(pieces: &[&'static [u8]], wait: Duration) -> (Result<Answer, HttpError>, String) {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let pieces = pieces.to_vec();
        let server = thread::spawn(move || {
            let mut request = Vec::new();
            let mut buffer = [0u8; 512];
            while !request.ends_with(b"{}") {
                let count = theirs.read(&mut buffer).unwrap();
                request.extend_from_slice(buffer.get(..count).unwrap());
            }
            for piece in pieces {
                theirs.write_all(piece).unwrap();
            }
            (theirs, String::from_utf8(request).unwrap())
        });
        let answer = request(&mut ours, Method::Put, "/x", b"{}", Deadline::after(wait));
        let (_theirs, text) = server.join().unwrap();
        (answer, text)
    }

    const PATIENT: Duration = Duration::from_secs(10);

    #[test]
    fn an_answer_in_pieces_is_put_together() {
        let (answer, request) = answer_of(
            &[b"HTTP/1.1 400 \r\nServer: F\r\nContent-", b"Length: 5\r\n\r\nab", b"cde"],
            PATIENT,
        );
        assert_eq!(answer.unwrap(), Answer { status: 400, body: b"abcde".to_vec() });
        assert!(request.starts_with("PUT /x HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("\r\nContent-Length: 2\r\n"), "{request}");
    }

    #[test]
    fn a_204_has_no_body_and_an_interim_answer_is_passed_over() {
        let (answer, _) =
            answer_of(&[b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 \r\n\r\n"], PATIENT);
        assert_eq!(answer.unwrap(), Answer { status: 204, body: Vec::new() });
    }

    #[test]
    fn silence_ends_at_the_deadline() {
        let (answer, _) = answer_of(&[b"HTTP/1.1 200 OK\r\n"], Duration::from_millis(30));
        let Err(HttpError::Io(error)) = answer else { unreachable!("{answer:?}") };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn hostile_answers_are_errors() {
        for (piece, what) in [
            (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n" as &[u8], "too large"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "no length"),
            (b"HTTP/1.1 200 OK\r\n\r\n", "without a length"),
            (b"\x00\x01\x02\x03", "no HTTP"),
        ] {
            let (answer, _) = answer_of(&[piece], PATIENT);
            assert!(answer.is_err(), "{what}");
        }
    }
}
