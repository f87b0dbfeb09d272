#![expect(clippy::unwrap_used, clippy::panic, reason = "tests stop at the first surprise")]
#![expect(clippy::wildcard_enum_match_arm, reason = "a test waits for one event among all")]
use super::*;
use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use mvm_proto::message::{Pty, Status};
use mvm_proto::session::INITIAL_WINDOW;
use mvm_proto::{Channel, Exec, Exit, Input, Reply, Session};

use crate::agent::Places;

/// A caller over a pair of sockets, with the agent's real serving loop at the other end.
struct Caller {
    socket: UnixStream,
    session: Session,
    agent: Arc<Agent>,
    _directory: tempfile::TempDir,
}

/// What an exec gave.
#[derive(Debug, Default, PartialEq, Eq)]
struct Ran {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    exit: Option<Exit>,
    failure: Option<FailureKind>,
}

impl Caller {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let places = Places {
            run: directory.path().join("run"),
            workload: directory.path().join("no-cgroup"),
            data: directory.path().join("data"),
            image: directory.path().join("image"),
            ..Places::of_a_guest()
        };
        std::fs::create_dir(&places.run).unwrap();
        std::fs::create_dir(&places.image).unwrap();
        let agent = Arc::new(Agent::new(places, false));
        let (socket, theirs) = UnixStream::pair().unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let serving = Arc::clone(&agent);
        std::thread::spawn(move || {
            let writer = theirs.try_clone().unwrap();
            serve(&serving, &theirs, writer, || {
                theirs.shutdown(std::net::Shutdown::Both).unwrap_or_default();
            });
        });
        let session = Session::caller(hello(&agent));
        let mut caller = Self { socket, session, agent, _directory: directory };
        assert!(matches!(caller.event(), Event::Ready { generation: 1, .. }));
        caller
    }

    fn event(&mut self) -> Event {
        loop {
            self.socket.write_all(&self.session.take_output()).unwrap();
            if let Some(event) = self.session.next_event().unwrap() {
                return event;
            }
            let mut buffer = [0u8; 8192];
            let length = self.socket.read(&mut buffer).unwrap();
            assert!(length > 0, "the agent hung up");
            self.session.receive(buffer.get(..length).unwrap());
        }
    }

    /// Asks and gives the only reply.
    fn ask(&mut self, request: Request) -> Result<Reply, Failure> {
        let asked = self.session.open(request).unwrap();
        let mut answer = None;
        loop {
            match self.event() {
                Event::Reply { stream, reply } if stream == asked => answer = Some(Ok(reply)),
                Event::Failed { stream, failure } if stream == asked => answer = Some(Err(failure)),
                Event::Ended { stream } if stream == asked => return answer.unwrap(),
                _ => {}
            }
        }
    }

    fn open(&mut self, exec: Exec) -> StreamId {
        self.session.open(Request::Exec(exec)).unwrap()
    }

    /// Moves events until all these execs are over.
    fn finish(&mut self, execs: &[StreamId]) -> BTreeMap<StreamId, Ran> {
        let mut ran = BTreeMap::new();
        let mut open = execs.to_vec();
        while !open.is_empty() {
            match self.event() {
                Event::Data { stream, payload } => {
                    self.session.consumed(stream, payload.len());
                    let entry: &mut Ran = ran.entry(stream).or_default();
                    match Channel::split(&payload).unwrap() {
                        (Channel::Stderr, bytes) => entry.stderr.extend(bytes),
                        (_, bytes) => entry.stdout.extend(bytes),
                    }
                }
                Event::Reply { stream, reply: Reply::Exit(exit) } => {
                    ran.entry(stream).or_default().exit = Some(exit);
                }
                Event::Failed { stream, failure } => {
                    ran.entry(stream).or_default().failure = Some(failure.kind);
                }
                Event::Ended { stream } => open.retain(|other| *other != stream),
                _ => {}
            }
        }
        ran
    }

    fn run(&mut self, exec: Exec) -> Ran {
        let stream = self.open(exec);
        self.finish(&[stream]).remove(&stream).unwrap_or_default()
    }

    /// Waits until this exec runs.
    fn wait_started(&mut self, exec: StreamId) {
        loop {
            let event = self.event();
            if matches!(event, Event::Reply { stream, reply: Reply::Started { .. } } if stream == exec)
            {
                return;
            }
        }
    }
}

fn sh(script: &str) -> Exec {
    let argv = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    Exec { argv, cwd: Some("/".to_owned()), user: Some(own_uid()), ..Exec::default() }
}

fn own_uid() -> String {
    rustix::process::geteuid().as_raw().to_string()
}

