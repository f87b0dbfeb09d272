//! The bytes of formats 2 and 3, which every later version must still read.

use std::io;

use mvm_core::{pool::Resources, units::Vcpus};

use super::{super::seal::Random, *};
use crate::disk::base::{Shared, Which};

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

/// A directory of a golden snapshot: header as it is, the rest in hexadecimal.
struct Golden {
    header: &'static str,
    keys: &'static str,
    vmstate: &'static str,
    mem: &'static str,
}

const TWO: Golden = Golden {
    header: include_str!("golden/2/header.json"),
    keys: include_str!("golden/2/keys.hex"),
    vmstate: include_str!("golden/2/vmstate.hex"),
    mem: include_str!("golden/2/mem.hex"),
};
/// Over a base, with pages of many chunks, of which some are wanted first.
const THREE: Golden = Golden {
    header: include_str!("golden/3/header.json"),
    keys: include_str!("golden/3/keys.hex"),
    vmstate: include_str!("golden/3/vmstate.hex"),
    mem: include_str!("golden/3/mem.hex"),
};
const BASE: &str = include_str!("golden/3/base.json");

impl Golden {
    fn put(&self, dir: &std::path::Path) {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("header.json"), self.header).unwrap();
        for (name, hex) in [("keys", self.keys), ("vmstate", self.vmstate), ("mem", self.mem)] {
            fs::write(dir.join(name), hex::decode(hex.trim()).unwrap()).unwrap();
        }
    }
}

fn page(number: usize) -> (usize, Vec<u8>) {
    (number, format!("page {number}").into_bytes())
}

/// A base of which pages 3 to 60 are not zero, as a jail has it.
fn base(ground: &Ground) -> Shared {
    let pages: Vec<(usize, Vec<u8>)> = (3..61).map(page).collect();
    ground.guest(&pages, b"device state of the base");
    let header = Ground::header(Mib(1));
    let size = Resources::new(Vcpus(1), Mib(1), Mib(16));
    let image = header.image.clone();
    let which = Which::of(&ground.roots, ground.instance.pool_ref(), &image, size);
    let to = ground.dir.path().join("base");
    which.store(&ground.ram, header, &to).unwrap();
    Shared::open(&to).unwrap().unwrap()
}

/// What a clone of it leaves that changed pages 5 to 40 and wrote two that are zero in the base.
fn clone(ground: &Ground) -> Vec<u8> {
    let mut own: Vec<(usize, Vec<u8>)> =
        (5..41).map(|number| (number, format!("own page {number}").into_bytes())).collect();
    own.extend([page(100), page(200)]);
    let mut memory = ground.guest(&own, b"device state");
    for (number, content) in (3..5).chain(41..61).map(page) {
        let start = number * PAGE;
        memory.splice(start..start + content.len(), content);
    }
    memory
}

#[test]
fn a_snapshot_of_format_2_is_read() {
    let ground = Ground::new();
    TWO.put(&Place::of(&ground.roots, &ground.instance, EPOCH).published);
    let expected = ground.guest(&[(17, b"page seventeen".to_vec())], b"");
    assert_eq!(ground.whole(Some(&Ground::key())).unwrap(), expected);
}

#[test]
fn the_bytes_of_format_3_stay() {
    let ground = Ground::new();
    let base = base(&ground);
    assert_eq!(fs::read_to_string(base.dir.join("header.json")).unwrap(), BASE);
    clone(&ground);
    let place = Place::of(&ground.roots, &ground.instance, EPOCH);
    let key = Ground::key();
    let mut writer = Writer { roots: &ground.roots, key: Some(&key), random: &mut Counting(0) };
    let woke_from = Some(Woken { file: None });
    let written = Written {
        base: Some(&base),
        woke_from,
        wanted: &[200, 50, 51, 7],
        codec: Codec::Lz4,
        ..ground.written()
    };
    writer.store(&place, &ground.instance, EPOCH, &written, Ground::header(Mib(1))).unwrap();
    let read = |name| fs::read(place.partial.join(name)).unwrap();
    assert_eq!(String::from_utf8(read("header.json")).unwrap(), THREE.header);
    assert_eq!(hex::encode(read("keys")), THREE.keys.trim());
    assert_eq!(hex::encode(read("vmstate")), THREE.vmstate.trim());
    assert_eq!(hex::encode(read("mem")), THREE.mem.trim());
}

#[test]
fn a_snapshot_of_format_3_is_read_over_its_base_and_over_no_other() {
    let ground = Ground::new();
    let published = Place::of(&ground.roots, &ground.instance, EPOCH).published;
    THREE.put(&published);
    let refused = ground.open(Some(&Ground::key())).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Integrity, "{refused}");
    let base = base(&ground);
    crate::disk::base::share(&base.dir, &published.join("base")).unwrap();
    let expected = clone(&ground);
    assert!(ground.whole(Some(&Ground::key())).unwrap() == expected);
    let path = published.join("base").join("header.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, text.replace("1700000000000", "1700000000001")).unwrap();
    let refused = ground.open(Some(&Ground::key())).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Integrity, "{refused}");
}
