//! What a fault costs on this machine, by kind of page: from the touch to the page, in which two switches
//! between threads are, and the server alone. And what sealing and opening whole files costs against the
//! cipher alone and against the copying that is in it. Prints a Markdown table; run it in release, as root, alone on the machine:
//! `cargo run --release -p mvm-pager --example rates`.
#![expect(unsafe_code, reason = "R12: memory of its own to fault on")]
#![expect(clippy::print_stdout, reason = "this is a report")]
#![expect(clippy::unwrap_used, reason = "a report that cannot be made stops")]

use std::{
    fs::File,
    os::{fd::OwnedFd, unix::fs::FileExt},
    sync::atomic::{AtomicU8, Ordering},
    thread,
    time::{Duration, Instant},
};

use mvm_pager::{
    Base, CHUNK, CHUNK_PAGES, Cipher, Codec, Memory, PAGE, PageFile, Scratch, Server, Woken, base,
    compose,
    handshake::Region,
    seal::{Binding, Piece, TAG},
    serve::Sources,
    uffd::{Events, Uffd},
    write,
};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustix::{
    event::{PollFd, PollFlags, poll},
    mm::{MapFlags, ProtFlags, mmap_anonymous, munmap},
};

const PAGES: u64 = 16 * 1024;
const SIZE: usize = PAGES as usize * PAGE;
const ROUNDS: usize = 7;

fn cipher() -> Cipher {
    Cipher::new(&[7; 32], Binding { header: [1; 32], name: *b"mem\0\0\0\0\0" }).unwrap()
}

/// Memory that shrinks to about half, as a guest's does: words, numbers and some randomness.
fn memory() -> File {
    let file = tempfile::tempfile_in("/dev/shm").unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut page = vec![0u8; PAGE];
    for number in 0..PAGES {
        for (place, word) in page.chunks_exact_mut(8).enumerate() {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let value = if place % 2 == 0 { state } else { number };
            word.copy_from_slice(&value.to_le_bytes());
        }
        file.write_all_at(&page, number * PAGE as u64).unwrap();
    }
    file
}

fn percentile(times: &mut [Duration], hundredth: usize) -> f64 {
    times.sort_unstable();
    let at = (times.len() * hundredth / 100).min(times.len() - 1);
    times.get(at).unwrap().as_secs_f64() * 1e6
}

/// How long a fault took: whoever touched, and the server alone, from before it read the event until
/// the page is there and its reader is awake.
struct Times {
    touch: Vec<Duration>,
    service: Vec<Duration>,
}

/// Touches one page of every chunk in a scattered order.
fn touch(sources: Sources, step: usize) -> Times {
    let (protect, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    // SAFETY: a fresh anonymous mapping.
    let start = unsafe { mmap_anonymous(std::ptr::null_mut(), SIZE, protect, flags) }.unwrap();
    let address = start.expose_provenance();
    let uffd = Uffd::watch(address as u64, SIZE as u64).unwrap();
    let regions = vec![Region { start: address as u64, size: SIZE as u64, offset: 0 }];
    let mut server = Server::new(uffd, regions, sources).unwrap();
    let (told, tell): (OwnedFd, OwnedFd) = rustix::pipe::pipe().unwrap();
    let mut events = Events::default();
    let mut service = Vec::new();
    let touch = thread::scope(|scope| {
        let toucher = scope.spawn(move || {
            let count = PAGES as usize / step;
            let times = (0..count)
                .map(|number| {
                    let at = address + (number * 7919 % count) * step * PAGE;
                    let pointer = std::ptr::with_exposed_provenance_mut::<u8>(at);
                    let before = Instant::now();
                    // SAFETY: inside of the mapping, which outlives this thread.
                    unsafe { AtomicU8::from_ptr(pointer) }.load(Ordering::Relaxed);
                    before.elapsed()
                })
                .collect();
            rustix::io::write(&tell, b".").unwrap();
            times
        });
        loop {
            let mut fds = [PollFd::new(&server, PollFlags::IN), PollFd::new(&told, PollFlags::IN)];
            poll(&mut fds, None).unwrap();
            let [_, told] = &fds;
            if !told.revents().is_empty() {
                break;
            }
            let before = Instant::now();
            server.answer_once(&mut events).unwrap();
            service.push(before.elapsed());
        }
        toucher.join().unwrap()
    });
    // SAFETY: the mapping is ours and nothing refers to it any more.
    unsafe { munmap(start, SIZE) }.unwrap();
    Times { touch, service }
}

fn sources(delta: Option<PageFile>, base: Option<Base>) -> Sources {
    Sources { memory_pages: PAGES, delta, base, ahead: 0 }
}

fn guest(plain: &File) -> Memory<'_> {
    Memory { plain, pages: PAGES, base: None, woke_from: None }
}

