#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;

use proptest::prelude::*;
use tar::EntryType as Kind;

use super::*;
use crate::tree::TreeLimits;
use crate::untar::tests::{Item, tar};

fn layers(all: &[&[Item<'_>]]) -> Result<(Tree, LeftOut), UntarError> {
    let mut tree = Tree::new(TreeLimits { entries: 1000, bytes: 1000 });
    let mut left_out = LeftOut::default();
    for items in all {
        apply(&tar(items)[..], &mut tree, &mut left_out)?;
    }
    Ok((tree, left_out))
}

/// Files with their text, links with an arrow, directories with a slash.
fn listing(tree: &Tree) -> Vec<String> {
    tree.iter()
        .map(|(path, node)| match &node.entry {
            Entry::Directory => format!("{path}/"),
            Entry::Symlink(target) => format!("{path} -> {target}"),
            Entry::File(content) => {
                format!("{path} {}", String::from_utf8_lossy(&content.bytes().unwrap()))
            }
        })
        .collect()
}

fn list(all: &[&[Item<'_>]]) -> Vec<String> {
    listing(&layers(all).unwrap().0)
}

#[test]
fn an_upper_layer_replaces_and_hides_what_lower_ones_have() {
    let lower: &[Item<'_>] = &[
        ("etc/a", Kind::Regular, "1"),
        ("etc/b", Kind::Regular, "1"),
        ("etc/dir/c", Kind::Regular, "1"),
        ("etc/dir-d", Kind::Regular, "1"),
    ];
    let upper: &[Item<'_>] = &[
        ("etc/a", Kind::Regular, "2"),
        ("etc/.wh.b", Kind::Regular, ""),
        ("etc/.wh.dir", Kind::Regular, ""),
    ];
    assert_eq!(list(&[lower, upper]), ["etc/", "etc/a 2", "etc/dir-d 1"]);
}

#[test]
fn what_a_layer_brings_itself_is_not_hidden_by_it_in_whatever_order() {
    let lower: &[Item<'_>] = &[("d/old", Kind::Regular, "1"), ("d/e/old", Kind::Regular, "1")];
    let new = ("d/e/new", Kind::Regular, "2");
    let opaque = ("d/.wh..wh..opq", Kind::Regular, "");
    let hidden = (".wh.d", Kind::Regular, "");
    for mark in [opaque, hidden] {
        for upper in [[new, mark], [mark, new]] {
            assert_eq!(list(&[lower, &upper]), ["d/", "d/e/", "d/e/new 2"], "{upper:?}");
        }
    }
}

#[test]
fn a_directory_a_file_and_a_link_replace_each_other() {
    let lower: &[Item<'_>] = &[("a/b", Kind::Regular, "1"), ("f", Kind::Regular, "1")];
    let upper: &[Item<'_>] = &[("a", Kind::Symlink, "f"), ("f", Kind::Directory, "")];
    assert_eq!(list(&[lower, upper]), ["a -> f", "f/"]);
}

#[test]
fn an_entry_below_a_link_of_the_image_goes_where_that_leads_inside_it() {
    let lower: &[Item<'_>] = &[
        ("usr/bin/x", Kind::Regular, "1"),
        ("bin", Kind::Symlink, "usr/bin"),
        ("evil", Kind::Symlink, "../../../../../etc"),
    ];
    let upper: &[Item<'_>] = &[
        ("bin/y", Kind::Regular, "2"),
        ("evil/passwd", Kind::Regular, "2"),
        ("bin/.wh.x", Kind::Regular, ""),
    ];
    assert_eq!(
        list(&[lower, upper]),
        [
            "bin -> usr/bin",
            "etc/",
            "etc/passwd 2",
            "evil -> ../../../../../etc",
            "usr/",
            "usr/bin/",
            "usr/bin/y 2"
        ]
    );
}

#[test]
fn hard_links_reach_into_lower_layers() {
    let lower: &[Item<'_>] = &[("a", Kind::Regular, "1")];
    let upper: &[Item<'_>] = &[("b", Kind::Link, "a"), ("a", Kind::Regular, "2")];
    assert_eq!(list(&[lower, upper]), ["a 2", "b 1"]);
    assert!(layers(&[lower, &[("b", Kind::Link, "../a")]]).is_err());
    assert!(layers(&[lower, &[("b", Kind::Link, "gone")]]).is_err());
}

#[test]
fn devices_are_left_out_and_noted() {
    let items: &[Item<'_>] =
        &[("dev/null", Kind::Char, ""), ("pipe", Kind::Fifo, ""), ("a", Kind::Regular, "1")];
    let (tree, left_out) = layers(&[items]).unwrap();
    assert_eq!(listing(&tree), ["a 1"]);
    assert_eq!(left_out.notes(), ["2 devices or FIFOs of the layers were left out"]);
}

#[test]
fn hostile_layers_are_refused() {
    let ring: &[Item<'_>] = &[("r", Kind::Symlink, "r"), ("r/x", Kind::Regular, "1")];
    let file: &[Item<'_>] = &[("f", Kind::Regular, "1"), ("f/x", Kind::Regular, "1")];
    let large = "x".repeat(600);
    let cases: [&[Item<'_>]; 10] = [
        &[("holes", Kind::GNUSparse, "")],
        &[("../x", Kind::Regular, "1")],
        &[("/x", Kind::Regular, "1")],
        &[("a/../../x", Kind::Regular, "1")],
        &[("a/.wh...", Kind::Regular, "")],
        &[(".wh...", Kind::Regular, "")],
        &[("a/.wh.", Kind::Regular, "")],
        ring,
        file,
        &[("a", Kind::Regular, &large), ("b", Kind::Regular, &large)],
    ];
    for items in cases {
        assert!(layers(&[items]).is_err(), "{items:?}");
    }
}

/// What a step of a random layer does, on one of a few names.
fn step() -> impl Strategy<Value = (String, u8)> {
    let name = "[ab](/[ab]){0,2}";
    (name.prop_map(|name: String| name), 0..4_u8)
}

/// The same by hand, on a map from paths of files to texts: directories are what lies below.
fn by_hand(layers: &[Vec<(String, u8)>]) -> BTreeMap<String, String> {
    let is_below =
        |path: &str, of: &str| path.strip_prefix(of).is_some_and(|rest| rest.starts_with('/'));
    let mut lower: BTreeMap<String, String> = BTreeMap::new();
    for (number, layer) in layers.iter().enumerate() {
        for (name, what) in layer {
            match what {
                2 => lower.retain(|path, _| path != name && !is_below(path, name)),
                3 => lower.retain(|path, _| !is_below(path, name)),
                _ => {}
            }
        }
        for (name, what) in layer {
            if *what < 2 {
                lower.retain(|path, _| !is_below(path, name));
                lower.insert(name.clone(), number.to_string());
            }
        }
    }
    lower
}

proptest! {
    #[test]
    fn layers_do_what_their_marks_say(all in proptest::collection::vec(proptest::collection::vec(step(), 0..6), 1..4)) {
        let texts: Vec<String> = (0..all.len()).map(|number| number.to_string()).collect();
        let mut tree = Tree::default();
        let mut failed = false;
        for (layer, text) in all.iter().zip(&texts) {
            let names: Vec<String> = layer.iter().map(|(name, what)| {
                let (directory, last) = name.rsplit_once('/').unwrap_or((".", name));
                match what {
                    2 => format!("{directory}/.wh.{last}"),
                    3 => format!("{name}/.wh..wh..opq"),
                    _ => name.clone(),
                }
            }).collect();
            let items: Vec<Item<'_>> = names.iter().map(|name| (name.as_str(), Kind::Regular, text.as_str())).collect();
            failed |= apply(&tar(&items)[..], &mut tree, &mut LeftOut::default()).is_err();
        }
        // A file where another entry needs a directory is refused; that is not what is compared.
        prop_assume!(!failed);
        let files: BTreeMap<String, String> = tree.iter().filter_map(|(path, node)| match &node.entry {
            Entry::File(content) => Some((path.as_str().to_owned(), String::from_utf8(content.bytes().unwrap().into_owned()).unwrap())),
            Entry::Directory | Entry::Symlink(_) => None,
        }).collect();
        prop_assert_eq!(files, by_hand(&all));
    }

    #[test]
    fn no_bytes_make_a_layer_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000), at in 0..1500_usize) {
        let _any = apply(&bytes[..], &mut Tree::default(), &mut LeftOut::default());
        let mut good = tar(&[("a/b", Kind::Regular, "1"), ("a/.wh.b", Kind::Regular, ""), ("l", Kind::Symlink, "a")]);
        for (place, byte) in good.iter_mut().skip(at).zip(bytes.iter().take(8)) {
            *place = *byte;
        }
        let _any = apply(&good[..], &mut Tree::default(), &mut LeftOut::default());
    }
}
