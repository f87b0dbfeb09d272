//! Frames survive the wire however it is cut, and no byte sequence does harm.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests stop at a surprise")]

use mvm_proto::{DATA_MAX, Decoder, Frame, FrameError, JSON_MAX, Kind};
use proptest::prelude::*;

fn frames() -> impl Strategy<Value = Vec<Frame>> {
    let frame = (0u8..3, any::<u32>(), proptest::collection::vec(any::<u8>(), 0..300)).prop_map(
        |(kind, stream, payload)| match kind {
            0 => Frame { kind: Kind::Json, stream, payload },
            1 => Frame { kind: Kind::Data, stream, payload },
            _ => Frame { kind: Kind::End, stream, payload: Vec::new() },
        },
    );
    proptest::collection::vec(frame, 0..6)
}

fn encode(frames: &[Frame]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for frame in frames {
        frame.encode(&mut bytes).unwrap();
    }
    bytes
}

fn drain(decoder: &mut Decoder) -> Vec<Frame> {
    std::iter::from_fn(|| decoder.next().unwrap()).collect()
}

proptest! {
    #[test]
    fn frames_survive_a_cut_at_every_byte(frames in frames()) {
        let bytes = encode(&frames);
        for cut in 0..=bytes.len() {
            let mut decoder = Decoder::new();
            decoder.feed(&bytes[..cut]);
            let mut seen = drain(&mut decoder);
            decoder.feed(&bytes[cut..]);
            seen.extend(drain(&mut decoder));
            prop_assert_eq!(&seen, &frames);
        }
    }

    #[test]
    fn frames_survive_byte_by_byte(frames in frames()) {
        let mut decoder = Decoder::new();
        let mut seen = Vec::new();
        for byte in encode(&frames) {
            decoder.feed(&[byte]);
            seen.extend(drain(&mut decoder));
        }
        prop_assert_eq!(seen, frames);
    }

    #[test]
    fn hostile_bytes_are_an_error_or_wait_for_more_but_never_a_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..64),
        small in any::<bool>(),
    ) {
        let mut decoder = Decoder::new();
        // A small length lets the rest of the head be reached.
        if small {
            decoder.feed(&[0, 0, 0]);
        }
        decoder.feed(&bytes);
        let mut failed = false;
        for _ in 0..70 {
            match decoder.next() {
                Ok(Some(_)) => prop_assert!(!failed),
                Ok(None) => break,
                Err(error) => {
                    prop_assert!(!failed || error == FrameError::Poisoned);
                    failed = true;
                }
            }
        }
    }
}

#[test]
fn a_frame_has_the_documented_bytes() {
    let frame = Frame { kind: Kind::Data, stream: 0x0102_0304, payload: b"hi".to_vec() };
    assert_eq!(encode(&[frame]), [0, 0, 0, 7, 2, 1, 2, 3, 4, b'h', b'i']);
}

#[test]
fn payloads_at_the_cap_pass_and_one_more_byte_is_refused() {
    for (kind, max) in [(Kind::Json, JSON_MAX), (Kind::Data, DATA_MAX), (Kind::End, 0)] {
        let frame = Frame { kind, stream: 1, payload: vec![b' '; max] };
        let mut decoder = Decoder::new();
        decoder.feed(&encode(std::slice::from_ref(&frame)));
        assert_eq!(decoder.next(), Ok(Some(frame)));

        let over = Frame { kind, stream: 1, payload: vec![b' '; max + 1] };
        let mut out = vec![7];
        let too_long = FrameError::TooLong { kind, length: max + 1, max };
        assert_eq!(over.encode(&mut out), Err(too_long));
        assert_eq!(out, [7]);

        let length = u32::try_from(max + 6).unwrap().to_be_bytes();
        let mut decoder = Decoder::new();
        decoder.feed(&length);
        decoder.feed(&[kind as u8]);
        assert_eq!(decoder.next(), Err(too_long));
        assert_eq!(decoder.next(), Err(FrameError::Poisoned));
    }
}

#[test]
fn a_length_that_covers_no_head_and_an_unknown_kind_are_errors() {
    let mut decoder = Decoder::new();
    decoder.feed(&[0, 0, 0, 4]);
    assert_eq!(decoder.next(), Err(FrameError::TooShort(4)));
    let mut decoder = Decoder::new();
    decoder.feed(&[0, 0, 0, 5, 9]);
    assert_eq!(decoder.next(), Err(FrameError::UnknownKind(9)));
}