#[test]
fn a_ping_is_answered_and_metrics_and_status_are_there() {
    let mut caller = Caller::new();
    assert_eq!(caller.ask(Request::Ping {}), Ok(Reply::Pong {}));
    assert!(matches!(caller.ask(Request::Metrics {}), Ok(Reply::Metrics(m)) if m.uptime_ms > 0));
    let Ok(Reply::Status(Status { is_configured, is_ready, .. })) = caller.ask(Request::Status {})
    else {
        panic!("no status")
    };
    assert!(!is_configured && !is_ready);
}

#[test]
fn output_errors_and_exit_code_come_apart() {
    let mut caller = Caller::new();
    let ran = caller.run(sh("echo out; echo err >&2; exit 7"));
    let expected = Ran {
        stdout: b"out\n".to_vec(),
        stderr: b"err\n".to_vec(),
        exit: Some(Exit::Code(7)),
        failure: None,
    };
    assert_eq!(ran, expected);
}

#[test]
fn a_missing_program_and_one_that_is_not_executable_have_kinds_of_their_own() {
    let mut caller = Caller::new();
    for (program, kind) in [
        ("frobnicate-7", FailureKind::NotFound),
        ("/no/such", FailureKind::NotFound),
        ("/etc/passwd", FailureKind::NotExecutable),
    ] {
        let mut exec = sh("");
        exec.argv = vec![program.to_owned()];
        assert_eq!(caller.run(exec).failure, Some(kind), "{program}");
    }
    let empty = Exec { user: Some(own_uid()), ..Exec::default() };
    assert_eq!(caller.run(empty).failure, Some(FailureKind::Invalid));
}

#[test]
fn a_script_without_its_interpreter_is_not_found_and_the_agent_lives_on() {
    use std::os::unix::fs::PermissionsExt;
    let mut caller = Caller::new();
    let script = caller.agent.places.run.join("script");
    std::fs::write(&script, "#!/no/interpreter\n").unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut exec = sh("");
    exec.argv = vec![script.display().to_string()];
    assert_eq!(caller.run(exec).failure, Some(FailureKind::NotFound));
    assert_eq!(caller.ask(Request::Ping {}), Ok(Reply::Pong {}));
}

#[test]
fn environment_and_working_directory_are_the_ones_asked_for_and_no_others() {
    let mut caller = Caller::new();
    let mut exec = sh("pwd; env");
    exec.cwd = Some("/usr".to_owned());
    exec.env = BTreeMap::from([("COLOUR".to_owned(), "blue".to_owned())]);
    let ran = caller.run(exec);
    let text = String::from_utf8(ran.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.first(), Some(&"/usr"));
    assert!(lines.contains(&"COLOUR=blue"), "{text}");
    assert!(lines.iter().any(|line| line.starts_with("HOME=")), "{text}");
    assert!(!text.contains("CARGO"), "{text}");
}

#[test]
fn stdin_reaches_the_program_and_its_end_does_too() {
    let mut caller = Caller::new();
    let mut exec = sh("cat; echo end");
    exec.stdin = true;
    let stream = caller.open(exec);
    caller.session.send_channel(stream, Channel::Stdin, b"hello ").unwrap();
    caller.session.send_channel(stream, Channel::Stdin, b"there\n").unwrap();
    caller.session.input(stream, Input::InputClosed {}).unwrap();
    let ran = caller.finish(&[stream]).remove(&stream).unwrap();
    assert_eq!(String::from_utf8_lossy(&ran.stdout), "hello there\nend\n");
}

#[test]
fn more_stdin_than_the_window_passes_while_the_program_reads() {
    let mut caller = Caller::new();
    let mut exec = sh("wc -c");
    exec.stdin = true;
    let stream = caller.open(exec);
    let chunk = vec![b'x'; 100_000];
    let mut left = usize::try_from(INITIAL_WINDOW).unwrap() * 4;
    let total = left;
    while left > 0 {
        let piece = chunk.get(..left.min(chunk.len())).unwrap();
        let sent = caller.session.send_channel(stream, Channel::Stdin, piece).unwrap();
        left -= sent;
        if sent == 0 {
            caller.event();
        }
    }
    caller.session.input(stream, Input::InputClosed {}).unwrap();
    let ran = caller.finish(&[stream]).remove(&stream).unwrap();
    assert_eq!(String::from_utf8_lossy(&ran.stdout).trim(), total.to_string());
}

