#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use super::*;
use crate::fetch::FetchConfig;

/// How a registry of these tests finds out who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guard {
    Nobody,
    Basic,
    Token,
}

const BASIC: &str = "basic dtpwpa=="; // u:p<, as lower-case text: heads are compared in lower case
const BEARER: &str = "bearer t0ken";

/// A registry on this machine that serves documents by their paths, and keeps the request heads.
pub(crate) struct Server {
    pub(crate) registry: String,
    files: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub(crate) fn start(guard: Guard) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let registry = listener.local_addr().unwrap().to_string();
        let files = Arc::new(Mutex::new(BTreeMap::new()));
        let heads = Arc::new(Mutex::new(Vec::new()));
        let server = Self { registry, files: files.clone(), heads: heads.clone() };
        let address = server.registry.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                serve(stream.unwrap(), guard, &address, &files, &heads);
            }
        });
        server
    }

    pub(crate) fn put(&self, path: &str, bytes: impl Into<Vec<u8>>) {
        self.files.lock().unwrap().insert(path.to_owned(), bytes.into());
    }

    pub(crate) fn reference(&self, rest: &str) -> OciRef {
        format!("{}/{rest}", self.registry).parse().unwrap()
    }

    /// Request lines so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        let heads = self.heads.lock().unwrap();
        heads.iter().map(|head| head.lines().next().unwrap().to_owned()).collect()
    }
}

fn serve(
    mut stream: TcpStream,
    guard: Guard,
    address: &str,
    files: &Mutex<BTreeMap<String, Vec<u8>>>,
    heads: &Mutex<Vec<String>>,
) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let said = head.lines().find_map(|line| line.strip_prefix("authorization: "));
    let (challenge, is_known) = match guard {
        Guard::Nobody => (String::new(), true),
        Guard::Basic => ("Basic realm=\"x\"".to_owned(), said == Some(BASIC)),
        Guard::Token => (
            format!("Bearer realm=\"http://{address}/token\",service=\"s v\""),
            said == Some(BEARER),
        ),
    };
    let found = files.lock().unwrap().get(&path).cloned();
    let (status, body) = match (path.starts_with("/token"), is_known, found) {
        (true, _, _) if said == Some(BASIC) => (200, br#"{"token":"t0ken"}"#.to_vec()),
        (true, _, _) | (false, false, _) => (401, Vec::new()),
        (false, true, Some(body)) => (200, body),
        (false, true, None) if path == "/v2/" => (200, b"{}".to_vec()),
        (false, true, None) => (404, Vec::new()),
    };
    heads.lock().unwrap().push(head);
    let challenge = match status {
        401 => format!("WWW-Authenticate: {challenge}\r\n"),
        _ => String::new(),
    };
    let length = body.len();
    let text = format!(
        "HTTP/1.1 {status} X\r\n{challenge}Content-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(text.as_bytes()).unwrap();
    // The client may hang up on a body that it does not want.
    let _gone = stream.write_all(&body);
}

pub(crate) fn fetcher(directory: &Path) -> Fetcher {
    let mut config = FetchConfig::new(directory.join("cache"));
    config.certificates = None;
    Fetcher::new(config).unwrap()
}

fn rules(directory: &Path, text: &str) -> RegistryRules {
    let path = directory.join("auth.json");
    fs::write(&path, text).unwrap();
    RegistryRules { auth_file: Some(path), insecure: Vec::new() }
}

fn known(server: &Server) -> String {
    // "u:p<" in Base64.
    format!(r#"{{"auths":{{"http://{}/v2/":{{"auth":"dTpwPA=="}}}}}}"#, server.registry)
}

#[test]
fn a_registry_is_asked_as_nobody_by_password_or_by_token() {
    for guard in [Guard::Nobody, Guard::Basic, Guard::Token] {
        let directory = tempfile::tempdir().unwrap();
        let server = Server::start(guard);
        server.put("/v2/a/b/manifests/1", *b"{}");
        let fetcher = fetcher(directory.path());
        let mut rules = rules(directory.path(), &known(&server));
        rules.auth_file = rules.auth_file.filter(|_| guard != Guard::Nobody);
        let session = Registry::open(&fetcher, &rules, &server.reference("a/b:1")).unwrap();
        let (bytes, digest) = session.manifest("1").unwrap();
        assert_eq!((&bytes[..], digest), (&b"{}"[..], ContentHash::of(b"{}")), "{guard:?}");
        if guard == Guard::Token {
            let asked = server.asked();
            let token = asked.iter().find(|line| line.contains("/token")).unwrap();
            assert!(token.contains("service=s%20v&scope=repository:a/b:pull"), "{token}");
        }
    }
}

#[test]
fn wrong_credentials_are_denied_and_never_shown() {
    for guard in [Guard::Basic, Guard::Token] {
        let directory = tempfile::tempdir().unwrap();
        let server = Server::start(guard);
        server.put("/v2/a/manifests/1", *b"{}");
        let fetcher = fetcher(directory.path());
        let text = known(&server).replace("dTpwPA==", "dTpoZW1saWNo"); // u:hemlich
        let rules = rules(directory.path(), &text);
        let opened = Registry::open(&fetcher, &rules, &server.reference("a:1"));
        let error = opened.and_then(|session| session.manifest("1").map(drop)).unwrap_err();
        assert!(matches!(error, RegistryError::Denied { .. }), "{error}");
        let shown = format!("{error} {error:?}");
        assert!(shown.contains("\"u\"") || shown.contains("u\\\""), "{shown}");
        assert!(!shown.contains("hemlich") && !shown.contains("dTpo"), "{shown}");
    }
}

#[test]
fn a_missing_image_and_one_with_another_digest_are_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(Guard::Nobody);
    let want = ContentHash::of(b"right");
    server.put(&format!("/v2/a/manifests/sha256:{want}"), *b"wrong");
    let fetcher = fetcher(directory.path());
    let rules = RegistryRules::default();
    let session = Registry::open(&fetcher, &rules, &server.reference("a")).unwrap();
    let error = session.manifest("latest").unwrap_err();
    assert!(matches!(error, RegistryError::NotFound { .. }), "{error}");
    let error = session.manifest(&format!("sha256:{want}")).unwrap_err();
    assert!(matches!(error, RegistryError::WrongDigest { .. }), "{error}");
}

#[test]
fn a_blob_is_fetched_once_and_wrong_bytes_are_not_kept() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(Guard::Nobody);
    let fetcher = fetcher(directory.path());
    let rules = RegistryRules::default();
    let session = Registry::open(&fetcher, &rules, &server.reference("a")).unwrap();
    let pinned = |bytes: &[u8]| Pinned { size: bytes.len() as u64, sha256: ContentHash::of(bytes) };
    let blob = pinned(b"blob");
    server.put(&format!("/v2/a/blobs/sha256:{}", blob.sha256), *b"blob");
    for _ in 0..2 {
        let path = session.blob("layer 1", blob, &|_| ()).unwrap();
        assert_eq!(fs::read(path).unwrap(), b"blob");
    }
    assert_eq!(server.asked().iter().filter(|line| line.contains("/blobs/")).count(), 1);
    let other = pinned(b"four");
    server.put(&format!("/v2/a/blobs/sha256:{}", other.sha256), *b"evil");
    let error = session.blob("layer 2", other, &|_| ()).unwrap_err();
    let is_wrong = matches!(error, RegistryError::Http { source: HttpError::WrongHash { .. }, .. });
    assert!(is_wrong, "{error}");
    assert_eq!(fs::read_dir(directory.path().join("cache/blobs")).unwrap().count(), 1);
    assert_eq!(fs::read_dir(directory.path().join("cache/parts")).unwrap().count(), 0);
}

