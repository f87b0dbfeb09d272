//! The heads of HTTP/1.x requests and answers: parsed strictly, and written anew.
//!
//! What two programs could read in two ways is refused rather than passed on (RFC 9112, 11.2): bare
//! line ends, folded lines, spaces before a colon, two lengths, a length beside chunks. This module
//! refuses to know sockets.

use std::net::Ipv4Addr;

use super::body::Framing;

/// The longest head, in bytes.
pub(crate) const HEAD_MAX: usize = 16 * 1024;
/// The most header lines.
const LINES_MAX: usize = 100;
/// Headers that are for one connection only (RFC 9110, 7.6.1), besides those that it names.
const HOP: [&str; 4] = ["connection", "keep-alive", "proxy-connection", "upgrade"];

/// An answer of the gateway itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: u16,
    why: &'static str,
}

impl Refusal {
    pub(crate) const fn new(code: u16, why: &'static str) -> Self {
        Self { code, why }
    }

    /// The answer as it is sent, with its body unless it is for a request that wants none.
    pub(crate) fn bytes(self, with_body: bool) -> Vec<u8> {
        let reason = match self.code {
            400 => "Bad Request",
            404 => "Not Found",
            408 => "Request Timeout",
            431 => "Request Header Fields Too Large",
            501 => "Not Implemented",
            502 => "Bad Gateway",
            503 => "Service Unavailable",
            504 => "Gateway Timeout",
            _ => "HTTP Version Not Supported",
        };
        let body = format!("{} {reason}: {}\n", self.code, self.why);
        let again = if self.code == 503 { "Retry-After: 1\r\n" } else { "" };
        let mut text = format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Length: {}\r\n{again}Connection: close\r\n\r\n",
            self.code,
            body.len()
        );
        if with_body {
            text.push_str(&body);
        }
        text.into_bytes()
    }
}

const fn bad(why: &'static str) -> Refusal {
    Refusal::new(400, why)
}

/// Names and values, in order.
type Fields = Vec<(String, String)>;

/// A request's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    version: &'static str,
    fields: Fields,
    /// What follows the head.
    pub(crate) framing: Framing,
    /// Whether it asks for a web socket.
    pub(crate) wants_socket: bool,
}

/// An answer's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    line: String,
    fields: Fields,
    /// What follows the head.
    pub(crate) framing: Framing,
}

/// Where the head ends in what came so far: the length with its empty line, `None` for not yet.
pub(crate) fn end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

/// Reads a request's head, the empty line included.
pub(crate) fn request(head: &[u8]) -> Result<Request, Refusal> {
    let (line, fields) = split(head)?;
    let mut words = line.split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(bad("the request line is not three words"));
    };
    if !is_token(method) || !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(bad("the request line holds what it may not"));
    }
    let version = match version {
        "HTTP/1.1" => "HTTP/1.1",
        "HTTP/1.0" => "HTTP/1.0",
        _ => return Err(Refusal::new(505, "the gateway speaks HTTP/1.0 and HTTP/1.1")),
    };
    if method == "CONNECT" {
        return Err(Refusal::new(501, "the gateway is no proxy to elsewhere"));
    }
    let hosts = all(&fields, "host").count();
    if hosts > 1 || (hosts == 0 && version == "HTTP/1.1") {
        return Err(bad("a request has one Host"));
    }
    let framing = framing(&fields, version)?.unwrap_or(Framing::Length(0));
    let is_upgrade = names(&fields, "connection").any(|name| name == "upgrade");
    let is_socket = names(&fields, "upgrade").eq(["websocket"]);
    let wants_socket = version == "HTTP/1.1" && is_upgrade && is_socket;
    if wants_socket && framing != Framing::Length(0) {
        return Err(bad("a request for a web socket has no body"));
    }
    let (method, target) = (method.to_owned(), target.to_owned());
    Ok(Request { method, target, version, fields, framing, wants_socket })
}

impl Request {
    /// Whether the client knows answers before the answer (RFC 9110, 15.2).
    pub(crate) fn hears_interim(&self) -> bool {
        self.version == "HTTP/1.1"
    }