#[test]
fn a_signal_reaches_the_whole_process_group() {
    let mut caller = Caller::new();
    let stream = caller.open(sh("sleep 1000 & echo go; wait"));
    loop {
        if let Event::Data { payload, .. } = caller.event() {
            assert_eq!(payload, b"\x01go\n");
            break;
        }
    }
    caller.session.input(stream, Input::Signal { signal: 15 }).unwrap();
    let ran = caller.finish(&[stream]).remove(&stream).unwrap();
    assert_eq!(ran.exit, Some(Exit::Signal(15)));
}

#[test]
fn ten_megabytes_reach_a_slow_reader_unharmed_while_another_exec_goes_on() {
    let mut caller = Caller::new();
    let slow = caller.open(sh("head -c 10000000 /dev/zero | tr '\\0' 'a'; echo done"));
    caller.wait_started(slow);
    // Nobody consumes the first exec's output: it fills its window and stops there.
    let mut unread = 0;
    let mut held = Vec::new();
    while unread < usize::try_from(INITIAL_WINDOW).unwrap() {
        if let Event::Data { payload, .. } = caller.event() {
            unread += payload.len();
            held.push(payload);
        }
    }
    let quick = caller.open(sh("echo quick"));
    let ran = caller.finish(&[quick]).remove(&quick).unwrap();
    assert_eq!((ran.stdout, ran.exit), (b"quick\n".to_vec(), Some(Exit::Code(0))));
    caller.session.consumed(slow, unread);
    let ran = caller.finish(&[slow]).remove(&slow).unwrap();
    let received = held.iter().map(|payload| payload.len() - 1).sum::<usize>() + ran.stdout.len();
    assert_eq!(received, 10_000_005);
    assert!(ran.stdout.ends_with(b"adone\n"));
    assert_eq!(ran.exit, Some(Exit::Code(0)));
}

#[test]
fn a_terminal_has_the_size_asked_for_and_a_session_of_its_own() {
    let mut caller = Caller::new();
    let mut exec = sh("stty size; test -t 0 && echo terminal; echo $TERM; read line; stty size");
    exec.pty = Some(Pty { rows: 30, cols: 90, term: "dumb".to_owned() });
    exec.stdin = true;
    let stream = caller.open(exec);
    caller.wait_started(stream);
    let mut seen = Vec::new();
    while !seen.ends_with(b"dumb\r\n") {
        if let Event::Data { payload, .. } = caller.event() {
            seen.extend(payload.iter().skip(1));
        }
    }
    assert!(seen.starts_with(b"30 90\r\nterminal\r\n"), "{}", String::from_utf8_lossy(&seen));
    caller.session.input(stream, Input::Resize { rows: 40, cols: 100 }).unwrap();
    caller.session.send_channel(stream, Channel::Stdin, b"\n").unwrap();
    let ran = caller.finish(&[stream]).remove(&stream).unwrap();
    assert!(ran.stdout.ends_with(b"40 100\r\n"), "{}", String::from_utf8_lossy(&ran.stdout));
    assert_eq!(ran.exit, Some(Exit::Code(0)));
}

#[test]
fn a_process_left_behind_does_not_hold_up_the_exit() {
    let mut caller = Caller::new();
    let ran = caller.run(sh("sleep 1000 & echo $!"));
    assert_eq!(ran.exit, Some(Exit::Code(0)));
    let pid = String::from_utf8(ran.stdout).unwrap();
    assert_eq!(caller.run(sh(&format!("kill {}", pid.trim()))).exit, Some(Exit::Code(0)));
}

#[test]
fn a_cancelled_exec_is_killed_and_its_stream_ends() {
    let mut caller = Caller::new();
    let stream = caller.open(sh("sleep 1000"));
    caller.wait_started(stream);
    caller.session.cancel(stream);
    assert_eq!(caller.finish(&[stream]), BTreeMap::new());
}

#[test]
fn a_user_that_is_not_there_is_invalid() {
    let mut caller = Caller::new();
    let mut exec = sh("true");
    exec.user = Some("nobody-knows".to_owned());
    assert_eq!(caller.run(exec).failure, Some(FailureKind::Invalid));
}

