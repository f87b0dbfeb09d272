//! Two sessions talk to each other, and one is talked to by somebody who does not keep the rules.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests stop at the first surprise")]

use mvm_proto::session::{INITIAL_WINDOW, STREAMS_MAX};
use mvm_proto::{
    Channel, Event, Failure, FailureKind, Frame, Generations, Hello, Input, Kind, ProtocolError,
    Reply, Request, SendError, Session,
};
use proptest::prelude::*;

fn hello() -> Hello {
    Hello {
        generations: Generations::SUPPORTED,
        version: "0".to_owned(),
        boot_id: "b".to_owned(),
        instance_id: None,
        operation: None,
    }
}

fn events(session: &mut Session, bytes: &[u8]) -> Vec<Event> {
    session.receive(bytes);
    std::iter::from_fn(|| session.next_event().unwrap()).collect()
}

/// Moves bytes both ways until nothing moves; gives what (caller, callee) saw.
fn settle(caller: &mut Session, callee: &mut Session) -> (Vec<Event>, Vec<Event>) {
    let (mut at_caller, mut at_callee) = (Vec::new(), Vec::new());
    while caller.output_len() + callee.output_len() > 0 {
        at_callee.extend(events(callee, &caller.take_output()));
        at_caller.extend(events(caller, &callee.take_output()));
    }
    (at_caller, at_callee)
}

fn pair() -> (Session, Session) {
    let (mut caller, mut callee) = (Session::caller(hello()), Session::callee(hello()));
    settle(&mut caller, &mut callee);
    assert_eq!(caller.generation(), Some(1));
    assert_eq!(callee.generation(), Some(1));
    (caller, callee)
}

fn frame(kind: Kind, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    Frame { kind, stream, payload: payload.to_vec() }.encode(&mut bytes).unwrap();
    bytes
}

fn breach(session: &mut Session, bytes: &[u8]) -> ProtocolError {
    session.receive(bytes);
    loop {
        match session.next_event() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("no breach was noticed"),
            Err(error) => return error,
        }
    }
}

#[test]
fn a_request_is_answered_and_its_stream_ends() {
    let (mut caller, mut callee) = pair();
    let stream = caller.open(Request::Ping {}).unwrap();
    let (_, seen) = settle(&mut caller, &mut callee);
    assert_eq!(seen, [Event::Opened { stream, request: Request::Ping {} }]);
    callee.reply(stream, Reply::Pong {}).unwrap();
    callee.finish(stream);
    let (seen, _) = settle(&mut caller, &mut callee);
    assert_eq!(seen, [Event::Reply { stream, reply: Reply::Pong {} }, Event::Ended { stream }]);
    assert_eq!(callee.reply(stream, Reply::Pong {}), Err(SendError::NotOpen(stream)));
    assert_eq!(caller.input(stream, Input::InputClosed {}), Err(SendError::NotOpen(stream)));
    assert_eq!(caller.open(Request::Ping {}), Ok(stream + 2));
}

#[test]
fn a_request_of_the_future_is_refused_and_the_session_goes_on() {
    let (_, mut callee) = pair();
    let request = br#"{"request":{"teleport":{"where":"mars"}}}"#;
    assert_eq!(events(&mut callee, &frame(Kind::Json, 1, request)), []);
    let mut caller = Session::caller(hello());
    let _ = caller.take_output();
    let _ = caller.open(Request::Ping {}).unwrap();
    let mut hello_first = Session::callee(hello()).take_output();
    hello_first.extend(callee.take_output());
    let seen = events(&mut caller, &hello_first);
    assert!(
        matches!(
            &seen[..],
            [Event::Ready { .. }, Event::Failed { stream: 1, failure }, Event::Ended { stream: 1 }]
                if failure.kind == FailureKind::Unsupported
        ),
        "{seen:?}"
    );
    let ping = br#"{"request":{"ping":{"new_field":1}},"trace":"x"}"#;
    // An unknown field beside the tag is not part of the shape of a message; inside it is ignored.
    let ping_in_shape = br#"{"request":{"ping":{"new_field":1}}}"#;
    assert_eq!(events(&mut callee, &frame(Kind::Json, 3, ping)), []);
    assert_eq!(events(&mut callee, &frame(Kind::Json, 5, ping_in_shape)).len(), 1);
}

