#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests stop at the first surprise"
)]
//! The parsers against whatever may come, and the gateway on this machine's loopback: every address
//! 127.0.0.x is another instance or client.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::mpsc;

use mvm_proto::{Backend, InstanceSelector, MatchRule, Route, RouteTarget};
use proptest::prelude::*;

use super::body::Framing;
use super::*;

mod heads {
    use super::*;
    use crate::gateway::head::{answer, end, request};

    const HOST: &str = "Host: h\r\n";

    fn code(text: &str) -> u16 {
        request(text.as_bytes()).map_or_else(|refusal| refusal.code, |_| 200)
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for (expected, text) in [
            (200, format!("GET / HTTP/1.1\r\n{HOST}\r\n")),
            (200, "GET / HTTP/1.0\r\n\r\n".to_owned()),
            (400, "GET / HTTP/1.1\r\n\r\n".to_owned()),
            (400, format!("GET / HTTP/1.1\r\n{HOST}{HOST}\r\n")),
            (400, format!("GET  / HTTP/1.1\r\n{HOST}\r\n")),
            (400, format!("GET /\0 HTTP/1.1\r\n{HOST}\r\n")),
            (400, format!("GET / HTTP/1.1\n{HOST}\r\n\r\n")),
            (505, format!("GET / HTTP/1.2\r\n{HOST}\r\n")),
            (505, "PRI * HTTP/2.0\r\n\r\n".to_owned()),
            (501, format!("CONNECT h:80 HTTP/1.1\r\n{HOST}\r\n")),
            (400, format!("GET / HTTP/1.1\r\n{HOST} folded\r\n\r\n")),
            (400, format!("GET / HTTP/1.1\r\n{HOST}A : b\r\n\r\n")),
            (400, format!("GET / HTTP/1.1\r\n{HOST}A: b\nC: d\r\n\r\n")),
            (400, format!("GET / HTTP/1.1\r\n{HOST}A: b\rC: d\r\n\r\n")),
            (200, format!("POST / HTTP/1.1\r\n{HOST}Content-Length: 5\r\n\r\n")),
            (400, format!("POST / HTTP/1.1\r\n{HOST}Content-Length: +5\r\n\r\n")),
            (400, format!("POST / HTTP/1.1\r\n{HOST}Content-Length: 5, 5\r\n\r\n")),
            (
                400,
                format!("POST / HTTP/1.1\r\n{HOST}Content-Length: 5\r\nContent-Length: 5\r\n\r\n"),
            ),
            (
                400,
                format!(
                    "POST / HTTP/1.1\r\n{HOST}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
                ),
            ),
            (200, format!("POST / HTTP/1.1\r\n{HOST}Transfer-Encoding: Chunked\r\n\r\n")),
            (501, format!("POST / HTTP/1.1\r\n{HOST}Transfer-Encoding: gzip, chunked\r\n\r\n")),
            (501, "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned()),
            (431, format!("GET / HTTP/1.1\r\n{HOST}{}\r\n", "A: b\r\n".repeat(101))),
        ] {
            assert_eq!(code(&text), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_for_one_connection_stays_behind_and_who_asks_is_added() {
        let text = "GET /x HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, X-Own, Host\r\nX-Own: 1\r\n\
                    Keep-Alive: 5\r\nUpgrade: h2c\r\nX-Forwarded-For: 1.2.3.4\r\nA:  b \r\n\r\n";
        let passed = request(text.as_bytes()).unwrap().forward([10, 240, 3, 9].into());
        assert_eq!(
            String::from_utf8(passed).unwrap(),
            "GET /x HTTP/1.1\r\nHost: h\r\nA: b\r\nX-Forwarded-For: 1.2.3.4, 10.240.3.9\r\n\
             Connection: close\r\n\r\n"
        );
    }

    #[test]
    fn an_answer_tells_where_it_ends() {
        let framing = |text: &str, method| answer(text.as_bytes(), method).unwrap().framing;
        assert_eq!(
            framing("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", "GET"),
            Framing::Length(7)
        );
        assert_eq!(
            framing("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", "HEAD"),
            Framing::Length(0)
        );
        assert_eq!(framing("HTTP/1.0 304\r\n\r\n", "GET"), Framing::Length(0));
        assert_eq!(framing("HTTP/1.0 200 OK\r\n\r\n", "GET"), Framing::UntilEnd);
        for text in
            ["HTTP/2 200\r\n\r\n", "HTTP/1.1 20x\r\n\r\n", "HTTP/1.1 2000 OK\r\n\r\n", "\r\n\r\n"]
        {
            assert_eq!(answer(text.as_bytes(), "GET").unwrap_err().code, 502, "{text:?}");
        }
    }

    /// Heads that are nearly right, so that the deep places are reached.
    fn nearly() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop::sample::select(vec![
            "GET ",
            "/",
            " HTTP/1.1",
            "\r\n",
            "Host: h",
            "Content-Length: 3",
            "Transfer-Encoding: ",
            "chunked",
            "Connection: ",
            "close",
            ":",
            " ",
            "\t",
            "\n",
            "\r",
            "\0",
            "é",
            "X-Forwarded-For: ",
            "Upgrade: websocket",
            ",",
        ]);
        let pieces = prop::collection::vec(piece, 0..30).prop_map(|all| all.concat().into_bytes());
        (pieces, any::<bool>(), prop::collection::vec(any::<u8>(), 0..20)).prop_map(
            |(mut pieces, is_begun, noise)| {
                if is_begun {
                    pieces.splice(0..0, *b"GET / HTTP/1.1\r\nHost: h\r\n");
                }
                pieces.extend(noise);
                pieces.extend(b"\r\n\r\n");
                pieces
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn hostile_heads_never_panic_and_what_is_passed_on_means_the_same(bytes in nearly()) {
            let length = end(&bytes).unwrap();
            let _ = answer(&bytes[..length], "GET");
            if let Ok(read) = request(&bytes[..length]) {
                let passed = read.forward([127, 0, 0, 1].into());
                prop_assert_eq!(end(&passed), Some(passed.len()), "one head and nothing else");
                let again = request(&passed).unwrap();
                prop_assert_eq!(again.framing, read.framing);
                prop_assert_eq!(again.target, read.target);
                prop_assert_eq!(again.wants_socket, read.wants_socket);
            }
        }

        #[test]
        fn a_body_ends_at_the_same_byte_however_it_is_cut(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
            tail in prop::collection::vec(any::<u8>(), 0..20),
            cuts in prop::collection::vec(1usize..9, 1..20),
        ) {
            let mut body = Vec::new();
            for chunk in &chunks {
                body.extend(format!("{:x};q\r\n", chunk.len()).bytes());
                body.extend(chunk);
                body.extend(b"\r\n");
            }
            body.extend(b"0\r\nTrailer: x\r\n\r\n");
            let length = body.len();
            body.extend(&tail);
            let mut framing = Framing::chunked();
            let (mut at, mut cuts) = (0, cuts.iter().cycle());
            while at < body.len() && !framing.is_over() {
                let to = (at + cuts.next().unwrap()).min(body.len());
                at += framing.pass(&body[at..to]).unwrap();
            }
            prop_assert_eq!(at, length);
            prop_assert!(framing.is_over());
        }

        #[test]
        fn hostile_bodies_never_panic(bytes in prop::collection::vec(
            prop::sample::select(b"0123fF\r\n; \tx\0".to_vec()), 0..60)) {
            let mut framing = Framing::chunked();
            if let Ok(count) = framing.pass(&bytes) {
                prop_assert!(count <= bytes.len());
            }
        }

        #[test]
        fn any_target_has_one_normal_form_or_none(target in "[/.%a-f0-9?2eE:*-]{0,24}") {
            if let Ok(normal) = path::normal(&target) {
                prop_assert!(normal.starts_with('/'));
                prop_assert!(!normal.split('/').any(|segment| segment == ".." || segment == "."));
                prop_assert_eq!(path::normal(&normal), Ok(normal.clone()));
            }
        }
    }

    #[test]
    fn a_chunk_size_beyond_all_bounds_is_malformed() {
        for text in ["fffffffffffffffff\r\n", "\r\n", "1\n", "1\r\nab", "0\r\n\rx"] {
            assert!(Framing::chunked().pass(text.as_bytes()).is_err(), "{text:?}");
        }
        assert!(Framing::chunked().pass(&b"1;".repeat(4000)).is_err());
    }
}

fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, last)
}

fn route(name: &str, rule: MatchRule, selector: InstanceSelector, port: u16) -> Route {
    let target = RouteTarget {
        pool_id: name.to_owned(),
        instance_selector: selector,
        target_port: Some(port),
    };
    Route { name: name.to_owned(), match_rule: rule, target }
}

fn rule(port: u16, path: Option<&str>, source: Option<&str>) -> MatchRule {
    MatchRule {
        port: Some(port),
        path_prefix: path.map(str::to_owned),
        source_cidr: source.map(str::to_owned),
    }
}

fn routes(generation: u64, routes: Vec<Route>, backends: &[(&str, &[u8])]) -> Routes {
    let backend = |last: &u8| Backend { instance_id: format!("i-{last:08x}"), ip: address(*last) };
    let pools = backends.iter();
    let backends =
        pools.map(|(pool, all)| ((*pool).to_owned(), all.iter().map(backend).collect())).collect();
    Routes { generation, routes, backends }
}

#[test]
fn the_narrowest_route_wins_wherever_it_stands() {
    let any = InstanceSelector::Any;
    let mut all = vec![
        route("all", rule(80, None, None), any, 1),
        route("api", rule(80, Some("/api/"), None), any, 1),
        route("deep", rule(80, Some("/api/v2"), None), any, 1),
        route("near", rule(80, Some("/api"), Some("10.240.3.0/24")), any, 1),
        route("other", rule(81, None, Some("0.0.0.0/0")), any, 1),
    ];
    for _ in 0..all.len() {
        all.rotate_left(1);
        let table = Table::of(&routes(1, all.clone(), &[]));
        let chosen = |port, path, source: [u8; 4]| {
            table.choose(port, path, source.into()).map(|entry| entry.name.clone())
        };
        let far = [10, 240, 4, 1];
        assert_eq!(chosen(80, Some("/"), far).as_deref(), Some("all"));
        assert_eq!(chosen(80, Some("/apix"), far).as_deref(), Some("all"));
        assert_eq!(chosen(80, Some("/api"), far).as_deref(), Some("api"));
        assert_eq!(chosen(80, Some("/api/v2/x"), far).as_deref(), Some("deep"));
        assert_eq!(chosen(80, Some("/api/v1"), [10, 240, 3, 7]).as_deref(), Some("near"));
        assert_eq!(chosen(81, None, far).as_deref(), Some("other"));
        assert_eq!(chosen(82, None, far), None);
        assert!(table.is_http(80) && !table.is_http(81));
    }
}

#[test]
fn turns_are_taken_and_the_least_busy_is_found_while_leases_last() {
    let rotation = Arc::new(Rotation::default());
    let any = route("web", rule(80, None, None), InstanceSelector::Any, 1);
    let least = route("least", rule(81, None, None), InstanceSelector::LeastConnections, 1);
    let one = route("one", rule(82, None, None), InstanceSelector::ByIp(address(3)), 1);
    let table = Table::of(&routes(1, vec![any, least, one], &[]));
    let three = [address(1), address(2), address(3)];
    let lease = |port, among: &[Ipv4Addr]| {
        rotation.lease(table.choose(port, None, address(9)).unwrap(), among, &[])
    };
    let last = |lease: &rotation::Lease| lease.target.ip().octets()[3];
    let turns: Vec<_> = (0..6).map(|_| last(&lease(80, &three).unwrap())).collect();
    assert_eq!(turns, [1, 2, 3, 1, 2, 3]);
    let mut held: Vec<_> = (0..3).map(|_| lease(81, &three).unwrap()).collect();
    let mut all: Vec<_> = held.iter().map(last).collect();
    all.sort_unstable();
    assert_eq!(all, [1, 2, 3], "each has one");
    let freed = held.remove(1);
    let number = last(&freed);
    drop(freed);
    let again: Vec<_> = (0..2).map(|_| last(&lease(81, &three).unwrap())).collect();
    assert_eq!(again, [number; 2]);
    assert_eq!(last(&lease(82, &three).unwrap()), 3);
    assert!(lease(82, &three[..2]).is_none() && lease(80, &[]).is_none());
}

/// A gateway with its directory; it runs until the test's process ends.
struct Running {
    directory: tempfile::TempDir,
}

impl Running {
    fn new(first: &Routes) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let watcher = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).unwrap();
        inotify::add_watch(&watcher, directory.path(), WatchFlags::MOVED_TO).unwrap();
        let running = Self { directory };
        running.tell(first);
        let mut gateway = Gateway::new(running.directory.path().join(FILE), Ipv4Addr::LOCALHOST);
        gateway.reload();
        std::thread::spawn(move || while gateway.turn(&watcher).is_ok() {});
        running
    }

    fn tell(&self, routes: &Routes) {
        let path = self.directory.path().join("new");
        fs::write(&path, serde_json::to_vec(routes).unwrap()).unwrap();
        fs::rename(&path, self.directory.path().join(FILE)).unwrap();
    }
}

/// A port that nobody listens on.
fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// An instance at 127.0.0.`last` that does this with each connection.
fn instance(last: u8, port: u16, act: impl Fn(TcpStream) + Send + Sync + 'static) {
    let listener = TcpListener::bind((address(last), port)).unwrap();
    let act = Arc::new(act);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, act) = (stream.unwrap(), Arc::clone(&act));
            std::thread::spawn(move || act(stream));
        }
    });
}