fn page_file(memory: &File, codec: Codec, sealed: bool) -> PageFile {
    let target = target();
    let own = sealed.then(cipher);
    let guest = guest(memory);
    write(&guest, &compose(&guest, &[]).unwrap(), &target, codec, own.as_ref()).unwrap();
    PageFile::open(target, PAGES, own).unwrap()
}

fn base_of(memory: &File) -> Base {
    let mem = target();
    let (sums, digest) = base::write(memory, PAGES, &mem).unwrap();
    Base::open(mem, &sums, &digest, PAGES).unwrap()
}

/// The page file of a guest that wants all of its base and changed nothing.
fn naming(base: &Base) -> PageFile {
    let (plain, target) = (target(), target());
    plain.set_len(SIZE as u64).unwrap();
    let woken = Woken { file: None };
    let memory = Memory { plain: &plain, pages: PAGES, base: Some(base), woke_from: Some(&woken) };
    let wanted: Vec<u32> = (0..PAGES as u32).collect();
    let composition = compose(&memory, &wanted).unwrap();
    write(&memory, &composition, &target, Codec::None, None).unwrap();
    PageFile::open(target, PAGES, None).unwrap()
}

/// Megabytes a second of the library's own AES-256-GCM, sealing and opening chunks in place.
fn library_rate() -> (f64, f64) {
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).unwrap());
    let nonce = |number: u64| {
        let mut nonce = [0; NONCE_LEN];
        nonce[4..].copy_from_slice(&number.to_be_bytes());
        Nonce::assume_unique_for_key(nonce)
    };
    let mut buffer = vec![1u8; CHUNK];
    let rounds = 4096u64;
    let before = Instant::now();
    for number in 0..rounds {
        let tag = key.seal_in_place_separate_tag(nonce(number), Aad::from([1; 32]), &mut buffer);
        let _tag = std::hint::black_box(tag.unwrap());
    }
    let seal = before.elapsed();
    let mut sealed = vec![1u8; CHUNK];
    key.seal_in_place_append_tag(nonce(0), Aad::from([1; 32]), &mut sealed).unwrap();
    let mut buffer = sealed.clone();
    let before = Instant::now();
    for _ in 0..rounds {
        buffer.copy_from_slice(&sealed);
        key.open_in_place(nonce(0), Aad::from([1; 32]), &mut buffer).unwrap();
    }
    let rate = |took: Duration| (rounds as usize * CHUNK) as f64 / took.as_secs_f64() / 1e6;
    (rate(seal), rate(before.elapsed()))
}

/// Megabytes a second of our sealing and opening, over chunks as they are stored.
fn cipher_rate() -> (f64, f64) {
    let cipher = cipher();
    let mut buffer = vec![1u8; CHUNK + TAG];
    let rounds = 4096u64;
    let before = Instant::now();
    for number in 0..rounds {
        cipher.seal(Piece::Chunk(number), rounds, &mut buffer, CHUNK).unwrap();
    }
    let seal = before.elapsed();
    cipher.seal(Piece::Chunk(1), rounds, &mut buffer, CHUNK).unwrap();
    let sealed = buffer.clone();
    let before = Instant::now();
    for _ in 0..rounds {
        buffer.copy_from_slice(&sealed);
        cipher.open(Piece::Chunk(1), rounds, &mut buffer).unwrap();
    }
    let rate = |took: Duration| (rounds as usize * CHUNK) as f64 / took.as_secs_f64() / 1e6;
    (rate(seal), rate(before.elapsed()))
}

/// The best of some rounds: others use the machine too.
fn best(mut round: impl FnMut() -> Duration) -> f64 {
    let took = (0..ROUNDS).map(|_| round()).min().unwrap();
    SIZE as f64 / took.as_secs_f64() / 1e6
}

