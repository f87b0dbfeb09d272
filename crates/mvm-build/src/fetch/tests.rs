#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::*;

/// How the server answers one request.
#[derive(Clone, Copy)]
enum Answer {
    /// Honours `Range`.
    Ranged,
    /// Always the whole file, status 200.
    Whole,
    /// Promises everything, closes after so many bytes of the body.
    CutAfter(usize),
    /// No length, closes when it is out of bytes.
    Unbounded(usize),
    /// A bare status.
    Status(u16),
    /// A redirect to itself.
    Loop,
    /// Nothing, until the client goes away.
    Silence,
}

/// A server for one file, which answers by the script and keeps the request heads.
struct Server {
    address: String,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(file: Vec<u8>, script: Vec<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let heads = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&heads);
        thread::spawn(move || {
            for answer in script {
                let Ok((stream, _)) = listener.accept() else { return };
                serve(stream, &file, answer, &kept);
            }
        });
        Self { address, heads }
    }

    fn source(&self) -> Source {
        format!("{}/file", self.address).parse().unwrap()
    }

    fn head(&self, index: usize) -> String {
        self.heads.lock().unwrap().get(index).unwrap().clone()
    }
}

fn serve(mut stream: TcpStream, file: &[u8], answer: Answer, heads: &Mutex<Vec<String>>) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let range = head
        .lines()
        .find_map(|line| line.strip_prefix("range: bytes="))
        .and_then(|range| range.trim_end_matches('-').parse::<usize>().ok());
    heads.lock().unwrap().push(head);
    let all = file.len();
    let (line, length, body) = match (answer, range) {
        (Answer::Silence, _) => {
            let _gone = stream.read(&mut byte);
            return;
        }
        (Answer::Ranged, Some(from)) => (
            format!("206 Partial Content\r\nContent-Range: bytes {from}-{}/{all}", all - 1),
            Some(all - from),
            file.get(from..).unwrap(),
        ),
        (Answer::Ranged | Answer::Whole, _) => ("200 OK".to_owned(), Some(all), file),
        (Answer::CutAfter(count), _) => {
            ("200 OK".to_owned(), Some(all), file.get(..count).unwrap())
        }
        (Answer::Unbounded(count), _) => ("200 OK".to_owned(), None, file.get(..count).unwrap()),
        (Answer::Status(status), _) => (format!("{status} No"), Some(0), &[][..]),
        (Answer::Loop, _) => ("302 Found\r\nLocation: /file".to_owned(), Some(0), &[][..]),
    };
    let length = length.map(|n| format!("Content-Length: {n}\r\n")).unwrap_or_default();
    let text = format!("HTTP/1.1 {line}\r\n{length}Connection: close\r\n\r\n");
    stream.write_all(text.as_bytes()).unwrap();
    // The client may hang up on a body it does not want.
    let _gone = stream.write_all(body);
}

fn bytes(seed: u8) -> Vec<u8> {
    (0..200_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8 ^ seed).collect()
}

fn pinned(file: &[u8]) -> Pinned {
    Pinned { size: file.len() as u64, sha256: ContentHash::of(file) }
}

fn fetcher(cache: &Path) -> Fetcher {
    let mut config = FetchConfig::new(cache.to_owned());
    config.certificates = None;
    Fetcher::new(config).unwrap()
}

#[test]
fn a_cut_transfer_is_an_error_and_the_next_call_resumes_it() {
    let file = bytes(0);
    let cache = tempfile::tempdir().unwrap();
    let fetcher = fetcher(cache.path());
    let server = Server::start(file.clone(), vec![Answer::CutAfter(120_000), Answer::Ranged]);
    let sources = [server.source()];
    let error = fetcher.file("f", pinned(&file), &sources, &|_| ()).unwrap_err().to_string();
    assert!(error.contains("120000 of 200000"), "{error}");
    let first = Cell::new(None);
    let fetched = fetcher
        .file("f", pinned(&file), &sources, &|p| first.set(first.get().or(Some(p.done))))
        .unwrap();
    assert_eq!(fs::read(&fetched.path).unwrap(), file);
    assert!(server.head(1).contains("range: bytes=120000-"), "{}", server.head(1));
    assert!(first.get().unwrap() > 120_000);
}