    /// The head as it is passed on: for this one request, and with who asks.
    pub(crate) fn forward(&self, client: Ipv4Addr) -> Vec<u8> {
        let mut text = format!("{} {} {}\r\n", self.method, self.target, self.version);
        let mut before = Vec::new();
        for (name, value) in kept(&self.fields) {
            if name.eq_ignore_ascii_case("x-forwarded-for") {
                before.push(value.as_str());
            } else {
                text.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        let client = client.to_string();
        before.push(&client);
        text.push_str(&format!("X-Forwarded-For: {}\r\n", before.join(", ")));
        text.push_str(if self.wants_socket {
            "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        } else {
            "Connection: close\r\n\r\n"
        });
        text.into_bytes()
    }
}

/// Reads an answer's head, the empty line included; `method` is what was asked.
pub(crate) fn answer(head: &[u8], method: &str) -> Result<Answer, Refusal> {
    const BROKEN: Refusal = Refusal::new(502, "the instance does not answer in HTTP");
    let (line, fields) = split(head).map_err(|_| BROKEN)?;
    let rest = line.strip_prefix("HTTP/1.1 ").or_else(|| line.strip_prefix("HTTP/1.0 "));
    let code = rest.and_then(|rest| rest.get(..3)).filter(|code| is_number(code));
    let code = code.and_then(|code| code.parse().ok()).filter(|code| *code >= 100);
    let code: u16 = code.ok_or(BROKEN)?;
    if rest.and_then(|rest| rest.as_bytes().get(3)).is_some_and(|byte| *byte != b' ') {
        return Err(BROKEN);
    }
    let has_none = method == "HEAD" || code < 200 || matches!(code, 204 | 304);
    let said = framing(&fields, "HTTP/1.1").map_err(|_| BROKEN)?;
    let framing = if has_none { Framing::Length(0) } else { said.unwrap_or(Framing::UntilEnd) };
    Ok(Answer { code, line: line.to_owned(), fields, framing })
}

impl Answer {
    /// The head as it is passed on: the connection ends after it, unless it becomes a web socket.
    pub(crate) fn forward(&self) -> Vec<u8> {
        let mut text = format!("{}\r\n", self.line);
        for (name, value) in kept(&self.fields) {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str(match self.code {
            101 => "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            100..=199 => "\r\n",
            _ => "Connection: close\r\n\r\n",
        });
        text.into_bytes()
    }
}

/// The first line, and the fields.
fn split(head: &[u8]) -> Result<(&str, Fields), Refusal> {
    let head = std::str::from_utf8(head).map_err(|_| bad("the head is not text"))?;
    let head = head.strip_suffix("\r\n\r\n").ok_or(bad("the head does not end"))?;
    let is_wrong = |byte: u8| byte != b'\t' && byte.is_ascii_control();
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default();
    if first.bytes().any(|byte| byte.is_ascii_control()) {
        return Err(bad("the first line holds a control character"));
    }
    let mut fields = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':').ok_or(bad("a header line has no colon"))?;
        if !is_token(name) {
            return Err(bad("a header has a name that is none"));
        }
        if value.bytes().any(is_wrong) {
            return Err(bad("a header holds a control character"));
        }
        if fields.len() == LINES_MAX {
            return Err(Refusal::new(431, "there are too many header lines"));
        }
        fields.push((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()));
    }
    Ok((first, fields))
}

/// How long the body is, `None` when the fields do not say.
fn framing(fields: &[(String, String)], version: &str) -> Result<Option<Framing>, Refusal> {
    let lengths: Vec<&str> = all(fields, "content-length").collect();
    let codings: Vec<&str> = all(fields, "transfer-encoding").collect();
    match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => Ok(None),
        ([length], []) => {
            let length = Some(*length).filter(|text| is_number(text) && text.len() <= 18);
            let length = length.and_then(|text| text.parse().ok());
            length.map(|length| Some(Framing::Length(length))).ok_or(bad("the length is none"))
        }
        ([], [coding]) if coding.eq_ignore_ascii_case("chunked") && version == "HTTP/1.1" => {
            Ok(Some(Framing::chunked()))
        }
        ([], [_]) => Err(Refusal::new(501, "the body comes in a coding that is not known")),
        (_, _) => Err(bad("the length of the body is said twice")),
    }
}

/// The fields that are not for this connection only.
fn kept(fields: &[(String, String)]) -> impl Iterator<Item = &(String, String)> {
    let named: Vec<String> = names(fields, "connection").collect();
    fields.iter().filter(move |(name, _)| {
        let name = name.to_ascii_lowercase();
        // Whoever names the framing or the host there wants to confuse somebody.
        let is_named = named.contains(&name)
            && !matches!(&*name, "content-length" | "transfer-encoding" | "host");
        !HOP.contains(&&*name) && !is_named
    })
}

/// The values of all fields with this name.
fn all<'f>(fields: &'f [(String, String)], wanted: &'f str) -> impl Iterator<Item = &'f str> {
    let those = fields.iter().filter(move |(name, _)| name.eq_ignore_ascii_case(wanted));
    those.map(|(_, value)| value.as_str())
}

/// The members of the lists in all fields with this name, in lower case.
fn names<'f>(fields: &'f [(String, String)], wanted: &'f str) -> impl Iterator<Item = String> + 'f {
    all(fields, wanted)
        .flat_map(|value| value.split(','))
        .map(|name| name.trim_matches([' ', '\t']).to_ascii_lowercase())
        .filter(|name| !name.is_empty())
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// RFC 9110, 5.6.2.
fn is_token(text: &str) -> bool {
    let is_one = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_one)
}
