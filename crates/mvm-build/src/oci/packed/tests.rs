#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::io::Write;

use tar::EntryType as Kind;

use super::*;
use crate::tree::TreeLimits;
use crate::untar::tests::tar;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

fn unpacked(bytes: &[u8], check: Check) -> Result<Tree, OciError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("layer");
    std::fs::write(&path, bytes).unwrap();
    let mut tree = Tree::new(TreeLimits { entries: 10, bytes: 4 << 20 });
    let layer = Layer { section: Section::whole(&path).unwrap(), check };
    unpack(layer, 1, &mut tree, &mut LeftOut::default())?;
    Ok(tree)
}

#[test]
fn a_layer_that_is_longer_than_what_waits_for_the_tree_comes_whole() {
    let text = "0123456789abcdef".repeat(3 << 16);
    let plain = tar(&[("long", Kind::Regular, &text), ("short", Kind::Regular, "x")]);
    let packed = gzip(&plain);
    for (bytes, check) in [
        (&packed, Check::Packed(ContentHash::of(&packed))),
        (&packed, Check::Unpacked(ContentHash::of(&plain))),
        (&plain, Check::Packed(ContentHash::of(&plain))),
        (&packed, Check::Done),
    ] {
        let tree = unpacked(bytes, check).unwrap();
        assert!(tree.file("long").unwrap().bytes().unwrap()[..] == *text.as_bytes(), "{check:?}");
        assert_eq!(tree.file("short").unwrap().bytes().unwrap()[..], *b"x");
    }
}

#[test]
fn a_layer_of_other_bytes_is_refused_packed_and_unpacked() {
    let packed = gzip(&tar(&[("a", Kind::Regular, "x")]));
    let other = ContentHash::of(b"other");
    for check in [Check::Packed(other), Check::Unpacked(other)] {
        let error = unpacked(&packed, check).unwrap_err();
        assert!(matches!(error, OciError::WrongDigest { want, .. } if want == other), "{error}");
    }
}

#[test]
fn a_layer_that_is_cut_or_goes_on_as_something_else_is_refused() {
    let packed = gzip(&tar(&[("a", Kind::Regular, &"x".repeat(1 << 20))]));
    let cut = packed.get(..packed.len() / 2).unwrap().to_vec();
    let followed = [&packed[..], b"something else"].concat();
    for bytes in [cut, followed] {
        let error = unpacked(&bytes, Check::Packed(ContentHash::of(&bytes))).unwrap_err();
        assert!(matches!(error, OciError::Layer { number: 1, .. }), "{error}");
    }
}

#[test]
fn a_layer_that_the_tree_refuses_is_not_unpacked_to_its_end() {
    let bytes = gzip(&tar(&[("../a", Kind::Regular, &"x".repeat(8 << 20))]));
    let error = unpacked(&bytes, Check::Unpacked(ContentHash::of(b""))).unwrap_err();
    let OciError::Layer { source, .. } = error else { unreachable!("{error}") };
    assert!(matches!(source, UntarError::Tree(_)), "{source}");
}