#[test]
fn data_stops_at_the_credit_and_goes_on_when_it_was_consumed() {
    let (mut caller, mut callee) = pair();
    let slow = caller.open(Request::CopyOut { path: "/a".to_owned() }).unwrap();
    let other = caller.open(Request::CopyOut { path: "/b".to_owned() }).unwrap();
    settle(&mut caller, &mut callee);
    let chunk = vec![7u8; 1 << 20];
    let mut sent = 0;
    while callee.credit(slow) > 0 {
        sent += callee.send_data(slow, &chunk).unwrap();
    }
    assert_eq!(sent, usize::try_from(INITIAL_WINDOW).unwrap());
    assert_eq!(callee.send_data(slow, &chunk), Ok(0));
    assert!(callee.send_data(other, &chunk).unwrap() > 0, "another stream is not held up");
    let (seen, _) = settle(&mut caller, &mut callee);
    assert_eq!(callee.credit(slow), 0, "no credit before the bytes are dealt with");
    for event in seen {
        if let Event::Data { stream, payload } = event {
            caller.consumed(stream, payload.len());
        }
    }
    let (_, seen) = settle(&mut caller, &mut callee);
    assert_eq!(seen.last(), Some(&Event::Credit { stream: slow }));
    assert_eq!(callee.credit(slow), usize::try_from(INITIAL_WINDOW).unwrap());
}

#[test]
fn channel_bytes_are_split_again() {
    let (mut caller, mut callee) = pair();
    let stream = caller.open(Request::CopyIn { path: "/".to_owned() }).unwrap();
    caller.send_channel(stream, Channel::Stdin, b"abc").unwrap();
    let (_, seen) = settle(&mut caller, &mut callee);
    let Some(Event::Data { payload, .. }) = seen.last() else { panic!("{seen:?}") };
    assert_eq!(Channel::split(payload), Some((Channel::Stdin, &b"abc"[..])));
    assert_eq!(Channel::split(&[3, 1]), None);
    assert_eq!(Channel::split(&[]), None);
}

#[test]
fn a_cancelled_stream_is_silent_for_the_caller_until_its_end() {
    let (mut caller, mut callee) = pair();
    let stream = caller.open(Request::CopyOut { path: "/".to_owned() }).unwrap();
    settle(&mut caller, &mut callee);
    callee.send_data(stream, b"late").unwrap();
    caller.cancel(stream);
    caller.cancel(stream);
    let (at_caller, at_callee) = settle(&mut caller, &mut callee);
    assert_eq!((at_caller, at_callee), (vec![], vec![Event::Cancelled { stream }]));
    callee.fail(stream, Failure::new(FailureKind::Failed, "never mind"));
    let (at_caller, _) = settle(&mut caller, &mut callee);
    assert_eq!(at_caller, [Event::Ended { stream }]);
}

#[test]
fn one_stream_too_many_is_busy_and_the_others_live() {
    let (mut caller, mut callee) = pair();
    for _ in 0..STREAMS_MAX {
        caller.open(Request::Ping {}).unwrap();
    }
    assert_eq!(caller.open(Request::Ping {}), Err(SendError::NoRoom));
    let (_, seen) = settle(&mut caller, &mut callee);
    assert_eq!(seen.len(), STREAMS_MAX);
    let next = u32::try_from(STREAMS_MAX).unwrap() * 2 + 1;
    let request = br#"{"request":{"ping":{}}}"#;
    assert_eq!(events(&mut callee, &frame(Kind::Json, next, request)), []);
    assert!(String::from_utf8_lossy(&callee.take_output()).contains("busy"));
}