/// An instance that answers with its number, and with all that it was sent.
fn echo(last: u8, port: u16) {
    instance(last, port, move |mut stream| {
        let mut head = Vec::new();
        let mut byte = [0];
        while head::end(&head).is_none() && stream.read(&mut byte).unwrap_or(0) == 1 {
            head.push(byte[0]);
        }
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let mut body = Vec::new();
        let _ = stream.read_to_end(&mut body);
        let said = format!(
            "i{last}\n{}{}",
            String::from_utf8_lossy(&head),
            String::from_utf8_lossy(&body)
        );
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{said}", said.len());
        // It keeps the connection, as servers do that close late.
        let _ = stream.read(&mut byte);
    });
}

fn ask(port: u16, request: &str) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn get(port: u16, path: &str) -> String {
    ask(port, &format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"))
}

/// Asks until the answer is this one.
fn until(port: u16, path: &str, what: &str) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let listens = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
        if listens && get(port, path).contains(what) {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "never {what:?} on {port}");
        std::thread::yield_now();
    }
}

#[test]
fn requests_go_by_their_path_and_nothing_after_them_goes_along() {
    let (port, target) = (free_port(), free_port());
    let any = InstanceSelector::Any;
    let all = vec![
        route("api", rule(port, Some("/api"), None), any, target),
        route("gone", rule(port, Some("/gone"), None), any, target),
        route("none", rule(port, Some("/none"), None), any, target),
    ];
    echo(11, target);
    let _running = Running::new(&routes(1, all, &[("api", &[11]), ("gone", &[19])]));
    until(port, "/none", "503");
    let answer = get(port, "/api/x?q=1");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("i11\n"), "{answer}");
    assert!(answer.contains("GET /api/x?q=1 HTTP/1.1\r\n"), "{answer}");
    assert!(answer.contains("X-Forwarded-For: 127.0.0.1\r\n"), "{answer}");
    assert!(answer.contains("Connection: close\r\n\r\ni11"), "the client is told of the end");
    assert!(get(port, "/other").starts_with("HTTP/1.1 404 Not Found\r\n"));
    assert!(get(port, "/gone").starts_with("HTTP/1.1 502 Bad Gateway\r\n"));
    assert!(get(port, "/none").contains("Retry-After: 1\r\n"));
    assert!(get(port, "/api/../gone").starts_with("HTTP/1.1 400 "));
    assert!(ask(port, "nonsense\r\n\r\n").starts_with("HTTP/1.1 400 "));
    let two = "POST /api HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody\
               GET /gone/secret HTTP/1.1\r\nHost: h\r\n\r\n";
    let answer = ask(port, two);
    assert!(answer.ends_with("body") && !answer.contains("secret"), "{answer}");
    let chunked = "POST /api HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n\
                   3\r\nabc\r\n0\r\n\r\nGET /secret HTTP/1.1\r\n\r\n";
    let answer = ask(port, chunked);
    assert!(answer.ends_with("3\r\nabc\r\n0\r\n\r\n"), "{answer}");
    assert_eq!(ask(port, "HEAD /other HTTP/1.0\r\n\r\n").lines().last(), Some(""));
}

