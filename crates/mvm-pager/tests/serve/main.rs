//! The server against a real userfaultfd: what a reader of the memory sees, whatever order it asks in.
//!
//! Needs root, or `vm.unprivileged_userfaultfd=1`; without, every test here fails and says so.
#![expect(unsafe_code, reason = "R12: memory of the test's own to fault on")]
#![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
#![expect(
    clippy::disallowed_methods,
    reason = "R4: the tests start the program itself, and one that ends"
)]

use std::{
    fs::File,
    os::{fd::OwnedFd, unix::fs::FileExt},
    sync::atomic::{AtomicU8, Ordering},
    thread,
};

use mvm_pager::{
    Base, Cipher, Codec, End, Memory as Guest, PAGE, PageFile, Server, Stats, Woken, compose,
    handshake::Region,
    read::ReadError,
    seal::Binding,
    serve::{ServeError, Sources},
    uffd::Uffd,
    write,
};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use rustix::process::{PidfdFlags, pidfd_open};

mod base;
mod program;

const PAGES: u64 = 1024;
const SIZE: usize = PAGES as usize * PAGE;

/// Memory of this process that a server answers for.
struct Memory(*mut std::ffi::c_void);

// SAFETY: the memory is only read, by volatile loads, while it is shared.
unsafe impl Sync for Memory {}

impl Memory {
    fn new() -> Self {
        let (protect, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a fresh anonymous mapping.
        Self(unsafe { mmap_anonymous(std::ptr::null_mut(), SIZE, protect, flags) }.unwrap())
    }
    fn start(&self) -> u64 {
        self.0.expose_provenance() as u64
    }
    fn page(&self, page: u32) -> Vec<u8> {
        let from = page as usize * PAGE;
        let load = |at| {
            // SAFETY: the offset is inside of the mapping, which lives as long as `self`.
            unsafe { AtomicU8::from_ptr(self.0.cast::<u8>().add(at)) }.load(Ordering::Relaxed)
        };
        (from..from + PAGE).map(load).collect()
    }
    fn give_back(&self, page: u32, count: usize) {
        // SAFETY: inside of the mapping.
        let at = unsafe { self.0.cast::<u8>().add(page as usize * PAGE) };
        // SAFETY: nobody holds a reference to these pages.
        unsafe { madvise(at.cast(), count * PAGE, Advice::LinuxDontNeed) }.unwrap();
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing refers to it any more.
        unsafe { munmap(self.0, SIZE) }.unwrap();
    }
}

/// A sparse file of the guest's size in which these pages are filled with a byte.
fn filled(pages: impl IntoIterator<Item = (u32, u8)>) -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(SIZE as u64).unwrap();
    for (page, byte) in pages {
        file.write_all_at(&content(page, byte), u64::from(page) * PAGE as u64).unwrap();
    }
    file
}

fn content(page: u32, byte: u8) -> Vec<u8> {
    (0..PAGE).map(|at| byte.wrapping_add((at / 64) as u8).wrapping_add(page as u8)).collect()
}

fn cipher() -> Cipher {
    Cipher::new(&[7; 32], Binding { header: [1; 32], name: *b"mem\0\0\0\0\0" }).unwrap()
}

fn base_pages() -> impl Iterator<Item = (u32, u8)> {
    (0..700).map(|page| (page, 100))
}

/// The files of the base, and which it is.
fn base_files() -> (File, File, [u8; 32]) {
    let (mem, sums) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let (bytes, digest) = mvm_pager::base::write(&filled(base_pages()), PAGES, &mem).unwrap();
    sums.write_all_at(&bytes, 0).unwrap();
    (mem, sums, digest)
}

fn base() -> Base {
    let (mem, sums, digest) = base_files();
    Base::open_files(mem, &sums, &digest, PAGES).unwrap()
}

/// What a guest changed: some pages of its base, some new ones, some back to zero.
fn guest() -> File {
    let file = filled(base_pages());
    for page in (0..PAGES as u32).filter(|page| page % 3 == 0) {
        file.write_all_at(&content(page, 9), u64::from(page) * PAGE as u64).unwrap();
    }
    file.write_all_at(&[0; PAGE], 4 * PAGE as u64).unwrap();
    file
}

fn page_file(codec: Codec, sealed: bool) -> File {
    let base = base();
    let memory = guest();
    let guest = Guest { plain: &memory, pages: PAGES, base: Some(&base), woke_from: None };
    let composition = compose(&guest, &[]).unwrap();
    assert_eq!(composition.pages().len(), 342 + 1, "each third page and the one that became zero");
    let target = tempfile::tempfile().unwrap();
    let cipher = sealed.then(cipher);
    let written = write(&guest, &composition, &target, codec, cipher.as_ref()).unwrap();
    assert_eq!(written.bytes, target.metadata().unwrap().len());
    target
}

