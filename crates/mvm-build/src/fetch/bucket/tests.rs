#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise"
)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use zeroize::Zeroizing;

use super::*;
use crate::fetch::FetchConfig;

const SECRET: &str = "secret-canary-5f3a";

/// A storage in memory that believes whoever signs with [`SECRET`], and answers what it was told to instead.
#[derive(Clone, Default)]
struct Storage {
    objects: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    /// Bytes of the next answer's body after which the connection ends.
    cut: Arc<Mutex<Option<usize>>>,
    ranges: Arc<Mutex<Vec<String>>>,
}

impl Storage {
    fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let storage = self.clone();
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                storage.serve(stream);
            }
        });
        address
    }

    fn serve(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            match line.trim_end() {
                "" => break,
                text => lines.push(text.to_owned()),
            }
        }
        let Some((first, rest)) = lines.split_first() else { return };
        let words: Vec<&str> = first.split(' ').collect();
        let (method, path) = (words[0], words[1]);
        let headers: BTreeMap<String, &str> = rest
            .iter()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_lowercase(), value.trim()))
            .collect();
        let length = headers.get("content-length").map_or(0, |text| text.parse().unwrap());
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let (status, found) = self.answer(method, path, &headers, body);
        self.write(stream, method, status, &found);
    }

    fn answer(
        &self,
        method: &str,
        path: &str,
        headers: &BTreeMap<String, &str>,
        body: Vec<u8>,
    ) -> (u16, Vec<u8>) {
        let digest = ContentHash::of(&body).to_string();
        let request = sign::Request {
            method,
            host: headers["host"],
            path,
            body: &digest,
            time: headers["x-amz-date"],
            region: "eu-test-1",
        };
        let is_signed = sign::headers(&request, &key(SECRET))
            .iter()
            .any(|(name, value)| *name == "authorization" && value == headers["authorization"]);
        if !is_signed {
            return (403, Vec::new());
        }
        let mut objects = self.objects.lock().unwrap();
        if method == "PUT" {
            objects.insert(path.to_owned(), body);
            return (200, Vec::new());
        }
        let Some(found) = objects.get(path) else { return (404, Vec::new()) };
        let range = headers.get("range").map(|text| text.to_owned().to_owned());
        let Some(range) = range else { return (200, found.clone()) };
        self.ranges.lock().unwrap().push(range.clone());
        let from: usize = range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap();
        (206, found[from..].to_vec())
    }

    fn write(&self, mut stream: TcpStream, method: &str, status: u16, body: &[u8]) {
        let length = body.len();
        let mut head = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n");
        if status == 206 {
            let range = self.ranges.lock().unwrap().last().unwrap().clone();
            let from = range.trim_start_matches("bytes=").trim_end_matches('-').to_owned();
            head += &format!("Content-Range: bytes {from}-9999/9999\r\n");
        }
        stream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes()).unwrap();
        if method != "HEAD" {
            let cut = self.cut.lock().unwrap().take().unwrap_or(length);
            // The client may hang up on a body that it does not want.
            let _gone = stream.write_all(&body[..cut.min(length)]);
        }
    }
}

fn key(secret: &str) -> AccessKey {
    let secret = Zeroizing::new(secret.to_owned());
    AccessKey { id: "AKTEST".to_owned(), secret, token: None }
}

fn bucket(endpoint: &str, secret: &str) -> Bucket {
    Bucket::open(BucketConfig {
        url: "s3://templates/team-a".to_owned(),
        endpoint: endpoint.to_owned(),
        region: "eu-test-1".to_owned(),
        key: key(secret),
        certificates: None,
    })
    .unwrap()
}

fn pinned(bytes: &[u8]) -> Pinned {
    Pinned { size: bytes.len() as u64, sha256: ContentHash::of(bytes) }
}

fn fetcher(cache: &Path) -> Fetcher {
    Fetcher::new(FetchConfig { certificates: None, ..FetchConfig::new(cache.to_owned()) }).unwrap()
}