#[test]
fn plain_http_is_for_this_machine_and_for_whom_the_configuration_names() {
    let rules =
        RegistryRules { insecure: vec!["r.example.com:5000".to_owned()], ..Default::default() };
    for plain in ["127.0.0.1:5000", "localhost", "localhost:80", "r.example.com:5000"] {
        assert!(rules.is_plain(plain), "{plain}");
    }
    for safe in ["r.example.com", "r.example.com:5001", "127.0.0.1.example.com", "10.0.0.1:5000"] {
        assert!(!rules.is_plain(safe), "{safe}");
    }
}

#[test]
fn a_file_with_credentials_that_makes_no_sense_is_told_without_its_contents() {
    let directory = tempfile::tempdir().unwrap();
    for text in [r#"{"auths": "geheim"}"#, r#"{"auths":{"h:1":{"auth":"geheim"}}}"#] {
        let error = rules(directory.path(), text).credentials("h:1").unwrap_err();
        assert!(!error.to_string().contains("geheim"), "{error}");
    }
    let none =
        RegistryRules { auth_file: Some(directory.path().join("none")), ..Default::default() };
    assert_eq!(none.credentials("h:1").unwrap(), Credentials::Anonymous);
}

#[test]
fn parameters_of_a_challenge_may_hold_commas() {
    let text = r#"realm="https://a.example.com/t?x=1,2",service=plain, scope="a b""#;
    assert_eq!(parameter(text, "realm").unwrap(), "https://a.example.com/t?x=1,2");
    assert_eq!(parameter(text, "Service").unwrap(), "plain");
    assert_eq!(parameter(text, "scope").unwrap(), "a b");
    assert_eq!(parameter(text, "error"), None);
}