/// Changes a byte of chunk 0, wherever it lies.
fn spoil_first(file: &File) {
    let opened = PageFile::open(file.try_clone().unwrap(), PAGES, Some(cipher())).unwrap();
    let offset = opened.index().chunks().first().unwrap().stored().unwrap().offset;
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset + 5).unwrap();
    file.write_all_at(&byte.map(|byte| !byte), offset + 5).unwrap();
}

fn sources(file: File, sealed: bool, ahead: usize) -> Sources {
    Sources {
        memory_pages: PAGES,
        delta: Some(PageFile::open(file, PAGES, sealed.then(cipher)).unwrap()),
        base: Some(base()),
        ahead,
    }
}

/// Two regions that lie apart, as those of a guest around its PCI hole.
fn regions(memory: &Memory) -> Vec<Region> {
    let half = SIZE as u64 / 2;
    let second = memory.start();
    vec![
        Region { start: second + half, size: half, offset: 0 },
        Region { start: second, size: half, offset: half },
    ]
}

/// The page of the mapping that shows the guest's page.
fn shown(page: u32) -> u32 {
    (page + PAGES as u32 / 2) % PAGES as u32
}

fn own_pidfd() -> OwnedFd {
    pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).unwrap()
}

/// Runs a server while `work` uses the memory.
fn with_server<T: Send>(
    sources: Sources,
    work: impl FnOnce(&Memory) -> T + Send,
) -> (T, Stats, Vec<u32>) {
    let memory = Memory::new();
    let uffd = Uffd::watch(memory.start(), SIZE as u64).unwrap();
    let mut server = Server::new(uffd, regions(&memory), sources).unwrap();
    let (told, tell) = rustix::pipe::pipe().unwrap();
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let done = work(&memory);
            rustix::io::write(&tell, b".").unwrap();
            done
        });
        assert_eq!(server.run(&told, own_pidfd()).unwrap(), End::Told);
        let done = worker.join().unwrap();
        (done, server.stats(), server.working_set().to_vec())
    })
}

/// What the guest's page holds.
fn expect(page: u32) -> Vec<u8> {
    static GUEST: std::sync::OnceLock<File> = std::sync::OnceLock::new();
    let mut bytes = vec![0; PAGE];
    GUEST.get_or_init(guest).read_exact_at(&mut bytes, u64::from(page) * PAGE as u64).unwrap();
    bytes
}

#[test]
fn two_readers_see_every_page_as_it_was_written_in_every_form() {
    for (codec, sealed) in [
        (Codec::None, false),
        (Codec::None, true),
        (Codec::Lz4, true),
        (Codec::Zstd, true),
        (Codec::Zstd, false),
    ] {
        let sources = sources(page_file(codec, sealed), sealed, 0);
        let ((), stats, _) = with_server(sources, |memory| {
            thread::scope(|scope| {
                for reader in 0..2 {
                    scope.spawn(move || {
                        for step in 0..PAGES as u32 {
                            let page =
                                if reader == 0 { step } else { (step * 7 + 3) % PAGES as u32 };
                            assert_eq!(memory.page(shown(page)), expect(page), "page {page}");
                        }
                    });
                }
            });
        });
        assert_eq!(stats.delta_pages, 343, "each changed page is put once: {stats:?}");
        assert_eq!(stats.base_pages, 700 - 233 - 2, "so is each of the base: {stats:?}");
    }
}

#[test]
fn what_was_asked_for_comes_first_and_the_working_set_without_being_asked() {
    let (base, memory) = (base(), guest());
    let guest = Guest { plain: &memory, pages: PAGES, base: Some(&base), woke_from: None };
    let wanted: Vec<u32> = (0..PAGES as u32).rev().filter(|page| page % 3 == 0).take(40).collect();
    let composition = compose(&guest, &wanted).unwrap();
    assert_eq!(composition.ahead(), 3);
    let pages = composition.pages();
    assert!(pages.starts_with(&wanted));
    let target = tempfile::tempfile().unwrap();
    write(&guest, &composition, &target, Codec::None, None).unwrap();
    let (seen, stats, working_set) = with_server(sources(target, false, 3), |memory| {
        let waits = |page: u32| memory.page(shown(page)) == expect(page);
        // A page of a later chunk; meanwhile the first three are put.
        assert!(waits(0));
        pages.iter().take(48).filter(|page| waits(**page)).count()
    });
    assert_eq!(seen, 48);
    assert_eq!(stats.prefetched, 48);
    assert!(working_set.starts_with(&[0]) || working_set.contains(&0));
    assert!(pages.iter().take(48).all(|page| working_set.contains(page)));
}