#[test]
fn a_second_source_goes_on_where_the_first_broke_off() {
    let file = bytes(1);
    let cache = tempfile::tempdir().unwrap();
    let one = Server::start(file.clone(), vec![Answer::CutAfter(50_000)]);
    let two = Server::start(file.clone(), vec![Answer::Ranged]);
    let sources = [one.source(), two.source()];
    let fetched = fetcher(cache.path()).file("f", pinned(&file), &sources, &|_| ()).unwrap();
    assert_eq!(fs::read(&fetched.path).unwrap(), file);
    assert!(two.head(0).contains("range: bytes=50000-"));
}

#[test]
fn a_server_that_ignores_the_range_is_read_from_the_start() {
    let file = bytes(2);
    let cache = tempfile::tempdir().unwrap();
    let fetcher = fetcher(cache.path());
    let server = Server::start(file.clone(), vec![Answer::CutAfter(70_000), Answer::Whole]);
    let sources = [server.source()];
    fetcher.file("f", pinned(&file), &sources, &|_| ()).unwrap_err();
    let fetched = fetcher.file("f", pinned(&file), &sources, &|_| ()).unwrap();
    assert_eq!(fs::read(&fetched.path).unwrap(), file);
}

#[test]
fn wrong_bytes_leave_nothing_and_the_next_source_is_asked() {
    let file = bytes(3);
    let cache = tempfile::tempdir().unwrap();
    let wrong = Server::start(bytes(4), vec![Answer::Whole]);
    let right = Server::start(file.clone(), vec![Answer::Whole]);
    let sources = [wrong.source(), right.source()];
    let fetched = fetcher(cache.path()).file("f", pinned(&file), &sources, &|_| ()).unwrap();
    assert_eq!(fetched.source, Some(right.source().to_string()));
    assert!(!right.head(0).contains("range:"), "nothing is resumed from wrong bytes");
    assert_eq!(fs::read(&fetched.path).unwrap(), file);
}

#[test]
fn a_wrong_file_is_never_delivered_and_the_error_names_every_source() {
    let file = bytes(5);
    let cache = tempfile::tempdir().unwrap();
    let wrong = Server::start(bytes(6), vec![Answer::Whole]);
    let gone = Server::start(Vec::new(), vec![Answer::Status(404)]);
    let sources = [wrong.source(), gone.source()];
    let error = fetcher(cache.path()).file("f", pinned(&file), &sources, &|_| ()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&pinned(&file).sha256.to_string()) && text.contains("404"), "{text}");
    assert_eq!(fs::read_dir(cache.path().join("parts")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(cache.path().join("blobs")).unwrap().count(), 0);
}

#[test]
fn a_body_longer_than_the_pinned_size_is_cut_off() {
    let file = bytes(7);
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(file.clone(), vec![Answer::Unbounded(200_000)]);
    let want = Pinned { size: 100_000, sha256: ContentHash::of(file.get(..100_000).unwrap()) };
    let error = fetcher(cache.path()).file("f", want, &[server.source()], &|_| ()).unwrap_err();
    assert!(error.to_string().contains("longer than 100000 bytes"), "{error}");
    assert_eq!(fs::read_dir(cache.path().join("parts")).unwrap().count(), 0);
}

#[test]
fn a_redirect_loop_ends() {
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(Vec::new(), vec![Answer::Loop; 20]);
    let want = pinned(b"x");
    fetcher(cache.path()).file("f", want, &[server.source()], &|_| ()).unwrap_err();
    assert!(server.heads.lock().unwrap().len() <= 6);
}

#[test]
fn a_cached_file_needs_no_source_and_a_rotten_one_is_fetched_anew() {
    let file = bytes(8);
    let cache = tempfile::tempdir().unwrap();
    let fetcher = fetcher(cache.path());
    let server = Server::start(file.clone(), vec![Answer::Whole, Answer::Whole]);
    let sources = [server.source()];
    let path = fetcher.file("f", pinned(&file), &sources, &|_| ()).unwrap().path;
    let again = fetcher.file("f", pinned(&file), &[], &|_| ()).unwrap();
    assert_eq!(again, Fetched { path: path.clone(), source: None });
    fs::write(&path, "rot").unwrap();
    let fetched = fetcher.file("f", pinned(&file), &sources, &|_| ()).unwrap();
    assert_eq!(fs::read(&fetched.path).unwrap(), file);
}

