//! A guest that sleeps and wakes again and again over a base: whatever it did meanwhile and whichever
//! way it was written, what its files give back is its memory.
#![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
#![expect(clippy::indexing_slicing, reason = "tests stop at the first surprise")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    os::unix::fs::FileExt,
};

use mvm_pager::{
    Base, Cipher, Codec, Composition, Memory, PAGE, PageFile, Scratch, Woken, base, compose,
    seal::Binding, write,
};
use proptest::prelude::*;

const PAGES: u64 = 96;
const COUNT: usize = PAGES as usize;

/// What is in each page of a guest; 0 is zero.
type Guest = [u8; COUNT];

fn content(page: usize, seed: u8) -> Vec<u8> {
    match seed {
        0 => vec![0; PAGE],
        // Every second one does not shrink much.
        seed => (0..PAGE)
            .map(|at| (at.wrapping_mul(usize::from(seed) * 2 + 1) / (1 + page % 2 * 60)) as u8 | 1)
            .collect(),
    }
}

fn cipher(step: usize) -> Cipher {
    Cipher::new(&[step as u8; 32], Binding { header: [1; 32], name: *b"mem\0\0\0\0\0" }).unwrap()
}

/// A file with these pages of a guest and holes elsewhere.
fn plain(guest: &Guest, pages: impl IntoIterator<Item = usize>) -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(PAGES * PAGE as u64).unwrap();
    for page in pages {
        file.write_all_at(&content(page, guest[page]), (page * PAGE) as u64).unwrap();
    }
    file
}

fn base_of(guest: &Guest) -> Base {
    let mem = tempfile::tempfile().unwrap();
    let (sums, digest) = base::write(&plain(guest, 0..COUNT), PAGES, &mem).unwrap();
    Base::open(mem, &sums, &digest, PAGES).unwrap()
}

/// What a server shows of these files.
fn shown(file: Option<&PageFile>, base: &Base) -> Vec<u8> {
    let mut memory = vec![0; COUNT * PAGE];
    base.verified(0, &mut memory).unwrap();
    let mut scratch = Scratch::new().unwrap();
    if let Some(file) = file {
        for (number, chunk) in file.index().chunks().iter().enumerate() {
            let pages = file.index().pages_of(number);
            let content = match chunk.is_base() {
                true => base.group(pages, &mut scratch).unwrap(),
                false => file.chunk(number, &mut scratch).unwrap(),
            };
            assert_eq!(content.len(), pages.len() * PAGE);
            for (page, bytes) in pages.iter().zip(content.chunks(PAGE)) {
                memory[*page as usize * PAGE..][..PAGE].copy_from_slice(bytes);
            }
        }
    }
    memory
}

/// One life of a guest: what it wrote (zero too), how it was put to sleep, what is wanted first.
#[derive(Debug, Clone)]
struct Life {
    wrote: BTreeMap<usize, u8>,
    is_whole: bool,
    are_zeros_written: bool,
    codec: Codec,
    is_sealed: bool,
    wanted: Vec<u32>,
}

fn seeds() -> impl Strategy<Value = u8> {
    // Few, so that a page often is again what it was; many zeros.
    prop_oneof![2 => Just(0), 3 => 1u8..4]
}

fn lives() -> impl Strategy<Value = Vec<Life>> {
    let codec = prop_oneof![Just(Codec::None), Just(Codec::Lz4), Just(Codec::Zstd)];
    let life = (
        proptest::collection::btree_map(0..COUNT, seeds(), 0..60),
        any::<[bool; 3]>(),
        codec,
        // Twice the same and some that no guest has.
        proptest::collection::vec(0..PAGES as u32 + 40, 0..150),
    );
    let life = life.prop_map(|(wrote, [is_whole, are_zeros_written, is_sealed], codec, wanted)| {
        Life { wrote, is_whole, are_zeros_written, codec, is_sealed, wanted }
    });
    proptest::collection::vec(life, 1..5)
}