#[test]
fn what_changed_since_a_guest_woke_goes_over_what_it_woke_from() {
    for sealed in [false, true] {
        let older = PageFile::open(page_file(Codec::Lz4, sealed), PAGES, sealed.then(cipher));
        let (older, base) = (older.unwrap(), base());
        // Changed again, changed for the first time, zero now, and as in the base again.
        let diff = filled([(3, 77), (5, 77)]);
        for (page, bytes) in [(6, vec![0; PAGE]), (9, content(9, 100))] {
            diff.write_all_at(&bytes, page * PAGE as u64).unwrap();
        }
        let woken = Woken { file: Some(&older) };
        let memory =
            Guest { plain: &diff, pages: PAGES, base: Some(&base), woke_from: Some(&woken) };
        let composition = compose(&memory, &[900, 5]).unwrap();
        assert_eq!(composition.pages().len(), 343 + 1 - 1, "5 came, 9 went");
        assert!(composition.pages().starts_with(&[900, 5]));
        let target = tempfile::tempfile().unwrap();
        let own = sealed.then(cipher);
        write(&memory, &composition, &target, Codec::Zstd, own.as_ref()).unwrap();
        let ((), _, _) = with_server(sources(target, sealed, 0), |memory| {
            for page in 0..PAGES as u32 {
                let wanted = match page {
                    3 | 5 => content(page, 77),
                    6 => vec![0; PAGE],
                    9 => content(9, 100),
                    _ => expect(page),
                };
                assert!(memory.page(shown(page)) == wanted, "page {page}");
            }
        });
    }
}

#[test]
fn a_page_file_that_was_changed_is_not_carried_over() {
    let file = page_file(Codec::None, true);
    spoil_first(&file);
    let older = PageFile::open(file, PAGES, Some(cipher())).unwrap();
    let woken = Woken { file: Some(&older) };
    let memory = Guest { plain: &filled([]), pages: PAGES, base: None, woke_from: Some(&woken) };
    let composition = compose(&memory, &[]).unwrap();
    let target = tempfile::tempfile().unwrap();
    let done = write(&memory, &composition, &target, Codec::Lz4, Some(&cipher()));
    assert_eq!(done.unwrap_err().kind(), std::io::ErrorKind::InvalidData);
}

#[test]
fn a_page_that_was_given_back_is_zero_whatever_the_files_say() {
    let ((), stats, _) = with_server(sources(page_file(Codec::Lz4, true), true, 0), |memory| {
        assert_eq!(memory.page(shown(3)), expect(3));
        memory.give_back(shown(0), 64);
        for page in 0..64 {
            assert_eq!(memory.page(shown(page)), vec![0; PAGE], "page {page}");
        }
        assert_eq!(memory.page(shown(64)), expect(64));
    });
    assert_eq!(stats.removed, 64);
}

#[test]
fn a_changed_bit_anywhere_ends_the_server_or_the_opening_and_is_never_a_page() {
    let file = page_file(Codec::Zstd, true);
    let length = file.metadata().unwrap().len();
    for at in (0..length).step_by((length / 40).max(1) as usize).chain(length - 40..length) {
        let changed = tempfile::tempfile().unwrap();
        let mut bytes = vec![0; length as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        *bytes.get_mut(at as usize).unwrap() ^= 1 << (at % 8);
        changed.write_all_at(&bytes, 0).unwrap();
        let Ok(opened) = PageFile::open(changed, PAGES, Some(cipher())) else { continue };
        let mut scratch = mvm_pager::Scratch::new().unwrap();
        let broken = (0..opened.index().chunks().len())
            .filter(|chunk| opened.chunk(*chunk, &mut scratch).is_err())
            .count();
        assert_eq!(broken, 1, "bit at {at}");
    }
}

#[test]
fn a_server_whose_page_does_not_verify_says_so() {
    let file = page_file(Codec::None, true);
    spoil_first(&file);
    let memory = Memory::new();
    let uffd = Uffd::watch(memory.start(), SIZE as u64).unwrap();
    let sources = Sources { ahead: 1, ..sources(file, true, 0) };
    let mut server = Server::new(uffd, regions(&memory), sources).unwrap();
    let (told, _tell): (OwnedFd, OwnedFd) = rustix::pipe::pipe().unwrap();
    assert!(matches!(server.run(&told, own_pidfd()), Err(ServeError::Page(_))));
}

#[test]
fn a_server_ends_when_its_vmm_is_gone() {
    let mut vmm =
        std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
    let pid = rustix::process::Pid::from_child(&vmm);
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let memory = Memory::new();
    let uffd = Uffd::watch(memory.start(), SIZE as u64).unwrap();
    let sources = sources(page_file(Codec::None, false), false, 0);
    let mut server = Server::new(uffd, regions(&memory), sources).unwrap();
    let (told, _tell): (OwnedFd, OwnedFd) = rustix::pipe::pipe().unwrap();
    drop(vmm.stdin.take());
    assert_eq!(server.run(&told, &pidfd).unwrap(), End::Gone);
    vmm.wait().unwrap();
}