#[test]
fn files_go_in_and_come_out_again() {
    let mut caller = Caller::new();
    let place = caller.agent.places.run.join("in").display().to_string();
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    let contents = vec![b'c'; 700_000];
    header.set_size(700_000);
    header.set_mode(0o640);
    archive.append_data(&mut header, "dir/file", contents.as_slice()).unwrap();
    let bytes = archive.into_inner().unwrap();
    let stream = caller.session.open(Request::CopyIn { path: place.clone() }).unwrap();
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let sent = caller.session.send_data(stream, rest).unwrap();
        rest = rest.get(sent..).unwrap();
        if sent == 0 {
            caller.event();
        }
    }
    caller.session.input(stream, Input::InputClosed {}).unwrap();
    loop {
        match caller.event() {
            Event::Reply { reply, .. } => {
                assert_eq!(reply, Reply::Copied { entries: 1, bytes: 700_000 });
                break;
            }
            Event::Credit { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    let source = format!("{place}/dir");
    let stream = caller.session.open(Request::CopyOut { path: source }).unwrap();
    let mut received = Vec::new();
    loop {
        match caller.event() {
            Event::Data { payload, .. } => {
                caller.session.consumed(stream, payload.len());
                received.extend(payload);
            }
            Event::Ended { stream: ended } if ended == stream => break,
            _ => {}
        }
    }
    let mut archive = tar::Archive::new(received.as_slice());
    let names: Vec<String> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    assert_eq!(names, ["dir/", "dir/file"].map(|n| n.trim_end_matches('/').to_owned()));
}

#[test]
fn a_drain_tells_the_worker_and_waits_until_it_is_idle() {
    let mut caller = Caller::new();
    let flag = caller.agent.places.run.join("drain");
    let ask = Request::SleepPrep { drain_timeout_secs: 20 };
    assert!(matches!(caller.ask(ask.clone()), Ok(Reply::Ack { success: true, .. })));
    assert!(flag.exists());
    caller.agent.hooks.note(WorkerState::Busy);
    let refused = caller.ask(Request::SleepPrep { drain_timeout_secs: 0 });
    assert!(matches!(refused, Ok(Reply::Ack { success: false, .. })), "{refused:?}");
    assert!(!flag.exists(), "the worker may go on");
    let stream = caller.session.open(ask).unwrap();
    caller.ask(Request::Ping {}).unwrap();
    caller.agent.hooks.note(WorkerState::Idle);
    loop {
        if let Event::Reply { stream: answered, reply } = caller.event() {
            assert_eq!(answered, stream);
            assert!(matches!(reply, Reply::Ack { success: true, .. }));
            return;
        }
    }
}

#[test]
fn a_failed_critical_checkpoint_is_named_and_the_others_are_written() {
    let mut caller = Caller::new();
    let integration = |name: &str, program: &str| mvm_proto::Integration {
        name: name.to_owned(),
        checkpoint_cmd: Some(vec![program.to_owned()]),
        restore_cmd: None,
        critical: true,
    };
    let integrations =
        vec![integration("good", "true"), integration("bad", "false"), integration("../x", "true")];
    let reply = caller.ask(Request::Checkpoint { integrations, timeout_secs: 20 }).unwrap();
    let Reply::Integrations { success: false, failed } = reply else { panic!("{reply:?}") };
    let names: Vec<(&str, bool)> = failed.iter().map(|f| (f.name.as_str(), f.critical)).collect();
    assert_eq!(names, [("bad", true), ("../x", true)]);
    let reply = caller.ask(Request::IntegrationStatus {}).unwrap();
    let Reply::IntegrationStatus { integrations } = reply else { panic!("{reply:?}") };
    let saved: Vec<(&str, bool)> =
        integrations.iter().map(|i| (i.name.as_str(), i.has_checkpoint)).collect();
    assert_eq!(saved, [("bad", false), ("good", true)]);
}

#[test]
fn a_guest_without_a_freezer_says_so() {
    let mut caller = Caller::new();
    let ask = Request::Quiesce { workload: true, filesystems: false, timeout_ms: 100 };
    assert_eq!(caller.ask(ask).unwrap_err().kind, FailureKind::Unsupported);
    assert!(matches!(caller.ask(Request::Thaw {}), Ok(Reply::Ack { success: true, .. })));
}

#[test]
fn a_caller_that_breaks_the_rules_without_reading_is_hung_up_on() {
    let mut caller = Caller::new();
    let stream = caller.open(sh("head -c 200000 /dev/zero"));
    caller.wait_started(stream);
    // More answers than the socket holds, so that the agent's writer is stuck.
    for _ in 0..4 {
        caller.open(sh("head -c 200000 /dev/zero"));
    }
    let requests = caller.session.take_output();
    caller.socket.write_all(&requests).unwrap();
    caller.socket.write_all(&[0, 0, 0, 1]).unwrap();
    let mut rest = Vec::new();
    caller.socket.read_to_end(&mut rest).unwrap();
}

#[test]
fn a_caller_that_breaks_the_rules_is_hung_up_on() {
    let mut caller = Caller::new();
    caller.socket.write_all(&[0, 0, 0, 1]).unwrap();
    let mut rest = Vec::new();
    assert_eq!(caller.socket.read_to_end(&mut rest).unwrap(), 0);
}