/// Nothing is written that the base has, and all that is wanted of either lies in front.
fn is_as_promised(
    composed: &Composition,
    file: &PageFile,
    wanted: &[u32],
    base: &Base,
) -> Result<(), TestCaseError> {
    let index = file.index();
    let ahead: BTreeSet<u32> =
        (0..composed.ahead()).flat_map(|number| index.pages_of(number)).copied().collect();
    let stored: BTreeSet<u32> = index.stored_pages().collect();
    for page in wanted.iter().filter(|page| u64::from(**page) < PAGES) {
        let is_somewhere = stored.contains(page) || base.has(*page);
        prop_assert_eq!(ahead.contains(page), is_somewhere, "page {}", page);
    }
    let named: Vec<u32> =
        index.pages().iter().copied().filter(|page| !stored.contains(page)).collect();
    prop_assert!(named.iter().all(|page| base.has(*page) && wanted.contains(page)));
    prop_assert_eq!(composed.pages().iter().copied().collect::<BTreeSet<_>>(), stored);
    let is_last = |(number, chunk): (usize, &mvm_pager::index::Chunk)| {
        chunk.is_base() && number >= composed.ahead()
    };
    prop_assert!(!index.chunks().iter().enumerate().any(is_last));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_guest_finds_every_page_as_it_left_it_however_often_it_slept(
        booted in proptest::collection::vec(seeds(), COUNT), lives in lives(),
    ) {
        let booted: Guest = booted.try_into().unwrap();
        let base = base_of(&booted);
        let mut guest = booted;
        let mut older: Option<PageFile> = None;
        for (step, life) in lives.iter().enumerate() {
            for (page, seed) in &life.wrote {
                guest[*page] = *seed;
            }
            let pages = (0..COUNT).filter(|page| match life.is_whole {
                true => guest[*page] != 0 || life.are_zeros_written,
                false => life.wrote.contains_key(page),
            });
            let plain = plain(&guest, pages);
            let woken = Woken { file: older.as_ref() };
            let woke_from = (!life.is_whole).then_some(&woken);
            let memory = Memory { plain: &plain, pages: PAGES, base: Some(&base), woke_from };
            let composed = compose(&memory, &life.wanted).unwrap();
            let target = tempfile::tempfile().unwrap();
            let own = life.is_sealed.then(|| cipher(step));
            write(&memory, &composed, &target, life.codec, own.as_ref()).unwrap();
            let file = PageFile::open(target, PAGES, own).unwrap();
            is_as_promised(&composed, &file, &life.wanted, &base)?;
            let expected = (0..COUNT).flat_map(|page| content(page, guest[page]));
            let shown = shown(Some(&file), &base);
            prop_assert!(shown == expected.collect::<Vec<u8>>(), "after life {}", step);
            older = Some(file);
        }
    }
}

#[test]
fn a_base_that_was_changed_while_a_guest_slept_never_becomes_its_memory() {
    let mut booted: Guest = [0; COUNT];
    booted[5] = 1;
    let mem = tempfile::tempfile().unwrap();
    let (sums, digest) = base::write(&plain(&booted, [5]), PAGES, &mem).unwrap();
    // Somebody who knows what the guest has in two pages puts it into the base.
    let mut guest = booted;
    (guest[5], guest[9]) = (2, 3);
    for page in [5, 9] {
        mem.write_all_at(&content(page, guest[page]), (page * PAGE) as u64).unwrap();
    }
    let base = Base::open(mem, &sums, &digest, PAGES).unwrap();
    let memory = Memory {
        plain: &plain(&guest, [5, 9]),
        pages: PAGES,
        base: Some(&base),
        woke_from: Some(&Woken { file: None }),
    };
    let composed = compose(&memory, &[]).unwrap();
    assert_eq!(composed.pages(), [9], "a page that the base does not have is always written");
    let refused = base.verified(5, &mut [0; PAGE]).unwrap_err();
    assert_eq!(refused.to_string(), "page 5 of the base was changed");
}

#[test]
fn a_file_of_many_more_chunks_than_are_written_at_once_comes_back() {
    let pages = 100 * 16 + 5;
    let plain = tempfile::tempfile().unwrap();
    plain.set_len(pages * PAGE as u64).unwrap();
    for page in 0..pages as usize {
        let bytes = content(page, 1 + (page % 251) as u8);
        plain.write_all_at(&bytes, (page * PAGE) as u64).unwrap();
    }
    for codec in [Codec::None, Codec::Lz4, Codec::Zstd] {
        let memory = Memory { plain: &plain, pages, base: None, woke_from: None };
        let composed = compose(&memory, &[1000, 3, 777]).unwrap();
        let target = tempfile::tempfile().unwrap();
        let written = write(&memory, &composed, &target, codec, Some(&cipher(1))).unwrap();
        assert_eq!((written.pages, written.chunks), (pages, 101));
        let file = PageFile::open(target, pages, Some(cipher(1))).unwrap();
        assert!(file.index().pages().starts_with(&[1000, 3, 777]));
        let mut scratch = Scratch::new().unwrap();
        for number in 0..101 {
            let shown = file.chunk(number, &mut scratch).unwrap();
            for (page, bytes) in file.index().pages_of(number).iter().zip(shown.chunks(PAGE)) {
                let page = *page as usize;
                assert!(bytes == content(page, 1 + (page % 251) as u8), "page {page}");
            }
        }
    }
}