#[test]
fn a_web_socket_becomes_a_tunnel_and_interim_answers_come_first() {
    let (port, target) = (free_port(), free_port());
    instance(12, target, |mut stream| {
        let mut head = Vec::new();
        let mut byte = [0];
        while head::end(&head).is_none() && stream.read(&mut byte).unwrap_or(0) == 1 {
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.contains("Connection: Upgrade\r\nUpgrade: websocket\r\n"), "{head}");
        stream
            .write_all(b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 101 Go\r\nUpgrade: websocket\r\n\r\nhi")
            .unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).unwrap();
        stream.write_all(heard.to_uppercase().as_bytes()).unwrap();
    });
    let all = vec![route("ws", rule(port, Some("/"), None), InstanceSelector::Any, target)];
    let _running = Running::new(&routes(1, all, &[("ws", &[12])]));
    let mut stream = loop {
        if let Ok(stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
            break stream;
        }
    };
    let head = "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"hi") {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).unwrap(), 1);
        seen.push(byte[0]);
    }
    assert!(seen.starts_with(b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 101 Go\r\n"));
    stream.write_all(b"words").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut heard = String::new();
    stream.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "WORDS");
}

#[test]
fn bytes_pass_both_ways_with_each_direction_ending_by_itself() {
    let (port, target) = (free_port(), free_port());
    instance(13, target, |mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        for part in all.rchunks(70_000) {
            stream.write_all(part).unwrap();
        }
    });
    let all = vec![route("tcp", rule(port, None, None), InstanceSelector::Any, target)];
    let _running = Running::new(&routes(1, all, &[("tcp", &[13])]));
    let mut stream = loop {
        if let Ok(stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
            break stream;
        }
    };
    let sent: Vec<u8> = (0..4_000_000u32).map(|n| (n % 251) as u8).collect();
    let mut writer = stream.try_clone().unwrap();
    let expected: Vec<u8> = sent.rchunks(70_000).flatten().copied().collect();
    let writing = std::thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    writing.join().unwrap();
    assert!(received == expected, "{} bytes came back", received.len());
}

