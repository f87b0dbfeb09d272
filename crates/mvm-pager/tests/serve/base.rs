//! Pages of the base: alone when they are asked for, in groups when they are wanted, never a wrong one.

#![expect(clippy::indexing_slicing, reason = "tests stop at the first surprise")]

use super::*;

/// The page file of [`guest`] that wants these pages first, sealed; and how many chunks that are.
pub(super) fn page_file(wanted: &[u32]) -> (File, usize) {
    let (base, memory) = (base(), guest());
    let guest = Guest { plain: &memory, pages: PAGES, base: Some(&base), woke_from: None };
    let composition = compose(&guest, wanted).unwrap();
    let target = tempfile::tempfile().unwrap();
    write(&guest, &composition, &target, Codec::Zstd, Some(&cipher())).unwrap();
    (target, composition.ahead())
}

/// The first pages that are as in the base.
fn of_the_base(count: usize) -> Vec<u32> {
    (100..700).filter(|page| page % 3 != 0).take(count).collect()
}

/// Sources over a base of whose memory a page was changed.
fn spoiled(page: u32, file: File, ahead: usize) -> Sources {
    let (mem, sums, digest) = base_files();
    mem.write_all_at(&[0xee; 7], u64::from(page) * PAGE as u64 + 99).unwrap();
    let base = Base::open_files(mem, &sums, &digest, PAGES).unwrap();
    Sources { base: Some(base), ..sources(file, true, ahead) }
}

#[test]
fn what_is_wanted_of_the_base_comes_before_anybody_asks_along_with_the_rest() {
    let mut wanted = of_the_base(40);
    wanted.extend((300..700).filter(|page| page % 3 == 0).take(20));
    let (file, ahead) = page_file(&wanted);
    assert_eq!(ahead, 3 + 2, "forty of the base, twenty of the guest's own");
    let ((), stats, working_set) = with_server(sources(file, true, ahead), |memory| {
        for page in &wanted {
            assert_eq!(memory.page(shown(*page)), expect(*page), "page {page}");
        }
    });
    assert_eq!((stats.base_pages, stats.chunks_opened), (40, 2), "{stats:?}");
    assert_eq!(stats.prefetched, 40 + 32, "the last chunk was filled up: {stats:?}");
    assert!(wanted.iter().all(|page| working_set.contains(page)), "they are wanted again");
}

#[test]
fn one_fault_brings_the_whole_group_and_one_outside_of_any_its_page_alone() {
    let wanted = of_the_base(32);
    let (file, _) = page_file(&wanted);
    let ((), stats, working_set) = with_server(sources(file, true, 0), |memory| {
        for page in [wanted[20], 695, 691] {
            assert_eq!(memory.page(shown(page)), expect(page), "page {page}");
        }
    });
    assert_eq!((stats.base_pages, stats.faults, stats.prefetched), (16 + 2, 3, 0), "{stats:?}");
    assert_eq!(working_set, [&wanted[16..32], &[695, 691]].concat());
}

#[test]
fn a_page_of_a_group_that_was_given_back_stays_zero() {
    let wanted = of_the_base(16);
    let (file, _) = page_file(&wanted);
    let ((), stats, _) = with_server(sources(file, true, 0), |memory| {
        memory.give_back(shown(wanted[3]), 1);
        for (place, page) in wanted.iter().enumerate() {
            let content = if place == 3 { vec![0; PAGE] } else { expect(*page) };
            assert_eq!(memory.page(shown(*page)), content, "page {page}");
        }
    });
    assert_eq!((stats.base_pages, stats.removed), (15, 1), "{stats:?}");
}

#[test]
fn a_page_of_the_base_that_was_changed_ends_the_server_before_any_of_its_group_is_there() {
    let wanted = of_the_base(16);
    let (file, ahead) = page_file(&wanted);
    let memory = Memory::new();
    let uffd = Uffd::watch(memory.start(), SIZE as u64).unwrap();
    let spoiled = spoiled(wanted[9], file, ahead);
    let mut server = Server::new(uffd, regions(&memory), spoiled).unwrap();
    let (told, _tell): (OwnedFd, OwnedFd) = rustix::pipe::pipe().unwrap();
    let ended = server.run(&told, own_pidfd());
    assert!(matches!(ended, Err(ServeError::Page(ReadError::Base(page))) if page == wanted[9]));
    assert_eq!(server.stats().base_pages, 0);
    // Without a server what was not put is zero.
    drop(server);
    assert!(wanted.iter().all(|page| memory.page(shown(*page)) == [0; PAGE]));
}

#[test]
fn a_page_of_the_base_that_was_changed_is_not_seen_by_who_asks_for_it() {
    let memory = Memory::new();
    let uffd = Uffd::watch(memory.start(), SIZE as u64).unwrap();
    let mut server =
        Server::new(uffd, regions(&memory), spoiled(691, page_file(&[]).0, 0)).unwrap();
    let (told, _tell): (OwnedFd, OwnedFd) = rustix::pipe::pipe().unwrap();
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let whole = memory.page(shown(695));
            (whole, memory.page(shown(691)))
        });
        let ended = server.run(&told, own_pidfd());
        assert!(matches!(ended, Err(ServeError::Page(ReadError::Base(691)))), "{ended:?}");
        // Only now the reader goes on: here without a server, of a guest the VM is ended first.
        drop(server);
        assert_eq!(reader.join().unwrap(), (expect(695), vec![0; PAGE]));
    });
}
