#![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const PAGES: u64 = 64;

fn filled(pages: &BTreeMap<u32, u8>) -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(PAGES * PAGE as u64).unwrap();
    for (page, byte) in pages {
        file.write_all_at(&[*byte; PAGE], u64::from(*page) * PAGE as u64).unwrap();
    }
    file
}

/// A base of three pages: its memory, its sums and their digest.
fn three() -> (File, Vec<u8>, [u8; DIGEST]) {
    let plain = filled(&BTreeMap::from([(0, 1), (7, 2), (63, 3)]));
    let mem = tempfile::tempfile().unwrap();
    let (sums, digest) = write(&plain, PAGES, &mem).unwrap();
    (mem, sums, digest)
}

fn flip(file: &File, at: u64) {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&byte.map(|byte| byte ^ 4), at).unwrap();
}

proptest! {
    #[test]
    fn a_base_has_every_page_of_the_memory_it_was_made_of(
        pages in proptest::collection::btree_map(0..PAGES as u32, 0u8..3, 0..64),
    ) {
        let mem = tempfile::tempfile().unwrap();
        let (sums, digest) = write(&filled(&pages), PAGES, &mem).unwrap();
        let base = Base::open(mem, &sums, &digest, PAGES).unwrap();
        let mut all = vec![1; PAGES as usize * PAGE];
        base.verified(0, &mut all).unwrap();
        for (page, bytes) in (0..).zip(all.chunks(PAGE)) {
            let byte = pages.get(&page).copied().unwrap_or(0);
            prop_assert!(bytes.iter().all(|one| *one == byte), "page {}", page);
            prop_assert_eq!(base.has(page), byte != 0);
        }
        prop_assert_eq!(sums.len(), pages.values().filter(|byte| **byte != 0).count() * SUM);
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Base::open(three().0, &bytes, &sha256(&bytes), PAGES);
    }
}

#[test]
fn zeros_that_were_written_take_no_room() {
    use std::os::unix::fs::MetadataExt;
    let mem = tempfile::tempfile().unwrap();
    let zeros = (0..PAGES as u32).map(|page| (page, u8::from(page == 20)));
    let (sums, _) = write(&filled(&zeros.collect()), PAGES, &mem).unwrap();
    assert_eq!(sums.len(), SUM);
    assert_eq!(mem.metadata().unwrap().len(), PAGES * PAGE as u64);
    assert_eq!(mem.metadata().unwrap().blocks() * 512, PAGE as u64);
}

#[test]
fn a_changed_bit_of_the_sums_is_refused_wherever_it_is() {
    let (mem, sums, digest) = three();
    for at in 0..sums.len() {
        let mut changed = sums.clone();
        *changed.get_mut(at).unwrap() ^= 1;
        let opened = Base::open(mem.try_clone().unwrap(), &changed, &digest, PAGES);
        assert!(matches!(opened, Err(BaseError::Digest)), "byte {at}");
    }
}

#[test]
fn sums_that_make_no_sense_are_refused_even_if_somebody_vouches_for_them() {
    let (mem, sums, _) = three();
    let (entries, _) = sums.as_chunks::<SUM>();
    let [first, second, third] = entries.first_chunk().unwrap();
    let beyond = [&64u32.to_le_bytes()[..], &[0; DIGEST]].concat();
    for (what, bytes, entry) in [
        ("swapped", [&second[..], first, third].concat(), 1),
        ("twice", [&first[..], second, second].concat(), 2),
        ("beyond", [&first[..], &beyond].concat(), 1),
        ("cut", sums.get(..sums.len() - 1).unwrap().to_vec(), 2),
        ("longer", [&sums[..], &[0]].concat(), 3),
    ] {
        let opened = Base::open(mem.try_clone().unwrap(), &bytes, &sha256(&bytes), PAGES);
        assert!(matches!(opened, Err(BaseError::Entry(at)) if at == entry), "{what}: {opened:?}");
    }
}

#[test]
fn foreign_sums_and_sums_that_are_too_many_are_refused() {
    let (mem, _, digest) = three();
    let other = write(&filled(&BTreeMap::from([(0, 9)])), PAGES, &tempfile::tempfile().unwrap());
    let opened = Base::open(mem.try_clone().unwrap(), &other.unwrap().0, &digest, PAGES);
    assert!(matches!(opened, Err(BaseError::Digest)));
    // One more than there can be: that is seen without reading it.
    let bytes: Vec<u8> = (0..=PAGES as u32)
        .flat_map(|page| [&page.to_le_bytes()[..], &[0; DIGEST]].concat())
        .collect();
    let (many, digest) = (tempfile::tempfile().unwrap(), sha256(&bytes));
    many.write_all_at(&bytes, 0).unwrap();
    let opened = Base::open_files(mem, &many, &digest, PAGES);
    assert!(matches!(opened, Err(error @ BaseError::Digest) if error.is_damage()));
}

#[test]
fn memory_of_another_size_is_refused() {
    let (mem, sums, digest) = three();
    for size in [0, PAGES * PAGE as u64 - 1, (PAGES + 1) * PAGE as u64] {
        mem.set_len(size).unwrap();
        let opened = Base::open(mem.try_clone().unwrap(), &sums, &digest, PAGES);
        assert!(matches!(opened, Err(error @ BaseError::Size(..)) if error.is_damage()));
    }
}

#[test]
fn a_changed_bit_of_the_memory_is_found_when_its_page_is_read_and_no_other_is_harmed() {
    let (mem, sums, digest) = three();
    flip(&mem, 7 * PAGE as u64 + 4095);
    let base = Base::open(mem.try_clone().unwrap(), &sums, &digest, PAGES).unwrap();
    let mut page = [0; PAGE];
    assert!(matches!(base.verified(7, &mut page), Err(ReadError::Base(7))));
    let mut run = [0; 3 * PAGE];
    assert!(matches!(base.verified(6, &mut run), Err(ReadError::Base(7))));
    base.verified(0, &mut page).unwrap();
    assert_eq!(page, [1; PAGE]);
    base.verified(63, &mut page).unwrap();
    assert_eq!(page, [3; PAGE]);
}

#[test]
fn a_page_that_is_no_page_of_the_base_is_zero_whatever_the_memory_says() {
    let (mem, sums, digest) = three();
    mem.write_all_at(&[5; PAGE], 9 * PAGE as u64).unwrap();
    let base = Base::open(mem, &sums, &digest, PAGES).unwrap();
    let mut page = [1; PAGE];
    base.verified(9, &mut page).unwrap();
    assert_eq!(page, [0; PAGE]);
    page.fill(1);
    base.read(9, &mut page).unwrap();
    assert_eq!(page, [0; PAGE]);
}

#[test]
fn memory_that_was_cut_while_it_is_open_is_a_changed_page() {
    let (mem, sums, digest) = three();
    let base = Base::open(mem.try_clone().unwrap(), &sums, &digest, PAGES).unwrap();
    mem.set_len(20 * PAGE as u64).unwrap();
    assert!(matches!(base.verified(63, &mut [0; PAGE]), Err(ReadError::Base(63))));
}