#[test]
fn sides_without_a_common_generation_part() {
    let mut future = hello();
    future.generations = Generations { min: 7, max: 9 };
    let mut callee = Session::callee(hello());
    let error = breach(&mut callee, &Session::caller(future).take_output());
    assert!(matches!(error, ProtocolError::Generation(_)), "{error}");
}

#[test]
fn whoever_does_not_begin_with_a_hello_is_refused() {
    for bytes in [
        frame(Kind::Json, 1, br#"{"request":{"ping":{}}}"#),
        frame(Kind::Data, 0, b"x"),
        frame(Kind::Json, 0, b"GET / HTTP/1.1"),
    ] {
        assert_eq!(breach(&mut Session::callee(hello()), &bytes), ProtocolError::NoHello);
    }
}

#[test]
fn breaches_of_stream_rules_are_noticed() {
    let ping = br#"{"request":{"ping":{}}}"#;
    let credit = br#"{"credit":{"bytes":4294967295}}"#;
    let opened = frame(Kind::Json, 1, ping);
    let cases: [(&str, Vec<u8>); 9] = [
        ("an even number", frame(Kind::Json, 2, ping)),
        ("stream 0", frame(Kind::Json, 0, ping)),
        ("a number twice", [opened.clone(), opened.clone()].concat()),
        ("data without a stream", frame(Kind::Data, 1, b"x")),
        ("an end without a stream", frame(Kind::End, 1, b"")),
        (
            "a second hello",
            frame(Kind::Json, 0, br#"{"hello":{"generations":[1,1],"version":""}}"#),
        ),
        (
            "a reply to the callee",
            [opened.clone(), frame(Kind::Json, 1, br#"{"reply":{"pong":{}}}"#)].concat(),
        ),
        ("no JSON", frame(Kind::Json, 1, b"{")),
        ("credit without measure", [opened.clone(), frame(Kind::Json, 1, credit)].concat()),
    ];
    for (name, bytes) in cases {
        let (_, mut callee) = pair();
        let error = breach(&mut callee, &bytes).to_string();
        assert!(!error.is_empty(), "{name}");
    }
    let (_, mut callee) = pair();
    let flood: Vec<u8> =
        (0..5).flat_map(|_| frame(Kind::Data, 1, &vec![0; mvm_proto::DATA_MAX])).collect();
    assert_eq!(
        breach(&mut callee, &[opened, flood].concat()),
        ProtocolError::CreditExceeded { stream: 1 }
    );
}

#[test]
fn a_request_too_large_for_a_frame_is_refused_before_anything_is_sent() {
    let (mut caller, _) = pair();
    let path = "x".repeat(mvm_proto::JSON_MAX);
    assert!(matches!(caller.open(Request::CopyOut { path }), Err(SendError::TooLarge(_))));
    assert_eq!(caller.output_len(), 0);
    assert_eq!(caller.open(Request::Ping {}), Ok(1));
}

proptest! {
    #[test]
    fn hostile_frames_never_panic(
        frames in proptest::collection::vec(
            (1u8..4, 0u32..8, prop_oneof![
                Just(br#"{"request":{"ping":{}}}"#.to_vec()),
                Just(br#"{"credit":{"bytes":9}}"#.to_vec()),
                Just(br#"{"input":{"input_closed":{}}}"#.to_vec()),
                Just(br#"{"reply":{"pong":{}}}"#.to_vec()),
                proptest::collection::vec(any::<u8>(), 0..40),
            ]),
            0..12,
        ),
        is_caller in any::<bool>(),
    ) {
        let (caller, callee) = pair();
        let mut session = if is_caller { caller } else { callee };
        for (kind, stream, payload) in frames {
            let length = u32::try_from(payload.len() + 5).unwrap().to_be_bytes();
            session.receive(&length);
            session.receive(&[kind]);
            session.receive(&stream.to_be_bytes());
            session.receive(&payload);
        }
        while let Ok(Some(event)) = session.next_event() {
            if let Event::Opened { stream, .. } = event {
                session.fail(stream, Failure::new(FailureKind::Unsupported, "no"));
            }
        }
    }
}
