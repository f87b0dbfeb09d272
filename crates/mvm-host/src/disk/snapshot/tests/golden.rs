//! The bytes of format 2, which every later version must still read.

use std::io;

use super::{super::seal::Random, *};

/// 0, 1, 2, … instead of randomness.
struct Counting(u8);

impl Random for Counting {
    fn fill(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        for byte in bytes {
            *byte = self.0;
            self.0 = self.0.wrapping_add(1);
        }
        Ok(())
    }
}

const HEADER: &str = include_str!("golden/header.json");
const KEYS: &str = include_str!("golden/keys.hex");
const VMSTATE: &str = include_str!("golden/vmstate.hex");
const MEM: &str = include_str!("golden/mem.hex");

#[test]
fn the_bytes_of_format_2_stay() {
    let ground = Ground::new();
    ground.guest(&[(17, b"page seventeen".to_vec())], b"device state");
    let place = Place::of(&ground.roots, &ground.instance, EPOCH);
    let key = Ground::key();
    let roots = &ground.roots;
    let mut writer = Writer { roots, key: Some(&key), random: &mut Counting(0) };
    let written = Written { codec: Codec::Lz4, ..ground.written() };
    writer.store(&place, &ground.instance, EPOCH, &written, Ground::header(Mib(1))).unwrap();
    let read = |name| fs::read(place.partial.join(name)).unwrap();
    assert_eq!(String::from_utf8(read("header.json")).unwrap(), HEADER);
    assert_eq!(hex::encode(read("keys")), KEYS.trim());
    assert_eq!(hex::encode(read("vmstate")), VMSTATE.trim());
    assert_eq!(hex::encode(read("mem")), MEM.trim());
}