#[test]
fn a_receiver_that_takes_nothing_slows_its_sender_down() {
    let (port, target) = (free_port(), free_port());
    let (told, count) = mpsc::channel();
    instance(14, target, move |mut stream| {
        stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        let (block, mut sent) = ([0; 64 * 1024], 0);
        while let Ok(written @ 1..) = stream.write(&block) {
            sent += written;
            if sent > 64 * 1024 * 1024 {
                break;
            }
        }
        let _ = told.send(sent);
    });
    let all = vec![route("slow", rule(port, None, None), InstanceSelector::Any, target)];
    let _running = Running::new(&routes(1, all, &[("slow", &[14])]));
    let stream = loop {
        if let Ok(stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
            break stream;
        }
    };
    let sent = count.recv_timeout(Duration::from_secs(30)).unwrap();
    assert!(sent < 32 * 1024 * 1024, "{sent} bytes went into a client that takes none");
    drop(stream);
}

#[test]
fn new_routes_count_for_new_connections_and_the_old_ones_go_on() {
    let (port, other, target) = (free_port(), free_port(), free_port());
    for last in [15, 16] {
        instance(last, target, move |mut stream| {
            let mut byte = [0];
            while stream.read(&mut byte).unwrap_or(0) == 1 {
                stream.write_all(&[byte[0], last]).unwrap();
            }
        });
    }
    let at = |port| vec![route("tcp", rule(port, None, None), InstanceSelector::Any, target)];
    let running = Running::new(&routes(1, at(port), &[("tcp", &[15])]));
    let connect = |port| loop {
        if let Ok(stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
            return stream;
        }
    };
    let say = |stream: &mut TcpStream| {
        stream.write_all(b"x").unwrap();
        let mut pair = [0; 2];
        stream.read_exact(&mut pair).unwrap();
        pair[1]
    };
    let mut old = connect(port);
    assert_eq!(say(&mut old), 15);
    running.tell(&routes(2, at(other), &[("tcp", &[16])]));
    let mut new = connect(other);
    assert_eq!(say(&mut new), 16);
    assert_eq!(say(&mut old), 15, "it is carried on");
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err(), "the old port is closed");
    fs::write(running.directory.path().join("new"), "{").unwrap();
    fs::rename(running.directory.path().join("new"), running.directory.path().join(FILE)).unwrap();
    let third = free_port();
    running.tell(&routes(3, at(third), &[("tcp", &[16])]));
    assert_eq!(say(&mut connect(third)), 16, "broken routes stop nothing");
}

#[test]
fn who_asks_decides_and_one_that_is_gone_is_passed_over() {
    let (port, target) = (free_port(), free_port());
    echo(17, target);
    let any = InstanceSelector::Any;
    let all = vec![
        route("here", rule(port, Some("/"), Some("127.0.0.1/32")), any, target),
        route("rest", rule(port, Some("/"), Some("127.0.0.0/8")), any, target),
    ];
    let _running = Running::new(&routes(1, all, &[("here", &[17, 18]), ("rest", &[])]));
    until(port, "/", "i17");
    for _ in 0..4 {
        assert!(get(port, "/").contains("i17"), "18 refuses and the next one is asked");
    }
    let from = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        None,
    )
    .unwrap();
    rustix::net::bind(&from, &SocketAddrV4::new(address(9), 0)).unwrap();
    rustix::net::connect(&from, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)).unwrap();
    let mut stream = TcpStream::from(from);
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
}
