//! What a fault costs on this machine, by kind of page, and what sealing and opening cost against the
//! cipher alone. Prints a Markdown table; run it in release, as root, alone on the machine:
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
    Base, CHUNK, CHUNK_PAGES, Cipher, Codec, Memory, PAGE, PageFile, Server, compose,
    handshake::Region,
    seal::{Binding, Piece, TAG},
    serve::Sources,
    uffd::Uffd,
    write,
};
use rustix::{
    mm::{MapFlags, ProtFlags, mmap_anonymous, munmap},
    process::{PidfdFlags, pidfd_open},
};

const PAGES: u64 = 16 * 1024;
const SIZE: usize = PAGES as usize * PAGE;

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

/// Touches one page of every chunk in a scattered order and returns how long each touch took.
fn touch(sources: Sources, step: usize) -> Vec<Duration> {
    let (protect, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    // SAFETY: a fresh anonymous mapping.
    let start = unsafe { mmap_anonymous(std::ptr::null_mut(), SIZE, protect, flags) }.unwrap();
    let address = start.expose_provenance();
    let uffd = Uffd::watch(address as u64, SIZE as u64).unwrap();
    let regions = vec![Region { start: address as u64, size: SIZE as u64, offset: 0 }];
    let mut server = Server::new(uffd, regions, sources).unwrap();
    let (told, tell): (OwnedFd, OwnedFd) = rustix::pipe::pipe().unwrap();
    let own = pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).unwrap();
    let times = thread::scope(|scope| {
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
        server.run(&told, &own).unwrap();
        toucher.join().unwrap()
    });
    // SAFETY: the mapping is ours and nothing refers to it any more.
    unsafe { munmap(start, SIZE) }.unwrap();
    times
}

fn sources(delta: Option<PageFile>, base: Option<Base>) -> Sources {
    Sources { memory_pages: PAGES, delta, base, ahead: 0 }
}

fn guest(plain: &File) -> Memory<'_> {
    Memory { plain, pages: PAGES, base: None, woke_from: None }
}

fn page_file(memory: &File, codec: Codec, sealed: bool) -> PageFile {
    let target = tempfile::tempfile_in("/dev/shm").unwrap();
    let own = sealed.then(cipher);
    let guest = guest(memory);
    write(&guest, &compose(&guest, &[]).unwrap(), &target, codec, own.as_ref()).unwrap();
    PageFile::open(target, PAGES, own).unwrap()
}

/// Bytes a second of the cipher alone, over chunks as they are stored.
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

fn main() {
    let memory = memory();
    println!("| page comes from | P50 µs | P99 µs | n |\n|---|---|---|---|");
    let line = |what: &str, mut times: Vec<Duration>| {
        let (half, most) = (percentile(&mut times, 50), percentile(&mut times, 99));
        println!("| {what} | {half:.1} | {most:.1} | {} |", times.len());
    };
    line("nowhere: zero, most of them with another", touch(sources(None, None), CHUNK_PAGES));
    let base = Base::open(memory.try_clone().unwrap(), PAGES).unwrap();
    line("the base, one page", touch(sources(None, Some(base)), CHUNK_PAGES));
    for (what, codec, sealed) in [
        ("a chunk of 64 KiB", Codec::None, false),
        ("a sealed chunk", Codec::None, true),
        ("a sealed chunk, LZ4", Codec::Lz4, true),
        ("a sealed chunk, Zstandard", Codec::Zstd, true),
    ] {
        let delta = page_file(&memory, codec, sealed);
        line(what, touch(sources(Some(delta), None), CHUNK_PAGES));
    }
    let (seal, open) = cipher_rate();
    println!("\n| | MB/s |\n|---|---|");
    println!("| the cipher alone, one thread, sealing | {seal:.0} |");
    println!("| the cipher alone, one thread, opening | {open:.0} |");
    let guest = guest(&memory);
    let composition = compose(&guest, &[]).unwrap();
    for (what, codec) in
        [("as it is", Codec::None), ("LZ4", Codec::Lz4), ("Zstandard", Codec::Zstd)]
    {
        let target = tempfile::tempfile_in("/dev/shm").unwrap();
        let own = cipher();
        let before = Instant::now();
        let written = write(&guest, &composition, &target, codec, Some(&own)).unwrap();
        let rate = SIZE as f64 / before.elapsed().as_secs_f64() / 1e6;
        let part = written.bytes as f64 / SIZE as f64;
        println!("| a whole page file sealed, {what} ({part:.2} of its size) | {rate:.0} |");
    }
}