#[test]
fn a_mirror_replaces_every_source() {
    let file = bytes(9);
    let cache = tempfile::tempdir().unwrap();
    let mirror = Server::start(file.clone(), vec![Answer::Whole]);
    let mut config = FetchConfig::new(cache.path().to_owned());
    config.mirror = Some(format!("{}/", mirror.address).parse().unwrap());
    let fetcher = Fetcher::new(config).unwrap();
    let unused = ["https://unused.invalid/x".parse().unwrap()];
    fetcher.file("f", pinned(&file), &unused, &|_| ()).unwrap();
    assert!(mirror.head(0).starts_with(&format!("get /{} ", pinned(&file).sha256)));
}

#[test]
fn a_release_archive_gives_its_member() {
    let file = bytes(10);
    let mut tar =
        tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for (name, data) in [("r/other", &b"no"[..]), ("r/tool", &file)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o755);
        header.set_cksum();
        tar.append_data(&mut header, name, data).unwrap();
    }
    let archive = tar.into_inner().unwrap().finish().unwrap();
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(archive, vec![Answer::Whole]);
    let mut config = FetchConfig::new(cache.path().to_owned());
    config.github = server.address.clone();
    let fetcher = Fetcher::new(config).unwrap();
    let sources = ["github:o/r@v1/a.tgz#r/tool".parse().unwrap()];
    let fetched = fetcher.file("tool", pinned(&file), &sources, &|_| ()).unwrap();
    assert_eq!(fs::read(&fetched.path).unwrap(), file);
    assert!(server.head(0).starts_with("get /o/r/releases/download/v1/a.tgz "));
}

#[test]
fn wrong_bytes_in_a_mirror_directory_or_an_archive_are_refused() {
    let file = bytes(11);
    let base = tempfile::tempdir().unwrap();
    let mirror = base.path().join("mirror");
    fs::create_dir(&mirror).unwrap();
    fs::write(mirror.join(pinned(&file).sha256.to_string()), bytes(12)).unwrap();
    let mut config = FetchConfig::new(base.path().join("cache"));
    config.mirror = Some(Mirror::Directory(mirror));
    let fetcher = Fetcher::new(config).unwrap();
    let error = fetcher.file("f", pinned(&file), &[], &|_| ()).unwrap_err();
    assert!(error.to_string().contains(&ContentHash::of(&bytes(12)).to_string()), "{error}");
    assert_eq!(fs::read_dir(base.path().join("cache/blobs")).unwrap().count(), 0);
}

#[test]
fn a_silent_server_is_given_up_within_the_bound() {
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(Vec::new(), vec![Answer::Silence]);
    let mut config = FetchConfig::new(cache.path().to_owned());
    config.limits.read = Duration::from_millis(100);
    let fetcher = Fetcher::new(config).unwrap();
    let start = Instant::now();
    let error = fetcher.file("f", pinned(b"x"), &[server.source()], &|_| ()).unwrap_err();
    assert!(error.to_string().contains("timeout"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_wheel_is_downloaded_once_and_gives_its_members() {
    let base = tempfile::tempdir().unwrap();
    let wheel = base.path().join("wheel");
    let (one, two) = (bytes(13), bytes(14));
    let mut zip = zip::ZipWriter::new(File::create(&wheel).unwrap());
    for (name, data) in [("p/bin/one", &one), ("p/bin/two", &two)] {
        zip.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(data).unwrap();
    }
    zip.finish().unwrap();
    let mut config = FetchConfig::new(base.path().join("cache"));
    config.tools = Tools {
        pip: Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fakes/pip")),
        environment: vec![("WHEEL".into(), wheel.into())],
        ..Tools::default()
    };
    let fetcher = Fetcher::new(config).unwrap();
    for (name, data) in [("one", &one), ("two", &two)] {
        let sources = [format!("pypi:package==1/p/bin/{name}").parse().unwrap()];
        let fetched = fetcher.file(name, pinned(data), &sources, &|_| ()).unwrap();
        assert_eq!(fs::read(&fetched.path).unwrap(), *data);
    }
    let sources = ["pypi:package==1/p/bin/three".parse().unwrap()];
    let error = fetcher.file("three", pinned(b"x"), &sources, &|_| ()).unwrap_err();
    assert!(error.to_string().contains("has no file p/bin/three"), "{error}");
    let sources = ["pypi:other==1/x".parse().unwrap()];
    let error = fetcher.file("x", pinned(b"y"), &sources, &|_| ()).unwrap_err();
    assert!(error.to_string().contains("cannot download the wheel other 1"), "{error}");
}