#[test]
fn what_is_put_is_found_and_read_as_it_was() {
    let storage = Storage::default();
    let bucket = bucket(&storage.start(), SECRET);
    let directory = tempfile::tempdir().unwrap();
    let bytes: Vec<u8> = (0..200_000_u32).map(|i| (i % 251) as u8).collect();
    let file = directory.path().join("file");
    fs::write(&file, &bytes).unwrap();
    assert!(!bucket.has("objects/a", 200_000).unwrap());
    bucket.put_file("objects/a", &file, pinned(&bytes)).unwrap();
    assert!(bucket.has("objects/a", 200_000).unwrap());
    assert!(!bucket.has("objects/a", 199_999).unwrap());
    let keys: Vec<_> = storage.objects.lock().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["/templates/team-a/objects/a"]);
    let got =
        fetcher(directory.path()).object(&bucket, "objects/a", pinned(&bytes), &|_| ()).unwrap();
    assert_eq!(fs::read(got.path).unwrap(), bytes);
    bucket.put("index", b"small").unwrap();
    assert_eq!(bucket.document("index", 100).unwrap(), b"small");
    assert!(matches!(bucket.document("other", 100), Err(BucketError::Missing { .. })));
}

#[test]
fn an_altered_longer_or_shorter_object_is_refused_and_leaves_nothing() {
    let storage = Storage::default();
    let bucket = bucket(&storage.start(), SECRET);
    let cache = tempfile::tempdir().unwrap();
    let fetcher = fetcher(cache.path());
    let want = b"what it should be";
    for found in [&b"what it should bE"[..], b"what it should be, and more", b"what"] {
        bucket.put("a", found).unwrap();
        let refused = fetcher.object(&bucket, "a", pinned(want), &|_| ());
        let is_told = matches!(
            refused,
            Err(BucketError::Http(
                HttpError::WrongHash { .. } | HttpError::Oversize { .. } | HttpError::Cut { .. }
            ))
        );
        assert!(is_told, "{found:?}");
        assert!(fs::read_dir(cache.path().join("blobs")).unwrap().next().is_none(), "{found:?}");
    }
}

#[test]
fn a_cut_transfer_goes_on_where_it_broke_off() {
    let storage = Storage::default();
    let bucket = bucket(&storage.start(), SECRET);
    let cache = tempfile::tempdir().unwrap();
    let bytes = vec![7; 9_000];
    bucket.put("a", &bytes).unwrap();
    *storage.cut.lock().unwrap() = Some(5_000);
    let fetcher = fetcher(cache.path());
    assert!(fetcher.object(&bucket, "a", pinned(&bytes), &|_| ()).is_err());
    let got = fetcher.object(&bucket, "a", pinned(&bytes), &|_| ()).unwrap();
    assert_eq!(fs::read(got.path).unwrap(), bytes);
    assert_eq!(*storage.ranges.lock().unwrap(), ["bytes=5000-"]);
}

#[test]
fn who_has_another_key_is_denied_and_no_error_shows_a_key() {
    let storage = Storage::default();
    let address = storage.start();
    let other = bucket(&address, "other-canary");
    let denied = other.put("a", b"x").unwrap_err();
    assert!(matches!(denied, BucketError::Denied { status: 403, .. }), "{denied}");
    let nobody = bucket("http://127.0.0.1:1", "other-canary");
    for error in [denied, nobody.put("a", b"x").unwrap_err()] {
        let mut text = format!("{error:?} {error}");
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            text += &format!(" {cause:?} {cause}");
            source = cause.source();
        }
        assert!(!text.contains("canary") && !text.contains("Signature="), "{text}");
    }
}

#[test]
fn addresses_and_endpoints_are_read_strictly() {
    for good in ["s3://b", "s3://b/", "s3://b/a/b.c_d-e"] {
        assert!(base(good).is_ok(), "{good}");
    }
    for bad in ["b", "s3://", "s3:///a", "s3://b//a", "s3://b/../c", "s3://b/a b", "s3://b?x"] {
        assert!(base(bad).is_err(), "{bad}");
    }
    let host = |text| endpoint(text).ok().map(|(_, host)| host);
    assert_eq!(host("https://s3.example.com:443/"), Some("s3.example.com".to_owned()));
    assert_eq!(host("http://127.0.0.1:9000"), Some("127.0.0.1:9000".to_owned()));
    for bad in ["s3.example.com", "ftp://a", "https://", "https://a/b", "https://u:p@a"] {
        assert_eq!(host(bad), None, "{bad}");
    }
}