fn target() -> File {
    tempfile::tempfile_in("/dev/shm").unwrap()
}

/// What the kernel alone takes for reading and writing that much.
fn copy_rate(memory: &File) -> f64 {
    best(|| {
        let (target, before) = (target(), Instant::now());
        thread::scope(|scope| {
            for part in 0..2 {
                let target = &target;
                scope.spawn(move || {
                    let mut buffer = vec![0; CHUNK];
                    for at in (0..SIZE as u64).step_by(CHUNK).skip(part).step_by(2) {
                        memory.read_exact_at(&mut buffer, at).unwrap();
                        target.write_all_at(&buffer, at).unwrap();
                    }
                });
            }
        });
        before.elapsed()
    })
}

/// Bytes of memory a second that are written, and what is left of them.
fn whole(memory: &File, codec: Codec, own: Option<&Cipher>) -> (f64, f64) {
    let guest = guest(memory);
    let composition = compose(&guest, &[]).unwrap();
    let mut bytes = 0;
    let rate = best(|| {
        let (target, before) = (target(), Instant::now());
        bytes = write(&guest, &composition, &target, codec, own).unwrap().bytes;
        before.elapsed()
    });
    (rate, bytes as f64 / SIZE as f64)
}

fn read_rate(memory: &File) -> f64 {
    let file = page_file(memory, Codec::None, true);
    let mut scratch = Scratch::new().unwrap();
    best(|| {
        let before = Instant::now();
        for number in 0..file.index().chunks().len() {
            file.chunk(number, &mut scratch).unwrap();
        }
        before.elapsed()
    })
}

fn main() {
    let memory = memory();
    println!("| page comes from | P50 µs | P99 µs | server alone P50 | P99 | n |");
    println!("|---|---|---|---|---|---|");
    let line = |what: &str, mut times: Times| {
        let [half, most] = [50, 99].map(|part| percentile(&mut times.touch, part));
        let [own, own_most] = [50, 99].map(|part| percentile(&mut times.service, part));
        let count = times.touch.len();
        println!("| {what} | {half:.1} | {most:.1} | {own:.1} | {own_most:.1} | {count} |");
    };
    line("nowhere: zero, most of them with another", touch(sources(None, None), CHUNK_PAGES));
    line("the base, one page", touch(sources(None, Some(base_of(&memory))), CHUNK_PAGES));
    let base = base_of(&memory);
    let named = naming(&base);
    line("the base, 16 pages", touch(sources(Some(named), Some(base)), CHUNK_PAGES));
    for (what, codec, sealed) in [
        ("a chunk of 64 KiB", Codec::None, false),
        ("a sealed chunk", Codec::None, true),
        ("a sealed chunk, LZ4", Codec::Lz4, true),
        ("a sealed chunk, Zstandard", Codec::Zstd, true),
    ] {
        let delta = page_file(&memory, codec, sealed);
        line(what, touch(sources(Some(delta), None), CHUNK_PAGES));
    }
    let (seal, open) = library_rate();
    let (our_seal, our_open) = cipher_rate();
    println!("\n| | MB/s |\n|---|---|");
    println!("| the library's AES-256-GCM, one thread, sealing | {seal:.0} |");
    println!("| the library's AES-256-GCM, one thread, opening | {open:.0} |");
    println!("| chunks sealed, one thread | {our_seal:.0} ({:.2} of it) |", our_seal / seal);
    println!("| chunks opened, one thread | {our_open:.0} ({:.2} of it) |", our_open / open);
    let whole = |what: &str, codec, own: Option<&Cipher>| {
        let (rate, part) = whole(&memory, codec, own);
        println!("| a whole page file {what} ({part:.2} of its size) | {rate:.0} |");
    };
    let own = cipher();
    println!("| a copy of the memory, two threads, 64 KiB at once | {:.0} |", copy_rate(&memory));
    whole("as it is", Codec::None, None);
    whole("sealed", Codec::None, Some(&own));
    whole("sealed, LZ4", Codec::Lz4, Some(&own));
    whole("sealed, Zstandard", Codec::Zstd, Some(&own));
    println!("| reading a whole sealed page file, one thread | {:.0} |", read_rate(&memory));
}
